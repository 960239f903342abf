/* test_fs_status.c - the status file's text word for word, its JSON field by field, and names of any bytes. */
#include "status_text.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static struct worker_report busy_worker(void)
{
	struct worker_report w = {
		.state = WORKER_BUSY, .have_status = true, .job = 4, .starts = 2, .deaths = 1, .pid = 77};
	w.status.state = MODEL_READY;
	w.status.device_memory = 24ull << 30;
	MESSAGE_STRING(w.status.device, "CPU, 2 threads");
	MESSAGE_STRING(w.status.dtype, "f32");
	MESSAGE_STRING(w.status.device_note, "GPU 0 was refused: its matrix product was wrong");
	MESSAGE_STRING(w.status.model, "trellis-mini");
	MESSAGE_STRING(w.status.model_note, "1 role repaired");
	MESSAGE_STRING(w.status.sandbox, "user nobody, no capabilities");
	return w;
}

static struct status_snapshot snapshot_of(const struct worker_report *w)
{
	static struct status_worker worker;
	worker = (struct status_worker){.report = w, .running = "in/d/a b.png"};
	static const struct status_job job = {.name = "in/d/a b.png",
		.stage = "structure",
		.step = 3,
		.steps = 25,
		.fraction = 0.127,
		.eta_s = 61.4,
		.running_s = 9.25};
	static const struct status_problem problem = {
		.name = "in/x.png", .text = "the image is truncated", .when = 86400};
	return (struct status_snapshot){.version = "0.1.0",
		.mountpoint = "/mnt/t",
		.uptime_s = 7500,
		.workers = &worker,
		.n_workers = 1,
		.model_path = "/models/mini",
		.queued = 3,
		.settling = 1,
		.publishing = 5,
		.jobs = &job,
		.n_jobs = 1,
		.last_cutout = "alpha",
		.last_s = 12.3456,
		.done = 10,
		.failed = 2,
		.problems = &problem,
		.n_problems = 1,
		.state_dir = "/var/lib/t",
		.state_free = 3ull << 30,
		.state_used = 1536,
		.state_max = 0,
		.notice = ""};
}

static char *text_of(const struct status_snapshot *s)
{
	size_t len = 0;
	char *text = status_text(s, &len);
	cr_assert_not_null(text);
	cr_assert_eq(len, strlen(text));
	return text;
}

static json_t *json_of(const struct status_snapshot *s)
{
	size_t len = 0;
	json_error_t error;
	char *text = status_json(s, &len);
	cr_assert_not_null(text);
	cr_assert(len == strlen(text) && text[len - 1] == '\n');
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	cr_assert_not_null(root, "%s", error.text);
	free(text);
	return root;
}

static const char *field(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "(not a string)";
}

Test(status, text)
{
	struct worker_report w = busy_worker();
	struct status_snapshot s = snapshot_of(&w);
	setenv("TZ", "UTC", 1);
	char *text = text_of(&s);
	cr_expect_str_eq(text, "trellisfs   0.1.0 on /mnt/t, up 2 h 05 min\n"
			       "device      CPU, 2 threads, 24 GB, f32\n"
			       "            GPU 0 was refused: its matrix product was wrong\n"
			       "model       trellis-mini: ready\n"
			       "            1 role repaired\n"
			       "sandbox     user nobody, no capabilities\n"
			       "queue       1 running, 3 queued, 1 arriving, 5 publishing\n"
			       "running     in/d/a b.png: structure 3/25, 12 %, 61 s left\n"
			       "finished    10 done, 2 failed; last took 12 s, cutout by alpha\n"
			       "state       /var/lib/t: 1.5 KB used, 3.0 GB free\n"
			       "error       1970-01-02 00:00:00  in/x.png: the image is truncated\n");
	free(text);
}

