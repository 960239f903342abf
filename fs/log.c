/* log.c - the ring and its thread. See log.h. */
#include "log.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum { LINES = 256, STOP_S = 1 };

/* The only state that a process has once, as it has one log. The lock is the last one of all and is never held over a
 * system call that can block. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake, end;
	enum { DIRECT, RUNNING, STOPPING, ENDED } state; /* lock */
	char *lines[LINES];				 /* lock: malloc'd */
	size_t first, n;				 /* lock */
	long dropped;					 /* lock: since the thread told how many */
	pthread_t thread;				 /* constant once it runs */
	const char *name;				 /* constant once threads run, as the next one */
	bool to_stderr;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* False: to be written by the caller. */
static bool put(const char *text)
{
	pthread_mutex_lock(&ring.lock);
	bool direct = ring.state == DIRECT;
	char *copy = ring.state == RUNNING && ring.n < LINES ? strdup(text) : NULL;
	if (copy) {
		ring.lines[(ring.first + ring.n++) % LINES] = copy;
		pthread_cond_signal(&ring.wake);
	} else if (ring.state == RUNNING) {
		ring.dropped++;
	}
	pthread_mutex_unlock(&ring.lock);
	return !direct;
}

void log_open(const char *name, bool to_stderr)
{
	openlog(name, LOG_PID, LOG_DAEMON);
	ring.name = name;
	ring.to_stderr = to_stderr;
}

/* To stderr by write(2) and not by LOG_PERROR: what is stuck in a stdio buffer is flushed once more by exit(3), which then
 * waits as well. */
static void write_line(const char *text)
{
	char line[2200];
	int len = snprintf(line, sizeof line, "%s[%d]: %s\n", ring.name, (int)getpid(), text);
	if (ring.to_stderr)
		(void)!write(STDERR_FILENO, line, (size_t)len);
	syslog(LOG_NOTICE, "%s", text);
}

void fs_log(const char *format, ...)
{
	char text[2048];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	error_one_line(text);
	if (!put(text))
		write_line(text);
}

/* The next line, or how many are missing behind the last one; false: there is nothing. Needs the lock. */
static bool take(char **line, long *dropped)
{
	*line = NULL;
	*dropped = 0;
	if (ring.n > 0) {
		*line = ring.lines[ring.first];
		ring.first = (ring.first + 1) % LINES;
		ring.n--;
	} else {
		*dropped = ring.dropped;
		ring.dropped = 0;
	}
	return *line || *dropped;
}

static void *run(void *user)
{
	char *line, missing[80];
	long dropped;
	(void)user;
	pthread_mutex_lock(&ring.lock);
	for (;;) {
		if (take(&line, &dropped)) {
			pthread_mutex_unlock(&ring.lock);
			snprintf(missing, sizeof missing, "%ld lines are missing here: the log was not read", dropped);
			write_line(line ? line : missing);
			free(line);
			pthread_mutex_lock(&ring.lock);
		} else if (ring.state == STOPPING) {
			break;
		} else {
			pthread_cond_wait(&ring.wake, &ring.lock);
		}
	}
	ring.state = ENDED;
	pthread_cond_signal(&ring.end);
	pthread_mutex_unlock(&ring.lock);
	return NULL;
}

/* Signals are the main thread's. */
static int start_thread(void)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int error = pthread_create(&ring.thread, NULL, run, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return error;
}

bool log_start(struct error *err)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ring.end, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&ring.lock);
	int error = start_thread();
	if (!error)
		ring.state = RUNNING;
	pthread_mutex_unlock(&ring.lock);
	return !error || error_set(err, "cannot start the log's thread: %s", strerror(error));
}

void log_stop(void)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STOP_S;
	pthread_mutex_lock(&ring.lock);
	if (ring.state == RUNNING) {
		ring.state = STOPPING;
		pthread_cond_signal(&ring.wake);
		while (ring.state != ENDED && pthread_cond_timedwait(&ring.end, &ring.lock, &until) == 0)
			;
	}
	bool ended = ring.state == ENDED;
	pthread_mutex_unlock(&ring.lock);
	if (ended) /* else it waits for the log, and ends with the process */
		pthread_join(ring.thread, NULL);
}
