/* record.c - journal records. See record.h. A record: u8 type, u32 length, fields; a type with its highest bit set may be
 * skipped by a version that does not know it. New fields go to the end: a reader that finds none takes what holds without. */
#include "record.h"

#include "config.h"

#include <limits.h>
#include <sys/stat.h>

enum record_type {
	RECORD_NODE = 1,
	RECORD_XATTRS,
	RECORD_NODE_GONE,
	RECORD_INPUT,
	RECORD_RESULT,
	RECORD_CONFIG,
	RECORD_NEXT_ID,
	RECORD_FOLDER = 0x80 | 8, /* without it a folder's times are older */
};
enum { MAY_SKIP = 0x80 };

/* Write the head; returns where the length goes once it is known. */
static size_t begin(struct bytes *change, enum record_type type)
{
	bytes_put_u8(change, type);
	bytes_put_u32(change, 0);
	return change->len;
}

static void end(struct bytes *change, size_t start)
{
	if (change->failed)
		return;
	uint32_t len = change->len - start;
	uint8_t le[4] = {len, len >> 8, len >> 16, len >> 24};
	memcpy(change->data + start - 4, le, sizeof le);
}

void record_node(struct bytes *change, const struct tree_node *node, uint64_t parent, const char *name)
{
	size_t start = begin(change, RECORD_NODE);
	bytes_put_u64(change, node->id);
	bytes_put_u64(change, parent);
	bytes_put_u32(change, node->mode);
	bytes_put_u32(change, node->uid);
	bytes_put_u32(change, node->gid);
	bytes_put_u64(change, node->atime_ns);
	bytes_put_u64(change, node->mtime_ns);
	bytes_put_u64(change, node->ctime_ns);
	bytes_put_string(change, name);
	bytes_put_string(change, S_ISLNK(node->mode) ? node->target : NULL);
	bytes_put_u64(change, !S_ISREG(node->mode) ? 0 : node->unsized ? -1 : node->size);
	bytes_put_u64(change, S_ISREG(node->mode) ? node->content_ns : 0);
	end(change, start);
}

void record_xattrs(struct bytes *change, const struct tree_node *node)
{
	size_t start = begin(change, RECORD_XATTRS);
	bytes_put_u64(change, node->id);
	bytes_put_block(change, node->xattrs, node->xattrs_len);
	end(change, start);
}

void record_node_gone(struct bytes *change, uint64_t id)
{
	size_t start = begin(change, RECORD_NODE_GONE);
	bytes_put_u64(change, id);
	end(change, start);
}

void record_input(struct bytes *change, const struct input *input)
{
	char line[CONFIG_TEXT_MAX];
	size_t start = begin(change, RECORD_INPUT);
	bool waiting = input->state == INPUT_QUEUED || input->state == INPUT_RUNNING;
	bytes_put_u64(change, input->id);
	bytes_put_u64(change, input->seq);
	bytes_put(change, input->key, sizeof input->key);
	bytes_put_u64(change, input->stamp_size);
	bytes_put_u64(change, input->stamp_mtime_ns);
	bytes_put_u32(change, input->uid);
	bytes_put_u8(change, input->state);
	bytes_put_u8(change, input->deaths);
	bytes_put_u8(change, input->unpublished);
	bytes_put_string(change, input->old_stem ? input->old_stem : input->stem);
	bytes_put_string(change, input->error);
	/* Options matter until the job is done; as text, so that a later version can read them. */
	if (waiting || input->unpublished)
		config_line(&input->options, "\n", line, sizeof line);
	else
		line[0] = '\0';
	bytes_put_string(change, line);
	end(change, start);
}

void record_result(struct bytes *change, const struct result *result)
{
	size_t start = begin(change, RECORD_RESULT);
	bytes_put_u64(change, result->id);
	bytes_put_u64(change, result->source);
	bytes_put(change, result->key, sizeof result->key);
	bytes_put_u8(change, result->output);
	bytes_put_u64(change, result->size);
	end(change, start);
}

void record_config(struct bytes *change, const struct job_options *config)
{
	char text[CONFIG_TEXT_MAX];
	size_t start = begin(change, RECORD_CONFIG);
	config_render(config, text, sizeof text);
	bytes_put_string(change, text);
	end(change, start);
}

void record_next_id(struct bytes *change, uint64_t next_id)
{
	size_t start = begin(change, RECORD_NEXT_ID);
	bytes_put_u64(change, next_id);
	end(change, start);
}

void record_folder(struct bytes *change, uint64_t id, int64_t now_ns)
{
	size_t start = begin(change, RECORD_FOLDER);
	bytes_put_u64(change, id);
	bytes_put_u64(change, now_ns);
	end(change, start);
}

