/* sync.c - group commit. See sync.h.
 * While one group is being synced the next gathers, so a thousand fsyncs cost as many as the disk can do one after
 * another. Closed files wait a moment longer: nobody waits for them. */
#include "sync.h"

#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { GATHER_MS = 200, MAX_FDS = 64 };

struct waiter {
	struct waiter *next;
	int fd;
	void (*done)(void *user, int error);
	void *user;
};

struct group {
	int fds[MAX_FDS]; /* of closed files, owned */
	int n_fds;
	bool whole; /* more than that: sync the whole file system that holds the state */
	bool any;
	struct waiter *waiters;
};

struct sync_thread {
	pthread_t thread;
	pthread_mutex_t lock; /* last in the lock order */
	pthread_cond_t wake;
	struct group next; /* lock */
	bool stop;	   /* lock */
};

void sync_later(struct fs *fs, int fd)
{
	struct sync_thread *sync = fs->sync;
	if (!sync) {
		if (fd >= 0)
			close(fd);
		return;
	}
	pthread_mutex_lock(&sync->lock);
	bool kept = fd >= 0 && sync->next.n_fds < MAX_FDS;
	if (kept)
		sync->next.fds[sync->next.n_fds++] = fd;
	else if (fd >= 0)
		sync->next.whole = true;
	sync->next.any = true;
	pthread_cond_signal(&sync->wake);
	pthread_mutex_unlock(&sync->lock);
	if (fd >= 0 && !kept)
		close(fd);
}

void sync_now(struct fs *fs, int fd, void (*done)(void *user, int error), void *user)
{
	struct sync_thread *sync = fs->sync;
	struct waiter *waiter = malloc(sizeof *waiter);
	if (!waiter) {
		done(user, ENOMEM);
		return;
	}
	*waiter = (struct waiter){.fd = fd, .done = done, .user = user};
	pthread_mutex_lock(&sync->lock);
	waiter->next = sync->next.waiters;
	sync->next.waiters = waiter;
	sync->next.any = true;
	pthread_cond_signal(&sync->wake);
	pthread_mutex_unlock(&sync->lock);
}

/* fd is a copy, because compaction may replace the journal meanwhile. */
static int sync_journal(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	int fd = dup(fs->journal.fd);
	journal_restore_reserve(&fs->journal);
	pthread_mutex_unlock(&fs->lock);
	if (fd < 0)
		return errno;
	int error = fdatasync(fd) == 0 ? 0 : errno;
	close(fd);
	return error;
}

static void sync_group(struct fs *fs, struct group *group)
{
	int error = 0;
	if (group->whole && syncfs(fs->state.dir_fd) != 0)
		error = errno;
	for (int i = 0; i < group->n_fds; i++) {
		if (!group->whole && fdatasync(group->fds[i]) != 0)
			fs_log("cannot sync a file of the state directory: %s", strerror(errno));
		close(group->fds[i]);
	}
	int journal_error = sync_journal(fs);
	for (struct waiter *waiter = group->waiters, *next; waiter; waiter = next) {
		int own = waiter->fd >= 0 && fdatasync(waiter->fd) != 0 ? errno : 0;
		next = waiter->next;
		waiter->done(waiter->user, own ? own : journal_error ? journal_error : error);
		free(waiter);
	}
}

static void compact(struct fs *fs)
{
	struct bytes image = {0};
	pthread_mutex_lock(&fs->lock);
	bool wanted = journal_wants_compaction(&fs->journal);
	if (wanted)
		record_all(&image, &fs->tree, &fs->jobs, &fs->config);
	int64_t from = fs->journal.len, len = image.len;
	pthread_mutex_unlock(&fs->lock);
	if (!wanted)
		return;
	int fd = image.failed ? -1 : journal_write_image(fs->state.dir_fd, &image);
	bytes_finish(&image);
	if (fd < 0)
		return; /* no memory or no space: later */
	pthread_mutex_lock(&fs->lock);
	bool ok = journal_replace(&fs->journal, fd, len, from);
	pthread_mutex_unlock(&fs->lock);
	if (!ok)
		fs_log("cannot compact the journal: %s", strerror(errno));
}

static struct timespec in_ms(int ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_nsec += ms * 1000000L;
	at.tv_sec += at.tv_nsec / 1000000000;
	at.tv_nsec %= 1000000000;
	return at;
}

/* The next group, once there is one; closed files alone wait for company. False: nothing left and asked to stop. */
static bool take_group(struct sync_thread *sync, struct group *group)
{
	pthread_mutex_lock(&sync->lock);
	while (!sync->next.any && !sync->stop)
		pthread_cond_wait(&sync->wake, &sync->lock);
	struct timespec until = in_ms(GATHER_MS);
	while (!sync->next.waiters && !sync->stop)
		if (pthread_cond_timedwait(&sync->wake, &sync->lock, &until) == ETIMEDOUT)
			break;
	bool any = sync->next.any;
	*group = sync->next;
	sync->next = (struct group){0};
	pthread_mutex_unlock(&sync->lock);
	return any;
}

static void *run(void *user)
{
	struct fs *fs = user;
	struct group group;
	while (take_group(fs->sync, &group)) {
		sync_group(fs, &group);
		compact(fs);
	}
	return NULL;
}

bool sync_start(struct fs *fs, struct error *err)
{
	struct sync_thread *sync = calloc(1, sizeof *sync);
	if (!sync)
		return error_set(err, "out of memory");
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&sync->wake, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&sync->lock, NULL);
	fs->sync = sync;
	int error = pthread_create(&sync->thread, NULL, run, fs);
	if (error) {
		free(sync);
		fs->sync = NULL;
		return error_set(err, "cannot start the sync thread: %s", strerror(error));
	}
	return true;
}

void sync_stop(struct fs *fs)
{
	struct sync_thread *sync = fs->sync;
	if (!sync)
		return;
	pthread_mutex_lock(&sync->lock);
	sync->stop = true;
	pthread_cond_signal(&sync->wake);
	pthread_mutex_unlock(&sync->lock);
	pthread_join(sync->thread, NULL);
	pthread_mutex_destroy(&sync->lock);
	pthread_cond_destroy(&sync->wake);
	free(sync);
	fs->sync = NULL;
}
