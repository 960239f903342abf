/* files.c - contents and attributes. See files.h.
 *
 * A write is in the state file before its reply, so it survives the death of the daemon; the sync thread makes it
 * survive power loss after the last RELEASE. A file's mtime and size are journalled at that RELEASE; after a crash the content
 * itself tells (contents.c).
 *
 * What may take long on a content (open, truncate, allocate) is done without fs->lock: the node is held by its n_open and marked
 * busy, and only who is about to do the same to the same file waits. Writes need no such mark: the kernel lets only one
 * at a time change an inode. */
#include "files.h"

#include "contents.h"
#include "ingest.h"
#include "names.h"
#include "record.h"
#include "sync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* A truncation or chown takes the set-id bits away, whoever does it; before a write by one who may not keep them the
 * kernel sends a SETATTR of nothing. It leaves the bits to us (mount.c). */
static uint32_t without_set_id(uint32_t mode)
{
	return mode & ~(S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}

/* The content is no longer what a job was made of. handle: through which it changed, or NULL. */
static void mark_dirty(struct fs *fs, struct tree_node *node, const struct handle *handle)
{
	node->version++;
	node->synced = node->served = false;
	node->flush_seen = handle && handle->flushed;
	node->write_ns = fs_monotonic_ns();
	node->mtime_ns = node->ctime_ns = fs_now_ns();
	node->dirty = true;
	ingest_withdraw(fs, node);
}

static void set_size(struct fs *fs, struct tree_node *node, int64_t size)
{
	fs->used_bytes += size - node->size;
	node->size = size;
}

static bool over_quota(const struct fs *fs, const struct tree_node *node, int64_t size)
{
	return size > node->size && fs_over_quota(fs, size - node->size, 0);
}

/* The content is ours alone, and the lock free, until end_content. */
static void begin_content(struct fs *fs, struct tree_node *node)
{
	while (node->busy)
		pthread_cond_wait(&fs->content_idle, &fs->lock);
	node->busy = true;
	pthread_mutex_unlock(&fs->lock);
}

static void end_content(struct fs *fs, struct tree_node *node)
{
	pthread_mutex_lock(&fs->lock);
	node->busy = false;
	pthread_cond_broadcast(&fs->content_idle);
}

/* The node is held: have its fd. anew: what was there does not matter. */
static int open_content(struct fs *fs, struct tree_node *node, bool anew)
{
	bool make = anew || (node->size == 0 && !node->missing); /* one that never had bytes may not be there */
	while (node->busy)
		pthread_cond_wait(&fs->content_idle, &fs->lock);
	if (node->fd >= 0)
		return 0;
	begin_content(fs, node);
	int fd = state_content_open(&fs->state, node->id, O_RDWR | (make ? O_CREAT : 0));
	end_content(fs, node);
	if (fd < 0 && fd != -ENOENT)
		return -fd;
	contents_set_missing(fs, node, fd < 0);
	node->fd = fd < 0 ? -1 : fd;
	return fd < 0 ? EIO : 0;
}

static void hold(struct tree_node *node, bool writer)
{
	node->n_open++;
	node->n_writers += writer;
}

/* The descriptor to be closed without the lock, or -1. The node may be gone. */
static int let_go(struct fs *fs, struct tree_node *node, bool writer)
{
	int fd = -1;
	node->n_writers -= writer;
	if (--node->n_open > 0)
		return -1;
	fd = node->fd;
	node->fd = -1;
	if (!node->parent && fs->publication.node != node->id)
		files_drop_node(fs, node);
	return fd;
}

/* O_TRUNC and truncate(2), of a node that is held and has its fd. */
static int truncate_node(struct fs *fs, struct tree_node *node, int64_t size, const struct handle *handle)
{
	if (size < 0)
		return EINVAL;
	if (over_quota(fs, node, size))
		return EDQUOT;
	begin_content(fs, node);
	int error = ftruncate(node->fd, size) == 0 ? 0 : errno;
	end_content(fs, node);
	if (error)
		return error;
	set_size(fs, node, size);
	node->mode = without_set_id(node->mode);
	mark_dirty(fs, node, handle);
	return 0;
}

/* Removed or replaced, and its content with it, while the kernel or a holder of its handle was on the way here. */
static bool is_gone(const struct fs *fs, const struct tree_node *node)
{
	return !node->parent && node->n_open == 0 && fs->publication.node != node->id;
}

int files_open_node(struct fs *fs, struct tree_node *node, int flags, int fd, struct handle **out)
{
	bool writer = (flags & O_ACCMODE) != O_RDONLY;
	if (node->area != AREA_IN && (writer || flags & O_TRUNC))
		return EACCES;
	if (is_gone(fs, node))
		return ESTALE; /* the kernel looks again */
	struct handle *handle = calloc(1, sizeof *handle);
	if (!handle)
		return ENOMEM;
	hold(node, writer);
	if (fd >= 0)
		node->fd = fd;
	int error = open_content(fs, node, flags & O_TRUNC);
	if (!error && flags & O_TRUNC && node->size > 0)
		error = truncate_node(fs, node, 0, NULL);
	if (error) {
		fd = let_go(fs, node, writer);
		pthread_mutex_unlock(&fs->lock);
		if (fd >= 0)
			close(fd);
		free(handle);
		pthread_mutex_lock(&fs->lock);
		return error;
	}
	if (writer && node->dirty)
		ingest_withdraw(fs, node); /* an early job: the picture does not settle as it was */
	*handle = (struct handle){.node = node, .fd = node->fd, .writer = writer, .wrote = flags & O_TRUNC};
	*out = handle;
	return 0;
}

int files_open(struct fs *fs, uint64_t id, int flags, struct handle **handle)
{
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	int error = !node ? ESTALE : !S_ISREG(node->mode) ? EISDIR : files_open_node(fs, node, flags, -1, handle);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

void files_flush(struct fs *fs, struct handle *handle)
{
	pthread_mutex_lock(&fs->lock);
	handle->flushed = true;
	if (handle->wrote && !handle->node->served)
		handle->node->flush_seen = true;
	pthread_mutex_unlock(&fs->lock);
}

/* An NFS server may keep its descriptor for hours after the client has gone: what tells of the end is the client's COMMIT.
 * It may come through a descriptor of its own (Ganesha over NFSv4), which is then the one that is kept. */
int files_synced(struct fs *fs, struct handle *handle)
{
	struct tree_node *node = handle->node;
	pthread_mutex_lock(&fs->lock);
	int error = node->sync_error;
	node->sync_error = 0;
	if (handle->writer && node->dirty && node->parent && node->area == AREA_IN) {
		node->synced = true;
		node->served = !handle->wrote;
		if (node->served)
			node->flush_seen = false;
		if (!node->flush_seen)
			ingest_released(fs, node);
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

/* What the content's file says of its time, for the journal: another one after a start means written since. */
static int64_t content_time(const struct tree_node *node)
{
	struct stat st;
	if (!S_ISREG(node->mode) || node->fd < 0 || fstat(node->fd, &st) != 0)
		return node->content_ns;
	return fs_to_ns(st.st_mtim);
}

/* The last writer has gone: what it wrote is journalled, synced soon, and looked at by ingest. */
static void end_writing(struct fs *fs, struct tree_node *node, bool wrote)
{
	node->release_ns = fs_monotonic_ns();
	if (!node->parent)
		return;
	if (wrote) {
		node->content_ns = content_time(node);
		record_node(fs_change(fs), node, node->parent->id, node->name);
		fs_commit(fs, true);
	}
	if (node->dirty && node->area == AREA_IN)
		ingest_released(fs, node);
}

void files_drop_node(struct fs *fs, struct tree_node *node)
{
	uint64_t id = node->id;
	bool content = S_ISREG(node->mode) && node->n_open == 0;
	if (content) {
		set_size(fs, node, 0);
		contents_set_missing(fs, node, false);
	}
	tree_drop_unused(&fs->tree, node);
	if (content)
		sync_remove(fs, id);
}

void files_release(struct fs *fs, struct handle *handle)
{
	struct tree_node *node = handle->node;
	pthread_mutex_lock(&fs->lock);
	uint64_t id = node->id;
	bool sync = handle->wrote && node->parent;
	node->n_writers -= handle->writer;
	if (handle->writer && node->n_writers == 0)
		end_writing(fs, node, handle->wrote);
	int fd = let_go(fs, node, false);
	pthread_mutex_unlock(&fs->lock);
	if (sync)
		sync_written(fs, id, false);
	if (fd >= 0)
		close(fd);
	free(handle);
}

ssize_t files_read(struct handle *handle, void *buffer, size_t size, off_t at)
{
	size_t done = 0;
	while (done < size) {
		ssize_t n = pread(handle->fd, (char *)buffer + done, size - done, at + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (n == 0)
			break;
		done += n;
	}
	return done;
}

ssize_t files_write(struct fs *fs, struct handle *handle, const void *data, size_t size, off_t at)
{
	struct tree_node *node = handle->node;
	if (fs->options->max_bytes > 0) {
		pthread_mutex_lock(&fs->lock);
		bool over = over_quota(fs, node, at + size);
		pthread_mutex_unlock(&fs->lock);
		if (over)
			return -EDQUOT;
	}
	size_t done = 0;
	int error = 0;
	while (done < size && !error) {
		ssize_t n = pwrite(handle->fd, (const char *)data + done, size - done, at + done);
		if (n >= 0)
			done += n;
		else if (errno != EINTR)
			error = errno;
	}
	if (done > 0) {
		pthread_mutex_lock(&fs->lock);
		handle->wrote = true;
		if (at + (off_t)done > node->size)
			set_size(fs, node, at + done);
		mark_dirty(fs, node, handle);
		pthread_mutex_unlock(&fs->lock);
	}
	return done ? (ssize_t)done : -error;
}

int files_allocate(struct fs *fs, struct handle *handle, int mode, off_t at, off_t len)
{
	struct tree_node *node = handle->node;
	if (!handle->writer)
		return EBADF;
	pthread_mutex_lock(&fs->lock);
	bool grows = !(mode & FALLOC_FL_KEEP_SIZE) && at + len > node->size;
	int error = grows && over_quota(fs, node, at + len) ? EDQUOT : 0;
	if (!error && mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		error = EOPNOTSUPP;
	if (!error) {
		begin_content(fs, node);
		error = fallocate(handle->fd, mode, at, len) == 0 ? 0 : errno;
		end_content(fs, node);
		grows = grows && at + len > node->size;
	}
	if (!error && (grows || mode & ~FALLOC_FL_KEEP_SIZE)) {
		handle->wrote = true;
		if (grows)
			set_size(fs, node, at + len);
		mark_dirty(fs, node, handle);
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

off_t files_seek(struct handle *handle, off_t at, int whence)
{
	off_t found = lseek(handle->fd, at, whence);
	return found < 0 ? -errno : found;
}

int files_getattr(struct fs *fs, uint64_t id, struct stat *st)
{
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	if (node)
		names_fill_stat(node, st);
	pthread_mutex_unlock(&fs->lock);
	return node ? 0 : ESTALE;
}

/* A truncate by name is a writer of its own, gone at once. */
static int set_file_size(struct fs *fs, struct tree_node *node, struct handle *handle, int64_t size, int *close_fd)
{
	if (!S_ISREG(node->mode))
		return S_ISDIR(node->mode) ? EISDIR : EINVAL;
	if (node->area != AREA_IN)
		return EACCES;
	if (is_gone(fs, node))
		return ESTALE; /* else the bytes would count for ever, and have no name */
	hold(node, false);
	int error = open_content(fs, node, size == 0);
	if (!error)
		error = truncate_node(fs, node, size, handle);
	if (!error && handle)
		handle->wrote = true;
	if (!error && !handle && node->n_writers == 0) {
		node->flush_seen = true; /* none will come */
		end_writing(fs, node, true);
		sync_written(fs, node->id, false);
	}
	*close_fd = let_go(fs, node, false);
	return error;
}

static int set_attributes(struct fs *fs, struct tree_node *node, unsigned what, const struct stat *st)
{
	struct tree_node changed = *node;
	if ((!what || what & (FILES_UID | FILES_GID)) && S_ISREG(node->mode))
		changed.mode = without_set_id(node->mode);
	if (what & FILES_MODE)
		changed.mode = (node->mode & S_IFMT) | (st->st_mode & 07777);
	if (what & FILES_UID)
		changed.uid = st->st_uid;
	if (what & FILES_GID)
		changed.gid = st->st_gid;
	if (what & FILES_ATIME)
		changed.atime_ns = fs_to_ns(st->st_atim);
	if (what & FILES_MTIME)
		changed.mtime_ns = fs_to_ns(st->st_mtim);
	changed.content_ns = content_time(node);
	changed.ctime_ns = what & FILES_CTIME ? fs_to_ns(st->st_ctim) : fs_now_ns();
	if (node->parent && node->area != AREA_TOP) {
		record_node(fs_change(fs), &changed, node->parent->id, node->name);
		int error = fs_commit(fs, false);
		if (error)
			return error;
	}
	node->mode = changed.mode;
	node->uid = changed.uid;
	node->gid = changed.gid;
	node->atime_ns = changed.atime_ns;
	node->mtime_ns = changed.mtime_ns;
	node->ctime_ns = changed.ctime_ns;
	node->content_ns = changed.content_ns;
	return 0;
}

int files_setattr(struct fs *fs, uint64_t id, struct handle *handle, unsigned what, struct stat *st)
{
	int close_fd = -1;
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	int error = node ? 0 : ESTALE;
	if (!error && id < TREE_FIRST_ID && what & (FILES_MODE | FILES_UID | FILES_GID))
		error = EPERM; /* the mount's options say these */
	if (!error && what & FILES_SIZE)
		error = set_file_size(fs, node, handle, st->st_size, &close_fd);
	if (!error && !(node = tree_find(&fs->tree, id))) /* the lock was free meanwhile */
		error = ESTALE;
	if (!error && what != FILES_SIZE)
		error = set_attributes(fs, node, what, st);
	if (!error)
		names_fill_stat(node, st);
	pthread_mutex_unlock(&fs->lock);
	if (close_fd >= 0)
		close(close_fd);
	return error;
}
