/* sync.h - the thread that makes things durable: fsync in groups, the removal of contents, the journal written anew. */
#ifndef SYNC_H
#define SYNC_H

#include "fs.h"

bool sync_start(struct fs *fs, struct error *err);
/* Sync everything once more and end the thread. */
void sync_stop(struct fs *fs);

/* The journal has grown (fs_commit): sync it soon. */
void sync_changed(struct fs *fs);
/* A file was closed after writing: make its content durable soon. at_once: it has taken the place of another, whose content
 * goes: before the next sync of the journal. */
void sync_written(struct fs *fs, uint64_t id, bool at_once);
/* Remove the content once the journal that does not name it any more is durable. */
void sync_remove(struct fs *fs, uint64_t id);

/* fsync(2): call done(user, errno) from the sync thread when fd's content (borrowed until then; -1: none) and every
 * change journalled so far are durable. error: what is known already to be wrong, or 0. */
void sync_now(struct fs *fs, int fd, int error, void (*done)(void *user, int error), void *user);

/* The disk is full: where contents wait for their removal, wait for it. True: it may be worth another try. Without fs->lock. */
bool sync_free_space(struct fs *fs);

#endif
