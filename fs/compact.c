/* compact.c - the journal is written anew by a child process, which has the memory as it was when it was forked. See compact.h.
 *
 * fs->lock is held for as long as fork() copies page tables, some ms at a million nodes; to write all those down takes seconds.
 * Slices with the lock given up between would need no process, but a log of them holds together only if every change in
 * between is seen by them; a second tree, read from the log itself, would need all the memory twice. The child costs a page
 * for each that the daemon changes while it runs: all of them at worst. So it is the first to go when memory runs out; then
 * this is tried again later. Where there cannot be a child, the lock is held for it. */
#include "compact.h"

#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOK_MS = 50, RETRY_MS = 5000 };

/* Enough of it says nothing any more; or it must be, because a sync of it has failed. */
static bool wants_writing_anew(const struct fs *fs)
{
	enum { MIN_BYTES = 4 << 20 };
	const struct journal *j = &fs->journal;
	int64_t garbage = j->log.len - record_live_bytes(&fs->tree, &fs->jobs);
	return j->broken ||
	       (garbage > MIN_BYTES && garbage > j->log.len / 2 && j->log.len > j->base_len + j->base_len / 2);
}

/* What is written, and where: all memory for it is there before the fork, as the child takes no lock, not even malloc's. */
struct image {
	struct journal_log copy;
	struct bytes change, buffer;
	struct record_source source;
	struct journal_log *told;
};

static bool write_image(struct image *image)
{
	struct journal_facts facts = {record_each, &image->source};
	if (!journal_copy_fill(&image->copy, &facts, &image->buffer))
		return false;
	*image->told = image->copy;
	return true;
}

/* The child holds nothing of the daemon's: while it had /dev/fuse, the mount would outlive the daemon. And it ends with it. */
static _Noreturn void be_child(struct image *image, pid_t parent)
{
	if (dup2(image->copy.fd, 0) != 0)
		_exit(errno);
	closefrom(1);
	image->copy.fd = 0;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
		_exit(ESRCH);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	(void)!write(fd, "1000", 4);
	close(fd);
	_exit(write_image(image) ? 0 : errno ? errno : EIO);
}

