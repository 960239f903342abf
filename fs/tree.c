/* tree.c - the nodes of the mount: two hash tables and sorted child lists. See tree.h. */
#include "tree.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static size_t hash_id(uint64_t id)
{
	return (size_t)((id * 0x9e3779b97f4a7c15u) >> 20);
}

/* FNV-1a over the name, started from the folder's id. */
static size_t hash_name(uint64_t parent, const char *name)
{
	uint64_t h = 0xcbf29ce484222325u ^ parent * 0x9e3779b97f4a7c15u;
	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001b3u;
	return (size_t)(h ^ h >> 29);
}

static struct tree_node **id_bucket(const struct tree *tree, uint64_t id)
{
	return &tree->by_id[hash_id(id) & (tree->n_buckets - 1)];
}

static struct tree_node **name_bucket(const struct tree *tree, uint64_t parent, const char *name)
{
	return &tree->by_name[hash_name(parent, name) & (tree->n_buckets - 1)];
}

static void insert_id(struct tree *tree, struct tree_node *node)
{
	struct tree_node **bucket = id_bucket(tree, node->id);
	node->next_id = *bucket;
	*bucket = node;
}

static void insert_name(struct tree *tree, struct tree_node *node)
{
	struct tree_node **bucket = name_bucket(tree, node->parent->id, node->name);
	node->next_name = *bucket;
	*bucket = node;
}

static void remove_name(struct tree *tree, struct tree_node *node)
{
	struct tree_node **at = name_bucket(tree, node->parent->id, node->name);
	while (*at != node)
		at = &(*at)->next_name;
	*at = node->next_name;
}

/* Double the tables when they are full. Without memory they only get slower. */
static void grow(struct tree *tree)
{
	if (tree->n_nodes < tree->n_buckets)
		return;
	size_t old_n = tree->n_buckets;
	struct tree_node **old = tree->by_id;
	struct tree_node **by_id = calloc(2 * old_n, sizeof *by_id), **by_name = calloc(2 * old_n, sizeof *by_name);
	if (!by_id || !by_name) {
		free(by_id);
		free(by_name);
		return;
	}
	free(tree->by_name);
	tree->by_id = by_id;
	tree->by_name = by_name;
	tree->n_buckets = 2 * old_n;
	for (size_t i = 0; i < old_n; i++) {
		for (struct tree_node *node = old[i], *next; node; node = next) {
			next = node->next_id;
			insert_id(tree, node);
			if (node->parent)
				insert_name(tree, node);
		}
	}
	free(old);
}

static struct tree_node *add_fixed(struct tree *tree, uint64_t id, const char *name, uint32_t mode,
	const struct tree_node *like, enum tree_area area)
{
	struct tree_node *node = tree_new(tree, id, mode, like->uid, like->gid, like->ctime_ns);
	if (!node)
		return NULL;
	if (!tree_link(tree, node, tree_find(tree, TREE_ROOT), name))
		return NULL;
	node->area = area;
	return node;
}

bool tree_init(struct tree *tree, uint32_t uid, uint32_t gid, bool shared, int64_t now_ns)
{
	*tree = (struct tree){.n_buckets = 1024, .next_id = TREE_FIRST_ID};
	tree->by_id = calloc(tree->n_buckets, sizeof *tree->by_id);
	tree->by_name = calloc(tree->n_buckets, sizeof *tree->by_name);
	if (!tree->by_id || !tree->by_name) {
		tree_finish(tree);
		return false;
	}
	uint32_t folder = S_IFDIR | (shared ? 01777 : 0755);
	struct tree_node *root = tree_new(tree, TREE_ROOT, S_IFDIR | 0755, uid, gid, now_ns);
	bool ok = root && add_fixed(tree, TREE_IN, "in", folder, root, AREA_IN) &&
		  add_fixed(tree, TREE_OUT, "out", folder, root, AREA_OUT) &&
		  add_fixed(tree, TREE_STATUS, "status", S_IFREG | 0444, root, AREA_TOP) &&
		  add_fixed(tree, TREE_STATUS_JSON, "status.json", S_IFREG | 0444, root, AREA_TOP) &&
		  add_fixed(tree, TREE_CONFIG, "config", S_IFREG | 0644, root, AREA_TOP) &&
		  add_fixed(tree, TREE_README, "README", S_IFREG | 0444, root, AREA_TOP);
	if (!ok)
		tree_finish(tree);
	return ok;
}

/* Bytes of a symlink's target. */
static size_t target_len(const struct tree_node *node)
{
	return S_ISLNK(node->mode) && node->target ? strlen(node->target) : 0;
}

static void free_node(struct tree_node *node)
{
	if (S_ISDIR(node->mode))
		free(node->children);
	else if (S_ISLNK(node->mode))
		free(node->target);
	free(node->name);
	free(node->xattrs);
	free(node);
}

