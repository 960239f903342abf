/* worker_link.c - supervise one worker process from a poll loop. Contract and states: worker_link.h.
 *
 * One epoll descriptor holds the worker's socket, its pidfd and a timer for the nearest deadline. The death of the
 * process is judged in one place, link_reap, when the pidfd says that it is over and all its last words have been read:
 * a result sent just before a crash still counts. */
#include "worker_link.h"

#include "worker_job.h"
#include "worker_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILL_MS 2000 /* between asking and killing */
#define LOST_MS 3000 /* between killing and giving up: a process inside a driver that hangs can't die */
#define END_MS 500   /* of a killed process, when the link itself ends */
#define BACKOFF_MIN_MS 500
#define BACKOFF_MAX_MS 60000
#define MESSAGES_A_TURN 1000
#define VMSTAT "/proc/vmstat"

/* Why we are ending the worker; the first cause stands. */
enum link_end { END_NONE, END_STOP, END_IDLE, END_MODEL, END_HUNG, END_DEVICE, END_NONSENSE, END_CLOSED };

struct worker_link {
	char **argv;
	int64_t idle_ms, hang_ms; /* 0: never */
	struct worker_events events;
	void *user;
	struct worker_report report;

	int epoll, timer;
	int socket, pidfd; /* -1: none; the socket goes first */
	bool greeted;	   /* HELLO has come */
	enum link_end end;
	bool killed;	 /* by us */
	bool restart;	 /* worker_link_start was called while one was ending */
	long oom_before; /* the kernel's count when the worker started */

	/* Deadlines on the monotonic clock, 0: none. */
	int64_t kill_at, lost_at, hang_at, idle_at, start_at;
	pid_t lost_pid; /* given up; reaped when it can be */
	int backoff_ms; /* of the next failure */

	struct worker_job running, finishing; /* the latter has left the device */
};

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

