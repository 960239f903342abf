/* ops.c - the FUSE operations: each translates a request, calls names.c, files.c, xattrs.c or special.c, and replies
 * exactly once. The only file, with mount.c, that knows FUSE.
 *
 * Nothing but requests changes what the kernel has cached, so names and attributes may be kept for long; only the
 * special files in the top folder change by themselves and are never kept. The writeback cache stays off: it would make
 * writes late and anonymous. */
#include "ops.h"

#include "names.h"
#include "special.h"
#include "sync.h"
#include "xattrs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const double KEEP_S = 60;

static struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct caller caller_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	return (struct caller){.uid = ctx->uid, .gid = ctx->gid, .pid = ctx->pid};
}

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

static struct special *special_of(const struct fuse_file_info *fi)
{
	return (struct special *)(uintptr_t)fi->fh;
}

static struct fuse_entry_param entry_of(const struct stat *st, bool once)
{
	double keep = once || special_is(st->st_ino) ? 0 : KEEP_S;
	return (struct fuse_entry_param){
		.ino = st->st_ino, .generation = 1, .attr = *st, .attr_timeout = keep, .entry_timeout = keep};
}

/* once: a name that will not be there the next time. */
static void reply_found(fuse_req_t req, int error, const struct stat *st, bool once)
{
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	struct fuse_entry_param entry = entry_of(st, once);
	if (fuse_reply_entry(req, &entry) != 0) /* interrupted: the kernel did not take the reference */
		names_forget(fs_of(req), st->st_ino, 1);
}

static void reply_entry(fuse_req_t req, int error, const struct stat *st)
{
	reply_found(req, error, st, false);
}

static void reply_attr(fuse_req_t req, int error, const struct stat *st)
{
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_attr(req, st, special_is(st->st_ino) ? 0 : KEEP_S);
}

/* The disk is full, but contents wait for their removal: once they are gone it may do. */
static bool try_again(fuse_req_t req, int error, bool *tried)
{
	if (error != ENOSPC || *tried)
		return false;
	*tried = true;
	return sync_free_space(fs_of(req));
}

static void op_init(void *user, struct fuse_conn_info *conn)
{
	struct fs *fs = user;
	conn->want |= conn->capable & (FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
					      FUSE_CAP_HANDLE_KILLPRIV);
#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
	(void)fs;
	conn->want |= conn->capable & FUSE_CAP_HANDLE_KILLPRIV_V2;
#else
	fs->greeting = true; /* mount.c says it */
#endif
	conn->want &= ~(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	conn->max_background = 64;
	conn->congestion_threshold = 48;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct stat st = {0};
	struct caller caller = caller_of(req);
	int error = names_lookup(fs_of(req), &caller, parent, name, &st);
	/* What is in the top folder and not fixed is the helper's token. */
	reply_found(req, error, &st, parent == TREE_ROOT && st.st_ino >= TREE_FIRST_ID);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	names_forget(fs_of(req), ino, n);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		names_forget(fs_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int error = special_is(ino) ? special_getattr(fs_of(req), ino, fi ? special_of(fi) : NULL, &st)
				    : files_getattr(fs_of(req), ino, &st);
	reply_attr(req, error, &st);
}

static unsigned what_to_set(int to_set, struct stat *st)
{
	static const struct {
		int fuse;
		unsigned ours;
	} bits[] = {{FUSE_SET_ATTR_MODE, FILES_MODE}, {FUSE_SET_ATTR_UID, FILES_UID}, {FUSE_SET_ATTR_GID, FILES_GID},
		{FUSE_SET_ATTR_SIZE, FILES_SIZE}, {FUSE_SET_ATTR_ATIME, FILES_ATIME},
		{FUSE_SET_ATTR_MTIME, FILES_MTIME}, {FUSE_SET_ATTR_CTIME, FILES_CTIME}};
	unsigned what = 0;
	for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
		if (to_set & bits[i].fuse)
			what |= bits[i].ours;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (to_set & FUSE_SET_ATTR_ATIME_NOW) {
		what |= FILES_ATIME;
		st->st_atim = now;
	}
	if (to_set & FUSE_SET_ATTR_MTIME_NOW) {
		what |= FILES_MTIME;
		st->st_mtim = now;
	}
	return what;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct stat st = *attr;
	unsigned what = what_to_set(to_set, &st);
	int error = 0;
	if (special_is(ino) && what & FILES_SIZE) {
		error = special_truncate(fs_of(req), fi ? special_of(fi) : NULL, st.st_size);
		what &= ~FILES_SIZE;
	}
	struct handle *handle = fi && !special_is(ino) ? handle_of(fi) : NULL;
	const struct stat wanted = st;
	bool tried = error != 0;
	if (!error)
		do
			error = files_setattr(fs_of(req), ino, handle, what, memcpy(&st, &wanted, sizeof st));
		while (try_again(req, error, &tried));
	reply_attr(req, error, &st);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char *target;
	int error = names_readlink(fs_of(req), ino, &target);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fuse_reply_readlink(req, target);
	free(target);
}

/* Devices, pipes and sockets are refused; a regular file comes this way from an NFS server. */
static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
	struct stat st;
	struct caller caller = caller_of(req);
	(void)device;
	bool tried = false;
	int error;
	do
		error = !S_ISREG(mode) ? EPERM
				       : names_create(fs_of(req), &caller, parent, name, mode, O_EXCL, &st, NULL);
	while (try_again(req, error, &tried));
	reply_entry(req, error, &st);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct stat st;
	struct caller caller = caller_of(req);
	bool tried = false;
	int error;
	do
		error = names_mkdir(fs_of(req), &caller, parent, name, mode, &st);
	while (try_again(req, error, &tried));
	reply_entry(req, error, &st);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct stat st;
	struct caller caller = caller_of(req);
	bool tried = false;
	int error;
	do
		error = names_symlink(fs_of(req), &caller, parent, name, target, &st);
	while (try_again(req, error, &tried));
	reply_entry(req, error, &st);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, names_unlink(fs_of(req), parent, name));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, names_rmdir(fs_of(req), parent, name));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
	unsigned flags)
{
	struct caller caller = caller_of(req);
	bool tried = false;
	int error;
	do
		error = names_rename(fs_of(req), &caller, parent, name, new_parent, new_name, flags);
	while (try_again(req, error, &tried));
	fuse_reply_err(req, error);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	(void)ino;
	(void)parent;
	(void)name;
	fuse_reply_err(req, EPERM);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct stat st;
	struct handle *handle;
	struct caller caller = caller_of(req);
	bool tried = false;
	int error;
	do
		error = names_create(fs_of(req), &caller, parent, name, mode, fi->flags, &st, &handle);
	while (try_again(req, error, &tried));
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	struct fuse_entry_param entry = entry_of(&st, false);
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_create(req, &entry, fi) != 0) {
		files_release(fs_of(req), handle);
		names_forget(fs_of(req), st.st_ino, 1);
	}
}

