/* fs.c - load a file system from its state directory, and the helpers that every part uses. See fs.h. */
#include "fs.h"

#include "config.h"
#include "record.h"
#include "sniff.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t fs_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now); /* not the coarse one: must not be behind the times of contents */
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int64_t fs_monotonic_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

struct bytes *fs_change(struct fs *fs)
{
	fs->change.len = 0;
	fs->change.failed = false;
	return &fs->change;
}

int fs_commit(struct fs *fs, bool frees_space)
{
	return journal_append(&fs->journal, &fs->change, frees_space);
}

/* The content's own times are the clock of its writes: newer than what the journal knows means written since. */
static void load_content(struct fs *fs, struct tree_node *node)
{
	struct stat st = {0};
	int fd = state_content_open(&fs->state, node->id, O_RDONLY);
	if (fd >= 0) {
		if (fstat(fd, &st) != 0)
			st = (struct stat){0};
		close(fd);
	}
	node->size = st.st_size;
	fs->used_bytes += node->size;
	int64_t mtime_ns = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
	if (mtime_ns > node->ctime_ns)
		node->mtime_ns = node->ctime_ns = mtime_ns;
	const struct input *input = jobs_find(&fs->jobs, node->id);
	node->dirty = node->area == AREA_IN &&
		      (!input || input->stamp_size != st.st_size || input->stamp_mtime_ns != mtime_ns);
}

/* A job whose input was being rewritten when the daemon ended is not one any more: the input settles afresh. */
static void withdraw_stale_job(struct fs *fs, const struct tree_node *node)
{
	struct input *input = jobs_find(&fs->jobs, node->id);
	if (input && node->dirty)
		jobs_set_state(&fs->jobs, input, INPUT_IDLE, false);
}

static void load_contents(struct fs *fs)
{
	for (size_t i = 0; i < fs->tree.n_buckets; i++) {
		for (struct tree_node *node = fs->tree.by_id[i]; node; node = node->next_id) {
			if (!S_ISREG(node->mode) || node->id < TREE_FIRST_ID)
				continue;
			load_content(fs, node);
			withdraw_stale_job(fs, node);
		}
	}
}

/* Power was lost when the journal had the result and the disk not yet its content: it was never published, and its input
 * settles afresh. */
static void drop_incomplete_result(struct fs *fs, struct tree_node *node, const struct result *result)
{
	struct input *input = jobs_find(&fs->jobs, result->source);
	struct tree_node *source = tree_find(&fs->tree, result->source);
	fs_log("out/%s is incomplete and is made again", node->name);
	record_node_gone(fs_change(fs), node->id);
	if (input && source && (input->state == INPUT_DONE || input->state == INPUT_FAILED)) {
		source->dirty = true;
		jobs_set_state(&fs->jobs, input, INPUT_IDLE, false);
		record_input(&fs->change, input);
	}
	fs_commit(fs, true); /* if not, the next start comes to the same end */
	fs->used_bytes -= node->size;
	jobs_drop_result(&fs->jobs, node->id);
	tree_unlink(&fs->tree, node);
	tree_drop_unused(&fs->tree, node);
}

static void drop_incomplete_results(struct fs *fs)
{
	for (size_t i = 0; i < fs->tree.n_buckets; i++) {
		for (struct tree_node *node = fs->tree.by_id[i], *next; node; node = next) {
			next = node->next_id;
			const struct result *result = jobs_result(&fs->jobs, node->id);
			if (result && node->parent && S_ISREG(node->mode) &&
				(node->size == 0 || (result->size && result->size != node->size)))
				drop_incomplete_result(fs, node, result);
		}
	}
}

static bool is_known(void *user, uint64_t id)
{
	const struct fs *fs = user;
	const struct tree_node *node = tree_find(&fs->tree, id);
	return node && S_ISREG(node->mode);
}

bool fs_init(struct fs *fs, const struct options *options, const char *state_path, struct error *err)
{
	*fs = (struct fs){.options = options, .start_ns = fs_monotonic_ns(), .config = config_defaults()};
	fs->journal.fd = -1;
	pthread_mutex_init(&fs->lock, NULL);
	if (!state_open(&fs->state, state_path, err))
		return false;
	if (!tree_init(&fs->tree, geteuid(), getegid(), options->allow_other, fs_now_ns()) || !jobs_init(&fs->jobs))
		return error_set(err, "out of memory");
	struct record_target target = {.tree = &fs->tree, .jobs = &fs->jobs, .config = &fs->config};
	if (!journal_open(&fs->journal, fs->state.dir_fd, record_apply, &target, err))
		return false;
	if (options->job_config[0] && !config_parse(&fs->config, options->job_config, strlen(options->job_config), err))
		return false;
	load_contents(fs);
	drop_incomplete_results(fs);
	state_sweep(&fs->state, is_known, fs);
	return true;
}

void fs_finish(struct fs *fs)
{
	journal_close(&fs->journal);
	jobs_finish(&fs->jobs);
	tree_finish(&fs->tree);
	bytes_finish(&fs->change);
	state_close(&fs->state);
	pthread_mutex_destroy(&fs->lock);
}