bool worker_outcome_counts(enum worker_outcome outcome)
{
	return outcome == WORKER_CRASHED || outcome == WORKER_MEMORY;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Set the timer to the nearest deadline. A deadline that has passed fires at once. */
static void link_arm(struct worker_link *link)
{
	const int64_t deadlines[] = {link->kill_at, link->lost_at, link->hang_at, link->idle_at, link->start_at};
	int64_t next = 0;
	for (size_t i = 0; i < sizeof deadlines / sizeof *deadlines; i++)
		if (deadlines[i] && (!next || deadlines[i] < next))
			next = deadlines[i];
	struct itimerspec spec = {.it_value = {.tv_sec = next / 1000, .tv_nsec = next % 1000 * 1000000}};
	timerfd_settime(link->timer, TFD_TIMER_ABSTIME, &spec, NULL); /* zero disarms */
}

static void link_changed(struct worker_link *link)
{
	link->events.changed(link->user);
}

/* The sign of life that hang_s waits for. */
static void link_alive(struct worker_link *link)
{
	bool watched = link->report.state == WORKER_STARTING || link->report.state == WORKER_BUSY ||
		       (link->report.state == WORKER_READY && link->finishing.id);
	link->hang_at = watched && link->hang_ms ? now_ms() + link->hang_ms : 0;
}

static void link_set_problem(struct worker_link *link, const char *text)
{
	link->report.failed = *text != 0;
	snprintf(link->report.problem, sizeof link->report.problem, "%s", text);
}

static void link_ready(struct worker_link *link)
{
	link->report.state = WORKER_READY;
	link->report.job = 0;
	link_alive(link);
	link->idle_at = link->idle_ms && !link->finishing.id ? now_ms() + link->idle_ms : 0;
	link_set_problem(link, "");
}

/* Begin the end: no more talk; a process that is still there is killed after grace_ms. problem: what status is to say,
 * "" when nothing is wrong. */
static void link_end(struct worker_link *link, enum link_end cause, const char *problem, int grace_ms)
{
	if (link->end != END_NONE)
		return;
	link->end = cause;
	link->report.state = WORKER_STOPPING;
	link->hang_at = link->idle_at = 0;
	link_set_problem(link, problem);
	close_fd(&link->socket); /* leaves the epoll set by this: nobody else holds our end */
	if (!link->report.pid)
		return;
	int64_t kill_at = now_ms() + grace_ms;
	if (!link->kill_at || kill_at < link->kill_at)
		link->kill_at = kill_at; /* the timer kills, also when it is now */
}

static void link_back_off(struct worker_link *link)
{
	link->report.state = WORKER_BACKOFF;
	link->start_at = now_ms() + link->backoff_ms;
	link->report.retry_s = (link->backoff_ms + 999) / 1000;
	link->backoff_ms = link->backoff_ms * 2 < BACKOFF_MAX_MS ? link->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static bool link_watch(struct worker_link *link, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	return epoll_ctl(link->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* Have a process with a socket and a pidfd, or a problem and nothing else. */
static bool link_spawn(struct worker_link *link)
{
	char problem[256];
	int pair[2], failed;
	pid_t pid;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		snprintf(problem, sizeof problem, "starting a worker: socketpair: %s", strerror(errno));
		link_set_problem(link, problem);
		return false;
	}
	link->oom_before = worker_process_oom_kills(VMSTAT);
	failed = worker_process_spawn(link->argv, pair[1], &pid);
	close(pair[1]);
	if (failed) {
		close(pair[0]);
		snprintf(problem, sizeof problem, "starting the worker %.150s: %s", link->argv[0], strerror(failed));
		link_set_problem(link, problem);
		return false;
	}
	link->socket = pair[0];
	link->pidfd = pidfd_open(pid, 0);
	if (link->pidfd < 0 || fcntl(link->socket, F_SETFL, O_NONBLOCK) < 0 || !link_watch(link, link->pidfd) ||
		!link_watch(link, link->socket)) {
		snprintf(problem, sizeof problem, "starting a worker: watching it: %s", strerror(errno));
		link_set_problem(link, problem);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		close_fd(&link->pidfd);
		close_fd(&link->socket);
		return false;
	}
	link->report.pid = pid;
	return true;
}

static void link_launch(struct worker_link *link)
{
	link->start_at = 0;
	link->restart = false;
	link->end = END_NONE;
	link->killed = link->greeted = false;
	link->report.retry_s = 0;
	if (link->lost_pid && waitpid(link->lost_pid, NULL, WNOHANG) == link->lost_pid)
		link->lost_pid = 0;
	link->report.state = WORKER_STARTING; /* an earlier problem stays until it is ready: status tells both */
	if (link_spawn(link)) {
		link->report.starts++;
		link_alive(link);
	} else {
		link_back_off(link);
	}
}

/* The job's exactly one `done`. The link is already in the state that the callback may act on. */
static void link_done(struct worker_link *link, struct worker_job *job, enum worker_outcome outcome,
	const struct message_result *result, const char *text)
{
	struct worker_done done = {.id = job->id, .outcome = outcome, .result = result, .text = text};
	worker_job_finish(job);
	link->events.done(link->user, &done);
}

/* The worker has answered. It is ready for another job if it had this one on the device, unless it is dead already and these
 * were its last words. */
static void link_answered(struct worker_link *link, struct worker_job *job, enum worker_outcome outcome,
	const struct message_result *result, const char *text)
{
	struct worker_job ended = *job;
	link->backoff_ms = BACKOFF_MIN_MS;
	if (ended.cancelling)
		outcome = WORKER_CANCELLED;
	worker_job_init(job);
	if (job == &link->running && link->report.state == WORKER_BUSY) {
		link->kill_at = 0;
		link_ready(link);
	} else if (link->report.state == WORKER_READY) {
		link_ready(link); /* now perhaps idle */
	}
	link_done(link, &ended, outcome, outcome == WORKER_DONE ? result : NULL,
		outcome == WORKER_CANCELLED ? "cancelled" : text);
	link_changed(link);
}

static void link_nonsense(struct worker_link *link, const char *text)
{
	link_end(link, END_NONSENSE, text, 0);
	link_changed(link);
}

/* Keep what the last worker knew of device and model where this one doesn't know it yet. */
static void merge_status(struct message_status *known, const struct message_status *status)
{
	struct message_status merged = *status;
	if (!*merged.device) {
		merged.device_memory = known->device_memory;
		memcpy(merged.device, known->device, sizeof merged.device);
		memcpy(merged.dtype, known->dtype, sizeof merged.dtype);
		merged.ordinal = known->ordinal;
		merged.devices = known->devices;
		memcpy(merged.device_note, known->device_note, sizeof merged.device_note);
	}
	if (!*merged.model) {
		memcpy(merged.model, known->model, sizeof merged.model);
		memcpy(merged.model_note, known->model_note, sizeof merged.model_note);
	}
	if (!*merged.sandbox)
		memcpy(merged.sandbox, known->sandbox, sizeof merged.sandbox);
	*known = merged;
}

static void on_status(struct worker_link *link, const struct message_status *status)
{
	link->report.have_status = true;
	merge_status(&link->report.status, status);
	if (status->state == MODEL_FAILED)
		link_end(link, END_MODEL, *status->reason ? status->reason : "the model can't be loaded", KILL_MS);
	else if (status->state == MODEL_READY && link->report.state == WORKER_STARTING)
		link_ready(link);
	link_changed(link);
}

static void on_progress(struct worker_link *link, struct worker_job *job, const struct message_progress *progress)
{
	snprintf(job->stage, sizeof job->stage, "%s", progress->stage);
	if (!job->cancelling)
		link->events.progress(link->user, progress);
}

static void on_failure(struct worker_link *link, struct worker_job *job, const struct message_failure *failure)
{
	if (failure->kind == JOB_DEVICE) { /* `done` follows when it is gone: nobody is to think it ready */
		link_end(link, END_DEVICE, *failure->text ? failure->text : "the device failed", KILL_MS);
		link_changed(link);
		return;
	}
	static const enum worker_outcome outcomes[] = {
		[JOB_FAILED] = WORKER_FAILED, [JOB_CANCELLED] = WORKER_LOST, [JOB_STORAGE] = WORKER_STORAGE};
	link_answered(link, job, outcomes[failure->kind], NULL, failure->text);
}

/* The running job has left the device. */
static void on_free(struct worker_link *link)
{
	link->finishing = link->running;
	worker_job_init(&link->running);
	if (link->report.state == WORKER_BUSY) {
		link->kill_at = 0; /* a cancelled one ends in its own time now */
		link_ready(link);
	}
	link->events.freed(link->user, link->finishing.id);
	link_changed(link);
}

/* The id that a message about a job starts with; 0 for the others. */
static uint64_t job_of(const struct message *m)
{
	switch (m->type) {
	case MESSAGE_PROGRESS:
		return m->progress.id;
	case MESSAGE_FREE:
		return m->free.id;
	case MESSAGE_RESULT:
		return m->result.id;
	case MESSAGE_FAILURE:
		return m->failure.id;
	default:
		return 0;
	}
}

static void on_message(struct worker_link *link, const struct message *m)
{
	link_alive(link);
	uint64_t id = job_of(m);
	struct worker_job *job = !id			    ? NULL
				 : link->running.id == id   ? &link->running
				 : link->finishing.id == id ? &link->finishing
							    : NULL;
	if (m->type == MESSAGE_HELLO && !link->greeted)
		link->greeted = true;
	else if (!link->greeted || m->type == MESSAGE_HELLO)
		link_nonsense(link, "the worker did not greet first, or greeted twice");
	else if (m->type == MESSAGE_STATUS)
		on_status(link, &m->status);
	else if (!job)
		link_nonsense(link, "the worker talked of a job that it does not have");
	else if (m->type == MESSAGE_FREE && link->finishing.id)
		link_nonsense(link, "the worker finishes two jobs at a time");
	else if (m->type == MESSAGE_FREE)
		on_free(link);
	else if (m->type == MESSAGE_PROGRESS)
		on_progress(link, job, &m->progress);
	else if (m->type == MESSAGE_FAILURE)
		on_failure(link, job, &m->failure);
	else if (!worker_job_sizes_are_true(job, &m->result))
		link_nonsense(link, "the worker's files are not of the sizes that it told");
	else
		link_answered(link, job, WORKER_DONE, &m->result, "");
}

/* Take what has come, until there is no more or the talk is over. At most so much as a socket holds, all of a dead worker's
 * words: one that talks faster than we read must not keep us here. */
static void link_receive(struct worker_link *link)
{
	for (int turn = 0; turn < MESSAGES_A_TURN && link->socket >= 0; turn++) {
		struct message message;
		struct error err;
		int fds[PROTOCOL_MAX_FDS]; /* a worker's messages carry none: any other is refused */
		switch (message_receive(link->socket, &message, fds, &err)) {
		case MESSAGE_OK:
			if (message.type == MESSAGE_JOB) {
				for (int i = 0; i < message_fds(&message); i++)
					close(fds[i]);
				link_nonsense(link, "the worker sent a job");
			} else {
				on_message(link, &message);
			}
			break;
		case MESSAGE_NONE:
			return;
		case MESSAGE_END:
			close_fd(&link->socket);
			if (!link->killed)
				link_end(link, END_CLOSED, "the worker closed its connection and did not end", KILL_MS);
			return;
		case MESSAGE_BAD:
		case MESSAGE_BAD_VERSION:
			link_nonsense(link, err.text);
			return;
		}
	}
}

/* What a job's end is when its worker has ended, by our cause or by its own. */
static enum worker_outcome judge_job(
	const struct worker_link *link, const struct worker_job *job, enum worker_death death)
{
	if (job->cancelling)
		return WORKER_CANCELLED;
	if (link->killed && link->end == END_NONE)
		return WORKER_LOST; /* to cancel the other one */
	switch (link->end) {
	case END_HUNG:
		return WORKER_HUNG;
	case END_DEVICE:
		return WORKER_DEVICE;
	case END_NONSENSE:
		return WORKER_CRASHED;
	case END_STOP:
	case END_IDLE:
	case END_MODEL:
		return WORKER_LOST;
	case END_NONE:
	case END_CLOSED:
		break;
	}
	return death == DEATH_MEMORY ? WORKER_MEMORY : death == DEATH_ASKED ? WORKER_LOST : WORKER_CRASHED;
}

/* lost: it was killed and doesn't die, so it is left behind and counts as dead. */
static void link_reap(struct worker_link *link, bool lost)
{
	int status = SIGKILL; /* of a lost one */
	char text[sizeof link->report.problem];
	if (!link->report.pid)
		return;
	if (waitpid(link->report.pid, &status, WNOHANG) != link->report.pid) {
		if (!lost)
			return;
		link->lost_pid = link->report.pid;
		size_t n = strlen(link->report.problem);
		snprintf(link->report.problem + n, sizeof link->report.problem - n, "%sit does not die", n ? "; " : "");
	}
	link->report.pid = 0;
	link->report.state = WORKER_STOPPING;
	link->kill_at = link->lost_at = link->hang_at = link->idle_at = 0;
	link_receive(link); /* its last words */
	enum worker_death death =
		worker_process_judge(status, link->oom_before, worker_process_oom_kills(VMSTAT), text, sizeof text);
	if ((link->end == END_NONE || link->end == END_CLOSED) && !link->killed)
		link_set_problem(link, text);
	struct worker_job jobs[] = {link->finishing, link->running}; /* the link may have others when they are told */
	enum worker_outcome outcomes[2];
	for (int i = 0; i < 2; i++)
		outcomes[i] = judge_job(link, &jobs[i], death);
	worker_job_init(&link->finishing);
	worker_job_init(&link->running);
	bool unasked = link->end != END_STOP && link->end != END_IDLE && !(link->killed && link->end == END_NONE);
	link->report.deaths += unasked;
	snprintf(text, sizeof text, "%s", *link->report.problem ? link->report.problem : "stopped");

	close_fd(&link->pidfd);
	close_fd(&link->socket);
	link->report.job = 0;
	if (link->restart || (!unasked && link->end == END_NONE))
		link_launch(link); /* the latter: killed only to cancel its job */
	else if (unasked)
		link_back_off(link);
	else
		link->report.state = WORKER_STOPPED;
	for (int i = 0; i < 2; i++)
		if (jobs[i].id)
			link_done(link, &jobs[i], outcomes[i], NULL,
				outcomes[i] == WORKER_CANCELLED ? "cancelled" : text);
	link_changed(link);
}

static void link_hung(struct worker_link *link)
{
	char text[128];
	const struct worker_job *job = link->running.id ? &link->running : &link->finishing;
	snprintf(text, sizeof text, "the worker gave no sign of life for %d s while %s%s, and was killed",
		(int)(link->hang_ms / 1000),
		job->id ? (*job->stage ? job->stage : "starting the job") : "loading the model",
		link->running.id && link->finishing.id ? " and finishing another job" : "");
	link_end(link, END_HUNG, text, 0);
	link_changed(link);
}

static void link_expire(struct worker_link *link)
{
	uint64_t count;
	int64_t now = now_ms();
	if (read(link->timer, &count, sizeof count) < 0)
		return; /* disarmed since */
	if (link->kill_at && now >= link->kill_at) {
		link->kill_at = link->hang_at = link->idle_at = 0;
		link->lost_at = now + LOST_MS;
		link->killed = true;
		link->report.state = WORKER_STOPPING;
		if (link->report.pid)
			kill(link->report.pid, SIGKILL);
	}
	if (link->lost_at && now >= link->lost_at)
		link_reap(link, true);
	if (link->hang_at && now >= link->hang_at)
		link_hung(link);
	if (link->idle_at && now >= link->idle_at)
		link_end(link, END_IDLE, "", KILL_MS);
	if (link->start_at && now >= link->start_at) {
		link_launch(link);
		link_changed(link);
	}
}

void worker_link_handle(struct worker_link *link)
{
	struct epoll_event events[3];
	int n = epoll_wait(link->epoll, events, 3, 0);
	for (int i = 0; i < n; i++) {
		/* A descriptor closed by an earlier event of this round matches none, or a fresh one that has nothing
		 * yet. */
		if (events[i].data.fd == link->timer)
			link_expire(link);
		else if (events[i].data.fd == link->pidfd)
			link_reap(link, false);
		else if (events[i].data.fd == link->socket)
			link_receive(link);
	}
	link_arm(link);
}

static void free_argv(char **argv)
{
	for (size_t i = 0; argv && argv[i]; i++)
		free(argv[i]);
	free(argv);
}

bool worker_link_set_argv(struct worker_link *link, const char *const *argv)
{
	size_t n = 0;
	while (argv[n])
		n++;
	char **copy = calloc(n + 1, sizeof *copy);
	for (size_t i = 0; copy && i < n; i++) {
		copy[i] = strdup(argv[i]);
		if (!copy[i]) {
			free_argv(copy);
			copy = NULL;
		}
	}
	if (!copy)
		return false;
	free_argv(link->argv);
	link->argv = copy;
	return true;
}

struct worker_link *worker_link_create(
	const struct worker_options *options, const struct worker_events *events, void *user, struct error *err)
{
	struct worker_link *link = calloc(1, sizeof *link);
	if (!link)
		goto no_memory;
	link->epoll = link->timer = link->socket = link->pidfd = -1;
	worker_job_init(&link->running);
	worker_job_init(&link->finishing);
	if (!worker_link_set_argv(link, options->argv))
		goto no_memory;
	link->idle_ms = (int64_t)options->idle_s * 1000;
	link->hang_ms = (int64_t)options->hang_s * 1000;
	link->events = *events;
	link->user = user;
	link->backoff_ms = BACKOFF_MIN_MS;
	link->epoll = epoll_create1(EPOLL_CLOEXEC);
	link->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (link->epoll < 0 || link->timer < 0 || !link_watch(link, link->timer)) {
		error_set(err, "worker link: %s", strerror(errno));
		worker_link_destroy(link);
		return NULL;
	}
	return link;
no_memory:
	error_set(err, "worker link: out of memory");
	worker_link_destroy(link);
	return NULL;
}

void worker_link_destroy(struct worker_link *link)
{
	if (!link)
		return;
	if (link->report.pid) {
		struct pollfd dead = {.fd = link->pidfd, .events = POLLIN};
		kill(link->report.pid, SIGKILL);
		poll(&dead, 1, END_MS);
		waitpid(link->report.pid, NULL, WNOHANG);
	}
	worker_job_finish(&link->running);
	worker_job_finish(&link->finishing);
	close_fd(&link->socket);
	close_fd(&link->pidfd);
	close_fd(&link->timer);
	close_fd(&link->epoll);
	free_argv(link->argv);
	free(link);
}

int worker_link_fd(const struct worker_link *link)
{
	return link->epoll;
}

const struct worker_report *worker_link_report(const struct worker_link *link)
{
	return &link->report;
}

void worker_link_start(struct worker_link *link)
{
	if (link->report.state == WORKER_STOPPING) {
		link->restart = true;
	} else if (link->report.state == WORKER_STOPPED) {
		link->backoff_ms = BACKOFF_MIN_MS;
		link_launch(link);
		link_arm(link);
		link_changed(link);
	}
}

void worker_link_retry(struct worker_link *link)
{
	if (link->report.state == WORKER_BACKOFF) {
		link->report.state = WORKER_STOPPED;
		worker_link_start(link);
	}
}

bool worker_link_submit(struct worker_link *link, const struct message_job *job, const int *fds, struct error *err)
{
	struct message message = {.type = MESSAGE_JOB, .job = *job};
	if (link->report.state != WORKER_READY)
		return error_set(err, "the worker is not ready for a job");
	if (!worker_job_open(&link->running, job, fds, err))
		return false;
	/* Its queue holds a CANCEL at most when it is ready: MESSAGE_FULL can't be. */
	if (message_send(link->socket, &message, fds, err) != MESSAGE_SENT) {
		worker_job_finish(&link->running);
		return false;
	}
	link->report.job = job->id;
	link->report.state = WORKER_BUSY;
	link->idle_at = 0;
	link_alive(link);
	link_arm(link);
	return true;
}

void worker_link_cancel(struct worker_link *link, uint64_t id)
{
	struct message message = {.type = MESSAGE_CANCEL, .cancel.id = id};
	struct worker_job *job = link->running.id == id ? &link->running : &link->finishing;
	if (!id || job->id != id || job->cancelling)
		return;
	job->cancelling = true;
	if (link->end != END_NONE)
		return;
	if (job == &link->running)
		link->kill_at = now_ms() + KILL_MS;
	message_send(link->socket, &message, NULL, NULL); /* if it doesn't arrive, the deadline or the result does */
	link_arm(link);
}

void worker_link_stop(struct worker_link *link)
{
	link->restart = false;
	link->start_at = 0;
	if (link->report.state == WORKER_BACKOFF) {
		link->report.state = WORKER_STOPPED;
		link_changed(link);
	} else if (link->report.pid) {
		link_end(link, END_STOP, "", KILL_MS);
		link->end = END_STOP; /* whatever began the end, it is not to come back */
		link_changed(link);
	}
	link_arm(link);
}
