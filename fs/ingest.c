/* ingest.c - when is a file complete, and then what. See ingest.h.
 *
 * Waiting files are in a heap by the time at which to look again; a node's due_ns tells whether its entry still counts.
 * A look decides afresh, so an entry that is too early only costs a look. */
#include "ingest.h"

#include "config.h"
#include "hash.h"
#include "model_watch.h"
#include "record.h"
#include "scheduler.h"
#include "sniff.h"
#include "stem.h"
#include "xattrs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)
/* due_ns of a node that is being looked at: it still counts as waiting, and anything new is due earlier. */
#define LOOKING INT64_MAX
static const int64_t SETTLE_NS = 300 * MS, SETTLE_NFS_NS = 2000 * MS, TRUNCATED_NS = 5000 * MS;

struct entry {
	int64_t due_ns;
	uint64_t id;
};

struct ingest {
	pthread_t thread;
	pthread_cond_t wake; /* with fs->lock */
	struct entry *heap;  /* fs->lock, as all below */
	size_t n, cap;
	long waiting;	       /* nodes with due_ns set */
	int64_t early_from_ns; /* by then all have settled that could not start early: nobody overtakes them */
	bool stop;
};

static bool push(struct ingest *ingest, struct entry entry)
{
	if (ingest->n == ingest->cap) {
		size_t cap = ingest->cap ? 2 * ingest->cap : 64;
		struct entry *heap = realloc(ingest->heap, cap * sizeof *heap);
		if (!heap)
			return false;
		ingest->heap = heap;
		ingest->cap = cap;
	}
	size_t at = ingest->n++;
	for (; at > 0 && ingest->heap[(at - 1) / 2].due_ns > entry.due_ns; at = (at - 1) / 2)
		ingest->heap[at] = ingest->heap[(at - 1) / 2];
	ingest->heap[at] = entry;
	return true;
}

static struct entry pop(struct ingest *ingest)
{
	struct entry top = ingest->heap[0], last = ingest->heap[--ingest->n];
	size_t at = 0;
	for (size_t child; (child = 2 * at + 1) < ingest->n; at = child) {
		if (child + 1 < ingest->n && ingest->heap[child + 1].due_ns < ingest->heap[child].due_ns)
			child++;
		if (ingest->heap[child].due_ns >= last.due_ns)
			break;
		ingest->heap[at] = ingest->heap[child];
	}
	if (ingest->n)
		ingest->heap[at] = last;
	return top;
}

/* Look at the node no later than due_ns. An earlier entry stands: that look will find out what is still missing. */
static void schedule(struct fs *fs, struct tree_node *node, int64_t due_ns)
{
	struct ingest *ingest = fs->ingest;
	if (node->due_ns && node->due_ns <= due_ns)
		return;
	if (!push(ingest, (struct entry){due_ns, node->id}))
		return;
	if (!node->due_ns)
		ingest->waiting++;
	node->due_ns = due_ns;
	if (ingest->heap[0].id == node->id)
		pthread_cond_signal(&ingest->wake);
	scheduler_wake(fs);
}

static void unschedule(struct fs *fs, struct tree_node *node)
{
	if (node->due_ns)
		fs->ingest->waiting--;
	node->due_ns = 0;
}

/* Since when nothing has happened to the content. */
static int64_t quiet_since(const struct tree_node *node)
{
	return node->write_ns > node->release_ns ? node->write_ns : node->release_ns;
}

static int64_t settled_at(const struct tree_node *node)
{
	return node->flush_seen ? node->release_ns + SETTLE_NS : node->write_ns + SETTLE_NFS_NS;
}

/* Somebody may still write. A writer that never FLUSHes and whose last write was followed by an FSYNC is an NFS server that
 * keeps its descriptor: quiet decides then, and only a whole picture counts. */
static bool is_busy(const struct tree_node *node)
{
	return node->n_writers > 0 && (node->flush_seen || !node->synced);
}