void record_lost_name(char name[TREE_NAME_MAX + 1], uint64_t id, const char *was)
{
	int len = snprintf(name, TREE_NAME_MAX + 1, "%016llx%s%s", (unsigned long long)id, was[0] ? "-" : "", was);
	if (len > TREE_NAME_MAX) /* cut no UTF-8 character */
		for (len = TREE_NAME_MAX; ((unsigned char)was[len - 17] & 0xc0) == 0x80; len--)
			name[len - 1] = '\0';
}

static bool valid_name(const char *name)
{
	return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Names are short, and a name in lost/ has the id in it: never taken. */
static bool put_in_lost(struct tree *tree, struct tree_node *node, const char *was)
{
	char name[TREE_NAME_MAX + 1];
	struct tree_node *lost = tree_lost(tree);
	record_lost_name(name, node->id, was);
	return lost && (tree_lookup(tree, lost, name) == node || tree_link(tree, node, lost, name));
}

/* The folder of an unknown id, in the place of its owner's: that of the first of its children. */
static struct tree_node *make_lost_folder(struct tree *tree, uint64_t id, const struct tree_node *child)
{
	struct tree_node *dir = id < TREE_FIRST_ID || id >= TREE_ID_MAX
					? NULL
					: tree_new(tree, id, S_IFDIR | 0700, child->uid, child->gid, child->ctime_ns);
	if (dir && put_in_lost(tree, dir, ""))
		return dir;
	if (dir)
		tree_drop_unused(tree, dir);
	return NULL;
}

/* Give the node its name there, or as near as what is known allows. */
static enum change_fate place_node(struct tree *tree, struct tree_node *node, uint64_t parent_id, const char *name)
{
	struct tree_node *parent = parent_id == TREE_LOST ? tree_lost(tree) : tree_find(tree, parent_id);
	enum change_fate fate = CHANGE_APPLIED;
	if (!parent) {
		fate = CHANGE_CONTRADICTS;
		parent = make_lost_folder(tree, parent_id, node);
	}
	if (!parent || !S_ISDIR(parent->mode) || tree_is_inside(parent, node) || !valid_name(name)) {
		if (!node->parent && !put_in_lost(tree, node, valid_name(name) ? name : ""))
			return CHANGE_NO_MEMORY;
		return CHANGE_CONTRADICTS;
	}
	struct tree_node *there = tree_lookup(tree, parent, name);
	if (there == node)
		return fate;
	if (there) {
		if (there->id < TREE_FIRST_ID) /* a name of the top folder */
			return node->parent || put_in_lost(tree, node, name) ? CHANGE_CONTRADICTS : CHANGE_NO_MEMORY;
		fate = CHANGE_CONTRADICTS;
		if (!put_in_lost(tree, there, name))
			return CHANGE_NO_MEMORY;
	}
	return tree_link(tree, node, parent, name) ? fate : CHANGE_NO_MEMORY;
}

static struct tree_node *make_node(struct tree *tree, uint64_t id, uint32_t mode, int64_t ctime, char **target)
{
	struct tree_node *node = tree_new(tree, id, mode, 0, 0, ctime);
	if (node && S_ISLNK(mode)) {
		tree_set_target(tree, node, *target);
		*target = NULL;
	}
	return node;
}

/* A larger one is not added up with others, but asked of its content. */
#define SIZE_BELIEVED (INT64_C(1) << 44)

static enum change_fate apply_node(struct tree *tree, struct reader *r)
{
	uint64_t id = reader_u64(r), parent = reader_u64(r);
	uint32_t mode = reader_u32(r), uid = reader_u32(r), gid = reader_u32(r);
	int64_t atime = reader_u64(r), mtime = reader_u64(r), ctime = reader_u64(r);
	char *name = reader_string(r, TREE_NAME_MAX), *target = reader_string(r, PATH_MAX);
	bool sized = r->at < r->len; /* format 1 does not tell */
	int64_t size = sized ? (int64_t)reader_u64(r) : -1, content_ns = sized ? (int64_t)reader_u64(r) : 0;
	bool fixed = id < TREE_FIRST_ID;
	enum change_fate fate = CHANGE_APPLIED;
	struct tree_node *node = id == TREE_LOST ? tree_lost(tree) : tree_find(tree, id);
	bool ok = !r->failed && id < TREE_ID_MAX &&
		  (fixed ? node != NULL : S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode)) &&
		  (!node || (node->mode & S_IFMT) == (mode & S_IFMT));
	if (!ok)
		fate = CHANGE_CONTRADICTS;
	else if (!node && !(node = make_node(tree, id, mode, ctime, &target)))
		fate = CHANGE_NO_MEMORY;
	if (fate == CHANGE_APPLIED && !fixed) { /* mode and owner of the fixed nodes come from the mount's options */
		node->mode = mode;
		node->uid = uid;
		node->gid = gid;
		fate = place_node(tree, node, parent, name);
	}
	if (ok && fate != CHANGE_NO_MEMORY) {
		node->atime_ns = atime;
		node->mtime_ns = mtime;
		node->ctime_ns = ctime;
	}
	if (ok && fate != CHANGE_NO_MEMORY && S_ISREG(mode) && !fixed) {
		node->unsized = size < 0 || size > SIZE_BELIEVED;
		node->size = node->unsized ? 0 : size;
		node->content_ns = content_ns;
	}
	free(name);
	free(target);
	return fate;
}

