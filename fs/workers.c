/* workers.c - which workers there are and which may run what. Contract: workers.h. */
#include "workers.h"

#include <poll.h>
#include <string.h>

static bool is_auto(const struct workers *w)
{
	return !w->options->device || !strcmp(w->options->device, "auto");
}

/* What arguments are written in. */
struct arguments {
	const char *argv[20];
	char threads[16], hang[16], sandbox[48];
};

/* Of a worker on this device (NULL: as the worker chooses by itself). */
static const char *const *make_argv(const struct options *o, const char *device, struct arguments *a)
{
	int n = 0;
	a->argv[n++] = o->worker;
	a->argv[n++] = "worker";
	if (!o->sandbox || strcmp(o->sandbox, "on") == 0) {
		snprintf(a->sandbox, sizeof a->sandbox, "--sandbox%s%s", *o->worker_ids ? "=" : "", o->worker_ids);
		a->argv[n++] = a->sandbox;
	}
	const struct {
		const char *name, *value;
	} pairs[] = {{"--model", o->model}, {"--device", device}, {"--dtype", o->dtype}, {"--memory", o->memory},
		{"--threads", o->threads > 0 ? a->threads : NULL}, {"--hang", o->hang_s > 0 ? a->hang : NULL}};
	snprintf(a->threads, sizeof a->threads, "%d", o->threads);
	snprintf(a->hang, sizeof a->hang, "%d", o->hang_s);
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		if (pairs[i].value) {
			a->argv[n++] = pairs[i].name;
			a->argv[n++] = pairs[i].value;
		}
	a->argv[n] = NULL;
	return a->argv;
}

static struct worker_slot *add(struct workers *w, const char *device, struct error *err)
{
	struct arguments a;
	struct worker_slot *slot = &w->slots[w->n];
	const struct worker_options options = {
		.argv = make_argv(w->options, device, &a), .idle_s = w->options->idle_s, .hang_s = w->options->hang_s};
	*slot = (struct worker_slot){.scheduler = w->scheduler};
	slot->link = worker_link_create(&options, &w->events, slot, err);
	if (!slot->link)
		return NULL;
	w->n++;
	return slot;
}

bool workers_init(struct workers *w, const struct options *options, const struct worker_events *events,
	struct scheduler *scheduler, struct error *err)
{
	*w = (struct workers){.options = options, .events = *events, .scheduler = scheduler};
	return add(w, options->device, err) != NULL;
}

void workers_finish(struct workers *w)
{
	for (int i = 0; i < w->n; i++)
		worker_link_destroy(w->slots[i].link);
	w->n = 0;
}

/* A running job stays RUNNING in the journal and is queued again at the next start. */
void workers_stop(struct workers *w, struct fs *fs, int64_t wait_ns)
{
	int64_t until = fs_monotonic_ns() + wait_ns;
	for (int i = 0; i < w->n; i++)
		worker_link_stop(w->slots[i].link);
	for (int i = 0; i < w->n; i++) {
		struct worker_link *link = w->slots[i].link;
		while (worker_link_report(link)->state != WORKER_STOPPED && fs_monotonic_ns() < until) {
			struct pollfd fd = {.fd = worker_link_fd(link), .events = POLLIN};
			if (poll(&fd, 1, 100) > 0)
				worker_link_handle(link);
		}
	}
	for (int i = 0; i < w->n; i++) {
		outcome_drop_files(fs, &w->slots[i].running.files);
		outcome_drop_files(fs, &w->slots[i].finishing.files);
	}
	workers_finish(w);
}

const char *worker_slot_name(const struct worker_slot *slot, char out[24])
{
	const struct worker_report *r = worker_link_report(slot->link);
	if (!r->have_status || !*r->status.device)
		snprintf(out, 24, "device");
	else if (r->status.ordinal < 0)
		snprintf(out, 24, "cpu");
	else
		snprintf(out, 24, "cuda:%d", r->status.ordinal);
	return out;
}

/* Devices as a set: the CPU, then CUDA's. 0: not known. */
static uint32_t device_bit(const struct worker_slot *slot)
{
	const struct worker_report *r = worker_link_report(slot->link);
	return r->have_status && *r->status.device ? 1u << ((r->status.ordinal + 1) & 31) : 0;
}

