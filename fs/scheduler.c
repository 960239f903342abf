/* scheduler.c - the scheduler thread. See scheduler.h.
 *
 * A poll loop over the workers' links, the model watch and an eventfd by which other threads wake it. Each turn: publish
 * outcomes that need no worker, give each free worker its next job, tell those who watch status. */
#include "scheduler.h"

#include "model_watch.h"
#include "outcome.h"
#include "record.h"
#include "special.h"
#include "workers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define S INT64_C(1000000000)
enum {
	STORAGE_TRIES = 3,
	MAX_PROBLEMS =
		sizeof((struct scheduler_report *)0)->problems / sizeof((struct scheduler_report *)0)->problems[0]
};
static const int64_t STATUS_NS = 1 * S, MODEL_QUIET_NS = 2 * S, STORAGE_WAIT_NS = 5 * S, STOP_NS = 5 * S / 2;

struct scheduler {
	struct fs *fs;
	pthread_t thread;
	bool started;
	int wake_fd;
	atomic_bool woken, stop;
	void (*mounted)(void *user, const struct error *failure);
	void *mounted_user;

	pthread_mutex_t lock;		/* last in the lock order */
	struct scheduler_report report; /* lock; running_s, retry_s and notice are filled in by scheduler_report */
	struct {
		int64_t started_ns[2]; /* its jobs */
		bool cancel[2];	       /* they are to be cancelled */
		int64_t retry_ns;      /* when the worker is started again */
	} more[WORKERS_MAX];	       /* lock; as report.workers */
	char notice[512];	       /* lock */

	/* The thread's own. */
	struct publisher *publisher;
	struct workers workers;
	int watch_fd;
	int64_t model_changed_ns, paused_until_ns, status_told_ns;
	bool status_changed;
};

void scheduler_wake(struct fs *fs)
{
	struct scheduler *s = fs->scheduler;
	if (s && !atomic_exchange(&s->woken, true))
		eventfd_write(s->wake_fd, 1);
}

void scheduler_cancel(struct fs *fs, uint64_t input_id)
{
	struct scheduler *s = fs->scheduler;
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < 2 * s->report.n_workers; i++)
		if (s->report.workers[i / 2].jobs[i % 2].input == input_id)
			s->more[i / 2].cancel[i % 2] = true;
	pthread_mutex_unlock(&s->lock);
	scheduler_wake(fs);
}

bool scheduler_is_idle(struct fs *fs)
{
	struct scheduler *s = fs->scheduler;
	bool idle = false;
	if (!s || fs->jobs.queue.n > 0)
		return false;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->report.n_workers; i++) {
		const struct scheduler_worker *w = &s->report.workers[i];
		idle |= !w->stands_by && w->worker.state == WORKER_READY && !w->jobs[0].input;
	}
	pthread_mutex_unlock(&s->lock);
	return idle;
}

void scheduler_report(struct fs *fs, struct scheduler_report *report)
{
	struct scheduler *s = fs->scheduler;
	if (!s) {
		*report = (struct scheduler_report){.n_workers = 1};
		return;
	}
	pthread_mutex_lock(&s->lock);
	const int64_t now = fs_monotonic_ns();
	memcpy(report, &s->report, offsetof(struct scheduler_report, workers));
	for (int i = 0; i < s->report.n_workers; i++) {
		struct scheduler_worker *worker = &report->workers[i];
		*worker = s->report.workers[i];
		if (s->more[i].retry_ns > now)
			worker->worker.retry_s = (int)((s->more[i].retry_ns - now) / S);
		for (int k = 0; k < 2; k++)
			worker->jobs[k].running_s =
				worker->jobs[k].input ? (double)(now - s->more[i].started_ns[k]) / 1e9 : 0;
	}
	memcpy(report->notice, s->notice, sizeof report->notice);
	pthread_mutex_unlock(&s->lock);
}

