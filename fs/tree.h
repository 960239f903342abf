/* tree.h - every file, folder and symlink of the mount, in memory, found by id or by (folder, name).
 * No FUSE types, no locks, no disk: the caller holds fs->lock (fs.h) and journals what it changes (record.h).
 *
 * Ids are 64 bits and never reused, so they serve as inode numbers and in NFS handles. A node without a name (unlinked,
 * or a result that is not published yet) lives until nobody refers to it: no lookup by the kernel, no open file. */
#ifndef TREE_H
#define TREE_H

#include "table.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The fixed nodes. Those of users start at TREE_FIRST_ID. */
enum {
	TREE_ROOT = 1,
	TREE_IN,
	TREE_OUT,
	TREE_STATUS,
	TREE_STATUS_JSON,
	TREE_CONFIG,
	TREE_README,
	TREE_LOST, /* what has no place after damage; there only when something is in it */
	TREE_FIRST_ID = 64
};

/* No id reaches it; from a journal or a file's name it is none. A readdir cookie is an id and a bit more, in 63 bits. */
#define TREE_ID_MAX (UINT64_C(1) << 62)

/* Which of the top folders a node is under; fixed after the start, because nothing is renamed between them. */
enum tree_area { AREA_TOP, AREA_IN, AREA_OUT, AREA_LOST };

enum { TREE_NAME_MAX = 255, TREE_XATTR_MAX = 65536 };

struct tree_chunk; /* of a folder's children: tree.c */

/* Nearly all memory goes into these: the order of the fields leaves no gaps. */
struct tree_node {
	uint64_t id;
	struct tree_node *parent; /* NULL: the root, or no name */
	char *name;		  /* NULL with parent NULL */
	struct table_link by_id, by_name;
	union {
		struct { /* folders */
			struct tree_chunk **chunks;
			uint32_t n_chunks, n_children;
		};
		char *target;		    /* symlinks */
		struct {		    /* files */
			int fd;		    /* content, open while n_open > 0, else -1 */
			uint32_t n_open;    /* handles */
			uint32_t n_writers; /* handles that may write */
			uint32_t version;   /* counts the changes of the content */
		};
	};
	int64_t size;
	int64_t atime_ns, mtime_ns, ctime_ns; /* CLOCK_REALTIME */
	int64_t content_ns;		      /* mtime of the content's file when the journal last told of the node */
	int64_t write_ns, release_ns;	      /* CLOCK_MONOTONIC of the last write and of the last writer's release */
	int64_t due_ns;			      /* CLOCK_MONOTONIC: when ingest looks at it; 0: not waiting */
	uint32_t mode, uid, gid;
	uint32_t xattrs_len;
	char *xattrs;	       /* packed, see tree_xattr_get; NULL: none */
	uint64_t lookups : 45; /* what the kernel will FORGET */
	uint8_t area : 2;      /* enum tree_area */
	bool unseen : 1;       /* its content has not been looked at since the start (contents.h) */
	bool unsized : 1;      /* and the journal does not know its size */
	bool missing : 1;      /* its content is gone */
	bool busy : 1;	       /* somebody is at its content without the lock (files.c) */
	bool dirty : 1;	       /* written since the last job was made of it */
	bool asked : 1;	       /* a job of it was asked for, whatever results there are */
	bool flush_seen : 1;   /* what wrote last has sent a FLUSH: not an NFS server */
	bool synced : 1;       /* an FSYNC came after the last write */
	bool served : 1;       /* and through a handle that wrote nothing: an NFS server's */
	uint8_t sync_error;    /* errno of a sync of the content that nobody has been told of */
};

struct tree {
	struct table by_id, by_name;
	size_t n_nodes;
	size_t text_bytes; /* of names, targets and extended attributes */
	uint64_t next_id;
};

/* An empty tree with the fixed nodes, owned by uid and gid; out/ is sticky and world-writable when shared. */
bool tree_init(struct tree *tree, uint32_t uid, uint32_t gid, bool shared, int64_t now_ns);
void tree_finish(struct tree *tree);

/* The folder lost/, made where it is not there. NULL: out of memory. */
struct tree_node *tree_lost(struct tree *tree);

struct tree_node *tree_find(const struct tree *tree, uint64_t id);
struct tree_node *tree_lookup(const struct tree *tree, const struct tree_node *parent, const char *name);
/* All nodes, in no order: the one after `node`, of which NULL gives the first. */
struct tree_node *tree_each(const struct tree *tree, const struct tree_node *node);

/* A node without a name yet; id 0 takes the next one. NULL: out of memory, or the id exists. */
struct tree_node *tree_new(struct tree *tree, uint64_t id, uint32_t mode, uint32_t uid, uint32_t gid, int64_t now_ns);
/* Of a new symlink; takes target, which is malloc'd. */
void tree_set_target(struct tree *tree, struct tree_node *node, char *target);
/* Give a nameless node its name, or move a node; the name must be free. False: out of memory, nothing changed. */
bool tree_link(struct tree *tree, struct tree_node *node, struct tree_node *parent, const char *name);
/* Take the name away. The node stays until tree_drop_unused. A folder must be empty. */
void tree_unlink(struct tree *tree, struct tree_node *node);
/* Free the node if it has no name, no lookups and no open handle: true when it is gone. */
bool tree_drop_unused(struct tree *tree, struct tree_node *node);

/* First child with an id above `after`, or NULL. */
struct tree_node *tree_next_child(const struct tree_node *dir, uint64_t after);
/* The node after this one in the tree below top, parents before their children; NULL: no more. Start with top. */
const struct tree_node *tree_next_below(const struct tree_node *node, const struct tree_node *top);
bool tree_is_inside(const struct tree_node *node, const struct tree_node *dir); /* or is it */
uint32_t tree_links(const struct tree_node *node);
/* "d/a.png" below in/ or out/. False: longer than size, or without a name. */
bool tree_path(const struct tree_node *node, char *path, size_t size);
/* The node at a path below dir, or NULL; symlinks are not followed. */
struct tree_node *tree_resolve(const struct tree *tree, struct tree_node *dir, const char *path);

/* Extended attributes, packed as { u16 name length, u32 value length, name, value } one after another. */
const char *tree_xattr_get(const struct tree_node *node, const char *name, uint32_t *len); /* borrowed; NULL: none */
/* The block as it will be with that value; NULL removes. 0, or ENOSPC (over TREE_XATTR_MAX), ENOMEM. */
int tree_xattr_make(const struct tree_node *node, const char *name, const void *value, uint32_t len, char **block,
	uint32_t *block_len);
/* Takes block, which is malloc'd or NULL. */
void tree_xattr_replace(struct tree *tree, struct tree_node *node, char *block, uint32_t len);
/* Walk: *at starts at 0; false at the end. */
bool tree_xattr_next(const struct tree_node *node, uint32_t *at, const char **name, uint16_t *name_len,
	const char **value, uint32_t *value_len);
/* Check a packed block that came from disk. */
bool tree_xattrs_valid(const char *block, size_t len);

#endif
