/* device.h - where the model runs: a device chosen by name, and believed only after it has computed.
 * Used by pipeline.c and by the programs' commands that need a backend alone. */
#ifndef TRELLIS_DEVICE_H
#define TRELLIS_DEVICE_H

#include "backend.h"
#include "trellis.h"

struct trellis_plugin;

enum { DEVICE_PROBE_S = 120 }; /* a first start may compile kernels */

struct device_wish {
	const char *name;  /* "auto" (NULL), "cpu", "reference" (the oracle), "cuda", "cuda:N" */
	const char *dtype; /* of activations: "f32", "f16", "bf16"; NULL: f16 on CUDA, f32 elsewhere */
	int threads;	   /* of all work on the CPU (threads.h); 0: all that the process may use, or OMP_NUM_THREADS */
	int probe_s;	   /* so long a device may take to answer; 0: DEVICE_PROBE_S */
};

struct device {
	struct backend *backend;
	struct trellis_device info;
	const struct trellis_plugin *plugin; /* NULL: built in */
};

/* auto: the first CUDA device that works, else the CPU, and info.note says in a sentence each why none did.
 * cuda: the first that works, cuda:N: that one, or failure with the sentences. */
bool device_open(struct device *d, const struct device_wish *wish, struct error *err);
void device_close(struct device *d); /* zeroed is fine */

/* The file of the CUDA plugin, or false and where it was looked for. path: PATH_MAX. */
bool device_find_plugin(char *path, struct error *err);
/* Have that file in memory, if it is there and can be loaded: device_open finds it then in a process that may no longer read
 * it. Asks the driver nothing. */
void device_load_plugin(void);

/* Memory that could be allocated now, bytes; 0: not known. */
uint64_t device_free_bytes(const struct device *d);

/* Tell of every CUDA device whether it works (refusal ""), by trying each; ordinal -1: of the plugin as a whole. */
typedef void (*device_seen_fn)(void *user, struct device *d, int ordinal, const char *refusal);
void device_each(const struct device_wish *wish, device_seen_fn seen, void *user);

#endif
