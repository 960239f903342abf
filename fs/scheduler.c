/* scheduler.c - the scheduler thread. See scheduler.h.
 *
 * A poll loop over the worker link, the model watch and an eventfd by which other threads wake it. Each turn: publish
 * outcomes that need no worker, give the worker the next job, tell those who watch status. */
#include "scheduler.h"

#include "model_watch.h"
#include "outcome.h"
#include "record.h"
#include "special.h"
#include "worker_link.h"

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
	struct scheduler_report report; /* lock; running_s and notice are filled in by scheduler_report */
	int64_t started_ns;		/* lock: the running job */
	int64_t retry_ns;		/* lock: when the worker is started again */
	bool cancel;			/* lock: cancel the running job */
	char notice[512];		/* lock */

	/* The thread's own. */
	struct publisher *publisher;
	struct worker_link *link;
	uint64_t running, running_seq; /* input and submission; 0: none */
	struct outcome_files files;
	bool finished; /* what follows was reported by the worker and waits for handle_outcome */
	enum worker_outcome outcome;
	struct message_result result;
	char text[1024];
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
	if (s->report.running && s->report.input == input_id)
		s->cancel = true;
	pthread_mutex_unlock(&s->lock);
	scheduler_wake(fs);
}

void scheduler_report(struct fs *fs, struct scheduler_report *report)
{
	struct scheduler *s = fs->scheduler;
	if (!s) {
		*report = (struct scheduler_report){0};
		return;
	}
	pthread_mutex_lock(&s->lock);
	*report = s->report;
	if (s->retry_ns > fs_monotonic_ns())
		report->worker.retry_s = (int)((s->retry_ns - fs_monotonic_ns()) / S);
	report->running_s = s->report.running ? (fs_monotonic_ns() - s->started_ns) / 1e9 : 0;
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

static void on_changed(void *user)
{
	struct scheduler *s = user;
	pthread_mutex_lock(&s->lock);
	s->report.worker = *worker_link_report(s->link);
	s->retry_ns = fs_monotonic_ns() + s->report.worker.retry_s * S;
	pthread_mutex_unlock(&s->lock);
	s->status_changed = true;
}

static void on_progress(void *user, const struct message_progress *progress)
{
	struct scheduler *s = user;
	pthread_mutex_lock(&s->lock);
	s->report.progress = *progress;
	pthread_mutex_unlock(&s->lock);
	s->status_changed = true;
}

static void on_done(void *user, const struct worker_done *done)
{
	struct scheduler *s = user;
	s->finished = true;
	s->outcome = done->outcome;
	s->result = done->result ? *done->result : (struct message_result){0};
	snprintf(s->text, sizeof s->text, "%s", done->text);
	s->status_changed = true;
}

/* ---- One job. ---- */

static void set_running(struct scheduler *s, uint64_t input, uint64_t seq)
{
	s->running = input;
	s->running_seq = seq;
	pthread_mutex_lock(&s->lock);
	s->report.running = input != 0;
	s->report.input = input;
	s->report.progress = (struct message_progress){.eta_s = -1};
	s->started_ns = fs_monotonic_ns();
	s->cancel = false;
	pthread_mutex_unlock(&s->lock);
}

/* Change an input that is still at this submission, and journal it. */
static void update(struct scheduler *s, uint64_t id, uint64_t seq, enum input_state state, bool death, bool storage)
{
	struct fs *fs = s->fs;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	if (input && input->seq == seq && (input->state == INPUT_RUNNING || input->unpublished)) {
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

static void handle_death(struct scheduler *s, uint64_t id, uint64_t seq)
{
	int deaths, tries;
	char text[1200];
	counts(s->fs, id, &deaths, &tries);
	if (deaths + 1 < JOBS_POISON) {
		update(s, id, seq, INPUT_QUEUED, true, false);
		return;
	}
	snprintf(text, sizeof text, "given up after it ended the worker %d times: %s", JOBS_POISON, s->text);
	outcome_fail(s->fs, s->publisher, id, seq, text);
}

static void handle_done(struct scheduler *s, uint64_t id, uint64_t seq)
{
	int error = outcome_publish(s->fs, s->publisher, id, seq, &s->files, s->result.sizes);
	if (error && error != ECANCELED) {
		handle_storage(s, id, seq, strerror(error));
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->report.last_s = s->result.seconds;
	memcpy(s->report.cutout, s->result.cutout, sizeof s->report.cutout);
	pthread_mutex_unlock(&s->lock);
	set_notice(s, publisher_notice(s->publisher));
}

static void handle_outcome(struct scheduler *s)
{
	uint64_t id = s->running, seq = s->running_seq;
	s->finished = false;
	set_running(s, 0, 0);
	if (s->outcome != WORKER_DONE)
		outcome_drop_files(s->fs, &s->files);
	if (s->outcome == WORKER_DONE)
		handle_done(s, id, seq);
	else if (s->outcome == WORKER_FAILED)
		outcome_fail(s->fs, s->publisher, id, seq, s->text);
	else if (s->outcome == WORKER_STORAGE)
		handle_storage(s, id, seq, s->text);
	else if (worker_outcome_counts(s->outcome))
		handle_death(s, id, seq);
	else /* lost, or cancelled: if it is still wanted it runs again */
		update(s, id, seq, INPUT_QUEUED, false, false);
}

/* Take the next input and describe its job; the input is RUNNING then. */
static bool take_next(struct scheduler *s, struct message_job *job, uint64_t *seq)
{
	struct fs *fs = s->fs;
	char path[PATH_MAX];
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_next(&fs->jobs);
	const struct tree_node *node = input ? tree_find(&fs->tree, input->id) : NULL;
	if (node) {
		*job = (struct message_job){.id = input->id, .options = input->options};
		MESSAGE_STRING(job->name, tree_path(node, path, sizeof path) ? path : node->name);
		*seq = input->seq;
		jobs_set_state(&fs->jobs, input, INPUT_RUNNING, false);
		record_input(fs_change(fs), input);
		fs_commit(fs, true);
	}
	pthread_mutex_unlock(&fs->lock);
	return node != NULL;
}

static void start_job(struct scheduler *s)
{
	struct message_job job;
	struct error err = {""};
	uint64_t seq;
	int fds[PROTOCOL_MAX_FDS], n = 0;
	if (!take_next(s, &job, &seq))
		return;
	set_running(s, job.id, seq);
	int error = outcome_make_files(s->fs, job.options.outputs, &s->files);
	if (error) {
		set_running(s, 0, 0);
		handle_storage(s, job.id, seq, strerror(error));
		return;
	}
	fds[n++] = state_content_open(&s->fs->state, job.id, O_RDONLY);
	for (int i = 0; i < JOB_OUTPUTS; i++)
		if (s->files.ids[i])
			fds[n++] = s->files.fds[i];
	bool ok = fds[0] >= 0 && worker_link_submit(s->link, &job, fds, &err);
	if (fds[0] >= 0)
		close(fds[0]);
	s->status_changed = true;
	if (ok)
		return;
	if (err.text[0])
		fs_log("cannot give in/%s to the worker: %s", job.name, err.text);
	set_running(s, 0, 0);
	outcome_drop_files(s->fs, &s->files);
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

static bool work_waits(struct scheduler *s)
{
	pthread_mutex_lock(&s->fs->lock);
	bool waits = s->fs->jobs.queue.n > 0;
	pthread_mutex_unlock(&s->fs->lock);
	return waits;
}

static void cancel_if_asked(struct scheduler *s)
{
	pthread_mutex_lock(&s->lock);
	bool cancel = s->cancel;
	s->cancel = false;
	pthread_mutex_unlock(&s->lock);
	if (cancel && s->running)
		worker_link_cancel(s->link, s->running);
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
		worker_link_retry(s->link);
	}
	cancel_if_asked(s);
	publish_outcomes(s);
	if (!s->running && now >= s->paused_until_ns && work_waits(s)) {
		enum worker_state state = worker_link_report(s->link)->state;
		if (state == WORKER_STOPPED)
			worker_link_start(s->link);
		else if (state == WORKER_READY)
			start_job(s);
	}
	tell_status(s, fs_monotonic_ns());
}

static void wait_for_events(struct scheduler *s)
{
	struct pollfd fds[3] = {{.fd = s->wake_fd, .events = POLLIN}, {.fd = worker_link_fd(s->link), .events = POLLIN},
		{.fd = s->watch_fd, .events = POLLIN}};
	eventfd_t value;
	bool more = s->finished; /* handled at once */
	if (poll(fds, 3, more ? 0 : next_timeout(s, fs_monotonic_ns())) < 0)
		return;
	if (fds[0].revents) {
		eventfd_read(s->wake_fd, &value);
		atomic_store(&s->woken, false);
		s->status_changed = true;
	}
	if (fds[1].revents)
		worker_link_handle(s->link);
	if (fds[2].revents && model_watch_read(s->watch_fd, s->fs->options->model))
		s->model_changed_ns = fs_monotonic_ns();
}

/* The worker gets its 2 s to end; a running job stays RUNNING in the journal and is queued again at the next start. */
static void stop_worker(struct scheduler *s)
{
	int64_t until = fs_monotonic_ns() + STOP_NS;
	worker_link_stop(s->link);
	while (worker_link_report(s->link)->state != WORKER_STOPPED && fs_monotonic_ns() < until) {
		struct pollfd fd = {.fd = worker_link_fd(s->link), .events = POLLIN};
		if (poll(&fd, 1, 100) > 0)
			worker_link_handle(s->link);
	}
	worker_link_destroy(s->link);
	if (s->running)
		outcome_drop_files(s->fs, &s->files);
}

static void *run(void *user)
{
	struct scheduler *s = user;
	struct error err;
	bool ok = publisher_adopt(s->publisher, &err);
	s->mounted(s->mounted_user, ok ? NULL : &err);
	worker_link_start(s->link);
	while (!atomic_load(&s->stop)) {
		if (s->finished)
			handle_outcome(s);
		turn(s);
		if (!atomic_load(&s->stop))
			wait_for_events(s);
	}
	stop_worker(s);
	return NULL;
}

/* ---- Start and end. ---- */

static struct worker_link *make_link(struct scheduler *s, struct error *err)
{
	const struct options *o = s->fs->options;
	const struct worker_events events = {.changed = on_changed, .progress = on_progress, .done = on_done};
	char threads[16];
	const char *argv[10] = {o->worker, "worker"};
	int n = 2;
	if (o->model) {
		argv[n++] = "--model";
		argv[n++] = o->model;
	}
	if (o->device) {
		argv[n++] = "--device";
		argv[n++] = o->device;
	}
	if (o->threads > 0) {
		snprintf(threads, sizeof threads, "%d", o->threads);
		argv[n++] = "--threads";
		argv[n++] = threads;
	}
	const struct worker_options options = {.argv = argv, .idle_s = o->idle_s, .hang_s = o->hang_s};
	return worker_link_create(&options, &events, s, err);
}

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
	s->link = make_link(s, err);
	s->publisher = s->link ? publisher_create(fs, err) : NULL;
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
		worker_link_destroy(s->link);
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
