/* jobs.c - inputs, queue and results in memory. See jobs.h. */
#include "jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t hash_id(uint64_t id, size_t buckets)
{
	return (size_t)((id * 0x9e3779b97f4a7c15u) >> 20) & (buckets - 1);
}

static size_t hash_text(const char *text, size_t buckets)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3u;
	return (size_t)(h ^ h >> 29) & (buckets - 1);
}

static size_t hash_key(const uint8_t *key, size_t buckets)
{
	uint64_t h;
	memcpy(&h, key, sizeof h); /* a hash already */
	return (size_t)h & (buckets - 1);
}

bool jobs_init(struct jobs *jobs)
{
	*jobs = (struct jobs){.input_buckets = 4096, .result_buckets = 4096, .next_seq = 1};
	jobs->inputs_by_id = calloc(jobs->input_buckets, sizeof *jobs->inputs_by_id);
	jobs->inputs_by_stem = calloc(jobs->input_buckets, sizeof *jobs->inputs_by_stem);
	jobs->results_by_id = calloc(jobs->result_buckets, sizeof *jobs->results_by_id);
	jobs->results_by_key = calloc(jobs->result_buckets, sizeof *jobs->results_by_key);
	if (jobs->inputs_by_id && jobs->inputs_by_stem && jobs->results_by_id && jobs->results_by_key)
		return true;
	jobs_finish(jobs);
	return false;
}

static void free_input(struct input *input)
{
	free(input->stem);
	free(input->old_stem);
	free(input->error);
	free(input);
}

void jobs_finish(struct jobs *jobs)
{
	for (size_t i = 0; jobs->inputs_by_id && i < jobs->input_buckets; i++) {
		for (struct input *input = jobs->inputs_by_id[i], *next; input; input = next) {
			next = input->next_id;
			free_input(input);
		}
	}
	for (size_t i = 0; jobs->results_by_id && i < jobs->result_buckets; i++) {
		for (struct result *result = jobs->results_by_id[i], *next; result; result = next) {
			next = result->next_id;
			free(result);
		}
	}
	free(jobs->inputs_by_id);
	free(jobs->inputs_by_stem);
	free(jobs->results_by_id);
	free(jobs->results_by_key);
	*jobs = (struct jobs){0};
}

struct input *jobs_find(const struct jobs *jobs, uint64_t id)
{
	struct input *input = jobs->inputs_by_id[hash_id(id, jobs->input_buckets)];
	while (input && input->id != id)
		input = input->next_id;
	return input;
}

struct input *jobs_input(struct jobs *jobs, uint64_t id)
{
	struct input *input = jobs_find(jobs, id);
	if (input)
		return input;
	input = calloc(1, sizeof *input);
	if (!input)
		return NULL;
	input->id = id;
	struct input **bucket = &jobs->inputs_by_id[hash_id(id, jobs->input_buckets)];
	input->next_id = *bucket;
	*bucket = input;
	jobs->n_inputs++;
	return input;
}

static void drop_stem(struct jobs *jobs, struct input *input)
{
	if (!input->stem)
		return;
	struct input **at = &jobs->inputs_by_stem[hash_text(input->stem, jobs->input_buckets)];
	while (*at != input)
		at = &(*at)->next_stem;
	*at = input->next_stem;
	free(input->stem);
	input->stem = NULL;
}

static void leave_list(struct input *input)
{
	struct input_list *list = input->list;
	if (!list)
		return;
	*(input->before ? &input->before->after : &list->first) = input->after;
	*(input->after ? &input->after->before : &list->last) = input->before;
	input->before = input->after = NULL;
	input->list = NULL;
	list->n--;
}

/* By seq: from the end, which is where nearly all belong; or as they come. */
static void enter_list(struct input_list *list, struct input *input, bool by_seq)
{
	struct input *before = list->last;
	while (by_seq && before && before->seq > input->seq)
		before = before->before;
	input->list = list;
	input->before = before;
	input->after = before ? before->after : list->first;
	*(before ? &before->after : &list->first) = input;
	*(input->after ? &input->after->before : &list->last) = input;
	list->n++;
}

