/* follow.c - results follow their pictures. See follow.h.
 *
 * Requests only note: a picture goes to the list of moves, a folder to a stack of those to look through. The scheduler
 * does the rest, the lock taken for a slice at a time. */
#include "follow.h"

#include "contents.h"
#include "ingest.h"
#include "record.h"
#include "scheduler.h"
#include "sniff.h"
#include "stem.h"
#include "sync.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE = 256 }; /* files looked at under the lock */
enum {
	WHOLE_MAX = 20000
}; /* files of a folder that is renamed as a whole: they are looked at under the lock, about 10 ms */
enum { HOPS_MAX = 32 }; /* pictures that wait for one another */

/* ---- What requests note. ---- */

/* Where the results of an input are. */
static const char *present_stem(const struct input *input)
{
	return input->old_stem ? input->old_stem : input->stem;
}

static bool is_settled(const struct tree_node *node, const struct input *input)
{
	char path[PATH_MAX];
	return !input->stem || (!input->old_stem && tree_path(node, path, sizeof path) && stem_fits(path, input->stem));
}

/* The set of results of the input that are at this stem; 1u << JOB_OUTPUTS is the error file. */
static uint32_t results_at(const struct fs *fs, const struct input *input, const char *stem)
{
	uint32_t set = 0;
	for (unsigned output = 0; stem && output <= JOB_OUTPUTS; output++) {
		const struct result *result = stem_result(&fs->jobs, &fs->tree, stem, output);
		set |= result && result->source == input->id ? 1u << output : 0;
	}
	return set;
}

/* Its name is junk: what was to come of it is not wanted until it has another one. What there is stays. */
static void set_aside(struct fs *fs, struct tree_node *node, struct input *input)
{
	input->aside = true;
	if (input->state == INPUT_DONE || input->state == INPUT_FAILED) {
		if (!input->unpublished) {
			jobs_set_moved(&fs->jobs, input, false);
			return;
		}
	}
	node->dirty = true;
	input->stamp_size = -1; /* of no content: after a start, too */
	ingest_withdraw(fs, node);
}

/* A file of in/, its name and where it is being what they are now. renamed: that is why we look. */
static void look(struct fs *fs, struct tree_node *node, bool renamed)
{
	struct input *input = jobs_find(&fs->jobs, node->id);
	if (stem_is_junk(node)) {
		if (input)
			set_aside(fs, node, input);
		return;
	}
	if (input) {
		bool finished = !input->unpublished && (input->state == INPUT_DONE || input->state == INPUT_FAILED);
		bool owed = input->aside ? !results_at(fs, input, present_stem(input)) : renamed && !input->stem;
		input->aside = false;
		node->dirty |= finished && owed;
		if (!is_settled(node, input))
			jobs_set_moved(&fs->jobs, input, true);
	}
	if (renamed)
		ingest_renamed(fs, node);
}

void follow_renamed(struct fs *fs, struct tree_node *node)
{
	look(fs, node, true);
	scheduler_wake(fs);
}

static void push(struct follow *follow, struct follow_step step)
{
	if (follow->n == follow->cap) {
		size_t cap = follow->cap ? 2 * follow->cap : 16;
		struct follow_step *steps = realloc(follow->steps, cap * sizeof *steps);
		if (!steps) { /* after the next start, then */
			free(step.old_path);
			return;
		}
		follow->steps = steps;
		follow->cap = cap;
	}
	follow->steps[follow->n++] = step;
}

void follow_folder(struct fs *fs, uint64_t folder, const char *old_path)
{
	struct follow *follow = &fs->follow;
	if (!fs->scheduler)
		return;
	for (size_t i = 0; i < follow->n; i++) /* renamed twice: its results are where the first name was */
		if (folder && follow->steps[i].folder == folder && follow->steps[i].old_path)
			return;
	push(follow, (struct follow_step){.folder = folder, .old_path = strdup(old_path), .renamed = true});
	scheduler_wake(fs);
}

void follow_all(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	push(&fs->follow, (struct follow_step){.folder = TREE_IN});
	pthread_mutex_unlock(&fs->lock);
}