void scheduler_note_problem(struct fs *fs, const char *name, const char *text)
{
	struct scheduler *s = fs->scheduler;
	fs_log("in/%s: %s", name, text);
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	struct scheduler_report *r = &s->report;
	memmove(&r->problems[1], &r->problems[0], sizeof r->problems - sizeof r->problems[0]);
	snprintf(r->problems[0].name, sizeof r->problems[0].name, "in/%s", name);
	snprintf(r->problems[0].text, sizeof r->problems[0].text, "%s", text);
	r->problems[0].when = time(NULL);
	if (r->n_problems < MAX_PROBLEMS)
		r->n_problems++;
	pthread_mutex_unlock(&s->lock);
}

static void set_notice(struct scheduler *s, const char *text)
{
	pthread_mutex_lock(&s->lock);
	snprintf(s->notice, sizeof s->notice, "%.*s", (int)sizeof s->notice - 1, text);
	pthread_mutex_unlock(&s->lock);
}

/* ---- What the worker tells; all on the scheduler thread. ---- */

static int index_of(const struct worker_slot *slot)
{
	return (int)(slot - slot->scheduler->workers.slots);
}

static void on_changed(void *user)
{
	const struct worker_slot *slot = user;
	struct scheduler *s = slot->scheduler;
	int i = index_of(slot);
	if (!slot->link)
		return; /* being made */
	pthread_mutex_lock(&s->lock);
	struct scheduler_worker *worker = &s->report.workers[i];
	if (i >= s->report.n_workers)
		s->report.n_workers = i + 1;
	worker->stands_by = slot->stands_by;
	worker->worker = *worker_link_report(slot->link);
	s->more[i].retry_ns = fs_monotonic_ns() + worker->worker.retry_s * S;
	pthread_mutex_unlock(&s->lock);
	s->status_changed = true;
}

static void on_progress(void *user, const struct message_progress *progress)
{
	const struct worker_slot *slot = user;
	struct scheduler *s = slot->scheduler;
	pthread_mutex_lock(&s->lock);
	s->report.workers[index_of(slot)].jobs[progress->id != slot->running.input].progress = *progress;
	pthread_mutex_unlock(&s->lock);
	s->status_changed = true;
}

static void on_done(void *user, const struct worker_done *done)
{
	struct worker_slot *slot = user;
	struct worker_task *task = done->id == slot->running.input ? &slot->running : &slot->finishing;
	task->finished = true;
	task->outcome = done->outcome;
	task->result = done->result ? *done->result : (struct message_result){0};
	snprintf(task->text, sizeof task->text, "%s", done->text);
	slot->scheduler->status_changed = true;
}

static void handle_outcome(struct worker_slot *slot, struct worker_task *task);

static void on_freed(void *user, uint64_t id)
{
	struct worker_slot *slot = user;
	struct scheduler *s = slot->scheduler;
	int i = index_of(slot);
	(void)id; /* the running one */
	if (slot->finishing.finished)
		handle_outcome(slot, &slot->finishing);
	slot->finishing = slot->running;
	slot->running = (struct worker_task){0};
	pthread_mutex_lock(&s->lock);
	struct scheduler_job *jobs = s->report.workers[i].jobs;
	jobs[1] = jobs[0];
	jobs[0] = (struct scheduler_job){0};
	s->more[i].started_ns[1] = s->more[i].started_ns[0];
	s->more[i].cancel[1] = s->more[i].cancel[0];
	s->more[i].cancel[0] = false;
	pthread_mutex_unlock(&s->lock);
	s->status_changed = true;
}

/* ---- One job. ---- */

/* Note which job a task of the slot is; input 0: none any more. */
static void set_task(struct worker_slot *slot, struct worker_task *task, uint64_t input, uint64_t seq)
{
	struct scheduler *s = slot->scheduler;
	int i = index_of(slot), k = task == &slot->finishing;
	task->input = input;
	task->seq = seq;
	pthread_mutex_lock(&s->lock);
	s->report.workers[i].jobs[k] = (struct scheduler_job){.input = input, .progress.eta_s = -1};
	s->more[i].started_ns[k] = fs_monotonic_ns();
	s->more[i].cancel[k] = false;
	pthread_mutex_unlock(&s->lock);
}

