/* sync.c - group commit. See sync.h.
 * While one group is being synced the next gathers, so a thousand fsyncs cost as many as the disk can do one after
 * another. What nobody waits for gathers a moment longer.
 *
 * The order of a group: contents that a name has been moved onto others, and those that somebody waits for; the journal; the
 * waiters' replies; contents of closed files; the journal; the mark; then the removal of contents. So a name is never durable without
 * the bytes that it got by replacing others, and the bytes of a name go when the journal has let go of it. */
#include "sync.h"

#include "compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GATHER_MS = 200, OPEN_AT_ONCE = 256 };

struct waiter {
	struct waiter *next;
	int fd, error;
	bool for_space; /* for the removal, not for the sync */
	void (*done)(void *user, int error);
	void *user;
};

struct ids {
	uint64_t *items;
	size_t n, cap;
};

struct group {
	struct ids written, at_once, removed;
	bool whole; /* no memory for a list: sync the whole file system that holds the state */
	bool any;
	struct waiter *waiters;
};

struct sync_thread {
	pthread_t thread;
	pthread_mutex_t lock; /* last in the lock order */
	pthread_cond_t wake;
	struct group next;	    /* lock */
	bool removing;		    /* lock: the group under way has contents to remove */
	bool stop;		    /* lock */
	struct journal_mark marked; /* the thread's own */
};

static bool add(struct ids *ids, uint64_t id)
{
	if (ids->n == ids->cap) {
		size_t cap = ids->cap ? 2 * ids->cap : 64;
		uint64_t *items = realloc(ids->items, cap * sizeof *items);
		if (!items)
			return false;
		ids->items = items;
		ids->cap = cap;
	}
	ids->items[ids->n++] = id;
	return true;
}

static void unlock_and_wake(struct sync_thread *sync)
{
	sync->next.any = true;
	pthread_cond_signal(&sync->wake);
	pthread_mutex_unlock(&sync->lock);
}

void sync_changed(struct fs *fs)
{
	struct sync_thread *sync = fs->sync;
	if (!sync)
		return;
	pthread_mutex_lock(&sync->lock);
	unlock_and_wake(sync);
}

void sync_written(struct fs *fs, uint64_t id, bool at_once)
{
	struct sync_thread *sync = fs->sync;
	if (!sync)
		return;
	pthread_mutex_lock(&sync->lock);
	if (!add(at_once ? &sync->next.at_once : &sync->next.written, id))
		sync->next.whole = true;
	unlock_and_wake(sync);
}

void sync_remove(struct fs *fs, uint64_t id)
{
	struct sync_thread *sync = fs->sync;
	if (!sync) {
		state_content_remove(&fs->state, id);
		return;
	}
	pthread_mutex_lock(&sync->lock);
	add(&sync->next.removed, id); /* without memory it is there until the next start, which sweeps it */
	unlock_and_wake(sync);
}

static void wait_for(struct sync_thread *sync, struct waiter waiter)
{
	struct waiter *kept = malloc(sizeof *kept);
	if (!kept) {
		waiter.done(waiter.user, ENOMEM);
		return;
	}
	*kept = waiter;
	pthread_mutex_lock(&sync->lock);
	kept->next = sync->next.waiters;
	sync->next.waiters = kept;
	unlock_and_wake(sync);
}

void sync_now(struct fs *fs, int fd, int error, void (*done)(void *user, int error), void *user)
{
	wait_for(fs->sync, (struct waiter){.fd = fd, .error = error, .done = done, .user = user});
}

struct space {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	bool done;
};

static void space_freed(void *user, int error)
{
	struct space *space = user;
	(void)error;
	pthread_mutex_lock(&space->lock);
	space->done = true;
	pthread_cond_signal(&space->freed);
	pthread_mutex_unlock(&space->lock);
}