void tree_finish(struct tree *tree)
{
	for (size_t i = 0; tree->by_id && i < tree->n_buckets; i++) {
		for (struct tree_node *node = tree->by_id[i], *next; node; node = next) {
			next = node->next_id;
			free_node(node);
		}
	}
	free(tree->by_id);
	free(tree->by_name);
	*tree = (struct tree){0};
}

struct tree_node *tree_lost(struct tree *tree)
{
	struct tree_node *lost = tree_find(tree, TREE_LOST);
	return lost ? lost : add_fixed(tree, TREE_LOST, "lost", S_IFDIR | 0755, tree_find(tree, TREE_ROOT), AREA_LOST);
}

void tree_set_target(struct tree *tree, struct tree_node *node, char *target)
{
	node->target = target;
	node->size = strlen(target);
	tree->text_bytes += node->size;
}

struct tree_node *tree_find(const struct tree *tree, uint64_t id)
{
	struct tree_node *node = *id_bucket(tree, id);
	while (node && node->id != id)
		node = node->next_id;
	return node;
}

struct tree_node *tree_lookup(const struct tree *tree, const struct tree_node *parent, const char *name)
{
	struct tree_node *node = *name_bucket(tree, parent->id, name);
	while (node && (node->parent != parent || strcmp(node->name, name) != 0))
		node = node->next_name;
	return node;
}

struct tree_node *tree_new(struct tree *tree, uint64_t id, uint32_t mode, uint32_t uid, uint32_t gid, int64_t now_ns)
{
	if (id && tree_find(tree, id))
		return NULL;
	struct tree_node *node = calloc(1, sizeof *node);
	if (!node)
		return NULL;
	node->id = id ? id : tree->next_id++;
	if (node->id >= tree->next_id)
		tree->next_id = node->id + 1;
	node->mode = mode;
	node->uid = uid;
	node->gid = gid;
	node->atime_ns = node->mtime_ns = node->ctime_ns = now_ns;
	if (S_ISREG(mode))
		node->fd = -1;
	grow(tree);
	insert_id(tree, node);
	tree->n_nodes++;
	return node;
}

