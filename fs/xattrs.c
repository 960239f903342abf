/* xattrs.c - extended attributes. See xattrs.h. */
#include "xattrs.h"

#include "config.h"
#include "contents.h"
#include "follow.h"
#include "ingest.h"
#include "record.h"
#include "scheduler.h"
#include "status_text.h"
#include "stem.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static const char PREFIX[] = "user.trellis.";
static const char *const READ_ONLY[] = {"state", "progress", "error", "outputs"};

/* "seed" of "user.trellis.seed" on an input, else NULL. */
static const char *own_key(const struct tree_node *node, const char *name)
{
	if (node->area != AREA_IN || !S_ISREG(node->mode) || strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
		return NULL;
	return name + sizeof PREFIX - 1;
}

static bool is_read_only(const char *key)
{
	for (size_t i = 0; i < sizeof READ_ONLY / sizeof *READ_ONLY; i++)
		if (strcmp(key, READ_ONLY[i]) == 0)
			return true;
	return false;
}

struct job_options xattrs_effective_options(const struct fs *fs, const struct tree_node *node)
{
	struct job_options options = fs->config;
	char name[64];
	const char *key;
	for (int i = 0; (key = config_key(i)); i++) {
		uint32_t len;
		snprintf(name, sizeof name, "%s%s", PREFIX, key);
		const char *value = tree_xattr_get(node, name, &len);
		if (value)
			config_set(&options, key, value, len, NULL);
	}
	return options;
}

/* user.trellis.*: *stored says whether the value is to be kept as well. */
static int set_own(struct fs *fs, struct tree_node *node, const char *key, const void *value, size_t size, bool *stored)
{
	*stored = false;
	if (is_read_only(key))
		return EPERM;
	if (strcmp(key, "submit") == 0) {
		if (!value || size == 0 || ((const char *)value)[0] != '1')
			return EINVAL;
		ingest_submit(fs, node);
		return 0;
	}
	struct job_options scratch = config_defaults();
	*stored = true;
	if (!config_has_key(key) || (value && !config_set(&scratch, key, value, size, NULL)))
		return EINVAL;
	return 0;
}

static int store(struct fs *fs, struct tree_node *node, const char *name, const void *value, size_t size, int flags)
{
	uint32_t old_len;
	bool exists = tree_xattr_get(node, name, &old_len) != NULL;
	if (!exists && (!value || flags & XATTR_REPLACE))
		return ENODATA;
	if (exists && value && flags & XATTR_CREATE)
		return EEXIST;
	struct tree_node changed = *node;
	int error = tree_xattr_make(node, name, value, size, &changed.xattrs, &changed.xattrs_len);
	if (error)
		return error;
	if (changed.xattrs_len > node->xattrs_len && fs_over_quota(fs, changed.xattrs_len - node->xattrs_len, 0))
		error = EDQUOT;
	if (!error && node->parent) {
		record_xattrs(fs_change(fs), &changed);
		error = fs_commit(fs, false);
	}
	if (error) {
		free(changed.xattrs);
		return error;
	}
	tree_xattr_replace(&fs->tree, node, changed.xattrs, changed.xattrs_len);
	node->ctime_ns = fs_now_ns();
	return 0;
}

int xattrs_set(struct fs *fs, uint64_t id, const char *name, const void *value, size_t size, int flags)
{
	if (strncmp(name, "user.", 5) != 0 || !name[5])
		return EOPNOTSUPP;
	if (strlen(name) > TREE_NAME_MAX)
		return ERANGE;
	if (size > TREE_XATTR_MAX)
		return E2BIG;
	bool stored = true;
	pthread_mutex_lock(&fs->lock);
	struct tree_node *node = tree_find(&fs->tree, id);
	const char *key = node ? own_key(node, name) : NULL;
	int error = !node ? ESTALE : id < TREE_FIRST_ID ? EPERM : 0;
	if (!error && key)
		error = set_own(fs, node, key, value, size, &stored);
	if (!error && stored)
		error = store(fs, node, name, value ? value : NULL, size, flags);
	pthread_mutex_unlock(&fs->lock);
	return error;
}

static const char *state_word(const struct fs *fs, const struct tree_node *node)
{
	const struct input *input = jobs_find(&fs->jobs, node->id);
	if (node->dirty && (node->n_writers > 0 || node->due_ns > 0))
		return INPUT_STATE_SETTLING;
	if (!input || node->dirty)
		return INPUT_STATE_IGNORED;
	bool finished = input->state == INPUT_DONE || input->state == INPUT_FAILED;
	if (input->unpublished || (finished && follow_waits(fs, input)))
		return INPUT_STATE_RUNNING;
	switch ((enum input_state)input->state) {
	case INPUT_QUEUED:
		return INPUT_STATE_QUEUED;
	case INPUT_RUNNING:
		return INPUT_STATE_RUNNING;
	case INPUT_DONE:
		return INPUT_STATE_DONE;
	case INPUT_FAILED:
		return INPUT_STATE_FAILED;
	case INPUT_IDLE:
		break;
	}
	return INPUT_STATE_IGNORED;
}

/* The published files of an input, a line each: those of its stem, or of the one that they are about to leave, that came of it and
 * still have that name. */
static void list_outputs(const struct fs *fs, const struct input *input, struct bytes *text)
{
	char path[STEM_PATH_MAX];
	for (unsigned i = 0; input && i < 2 * (JOB_OUTPUTS + 1); i++) {
		const char *stem = i % 2 ? input->old_stem : input->stem;
		const struct result *result = stem ? stem_result(&fs->jobs, &fs->tree, stem, i / 2) : NULL;
		if (!result || result->source != input->id)
			continue;
		stem_path(stem, i / 2, path);
		bytes_put(text, text->len ? "\nout/" : "out/", text->len ? 5 : 4);
		bytes_put(text, path, strlen(path));
	}
}

static void describe_progress(struct fs *fs, uint64_t id, struct bytes *text)
{
	struct scheduler_report report;
	char line[128];
	scheduler_report(fs, &report);
	for (int i = 0; i < 2 * report.n_workers; i++) {
		const struct scheduler_job *job = &report.workers[i / 2].jobs[i % 2];
		const struct message_progress *p = &job->progress;
		if (job->input != id)
			continue;
		int len = snprintf(line, sizeof line, "%d%% %s", (int)(100 * p->fraction), p->stage);
		if (p->steps > 0)
			len += snprintf(line + len, sizeof line - len, " %d/%d", p->step, p->steps);
		bytes_put(text, line, len);
		return;
	}
}

/* 0 with text, or ENODATA. */
static int get_own(struct fs *fs, const struct tree_node *node, const char *key, struct bytes *text)
{
	const struct input *input = jobs_find(&fs->jobs, node->id);
	if (strcmp(key, "state") == 0) {
		const char *word = state_word(fs, node);
		bytes_put(text, word, strlen(word));
	} else if (strcmp(key, "outputs") == 0) {
		list_outputs(fs, input, text);
	} else if (strcmp(key, "error") == 0 && input && input->state == INPUT_FAILED && input->error) {
		bytes_put(text, input->error, strlen(input->error));
	} else if (strcmp(key, "progress") == 0) {
		describe_progress(fs, node->id, text);
	}
	return text->len ? 0 : ENODATA;
}

int xattrs_get(struct fs *fs, uint64_t id, const char *name, char **value, size_t *size)
{
	struct bytes text = {0};
	uint32_t len;
	if (strncmp(name, "user.", 5) != 0)
		return strncmp(name, "system.posix_acl", 16) == 0 ? EOPNOTSUPP : ENODATA;
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	const struct tree_node *node = tree_find(&fs->tree, id);
	const char *key = node ? own_key(node, name) : NULL;
	int error = node ? 0 : ESTALE;
	if (!error && key && is_read_only(key)) {
		error = get_own(fs, node, key, &text);
	} else if (!error) {
		const char *stored = tree_xattr_get(node, name, &len);
		bytes_put(&text, stored, stored ? len : 0);
		error = stored ? 0 : ENODATA;
	}
	pthread_mutex_unlock(&fs->lock);
	if (!error && text.failed)
		error = ENOMEM;
	if (error) {
		bytes_finish(&text);
		return error;
	}
	*value = (char *)text.data;
	*size = text.len;
	return 0;
}

int xattrs_list(struct fs *fs, uint64_t id, char **list, size_t *size)
{
	struct bytes text = {0};
	const char *name, *value;
	uint16_t name_len;
	uint32_t value_len, at = 0;
	pthread_mutex_lock(&fs->lock);
	const struct tree_node *node = tree_find(&fs->tree, id);
	while (node && tree_xattr_next(node, &at, &name, &name_len, &value, &value_len)) {
		bytes_put(&text, name, name_len);
		bytes_put_u8(&text, 0);
	}
	pthread_mutex_unlock(&fs->lock);
	if (!node || text.failed) {
		bytes_finish(&text);
		return node ? ENOMEM : ESTALE;
	}
	*list = (char *)text.data;
	*size = text.len;
	return 0;
}
