/* plugin.h - a backend in a shared library of its own, loaded when it is wanted: one program serves machines with and
 * without its device. Both sides include this header; the numbers below tell whether they were built from the same one.
 * The library exports trellis_plugin() and nothing else. It is never unloaded.
 *
 * All calls, those of a backend included, come one at a time (but a backend and its helper are driven at the same time),
 * and not always from the same thread: what a runtime keeps for a thread (CUDA: the current device) the backend sets
 * itself. Any of them may hang: they are made where that can be survived. Sentences name neither the library nor the
 * device; whoever asks puts that in front. In a backend, failures are latched with their kind (enum fault), which decides
 * what is tried next. */
#ifndef TRELLIS_PLUGIN_H
#define TRELLIS_PLUGIN_H

#include "backend.h"

enum { TRELLIS_PLUGIN_ABI = 4 };

struct plugin_device {
	char name[96];	       /* "NVIDIA H100 80GB HBM3" */
	uint64_t memory_bytes; /* in all */
	uint64_t free_bytes;   /* at this moment */
};

struct trellis_plugin {
	int abi;		       /* TRELLIS_PLUGIN_ABI */
	size_t backend_size, ops_size; /* sizeof struct backend, struct backend_ops */
	const char *name;	       /* "cuda" */
	/* How many devices there are; 0 with one sentence when none can be used at all (no driver, driver too old...). */
	int (*count)(struct error *err);
	/* False with one sentence when this one can't be used (no code for it, it does not answer...). */
	bool (*describe)(int ordinal, struct plugin_device *device, struct error *err);
	/* act: F32 (no TF32), F16 or BF16; products of half precision are summed in f32. NULL with one sentence. */
	struct backend *(*create)(int ordinal, enum dtype act, struct error *err);
};

typedef const struct trellis_plugin *(*trellis_plugin_fn)(void);
const struct trellis_plugin *trellis_plugin(void);
#define TRELLIS_PLUGIN_SYMBOL "trellis_plugin"

#endif
