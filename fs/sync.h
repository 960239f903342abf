/* sync.h - the thread that makes things durable: fsync in groups, compaction of the journal. */
#ifndef SYNC_H
#define SYNC_H

#include "fs.h"

bool sync_start(struct fs *fs, struct error *err);
/* Sync everything once more and end the thread. */
void sync_stop(struct fs *fs);

/* A file was closed after writing: make it durable soon. Takes fd (which may be -1: only the journal). */
void sync_later(struct fs *fs, int fd);

/* fsync(2): call done(user, errno) from the sync thread when fd's content (borrowed until then; -1: none) and every
 * change journalled so far are durable. */
void sync_now(struct fs *fs, int fd, void (*done)(void *user, int error), void *user);

#endif
