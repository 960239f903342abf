/* sync.c - group commit. See sync.h.
 * While one group is being synced the next gathers, so a thousand fsyncs cost as many as the disk can do one after
 * another. What nobody waits for gathers a moment longer.
 *
 * The order of a group: contents that a name has been moved onto others, and those that somebody waits for; the journal; the
 * waiters' replies; contents of closed files; the journal; the mark; then the removal of contents. So a name is never durable without
 * the bytes that it got by replacing others, and the bytes of a name go when the journal has let go of it. */
#include "sync.h"

#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GATHER_MS = 200, RETRY_MS = 5000, OPEN_AT_ONCE = 256 };

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

/* Enough of it says nothing any more; or it must be, because a sync of it has failed. */
static bool wants_writing_anew(const struct fs *fs)
{
	enum { MIN_BYTES = 4 << 20 };
	const struct journal *j = &fs->journal;
	int64_t garbage = j->log.len - record_live_bytes(&fs->tree, &fs->jobs);
	return j->broken ||
	       (garbage > MIN_BYTES && garbage > j->log.len / 2 && j->log.len > j->base_len + j->base_len / 2);
}

/* Give the new log what was appended since `from`: most of it without the lock. False: it has failed. */
static bool catch_up(struct fs *fs, struct journal_log *from, struct journal_log *copy)
{
	enum { SMALL = 1 << 16 };
	int64_t at = from->len;
	bool ok = true;
	for (int i = 0; ok && i < 8; i++) {
		pthread_mutex_lock(&fs->lock);
		int64_t until = fs->journal.log.len;
		pthread_mutex_unlock(&fs->lock);
		if (until - at < SMALL)
			break;
		ok = journal_copy_tail(from, &at, until, copy);
	}
	ok = ok && fdatasync(copy->fd) == 0;
	pthread_mutex_lock(&fs->lock);
	ok = ok && journal_copy_tail(from, &at, fs->journal.log.len, copy);
	if (ok)
		fs->journal.copy = *copy;
	pthread_mutex_unlock(&fs->lock);
	return ok;
}

/* The new log takes the place of the old one, which has got every change until then. Once it has the name there is no way back. */
static bool take_over(struct fs *fs, const struct journal_log *copy, int64_t base_len)
{
	bool renamed = journal_copy_publish(fs->state.dir_fd, copy);
	int error = renamed && !journal_sync_dir(fs->state.dir_fd) ? errno : 0, close_fd = copy->fd;
	pthread_mutex_lock(&fs->lock);
	if (renamed) {
		close_fd = journal_copy_end(&fs->journal, base_len);
		fs->journal.broken = error;
	} else {
		fs->journal.copy.fd = -1;
	}
	pthread_mutex_unlock(&fs->lock);
	close(close_fd);
	return renamed && !error;
}

/* False: not wanted, or it failed and is tried again with a later group. */
static bool write_anew(struct fs *fs)
{
	struct bytes image = {0};
	struct journal_log from = {0}, copy;
	pthread_mutex_lock(&fs->lock);
	bool wanted = wants_writing_anew(fs), broken = fs->journal.broken;
	if (wanted) {
		record_all(&image, &fs->tree, &fs->jobs, &fs->config, fs->id_limit);
		from = fs->journal.log;
	}
	pthread_mutex_unlock(&fs->lock);
	if (!wanted)
		return false;
	bool ok = !image.failed && journal_copy_begin(fs->state.dir_fd, &image, &copy);
	int64_t base_len = ok ? copy.len : 0;
	bytes_finish(&image);
	if (ok && !(ok = catch_up(fs, &from, &copy)))
		close(copy.fd);
	ok = ok && take_over(fs, &copy, base_len);
	if (!ok) {
		fs_log("cannot write the journal anew: %s", strerror(errno)); /* no memory or no space */
		unlinkat(fs->state.dir_fd, "journal.new", 0);
	} else if (broken) {
		fs_log("the journal could not be synced and has been written anew: changes are taken again");
	}
	return ok;
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

/* The next group, once there is one; what nobody waits for waits for company. False: nothing left and asked to stop. */
static bool take_group(struct sync_thread *sync, struct group *group, bool broken)
{
	pthread_mutex_lock(&sync->lock);
	struct timespec again = in_ms(RETRY_MS);
	while (!sync->next.any && !sync->stop)
		if (!broken)
			pthread_cond_wait(&sync->wake, &sync->lock);
		else if (pthread_cond_timedwait(&sync->wake, &sync->lock, &again) == ETIMEDOUT)
			break;
	struct timespec until = in_ms(GATHER_MS);
	while (!sync->next.waiters && !sync->stop)
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
	struct group group;
	bool broken = false;
	while (take_group(fs->sync, &group, broken)) {
		sync_group(fs, &group);
		for (int i = 0; i < 4 && write_anew(fs);
			i++) /* what was appended meanwhile may be mostly garbage, too */
			;
		pthread_mutex_lock(&fs->lock);
		broken = fs->journal.broken;
		pthread_mutex_unlock(&fs->lock);
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