/* Before it has settled, since a worker has nothing else to do. */
static bool may_start_early(struct fs *fs, const struct tree_node *node)
{
	const struct input *input = jobs_find(&fs->jobs, node->id);
	return node->flush_seen && node->n_writers == 0 && !(input && input->restless) &&
	       fs_monotonic_ns() >= fs->ingest->early_from_ns && scheduler_is_idle(fs);
}

/* When to look at a file whose last writer has gone. If it has to settle, no later one starts early before it has. */
static int64_t look_at(struct fs *fs, const struct tree_node *node)
{
	if (may_start_early(fs, node))
		return node->release_ns;
	if (node->flush_seen && fs->ingest->early_from_ns < settled_at(node))
		fs->ingest->early_from_ns = settled_at(node);
	return settled_at(node);
}

void ingest_released(struct fs *fs, struct tree_node *node)
{
	if (fs->ingest && node->size > 0 && node->parent && !stem_is_junk(node))
		schedule(fs, node, look_at(fs, node));
}

void ingest_renamed(struct fs *fs, struct tree_node *node)
{
	if (!fs->ingest || !node->dirty || node->n_writers > 0 || node->size == 0 || stem_is_junk(node))
		return;
	node->flush_seen = true; /* settled: see settled_at */
	node->release_ns = node->write_ns = fs_monotonic_ns() - SETTLE_NS;
	schedule(fs, node, node->release_ns);
}

void ingest_removed(struct fs *fs, struct tree_node *node)
{
	if (fs->ingest)
		unschedule(fs, node);
}

void ingest_submit(struct fs *fs, struct tree_node *node)
{
	if (!fs->ingest)
		return;
	node->dirty = node->asked = true;
	node->flush_seen = true;
	node->release_ns = node->write_ns = fs_monotonic_ns() - TRUNCATED_NS;
	schedule(fs, node, node->release_ns);
}

void ingest_withdraw(struct fs *fs, struct tree_node *node)
{
	struct input *input = jobs_find(&fs->jobs, node->id);
	if (!input || (input->state != INPUT_QUEUED && input->state != INPUT_RUNNING && !input->unpublished))
		return;
	if (input->state == INPUT_RUNNING)
		scheduler_cancel(fs, node->id);
	input->restless |= input->early;
	input->early = false;
	jobs_set_state(&fs->jobs, input, INPUT_IDLE, false);
	record_input(fs_change(fs), input);
	fs_commit(fs, true); /* if this fails, the stamp tells at the next start */
}

long ingest_waiting(const struct fs *fs)
{
	return fs->unseen + (fs->ingest ? fs->ingest->waiting : 0);
}

/* What a look needs, copied so that it can go without the lock. */
struct look {
	uint64_t id;
	uint32_t version;
	bool early; /* it has not settled */
	bool asked; /* the results that there are do not count */
	int fd;
	char name[TREE_NAME_MAX + 1];
	struct job_options options;
	enum sniff_verdict verdict;
	uint8_t key[JOBS_KEY_LEN];
	int64_t stamp_size, stamp_mtime_ns;
	struct error error;
};

/* Equal pictures with equal options share a key, as long as program and model are the same. */
static bool make_key(const struct fs *fs, struct look *look)
{
	static const size_t CHUNK = 1 << 18;
	char line[CONFIG_TEXT_MAX], *buffer = malloc(CHUNK);
	struct hash hash;
	ssize_t n = -1;
	off_t at = 0;
	if (!buffer)
		return error_set(&look->error, "out of memory");
	hash_init(&hash, JOBS_KEY_LEN);
	while ((n = pread(look->fd, buffer, CHUNK, at)) > 0) {
		hash_update(&hash, buffer, n);
		at += n;
	}
	free(buffer);
	if (n < 0)
		return error_set(&look->error, "cannot read it from the state directory: %s", strerror(errno));
	hash_update(&hash, line, config_line(&look->options, " ", line, sizeof line));
	hash_update(&hash, TRELLISFS_VERSION, sizeof TRELLISFS_VERSION);
	if (fs->options->model)
		model_identify(fs->options->model, &hash);
	hash_final(&hash, look->key);
	return true;
}