void follow_taken(struct fs *fs, const struct tree_node *node)
{
	char path[PATH_MAX];
	struct result *result = jobs_result(&fs->jobs, node->id);
	if (!result || !tree_path(node, path, sizeof path))
		return;
	size_t len = strlen(path), end = strlen(stem_extension(result->output)) + 1;
	const struct input *owner = NULL;
	if (len > end && path[len - end] == '.' && strcmp(path + len - end + 1, stem_extension(result->output)) == 0) {
		path[len - end] = '\0';
		owner = stem_owner(&fs->jobs, &fs->tree, path, NULL);
	}
	result->source = owner ? owner->id : 0;
	record_result(fs_change(fs), result);
	fs_commit(fs, false);
}

/* The stem of a result's source that is at `from`, a folder, when that is called `to`. False: it has another one. */
static bool carried_stem(const struct input *input, const char *from, const char *to, char stem[PATH_MAX])
{
	size_t len = strlen(from);
	return input && input->stem && strncmp(input->stem, from, len) == 0 && input->stem[len] == '/' &&
	       snprintf(stem, PATH_MAX, "%s%s", to, input->stem + len) < PATH_MAX;
}

void follow_carry_folder(struct fs *fs, const struct tree_node *folder, const char *to, struct bytes *change)
{
	char from[PATH_MAX], stem[PATH_MAX];
	if (!tree_path(folder, from, sizeof from))
		return;
	for (const struct tree_node *node = folder; (node = tree_next_below(node, folder));) {
		const struct result *result = jobs_result(&fs->jobs, node->id);
		struct input *input = result ? jobs_find(&fs->jobs, result->source) : NULL;
		if (!carried_stem(input, from, to, stem))
			continue;
		struct input carried = *input;
		carried.stem = stem;
		if (change)
			record_input(change, &carried);
		else
			jobs_set_stem(&fs->jobs, input, stem);
	}
}

bool follow_waits(const struct fs *fs, const struct input *input)
{
	const struct tree_node *node = tree_find(&fs->tree, input->id);
	return input->moved || (fs->follow.n && node && node->parent && !input->aside && !is_settled(node, input));
}

long follow_waiting(const struct fs *fs)
{
	return fs->jobs.moves.n + (fs->follow.n > 0);
}

/* ---- One picture. ---- */

/* What is to be done for it. */
struct move {
	uint64_t input, seq;
	char from[PATH_MAX], to[PATH_MAX]; /* stems */
	uint64_t owner;			   /* of `from` by now, who has no results of its own yet; 0: nobody */
	uint64_t in_the_way;		   /* whose results have to leave `to` first; 0: nobody's */
};

/* Who has the old name by now and nothing to put there yet. One whose own results are about to come needs no others. */
static uint64_t new_owner(const struct fs *fs, const struct input *input)
{
	const struct input *owner = stem_owner(&fs->jobs, &fs->tree, input->old_stem, input);
	return owner && !owner->old_stem ? owner->id : 0;
}

/* False: there is nothing to be done. */
static bool plan(struct fs *fs, uint64_t id, struct move *move)
{
	struct error err;
	struct jobs *jobs = &fs->jobs;
	struct input *input = jobs_find(jobs, id);
	const struct tree_node *node = tree_find(&fs->tree, id);
	bool wanted = input && node && node->parent && !stem_is_junk(node) && !is_settled(node, input);
	uint32_t outputs = wanted ? results_at(fs, input, present_stem(input)) : 0;
	if (wanted && !stem_claim(jobs, &fs->tree, input, node, outputs, &err)) {
		scheduler_note_problem(fs, node, err.text, false);
		wanted = false;
	}
	if (!wanted || !input->old_stem) {
		if (input)
			jobs_set_moved(jobs, input, false);
		return false;
	}
	const struct input *other = stem_in_the_way(jobs, &fs->tree, input, outputs);
	*move = (struct move){
		.input = id, .seq = input->seq, .owner = new_owner(fs, input), .in_the_way = other ? other->id : 0};
	snprintf(move->from, sizeof move->from, "%s", input->old_stem);
	snprintf(move->to, sizeof move->to, "%s", input->stem);
	return true;
}

static bool make_plan(struct fs *fs, uint64_t id, struct move *move)
{
	pthread_mutex_lock(&fs->lock);
	bool more = plan(fs, id, move);
	pthread_mutex_unlock(&fs->lock);
	return more;
}

/* One result of the input at the old stem. */
struct old_result {
	struct publish_file file; /* as it would be bound anew; without node_id and path */
	uint64_t node;
	uint8_t key[JOBS_KEY_LEN];
	bool outdated; /* a newer one is at the new stem; or it is the error file of what has become a mesh */
};

