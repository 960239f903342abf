/* status_text.c - the status snapshot as text for people and as JSON for programs. Contract: status_text.h. */
#include "status_text.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_WIDTH 10 /* of "last error" */

static const char *or_empty(const char *text)
{
	return text ? text : "";
}

/* Any bytes as one printable line. */
static void put_escaped(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)or_empty(text); *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			fprintf(out, "\\x%02X", *p);
		else if (*p == '\\')
			fputs("\\\\", out);
		else
			putc(*p, out);
	}
}

static void put_label(FILE *out, const char *label)
{
	fprintf(out, "%-*s  ", LABEL_WIDTH, label);
}

/* A second line of a field. */
static void put_note(FILE *out, const char *text)
{
	if (!*or_empty(text))
		return;
	put_label(out, "");
	put_escaped(out, text);
	putc('\n', out);
}

/* "3 d 4 h", "2 h 05 min", "12 min", "40 s" */
static const char *show_duration(double seconds, char out[32])
{
	long long s = seconds > 0 && seconds < 1e15 ? (long long)(seconds + 0.5) : 0;
	if (s >= 86400)
		snprintf(out, 32, "%lld d %lld h", s / 86400, s / 3600 % 24);
	else if (s >= 3600)
		snprintf(out, 32, "%lld h %02lld min", s / 3600, s / 60 % 60);
	else if (s >= 120)
		snprintf(out, 32, "%lld min", s / 60);
	else
		snprintf(out, 32, "%lld s", s);
	return out;
}