static void examine(const struct fs *fs, struct look *look)
{
	struct stat st;
	look->verdict = SNIFF_IO_ERROR;
	look->fd = state_content_open(&fs->state, look->id, O_RDONLY);
	if (look->fd < 0 || fstat(look->fd, &st) != 0) {
		error_set(&look->error, "cannot read it from the state directory: %s", strerror(errno));
		goto close;
	}
	look->stamp_size = st.st_size;
	look->stamp_mtime_ns = fs_to_ns(st.st_mtim);
	look->verdict = sniff_file(look->fd, look->name, NULL, &look->error);
	if ((look->verdict == SNIFF_WHOLE || look->verdict == SNIFF_PADDED) && !make_key(fs, look))
		look->verdict = SNIFF_IO_ERROR;
close:
	if (look->fd >= 0)
		close(look->fd);
}

/* All results of this key that the options ask for are still in out/. */
static bool results_exist(const struct fs *fs, const struct look *look)
{
	for (int output = 0; output < JOB_OUTPUTS; output++)
		if (look->options.outputs & 1u << output && !jobs_result_by_key(&fs->jobs, look->key, output))
			return false;
	return true;
}

/* A new submission: a job, or done or failed without one. */
static void start_afresh(struct fs *fs, const struct tree_node *node, struct input *input, const struct look *look)
{
	if (input->state == INPUT_RUNNING)
		scheduler_cancel(fs, node->id);
	input->uid = node->uid;
	input->options = look->options;
	memcpy(input->key, look->key, sizeof input->key);
	jobs_enqueue(&fs->jobs, input);
	if (look->verdict != SNIFF_WHOLE && look->verdict != SNIFF_PADDED) {
		jobs_set_error(input, look->error.text);
		jobs_set_state(&fs->jobs, input, INPUT_FAILED, true);
	} else if (!look->asked && results_exist(fs, look)) {
		jobs_set_state(&fs->jobs, input, INPUT_DONE, true);
	}
}

/* What comes of it has no place in out/, so nothing is begun, and an early job ends. The picture's own fault goes before. */
static void fail_here(struct fs *fs, const struct tree_node *node, struct input *input, const char *why)
{
	if (input->state == INPUT_RUNNING)
		scheduler_cancel(fs, node->id);
	if (!input->error)
		jobs_set_error(input, why);
	jobs_fail(&fs->jobs, input);
	scheduler_note_problem(fs, node, input->error ? input->error : why, true);
}

/* The end of settling. The scheduler publishes. An early job of the same picture and options is that job. An early look gives it
 * a stamp that no content has: after a crash it settles afresh. */
static void submit(struct fs *fs, struct tree_node *node, const struct look *look)
{
	struct input *input = jobs_input(&fs->jobs, node->id);
	struct error err;
	if (!input)
		return;
	if (!input->early || memcmp(input->key, look->key, sizeof input->key) != 0)
		start_afresh(fs, node, input, look);
	if (!look->early && !stem_claim(&fs->jobs, &fs->tree, input, node, look->options.outputs, &err))
		fail_here(fs, node, input, err.text);
	input->early = node->dirty = look->early;
	node->asked &= look->early;
	input->restless = false;
	input->stamp_size = look->early ? -1 : look->stamp_size;
	input->stamp_mtime_ns = look->stamp_mtime_ns;
	record_input(fs_change(fs), input);
	fs_commit(fs, true); /* failing that, it is dirty at the next start, and submitted again */
	scheduler_wake(fs);
}