static bool is_current(const struct input *input, const struct result *result)
{
	return memcmp(input->key, result->key, sizeof input->key) == 0;
}

static bool find_old(struct fs *fs, const struct move *move, unsigned output, struct old_result *old)
{
	pthread_mutex_lock(&fs->lock);
	const struct input *input = jobs_find(&fs->jobs, move->input);
	const struct result *result = stem_result(&fs->jobs, &fs->tree, move->from, output),
			    *newer = stem_result(&fs->jobs, &fs->tree, move->to, output);
	bool found = input && result && result->source == input->id;
	if (found) {
		const struct tree_node *node = tree_find(&fs->tree, result->id);
		old->node = node->id;
		old->outdated = (newer && newer->source == input->id &&
					(is_current(input, newer) || !is_current(input, result))) ||
				(output == JOB_OUTPUTS && input->state == INPUT_DONE);
		memcpy(old->key, result->key, sizeof old->key);
		old->file = (struct publish_file){.uid = node->uid,
			.gid = node->gid,
			.mode = node->mode & 0666,
			.size = node->size,
			.source = move->input,
			.seq = move->seq,
			.key = old->key,
			.output = output,
			.follows = true};
	}
	pthread_mutex_unlock(&fs->lock);
	return found;
}

/* The file stays, as an older result of the picture that has the name now. */
static void hand_over(struct fs *fs, const struct move *move, const struct old_result *old)
{
	pthread_mutex_lock(&fs->lock);
	struct result *result = jobs_result(&fs->jobs, old->node);
	if (result && jobs_find(&fs->jobs, move->owner)) {
		result->source = move->owner;
		record_result(fs_change(fs), result);
		fs_commit(fs, false);
	}
	pthread_mutex_unlock(&fs->lock);
}

static int bind_anew(struct fs *fs, struct publisher *publisher, struct old_result *old, const char *to)
{
	contents_look(fs, old->node);
	pthread_mutex_lock(&fs->lock);
	uint64_t fresh = jobs_result(&fs->jobs, old->node) ? fs_take_id(fs) : 0;
	pthread_mutex_unlock(&fs->lock);
	int error = fresh ? state_content_link(&fs->state, old->node, fresh) : ENOSPC;
	if (error)
		return error;
	sync_written(fs, fresh, true);
	old->file.node_id = fresh;
	old->file.path = to;
	return publisher_publish(publisher, &old->file);
}

/* 0, also where it has gone meanwhile, or an errno. */
static int move_one(struct fs *fs, struct publisher *publisher, const struct move *move, unsigned output)
{
	char from[STEM_PATH_MAX], to[STEM_PATH_MAX];
	struct old_result old;
	int error = 0;
	if (!find_old(fs, move, output, &old))
		return 0;
	stem_path(move->from, output, from);
	stem_path(move->to, output, to);
	if (move->owner) {
		if (!old.outdated)
			error = bind_anew(fs, publisher, &old, to);
		if (!error)
			hand_over(fs, move, &old);
	} else if (old.outdated) {
		publisher_unlink(publisher, from);
	} else {
		error = publisher_move(publisher, from, to, old.node);
	}
	return error == ENOENT || error == ESTALE || error == ECANCELED ? 0 : error;
}

/* The results are at `to` now. Its stem may be another one again. */
static void note_moved(struct fs *fs, const struct move *move, const char *to)
{
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, move->input);
	const struct tree_node *node = tree_find(&fs->tree, move->input);
	if (input && input->old_stem && strcmp(input->old_stem, move->from) == 0) {
		char *old = input->old_stem, *next = strcmp(input->stem, to) == 0 ? NULL : strdup(to);
		input->old_stem = next;
		free(old);
		record_input(fs_change(fs), input);
		fs_commit(fs, true); /* if this fails, the next start finds them */
		jobs_set_moved(&fs->jobs, input, node && node->parent && !is_settled(node, input));
	}
	pthread_mutex_unlock(&fs->lock);
}

/* A folder of out/ that may have become empty goes, and those above it; but not what in/ has, too: somebody may watch it. */
static void prune(struct fs *fs, struct publisher *publisher, const char *path)
{
	char folder[PATH_MAX];
	for (int len = snprintf(folder, sizeof folder, "%s", path); len > 0;) {
		pthread_mutex_lock(&fs->lock);
		const struct tree_node *there = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_OUT), folder),
				       *twin = tree_resolve(&fs->tree, tree_find(&fs->tree, TREE_IN), folder);
		bool empty = there && S_ISDIR(there->mode) && there->n_children == 0 && !(twin && S_ISDIR(twin->mode));
		pthread_mutex_unlock(&fs->lock);
		if (!empty)
			return;
		publisher_rmdir(publisher, folder);
		while (len > 0 && folder[len] != '/')
			len--;
		folder[len] = '\0';
	}
}

