/* xattrs.h - extended attributes: user.* are stored; user.trellis.* of an input are its options and its state.
 *   read and written   user.trellis.seed, steps, ... (config.h): options of the next job of this file
 *   written            user.trellis.submit = 1: make a job of it now
 *   read               user.trellis.state, progress, error, outputs; not listed, so that copying tools leave them alone
 * posix_acl and security.* are EOPNOTSUPP rather than stored and not enforced. Functions take fs->lock. */
#ifndef XATTRS_H
#define XATTRS_H

#include "fs.h"

/* 0 or an errno; value NULL removes. flags: XATTR_CREATE, XATTR_REPLACE. */
int xattrs_set(struct fs *fs, uint64_t id, const char *name, const void *value, size_t size, int flags);
/* The value or the list of names, malloc'd, and its size; or an errno. */
int xattrs_get(struct fs *fs, uint64_t id, const char *name, char **value, size_t *size);
int xattrs_list(struct fs *fs, uint64_t id, char **list, size_t *size);

/* The options that a job of this input gets: the configuration with the file's own over it. Needs fs->lock. */
struct job_options xattrs_effective_options(const struct fs *fs, const struct tree_node *node);

#endif