static const char *show_bytes(uint64_t bytes, char out[32])
{
	static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
	double value = (double)bytes;
	int unit = 0;
	while (value >= 999.5 && unit < 4) {
		value /= 1024;
		unit++;
	}
	snprintf(out, 32, unit && value < 9.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}

/* What the model is doing, in the words of status.json's "state". */
static const char *model_state(const struct worker_report *w)
{
	switch (w->state) {
	case WORKER_STARTING:
		return "loading";
	case WORKER_READY:
	case WORKER_BUSY:
		return "ready";
	case WORKER_STOPPING:
	case WORKER_BACKOFF:
	case WORKER_STOPPED:
		break;
	}
	return w->failed ? "failed" : "idle";
}

static int loading_percent(const struct worker_report *w)
{
	return w->state == WORKER_STARTING && w->have_status && w->status.state == MODEL_LOADING ? w->status.percent
												 : -1;
}

/* What one of several does: its job, or its state and why. */
static void put_worker(FILE *out, const struct status_worker *worker)
{
	const struct worker_report *w = worker->report;
	int percent = loading_percent(w);
	fputs(": ", out);
	if (*or_empty(worker->running))
		put_escaped(out, worker->running);
	else if (percent >= 0)
		fprintf(out, "loading %d %%", percent);
	else
		fputs(model_state(w), out);
	if (w->failed && *w->problem) {
		fputs(": ", out);
		put_escaped(out, w->problem);
	}
	if (w->state == WORKER_BACKOFF)
		fprintf(out, "; next try in %d s", w->retry_s);
}

static void put_device(FILE *out, const struct status_worker *worker, bool several)
{
	const struct worker_report *w = worker->report;
	char memory[32];
	put_label(out, "device");
	if (w->have_status && *w->status.device) {
		put_escaped(out, w->status.device);
		if (w->status.device_memory)
			fprintf(out, ", %s", show_bytes(w->status.device_memory, memory));
		if (*w->status.dtype) {
			fputs(", ", out);
			put_escaped(out, w->status.dtype);
		}
	} else {
		fputs("not known yet", out);
	}
	if (several)
		put_worker(out, worker);
	putc('\n', out);
	if (w->have_status)
		put_note(out, w->status.device_note);
}

/* Of the worker that is furthest: there is a model when one has it. */
static const struct worker_report *best_worker(const struct status_snapshot *s)
{
	static const char *const order[] = {"ready", "loading", "idle", "failed"};
	for (size_t k = 0; k < sizeof order / sizeof *order; k++)
		for (int i = 0; i < s->n_workers; i++)
			if (!strcmp(model_state(s->workers[i].report), order[k]))
				return s->workers[i].report;
	return s->workers[0].report;
}

static void put_model(FILE *out, const struct status_snapshot *s)
{
	const struct worker_report *w = best_worker(s);
	const char *state = model_state(w), *name = w->have_status ? w->status.model : "";
	put_label(out, "model");
	put_escaped(out, *name ? name : s->model_path);
	fputs(*name || *or_empty(s->model_path) ? ": " : "", out);
	int percent = loading_percent(w);
	if (percent >= 0)
		fprintf(out, "loading %d %%", percent);
	else
		fputs(state, out);
	if (!strcmp(state, "idle"))
		fputs(" (loads when a picture comes)", out);
	if (w->failed && *w->problem) {
		fputs(!strcmp(state, "failed") ? ": " : " again after: ", out);
		put_escaped(out, w->problem);
	}
	putc('\n', out);
	if (w->state == WORKER_BACKOFF) {
		put_label(out, "");
		fprintf(out, "next try in %d s\n", w->retry_s);
	}
	if (w->have_status)
		put_note(out, w->status.model_note);
}

/* As the workers tell: the same for all, since they are started alike, but one may not have told yet. */
static void put_sandbox(FILE *out, const struct status_snapshot *s)
{
	const char *told = "";
	for (int i = 0; i < s->n_workers && !*told; i++)
		told = s->workers[i].report->have_status ? s->workers[i].report->status.sandbox : "";
	if (!*told)
		return;
	put_label(out, "sandbox");
	put_escaped(out, told);
	putc('\n', out);
}

static void put_job(FILE *out, const struct status_job *job, bool several)
{
	char time[32];
	put_label(out, "running");
	put_escaped(out, job->name);
	if (several && *or_empty(job->device)) {
		fputs(" on ", out);
		put_escaped(out, job->device);
	}
	fputs(": ", out);
	put_escaped(out, job->stage);
	if (job->steps > 0)
		fprintf(out, " %d/%d", job->step, job->steps);
	fprintf(out, ", %d %%", (int)(job->fraction * 100));
	if (job->eta_s >= 0)
		fprintf(out, ", %s left", show_duration(job->eta_s, time));
	putc('\n', out);
}

static void put_problem(FILE *out, const struct status_problem *problem)
{
	char when[64] = "?";
	struct tm tm;
	if (localtime_r(&problem->when, &tm))
		strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
	put_label(out, "error");
	fprintf(out, "%s  ", when);
	if (*or_empty(problem->name)) {
		put_escaped(out, problem->name);
		fputs(": ", out);
	}
	put_escaped(out, problem->text);
	putc('\n', out);
}

static void put_state(FILE *out, const struct status_snapshot *s)
{
	char free[32], used[32], max[32];
	put_label(out, "state");
	put_escaped(out, s->state_dir);
	fprintf(out, ": %s used", show_bytes(s->state_used, used));
	if (s->state_max)
		fprintf(out, " of %s", show_bytes(s->state_max, max));
	fprintf(out, ", %s free\n", show_bytes(s->state_free, free));
}

/* Nothing where nothing was wrong. */
static void put_recovery(FILE *out, const struct status_snapshot *s)
{
	const struct state_recovery *r = &s->recovery;
	const char *label = "recovery";
	if (r->damaged) {
		put_label(out, label);
		fprintf(out, "the journal was damaged: %llu changes are lost, %lld bytes of it cannot be read\n",
			(unsigned long long)r->lost_changes, (long long)r->damaged_bytes);
		label = "";
	}
	if (r->lost_files) {
		put_label(out, label);
		fprintf(out, "%ld file%s without a place %s in lost/\n", r->lost_files, r->lost_files > 1 ? "s" : "",
			r->lost_files > 1 ? "are" : "is");
		label = "";
	}
	if (r->missing_files) {
		put_label(out, label);
		fprintf(out, "the content of %ld file%s is gone: trellisfs --check names %s\n", r->missing_files,
			r->missing_files > 1 ? "s" : "", r->missing_files > 1 ? "them" : "it");
	}
}

static void put_status(FILE *out, const struct status_snapshot *s)
{
	char time[32];
	put_label(out, "trellisfs");
	put_escaped(out, s->version);
	fputs(" on ", out);
	put_escaped(out, s->mountpoint);
	fprintf(out, ", up %s\n", show_duration(s->uptime_s, time));
	if (*or_empty(s->notice)) {
		put_label(out, "notice");
		put_escaped(out, s->notice);
		putc('\n', out);
	}
	for (int i = 0; i < s->n_workers; i++)
		put_device(out, &s->workers[i], s->n_workers > 1);
	put_model(out, s);
	put_sandbox(out, s);
	put_label(out, "queue");
	fprintf(out, "%d running, %ld queued, %ld arriving, %ld publishing\n", s->n_jobs, s->queued, s->settling,
		s->publishing);
	for (int i = 0; i < s->n_jobs; i++)
		put_job(out, &s->jobs[i], s->n_workers > 1);
	put_label(out, "finished");
	fprintf(out, "%ld done, %ld failed", s->done, s->failed);
	if (*or_empty(s->last_cutout)) {
		fprintf(out, "; last took %s, cutout by ", show_duration(s->last_s, time));
		put_escaped(out, s->last_cutout);
	}
	putc('\n', out);
	put_state(out, s);
	put_recovery(out, s);
	for (int i = 0; i < s->n_problems; i++)
		put_problem(out, &s->problems[i]);
}

char *status_text(const struct status_snapshot *snapshot, size_t *len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, len);
	if (!out)
		return NULL;
	put_status(out, snapshot);
	bool bad = ferror(out);
	if (fclose(out) != 0 || bad) {
		free(text);
		return NULL;
	}
	return text;
}

