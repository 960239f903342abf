/* fs.c - load a file system from its state directory, and the helpers that every part uses. See fs.h. */
#include "fs.h"

#include "config.h"
#include "contents.h"
#include "record.h"
#include "sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t fs_to_ns(struct timespec time)
{
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

struct timespec fs_to_timespec(int64_t ns)
{
	struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	if (time.tv_nsec < 0) {
		time.tv_nsec += 1000000000;
		time.tv_sec--;
	}
	return time;
}

int64_t fs_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now); /* not the coarse one: must not be behind the times of contents */
	return fs_to_ns(now);
}

int64_t fs_monotonic_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return fs_to_ns(now);
}

struct bytes *fs_change(struct fs *fs)
{
	fs->change.len = 0;
	fs->change.failed = false;
	return &fs->change;
}

int fs_commit(struct fs *fs, bool frees_space)
{
	int error = journal_append(&fs->journal, &fs->change, frees_space);
	if (!error && fs->change.len)
		sync_changed(fs);
	return error;
}

/* Ids are reserved in blocks, a new one when half of the last is used: a crash costs so many at most. */
enum { ID_BLOCK = 1 << 16 };

uint64_t fs_take_id(struct fs *fs)
{
	if (fs->tree.next_id >= fs->id_limit)
		return 0;
	if (fs->id_limit - fs->tree.next_id == ID_BLOCK / 2)
		sync_changed(fs);
	return fs->tree.next_id++;
}

uint64_t fs_reserve_ids(struct fs *fs)
{
	if (fs->id_limit - fs->tree.next_id > ID_BLOCK / 2)
		return 0;
	uint64_t limit = fs->tree.next_id + ID_BLOCK;
	record_next_id(fs_change(fs), limit);
	return journal_append(&fs->journal, &fs->change, true) == 0 ? limit : 0;
}

int64_t fs_used(const struct fs *fs)
{
	return fs->used_bytes + (int64_t)fs->tree.text_bytes +
	       FS_NAME_BYTES * ((int64_t)fs->tree.n_nodes - TREE_README); /* the fixed ones are free */
}

bool fs_over_quota(const struct fs *fs, int64_t bytes, int names)
{
	return fs->options->max_bytes > 0 &&
	       bytes > fs->options->max_bytes - fs_used(fs) - (int64_t)names * FS_NAME_BYTES;
}

/* ---- The start. ---- */

bool fs_load(struct fs *fs, const struct options *options, const char *state_path, enum state_mode mode,
	struct journal_report *report, struct error *err)
{
	*fs = (struct fs){.options = options, .start_ns = fs_monotonic_ns(), .config = config_defaults()};
	fs->journal = (struct journal){.log.fd = -1, .copy.fd = -1, .mark_fd = -1};
	pthread_mutex_init(&fs->lock, NULL);
	pthread_cond_init(&fs->content_idle, NULL);
	if (!state_open(&fs->state, state_path, mode, err))
		return false;
	if (!tree_init(&fs->tree, geteuid(), getegid(), options->allow_other, fs_now_ns()) || !jobs_init(&fs->jobs))
		return error_set(err, "out of memory");
	struct record_target target = {.tree = &fs->tree, .jobs = &fs->jobs, .config = &fs->config};
	fs->jobs.loading = true;
	if (!journal_load(&fs->journal, fs->state.dir_fd, record_apply, &target, report, err))
		return false;
	jobs_loaded(&fs->jobs);
	if (report->format == 0 && !report->damaged)
		report->damaged = report->gone = contents_exist(fs);
	fs->recovery = (struct state_recovery){.damaged = report->damaged,
		.lost_changes = report->lost_changes + report->contradictions,
		.reordered = report->reordered,
		.damaged_bytes = report->damaged_bytes,
		.cut_bytes = report->cut_bytes};
	return true;
}

/* The area of a node is that of the top folder that it is in; damage may have moved its folders. */
static void settle_area(struct tree_node *node)
{
	const struct tree_node *top = node;
	while (top->parent && top->parent->id != TREE_ROOT)
		top = top->parent;
	node->area = top->area;
	if (node->area == AREA_LOST && node->id != TREE_LOST)
		node->mode &= ~077; /* how its folders protected it is not known */
}

/* Number, count and mark what was loaded. */
static void settle_nodes(struct fs *fs)
{
	for (struct tree_node *node = tree_each(&fs->tree, NULL); node; node = tree_each(&fs->tree, node)) {
		if (node->id >= fs->tree.next_id)
			fs->tree.next_id = node->id + 1;
		if (fs->recovery.damaged)
			settle_area(node);
		if (node->area == AREA_LOST && !S_ISDIR(node->mode)) {
			jobs_forget(&fs->jobs, jobs_find(&fs->jobs, node->id));
			jobs_drop_result(&fs->jobs, node->id);
			fs->recovery.lost_files++;
		}
		if (S_ISREG(node->mode) && node->id >= TREE_FIRST_ID) {
			fs->used_bytes += node->size;
			node->unseen = true;
			fs->unseen += node->area == AREA_IN;
		}
	}
}