static enum change_fate apply_xattrs(struct tree *tree, struct reader *r)
{
	uint32_t len;
	struct tree_node *node = tree_find(tree, reader_u64(r));
	const uint8_t *block = reader_block(r, &len);
	if (!node || !block || len > TREE_XATTR_MAX || !tree_xattrs_valid((const char *)block, len))
		return CHANGE_CONTRADICTS;
	char *copy = len ? malloc(len) : NULL;
	if (len && !copy)
		return CHANGE_NO_MEMORY;
	if (len)
		memcpy(copy, block, len);
	tree_xattr_replace(tree, node, copy, len);
	return CHANGE_APPLIED;
}

/* Of a folder that still has something in it the removal of that is not known: it loses its name, and what is in it keeps the
 * folder. */
static enum change_fate apply_node_gone(const struct record_target *target, struct reader *r)
{
	struct tree_node *node = tree_find(target->tree, reader_u64(r));
	if (r->failed || (node && node->id < TREE_FIRST_ID))
		return CHANGE_CONTRADICTS;
	if (!node)
		return CHANGE_APPLIED;
	if (S_ISDIR(node->mode) && node->n_children > 0)
		return put_in_lost(target->tree, node, "") ? CHANGE_CONTRADICTS : CHANGE_NO_MEMORY;
	jobs_forget(target->jobs, jobs_find(target->jobs, node->id));
	jobs_drop_result(target->jobs, node->id);
	if (node->parent)
		tree_unlink(target->tree, node);
	tree_drop_unused(target->tree, node);
	return CHANGE_APPLIED;
}

static enum change_fate apply_folder(struct tree *tree, struct reader *r)
{
	struct tree_node *node = tree_find(tree, reader_u64(r));
	int64_t now = reader_u64(r);
	if (!node || r->failed)
		return CHANGE_CONTRADICTS;
	node->mtime_ns = node->ctime_ns = now;
	return CHANGE_APPLIED;
}

static enum change_fate apply_input(const struct record_target *target, struct reader *r)
{
	struct jobs *jobs = target->jobs;
	uint64_t id = reader_u64(r), seq = reader_u64(r);
	const uint8_t *key = reader_take(r, JOBS_KEY_LEN);
	int64_t stamp_size = reader_u64(r), stamp_mtime_ns = reader_u64(r);
	uint32_t uid = reader_u32(r);
	uint8_t state = reader_u8(r), deaths = reader_u8(r);
	bool unpublished = reader_u8(r) != 0;
	char *stem = reader_string(r, PATH_MAX), *text = reader_string(r, 1024),
	     *options = reader_string(r, CONFIG_TEXT_MAX);
	struct job_options parsed = config_defaults();
	bool ok = !r->failed && state <= INPUT_FAILED && tree_find(target->tree, id);
	enum change_fate fate = ok ? CHANGE_APPLIED : CHANGE_CONTRADICTS;
	if (ok)
		config_parse(&parsed, options, strlen(options), NULL); /* a key that is not known: the defaults hold */
	struct input *input = fate == CHANGE_APPLIED ? jobs_input(jobs, id) : NULL;
	if (fate == CHANGE_APPLIED && (!input || (stem[0] && !jobs_set_stem(jobs, input, stem)) ||
					      !jobs_set_error(input, text[0] ? text : NULL)))
		fate = CHANGE_NO_MEMORY;
	if (fate == CHANGE_APPLIED) {
		memcpy(input->key, key, sizeof input->key);
		input->stamp_size = stamp_size;
		input->stamp_mtime_ns = stamp_mtime_ns;
		input->uid = uid;
		input->deaths = deaths;
		input->options = parsed;
		jobs_set_state(jobs, input, INPUT_IDLE, false); /* out of its list before seq changes */
		input->seq = seq;
		if (seq >= jobs->next_seq)
			jobs->next_seq = seq + 1;
		/* What ran when the daemon ended runs again; that is nobody's fault. */
		jobs_set_state(jobs, input, state == INPUT_RUNNING ? INPUT_QUEUED : state, unpublished);
	}
	free(stem);
	free(text);
	free(options);
	return fate;
}

