/* outcome.h - bring the outcome of an input into out/: the files that a worker wrote, those of an equal picture, or an
 * error file. Called by the scheduler thread without fs->lock. */
#ifndef OUTCOME_H
#define OUTCOME_H

#include "fs.h"
#include "publish.h"

/* Output files of one job, made before it runs. */
struct outcome_files {
	uint64_t ids[JOB_OUTPUTS]; /* 0: not asked for */
	int fds[JOB_OUTPUTS];	   /* -1: not open */
};

/* Check a job and open what it needs: fds[0] is its picture, to be closed by the caller, then come the files of its results,
 * which files keeps. 0, or an errno and in err a sentence; then nothing is left behind. */
int outcome_prepare(
	struct fs *fs, const struct message_job *job, struct outcome_files *files, int *fds, struct error *err);
/* Close and remove those that were not published. */
void outcome_drop_files(struct fs *fs, struct outcome_files *files);

/* Publish what a worker wrote for submission seq of the input; the .glb last. 0, ECANCELED (not wanted any more), or an errno
 * and in err a sentence on it; the files are used up either way. */
int outcome_publish(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq,
	struct outcome_files *files, const uint64_t sizes[JOB_OUTPUTS], struct error *err);
/* Publish the results of an equal picture again. As above, or EAGAIN: they have gone meanwhile, the job has to run. */
int outcome_publish_again(
	struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq, struct error *err);
/* The input has failed, whatever happens: with an error file in out/ or, where none can be, without. */
void outcome_fail(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq, const char *text);

#endif