/* Length of the valid UTF-8 character at p (RFC 3629: no surrogates, no overlong forms), 0 when there is none. */
static size_t utf8_length(const unsigned char *p)
{
	if (p[0] < 0x80)
		return 1;
	size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++) /* stops at the terminator */
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
		(p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* Set object[key], and object[key_hex] when text is not UTF-8. jansson's setters latch nothing: each result is looked
 * at. */
static bool set_bytes(json_t *object, const char *key, const char *text)
{
	text = or_empty(text);
	size_t len = strlen(text);
	char *clean = malloc(3 * len + 1), *hex = malloc(2 * len + 1), hex_key[64];
	bool ok = clean && hex, valid = true;
	for (size_t i = 0, n = 0; ok && i <= len;) {
		size_t width = utf8_length((const unsigned char *)text + i);
		memcpy(clean + n, width ? text + i : "\xef\xbf\xbd", width ? width : 3);
		n += width ? width : 3;
		i += width ? width : 1;
		valid &= width != 0;
	}
	for (size_t i = 0; ok && i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
	snprintf(hex_key, sizeof hex_key, "%s_hex", key);
	ok = ok && json_object_set_new(object, key, json_string(clean)) == 0 &&
	     (valid || json_object_set_new(object, hex_key, json_string(hex)) == 0);
	free(clean);
	free(hex);
	return ok;
}

static bool set_integer(json_t *object, const char *key, uint64_t value)
{
	return json_object_set_new(object, key, json_integer((json_int_t)value)) == 0;
}

/* Seconds and shares to three decimals; null when unknown (negative). */
static bool set_real(json_t *object, const char *key, double value)
{
	json_t *number =
		value >= 0 && value < 1e15 ? json_real((double)(long long)(value * 1000 + 0.5) / 1000) : json_null();
	return json_object_set_new(object, key, number) == 0;
}

/* A new object that is already in parent; borrowed. */
static json_t *add_object(json_t *parent, const char *key)
{
	json_t *child = json_object();
	return json_object_set_new(parent, key, child) == 0 ? child : NULL;
}

static bool fill_device(json_t *device, const struct worker_report *w)
{
	const struct message_status none = {0}, *status = w->have_status ? &w->status : &none;
	return device && set_bytes(device, "name", status->device) &&
	       set_integer(device, "memory_bytes", status->device_memory) &&
	       set_bytes(device, "dtype", status->dtype) && set_bytes(device, "note", status->device_note);
}

static bool json_device(json_t *root, const struct worker_report *w)
{
	return fill_device(add_object(root, "device"), w);
}

static bool set_percent(json_t *object, const struct worker_report *w)
{
	int percent = loading_percent(w);
	return json_object_set_new(object, "loading_percent", percent < 0 ? json_null() : json_integer(percent)) == 0;
}

static bool set_process(json_t *object, const struct worker_report *w)
{
	return set_integer(object, "pid", (uint64_t)w->pid) && set_integer(object, "starts", (uint64_t)w->starts) &&
	       set_integer(object, "deaths", (uint64_t)w->deaths) &&
	       set_bytes(object, "sandbox", w->have_status ? w->status.sandbox : "");
}

/* Every worker with its device, in the order in which they came to be. */
static bool json_devices(json_t *root, const struct status_snapshot *s)
{
	json_t *list = json_array();
	bool ok = json_object_set_new(root, "devices", list) == 0;
	for (int i = 0; ok && i < s->n_workers; i++) {
		const struct worker_report *w = s->workers[i].report;
		json_t *entry = json_object();
		ok = json_array_append_new(list, entry) == 0 && fill_device(entry, w) &&
		     set_bytes(entry, "state", model_state(w)) && set_percent(entry, w) &&
		     set_bytes(entry, "reason", w->failed ? w->problem : "") &&
		     set_bytes(entry, "running", s->workers[i].running) && set_process(entry, w);
	}
	return ok;
}

static bool json_model(json_t *root, const struct status_snapshot *s)
{
	const struct worker_report *w = best_worker(s);
	json_t *model = add_object(root, "model");
	return model && set_bytes(model, "name", w->have_status ? w->status.model : "") &&
	       set_bytes(model, "path", s->model_path) && set_bytes(model, "state", model_state(w)) &&
	       set_percent(model, w) && set_bytes(model, "reason", w->failed ? w->problem : "") &&
	       set_bytes(model, "note", w->have_status ? w->status.model_note : "") &&
	       json_object_set_new(
		       model, "retry_s", w->state == WORKER_BACKOFF ? json_integer(w->retry_s) : json_null()) == 0;
}

static bool json_worker(json_t *root, const struct worker_report *w)
{
	json_t *worker = add_object(root, "worker");
	return worker && set_process(worker, w);
}

static bool json_jobs(json_t *root, const struct status_snapshot *s)
{
	json_t *list = json_array();
	bool ok = json_object_set_new(root, "running", list) == 0;
	for (int i = 0; ok && i < s->n_jobs; i++) {
		const struct status_job *job = &s->jobs[i];
		json_t *entry = json_object();
		ok = json_array_append_new(list, entry) == 0 && set_bytes(entry, "name", job->name) &&
		     set_bytes(entry, "device", job->device) && set_bytes(entry, "stage", job->stage) &&
		     set_integer(entry, "step", (uint64_t)job->step) &&
		     set_integer(entry, "steps", (uint64_t)job->steps) && set_real(entry, "fraction", job->fraction) &&
		     set_real(entry, "eta_s", job->eta_s) && set_real(entry, "running_s", job->running_s);
	}
	return ok;
}

static bool json_problems(json_t *root, const struct status_snapshot *s)
{
	json_t *list = json_array();
	bool ok = json_object_set_new(root, "errors", list) == 0;
	for (int i = 0; ok && i < s->n_problems; i++) {
		json_t *entry = json_object();
		ok = json_array_append_new(list, entry) == 0 && set_bytes(entry, "name", s->problems[i].name) &&
		     set_bytes(entry, "text", s->problems[i].text) &&
		     set_integer(entry, "time", (uint64_t)s->problems[i].when);
	}
	return ok;
}

static bool json_state(json_t *root, const struct status_snapshot *s)
{
	json_t *state = add_object(root, "state");
	return state && set_bytes(state, "dir", s->state_dir) && set_integer(state, "used_bytes", s->state_used) &&
	       set_integer(state, "free_bytes", s->state_free) &&
	       json_object_set_new(
		       state, "max_bytes", s->state_max ? json_integer((json_int_t)s->state_max) : json_null()) == 0;
}

static bool json_recovery(json_t *root, const struct state_recovery *r)
{
	json_t *recovery = add_object(root, "recovery");
	return recovery && json_object_set_new(recovery, "damaged", json_boolean(r->damaged)) == 0 &&
	       set_integer(recovery, "lost_changes", r->lost_changes) &&
	       set_integer(recovery, "reordered", r->reordered) &&
	       set_integer(recovery, "damaged_bytes", (uint64_t)r->damaged_bytes) &&
	       set_integer(recovery, "cut_bytes", (uint64_t)r->cut_bytes) &&
	       set_integer(recovery, "lost_files", (uint64_t)r->lost_files) &&
	       set_integer(recovery, "missing_files", (uint64_t)r->missing_files);
}

char *status_json(const struct status_snapshot *s, size_t *len)
{
	json_t *root = json_object();
	bool ok = root && set_bytes(root, "version", s->version) && set_bytes(root, "mountpoint", s->mountpoint) &&
		  set_real(root, "uptime_s", s->uptime_s) && set_bytes(root, "notice", s->notice) &&
		  json_device(root, s->workers[0].report) && json_devices(root, s) && json_model(root, s) &&
		  json_worker(root, s->workers[0].report) && set_integer(root, "queued", (uint64_t)s->queued) &&
		  set_integer(root, "settling", (uint64_t)s->settling) &&
		  set_integer(root, "publishing", (uint64_t)s->publishing) && json_jobs(root, s) &&
		  set_integer(root, "done", (uint64_t)s->done) && set_integer(root, "failed", (uint64_t)s->failed) &&
		  set_bytes(root, "last_cutout", s->last_cutout) && set_real(root, "last_s", s->last_s) &&
		  json_state(root, s) && json_recovery(root, &s->recovery) && json_problems(root, s);
	char *text = ok ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
	json_decref(root);
	if (!text)
		return NULL;
	/* A text file ends in a newline. */
	size_t n = strlen(text);
	char *longer = realloc(text, n + 2);
	if (!longer) {
		free(text);
		return NULL;
	}
	memcpy(longer + n, "\n", 2);
	*len = n + 1;
	return longer;
}
