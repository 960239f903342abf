/* special.h - the files in the mount's top folder: status, status.json, config, README.
 *
 * status and status.json: a snapshot an open handle, at most 50 ms old when it is opened; st_size is that of the snapshot, to
 * the byte. Who watches is woken at once, and at most once a second. config: the text is gathered in the handle and takes effect
 * as a whole at FLUSH, or is refused with EINVAL, at the write that completes a bad line if it is written in order, and a line in
 * status. No FUSE types; functions return 0 or an errno and take fs->lock themselves. */
#ifndef SPECIAL_H
#define SPECIAL_H

#include "fs.h"

struct special;

/* notify wakes and drop frees what special_poll was given. */
bool special_start(struct fs *fs, void (*notify)(void *waiter), void (*drop)(void *waiter), struct error *err);
/* Wake nobody any more: the mount is going. */
void special_silence(struct fs *fs);
void special_stop(struct fs *fs);

static inline bool special_is(uint64_t id)
{
	return id >= TREE_STATUS && id <= TREE_README;
}

int special_open(struct fs *fs, uint64_t id, int flags, struct special **out);
void special_release(struct fs *fs, struct special *file);
size_t special_read(struct fs *fs, struct special *file, void *data, size_t size, off_t at); /* how many bytes */
ssize_t special_write(struct fs *fs, struct special *file, const void *data, size_t size, off_t at); /* or -errno */
int special_truncate(struct fs *fs, struct special *file, off_t size); /* file NULL: by name */
int special_flush(struct fs *fs, struct special *file);
int special_getattr(struct fs *fs, uint64_t id, const struct special *file, struct stat *st);

/* Takes waiter (may be NULL). *changed: the file says something else by now than what was opened. */
void special_poll(struct fs *fs, struct special *file, void *waiter, bool *changed);
/* The state changed: wake those who poll. From the scheduler thread, without fs->lock. */
void special_wake(struct fs *fs);

#endif