/* The last start was refused: this device is not to be counted on. */
static bool is_refused(const struct worker_slot *slot)
{
	const struct worker_report *r = worker_link_report(slot->link);
	return r->state == WORKER_BACKOFF && r->have_status && r->status.state == MODEL_FAILED;
}

static bool is_bad_for(const struct worker_slot *slot, const struct input *input)
{
	return input->device_failures >= 2 && input->failed_devices & device_bit(slot);
}

/* Some device's own worker can be expected to do it. */
static bool a_device_may(const struct workers *w, const struct input *input)
{
	for (int i = 0; i < w->n; i++)
		if (!w->slots[i].stands_by && !is_bad_for(&w->slots[i], input) &&
			!(w->spread && is_refused(&w->slots[i])))
			return true;
	return false;
}

bool workers_may_run(const struct workers *w, const struct worker_slot *slot, const struct input *input)
{
	return !is_bad_for(slot, input) && (!slot->stands_by || !a_device_may(w, input));
}

bool workers_note_failure(struct workers *w, const struct worker_slot *slot, struct input *input)
{
	input->failed_devices |= device_bit(slot);
	if (input->device_failures < UINT8_MAX)
		input->device_failures++;
	if (input->device_failures < 2)
		return true;
	w->some_bad = true;
	return a_device_may(w, input) || (is_auto(w) && !(input->failed_devices & 1));
}

/* Each device its worker, as soon as it is known how many there are: while the first one still loads. */
static void spread(struct workers *w)
{
	const struct worker_report *r = worker_link_report(w->slots[0].link);
	struct arguments a;
	char device[24];
	struct error err;
	bool named = w->options->device && !is_auto(w) && strcmp(w->options->device, "cuda") != 0;
	if (w->spread || named || !r->have_status || !*r->status.device || r->status.ordinal < 0 ||
		r->status.devices < 2)
		return;
	w->spread = true;
	worker_slot_name(&w->slots[0], device);
	worker_link_set_argv(w->slots[0].link, make_argv(w->options, device, &a));
	for (int i = 0; i < r->status.devices && w->n < WORKERS_MAX - 1; i++) { /* the last place is the CPU's */
		snprintf(device, sizeof device, "cuda:%d", i);
		struct worker_slot *slot = i == r->status.ordinal ? NULL : add(w, device, &err);
		if (slot)
			worker_link_start(slot->link);
		else if (i != r->status.ordinal)
			fs_log("no worker for %s: %s", device, err.text);
	}
}

bool workers_need_cpu(const struct workers *w, const struct jobs *jobs)
{
	if (!is_auto(w) || !(w->spread || w->some_bad))
		return false;
	const struct input *input = jobs_each_queued(jobs, NULL);
	while (input && (a_device_may(w, input) || input->failed_devices & 1))
		input = w->some_bad ? jobs_each_queued(jobs, input) : NULL; /* else one is like another */
	return input != NULL;
}

static void provide_stand_by(struct workers *w)
{
	struct worker_slot *slot = NULL;
	struct error err = {""};
	for (int i = 0; i < w->n; i++)
		if (w->slots[i].stands_by)
			slot = &w->slots[i];
	if (!slot && w->n < WORKERS_MAX)
		slot = add(w, "cpu", &err);
	if (!slot) {
		fs_log("no worker for the CPU: %s", err.text);
		return;
	}
	slot->stands_by = true;
	worker_link_start(slot->link);
}

void workers_provide(struct workers *w, long queued, bool needs_cpu)
{
	spread(w);
	long free = 0;
	for (int i = 0; i < w->n; i++)
		free += !w->slots[i].stands_by && !w->slots[i].running.input &&
			worker_link_report(w->slots[i].link)->state != WORKER_STOPPED;
	for (int i = 0; i < w->n && free < queued; i++)
		if (!w->slots[i].stands_by && worker_link_report(w->slots[i].link)->state == WORKER_STOPPED) {
			worker_link_start(w->slots[i].link);
			free++;
		}
	if (needs_cpu)
		provide_stand_by(w);
}