/* Change an input that is still at this submission, and journal it. */
static void update(struct scheduler *s, uint64_t id, uint64_t seq, enum input_state state, bool death, bool storage)
{
	struct fs *fs = s->fs;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	if (jobs_wants(input, seq)) {
		input->deaths += death;
		input->storage_tries += storage;
		jobs_set_state(&fs->jobs, input, state, false);
		record_input(fs_change(fs), input);
		fs_commit(fs, true);
	}
	pthread_mutex_unlock(&fs->lock);
}

static void counts(struct fs *fs, uint64_t id, int *deaths, int *storage_tries)
{
	pthread_mutex_lock(&fs->lock);
	const struct input *input = jobs_find(&fs->jobs, id);
	*deaths = input ? input->deaths : 0;
	*storage_tries = input ? input->storage_tries : 0;
	pthread_mutex_unlock(&fs->lock);
}

/* A full disk may be emptied: try again a few times, then say so, because scripts wait. */
static void handle_storage(struct scheduler *s, uint64_t id, uint64_t seq, const char *why)
{
	int deaths, tries;
	char text[1200];
	counts(s->fs, id, &deaths, &tries);
	snprintf(text, sizeof text, "the state directory cannot take the result: %s", why);
	if (tries + 1 >= STORAGE_TRIES) {
		outcome_fail(s->fs, s->publisher, id, seq, text);
		return;
	}
	set_notice(s, text);
	update(s, id, seq, INPUT_QUEUED, false, true);
	s->paused_until_ns = fs_monotonic_ns() + STORAGE_WAIT_NS;
}

static void handle_death(struct scheduler *s, uint64_t id, uint64_t seq, const char *why)
{
	int deaths, tries;
	char text[1200];
	counts(s->fs, id, &deaths, &tries);
	if (deaths + 1 < JOBS_POISON) {
		update(s, id, seq, INPUT_QUEUED, true, false);
		return;
	}
	snprintf(text, sizeof text, "given up after it ended the worker %d times: %s", JOBS_POISON, why);
	outcome_fail(s->fs, s->publisher, id, seq, text);
}

/* The device, not the job: once more, then on another one, as long as there is one. */
static void handle_device(
	struct scheduler *s, const struct worker_slot *slot, const struct worker_task *task, uint64_t id, uint64_t seq)
{
	struct fs *fs = s->fs;
	char text[1300], path[PATH_MAX] = "", device[24];
	bool again = true;
	int failures = 0;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	const struct tree_node *node = tree_find(&fs->tree, id);
	if (jobs_wants(input, seq) && node && tree_path(node, path, sizeof path)) {
		again = workers_note_failure(&s->workers, slot, input);
		failures = input->device_failures;
		snprintf(text, sizeof text, "%s failed and the job is done again%s: %s", worker_slot_name(slot, device),
			failures > 1 ? " elsewhere" : "", task->text);
		if (again)
			scheduler_note_problem(fs, path, text);
	}
	pthread_mutex_unlock(&fs->lock);
	if (again) {
		update(s, id, seq, INPUT_QUEUED, false, false);
		return;
	}
	snprintf(text, sizeof text, "given up after the device failed %d times: %s", failures, task->text);
	outcome_fail(fs, s->publisher, id, seq, text);
}