bool sync_free_space(struct fs *fs)
{
	struct sync_thread *sync = fs->sync;
	if (!sync)
		return false;
	pthread_mutex_lock(&sync->lock);
	bool some = sync->removing || sync->next.removed.n > 0;
	pthread_mutex_unlock(&sync->lock);
	if (!some)
		return false;
	struct space space = {.lock = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER};
	wait_for(sync, (struct waiter){.fd = -1, .for_space = true, .done = space_freed, .user = &space});
	pthread_mutex_lock(&space.lock);
	while (!space.done)
		pthread_cond_wait(&space.freed, &space.lock);
	pthread_mutex_unlock(&space.lock);
	return true;
}

/* ---- The thread. ---- */

/* A sync that failed is told to the next who asks for one of this file; the bytes may be gone. */
static void note_failure(struct fs *fs, uint64_t id, int error)
{
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	if (node && S_ISREG(node->mode))
		node->sync_error = error;
	pthread_mutex_unlock(&fs->lock);
	fs_log("cannot sync content %016llx of the state directory: %s", (unsigned long long)id, strerror(error));
}

/* All are on their way to the disk before the first is waited for: the disk's own journal commits them together. */
static void sync_contents(struct fs *fs, const struct ids *ids)
{
	int fds[OPEN_AT_ONCE];
	for (size_t start = 0; start < ids->n; start += OPEN_AT_ONCE) {
		size_t n = ids->n - start < OPEN_AT_ONCE ? ids->n - start : OPEN_AT_ONCE;
		for (size_t i = 0; i < n; i++) {
			fds[i] = state_content_open(&fs->state, ids->items[start + i], O_RDONLY);
			if (fds[i] >= 0)
				sync_file_range(fds[i], 0, 0, SYNC_FILE_RANGE_WRITE);
			else if (fds[i] != -ENOENT) /* removed by now */
				note_failure(fs, ids->items[start + i], -fds[i]);
		}
		for (size_t i = 0; i < n; i++) {
			if (fds[i] < 0)
				continue;
			if (fdatasync(fds[i]) != 0)
				note_failure(fs, ids->items[start + i], errno);
			close(fds[i]);
		}
	}
}

/* Sync what the journal is now; *point is up to where. A sync that fails may have dropped pages that nobody writes again: the
 * journal takes no change any more until it has been written anew. */
static int sync_journal(struct fs *fs, struct journal_mark *point)
{
	pthread_mutex_lock(&fs->lock);
	uint64_t limit = fs_reserve_ids(fs);
	const struct journal_log log = fs->journal.log; /* only this thread replaces its fd */
	int error = fs->journal.broken;
	pthread_mutex_unlock(&fs->lock);
	if (!error && fdatasync(log.fd) != 0)
		error = errno;
	pthread_mutex_lock(&fs->lock);
	if (error)
		fs->journal.broken = error;
	else if (limit)
		fs->id_limit = limit;
	*point = (struct journal_mark){.id = log.id, .len = log.len, .seq = log.seq, .id_limit = fs->id_limit};
	pthread_mutex_unlock(&fs->lock);
	return error;
}

static bool has_grown(struct fs *fs, const struct journal_mark *since)
{
	pthread_mutex_lock(&fs->lock);
	bool grown = fs->journal.log.seq != since->seq || fs->journal.log.id != since->id;
	pthread_mutex_unlock(&fs->lock);
	return grown;
}

static void reply(struct group *group, bool for_space, int error)
{
	for (struct waiter **at = &group->waiters, *waiter; (waiter = *at);) {
		if (waiter->for_space != for_space) {
			at = &waiter->next;
			continue;
		}
		*at = waiter->next;
		waiter->done(waiter->user, waiter->error ? waiter->error : error);
		free(waiter);
	}
}

static bool sync_waiters(struct group *group)
{
	bool some = false;
	for (struct waiter *waiter = group->waiters; waiter; waiter = waiter->next) {
		some |= !waiter->for_space;
		if (waiter->fd >= 0 && fdatasync(waiter->fd) != 0 && !waiter->error)
			waiter->error = errno;
	}
	return some;
}

