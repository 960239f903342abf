/* scheduler.h - the thread that works the queue off: each free worker gets a job, its files are published.
 * It also owns everything that may be slow and is nobody's request: the workers' links, the helper, the model watch. */
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "fs.h"
#include "status_text.h"
#include "workers.h"

/* The helper is started before the mount, the thread after it. */
bool scheduler_create(struct fs *fs, struct error *err);
/* mounted is called on the thread once the mount answers (with NULL) or doesn't (with why). */
bool scheduler_start(
	struct fs *fs, void (*mounted)(void *user, const struct error *failure), void *user, struct error *err);
/* Cancel what runs, end worker and helper: at most about 2 s. Before the mount goes or after. */
void scheduler_stop(struct fs *fs);

/* These may be called with fs->lock held, and do nothing when no scheduler runs. */
void scheduler_wake(struct fs *fs);
void scheduler_cancel(struct fs *fs, uint64_t input_id);
/* Nothing waits and a worker has nothing on its device: a job would start at once. Needs fs->lock. */
bool scheduler_is_idle(struct fs *fs);

/* A job of a worker. */
struct scheduler_job {
	uint64_t input; /* 0: none */
	struct message_progress progress;
	double running_s;
};

struct scheduler_worker {
	struct worker_report worker;
	bool stands_by;
	struct scheduler_job jobs[2]; /* on the device; being finished */
};

/* What status says of workers, jobs and errors; strings live in the copy. */
struct scheduler_report {
	char cutout[16];
	double last_s;
	struct {
		char name[300], text[300];
		time_t when;
	} problems[10];
	int n_problems;
	char notice[512];
	int n_workers; /* at least 1 */
	struct scheduler_worker workers[WORKERS_MAX];
};
void scheduler_report(struct fs *fs, struct scheduler_report *report);

/* Called with fs->lock held when an input failed before it became a job. */
void scheduler_note_problem(struct fs *fs, const char *name, const char *text);

#endif
