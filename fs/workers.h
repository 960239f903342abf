/* workers.h - the workers of a mount, one a device: which there are, and which may run what. The scheduler thread's own.
 *
 * The first is started as device= says. If it tells of several CUDA devices and none was named, it stays on the one that it
 * has and each other one gets a worker. A job that a device failed at is done once more wherever there is room, and if it
 * fails again, only on devices that it has not failed on; under auto the CPU is one of them: a worker there stands by for such
 * jobs, and for all when every device is refused. */
#ifndef WORKERS_H
#define WORKERS_H

#include "outcome.h"
#include "worker_link.h"

enum { WORKERS_MAX = 17 };

/* The scheduler's: a job that a worker has, and what came of it. */
struct worker_task {
	uint64_t input, seq; /* 0: none */
	bool alone; /* has failed with a worker or a device before: no other job is to suffer with it, or be suspected */
	struct outcome_files files;
	bool finished; /* what follows waits to be handled */
	enum worker_outcome outcome;
	struct message_result result;
	char text[1024];
};

struct worker_slot {
	struct worker_link *link;
	struct scheduler *scheduler; /* for the events */
	bool stands_by;		     /* on the CPU, for what the devices can't do */
	struct worker_task running, finishing;
};

struct workers {
	const struct options *options;
	struct worker_events events; /* their user is the slot */
	struct scheduler *scheduler;
	struct worker_slot slots[WORKERS_MAX];
	int n;
	bool spread;   /* every device has its worker */
	bool some_bad; /* some job has failed on a device twice */
};

/* With the first worker, which is not started yet. options are borrowed, events copied. */
bool workers_init(struct workers *w, const struct options *options, const struct worker_events *events,
	struct scheduler *scheduler, struct error *err);
/* Ends them within wait_ns, at once those that are not gone then, and drops the files of their jobs. */
void workers_stop(struct workers *w, struct fs *fs, int64_t wait_ns);
/* Ends them at once; zeroed is fine. */
void workers_finish(struct workers *w);

/* Whether something waits that only the CPU can do. Looks at the queue: with fs->lock held. */
bool workers_need_cpu(const struct workers *w, const struct jobs *jobs);
/* Have workers for what waits: those of further devices once the first tells of them, sleeping ones when there are more jobs
 * than workers up, the one that stands by when it is needed. */
void workers_provide(struct workers *w, long queued, bool needs_cpu);

/* Whether this worker may run this input. */
bool workers_may_run(const struct workers *w, const struct worker_slot *slot, const struct input *input);

/* Ran when a worker or a device failed: it may be the cause, or was only near. */
static inline bool workers_suspect(const struct input *input)
{
	return input->deaths || input->device_failures;
}

/* Note that the device failed at the input. False: no other is left that could do it. */
bool workers_note_failure(struct workers *w, const struct worker_slot *slot, struct input *input);

/* "cuda:1" or "cpu"; "device" while it is not known. */
const char *worker_slot_name(const struct worker_slot *slot, char out[24]);

#endif