static void log_recovery(const struct fs *fs, const struct journal_report *report)
{
	const struct state_recovery *r = &fs->recovery;
	if (report->torn)
		fs_log("the journal's last %lld bytes were torn by a crash and are cut off",
			(long long)report->cut_bytes);
	if (r->damaged)
		fs_log("the journal was damaged: %s%lld bytes of it cannot be read, %llu changes are lost, %llu were "
		       "out of order; what it was is kept as journal.damaged",
			report->gone ? "its beginning is gone, " : "", (long long)r->damaged_bytes,
			(unsigned long long)r->lost_changes, (unsigned long long)r->reordered);
	if (report->unmarked)
		fs_log("journal.synced was missing or damaged: whether the journal had an end that is gone is not "
		       "known");
	if (r->lost_files)
		fs_log("%ld files that have no place any more are in lost/", r->lost_files);
	if (report->format == 1)
		fs_log("the state directory is written anew in a newer format; the old journal is kept as "
		       "journal.trlsfs1 until the next clean end");
}

/* The reservation of ids, and what was found without a name: synced, with the mark, before anything is served. */
static int sync_start_point(struct fs *fs, bool written_anew)
{
	struct journal *j = &fs->journal;
	struct tree_node *lost = tree_find(&fs->tree, TREE_LOST);
	int error = 0;
	if (!written_anew) {
		record_next_id(fs_change(fs), fs->id_limit);
		error = journal_append(j, &fs->change, true);
		for (const struct tree_node *node = lost; !error && node;
			node = tree_next_child(lost, node == lost ? 0 : node->id)) {
			record_node(fs_change(fs), node, node->parent->id, node->name);
			error = journal_append(j, &fs->change, true);
		}
	}
	if (!error && (fdatasync(j->log.fd) != 0 || !journal_sync_dir(fs->state.dir_fd)))
		error = errno;
	if (!error)
		journal_write_mark(
			j, &(struct journal_mark){
				   .id = j->log.id, .seq = j->log.seq, .len = j->log.len, .id_limit = fs->id_limit});
	return error;
}

bool fs_begin(struct fs *fs, struct journal_report *report, struct error *err)
{
	struct bytes image = {0};
	fs->sweeps = !report->damaged && !report->torn && !report->unmarked;
	if (!fs->sweeps) {
		if (report->id_limit > fs->tree.next_id && report->id_limit < TREE_ID_MAX)
			fs->tree.next_id = report->id_limit;
		if (!contents_recover(fs))
			return error_set(err, "out of memory");
	}
	struct tree_node *lost = tree_find(&fs->tree, TREE_LOST);
	if (lost && lost->n_children == 0) { /* what was in it has found its place, or was removed */
		tree_unlink(&fs->tree, lost);
		tree_drop_unused(&fs->tree, lost);
	}
	settle_nodes(fs);
	fs->first_new_id = fs->tree.next_id;
	fs->id_limit = fs->tree.next_id + ID_BLOCK;
	bool anew = journal_needs_image(&fs->journal, report);
	if (anew)
		record_all(&image, &fs->tree, &fs->jobs, &fs->config, fs->id_limit);
	bool ok = image.failed ? error_set(err, "out of memory")
			       : journal_begin(&fs->journal, report, anew ? &image : NULL, err);
	bytes_finish(&image);
	int error = ok ? sync_start_point(fs, anew) : 0;
	if (error)
		return error_set(err, "state directory: journal: cannot be written: %s", strerror(error));
	fs->begun = ok;
	if (ok)
		log_recovery(fs, report);
	return ok;
}

bool fs_init(struct fs *fs, const struct options *options, const char *state_path, struct error *err)
{
	struct journal_report report;
	if (!fs_load(fs, options, state_path, STATE_MAKE, &report, err) || !fs_begin(fs, &report, err))
		return false;
	return !options->job_config[0] ||
	       config_parse(&fs->config, options->job_config, strlen(options->job_config), err);
}

/* The next start finds what there is, and as many ids as were not given away. */
static void end_cleanly(struct fs *fs)
{
	struct journal *j = &fs->journal;
	record_next_id(fs_change(fs), fs->tree.next_id);
	if (journal_append(j, &fs->change, true) != 0 || fdatasync(j->log.fd) != 0)
		return;
	journal_write_mark(
		j, &(struct journal_mark){
			   .id = j->log.id, .seq = j->log.seq, .len = j->log.len, .id_limit = fs->tree.next_id});
	if (fs->all_seen) /* it was in use */
		unlinkat(fs->state.dir_fd, "journal.trlsfs1", 0);
}

void fs_finish(struct fs *fs)
{
	if (fs->begun)
		end_cleanly(fs);
	journal_close(&fs->journal);
	for (size_t i = 0; i < fs->follow.n; i++)
		free(fs->follow.steps[i].old_path);
	free(fs->follow.steps);
	jobs_finish(&fs->jobs);
	tree_finish(&fs->tree);
	bytes_finish(&fs->change);
	state_close(&fs->state);
	pthread_cond_destroy(&fs->content_idle);
	pthread_mutex_destroy(&fs->lock);
}