static void open_special(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct special *file;
	int error = special_open(fs_of(req), ino, fi->flags, &file);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fi->direct_io = 1;
	fi->fh = (uintptr_t)file;
	if (fuse_reply_open(req, fi) != 0)
		special_release(fs_of(req), file);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *handle;
	if (special_is(ino)) {
		open_special(req, ino, fi);
		return;
	}
	int error = files_open(fs_of(req), ino, fi->flags, &handle);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	fi->fh = (uintptr_t)handle;
	fi->keep_cache = 1; /* contents change through this mount only */
	if (fuse_reply_open(req, fi) != 0)
		files_release(fs_of(req), handle);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at, struct fuse_file_info *fi)
{
	char *buffer = malloc(size);
	ssize_t n = !buffer	      ? -ENOMEM
		    : special_is(ino) ? (ssize_t)special_read(fs_of(req), special_of(fi), buffer, size, at)
				      : files_read(handle_of(fi), buffer, size, at);
	if (n < 0)
		fuse_reply_err(req, -n);
	else
		fuse_reply_buf(req, buffer, n);
	free(buffer);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t at, struct fuse_file_info *fi)
{
	bool tried = false;
	ssize_t n;
	do
		n = special_is(ino) ? special_write(fs_of(req), special_of(fi), data, size, at)
				    : files_write(fs_of(req), handle_of(fi), data, size, at);
	while (try_again(req, n < 0 ? -n : 0, &tried));
	if (n < 0)
		fuse_reply_err(req, -n);
	else
		fuse_reply_write(req, n);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int error = 0;
	if (special_is(ino))
		error = special_flush(fs_of(req), special_of(fi));
	else
		files_flush(fs_of(req), handle_of(fi));
	fuse_reply_err(req, error);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (special_is(ino))
		special_release(fs_of(req), special_of(fi));
	else
		files_release(fs_of(req), handle_of(fi));
	fuse_reply_err(req, 0);
}

static void reply_synced(void *user, int error)
{
	fuse_reply_err((fuse_req_t)user, error);
}

/* The reply comes from the sync thread. */
static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	(void)data_only;
	int error = special_is(ino) ? 0 : files_synced(fs_of(req), handle_of(fi));
	sync_now(fs_of(req), special_is(ino) ? -1 : handle_of(fi)->fd, error, reply_synced, req);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	(void)ino;
	(void)data_only;
	(void)fi;
	sync_now(fs_of(req), -1, 0, reply_synced, req);
}

static int parent_id(struct fs *fs, uint64_t ino, ino_t *parent)
{
	struct stat st;
	int error = names_lookup(fs, NULL, ino, "..", &st);
	if (error)
		return error;
	names_forget(fs, st.st_ino, 1);
	*parent = st.st_ino;
	return 0;
}