static bool make_image(struct image *image, struct fs *fs)
{
	*image = (struct image){
		.told = mmap(NULL, sizeof *image->told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
	if (image->told == MAP_FAILED)
		return false;
	*image->told = (struct journal_log){.fd = -1};
	bytes_extend(&image->change, JOURNAL_CHANGE_MAX);
	bytes_extend(&image->buffer, JOURNAL_BUFFER_BYTES);
	image->buffer.len = image->change.len = 0;
	if (!image->change.failed && !image->buffer.failed && journal_copy_open(fs->state.dir_fd, &image->copy))
		return true;
	munmap(image->told, sizeof *image->told);
	bytes_finish(&image->change);
	bytes_finish(&image->buffer);
	return false;
}

static bool is_broken(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	bool broken = fs->journal.broken;
	pthread_mutex_unlock(&fs->lock);
	return broken;
}

/* Of what was begun: nothing is left. */
static void give_up(struct compaction *c, struct fs *fs, int error)
{
	if (!c->stopped)
		fs_log("cannot write the journal anew: %s", strerror(error)); /* no memory or no space */
	c->retry_ns = fs_monotonic_ns() + RETRY_MS * INT64_C(1000000);
	unlinkat(fs->state.dir_fd, "journal.new", 0);
}

static void begin(struct compaction *c, struct fs *fs)
{
	struct image image;
	if (!make_image(&image, fs)) {
		give_up(c, fs, errno ? errno : ENOMEM);
		return;
	}
	pid_t parent = getpid();
	int error = 0;
	pthread_mutex_lock(&fs->lock);
	image.source = (struct record_source){&fs->tree, &fs->jobs, &fs->config, fs->id_limit, &image.change};
	c->from = fs->journal.log;
	c->from_broken = fs->journal.broken;
	c->child = fork();
	if (c->child == 0)
		be_child(&image, parent);
	if (c->child < 0 && !write_image(&image))
		error = errno ? errno : EIO;
	pthread_mutex_unlock(&fs->lock);
	c->copy = image.copy;
	c->told = image.told;
	bytes_finish(&image.change);
	bytes_finish(&image.buffer);
	if (!error)
		return;
	c->child = 0;
	close(c->copy.fd);
	munmap(c->told, sizeof *c->told);
	give_up(c, fs, error);
}

/* Give the new log what was appended since it was begun: most of it without the lock. False: it has failed. */
static bool catch_up(struct compaction *c, struct fs *fs)
{
	enum { SMALL = 1 << 16 };
	int64_t at = c->from.len;
	bool ok = true;
	for (int i = 0; ok && i < 8; i++) {
		pthread_mutex_lock(&fs->lock);
		int64_t until = fs->journal.log.len;
		pthread_mutex_unlock(&fs->lock);
		if (until - at < SMALL)
			break;
		ok = journal_copy_tail(&c->from, &at, until, &c->copy);
	}
	ok = ok && fdatasync(c->copy.fd) == 0;
	pthread_mutex_lock(&fs->lock);
	ok = ok && journal_copy_tail(&c->from, &at, fs->journal.log.len, &c->copy);
	if (ok)
		fs->journal.copy = c->copy;
	pthread_mutex_unlock(&fs->lock);
	return ok;
}

/* The new log takes the place of the old one, which has got every change until then. Once it has the name there is no way back. */
static bool take_over(struct compaction *c, struct fs *fs, int64_t base_len)
{
	bool renamed = journal_copy_publish(fs->state.dir_fd, &c->copy);
	int error = renamed && !journal_sync_dir(fs->state.dir_fd) ? errno : 0;
	pthread_mutex_lock(&fs->lock);
	bool was_broken = fs->journal.broken;
	c->old = renamed ? fs->journal.log : c->copy;
	if (renamed) {
		journal_copy_end(&fs->journal, base_len);
		fs->journal.broken = error;
	} else {
		fs->journal.copy.fd = -1;
	}
	pthread_mutex_unlock(&fs->lock);
	if (renamed && !error && was_broken)
		fs_log("the journal could not be synced and has been written anew: changes are taken again");
	return renamed && !error;
}

/* Whether the child is still at it; *error: what became of it. */
static bool is_under_way(struct compaction *c, bool wait, int *error)
{
	int status;
	pid_t ended = c->child > 0 ? waitpid(c->child, &status, wait ? 0 : WNOHANG) : -1;
	if (ended == 0)
		return true;
	*error = c->child < 0		       ? 0 /* it went without one */
		 : ended != c->child	       ? ECHILD
		 : WIFEXITED(status)	       ? WEXITSTATUS(status)
		 : WTERMSIG(status) == SIGKILL ? ENOMEM /* whoever kills it */
					       : EIO;
	return false;
}

/* The child has ended. When a sync of the old log has failed since it began, what was appended since may not be read back: it
 * is for another child. */
static void finish(struct compaction *c, struct fs *fs, int error)
{
	int fd = c->copy.fd;
	bool stale = !error && !c->from_broken && is_broken(fs);
	c->copy = *c->told;
	c->copy.fd = fd;
	munmap(c->told, sizeof *c->told);
	c->child = 0;
	int64_t base_len = c->copy.len;
	if (stale) {
		close(fd);
		return;
	}
	errno = EIO;
	if (!error && !catch_up(c, fs))
		error = errno;
	if (error)
		close(fd);
	else if (!take_over(c, fs, base_len))
		error = errno ? errno : EIO;
	if (error)
		give_up(c, fs, error);
}

/* Some of what the old log takes on the disk; it has no name any more. */
static void drop_old(struct compaction *c)
{
	enum { SOME = 32 << 20 };
	c->old.len -= SOME;
	if (c->old.len > 0 && ftruncate(c->old.fd, c->old.len) == 0)
		return;
	close(c->old.fd);
	c->old = (struct journal_log){0};
}

int compact_step(struct compaction *c, struct fs *fs)
{
	int error = 0;
	if (c->old.len)
		drop_old(c);
	else if (c->child && !is_under_way(c, false, &error))
		finish(c, fs, error);
	if (c->child || c->old.len)
		return LOOK_MS;
	pthread_mutex_lock(&fs->lock);
	bool wanted = wants_writing_anew(fs), broken = fs->journal.broken;
	pthread_mutex_unlock(&fs->lock);
	if (wanted && fs_monotonic_ns() >= c->retry_ns)
		begin(c, fs);
	return c->child ? LOOK_MS : broken ? RETRY_MS : 0;
}

void compact_stop(struct compaction *c, struct fs *fs)
{
	int error = 0;
	c->stopped = !is_broken(fs);
	if (c->stopped && c->child > 0)
		kill(c->child, SIGKILL);
	if (c->child) {
		is_under_way(c, true, &error);
		finish(c, fs, error);
	}
	while (c->old.len)
		drop_old(c);
	if (is_broken(fs))
		begin(c, fs);
	if (c->child) {
		is_under_way(c, true, &error);
		finish(c, fs, error);
	}
	while (c->old.len)
		drop_old(c);
}