static void prune_above(struct fs *fs, struct publisher *publisher, const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 0, path);
	prune(fs, publisher, folder);
}

/* As they are published: the .glb last. */
static void carry_out(struct fs *fs, struct publisher *publisher, const struct move *move)
{
	int error = 0;
	for (unsigned i = JOB_OUTPUTS + 1; !error && i-- > 0;)
		error = move_one(fs, publisher, move, i);
	if (error) { /* they are found at the old stem, and by the next start */
		pthread_mutex_lock(&fs->lock);
		struct input *input = jobs_find(&fs->jobs, move->input);
		fs_log("out/%s.* cannot follow its picture: %s", move->from, strerror(error));
		if (input)
			jobs_set_moved(&fs->jobs, input, false);
		pthread_mutex_unlock(&fs->lock);
		return;
	}
	note_moved(fs, move, move->to);
	prune_above(fs, publisher, move->from);
}

/* In a circle somebody has to leave first, to a place that nobody wants. No event tells of it: the one that counts is to come. */
static void step_aside(struct fs *fs, struct publisher *publisher, const struct move *move)
{
	char away[64], from[STEM_PATH_MAX], to[STEM_PATH_MAX];
	struct old_result old;
	snprintf(away, sizeof away, ".following-%llx", (unsigned long long)move->input);
	for (unsigned output = 0; output <= JOB_OUTPUTS; output++) {
		if (!find_old(fs, move, output, &old))
			continue;
		stem_path(move->from, output, from);
		stem_path(away, output, to);
		publisher_move_silently(publisher, from, to, old.node);
	}
	note_moved(fs, move, away);
}

/* It waits for one that cannot move: it stays where it is, too. */
static void give_up(struct fs *fs, uint64_t id)
{
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	if (input)
		jobs_set_moved(&fs->jobs, input, false);
	pthread_mutex_unlock(&fs->lock);
}

/* Bring the results of one picture, or of those that it has to wait for, a step nearer to where they belong. */
static void follow(struct fs *fs, struct publisher *publisher, uint64_t id)
{
	struct move move;
	uint64_t at = id;
	int hops = 0;
	for (; make_plan(fs, at, &move); hops++) {
		if (!move.in_the_way) {
			carry_out(fs, publisher, &move);
			return;
		}
		at = move.in_the_way;
		if (at == id || hops == HOPS_MAX) {
			step_aside(fs, publisher, &move);
			return;
		}
	}
	if (hops && make_plan(fs, id, &move) && move.in_the_way == at)
		give_up(fs, id);
}

void follow_make_way(struct fs *fs, struct publisher *publisher, uint64_t input_id)
{
	for (int tries = 0; tries < HOPS_MAX; tries++) {
		pthread_mutex_lock(&fs->lock);
		const struct input *input = jobs_find(&fs->jobs, input_id);
		uint32_t outputs = input ? input->options.outputs | 1u << JOB_OUTPUTS : 0;
		const struct input *other =
			input && input->stem ? stem_in_the_way(&fs->jobs, &fs->tree, input, outputs) : NULL;
		uint64_t id = other ? other->id : 0;
		pthread_mutex_unlock(&fs->lock);
		if (!id)
			return;
		follow(fs, publisher, id);
	}
}

void follow_published(struct fs *fs, struct publisher *publisher, uint64_t input_id, const char *stem)
{
	struct move move = {.input = input_id};
	pthread_mutex_lock(&fs->lock);
	const struct input *input = jobs_find(&fs->jobs, input_id);
	bool older = input && input->old_stem && strcmp(input->old_stem, stem) != 0;
	if (older) {
		move.seq = input->seq;
		move.owner = new_owner(fs, input);
		snprintf(move.from, sizeof move.from, "%s", input->old_stem);
		snprintf(move.to, sizeof move.to, "%s", stem);
	}
	pthread_mutex_unlock(&fs->lock);
	if (older)
		carry_out(fs, publisher, &move);
}

/* ---- Folders. ---- */