void jobs_forget(struct jobs *jobs, struct input *input)
{
	if (!input)
		return;
	leave_list(input);
	drop_stem(jobs, input);
	struct input **at = &jobs->inputs_by_id[hash_id(input->id, jobs->input_buckets)];
	while (*at != input)
		at = &(*at)->next_id;
	*at = input->next_id;
	jobs->n_inputs--;
	free_input(input);
}

bool jobs_wants(const struct input *input, uint64_t seq)
{
	return input && input->seq == seq && (input->state == INPUT_RUNNING || input->unpublished);
}

void jobs_set_state(struct jobs *jobs, struct input *input, enum input_state state, bool unpublished)
{
	struct input_list *list = state == INPUT_QUEUED ? &jobs->queue : unpublished ? &jobs->outcomes : NULL;
	if (!list && input->moved && (state == INPUT_DONE || state == INPUT_FAILED))
		list = &jobs->moves;
	input->state = state;
	input->unpublished = unpublished;
	if (list == input->list || jobs->loading)
		return;
	leave_list(input);
	if (list)
		enter_list(list, input, list != &jobs->moves);
}

void jobs_set_moved(struct jobs *jobs, struct input *input, bool moved)
{
	input->moved = moved;
	jobs_set_state(jobs, input, input->state, input->unpublished);
}

