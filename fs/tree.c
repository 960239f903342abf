/* tree.c - the nodes of the mount: two hash tables, and the children of each folder in order. See tree.h. */
#include "tree.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct tree_node *of_id(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct tree_node, by_id) : NULL;
}

static struct tree_node *of_name(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct tree_node, by_name) : NULL;
}

static size_t hash_by_id(const struct table_link *link)
{
	return table_hash_id(of_id(link)->id);
}

static size_t hash_by_name(const struct table_link *link)
{
	const struct tree_node *node = of_name(link);
	return table_hash_text(node->parent->id, node->name);
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
	*tree = (struct tree){.next_id = TREE_FIRST_ID};
	if (!table_init(&tree->by_id, hash_by_id) || !table_init(&tree->by_name, hash_by_name)) {
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
	if (S_ISDIR(node->mode)) {
		for (uint32_t i = 0; i < node->n_chunks; i++)
			free(node->chunks[i]);
		free(node->chunks);
	} else if (S_ISLNK(node->mode)) {
		free(node->target);
	}
	free(node->name);
	free(node->xattrs);
	free(node);
}

void tree_finish(struct tree *tree)
{
	for (struct tree_node *node = tree_each(tree, NULL), *next; node; node = next) {
		next = tree_each(tree, node);
		free_node(node);
	}
	table_finish(&tree->by_id);
	table_finish(&tree->by_name);
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
	struct tree_node *node = of_id(table_chain(&tree->by_id, table_hash_id(id)));
	while (node && node->id != id)
		node = of_id(node->by_id.next);
	return node;
}

struct tree_node *tree_lookup(const struct tree *tree, const struct tree_node *parent, const char *name)
{
	struct tree_node *node = of_name(table_chain(&tree->by_name, table_hash_text(parent->id, name)));
	while (node && (node->parent != parent || strcmp(node->name, name) != 0))
		node = of_name(node->by_name.next);
	return node;
}

struct tree_node *tree_each(const struct tree *tree, const struct tree_node *node)
{
	return of_id(table_next(&tree->by_id, node ? &node->by_id : NULL));
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
	table_add(&tree->by_id, &node->by_id);
	tree->n_nodes++;
	return node;
}

/* ---- Children: by ascending id, as a readdir cookie is an id, in chunks that are short enough to move, none of them empty. ---- */

enum { CHUNK_MAX = 256 };

struct tree_chunk {
	uint32_t n, cap;
	struct tree_node *nodes[];
};

/* Of the chunk in which an id is or belongs. */
static uint32_t chunk_index(const struct tree_node *dir, uint64_t id)
{
	uint32_t low = 0, high = dir->n_chunks;
	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (dir->chunks[middle]->nodes[0]->id <= id)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Of the first child in the chunk with an id above `after`. */
static uint32_t child_index(const struct tree_chunk *chunk, uint64_t after)
{
	uint32_t low = 0, high = chunk->n;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (chunk->nodes[middle]->id <= after)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct tree_chunk *resize_chunk(struct tree_chunk *chunk, uint32_t cap)
{
	struct tree_chunk *resized = realloc(chunk, sizeof *chunk + cap * sizeof *chunk->nodes);
	if (!resized)
		return NULL;
	resized->n = chunk ? resized->n : 0;
	resized->cap = cap;
	return resized;
}

/* A new chunk there. There is room for as many as the next power of two. */
static struct tree_chunk *insert_chunk(struct tree_node *dir, uint32_t at, uint32_t cap)
{
	struct tree_chunk *chunk = resize_chunk(NULL, cap);
	if (chunk && (dir->n_chunks & (dir->n_chunks - 1)) == 0) {
		size_t room = dir->n_chunks ? 2 * (size_t)dir->n_chunks : 1;
		struct tree_chunk **chunks = realloc(dir->chunks, room * sizeof *chunks);
		if (!chunks) {
			free(chunk);
			return NULL;
		}
		dir->chunks = chunks;
	}
	if (!chunk)
		return NULL;
	memmove(dir->chunks + at + 1, dir->chunks + at, (dir->n_chunks - at) * sizeof *dir->chunks);
	dir->chunks[at] = chunk;
	dir->n_chunks++;
	return chunk;
}

/* The chunk that takes a child of this id, with room for it; it may be empty until then. NULL: out of memory. */
static struct tree_chunk *make_room(struct tree_node *dir, uint64_t id)
{
	if (dir->n_chunks == 0)
		return insert_chunk(dir, 0, 4);
	uint32_t at = chunk_index(dir, id);
	struct tree_chunk *chunk = dir->chunks[at];
	if (chunk->n < chunk->cap)
		return chunk;
	if (chunk->cap < CHUNK_MAX) {
		chunk = resize_chunk(chunk, 2 * chunk->cap);
		dir->chunks[at] = chunk ? chunk : dir->chunks[at];
		return chunk;
	}
	if (at == dir->n_chunks - 1 && chunk->nodes[chunk->n - 1]->id < id) /* new ids come last: full chunks */
		return insert_chunk(dir, at + 1, CHUNK_MAX);
	struct tree_chunk *upper = insert_chunk(dir, at + 1, CHUNK_MAX);
	if (!upper)
		return NULL;
	upper->n = CHUNK_MAX / 2;
	chunk->n -= upper->n;
	memcpy(upper->nodes, chunk->nodes + chunk->n, upper->n * sizeof *upper->nodes);
	return upper->nodes[0]->id < id ? upper : chunk;
}

static void add_child(struct tree_node *dir, struct tree_chunk *chunk, struct tree_node *node)
{
	uint32_t at = child_index(chunk, node->id);
	memmove(chunk->nodes + at + 1, chunk->nodes + at, (chunk->n - at) * sizeof *chunk->nodes);
	chunk->nodes[at] = node;
	chunk->n++;
	dir->n_children++;
}

static void remove_chunk(struct tree_node *dir, uint32_t at)
{
	free(dir->chunks[at]);
	dir->n_chunks--;
	memmove(dir->chunks + at, dir->chunks + at + 1, (dir->n_chunks - at) * sizeof *dir->chunks);
}

static void remove_child(struct tree_node *dir, struct tree_node *node)
{
	uint32_t index = chunk_index(dir, node->id);
	struct tree_chunk *chunk = dir->chunks[index],
			  *next = index + 1 < dir->n_chunks ? dir->chunks[index + 1] : NULL;
	uint32_t at = child_index(chunk, node->id - 1);
	assert(at < chunk->n && chunk->nodes[at] == node);
	dir->n_children--;
	chunk->n--;
	memmove(chunk->nodes + at, chunk->nodes + at + 1, (chunk->n - at) * sizeof *chunk->nodes);
	if (chunk->n == 0) {
		remove_chunk(dir, index);
	} else if (next && chunk->n + next->n <= CHUNK_MAX / 2 && chunk->n + next->n <= chunk->cap) {
		memcpy(chunk->nodes + chunk->n, next->nodes, next->n * sizeof *next->nodes);
		chunk->n += next->n;
		remove_chunk(dir, index + 1);
	}
}

struct tree_node *tree_next_child(const struct tree_node *dir, uint64_t after)
{
	if (dir->n_chunks == 0)
		return NULL;
	uint32_t index = chunk_index(dir, after);
	const struct tree_chunk *chunk = dir->chunks[index];
	uint32_t at = child_index(chunk, after);
	if (at < chunk->n)
		return chunk->nodes[at];
	return index + 1 < dir->n_chunks ? dir->chunks[index + 1]->nodes[0] : NULL;
}

const struct tree_node *tree_next_below(const struct tree_node *node, const struct tree_node *top)
{
	if (S_ISDIR(node->mode) && node->n_children > 0)
		return tree_next_child(node, 0);
	for (; node != top; node = node->parent) {
		const struct tree_node *next = tree_next_child(node->parent, node->id);
		if (next)
			return next;
	}
	return NULL;
}

/* ---- Names. ---- */

static void take_name(struct tree *tree, struct tree_node *node)
{
	table_remove(&tree->by_name, &node->by_name);
	tree->text_bytes -= strlen(node->name);
	free(node->name);
	node->name = NULL;
}

bool tree_link(struct tree *tree, struct tree_node *node, struct tree_node *parent, const char *name)
{
	struct tree_node *old = node->parent;
	char *copy = strdup(name);
	struct tree_chunk *room = copy && parent != old ? make_room(parent, node->id) : NULL;
	if (!copy || (parent != old && !room)) {
		free(copy);
		return false;
	}
	if (old)
		take_name(tree, node);
	if (parent != old) {
		if (old)
			remove_child(old, node);
		add_child(parent, room, node);
	}
	node->parent = parent;
	node->name = copy;
	tree->text_bytes += strlen(copy);
	node->area = parent->area;
	table_add(&tree->by_name, &node->by_name);
	return true;
}

void tree_unlink(struct tree *tree, struct tree_node *node)
{
	assert(node->parent && (!S_ISDIR(node->mode) || node->n_children == 0));
	take_name(tree, node);
	remove_child(node->parent, node);
	node->parent = NULL;
}

bool tree_drop_unused(struct tree *tree, struct tree_node *node)
{
	if (node->parent || node->id == TREE_ROOT || node->lookups > 0 || (S_ISREG(node->mode) && node->n_open > 0))
		return false;
	table_remove(&tree->by_id, &node->by_id);
	tree->n_nodes--;
	tree->text_bytes -= node->xattrs_len + target_len(node);
	free_node(node);
	return true;
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