/* One at work, one loading, one refused: each has its line, and the model is there because one has it. */
Test(status, several_devices)
{
	struct worker_report w[3] = {busy_worker(), busy_worker(), busy_worker()};
	const struct status_worker workers[] = {{.report = &w[0], .running = ""}, {.report = &w[1], .running = ""},
		{.report = &w[2], .running = "in/a.png"}};
	const struct status_job job = {.name = "in/a.png", .device = "cuda:2 Fake", .stage = "latent", .eta_s = -1};
	struct status_snapshot s = snapshot_of(NULL);
	for (int i = 0; i < 3; i++) {
		w[i].status.device_note[0] = w[i].status.model_note[0] = '\0';
		snprintf(w[i].status.device, sizeof w[i].status.device, "cuda:%d Fake", i);
	}
	w[0].state = WORKER_BACKOFF;
	w[0].failed = true;
	w[0].retry_s = 4;
	strcpy(w[0].problem, "cuda:0: no answer within 2 s");
	w[1].state = WORKER_STARTING;
	w[1].status.state = MODEL_LOADING;
	w[1].status.percent = 37;
	w[0].status.sandbox[0] = '\0';
	s.workers = workers;
	s.n_workers = 3;
	s.jobs = &job;
	char *text = text_of(&s);
	const char *wanted =
		"device      cuda:0 Fake, 24 GB, f32: failed: cuda:0: no answer within 2 s; next try in 4 s\n"
		"device      cuda:1 Fake, 24 GB, f32: loading 37 %\n"
		"device      cuda:2 Fake, 24 GB, f32: in/a.png\n"
		"model       trellis-mini: ready\n"
		"sandbox     user nobody, no capabilities\n"
		"queue       1 running, 3 queued, 1 arriving, 5 publishing\n"
		"running     in/a.png on cuda:2 Fake: latent, 0 %\n";
	cr_expect(strstr(text, wanted), "%s", text);
	free(text);
	json_t *root = json_of(&s), *list = json_object_get(root, "devices");
	cr_expect_eq(json_array_size(list), 3);
	cr_expect_str_eq(field(json_array_get(list, 0), "state"), "failed");
	cr_expect_str_eq(field(json_array_get(list, 0), "reason"), "cuda:0: no answer within 2 s");
	cr_expect_eq(json_integer_value(json_object_get(json_array_get(list, 1), "loading_percent")), 37);
	cr_expect_str_eq(field(json_array_get(list, 2), "running"), "in/a.png");
	cr_expect_str_eq(field(json_array_get(json_object_get(root, "running"), 0), "device"), "cuda:2 Fake");
	cr_expect_str_eq(field(json_object_get(root, "model"), "state"), "ready");
	json_decref(root);
}

