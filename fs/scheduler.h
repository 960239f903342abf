/* scheduler.h - the thread that works the queue off: each free worker gets a job, its files are published.
 * It also owns everything that may be slow and is nobody's request: the workers' links, the helper, the model watch. */
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "board.h"
#include "fs.h"

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

void scheduler_report(struct fs *fs, struct scheduler_report *report);

/* An input has failed, or was in trouble: for the log and status. until_made: status forgets it when the input becomes a mesh.
 * Needs fs->lock. */
void scheduler_note_problem(struct fs *fs, const struct tree_node *node, const char *text, bool until_made);

#endif