static int by_seq(const void *a, const void *b)
{
	const struct input *x = *(struct input *const *)a, *y = *(struct input *const *)b;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void jobs_loaded(struct jobs *jobs)
{
	struct input **waiting = malloc((jobs->n_inputs + 1) * sizeof *waiting);
	size_t n = 0;
	jobs->loading = false;
	for (size_t i = 0; i < jobs->input_buckets; i++) {
		for (struct input *input = jobs->inputs_by_id[i]; input; input = input->next_id) {
			if (input->state != INPUT_QUEUED && !input->unpublished)
				continue;
			if (waiting)
				waiting[n++] = input;
			else /* no memory: slower */
				jobs_set_state(jobs, input, input->state, input->unpublished);
		}
	}
	if (n)
		qsort(waiting, n, sizeof *waiting, by_seq);
	for (size_t i = 0; i < n; i++)
		jobs_set_state(jobs, waiting[i], waiting[i]->state, waiting[i]->unpublished);
	free(waiting);
}

void jobs_enqueue(struct jobs *jobs, struct input *input)
{
	leave_list(input);
	input->seq = jobs->next_seq++;
	input->early = false;
	input->deaths = 0;
	input->storage_tries = input->device_failures = 0;
	input->retry_ns = 0;
	input->failed_devices = 0;
	jobs_set_error(input, NULL);
	jobs_set_state(jobs, input, INPUT_QUEUED, false);
}

struct input *jobs_next(struct jobs *jobs, bool (*may)(void *user, const struct input *input), void *user)
{
	struct input *above = NULL, *lowest = NULL; /* the next user after the last one, and the first of all */
	for (struct input *input = jobs->queue.first; input; input = input->after) {
		if (may && !may(user, input))
			continue;
		if (input->uid > jobs->last_uid && (!above || input->uid < above->uid))
			above = input;
		if (!lowest || input->uid < lowest->uid)
			lowest = input;
	}
	struct input *next = above ? above : lowest;
	if (next)
		jobs->last_uid = next->uid;
	return next;
}

/* One walk. A place: how many the user has before it, then where the user is in the circle. */
size_t jobs_outcome_turns(const struct jobs *jobs, struct input *turns[JOBS_TURNS_MAX])
{
	uint64_t places[JOBS_TURNS_MAX];
	size_t n = 0;
	const struct input *beaten = NULL; /* nobody of this user comes in any more */
	for (struct input *input = jobs->outcomes.first; input; input = input->after) {
		if (beaten && beaten->uid == input->uid)
			continue;
		uint64_t place = (uint32_t)(input->uid - jobs->last_outcome_uid - 1);
		for (size_t i = 0; i < n; i++)
			place += (uint64_t)(turns[i]->uid == input->uid) << 32;
		size_t at = n;
		while (at > 0 && places[at - 1] > place)
			at--;
		if (at == JOBS_TURNS_MAX) {
			beaten = input;
			continue;
		}
		n += n < JOBS_TURNS_MAX;
		memmove(turns + at + 1, turns + at, (n - 1 - at) * sizeof *turns);
		memmove(places + at + 1, places + at, (n - 1 - at) * sizeof *places);
		turns[at] = input;
		places[at] = place;
	}
	return n;
}

bool jobs_set_error(struct input *input, const char *text)
{
	char *copy = text ? strdup(text) : NULL;
	free(input->error);
	input->error = copy;
	return copy || !text;
}

void jobs_fail(struct jobs *jobs, struct input *input)
{
	jobs_set_state(jobs, input, INPUT_FAILED, false);
	jobs->n_failed++;
}

const char *jobs_show_name(const struct tree_node *node, char *out, size_t size)
{
	static const char DOTS[] = "...";
	size_t at = size - 1;
	out[at] = '\0';
	for (; node && node->parent && node->parent->parent; node = node->parent) {
		size_t len = strlen(node->name);
		const char *part = at < len + 1 + sizeof DOTS ? DOTS : node->name;
		if (part == DOTS)
			len = sizeof DOTS - 1;
		if (out[at])
			out[--at] = '/';
		memcpy(out + (at -= len), part, len);
		if (part == DOTS)
			break;
	}
	return memmove(out, out + at, size - at);
}

bool jobs_set_stem(struct jobs *jobs, struct input *input, const char *stem)
{
	char *copy = strdup(stem);
	if (!copy)
		return false;
	drop_stem(jobs, input);
	input->stem = copy;
	struct input **bucket = &jobs->inputs_by_stem[hash_text(copy, jobs->input_buckets)];
	input->next_stem = *bucket;
	*bucket = input;
	return true;
}

struct input *jobs_by_stem(const struct jobs *jobs, const char *stem, const struct input *after)
{
	struct input *input = after ? after->next_stem : jobs->inputs_by_stem[hash_text(stem, jobs->input_buckets)];
	while (input && strcmp(input->stem, stem) != 0)
		input = input->next_stem;
	return input;
}

struct result *jobs_result(const struct jobs *jobs, uint64_t id)
{
	struct result *result = jobs->results_by_id[hash_id(id, jobs->result_buckets)];
	while (result && result->id != id)
		result = result->next_id;
	return result;
}

struct result *jobs_result_by_key(const struct jobs *jobs, const uint8_t *key, enum job_output output)
{
	struct result *result = jobs->results_by_key[hash_key(key, jobs->result_buckets)];
	while (result && (result->output != output || memcmp(result->key, key, JOBS_KEY_LEN) != 0))
		result = result->next_key;
	return result;
}

struct result *jobs_add_result(struct jobs *jobs, uint64_t id, uint64_t source, const uint8_t *key, unsigned output)
{
	jobs_drop_result(jobs, id);
	struct result *result = calloc(1, sizeof *result);
	if (!result)
		return NULL;
	result->id = id;
	result->source = source;
	memcpy(result->key, key, JOBS_KEY_LEN);
	result->output = output;
	struct result **by_id = &jobs->results_by_id[hash_id(id, jobs->result_buckets)];
	struct result **by_key = &jobs->results_by_key[hash_key(key, jobs->result_buckets)];
	result->next_id = *by_id;
	result->next_key = *by_key;
	*by_id = *by_key = result;
	jobs->n_results++;
	return result;
}

void jobs_drop_result(struct jobs *jobs, uint64_t id)
{
	struct result *result = jobs_result(jobs, id);
	if (!result)
		return;
	struct result **at = &jobs->results_by_id[hash_id(id, jobs->result_buckets)];
	while (*at != result)
		at = &(*at)->next_id;
	*at = result->next_id;
	at = &jobs->results_by_key[hash_key(result->key, jobs->result_buckets)];
	while (*at != result)
		at = &(*at)->next_key;
	*at = result->next_key;
	jobs->n_results--;
	free(result);
}
