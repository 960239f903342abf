/* outcome.c - results and error files of an input. See outcome.h. */
#include "outcome.h"

#include "record.h"
#include "scheduler.h"
#include "sync.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

int outcome_make_files(struct fs *fs, uint32_t outputs, struct outcome_files *files)
{
	*files = (struct outcome_files){0};
	pthread_mutex_lock(&fs->lock);
	for (int i = 0; i < JOB_OUTPUTS; i++)
		files->ids[i] = outputs & 1u << i ? fs_take_id(fs) : 0;
	pthread_mutex_unlock(&fs->lock);
	for (int i = 0; i < JOB_OUTPUTS; i++)
		files->fds[i] = -1;
	for (int i = 0; i < JOB_OUTPUTS; i++) {
		if (!files->ids[i])
			continue;
		files->fds[i] = state_content_create(&fs->state, files->ids[i]);
		if (files->fds[i] < 0) {
			int error = -files->fds[i];
			outcome_drop_files(fs, files);
			return error;
		}
	}
	return 0;
}

void outcome_drop_files(struct fs *fs, struct outcome_files *files)
{
	for (int i = 0; i < JOB_OUTPUTS; i++) {
		if (files->ids[i] && files->fds[i] >= 0)
			close(files->fds[i]);
		if (files->ids[i])
			state_content_remove(&fs->state, files->ids[i]);
		files->ids[i] = 0;
		files->fds[i] = -1;
	}
}

/* What the files of one outcome share. */
struct target {
	char stem[PATH_MAX];
	struct publish_file file;
	uint8_t key[JOBS_KEY_LEN];
	uint32_t outputs;
};

/* Decide the names: the path that the input has now. ECANCELED: deleted or submitted again. */
static int find_target(struct fs *fs, uint64_t input_id, uint64_t seq, struct target *target)
{
	char path[PATH_MAX];
	int error = ECANCELED;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	const struct tree_node *node = tree_find(&fs->tree, input_id);
	if (node && node->parent && jobs_wants(input, seq))
		error = !tree_path(node, path, sizeof path)		     ? ENAMETOOLONG
			: jobs_claim_stem(&fs->jobs, &fs->tree, input, path) ? 0
									     : ENAMETOOLONG;
	if (!error) {
		snprintf(target->stem, sizeof target->stem, "%s", input->stem);
		memcpy(target->key, input->key, sizeof target->key);
		target->outputs = input->options.outputs;
		target->file = (struct publish_file){.uid = node->uid,
			.gid = node->gid,
			.mode = (node->mode & 0666) | S_IRUSR,
			.source = input_id,
			.seq = seq,
			.key = target->key};
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

static int publish_one(
	struct publisher *publisher, struct target *target, unsigned output, uint64_t node_id, int64_t size, bool last)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof path, "%s.%s", target->stem,
		output == JOB_OUTPUTS ? "error.txt" : job_output_extension(output));
	target->file.node_id = node_id;
	target->file.path = path;
	target->file.size = size;
	target->file.output = output;
	target->file.last = last;
	return publisher_publish(publisher, &target->file);
}

/* The error file of an earlier attempt, if it is this input's. */
static void remove_error_file(struct fs *fs, struct publisher *publisher, const struct target *target)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof path, "%s.error.txt", target->stem);
	pthread_mutex_lock(&fs->lock);
	const struct tree_node *node = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), path);
	const struct result *result = node ? jobs_result(&fs->jobs, node->id) : NULL;
	bool ours = result && result->output == JOB_OUTPUTS;
	pthread_mutex_unlock(&fs->lock);
	if (ours)
		publisher_unlink(publisher, path);
}

/* The .glb is the sign that all is there, so it comes last; without one the last format does. */
static unsigned last_output(uint32_t outputs)
{
	if (outputs & 1u << JOB_GLB)
		return JOB_GLB;
	unsigned last = 0;
	for (unsigned i = 0; i < JOB_OUTPUTS; i++)
		if (outputs & 1u << i && (i != JOB_PREVIEW || !last))
			last = i;
	return last;
}