Test(status, every_state_of_the_model_is_told)
{
	struct {
		enum worker_state state;
		bool failed;
		int percent;
		const char *line, *json;
	} cases[] = {
		{WORKER_STOPPED, false, -1, "model       trellis-mini: idle (loads when a picture comes)\n", "idle"},
		{WORKER_STOPPED, true, -1, "model       trellis-mini: failed: no pipeline.json\n", "failed"},
		{WORKER_STARTING, false, 42, "model       trellis-mini: loading 42 %\n", "loading"},
		{WORKER_STARTING, false, -1, "model       trellis-mini: loading\n", "loading"},
		{WORKER_STARTING, true, -1, "model       trellis-mini: loading again after: no pipeline.json\n",
			"loading"},
		{WORKER_BACKOFF, true, -1,
			"model       trellis-mini: failed: no pipeline.json\n            next try in 8 s\n", "failed"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct worker_report w = busy_worker();
		w.state = cases[i].state;
		w.failed = cases[i].failed;
		w.status.state = MODEL_LOADING;
		w.status.percent = cases[i].percent;
		w.retry_s = 8;
		snprintf(w.problem, sizeof w.problem, "%s", w.failed ? "no pipeline.json" : "");
		struct status_snapshot s = snapshot_of(&w);
		char *text = text_of(&s);
		cr_expect_not_null(strstr(text, cases[i].line), "case %zu:\n%s", i, text);
		free(text);
		json_t *root = json_of(&s), *model = json_object_get(root, "model");
		cr_expect_str_eq(field(model, "state"), cases[i].json);
		cr_expect_str_eq(field(model, "reason"), w.failed ? "no pipeline.json" : "");
		json_t *percent = json_object_get(model, "loading_percent");
		cr_expect(cases[i].percent < 0 ? json_is_null(percent) : json_integer_value(percent) == 42);
		json_decref(root);
	}
}

Test(status, nothing_is_known_yet)
{
	struct worker_report w = {.state = WORKER_STOPPED};
	struct status_snapshot s = {.workers = &(struct status_worker){.report = &w}, .n_workers = 1};
	char *text = text_of(&s);
	cr_expect_not_null(strstr(text, "device      not known yet\n"), "%s", text);
	cr_expect_null(strstr(text, "(null)"), "%s", text);
	cr_expect_null(strstr(text, "sandbox"), "%s", text);
	free(text);
	json_decref(json_of(&s));
}

Test(status, json_fields)
{
	struct worker_report w = busy_worker();
	struct status_snapshot s = snapshot_of(&w);
	json_t *root = json_of(&s);
	json_t *job = json_array_get(json_object_get(root, "running"), 0);
	cr_expect_str_eq(field(job, "name"), "in/d/a b.png");
	cr_expect_eq(json_integer_value(json_object_get(job, "step")), 3);
	cr_expect_float_eq(json_real_value(json_object_get(job, "fraction")), 0.127, 1e-12);
	cr_expect_str_eq(field(json_object_get(root, "device"), "dtype"), "f32");
	cr_expect_eq(json_integer_value(json_object_get(json_object_get(root, "device"), "memory_bytes")), 24ll << 30);
	cr_expect_str_eq(field(json_object_get(root, "worker"), "sandbox"), "user nobody, no capabilities");
	cr_expect_eq(json_integer_value(json_object_get(root, "queued")), 3);
	cr_expect_eq(json_integer_value(json_object_get(root, "settling")), 1);
	cr_expect_eq(json_integer_value(json_object_get(root, "publishing")), 5);
	cr_expect_eq(json_integer_value(json_object_get(root, "done")), 10);
	cr_expect_float_eq(json_real_value(json_object_get(root, "last_s")), 12.346, 1e-12);
	json_t *problem = json_array_get(json_object_get(root, "errors"), 0);
	cr_expect_str_eq(field(problem, "text"), "the image is truncated");
	cr_expect_eq(json_integer_value(json_object_get(problem, "time")), 86400);
	cr_expect(json_is_null(json_object_get(json_object_get(root, "state"), "max_bytes")));
	json_decref(root);
}

Test(status, names_of_any_bytes)
{
	static const struct {
		const char *name, *text, *json, *hex;
	} cases[] = {
		{"in/a\nb\x1b.png", "in/a\\x0Ab\\x1B.png: ", "in/a\nb\x1b.png", NULL},
		{"in/back\\x0A.png", "in/back\\\\x0A.png: ", "in/back\\x0A.png", NULL},
		{"in/\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.png", "in/\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.png: ",
			"in/\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.png", NULL},
		{"a\xff\xc3", "a\xff\xc3: ", "a\xef\xbf\xbd\xef\xbf\xbd", "61ffc3"},
		{"\xed\xa0\x80", "\xed\xa0\x80: ", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "eda080"}, /* a surrogate */
		{"\xc0\xaf", "\xc0\xaf: ", "\xef\xbf\xbd\xef\xbf\xbd", "c0af"},			      /* overlong */
		{"\xf4\x90\x80\x80", "\xf4\x90\x80\x80: ", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
			"f4908080"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct worker_report w = busy_worker();
		struct status_snapshot s = snapshot_of(&w);
		struct status_job job = s.jobs[0];
		job.name = cases[i].name;
		s.jobs = &job;
		char *text = text_of(&s);
		cr_expect_not_null(strstr(text, cases[i].text), "%s", text);
		free(text);
		json_t *root = json_of(&s), *entry = json_array_get(json_object_get(root, "running"), 0);
		cr_expect_str_eq(field(entry, "name"), cases[i].json);
		if (cases[i].hex)
			cr_expect_str_eq(field(entry, "name_hex"), cases[i].hex);
		else
			cr_expect_null(json_object_get(entry, "name_hex"));
		json_decref(root);
	}
}
