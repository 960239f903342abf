/* record.c - journal records. See record.h. A record: u8 type, u32 length, fields. */
#include "record.h"

#include "config.h"
#include "journal.h"

#include <limits.h>
#include <sys/stat.h>

enum record_type {
	RECORD_NODE = 1,
	RECORD_XATTRS,
	RECORD_NODE_GONE,
	RECORD_INPUT,
	RECORD_RESULT,
	RECORD_CONFIG,
	RECORD_NEXT_ID
};

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
	bytes_put_string(change, input->stem);
	bytes_put_string(change, input->error);
	/* Options matter until the job is done; as text, so that a later version can read them. */
	if (waiting || input->unpublished)
		config_render(&input->options, line, sizeof line);
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

static bool valid_name(const char *name)
{
	return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool place_node(struct tree *tree, struct tree_node *node, uint64_t parent_id, const char *name)
{
	struct tree_node *parent = tree_find(tree, parent_id);
	if (!parent || !S_ISDIR(parent->mode) || parent == node || tree_is_inside(parent, node) || !valid_name(name))
		return false;
	struct tree_node *there = tree_lookup(tree, parent, name);
	if (there && there != node)
		return false;
	return there == node || tree_link(tree, node, parent, name);
}

static bool apply_node(struct tree *tree, struct reader *r)
{
	uint64_t id = reader_u64(r), parent = reader_u64(r);
	uint32_t mode = reader_u32(r), uid = reader_u32(r), gid = reader_u32(r);
	int64_t atime = reader_u64(r), mtime = reader_u64(r), ctime = reader_u64(r);
	char *name = reader_string(r, TREE_NAME_MAX), *target = reader_string(r, PATH_MAX);
	bool fixed = id < TREE_FIRST_ID;
	struct tree_node *node = tree_find(tree, id);
	bool ok = !r->failed && (fixed ? node != NULL : S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode)) &&
		  (!node || (node->mode & S_IFMT) == (mode & S_IFMT));
	if (ok && !node && (node = tree_new(tree, id, mode, uid, gid, ctime)) && S_ISLNK(mode)) {
		node->target = target;
		node->size = strlen(target);
		target = NULL;
	}
	ok = ok && node && (fixed || place_node(tree, node, parent, name));
	if (ok && !fixed) { /* mode and owner of the fixed nodes come from the mount's options */
		node->mode = mode;
		node->uid = uid;
		node->gid = gid;
	}
	if (ok) {
		node->atime_ns = atime;
		node->mtime_ns = mtime;
		node->ctime_ns = ctime;
	}
	free(name);
	free(target);
	return ok;
}

static bool apply_xattrs(struct tree *tree, struct reader *r)
{
	uint32_t len;
	struct tree_node *node = tree_find(tree, reader_u64(r));
	const uint8_t *block = reader_block(r, &len);
	if (!node || !block || len > TREE_XATTR_MAX || !tree_xattrs_valid((const char *)block, len))
		return false;
	char *copy = len ? malloc(len) : NULL;
	if (len && !copy)
		return false;
	if (len)
		memcpy(copy, block, len);
	free(node->xattrs);
	node->xattrs = copy;
	node->xattrs_len = len;
	return true;
}

static bool apply_node_gone(const struct record_target *target, struct reader *r)
{
	struct tree_node *node = tree_find(target->tree, reader_u64(r));
	if (!node)
		return !r->failed;
	if (node->id < TREE_FIRST_ID || (S_ISDIR(node->mode) && node->n_children > 0))
		return false;
	jobs_forget(target->jobs, jobs_find(target->jobs, node->id));
	jobs_drop_result(target->jobs, node->id);
	if (node->parent)
		tree_unlink(target->tree, node);
	tree_drop_unused(target->tree, node);
	return true;
}

