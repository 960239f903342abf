/* options.h - the command line: one table for `-o name=value` and `--name=value`. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "error.h"
#include "protocol.h"

#include <stdbool.h>
#include <stdint.h>

struct options {
	char *mountpoint;  /* as given, then absolute */
	char *model;	   /* path or hub id; NULL: the worker's own default */
	char *device;	   /* auto, cpu, cuda[:N] */
	char *dtype;	   /* f16, bf16, f32 on CUDA; NULL: f16 */
	char *memory;	   /* auto, low; NULL: auto */
	char *state;	   /* directory; NULL: state_default_path */
	char *worker;	   /* the program `trellis`; NULL: the one beside this program */
	char *worker_user; /* name or number of whom it runs as; NULL: a user without rights if we are root, else ours */
	char *sandbox;	   /* on, off; NULL: on */
	int threads;	   /* of the worker; 0: all */
	int idle_s;	   /* an idle worker ends after so long; 0: never */
	int hang_s;	   /* a worker without a sign of life is killed after so long; 0: never */
	int64_t max_bytes; /* limit on the sizes of all files; 0: none */
	bool allow_other, foreground, debug, single_thread, help, version;
	char mount_options[128]; /* for libfuse: noexec, noatime */
	char worker_ids[32];	 /* UID:GID of worker_user, "": ours */
	char job_config[1024];	 /* seed=, steps=, ... as lines of a config file: they go over the stored one */
};

/* Parse; the first thing wrong is named in err. Defaults first, so options_finish is right either way. */
bool options_parse(struct options *options, int argc, char **argv, struct error *err);
void options_finish(struct options *options);
void options_print_help(void);

#endif
