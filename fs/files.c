/* files.c - contents and attributes. See files.h.
 *
 * A write is in the state file before its reply, so it survives the death of the daemon; the sync thread makes it
 * survive power loss after the last RELEASE. A file's mtime is journalled at that RELEASE; after a crash the content's
 * own mtime tells (fs.c). */
#include "files.h"

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

static bool over_quota(struct fs *fs, const struct tree_node *node, int64_t size)
{
	return fs->options->max_bytes > 0 && size > node->size &&
	       fs->used_bytes + size - node->size > fs->options->max_bytes;
}

/* O_TRUNC and truncate(2). */
static int truncate_node(struct fs *fs, struct tree_node *node, int fd, int64_t size, const struct handle *handle)
{
	if (over_quota(fs, node, size))
		return EDQUOT;
	if (size < 0 || ftruncate(fd, size) != 0)
		return size < 0 ? EINVAL : errno;
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

int files_open_node(struct fs *fs, struct tree_node *node, int flags, struct handle **out)
{
	bool writer = (flags & O_ACCMODE) != O_RDONLY;
	if (node->area == AREA_OUT && (writer || flags & O_TRUNC))
		return EACCES;
	if (is_gone(fs, node))
		return ESTALE; /* the kernel looks again */
	struct handle *handle = calloc(1, sizeof *handle);
	if (!handle)
		return ENOMEM;
	if (node->n_open == 0) {
		int fd = state_content_open(&fs->state, node->id, O_RDWR | O_CREAT);
		if (fd < 0) {
			free(handle);
			return -fd;
		}
		node->fd = fd;
	}
	int error = flags & O_TRUNC && node->size > 0 ? truncate_node(fs, node, node->fd, 0, NULL) : 0;
	if (error) {
		if (node->n_open == 0) {
			close(node->fd);
			node->fd = -1;
		}
		free(handle);
		return error;
	}
	if (writer && node->dirty)
		ingest_withdraw(fs, node); /* an early job: the picture does not settle as it was */
	*handle = (struct handle){.node = node, .fd = node->fd, .writer = writer, .wrote = flags & O_TRUNC};
	node->n_open++;
	node->n_writers += writer;
	*out = handle;
	return 0;
}

int files_open(struct fs *fs, uint64_t id, int flags, struct handle **handle)
{
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	int error = !node ? ESTALE : !S_ISREG(node->mode) ? EISDIR : files_open_node(fs, node, flags, handle);
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
void files_synced(struct fs *fs, struct handle *handle)
{
	struct tree_node *node = handle->node;
	pthread_mutex_lock(&fs->lock);
	if (handle->writer && node->dirty && node->parent && node->area == AREA_IN) {
		node->synced = true;
		node->served = !handle->wrote;
		if (node->served)
			node->flush_seen = false;
		if (!node->flush_seen)
			ingest_released(fs, node);
	}
	pthread_mutex_unlock(&fs->lock);
}

/* The last writer has gone: what it wrote is journalled, synced soon, and looked at by ingest. */
static void end_writing(struct fs *fs, struct tree_node *node, bool wrote)
{
	node->release_ns = fs_monotonic_ns();
	if (!node->parent)
		return;
	if (wrote) {
		record_node(fs_change(fs), node, node->parent->id, node->name);
		fs_commit(fs, true);
	}
	if (node->dirty && node->area == AREA_IN)
		ingest_released(fs, node);
}

bool files_drop_node(struct fs *fs, struct tree_node *node)
{
	bool content = S_ISREG(node->mode) && node->n_open == 0;
	if (content)
		set_size(fs, node, 0);
	tree_drop_unused(&fs->tree, node);
	return content;
}

void files_release(struct fs *fs, struct handle *handle)
{
	struct tree_node *node = handle->node;
	int fd = -1;
	bool remove = false;
	pthread_mutex_lock(&fs->lock);
	uint64_t id = node->id;
	node->n_open--;
	node->n_writers -= handle->writer;
	bool sync = handle->wrote && node->parent;
	if (handle->writer && node->n_writers == 0)
		end_writing(fs, node, handle->wrote);
	if (node->n_open == 0) {
		fd = node->fd;
		node->fd = -1;
		if (!node->parent && fs->publication.node != id)
			remove = files_drop_node(fs, node);
	} else if (sync) {
		fd = dup(handle->fd);
	}
	pthread_mutex_unlock(&fs->lock);
	if (sync)
		sync_later(fs, fd);
	else if (fd >= 0)
		close(fd);
	if (remove)
		state_content_remove(&fs->state, id);
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
	if (!error && fallocate(handle->fd, mode, at, len) != 0)
		error = errno;
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
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	if (node)
		names_fill_stat(node, st);
	pthread_mutex_unlock(&fs->lock);
	return node ? 0 : ESTALE;
}

static int64_t to_ns(struct timespec t)
{
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* A truncate by name is a writer of its own, gone at once. */
static int set_file_size(struct fs *fs, struct tree_node *node, struct handle *handle, int64_t size)
{
	if (!S_ISREG(node->mode))
		return S_ISDIR(node->mode) ? EISDIR : EINVAL;
	if (node->area == AREA_OUT)
		return EACCES;
	if (is_gone(fs, node))
		return ESTALE; /* else the bytes would count for ever, and have no name */
	bool opened = node->fd < 0;
	int fd = opened ? state_content_open(&fs->state, node->id, O_RDWR | O_CREAT) : node->fd;
	if (fd < 0)
		return -fd;
	int error = truncate_node(fs, node, fd, size, handle);
	if (opened)
		close(fd);
	if (!error && handle)
		handle->wrote = true;
	if (!error && !handle && node->n_writers == 0) {
		node->flush_seen = true; /* none will come */
		end_writing(fs, node, true);
	}
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
		changed.atime_ns = to_ns(st->st_atim);
	if (what & FILES_MTIME)
		changed.mtime_ns = to_ns(st->st_mtim);
	changed.ctime_ns = what & FILES_CTIME ? to_ns(st->st_ctim) : fs_now_ns();
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
	return 0;
}

int files_setattr(struct fs *fs, uint64_t id, struct handle *handle, unsigned what, struct stat *st)
{
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	int error = node ? 0 : ESTALE;
	if (!error && id < TREE_FIRST_ID && what & (FILES_MODE | FILES_UID | FILES_GID))
		error = EPERM; /* the mount's options say these */
	if (!error && what & FILES_SIZE)
		error = set_file_size(fs, node, handle, st->st_size);
	if (!error && what != FILES_SIZE)
		error = set_attributes(fs, node, what, st);
	if (!error)
		names_fill_stat(node, st);
	pthread_mutex_unlock(&fs->lock);
	return error;
}
