/* ingest.h - the thread that decides when a file is complete and makes it a job.
 *
 * Complete: no open writer, changed since the last job, not empty, a name that may be a picture, quiet, and the image
 * is all there. Quiet means 300 ms after the last writer's RELEASE; without any FLUSH (an NFS server, which opens,
 * writes and closes for every request) 2 s after the last WRITE. An image that is not whole is given 5 s of quiet, then
 * fails.
 *
 * While a worker is idle the 300 ms are not lost: a whole image is submitted early, when its writer has gone. What comes of
 * that job is held until the look at the end of settling finds the same picture with the same options; a writer that comes
 * before, or another finding, withdraws it, and nothing of it is ever seen. */
#ifndef INGEST_H
#define INGEST_H

#include "fs.h"

bool ingest_start(struct fs *fs, struct error *err);
void ingest_stop(struct fs *fs);

/* These need fs->lock and do nothing when no ingest runs. */
void ingest_released(struct fs *fs, struct tree_node *node); /* the last writer has gone */
void ingest_renamed(struct fs *fs, struct tree_node *node);  /* a rename is a commit: don't wait */
void ingest_removed(struct fs *fs, struct tree_node *node);  /* it has lost its name */
void ingest_submit(struct fs *fs, struct tree_node *node);   /* user.trellis.submit=1: now, whatever has been done */
/* Its job is not wanted any more: a queued one leaves the queue, a running one is cancelled. */
void ingest_withdraw(struct fs *fs, struct tree_node *node);
long ingest_waiting(const struct fs *fs); /* files that settle, or may have to, as nobody has looked yet */

#endif
