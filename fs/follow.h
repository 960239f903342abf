/* follow.h - results follow their pictures: at rest every in/X has its outcome at out/stem(X) (stem.h).
 *
 * A result is owed when its picture's content or name becomes current, and is paid once: what a user deletes or moves out of its
 * place is not made again here. When the stem of a picture becomes another one, its results are renamed with it (one MOVED_TO
 * each). Where another picture owns the old name by now they stay there as its older results, and are bound anew, without a
 * byte copied, at the new one. Those of another picture that are in the way leave first.
 *
 * Level, not edge: an input has a stem, and its path asks for one. Where they differ, whatever the reason was, the results move.
 * Nothing is persisted but the stem where they are, once they are there: what a crash interrupts is done after the start. */
#ifndef FOLLOW_H
#define FOLLOW_H

#include "fs.h"
#include "publish.h"

/* These need fs->lock. A file of in/ has another name or folder now. */
void follow_renamed(struct fs *fs, struct tree_node *node);
/* A folder of in/ has; folder 0: it is removed. old_path: what it was called. */
void follow_folder(struct fs *fs, uint64_t folder, const char *old_path);
/* A user has renamed a file of out/: it is the result of that picture whose place it is in, or nobody's. */
void follow_taken(struct fs *fs, const struct tree_node *node);
/* A folder of results is about to be called `to`, a path, and the stems of their pictures with it: to the change that says so, or,
 * change being NULL, now. */
void follow_carry_folder(struct fs *fs, const struct tree_node *folder, const char *to, struct bytes *change);
/* Whether the results of a picture that is done or has failed are on their way. */
bool follow_waits(const struct fs *fs, const struct input *input);
long follow_waiting(const struct fs *fs);

/* The rest belongs to the scheduler thread. After the start: all inputs are to be looked at. */
void follow_all(struct fs *fs);
/* Look at what was renamed, and move results, until then (CLOCK_MONOTONIC). True: there is more to do. */
bool follow_turn(struct fs *fs, struct publisher *publisher, int64_t until_ns);
/* Before an outcome of the input is published: what is in its way and belongs to another one leaves. */
void follow_make_way(struct fs *fs, struct publisher *publisher, uint64_t input_id);
/* After it was published under that stem: what is at an older one goes. */
void follow_published(struct fs *fs, struct publisher *publisher, uint64_t input_id, const char *stem);

#endif