static void handle_done(struct scheduler *s, struct worker_task *task, uint64_t id, uint64_t seq)
{
	int error = outcome_publish(s->fs, s->publisher, id, seq, &task->files, task->result.sizes);
	if (error == ECANCELED)
		return;
	if (error) {
		handle_storage(s, id, seq, strerror(error));
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->report.last_s = task->result.seconds;
	memcpy(s->report.cutout, task->result.cutout, sizeof s->report.cutout);
	pthread_mutex_unlock(&s->lock);
	set_notice(s, publisher_notice(s->publisher));
}

static void handle_outcome(struct worker_slot *slot, struct worker_task *task)
{
	struct scheduler *s = slot->scheduler;
	uint64_t id = task->input, seq = task->seq;
	task->finished = false;
	set_task(slot, task, 0, 0);
	if (task->outcome != WORKER_DONE)
		outcome_drop_files(s->fs, &task->files);
	if (task->outcome == WORKER_DONE)
		handle_done(s, task, id, seq);
	else if (task->outcome == WORKER_FAILED)
		outcome_fail(s->fs, s->publisher, id, seq, task->text);
	else if (task->outcome == WORKER_STORAGE)
		handle_storage(s, id, seq, task->text);
	else if (task->outcome == WORKER_DEVICE || task->outcome == WORKER_HUNG)
		handle_device(s, slot, task, id, seq);
	else if (worker_outcome_counts(task->outcome))
		handle_death(s, id, seq, task->text);
	else /* lost, or cancelled: if it is still wanted it runs again */
		update(s, id, seq, INPUT_QUEUED, false, false);
}

/* Its picture has not settled yet. Ingest confirms it or withdraws it, and wakes us. */
static bool is_early(struct scheduler *s, const struct worker_task *task)
{
	pthread_mutex_lock(&s->fs->lock);
	const struct input *input = jobs_find(&s->fs->jobs, task->input);
	bool early = input && input->seq == task->seq && input->early;
	pthread_mutex_unlock(&s->fs->lock);
	return early;
}

static bool is_due(struct scheduler *s, const struct worker_task *task)
{
	return task->finished && !is_early(s, task);
}

static void handle_outcomes(struct scheduler *s)
{
	for (int i = 0; i < s->workers.n; i++) {
		struct worker_slot *slot = &s->workers.slots[i];
		if (is_due(s, &slot->finishing))
			handle_outcome(slot, &slot->finishing);
		if (is_due(s, &slot->running))
			handle_outcome(slot, &slot->running);
	}
}

/* Ran when a worker or a device failed: it may be the cause, or was only near. */
static bool is_suspect(const struct input *input)
{
	return input->deaths || input->device_failures;
}

static bool may_run(void *user, const struct input *input)
{
	const struct worker_slot *slot = user;
	return slot->finishing.input != input->id && /* it was written again */
	       workers_may_run(&slot->scheduler->workers, slot, input);
}

/* Take the next input that this worker may run and describe its job; the input is RUNNING then. */
static bool take_next(struct worker_slot *slot, struct message_job *job, uint64_t *seq, bool *suspect)
{
	struct fs *fs = slot->scheduler->fs;
	char path[PATH_MAX];
	pthread_mutex_lock(&fs->lock);
	uint32_t last_uid = fs->jobs.last_uid;
	struct input *input = jobs_next(&fs->jobs, may_run, slot);
	if (input && slot->finishing.input && (slot->finishing.alone || is_suspect(input))) {
		fs->jobs.last_uid = last_uid; /* it keeps its turn, until that one has ended */
		input = NULL;
	}
	const struct tree_node *node = input ? tree_find(&fs->tree, input->id) : NULL;
	if (node) {
		*job = (struct message_job){.id = input->id, .options = input->options};
		MESSAGE_STRING(job->name, tree_path(node, path, sizeof path) ? path : node->name);
		*seq = input->seq;
		*suspect = is_suspect(input);
		set_task(slot, &slot->running, input->id, input->seq); /* under the lock: a cancel has to find it */
		jobs_set_state(&fs->jobs, input, INPUT_RUNNING, false);
		record_input(fs_change(fs), input);
		fs_commit(fs, true);
	}
	pthread_mutex_unlock(&fs->lock);
	return node != NULL;
}

static void start_job(struct worker_slot *slot)
{
	struct scheduler *s = slot->scheduler;
	struct message_job job;
	struct error err = {""};
	uint64_t seq;
	struct worker_task *task = &slot->running;
	int fds[PROTOCOL_MAX_FDS], n = 0;
	if (!take_next(slot, &job, &seq, &task->alone))
		return;
	int error = outcome_make_files(s->fs, job.options.outputs, &task->files);
	if (error) {
		set_task(slot, task, 0, 0);
		handle_storage(s, job.id, seq, strerror(error));
		return;
	}
	fds[n++] = state_content_open(&s->fs->state, job.id, O_RDONLY);
	for (int i = 0; i < JOB_OUTPUTS; i++)
		if (task->files.ids[i])
			fds[n++] = task->files.fds[i];
	bool ok = fds[0] >= 0 && worker_link_submit(slot->link, &job, fds, &err);
	if (fds[0] >= 0)
		close(fds[0]);
	s->status_changed = true;
	if (ok)
		return;
	if (err.text[0])
		fs_log("cannot give in/%s to the worker: %s", job.name, err.text);
	set_task(slot, task, 0, 0);
	outcome_drop_files(s->fs, &task->files);
	update(s, job.id, seq, INPUT_QUEUED, false, false);
	s->paused_until_ns = fs_monotonic_ns() + S / 2;
}

/* ---- The loop. ---- */

/* Inputs that failed before they became jobs, and those whose results exist already. */
static void publish_outcomes(struct scheduler *s)
{
	struct fs *fs = s->fs;
	while (!s->stop) {
		pthread_mutex_lock(&fs->lock);
		const struct input *input = fs->jobs.outcomes.first;
		uint64_t id = input ? input->id : 0, seq = input ? input->seq : 0;
		bool failed = input && input->state == INPUT_FAILED;
		char text[1024];
		snprintf(text, sizeof text, "%s", input && input->error ? input->error : "failed");
		pthread_mutex_unlock(&fs->lock);
		if (!id)
			return;
		s->status_changed = true;
		int error = 0;
		if (failed)
			outcome_fail(fs, s->publisher, id, seq, text);
		else if ((error = outcome_publish_again(fs, s->publisher, id, seq)) != 0)
			update(s, id, seq, INPUT_QUEUED, false, false); /* then it has to run */
	}
}

/* Whether there is work; and there are workers for it then. */
static bool work_waits(struct scheduler *s)
{
	pthread_mutex_lock(&s->fs->lock);
	long queued = s->fs->jobs.queue.n;
	bool needs_cpu = workers_need_cpu(&s->workers, &s->fs->jobs);
	pthread_mutex_unlock(&s->fs->lock);
	workers_provide(&s->workers, queued, needs_cpu);
	return queued > 0;
}

static void cancel_if_asked(struct scheduler *s)
{
	for (int i = 0; i < s->workers.n; i++) {
		struct worker_slot *slot = &s->workers.slots[i];
		const struct worker_task *tasks[] = {&slot->running, &slot->finishing};
		for (int k = 0; k < 2; k++) {
			pthread_mutex_lock(&s->lock);
			bool cancel = s->more[i].cancel[k];
			s->more[i].cancel[k] = false;
			pthread_mutex_unlock(&s->lock);
			if (cancel && tasks[k]->input)
				worker_link_cancel(slot->link, tasks[k]->input);
		}
	}
}

static void tell_status(struct scheduler *s, int64_t now)
{
	if (!s->status_changed || now - s->status_told_ns < STATUS_NS)
		return;
	s->status_changed = false;
	s->status_told_ns = now;
	special_wake(s->fs);
	publisher_touch_status(s->publisher);
}

/* Until when nothing happens by itself, in milliseconds for poll. */
static int next_timeout(const struct scheduler *s, int64_t now)
{
	int64_t at = INT64_MAX;
	if (s->status_changed)
		at = s->status_told_ns + STATUS_NS;
	if (s->model_changed_ns && s->model_changed_ns + MODEL_QUIET_NS < at)
		at = s->model_changed_ns + MODEL_QUIET_NS;
	if (s->paused_until_ns > now && s->paused_until_ns < at)
		at = s->paused_until_ns;
	if (at == INT64_MAX)
		return -1;
	return at <= now ? 0 : (int)((at - now) / 1000000) + 1;
}

static void turn(struct scheduler *s)
{
	int64_t now = fs_monotonic_ns();
	if (s->model_changed_ns && now - s->model_changed_ns >= MODEL_QUIET_NS) {
		s->model_changed_ns = 0;
		for (int i = 0; i < s->workers.n; i++)
			worker_link_retry(s->workers.slots[i].link);
	}
	publisher_reap(s->publisher);
	cancel_if_asked(s);
	publish_outcomes(s);
	bool waits = now >= s->paused_until_ns && work_waits(s);
	for (int i = 0; waits && i < s->workers.n; i++) {
		struct worker_slot *slot = &s->workers.slots[i];
		if (!slot->running.input && worker_link_report(slot->link)->state == WORKER_READY &&
			!is_early(s, &slot->finishing)) /* its place is wanted when this one leaves the device */
			start_job(slot);
	}
	tell_status(s, fs_monotonic_ns());
}

static void wait_for_events(struct scheduler *s)
{
	struct pollfd fds[2 + WORKERS_MAX] = {
		{.fd = s->wake_fd, .events = POLLIN}, {.fd = s->watch_fd, .events = POLLIN}};
	eventfd_t value;
	bool more = false; /* handled at once */
	int n = s->workers.n;
	for (int i = 0; i < n; i++) {
		fds[2 + i] = (struct pollfd){.fd = worker_link_fd(s->workers.slots[i].link), .events = POLLIN};
		more |= is_due(s, &s->workers.slots[i].running) || is_due(s, &s->workers.slots[i].finishing);
	}
	if (poll(fds, (nfds_t)(2 + n), more ? 0 : next_timeout(s, fs_monotonic_ns())) < 0)
		return;
	if (fds[0].revents) {
		eventfd_read(s->wake_fd, &value);
		atomic_store(&s->woken, false);
		s->status_changed = true;
	}
	for (int i = 0; i < n; i++)
		if (fds[2 + i].revents)
			worker_link_handle(s->workers.slots[i].link);
	if (fds[1].revents && model_watch_read(s->watch_fd, s->fs->options->model))
		s->model_changed_ns = fs_monotonic_ns();
}

/* The workers get their 2 s to end; a running job stays RUNNING in the journal and is queued again at the next start. */
static void stop_workers(struct scheduler *s)
{
	struct workers *w = &s->workers;
	int64_t until = fs_monotonic_ns() + STOP_NS;
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
		outcome_drop_files(s->fs, &w->slots[i].running.files);
		outcome_drop_files(s->fs, &w->slots[i].finishing.files);
	}
	workers_finish(w);
}

