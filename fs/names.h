/* names.h - the namespace operations of the mount: what may be made, moved and removed where, journalled before the
 * reply. No FUSE types: ops.c translates. Functions return 0 or an errno and take fs->lock themselves. Where they take
 * a caller, NULL is the daemon itself. */
#ifndef NAMES_H
#define NAMES_H

#include "files.h"
#include "fs.h"

/* Those that give a struct stat count one lookup of the node, to be undone by names_forget. */
int names_lookup(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, struct stat *st);
void names_forget(struct fs *fs, uint64_t id, uint64_t n);

int names_mkdir(
	struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode, struct stat *st);
int names_symlink(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, const char *target,
	struct stat *st);
/* An empty file; handle NULL: without opening it (mknod, which NFS servers use). */
int names_create(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint32_t mode,
	int flags, struct stat *st, struct handle **handle);
int names_unlink(struct fs *fs, uint64_t parent, const char *name);
int names_rmdir(struct fs *fs, uint64_t parent, const char *name);
int names_rename(struct fs *fs, const struct caller *caller, uint64_t parent, const char *name, uint64_t new_parent,
	const char *new_name, unsigned flags);

/* The target, malloc'd. */
int names_readlink(struct fs *fs, uint64_t id, char **target);

/* The child after `after` (an id; 0 starts), its name malloc'd. *found false: the end. plus: counts a lookup. */
int names_next(struct fs *fs, uint64_t dir, uint64_t after, bool plus, struct stat *st, char **name, bool *found);

/* Take a node out of the tree, with its job or result, once the journal has it (record_node_gone; record_folder of its folder, with
 * the same time). Needs fs->lock. */
void names_remove_node(struct fs *fs, struct tree_node *node, int64_t now_ns);

/* Attributes. Needs fs->lock. */
void names_fill_stat(const struct tree_node *node, struct stat *st);

#endif