/* Index of the first child with an id above `after`. */
static uint32_t child_index(const struct tree_node *dir, uint64_t after)
{
	uint32_t low = 0, high = dir->n_children;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (dir->children[middle]->id <= after)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool reserve_child(struct tree_node *dir)
{
	if (dir->n_children < dir->cap_children)
		return true;
	uint32_t cap = dir->cap_children ? 2 * dir->cap_children : 4;
	struct tree_node **children = realloc(dir->children, cap * sizeof *children);
	if (!children)
		return false;
	dir->children = children;
	dir->cap_children = cap;
	return true;
}

static void add_child(struct tree_node *dir, struct tree_node *node)
{
	uint32_t at = child_index(dir, node->id);
	memmove(dir->children + at + 1, dir->children + at, (dir->n_children - at) * sizeof *dir->children);
	dir->children[at] = node;
	dir->n_children++;
}

static void remove_child(struct tree_node *dir, struct tree_node *node)
{
	uint32_t at = child_index(dir, node->id - 1);
	assert(at < dir->n_children && dir->children[at] == node);
	dir->n_children--;
	memmove(dir->children + at, dir->children + at + 1, (dir->n_children - at) * sizeof *dir->children);
}

static void take_name(struct tree *tree, struct tree_node *node)
{
	remove_name(tree, node);
	remove_child(node->parent, node);
	tree->text_bytes -= strlen(node->name);
	free(node->name);
	node->name = NULL;
	node->parent = NULL;
}

bool tree_link(struct tree *tree, struct tree_node *node, struct tree_node *parent, const char *name)
{
	char *copy = strdup(name);
	if (!copy || !reserve_child(parent)) {
		free(copy);
		return false;
	}
	if (node->parent)
		take_name(tree, node);
	node->parent = parent;
	node->name = copy;
	tree->text_bytes += strlen(copy);
	node->area = parent->area;
	insert_name(tree, node);
	add_child(parent, node);
	return true;
}

void tree_unlink(struct tree *tree, struct tree_node *node)
{
	assert(node->parent && (!S_ISDIR(node->mode) || node->n_children == 0));
	take_name(tree, node);
}

bool tree_drop_unused(struct tree *tree, struct tree_node *node)
{
	if (node->parent || node->id == TREE_ROOT || node->lookups > 0 || (S_ISREG(node->mode) && node->n_open > 0))
		return false;
	struct tree_node **at = id_bucket(tree, node->id);
	while (*at != node)
		at = &(*at)->next_id;
	*at = node->next_id;
	tree->n_nodes--;
	tree->text_bytes -= node->xattrs_len + target_len(node);
	free_node(node);
	return true;
}

struct tree_node *tree_next_child(const struct tree_node *dir, uint64_t after)
{
	uint32_t at = child_index(dir, after);
	return at < dir->n_children ? dir->children[at] : NULL;
}

bool tree_is_inside(const struct tree_node *node, const struct tree_node *dir)
{
	while (node && node != dir)
		node = node->parent;
	return node != NULL;
}

/* Folders are 1 as on btrfs: their subfolders are not counted, and tools that see a 2 would conclude there are none. */
uint32_t tree_links(const struct tree_node *node)
{
	return node->parent || node->id == TREE_ROOT;
}

bool tree_path(const struct tree_node *node, char *path, size_t size)
{
	size_t at = size;
	for (; node && node->parent && node->parent->id != TREE_ROOT; node = node->parent) {
		size_t len = strlen(node->name) + 1; /* with its '/', or the final NUL */
		if (len > at)
			return false;
		at -= len;
		memcpy(path + at, node->name, len);
		path[at + len - 1] = at + len == size ? '\0' : '/';
	}
	if (!node || at == size)
		return false;
	memmove(path, path + at, size - at);
	return true;
}

struct tree_node *tree_resolve(const struct tree *tree, struct tree_node *dir, const char *path)
{
	char name[TREE_NAME_MAX + 1];
	while (dir && *path) {
		size_t len = strcspn(path, "/");
		if (len > TREE_NAME_MAX || !S_ISDIR(dir->mode))
			return NULL;
		memcpy(name, path, len);
		name[len] = '\0';
		dir = tree_lookup(tree, dir, name);
		path += len + (path[len] == '/');
	}
	return dir;
}

enum { XATTR_HEAD = 6 };

bool tree_xattr_next(const struct tree_node *node, uint32_t *at, const char **name, uint16_t *name_len,
	const char **value, uint32_t *value_len)
{
	if (*at >= node->xattrs_len)
		return false;
	const char *p = node->xattrs + *at;
	memcpy(name_len, p, 2);
	memcpy(value_len, p + 2, 4);
	*name = p + XATTR_HEAD;
	*value = *name + *name_len;
	*at += XATTR_HEAD + *name_len + *value_len;
	return true;
}

bool tree_xattrs_valid(const char *block, size_t len)
{
	size_t at = 0;
	while (at < len) {
		uint16_t name_len;
		uint32_t value_len;
		if (len - at < XATTR_HEAD)
			return false;
		memcpy(&name_len, block + at, 2);
		memcpy(&value_len, block + at + 2, 4);
		if (name_len == 0 || name_len > TREE_NAME_MAX || value_len > TREE_XATTR_MAX ||
			len - at - XATTR_HEAD < (size_t)name_len + value_len)
			return false;
		at += XATTR_HEAD + name_len + value_len;
	}
	return true;
}

/* Offset and length of the entry of that name; false: none. */
static bool xattr_entry(const struct tree_node *node, const char *wanted, uint32_t *start, uint32_t *len)
{
	const char *name, *value;
	uint16_t name_len;
	uint32_t value_len, at = 0;
	for (*start = 0; tree_xattr_next(node, &at, &name, &name_len, &value, &value_len); *start = at) {
		*len = at - *start;
		if (strlen(wanted) == name_len && memcmp(wanted, name, name_len) == 0)
			return true;
	}
	return false;
}

const char *tree_xattr_get(const struct tree_node *node, const char *name, uint32_t *len)
{
	uint32_t start, entry;
	if (!xattr_entry(node, name, &start, &entry))
		return NULL;
	size_t head = XATTR_HEAD + strlen(name);
	*len = entry - head;
	return node->xattrs + start + head;
}

int tree_xattr_make(const struct tree_node *node, const char *name, const void *value, uint32_t len, char **block,
	uint32_t *block_len)
{
	uint32_t start = 0, old = 0;
	uint16_t name_len = strlen(name);
	uint32_t added = value ? XATTR_HEAD + name_len + len : 0;
	if (!xattr_entry(node, name, &start, &old))
		start = old = 0;
	if ((size_t)node->xattrs_len - old + added > TREE_XATTR_MAX)
		return ENOSPC;
	*block_len = node->xattrs_len - old + added;
	*block = NULL;
	if (*block_len == 0)
		return 0;
	char *p = malloc(*block_len);
	if (!p)
		return ENOMEM;
	*block = p;
	if (node->xattrs) {
		memcpy(p, node->xattrs, start);
		p += start;
		memcpy(p, node->xattrs + start + old, node->xattrs_len - start - old);
		p += node->xattrs_len - start - old;
	}
	if (value) {
		memcpy(p, &name_len, 2);
		memcpy(p + 2, &len, 4);
		memcpy(p + XATTR_HEAD, name, name_len);
		memcpy(p + XATTR_HEAD + name_len, value, len);
	}
	return 0;
}

void tree_xattr_replace(struct tree *tree, struct tree_node *node, char *block, uint32_t len)
{
	tree->text_bytes += (size_t)len - node->xattrs_len;
	free(node->xattrs);
	node->xattrs = block;
	node->xattrs_len = len;
}