static enum change_fate apply_result(const struct record_target *target, struct reader *r)
{
	uint64_t id = reader_u64(r), source = reader_u64(r);
	const uint8_t *key = reader_take(r, JOBS_KEY_LEN);
	unsigned output = reader_u8(r);
	int64_t size = r->at < r->len ? reader_u64(r) : 0; /* a journal of before 0.1.0 does not tell */
	if (r->failed || output > JOB_OUTPUTS || !tree_find(target->tree, id))
		return CHANGE_CONTRADICTS;
	struct result *result = jobs_add_result(target->jobs, id, source, key, output);
	if (!result)
		return CHANGE_NO_MEMORY;
	result->size = size;
	return CHANGE_APPLIED;
}

static enum change_fate apply_config(struct job_options *config, struct reader *r)
{
	char *text = reader_string(r, CONFIG_TEXT_MAX);
	/* A key that this version doesn't know is no reason to lose the tree: then the defaults hold. */
	if (text)
		config_parse(config, text, strlen(text), NULL);
	free(text);
	return r->failed ? CHANGE_CONTRADICTS : CHANGE_APPLIED;
}

static enum change_fate apply_next_id(struct tree *tree, struct reader *r)
{
	uint64_t next = reader_u64(r);
	if (r->failed || next < TREE_FIRST_ID || next >= TREE_ID_MAX)
		return CHANGE_CONTRADICTS;
	tree->next_id = next; /* lower than before at the end of a session, which gave away fewer than it might have */
	return CHANGE_APPLIED;
}

static enum change_fate apply_one(const struct record_target *target, uint8_t type, struct reader *r)
{
	switch (type) {
	case RECORD_NODE:
		return apply_node(target->tree, r);
	case RECORD_XATTRS:
		return apply_xattrs(target->tree, r);
	case RECORD_NODE_GONE:
		return apply_node_gone(target, r);
	case RECORD_INPUT:
		return apply_input(target, r);
	case RECORD_RESULT:
		return apply_result(target, r);
	case RECORD_CONFIG:
		return apply_config(target->config, r);
	case RECORD_NEXT_ID:
		return apply_next_id(target->tree, r);
	case RECORD_FOLDER:
		return apply_folder(target->tree, r);
	default:
		return type & MAY_SKIP ? CHANGE_APPLIED : CHANGE_UNKNOWN;
	}
}

enum change_fate record_apply(void *user, const uint8_t *change, size_t len)
{
	struct reader all = {.data = change, .len = len};
	enum change_fate fate = CHANGE_APPLIED;
	while (all.at < all.len) {
		uint8_t type = reader_u8(&all);
		uint32_t size;
		const uint8_t *fields = reader_block(&all, &size);
		if (!fields)
			return CHANGE_CONTRADICTS;
		struct reader one = {.data = fields, .len = size};
		enum change_fate its = apply_one(user, type, &one);
		if (its == CHANGE_UNKNOWN || its == CHANGE_NO_MEMORY)
			return its;
		fate = its == CHANGE_APPLIED ? fate : its;
	}
	return fate;
}

int64_t record_live_bytes(const struct tree *tree, const struct jobs *jobs)
{
	enum { NODE = 112, INPUT = 150, RESULT = 52 };
	return (int64_t)tree->text_bytes + NODE * tree->n_nodes + INPUT * jobs->n_inputs + RESULT * jobs->n_results;
}

static void record_facts(const struct record_source *source, const struct tree_node *node)
{
	const struct input *input = jobs_find(source->jobs, node->id);
	const struct result *result = jobs_result(source->jobs, node->id);
	source->change->len = 0;
	record_node(source->change, node, node->parent->id, node->name);
	if (node->xattrs)
		record_xattrs(source->change, node);
	if (input)
		record_input(source->change, input);
	if (result)
		record_result(source->change, result);
}

bool record_each(const void *facts, journal_take_fn take, void *to)
{
	const struct record_source *source = facts;
	source->change->len = 0;
	record_next_id(source->change, source->id_limit);
	record_config(source->change, source->config);
	bool ok = take(to, source->change);
	const struct tree_node *root = tree_find(source->tree, TREE_ROOT), *node = root;
	while (ok && (node = tree_next_below(node, root))) {
		if (node->id == TREE_LOST && node->n_children == 0)
			continue; /* it is there only when something is in it */
		record_facts(source, node);
		ok = take(to, source->change);
	}
	return ok;
}

void record_all(struct bytes *image, const struct tree *tree, const struct jobs *jobs, const struct job_options *config,
	uint64_t id_limit)
{
	struct bytes change = {0};
	struct record_source source = {tree, jobs, config, id_limit, &change};
	record_each(&source, journal_image_add, image);
	bytes_finish(&change);
}