/* Everything, the last one last; what was not published is removed. */
static int publish_all(struct fs *fs, struct publisher *publisher, struct target *target, struct outcome_files *files,
	const uint64_t sizes[JOB_OUTPUTS])
{
	int error = 0;
	unsigned last = last_output(target->outputs);
	for (unsigned k = JOB_OUTPUTS + 1; !error && k-- > 0;) { /* from the preview down, then `last` */
		unsigned i = k > 0 ? k - 1 : last;
		if (!files->ids[i] || (k > 0 && i == last))
			continue;
		sync_written(fs, files->ids[i], true); /* on the disk before its name */
		error = publish_one(publisher, target, i, files->ids[i], sizes[i], k == 0);
		close(files->fds[i]);
		files->ids[i] = 0; /* published, or removed by the publisher */
		files->fds[i] = -1;
	}
	outcome_drop_files(fs, files);
	if (!error)
		remove_error_file(fs, publisher, target);
	return error;
}

int outcome_publish(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq,
	struct outcome_files *files, const uint64_t sizes[JOB_OUTPUTS])
{
	struct target target;
	int error = find_target(fs, input_id, seq, &target);
	if (error) {
		outcome_drop_files(fs, files);
		return error;
	}
	return publish_all(fs, publisher, &target, files, sizes);
}

/* A second name for the content of a result of this key: a fresh inode, no bytes copied. */
static int link_result(struct fs *fs, const uint8_t *key, unsigned output, uint64_t *id, uint64_t *size)
{
	int error = ENOENT;
	pthread_mutex_lock(&fs->lock);
	const struct result *result = jobs_result_by_key(&fs->jobs, key, output);
	const struct tree_node *node = result ? tree_find(&fs->tree, result->id) : NULL;
	if (node) {
		uint64_t fresh = fs_take_id(fs);
		error = state_content_link(&fs->state, node->id, fresh);
		*id = error ? 0 : fresh;
		*size = node->size;
	}
	pthread_mutex_unlock(&fs->lock);
	return error;
}

int outcome_publish_again(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq)
{
	struct target target;
	struct outcome_files files = {0};
	uint64_t sizes[JOB_OUTPUTS] = {0};
	int error = find_target(fs, input_id, seq, &target);
	for (unsigned i = 0; i < JOB_OUTPUTS; i++) {
		files.fds[i] = -1;
		if (!error && target.outputs & 1u << i)
			error = link_result(fs, target.key, i, &files.ids[i], &sizes[i]);
	}
	if (error) {
		outcome_drop_files(fs, &files);
		return error;
	}
	return publish_all(fs, publisher, &target, &files, sizes);
}

/* Where no error file can be: xattr and status still tell. */
static void fail_without_file(struct fs *fs, uint64_t input_id, uint64_t seq)
{
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	if (jobs_wants(input, seq)) {
		jobs_set_state(&fs->jobs, input, INPUT_FAILED, false);
		fs->jobs.n_failed++;
		record_input(fs_change(fs), input);
		fs_commit(fs, true);
	}
	pthread_mutex_unlock(&fs->lock);
}

static int write_error_file(struct fs *fs, uint64_t *id, const char *text, size_t len)
{
	pthread_mutex_lock(&fs->lock);
	*id = fs_take_id(fs);
	pthread_mutex_unlock(&fs->lock);
	int fd = state_content_create(&fs->state, *id);
	if (fd < 0)
		return -fd;
	ssize_t n = pwrite(fd, text, len, 0);
	int error = n == (ssize_t)len ? 0 : n < 0 ? errno : ENOSPC;
	close(fd);
	if (error)
		state_content_remove(&fs->state, *id);
	return error;
}

void outcome_fail(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq, const char *text)
{
	struct target target;
	char name[PATH_MAX] = "", line[PATH_MAX + 1200];
	uint64_t id;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	const struct tree_node *node = tree_find(&fs->tree, input_id);
	bool wanted = jobs_wants(input, seq) && node && tree_path(node, name, sizeof name);
	if (wanted) {
		char copy[1024]; /* text may be the input's own */
		snprintf(copy, sizeof copy, "%s", text);
		jobs_set_error(input, copy);
		scheduler_note_problem(fs, name, copy);
		snprintf(line, sizeof line, "in/%s: %s\n", name, copy);
	}
	pthread_mutex_unlock(&fs->lock);
	if (!wanted)
		return;
	int error = find_target(fs, input_id, seq, &target);
	if (!error)
		error = write_error_file(fs, &id, line, strlen(line));
	if (!error)
		error = publish_one(publisher, &target, JOB_OUTPUTS, id, strlen(line), true);
	if (error && error != ECANCELED)
		fail_without_file(fs, input_id, seq);
}
