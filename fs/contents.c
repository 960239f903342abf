/* contents.c - the contents after a start. See contents.h. */
#include "contents.h"

#include "ingest.h"
#include "names.h"
#include "record.h"
#include "scheduler.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOGGED = 20 }; /* files that are told of one by one */

static bool stop_at_first(void *user, uint64_t id)
{
	(void)user;
	(void)id;
	return false;
}

bool contents_exist(const struct fs *fs)
{
	return !state_each_content(&fs->state, stop_at_first, NULL);
}

/* ".png" of what the bytes look like, or "". */
static const char *extension_of(const struct fs *fs, uint64_t id)
{
	static const struct {
		const char *bytes, *extension;
		size_t len;
	} kinds[] = {{"\x89PNG\r\n", ".png", 6}, {"\xff\xd8\xff", ".jpg", 3}, {"glTF", ".glb", 4}, {"ply\n", ".ply", 4},
		{"RIFF", ".webp", 4}, {"GIF8", ".gif", 4}};
	char head[8] = "";
	int fd = state_content_open(&fs->state, id, O_RDONLY);
	ssize_t n = fd >= 0 ? pread(fd, head, sizeof head, 0) : -1;
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (n >= (ssize_t)kinds[i].len && memcmp(head, kinds[i].bytes, kinds[i].len) == 0)
			return kinds[i].extension;
	return "";
}

/* An unknown content that has bytes becomes a file in lost/; whose it was is not known. */
static bool recover_one(void *user, uint64_t id)
{
	struct fs *fs = user;
	struct stat st;
	char name[TREE_NAME_MAX + 1];
	if (id >= TREE_ID_MAX)
		return true; /* none of ours */
	if (id >= fs->tree.next_id)
		fs->tree.next_id = id + 1; /* given away, or about to be */
	if (id < TREE_FIRST_ID || tree_find(&fs->tree, id) || state_content_stat(&fs->state, id, &st) != 0 ||
		st.st_size == 0)
		return true;
	struct tree_node *lost = tree_lost(&fs->tree);
	struct tree_node *node =
		lost ? tree_new(&fs->tree, id, S_IFREG | 0600, geteuid(), getegid(), fs_now_ns()) : NULL;
	record_lost_name(name, id, "");
	strcat(name, extension_of(fs, id));
	if (!node || !tree_link(&fs->tree, node, lost, name))
		return false;
	node->size = st.st_size;
	node->atime_ns = node->mtime_ns = node->content_ns = fs_to_ns(st.st_mtim);
	return true;
}

bool contents_recover(struct fs *fs)
{
	return state_each_content(&fs->state, recover_one, fs);
}

void contents_set_missing(struct fs *fs, struct tree_node *node, bool missing)
{
	char path[PATH_MAX];
	if (missing == node->missing)
		return;
	node->missing = missing;
	fs->recovery.missing_files += missing ? 1 : -1;
	if (!missing || fs->recovery.missing_files > LOGGED)
		return;
	bool whole = tree_path(node, path, sizeof path);
	fs_log("%s%s has lost its content%s",
		node->area == AREA_OUT	? "out/"
		: node->area == AREA_IN ? "in/"
					: "lost/",
		whole	     ? path
		: node->name ? node->name
			     : "?",
		fs->recovery.missing_files == LOGGED ? "; others are not told one by one" : "");
}

/* Power was lost when the journal had the result and the disk not yet its content, or it is gone: its picture settles afresh.
 * False: there is no such picture, or it is another one by now. */
static bool make_again(struct fs *fs, struct tree_node *node, const struct result *result)
{
	struct input *input = jobs_find(&fs->jobs, result->source);
	struct tree_node *source = tree_find(&fs->tree, result->source);
	if (!input || !source || !source->parent || source->missing ||
		memcmp(input->key, result->key, JOBS_KEY_LEN) != 0)
		return false;
	int64_t now = fs_now_ns();
	fs_log("out/%s is incomplete and is made again", node->name);
	record_node_gone(fs_change(fs), node->id);
	record_folder(&fs->change, node->parent->id, now);
	if (input->state == INPUT_DONE || input->state == INPUT_FAILED) {
		input->stamp_size = -1; /* of no content */
		jobs_set_state(&fs->jobs, input, INPUT_IDLE, false);
		record_input(&fs->change, input);
	}
	fs_commit(fs, true); /* if not, the next start comes to the same end */
	if (input->state == INPUT_IDLE) {
		source->dirty = source->flush_seen = true;
		source->release_ns = source->write_ns = fs_monotonic_ns();
		ingest_released(fs, source);
	}
	names_remove_node(fs, node, now);
	return true;
}

/* Written since its last job: it settles afresh, and what was queued or ran is not its job any more. */
static void settle_afresh(struct fs *fs, struct tree_node *node)
{
	struct input *input = jobs_find(&fs->jobs, node->id);
	if (input)
		jobs_set_state(&fs->jobs, input, INPUT_IDLE, false);
	node->dirty = node->flush_seen = true;
	node->release_ns = node->write_ns = fs_monotonic_ns();
	ingest_released(fs, node);
}

