/* worker_link.h - the daemon's side of one worker: starts it, talks to it, ends it, and tells why it died.
 *
 * Everything happens on the one thread that owns the link (the scheduler) and nothing here ever waits: add
 * worker_link_fd() to a poll() for POLLIN and call worker_link_handle() when it is readable. All time limits are inside
 * that descriptor too. The worker dies with the *thread* that called worker_link_start or _handle (PR_SET_PDEATHSIG),
 * so that thread must live as long as the daemon; it also dies with the link's end of the socket.
 *
 *   stopped --start()--> starting --HELLO, STATUS ready--> ready <--> busy
 *      ^                    ^   |                              |         |
 *      |                    |   +-- died, model failed, hung --+---------+
 *      |                    |                   |
 *      |                    +---- backoff <-----+      0.5 s, doubling to 60 s
 *      +-- idle_s without a job, or stop()
 *
 * A worker that is busy becomes ready again when its job has left the device (`freed`): the next one can run while that one is
 * finished.
 *
 * A killed worker that doesn't die, because it is inside a driver that hangs, is left behind after 3 s.
 *
 * The link holds no queue: it takes one job at a time, and only when ready, which makes at most two. Every submitted job ends
 * in exactly one `done` event, whatever happens to the worker; what ends the worker ends both. Death by a signal while a job runs is the job's mark only when nobody
 * asked for it: a signal we sent, or a polite one (TERM, INT, HUP, QUIT) from outside, is not. Neither is a device that
 * failed or hung: the job is to be done again, there or elsewhere. */
#ifndef FS_WORKER_LINK_H
#define FS_WORKER_LINK_H

#include "error.h"
#include "protocol.h"

struct worker_link;

enum worker_state {
	WORKER_STOPPED,
	WORKER_STARTING, /* from its start to STATUS ready */
	WORKER_READY,
	WORKER_BUSY,
	WORKER_STOPPING, /* told to end, or failed, and not yet gone; of its jobs `done` still comes */
	WORKER_BACKOFF,
};

enum worker_outcome {
	WORKER_DONE,	  /* result is set; the output files are complete and of the sizes it says (checked) */
	WORKER_FAILED,	  /* final: publish text */
	WORKER_CANCELLED, /* worker_link_cancel, obeyed or enforced */
	WORKER_STORAGE,	  /* the state disk was full: worth another try when there is room */
	WORKER_CRASHED,	  /* counts against the job: died in the middle of it, asked by nobody, or talked nonsense */
	WORKER_MEMORY,	  /* counts: the kernel killed the worker because memory ran out */
	WORKER_HUNG,	  /* no sign of life for hang_s, so we killed it */
	WORKER_DEVICE,	  /* the device failed, not the job; the worker ends and another one is started */
	WORKER_LOST, /* doesn't count, queue it again: worker_link_stop, TERM and its like from outside, or killed because
			     the worker's other job was cancelled */
};

/* Whether the outcome counts against the job: the third one of these fails it ("poison"). */
bool worker_outcome_counts(enum worker_outcome outcome);

struct worker_done {
	uint64_t id;
	enum worker_outcome outcome;
	const struct message_result *result; /* WORKER_DONE, else NULL */
	const char *text;		     /* one line for error file and status; "" for WORKER_DONE */
};

/* Called from worker_link_handle, _start, _retry and _stop, on the caller's thread; never NULL. They may call
 * worker_link_submit, _cancel and _start. */
struct worker_events {
	void (*changed)(void *user); /* worker_link_report() differs; when ready: time to submit */
	void (*progress)(void *user, const struct message_progress *progress);
	void (*freed)(
		void *user, uint64_t id); /* the running job is only being finished now; its `done` is still to come */
	void (*done)(void *user, const struct worker_done *done);
};

struct worker_options {
	const char *const *argv; /* argv[0]: absolute path of the program; NULL at the end; copied */
	int idle_s;		 /* end a worker that has had no job for so long; 0: never */
	int hang_s; /* kill one that shows no sign of life for so long while loading or working; 0: never */
};

/* What status shows of the worker. Owned by the link, valid until the next call on it. */
struct worker_report {
	enum worker_state state;
	bool have_status;	      /* a STATUS has ever arrived: `status` is the last one */
	struct message_status status; /* device and model stay known while another worker loads */
	bool failed;		      /* the last start ended without becoming ready, or the worker died: see problem */
	char problem[1024];	      /* why, one line; "" when not failed */
	int retry_s;		      /* WORKER_BACKOFF: seconds until the next start */
	uint64_t job;		      /* WORKER_BUSY: its id */
	long starts, deaths;	      /* workers started; those that died without being asked to */
	int pid;		      /* 0: none */
};

/* Create the link; starts no worker yet. events is copied. NULL and err when the system refuses descriptors. */
struct worker_link *worker_link_create(
	const struct worker_options *options, const struct worker_events *events, void *user, struct error *err);

/* End the worker at once (SIGKILL and reaped: for a gentle end use worker_link_stop first), without events. NULL is
 * fine. */
void worker_link_destroy(struct worker_link *link);

int worker_link_fd(const struct worker_link *link);
void worker_link_handle(struct worker_link *link);

/* Have a worker: starts one when stopped; does nothing when one is up, coming up or in backoff (it will come). */
void worker_link_start(struct worker_link *link);

/* Try again now instead of after the backoff: what was wrong has changed (the model's files). Else does nothing. */
void worker_link_retry(struct worker_link *link);

/* Give a job to a ready worker. job and fds (message_fds(job) of them, as protocol.h says) are borrowed: the worker has
 * its own copies when this returns, and the caller keeps its own of the outputs to publish them. False and err when the
 * worker is not ready (any more), or job breaks the protocol's rules; no event follows then. */
bool worker_link_submit(struct worker_link *link, const struct message_job *job, const int *fds, struct error *err);

/* Cancel this job if the worker has it: `done` follows. Within 2 s if it is running, because the worker is killed then; if it is
 * being finished, when the step that it is at has ended, since the running one is not to be lost for that. */
void worker_link_cancel(struct worker_link *link, uint64_t id);

/* End the worker: its socket is closed, and it is killed after 2 s. A running job is cancelled likewise and ends as
 * WORKER_LOST. state becomes WORKER_STOPPED and `changed` is called when it is gone. worker_link_start starts another,
 * also when it is called before that. */
void worker_link_stop(struct worker_link *link);

/* Other arguments for the workers to come; argv as in worker_options. False: out of memory, the old ones stay. */
bool worker_link_set_argv(struct worker_link *link, const char *const *argv);

const struct worker_report *worker_link_report(const struct worker_link *link);

#endif
