/* outcome.c - results and error files of an input. See outcome.h. */
#include "outcome.h"

#include "contents.h"
#include "follow.h"
#include "record.h"
#include "scheduler.h"
#include "stem.h"
#include "sync.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

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

/* 0 or an errno; on failure nothing is left behind. */
static int make_files(struct fs *fs, uint32_t outputs, struct outcome_files *files)
{
	int error = 0;
	*files = (struct outcome_files){0};
	pthread_mutex_lock(&fs->lock);
	for (int i = 0; i < JOB_OUTPUTS; i++) {
		files->fds[i] = -1;
		if (outputs & 1u << i && !(files->ids[i] = fs_take_id(fs)))
			error = ENOSPC;
	}
	pthread_mutex_unlock(&fs->lock);
	for (int i = 0; !error && i < JOB_OUTPUTS; i++) {
		if (!files->ids[i])
			continue;
		files->fds[i] = state_content_create(&fs->state, files->ids[i]);
		if (files->fds[i] < 0)
			error = -files->fds[i];
	}
	if (error)
		outcome_drop_files(fs, files);
	return error;
}

int outcome_prepare(
	struct fs *fs, const struct message_job *job, struct outcome_files *files, int *fds, struct error *err)
{
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	if (!message_encode(&(struct message){.type = MESSAGE_JOB, .job = *job}, bytes, err))
		return EINVAL;
	int n = 0, error = make_files(fs, job->options.outputs, files);
	if (error) {
		error_set(err, "the state directory cannot take the result: %s", strerror(error));
		return error;
	}
	fds[n++] = state_content_open(&fs->state, job->id, O_RDONLY);
	if (fds[0] < 0) {
		outcome_drop_files(fs, files);
		error_set(err, "it cannot be read from the state directory: %s", strerror(-fds[0]));
		return -fds[0];
	}
	for (int i = 0; i < JOB_OUTPUTS; i++)
		if (files->ids[i])
			fds[n++] = files->fds[i];
	return 0;
}

/* What the files of one outcome share. */
struct target {
	char stem[PATH_MAX];
	struct publish_file file;
	uint8_t key[JOBS_KEY_LEN];
	uint32_t outputs;
};

/* Decide the names: the path that the input has now. ECANCELED: deleted or submitted again; else err is set. */
static int find_target(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq,
	struct target *target, struct error *err)
{
	int error = ECANCELED;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	const struct tree_node *node = tree_find(&fs->tree, input_id);
	if (node && node->parent && jobs_wants(input, seq) && !stem_is_junk(node))
		error = stem_claim(&fs->jobs, &fs->tree, input, node, input->options.outputs, err) ? 0 : ENAMETOOLONG;
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
	if (!error)
		follow_make_way(fs, publisher, input_id);
	return error;
}

static int publish_one(struct publisher *publisher, struct target *target, unsigned output, uint64_t node_id,
	int64_t size, bool last, struct error *err)
{
	char path[STEM_PATH_MAX];
	stem_path(target->stem, output, path);
	target->file.node_id = node_id;
	target->file.path = path;
	target->file.size = size;
	target->file.output = output;
	target->file.last = last;
	int error = publisher_publish(publisher, &target->file);
	if (error)
		error_set(err, "out/%s cannot be put in its place: %s", path, strerror(error));
	return error;
}

/* The error file of an earlier attempt, if it is this input's or that of one that has gone. */
static void remove_error_file(struct fs *fs, struct publisher *publisher, const struct target *target)
{
	char path[STEM_PATH_MAX];
	stem_path(target->stem, JOB_OUTPUTS, path);
	pthread_mutex_lock(&fs->lock);
	const struct result *result = stem_result(&fs->jobs, &fs->tree, target->stem, JOB_OUTPUTS);
	const struct input *source = result ? stem_live_source(&fs->jobs, &fs->tree, result) : NULL;
	bool ours = result && result->source != 0 && (!source || source->id == target->file.source);
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
	const uint64_t sizes[JOB_OUTPUTS], struct error *err)
{
	int error = 0;
	unsigned last = last_output(target->outputs);
	for (unsigned k = JOB_OUTPUTS + 1; !error && k-- > 0;) { /* from the preview down, then `last` */
		unsigned i = k > 0 ? k - 1 : last;
		if (!files->ids[i] || (k > 0 && i == last))
			continue;
		sync_written(fs, files->ids[i], true); /* on the disk before its name */
		error = publish_one(publisher, target, i, files->ids[i], sizes[i], k == 0, err);
		close(files->fds[i]);
		files->ids[i] = 0; /* published, or removed by the publisher */
		files->fds[i] = -1;
	}
	outcome_drop_files(fs, files);
	if (error)
		return error;
	remove_error_file(fs, publisher, target);
	follow_published(fs, publisher, target->file.source, target->stem);
	return 0;
}

