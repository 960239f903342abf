/* jobs.c - inputs, queue and results in memory. See jobs.h. */
#include "jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct input *of_id(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct input, by_id) : NULL;
}

static struct input *of_stem(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct input, by_stem) : NULL;
}

static struct result *result_of_id(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct result, by_id) : NULL;
}

static struct result *result_of_key(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct result, by_key) : NULL;
}

static size_t hash_by_id(const struct table_link *link)
{
	return table_hash_id(of_id(link)->id);
}

static size_t hash_by_stem(const struct table_link *link)
{
	return table_hash_text(0, of_stem(link)->stem);
}

static size_t hash_result_by_id(const struct table_link *link)
{
	return table_hash_id(result_of_id(link)->id);
}

static size_t hash_key(const uint8_t *key, unsigned output)
{
	uint64_t h;
	memcpy(&h, key, sizeof h); /* a hash already */
	return (size_t)(h + output);
}

static size_t hash_by_key(const struct table_link *link)
{
	const struct result *result = result_of_key(link);
	return hash_key(result->key, result->output);
}

bool jobs_init(struct jobs *jobs)
{
	*jobs = (struct jobs){.next_seq = 1};
	if (table_init(&jobs->inputs_by_id, hash_by_id) && table_init(&jobs->inputs_by_stem, hash_by_stem) &&
		table_init(&jobs->results_by_id, hash_result_by_id) && table_init(&jobs->results_by_key, hash_by_key))
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

static void finish_queue(struct input_queue *queue)
{
	for (struct input_list *list = queue->users, *next; list; list = next) {
		next = list->next;
		if (list != &queue->spare)
			free(list);
	}
}

void jobs_finish(struct jobs *jobs)
{
	const struct table *inputs = &jobs->inputs_by_id, *results = &jobs->results_by_id;
	for (struct input *input = of_id(table_next(inputs, NULL)), *next; input; input = next) {
		next = of_id(table_next(inputs, &input->by_id));
		free_input(input);
	}
	for (struct result *result = result_of_id(table_next(results, NULL)), *next; result; result = next) {
		next = result_of_id(table_next(results, &result->by_id));
		free(result);
	}
	finish_queue(&jobs->queue);
	finish_queue(&jobs->outcomes);
	finish_queue(&jobs->moves);
	table_finish(&jobs->inputs_by_id);
	table_finish(&jobs->inputs_by_stem);
	table_finish(&jobs->results_by_id);
	table_finish(&jobs->results_by_key);
	*jobs = (struct jobs){0};
}

struct input *jobs_find(const struct jobs *jobs, uint64_t id)
{
	struct input *input = of_id(table_chain(&jobs->inputs_by_id, table_hash_id(id)));
	while (input && input->id != id)
		input = of_id(input->by_id.next);
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
	table_add(&jobs->inputs_by_id, &input->by_id);
	jobs->n_inputs++;
	return input;
}

static void drop_stem(struct jobs *jobs, struct input *input)
{
	if (!input->stem)
		return;
	table_remove(&jobs->inputs_by_stem, &input->by_stem);
	free(input->stem);
	input->stem = NULL;
}

/* The user's list, which is made when there is none. */
static struct input_list *list_of(struct input_queue *queue, uint32_t uid)
{
	struct input_list **at = &queue->users;
	while (*at && (*at)->uid < uid)
		at = &(*at)->next;
	struct input_list *list = *at;
	if (list && list->uid == uid)
		return list;
	list = malloc(sizeof *list);
	if (!list && queue->spare.first)
		return &queue->spare;
	if (!list)
		list = &queue->spare;
	*list = (struct input_list){.queue = queue, .next = *at, .uid = uid};
	*at = list;
	return list;
}

static void drop_list(struct input_list *list)
{
	struct input_list **at = &list->queue->users;
	while (*at != list)
		at = &(*at)->next;
	*at = list->next;
	if (list != &list->queue->spare)
		free(list);
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
	list->queue->n--;
	if (!list->first)
		drop_list(list);
}

/* By seq: from both ends, as nearly all belong at the last place, and those that ran already at the first. Or as they come. */
static void enter_list(struct input_list *list, struct input *input, bool by_seq)
{
	struct input *before = list->last, *after = list->first;
	while (by_seq && before && before->seq > input->seq && after->seq < input->seq) {
		before = before->before;
		after = after->after;
	}
	if (before && before->seq > input->seq)
		before = after->before;
	input->list = list;
	input->before = before;
	input->after = before ? before->after : list->first;
	*(before ? &before->after : &list->first) = input;
	*(input->after ? &input->after->before : &list->last) = input;
	list->queue->n++;
}

void jobs_forget(struct jobs *jobs, struct input *input)
{
	if (!input)
		return;
	leave_list(input);
	drop_stem(jobs, input);
	table_remove(&jobs->inputs_by_id, &input->by_id);
	jobs->n_inputs--;
	free_input(input);
}

bool jobs_wants(const struct input *input, uint64_t seq)
{
	return input && input->seq == seq && (input->state == INPUT_RUNNING || input->unpublished);
}

void jobs_set_state(struct jobs *jobs, struct input *input, enum input_state state, bool unpublished)
{
	struct input_queue *queue = state == INPUT_QUEUED ? &jobs->queue : unpublished ? &jobs->outcomes : NULL;
	if (!queue && input->moved && (state == INPUT_DONE || state == INPUT_FAILED))
		queue = &jobs->moves;
	input->state = state;
	input->unpublished = unpublished;
	if (queue == (input->list ? input->list->queue : NULL) || jobs->loading)
		return;
	leave_list(input);
	bool moves = queue == &jobs->moves; /* one list of all users */
	if (queue)
		enter_list(list_of(queue, moves ? 0 : input->uid), input, !moves);
}

void jobs_set_moved(struct jobs *jobs, struct input *input, bool moved)
{
	input->moved = moved;
	jobs_set_state(jobs, input, input->state, input->unpublished);
}

struct input *jobs_first_move(const struct jobs *jobs)
{
	return jobs->moves.users ? jobs->moves.users->first : NULL;
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
	const struct table *inputs = &jobs->inputs_by_id;
	for (struct input *input = of_id(table_next(inputs, NULL)); input;
		input = of_id(table_next(inputs, &input->by_id))) {
		if (input->state != INPUT_QUEUED && !input->unpublished)
			continue;
		if (waiting)
			waiting[n++] = input;
		else /* no memory: slower */
			jobs_set_state(jobs, input, input->state, input->unpublished);
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

/* A circle over the users: the first after the one who had the last turn, and so on; NULL when all have been. */
static struct input_list *first_user(const struct input_queue *queue, uint32_t last_uid)
{
	struct input_list *list = queue->users;
	while (list && list->uid <= last_uid)
		list = list->next;
	return list ? list : queue->users;
}

static struct input_list *next_user(const struct input_list *list, const struct input_list *first)
{
	struct input_list *next = list->next ? list->next : list->queue->users;
	return next != first ? next : NULL;
}

struct input *jobs_next(struct jobs *jobs, bool (*may)(void *user, const struct input *input), void *user)
{
	const struct input_list *first = first_user(&jobs->queue, jobs->last_uid);
	for (const struct input_list *list = first; list; list = next_user(list, first)) {
		struct input *input = list->first;
		while (input && may && !may(user, input))
			input = input->after;
		if (input) {
			jobs->last_uid = list->uid;
			return input;
		}
	}
	return NULL;
}

struct input *jobs_each_queued(const struct jobs *jobs, const struct input *input)
{
	if (input && input->after)
		return input->after;
	const struct input_list *list = input ? input->list->next : jobs->queue.users;
	return list ? list->first : NULL;
}

size_t jobs_outcome_turns(const struct jobs *jobs, struct input *turns[JOBS_TURNS_MAX])
{
	struct input *next[JOBS_TURNS_MAX]; /* of each user */
	size_t users = 0, n = 0;
	const struct input_list *first = first_user(&jobs->outcomes, jobs->last_outcome_uid);
	for (const struct input_list *list = first; list && users < JOBS_TURNS_MAX; list = next_user(list, first))
		next[users++] = list->first;
	for (size_t before = 1; n != before && n < JOBS_TURNS_MAX;) {
		before = n;
		for (size_t i = 0; i < users && n < JOBS_TURNS_MAX; i++) {
			if (!next[i])
				continue;
			turns[n++] = next[i];
			next[i] = next[i]->after;
		}
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
	if (input->stem && strcmp(input->stem, stem) == 0)
		return true;
	char *copy = strdup(stem);
	if (!copy)
		return false;
	drop_stem(jobs, input);
	input->stem = copy;
	table_add(&jobs->inputs_by_stem, &input->by_stem);
	return true;
}

struct input *jobs_by_stem(const struct jobs *jobs, const char *stem, const struct input *after)
{
	const struct table_link *chain =
		after ? after->by_stem.next : table_chain(&jobs->inputs_by_stem, table_hash_text(0, stem));
	struct input *input = of_stem(chain);
	while (input && strcmp(input->stem, stem) != 0)
		input = of_stem(input->by_stem.next);
	return input;
}

struct result *jobs_result(const struct jobs *jobs, uint64_t id)
{
	struct result *result = result_of_id(table_chain(&jobs->results_by_id, table_hash_id(id)));
	while (result && result->id != id)
		result = result_of_id(result->by_id.next);
	return result;
}

struct result *jobs_result_by_key(const struct jobs *jobs, const uint8_t *key, enum job_output output)
{
	struct result *result = result_of_key(table_chain(&jobs->results_by_key, hash_key(key, output)));
	while (result && (result->output != output || memcmp(result->key, key, JOBS_KEY_LEN) != 0))
		result = result_of_key(result->by_key.next);
	return result;
}

/* In the table there is one of each key and kind, however many are equal. */
static void add_by_key(struct jobs *jobs, struct result *result)
{
	struct result *first = jobs_result_by_key(jobs, result->key, result->output);
	if (first) {
		table_remove(&jobs->results_by_key, &first->by_key);
		first->before = result;
	}
	result->after = first;
	table_add(&jobs->results_by_key, &result->by_key);
}

static void remove_by_key(struct jobs *jobs, struct result *result)
{
	if (result->after)
		result->after->before = result->before;
	if (result->before) {
		result->before->after = result->after;
		return;
	}
	table_remove(&jobs->results_by_key, &result->by_key);
	if (result->after)
		table_add(&jobs->results_by_key, &result->after->by_key);
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
	table_add(&jobs->results_by_id, &result->by_id);
	add_by_key(jobs, result);
	jobs->n_results++;
	return result;
}

void jobs_drop_result(struct jobs *jobs, uint64_t id)
{
	struct result *result = jobs_result(jobs, id);
	if (!result)
		return;
	table_remove(&jobs->results_by_id, &result->by_id);
	remove_by_key(jobs, result);
	jobs->n_results--;
	free(result);
}