/* "." and ".." have the cookies 1 and 2, a child its id + 2: stable over changes and restarts, as NFS wants it. */
static void read_folder(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie, bool plus)
{
	struct fs *fs = fs_of(req);
	char *buffer = malloc(size), *name = NULL;
	size_t used = 0;
	int error = buffer ? 0 : ENOMEM;
	bool found = true;
	while (!error && found) {
		struct stat st = {.st_ino = ino, .st_mode = S_IFDIR};
		if (cookie == 1)
			error = parent_id(fs, ino, &st.st_ino);
		if (cookie < 2)
			name = error ? NULL : strdup(cookie ? ".." : ".");
		else
			error = names_next(fs, ino, cookie - 2, plus, &st, &name, &found);
		if (error || !found)
			break;
		off_t next = cookie < 2 ? cookie + 1 : (off_t)st.st_ino + 2;
		struct fuse_entry_param entry = entry_of(&st, false);
		if (cookie < 2)
			entry.ino = 0; /* not looked up */
		size_t need = plus ? fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, next)
				   : fuse_add_direntry(req, buffer + used, size - used, name, &st, next);
		free(name);
		if (need > size - used) {
			if (plus && cookie >= 2)
				names_forget(fs, st.st_ino, 1);
			break;
		}
		used += need;
		cookie = next;
	}
	if (error && used == 0)
		fuse_reply_err(req, error);
	else
		fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie, struct fuse_file_info *fi)
{
	(void)fi;
	read_folder(req, ino, size, cookie, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie, struct fuse_file_info *fi)
{
	(void)fi;
	read_folder(req, ino, size, cookie, true);
}

/* max_bytes is the size then; what of it is free can be had only where the disk has it. */
static void show_limit(struct fs *fs, struct statvfs *st)
{
	pthread_mutex_lock(&fs->lock);
	int64_t max = fs->options->max_bytes, left = max - fs_used(fs);
	uint64_t names = fs->tree.n_nodes;
	pthread_mutex_unlock(&fs->lock);
	uint64_t left_blocks = left > 0 ? (uint64_t)left / st->f_frsize : 0;
	st->f_blocks = ((uint64_t)max + st->f_frsize - 1) / st->f_frsize;
	st->f_bfree = st->f_bfree < left_blocks ? st->f_bfree : left_blocks;
	st->f_bavail = st->f_bavail < st->f_bfree ? st->f_bavail : st->f_bfree;
	st->f_ffree = left > 0 ? (uint64_t)left / FS_NAME_BYTES : 0;
	st->f_favail = st->f_ffree;
	st->f_files = names + st->f_ffree;
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	(void)ino;
	if (fstatvfs(fs_of(req)->state.dir_fd, &st) != 0) {
		fuse_reply_err(req, errno);
		return;
	}
	if (fs_of(req)->options->max_bytes > 0)
		show_limit(fs_of(req), &st);
	st.f_namemax = TREE_NAME_MAX;
	fuse_reply_statfs(req, &st);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	bool tried = false;
	int error;
	do
		error = xattrs_set(fs_of(req), ino, name, value ? value : "", size, flags);
	while (try_again(req, error, &tried));
	fuse_reply_err(req, error);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	fuse_reply_err(req, xattrs_set(fs_of(req), ino, name, NULL, 0, 0));
}

/* size 0 asks for the length. Takes data. */
static void reply_xattr(fuse_req_t req, int error, char *data, size_t len, size_t size)
{
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, data, len);
	free(data);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char *value = NULL;
	size_t len = 0;
	int error = xattrs_get(fs_of(req), ino, name, &value, &len);
	reply_xattr(req, error, value, len, size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char *list = NULL;
	size_t len = 0;
	int error = xattrs_list(fs_of(req), ino, &list, &len);
	reply_xattr(req, error, list, len, size);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t at, off_t len, struct fuse_file_info *fi)
{
	bool tried = false;
	int error;
	do
		error = special_is(ino) ? EOPNOTSUPP : files_allocate(fs_of(req), handle_of(fi), mode, at, len);
	while (try_again(req, error, &tried));
	fuse_reply_err(req, error);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t at, int whence, struct fuse_file_info *fi)
{
	off_t found = special_is(ino) ? -EINVAL : files_seek(handle_of(fi), at, whence);
	if (found < 0)
		fuse_reply_err(req, -found);
	else
		fuse_reply_lseek(req, found);
}

void ops_notify_poll(void *waiter)
{
	fuse_lowlevel_notify_poll(waiter);
}

void ops_drop_poll(void *waiter)
{
	fuse_pollhandle_destroy(waiter);
}

/* Always readable; POLLPRI once the file says something new, as in /proc/mounts. */
static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *waiter)
{
	bool changed = false;
	if (special_is(ino))
		special_poll(fs_of(req), special_of(fi), waiter, &changed);
	else if (waiter)
		fuse_pollhandle_destroy(waiter);
	fuse_reply_poll(req, POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | (changed ? POLLPRI | POLLERR : 0));
}

const struct fuse_lowlevel_ops trellisfs_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.link = op_link,
	.create = op_create,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.fsyncdir = op_fsyncdir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.poll = op_poll,
};