static bool apply_input(struct jobs *jobs, struct reader *r)
{
	struct input *input = jobs_input(jobs, reader_u64(r));
	if (!input)
		return false;
	uint64_t seq = reader_u64(r);
	const uint8_t *key = reader_take(r, sizeof input->key);
	if (key)
		memcpy(input->key, key, sizeof input->key);
	input->stamp_size = reader_u64(r);
	input->stamp_mtime_ns = reader_u64(r);
	input->uid = reader_u32(r);
	uint8_t state = reader_u8(r);
	input->deaths = reader_u8(r);
	bool unpublished = reader_u8(r) != 0;
	char *stem = reader_string(r, PATH_MAX), *text = reader_string(r, 1024),
	     *options = reader_string(r, CONFIG_TEXT_MAX);
	bool ok = !r->failed && state <= INPUT_FAILED && (!stem[0] || jobs_set_stem(jobs, input, stem)) &&
		  jobs_set_error(input, text[0] ? text : NULL);
	input->options = config_defaults();
	ok = ok && config_parse(&input->options, options, strlen(options), NULL);
	if (ok) {
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
	return ok;
}

static bool apply_result(struct jobs *jobs, struct reader *r)
{
	uint64_t id = reader_u64(r), source = reader_u64(r);
	const uint8_t *key = reader_take(r, JOBS_KEY_LEN);
	unsigned output = reader_u8(r);
	int64_t size = r->at < r->len ? reader_u64(r) : 0; /* a journal of before 0.1.0 does not tell */
	struct result *result =
		!r->failed && output <= JOB_OUTPUTS ? jobs_add_result(jobs, id, source, key, output) : NULL;
	if (result)
		result->size = size;
	return result != NULL;
}

static bool apply_config(struct job_options *config, struct reader *r)
{
	char *text = reader_string(r, CONFIG_TEXT_MAX);
	/* A key that this version doesn't know is no reason to lose the tree: then the defaults hold. */
	if (text)
		config_parse(config, text, strlen(text), NULL);
	free(text);
	return !r->failed;
}

static bool apply_one(const struct record_target *target, uint8_t type, struct reader *r)
{
	switch (type) {
	case RECORD_NODE:
		return apply_node(target->tree, r);
	case RECORD_XATTRS:
		return apply_xattrs(target->tree, r);
	case RECORD_NODE_GONE:
		return apply_node_gone(target, r);
	case RECORD_INPUT:
		return apply_input(target->jobs, r);
	case RECORD_RESULT:
		return apply_result(target->jobs, r);
	case RECORD_CONFIG:
		return apply_config(target->config, r);
	case RECORD_NEXT_ID: {
		uint64_t next = reader_u64(r);
		if (next > target->tree->next_id)
			target->tree->next_id = next;
		return !r->failed;
	}
	default:
		return false;
	}
}

bool record_apply(void *user, const uint8_t *change, size_t len)
{
	struct reader all = {.data = change, .len = len};
	while (all.at < all.len) {
		uint8_t type = reader_u8(&all);
		uint32_t size;
		const uint8_t *fields = reader_block(&all, &size);
		if (!fields)
			return false;
		struct reader one = {.data = fields, .len = size};
		if (!apply_one(user, type, &one) || one.failed)
			return false;
	}
	return true;
}

static void frame_and_clear(struct bytes *image, struct bytes *change)
{
	journal_frame(image, change);
	image->failed |= change->failed;
	change->len = 0;
}

/* The node after this one when parents come before their children; without recursion, as users make deep trees. */
static const struct tree_node *next_node(const struct tree_node *node)
{
	if (S_ISDIR(node->mode) && node->n_children > 0)
		return node->children[0];
	for (; node->parent; node = node->parent) {
		const struct tree_node *next = tree_next_child(node->parent, node->id);
		if (next)
			return next;
	}
	return NULL;
}

void record_all(struct bytes *image, const struct tree *tree, const struct jobs *jobs, const struct job_options *config)
{
	struct bytes change = {0};
	record_next_id(&change, tree->next_id);
	record_config(&change, config);
	frame_and_clear(image, &change);
	const struct tree_node *node = tree_find(tree, TREE_ROOT);
	while ((node = next_node(node))) {
		record_node(&change, node, node->parent->id, node->name);
		if (node->xattrs)
			record_xattrs(&change, node);
		const struct input *input = jobs_find(jobs, node->id);
		if (input)
			record_input(&change, input);
		const struct result *result = jobs_result(jobs, node->id);
		if (result)
			record_result(&change, result);
		frame_and_clear(image, &change);
	}
	bytes_finish(&change);
}