static void *run(void *user)
{
	struct scheduler *s = user;
	struct error err;
	bool ok = publisher_adopt(s->publisher, &err);
	s->mounted(s->mounted_user, ok ? NULL : &err);
	worker_link_start(s->workers.slots[0].link);
	while (!atomic_load(&s->stop)) {
		handle_outcomes(s);
		turn(s);
		if (!atomic_load(&s->stop))
			wait_for_events(s);
	}
	stop_workers(s);
	return NULL;
}

/* ---- Start and end. ---- */

bool scheduler_create(struct fs *fs, struct error *err)
{
	struct scheduler *s = calloc(1, sizeof *s);
	if (!s)
		return error_set(err, "out of memory");
	s->fs = fs;
	pthread_mutex_init(&s->lock, NULL);
	s->watch_fd = model_watch_open(fs->options->model);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fs->scheduler = s;
	if (s->wake_fd < 0)
		return error_set(err, "cannot make an eventfd: %s", strerror(errno));
	const struct worker_events events = {
		.changed = on_changed, .progress = on_progress, .freed = on_freed, .done = on_done};
	s->report.n_workers = 1;
	s->publisher = workers_init(&s->workers, fs->options, &events, s, err) ? publisher_create(fs, err) : NULL;
	return s->publisher != NULL;
}

bool scheduler_start(
	struct fs *fs, void (*mounted)(void *user, const struct error *failure), void *user, struct error *err)
{
	struct scheduler *s = fs->scheduler;
	s->mounted = mounted;
	s->mounted_user = user;
	int error = pthread_create(&s->thread, NULL, run, s);
	s->started = !error;
	return !error || error_set(err, "cannot start the scheduler thread: %s", strerror(error));
}

void scheduler_stop(struct fs *fs)
{
	struct scheduler *s = fs->scheduler;
	if (!s)
		return;
	atomic_store(&s->stop, true);
	if (s->wake_fd >= 0)
		eventfd_write(s->wake_fd, 1);
	if (s->started)
		pthread_join(s->thread, NULL);
	else
		workers_finish(&s->workers);
	publisher_destroy(s->publisher);
	pthread_mutex_lock(&fs->lock);
	fs->scheduler = NULL;
	pthread_mutex_unlock(&fs->lock);
	if (s->watch_fd >= 0)
		close(s->watch_fd);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
