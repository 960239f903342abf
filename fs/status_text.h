/* status_text.h - what `status` and `status.json` say, made from a plain snapshot. No state, no locks, no devices. */
#ifndef FS_STATUS_TEXT_H
#define FS_STATUS_TEXT_H

#include "error.h"
#include "protocol.h"
#include "state.h"
#include "worker_link.h"

#include <stdint.h>
#include <time.h>

/* The words of xattr user.trellis.state on an input; `trellis wait` knows them. */
#define INPUT_STATE_SETTLING "settling" /* being written, or not yet looked at */
#define INPUT_STATE_QUEUED "queued"
#define INPUT_STATE_RUNNING "running"
#define INPUT_STATE_DONE "done"	      /* every output of xattr user.trellis.outputs is published */
#define INPUT_STATE_FAILED "failed"   /* the error file is published; user.trellis.error has the line */
#define INPUT_STATE_IGNORED "ignored" /* never a job */

/* The value of xattr user.trellis.outputs: paths of the published files from the mount's root, one a line,
 * "out/d/a.glb\nout/d/a.preview.png"; of a failed input its error file. */

struct status_worker {
	const struct worker_report *report;
	const char *running; /* name of its job, of two the one that has the device, or "" */
};

struct status_job {
	const char *name;   /* from the mount's root, "in/d/a.png"; any bytes */
	const char *device; /* told where there are several */
	const char *stage;
	int step, steps; /* steps 0: the stage has none */
	double fraction; /* 0..1 */
	double eta_s;	 /* < 0: unknown */
	double running_s;
};

struct status_problem {
	const char *name; /* any bytes; "": not about a file */
	const char *text; /* one line */
	time_t when;
};

/* Every pointer is borrowed for the call. Strings may be any bytes; NULL counts as "". */
struct status_snapshot {
	const char *version;
	const char *mountpoint;
	double uptime_s;

	const struct status_worker *workers; /* devices and model; at least one */
	int n_workers;
	const char *model_path; /* as asked for; shown while the model's name is not known */

	/* A picture that is complete and not finished is in one of these, or runs, until its last file is published. */
	long queued, settling;
	long publishing;	       /* failed, or made of an equal picture's results, without a worker */
	const struct status_job *jobs; /* those running, or published by now in part */
	int n_jobs;
	const char *last_cutout; /* of the last finished job; "": none */
	double last_s;		 /* how long it took */
	long done, failed;

	const struct status_problem *problems; /* last errors, newest first */
	int n_problems;

	const char *state_dir;
	uint64_t state_free; /* bytes */
	uint64_t state_used; /* bytes of inputs and results */
	uint64_t state_max;  /* max_bytes=; 0: no limit */
	struct state_recovery recovery;
	const char *notice; /* a lasting trouble of the daemon (helper missing, config refused), or "" */
};

/* The text of `status`, malloc'd and zero-terminated; *len without the zero. NULL when out of memory. Control bytes in
 * names and texts are shown as \xHH, a backslash as \\; other bytes, also those that are not UTF-8, pass as they are.
 */
char *status_text(const struct status_snapshot *snapshot, size_t *len);

/* The same for programs. Strings are UTF-8: each byte that is not part of a valid sequence is written as U+FFFD in the
 * field itself, and the exact bytes follow in a second field, `NAME_hex`, in hexadecimal, present only then. */
char *status_json(const struct status_snapshot *snapshot, size_t *len);

#endif