int outcome_publish(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq,
	struct outcome_files *files, const uint64_t sizes[JOB_OUTPUTS], struct error *err)
{
	struct target target;
	int error = find_target(fs, publisher, input_id, seq, &target, err);
	if (error) {
		outcome_drop_files(fs, files);
		return error;
	}
	return publish_all(fs, publisher, &target, files, sizes, err);
}

/* The node of a result of this key, and a new id for what becomes of it; 0: there is none. */
static uint64_t find_result(struct fs *fs, const uint8_t *key, unsigned output, uint64_t *fresh, uint64_t *size)
{
	pthread_mutex_lock(&fs->lock);
	const struct result *result = jobs_result_by_key(&fs->jobs, key, output);
	const struct tree_node *node = result ? tree_find(&fs->tree, result->id) : NULL;
	uint64_t id = node ? node->id : 0;
	if (node) {
		*fresh = fs_take_id(fs);
		*size = node->size;
	}
	pthread_mutex_unlock(&fs->lock);
	return id;
}

static bool is_result(struct fs *fs, uint64_t id)
{
	pthread_mutex_lock(&fs->lock);
	bool is = jobs_result(&fs->jobs, id) != NULL;
	pthread_mutex_unlock(&fs->lock);
	return is;
}

/* A second name for the content of a result of this key: a fresh inode, no bytes copied. One of before the start that is
 * incomplete is no result any more once it has been looked at. False: there is none, or no name for it. */
static bool link_result(struct fs *fs, const uint8_t *key, unsigned output, uint64_t *id, uint64_t *size)
{
	uint64_t fresh = 0, from = find_result(fs, key, output, &fresh, size);
	if (!from || !fresh)
		return false;
	contents_look(fs, from);
	if (!is_result(fs, from) || state_content_link(&fs->state, from, fresh) != 0)
		return false;
	*id = fresh; /* to be published, or dropped */
	return true;
}

int outcome_publish_again(
	struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq, struct error *err)
{
	struct target target;
	struct outcome_files files = {0};
	uint64_t sizes[JOB_OUTPUTS] = {0};
	int error = find_target(fs, publisher, input_id, seq, &target, err);
	for (unsigned i = 0; i < JOB_OUTPUTS; i++) {
		files.fds[i] = -1;
		if (!error && target.outputs & 1u << i && !link_result(fs, target.key, i, &files.ids[i], &sizes[i]))
			error = EAGAIN;
	}
	if (error) {
		outcome_drop_files(fs, &files);
		return error;
	}
	return publish_all(fs, publisher, &target, &files, sizes, err);
}

/* Where no error file can be: xattr and status still tell. */
static void fail_without_file(struct fs *fs, uint64_t input_id, uint64_t seq)
{
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	if (jobs_wants(input, seq)) {
		jobs_fail(&fs->jobs, input);
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
	int fd = *id ? state_content_create(&fs->state, *id) : -ENOSPC;
	if (fd < 0)
		return -fd;
	ssize_t n = pwrite(fd, text, len, 0);
	int error = n == (ssize_t)len ? 0 : n < 0 ? errno : ENOSPC;
	close(fd);
	if (error)
		state_content_remove(&fs->state, *id);
	return error;
}

/* Tell of it, and make the line of the error file. False: the input was deleted or submitted again. */
static bool tell_failure(struct fs *fs, uint64_t input_id, uint64_t seq, const char *text, char *line, size_t size)
{
	char name[PATH_MAX];
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, input_id);
	const struct tree_node *node = tree_find(&fs->tree, input_id);
	bool wanted = jobs_wants(input, seq);
	if (wanted) {
		jobs_set_error(input, text);
		scheduler_note_problem(fs, node, text, true);
		snprintf(line, size, "in/%s: %s\n", jobs_show_name(node, name, sizeof name), text);
	}
	pthread_mutex_unlock(&fs->lock);
	return wanted;
}

void outcome_fail(struct fs *fs, struct publisher *publisher, uint64_t input_id, uint64_t seq, const char *text)
{
	struct target target;
	struct error err;
	char line[PATH_MAX + 1200];
	uint64_t id;
	if (!tell_failure(fs, input_id, seq, text, line, sizeof line))
		return;
	int error = find_target(fs, publisher, input_id, seq, &target, &err);
	if (!error)
		error = write_error_file(fs, &id, line, strlen(line));
	if (!error)
		error = publish_one(publisher, &target, JOB_OUTPUTS, id, (int64_t)strlen(line), true, &err);
	if (error)
		fail_without_file(fs, input_id, seq); /* if it is still wanted */
	else
		follow_published(fs, publisher, input_id, target.stem);
}
