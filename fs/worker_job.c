/* worker_job.c - see worker_job.h. */
#include "worker_job.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void worker_job_init(struct worker_job *job)
{
	*job = (struct worker_job){0};
	for (int i = 0; i < JOB_OUTPUTS; i++)
		job->output_fds[i] = -1;
}

void worker_job_finish(struct worker_job *job)
{
	for (int i = 0; i < JOB_OUTPUTS; i++)
		if (job->output_fds[i] >= 0)
			close(job->output_fds[i]);
	worker_job_init(job);
}

bool worker_job_open(struct worker_job *job, const struct message_job *message, const int *fds, struct error *err)
{
	int n = message_fds(&(struct message){.type = MESSAGE_JOB, .job = *message});
	worker_job_init(job);
	for (int i = 1; i < n; i++) {
		job->output_fds[i - 1] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (job->output_fds[i - 1] < 0) {
			error_set(err, "worker link: %s", strerror(errno));
			worker_job_finish(job);
			return false;
		}
	}
	job->id = message->id;
	job->outputs = message->options.outputs;
	return true;
}

bool worker_job_sizes_are_true(const struct worker_job *job, const struct message_result *result)
{
	for (int i = 0, n = 0; i < JOB_OUTPUTS; i++) {
		struct stat st = {0};
		bool wanted = job->outputs & 1u << i;
		if (wanted && (fstat(job->output_fds[n++], &st) < 0 || st.st_size == 0))
			return false;
		if ((uint64_t)st.st_size != result->sizes[i])
			return false;
	}
	return true;
}
