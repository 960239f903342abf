/* contents.h - what the journal says of the contents, held against the files that are there.
 *
 * The mount answers as soon as the journal is applied. Each content is looked at after that, by a thread that goes through all
 * of them and then sweeps, or before it when somebody asks for the file: nobody sees the size of a content that has not been
 * looked at. A content that is gone leaves its name: the file cannot be opened (EIO) until it is written anew. A result
 * of a picture that is there is made again. */
#ifndef CONTENTS_H
#define CONTENTS_H

#include "fs.h"

/* Before fs_begin: whether there is any content. */
bool contents_exist(const struct fs *fs);
/* In fs_begin, after damage or a torn end: contents that no name is known of get one in lost/. False: out of memory. */
bool contents_recover(struct fs *fs);

/* Look at the content of this node if it is unseen. Without fs->lock. */
void contents_look(struct fs *fs, uint64_t id);

/* Its content is gone, or is there again: counted, told in the log. Needs fs->lock. */
void contents_set_missing(struct fs *fs, struct tree_node *node, bool missing);

/* All of them, and then the sweep of those that never had a name; on a thread of its own. */
bool contents_start(struct fs *fs, struct error *err);
void contents_stop(struct fs *fs);
/* The same at once (tests, --check). */
void contents_look_all(struct fs *fs);

#endif