/* The lists that could not be worked off go to the next group. */
static void keep_removed(struct sync_thread *sync, struct ids *removed)
{
	pthread_mutex_lock(&sync->lock);
	for (size_t i = 0; i < removed->n; i++)
		add(&sync->next.removed, removed->items[i]);
	pthread_mutex_unlock(&sync->lock);
}

static void restore_reserve(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	bool there = fs->journal.reserve;
	pthread_mutex_unlock(&fs->lock);
	if (there || !journal_make_reserve(fs->state.dir_fd))
		return;
	pthread_mutex_lock(&fs->lock);
	fs->journal.reserve = true;
	pthread_mutex_unlock(&fs->lock);
}

static void sync_group(struct fs *fs, struct group *group)
{
	struct sync_thread *sync = fs->sync;
	struct journal_mark point = {0};
	int error = group->whole && syncfs(fs->state.dir_fd) != 0 ? errno : 0, journal_error = 0;
	sync_contents(fs, &group->at_once);
	bool waited = sync_waiters(group);
	if (waited) {
		journal_error = sync_journal(fs, &point);
		reply(group, false, journal_error ? journal_error : error);
	}
	sync_contents(fs, &group->written);
	if (!waited || has_grown(fs, &point))
		journal_error = sync_journal(fs, &point);
	if (!journal_error && (point.seq != sync->marked.seq || point.id != sync->marked.id)) {
		journal_write_mark(&fs->journal, &point);
		sync->marked = point;
	}
	if (journal_error)
		keep_removed(sync, &group->removed);
	for (size_t i = 0; !journal_error && i < group->removed.n; i++)
		state_content_remove(&fs->state, group->removed.items[i]);
	restore_reserve(fs);
	reply(group, true, 0);
	free(group->written.items);
	free(group->at_once.items);
	free(group->removed.items);
}

static struct timespec in_ms(int ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_nsec += ms % 1000 * 1000000L;
	at.tv_sec += ms / 1000 + at.tv_nsec / 1000000000;
	at.tv_nsec %= 1000000000;
	return at;
}

/* The next group, once there is one; what nobody waits for waits for company. again_ms: an empty one after so long; 0: never.
 * False: nothing left and asked to stop. */
static bool take_group(struct sync_thread *sync, struct group *group, int again_ms)
{
	pthread_mutex_lock(&sync->lock);
	struct timespec again = in_ms(again_ms);
	while (!sync->next.any && !sync->stop)
		if (!again_ms)
			pthread_cond_wait(&sync->wake, &sync->lock);
		else if (pthread_cond_timedwait(&sync->wake, &sync->lock, &again) == ETIMEDOUT)
			break;
	struct timespec until = in_ms(again_ms && again_ms < GATHER_MS ? again_ms : GATHER_MS);
	while (sync->next.any && !sync->next.waiters && !sync->stop)
		if (pthread_cond_timedwait(&sync->wake, &sync->lock, &until) == ETIMEDOUT)
			break;
	bool go_on = sync->next.any || !sync->stop;
	*group = sync->next;
	sync->removing = group->removed.n > 0;
	sync->next = (struct group){0};
	pthread_mutex_unlock(&sync->lock);
	return go_on;
}

static void *run(void *user)
{
	struct fs *fs = user;
	struct compaction compaction = {0};
	struct group group;
	int again_ms = 0;
	while (take_group(fs->sync, &group, again_ms)) {
		if (group.any || group.removed.n > 0)
			sync_group(fs, &group);
		again_ms = compact_step(&compaction, fs);
	}
	compact_stop(&compaction, fs);
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
	sync->next.any = true; /* the journal may be worth writing anew */
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
	sync->next.any = true; /* whatever nobody has waited for */
	pthread_cond_signal(&sync->wake);
	pthread_mutex_unlock(&sync->lock);
	pthread_join(sync->thread, NULL);
	pthread_mutex_destroy(&sync->lock);
	pthread_cond_destroy(&sync->wake);
	free(sync);
	fs->sync = NULL;
}