/* Whether a folder of out/ has nothing but results of pictures below that folder of in/, in their places. */
static bool is_all_of(const struct fs *fs, const struct tree_node *results, const struct tree_node *pictures)
{
	char path[PATH_MAX], wanted[STEM_PATH_MAX];
	int n = 0;
	for (const struct tree_node *node = results; (node = tree_next_below(node, results));) {
		if (++n > WHOLE_MAX)
			return false;
		if (S_ISDIR(node->mode))
			continue;
		const struct result *result = jobs_result(&fs->jobs, node->id);
		const struct input *source = result ? stem_live_source(&fs->jobs, &fs->tree, result) : NULL;
		if (!source || source->old_stem || !source->stem ||
			!tree_is_inside(tree_find(&fs->tree, source->id), pictures) ||
			!tree_path(node, path, sizeof path))
			return false;
		stem_path(source->stem, result->output, wanted);
		if (strcmp(path, wanted) != 0)
			return false;
	}
	return true;
}

/* The folder of results that is to be renamed as a whole, 0: file by file. to: its new name, room for PATH_MAX. */
static uint64_t whole_folder(struct fs *fs, uint64_t folder, const char *old_path, char *to)
{
	struct tree_node *pictures = tree_find(&fs->tree, folder), *out = tree_find(&fs->tree, TREE_OUT);
	const struct tree_node *results = tree_resolve(&fs->tree, out, old_path);
	if (!pictures || !pictures->parent || stem_is_junk(pictures) || sniff_folder_is_junk(pictures->name) ||
		!tree_path(pictures, to, PATH_MAX) || !results || !S_ISDIR(results->mode) ||
		tree_resolve(&fs->tree, out, to) || !is_all_of(fs, results, pictures))
		return 0;
	return results->id;
}

static void lead_folder(struct fs *fs, struct publisher *publisher, uint64_t folder, const char *old_path)
{
	char to[PATH_MAX];
	pthread_mutex_lock(&fs->lock);
	uint64_t results = folder ? whole_folder(fs, folder, old_path, to) : 0;
	pthread_mutex_unlock(&fs->lock);
	if (results && publisher_move(publisher, old_path, to, results) == 0)
		prune_above(fs, publisher, old_path);
	else
		prune(fs, publisher, old_path);
}

/* The name of a folder that is to be looked at first, malloc'd, or NULL. */
static char *take_folder(struct fs *fs, uint64_t *folder)
{
	pthread_mutex_lock(&fs->lock);
	struct follow_step *step = fs->follow.n ? &fs->follow.steps[fs->follow.n - 1] : NULL;
	char *old_path = step ? step->old_path : NULL;
	if (old_path) {
		*folder = step->folder;
		step->old_path = NULL;
	}
	pthread_mutex_unlock(&fs->lock);
	return old_path;
}

/* Some files further. False: all has been looked through. */
static bool look_through(struct fs *fs)
{
	struct follow *follow = &fs->follow;
	pthread_mutex_lock(&fs->lock);
	for (int i = 0; i < SLICE && follow->n && !follow->steps[follow->n - 1].old_path; i++) {
		struct follow_step *step = &follow->steps[follow->n - 1];
		const struct tree_node *folder = tree_find(&fs->tree, step->folder);
		struct tree_node *child = folder ? tree_next_child(folder, step->after) : NULL;
		if (!child) {
			follow->n--;
			continue;
		}
		step->after = child->id;
		if (S_ISDIR(child->mode))
			push(follow, (struct follow_step){.folder = child->id, .renamed = step->renamed});
		else if (S_ISREG(child->mode))
			look(fs, child, step->renamed);
	}
	bool more = follow->n > 0;
	pthread_mutex_unlock(&fs->lock);
	return more;
}

bool follow_turn(struct fs *fs, struct publisher *publisher, int64_t until_ns)
{
	do {
		uint64_t folder;
		char *old_path = take_folder(fs, &folder);
		if (old_path) {
			lead_folder(fs, publisher, folder, old_path);
			free(old_path);
		} else if (!look_through(fs)) {
			pthread_mutex_lock(&fs->lock);
			const struct input *first = jobs_first_move(&fs->jobs);
			uint64_t id = first ? first->id : 0;
			pthread_mutex_unlock(&fs->lock);
			if (!id)
				return false;
			follow(fs, publisher, id);
		}
	} while (fs_monotonic_ns() < until_ns);
	return true;
}
