/* worker_job.h - one job that a worker has, as its link keeps it. Used by worker_link.c. */
#ifndef FS_WORKER_JOB_H
#define FS_WORKER_JOB_H

#include "protocol.h"

struct worker_job {
	uint64_t id; /* 0: none */
	uint32_t outputs;
	int output_fds[JOB_OUTPUTS]; /* our own copies, lowest bit of outputs first: to check sizes; else -1 */
	bool cancelling;
	char stage[32]; /* last told */
};

void worker_job_init(struct worker_job *job);
void worker_job_finish(struct worker_job *job); /* then as after init */

/* Take a job over with copies of its outputs' descriptors; fds as in protocol.h. False: *job is as after init. */
bool worker_job_open(struct worker_job *job, const struct message_job *message, const int *fds, struct error *err);

/* Every file that was asked for is there, of the size told, and no other is claimed. */
bool worker_job_sizes_are_true(const struct worker_job *job, const struct message_result *result);

#endif
