/* files.h - contents and attributes of files and folders: open, read, write, truncate, chmod, utimens.
 * No FUSE types. Functions return 0 or an errno (or where said -errno) and take fs->lock themselves. */
#ifndef FILES_H
#define FILES_H

#include "fs.h"

/* An open file. The node outlives it; fd is borrowed from the node. */
struct handle {
	struct tree_node *node;
	int fd;
	bool writer;  /* may write */
	bool wrote;   /* did; fs->lock */
	bool flushed; /* a FLUSH came; fs->lock */
};

/* handle is malloc'd; files_release frees it. */
int files_open(struct fs *fs, uint64_t id, int flags, struct handle **handle);
void files_release(struct fs *fs, struct handle *handle);
void files_flush(struct fs *fs, struct handle *handle);
/* An FSYNC was asked for. An errno, told once: of a sync that has failed since the last one. */
int files_synced(struct fs *fs, struct handle *handle);

ssize_t files_read(struct handle *handle, void *buffer, size_t size, off_t at);			    /* or -errno */
ssize_t files_write(struct fs *fs, struct handle *handle, const void *data, size_t size, off_t at); /* or -errno */
int files_allocate(struct fs *fs, struct handle *handle, int mode, off_t at, off_t len);
off_t files_seek(struct handle *handle, off_t at, int whence); /* SEEK_DATA and SEEK_HOLE; or -errno */

int files_getattr(struct fs *fs, uint64_t id, struct stat *st);

/* Bits of what to change; the values are in a struct stat. */
enum {
	FILES_MODE = 1,
	FILES_UID = 2,
	FILES_GID = 4,
	FILES_SIZE = 8,
	FILES_ATIME = 16,
	FILES_MTIME = 32,
	FILES_CTIME = 64,
};
/* handle NULL: by name. st: new values in, all attributes out. */
int files_setattr(struct fs *fs, uint64_t id, struct handle *handle, unsigned what, struct stat *st);

/* The parts that names.c shares; fs->lock is held. Opening may give it up meanwhile: the node stays, but not what else the caller
 * has looked up. fd: of its content that was just made, taken on success; or -1. */
int files_open_node(struct fs *fs, struct tree_node *node, int flags, int fd, struct handle **handle);
/* After the node lost its name: its content goes now, or with the last release. */
void files_drop_node(struct fs *fs, struct tree_node *node);

#endif