/* What is there decides. Its time is the clock of its writes: another one than the journal knows means written since. */
static void see(struct fs *fs, struct tree_node *node, int error, const struct stat *st)
{
	const struct result *result = jobs_result(&fs->jobs, node->id);
	const struct input *input = jobs_find(&fs->jobs, node->id);
	bool known = !node->unsized, empty = known && node->size == 0;
	int64_t size = error ? (empty ? 0 : node->size) : st->st_size;
	int64_t mtime_ns = error ? node->content_ns : fs_to_ns(st->st_mtim);
	node->unseen = node->unsized = false;
	fs->unseen -= node->area == AREA_IN;
	if (!node->parent)
		return;			/* removed meanwhile */
	bool missing = error && !empty; /* one that never had bytes is made when it gets some */
	bool incomplete = result && (missing || size == 0 || (result->size && result->size != size));
	if (incomplete && make_again(fs, node, result))
		return;
	if (missing) {
		contents_set_missing(fs, node, true);
		return;
	}
	fs->used_bytes += size - node->size;
	node->size = size;
	/* Where the journal does not tell (format 1), newer than the last change of the attributes is written since. */
	if (mtime_ns != node->content_ns && (node->content_ns || mtime_ns > node->ctime_ns))
		node->mtime_ns = node->ctime_ns = mtime_ns;
	node->content_ns = mtime_ns;
	if (node->area == AREA_IN && (!input || input->stamp_size != size || input->stamp_mtime_ns != mtime_ns))
		settle_afresh(fs, node);
}

static bool is_unseen(const struct fs *fs, uint64_t id)
{
	const struct tree_node *node = id ? tree_find(&fs->tree, id) : NULL;
	return node && node->unseen;
}

void contents_look(struct fs *fs, uint64_t id)
{
	struct stat st = {0};
	if (fs->all_seen)
		return;
	pthread_mutex_lock(&fs->lock);
	const struct result *result = jobs_result(&fs->jobs, id);
	uint64_t source = result && !jobs_result(&fs->jobs, result->source) ? result->source : 0;
	bool unseen = is_unseen(fs, id), source_unseen = unseen && is_unseen(fs, source);
	pthread_mutex_unlock(&fs->lock);
	if (!unseen)
		return;
	if (source_unseen) /* whether it can be made again depends on that */
		contents_look(fs, source);
	int error = state_content_stat(&fs->state, id, &st);
	pthread_mutex_lock(&fs->lock);
	if (is_unseen(fs, id))
		see(fs, tree_find(&fs->tree, id), error, &st);
	pthread_mutex_unlock(&fs->lock);
}

/* The files that there were at the start. */
struct known {
	struct fs *fs;
	uint64_t *ids; /* ascending; NULL: no memory */
	size_t n;
};

struct contents {
	pthread_t thread;
	atomic_bool stop;
	struct known known;
};

static int by_id(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static struct known all_known(struct fs *fs)
{
	struct known known = {.fs = fs};
	pthread_mutex_lock(&fs->lock);
	known.ids = malloc((fs->tree.n_nodes + 1) * sizeof *known.ids);
	for (struct tree_node *node = tree_each(&fs->tree, NULL); known.ids && node; node = tree_each(&fs->tree, node))
		if (node->unseen)
			known.ids[known.n++] = node->id;
	pthread_mutex_unlock(&fs->lock);
	if (known.n)
		qsort(known.ids, known.n, sizeof *known.ids, by_id);
	return known;
}

static bool stopped(const struct fs *fs)
{
	return fs->contents && atomic_load(&fs->contents->stop);
}

/* A content of before the start that had no name then: it never had one, or the daemon ended when it was about to remove it.
 * One that has lost its name since is the sync thread's, which knows when. */
static bool sweep_one(void *user, uint64_t id)
{
	const struct known *known = user;
	if (id < known->fs->first_new_id && !(known->n && bsearch(&id, known->ids, known->n, sizeof id, by_id)))
		state_content_remove(&known->fs->state, id);
	return !stopped(known->fs);
}

static void look_all(struct known *known)
{
	enum { WAKE_EACH = 1024 };
	struct fs *fs = known->fs;
	size_t i = 0;
	for (; i < known->n && !stopped(fs); i++) {
		contents_look(fs, known->ids[i]);
		if (i % WAKE_EACH == 0)
			scheduler_wake(fs); /* jobs wait for their pictures to be seen */
	}
	fs->all_seen = known->ids && i == known->n;
	scheduler_wake(fs);
	if (fs->all_seen && fs->sweeps)
		state_each_content(&fs->state, sweep_one, known);
}

void contents_look_all(struct fs *fs)
{
	struct known known = all_known(fs);
	look_all(&known);
	free(known.ids);
}

static void *run(void *user)
{
	struct contents *contents = user;
	look_all(&contents->known);
	return NULL;
}

bool contents_start(struct fs *fs, struct error *err)
{
	struct contents *contents = calloc(1, sizeof *contents);
	if (!contents)
		return error_set(err, "out of memory");
	contents->known = all_known(fs);
	fs->contents = contents;
	int error = pthread_create(&contents->thread, NULL, run, contents);
	if (error) {
		fs->contents = NULL;
		free(contents->known.ids);
		free(contents);
		return error_set(err, "cannot start the thread that looks at contents: %s", strerror(error));
	}
	return true;
}

void contents_stop(struct fs *fs)
{
	struct contents *contents = fs->contents;
	if (!contents)
		return;
	atomic_store(&contents->stop, true);
	pthread_join(contents->thread, NULL);
	fs->contents = NULL;
	free(contents->known.ids);
	free(contents);
}