/* What follows from a look, if nothing happened to the file meanwhile. */
static void decide(struct fs *fs, struct look *look)
{
	struct tree_node *node = tree_find(&fs->tree, look->id);
	if (!node || node->due_ns != LOOKING)
		return; /* gone, or due again already */
	unschedule(fs, node);
	if (!node->parent || is_busy(node) || !node->dirty || (node->n_writers > 0 && look->verdict != SNIFF_WHOLE))
		return; /* the next release or FSYNC looks again */
	if (stem_is_junk(node)) {
		ingest_withdraw(fs, node);
		return;
	}
	if (node->version != look->version) {
		schedule(fs, node, settled_at(node));
		return;
	}
	if (look->early) {
		schedule(fs, node, settled_at(node));
		if (look->verdict == SNIFF_WHOLE && !results_exist(fs, look) && may_start_early(fs, node))
			submit(fs, node, look);
		return;
	}
	const struct input *input = jobs_find(&fs->jobs, node->id);
	if (input && input->early && look->verdict != SNIFF_WHOLE)
		ingest_withdraw(fs, node); /* renamed */
	bool unsupported = sniff_name(node->name) == SNIFF_NAME_UNSUPPORTED;
	switch (look->verdict) {
	case SNIFF_IGNORED:
		return;
	case SNIFF_PADDED:
	case SNIFF_TRUNCATED:
	case SNIFF_REFUSED: /* perhaps a writer that fills in the start last */
	case SNIFF_IO_ERROR:
		if (fs_monotonic_ns() < quiet_since(node) + TRUNCATED_NS && !unsupported) {
			schedule(fs, node, quiet_since(node) + TRUNCATED_NS);
			return;
		}
		break;
	case SNIFF_WHOLE:
		break;
	}
	submit(fs, node, look);
}

/* The next file that is due, and settled or to be looked at early, opened for a look. */
static bool take(struct fs *fs, struct look *look)
{
	struct entry entry = pop(fs->ingest);
	struct tree_node *node = tree_find(&fs->tree, entry.id);
	if (!node || node->due_ns != entry.due_ns)
		return false;
	if (!node->parent || is_busy(node) || !node->dirty || node->size == 0 || stem_is_junk(node)) {
		unschedule(fs, node);
		return false;
	}
	int64_t now = fs_monotonic_ns(), at = look_at(fs, node);
	if (at > now) {
		unschedule(fs, node);
		schedule(fs, node, at);
		return false;
	}
	node->due_ns = LOOKING;
	*look = (struct look){.id = node->id,
		.version = node->version,
		.early = settled_at(node) > now,
		.asked = node->asked,
		.options = xattrs_effective_options(fs, node)};
	memcpy(look->name, node->name, strlen(node->name) + 1);
	return true;
}

static void *run(void *user)
{
	struct fs *fs = user;
	struct ingest *ingest = fs->ingest;
	struct look look;
	pthread_mutex_lock(&fs->lock);
	while (!ingest->stop) {
		if (ingest->n == 0) {
			pthread_cond_wait(&ingest->wake, &fs->lock);
		} else if (ingest->heap[0].due_ns > fs_monotonic_ns()) {
			struct timespec until = fs_to_timespec(ingest->heap[0].due_ns);
			pthread_cond_timedwait(&ingest->wake, &fs->lock, &until);
		} else if (take(fs, &look)) {
			pthread_mutex_unlock(&fs->lock);
			examine(fs, &look);
			pthread_mutex_lock(&fs->lock);
			decide(fs, &look);
		}
	}
	pthread_mutex_unlock(&fs->lock);
	return NULL;
}

bool ingest_start(struct fs *fs, struct error *err)
{
	struct ingest *ingest = calloc(1, sizeof *ingest);
	if (!ingest)
		return error_set(err, "out of memory");
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ingest->wake, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_lock(&fs->lock);
	fs->ingest = ingest;
	pthread_mutex_unlock(&fs->lock);
	int error = pthread_create(&ingest->thread, NULL, run, fs);
	if (error) {
		fs->ingest = NULL;
		free(ingest->heap);
		free(ingest);
		return error_set(err, "cannot start the ingest thread: %s", strerror(error));
	}
	return true;
}

void ingest_stop(struct fs *fs)
{
	struct ingest *ingest = fs->ingest;
	if (!ingest)
		return;
	pthread_mutex_lock(&fs->lock);
	ingest->stop = true;
	pthread_cond_signal(&ingest->wake);
	pthread_mutex_unlock(&fs->lock);
	pthread_join(ingest->thread, NULL);
	pthread_mutex_lock(&fs->lock);
	fs->ingest = NULL;
	pthread_mutex_unlock(&fs->lock);
	pthread_cond_destroy(&ingest->wake);
	free(ingest->heap);
	free(ingest);
}
