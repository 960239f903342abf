/* scheduler.c - the scheduler thread. See scheduler.h.
 *
 * A poll loop over the workers' links, the model watch and an eventfd by which other threads wake it. Each turn: move some
 * results to where their pictures are now, publish some of the outcomes that need no worker, give each free worker its next job, tell those who watch status. */
#include "scheduler.h"

#include "contents.h"
#include "follow.h"
#include "model_watch.h"
#include "outcome.h"
#include "record.h"
#include "special.h"
#include "workers.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)
enum { STORAGE_TRIES = 3 };
static const int64_t STATUS_NS = 1 * S, MODEL_QUIET_NS = 2 * S, RETRY_NS = 5 * S, STOP_NS = 5 * S / 2,
		     OUTCOMES_NS = 20 * MS;

struct scheduler {
	struct fs *fs;
	pthread_t thread;
	bool started;
	int wake_fd;
	atomic_bool woken, stop;
	void (*mounted)(void *user, const struct error *failure);
	void *mounted_user;
	struct board board;

	/* The thread's own. */
	struct publisher *publisher;
	struct workers workers;
	int watch_fd;
	int64_t model_changed_ns, status_told_ns;
	int64_t retry_ns; /* when the first of the jobs that a worker would have may run again; INT64_MAX: none */
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
	if (!fs->scheduler)
		return;
	board_ask_cancel(&fs->scheduler->board, input_id);
	scheduler_wake(fs);
}

bool scheduler_is_idle(struct fs *fs)
{
	return fs->scheduler && fs->jobs.queue.n == 0 && board_has_idle_worker(&fs->scheduler->board);
}

void scheduler_report(struct fs *fs, struct scheduler_report *report)
{
	if (fs->scheduler)
		board_read(&fs->scheduler->board, report);
	else
		*report = (struct scheduler_report){.n_workers = 1};
}

void scheduler_note_problem(struct fs *fs, const struct tree_node *node, const char *text, bool until_made)
{
	char name[sizeof((struct scheduler_problem *)0)->name] = "in/";
	jobs_show_name(node, name + 3, sizeof name - 3);
	fs_log("%s: %s", name, text);
	if (fs->scheduler)
		board_add_problem(&fs->scheduler->board, until_made && node ? node->id : 0, name, text);
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
	if (!slot->link)
		return; /* being made */
	board_set_worker(&s->board, index_of(slot), worker_link_report(slot->link), slot->stands_by);
	s->status_changed = true;
}

static void on_progress(void *user, const struct message_progress *progress)
{
	const struct worker_slot *slot = user;
	board_set_progress(&slot->scheduler->board, index_of(slot), progress->id != slot->running.input, progress);
	slot->scheduler->status_changed = true;
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
	(void)id; /* the running one */
	if (slot->finishing.finished)
		handle_outcome(slot, &slot->finishing);
	slot->finishing = slot->running;
	slot->running = (struct worker_task){0};
	board_move_job(&slot->scheduler->board, index_of(slot));
	slot->scheduler->status_changed = true;
}

/* ---- One job. ---- */

/* Note which job a task of the slot is; input 0: none any more. */
static void set_task(struct worker_slot *slot, struct worker_task *task, uint64_t input, uint64_t seq)
{
	task->input = input;
	task->seq = seq;
	board_set_job(&slot->scheduler->board, index_of(slot), task == &slot->finishing, input);
}

/* When to look at the queue again, whatever else happens. */
static void note_retry(struct scheduler *s, const struct input *input)
{
	if (input->retry_ns && input->retry_ns < s->retry_ns)
		s->retry_ns = input->retry_ns;
}

/* What is counted against a job. */
struct trouble {
	bool death, storage;
};

/* Back into the queue, if it is still wanted, and not to be run before wait_ns have passed. */
static void requeue(struct scheduler *s, uint64_t id, uint64_t seq, struct trouble trouble, int64_t wait_ns)
{
	struct fs *fs = s->fs;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	if (jobs_wants(input, seq)) {
		input->deaths += trouble.death;
		input->storage_tries += trouble.storage;
		input->retry_ns = wait_ns ? fs_monotonic_ns() + wait_ns : 0;
		note_retry(s, input);
		jobs_set_state(&fs->jobs, input, INPUT_QUEUED, false);
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

/* The system refused something that the input's job or its results need. A full disk may be emptied: a few tries, then say so,
 * because scripts wait. What the daemon itself is short of comes back. Anything else is how it is with this input. */
static void handle_refusal(struct scheduler *s, uint64_t id, uint64_t seq, int error, const char *why)
{
	int deaths, tries;
	counts(s->fs, id, &deaths, &tries);
	bool storage = error == ENOSPC || error == EDQUOT || error == EIO;
	bool shortage = error == EMFILE || error == ENFILE || error == ENOMEM;
	if (!shortage && !(storage && tries + 1 < STORAGE_TRIES)) {
		outcome_fail(s->fs, s->publisher, id, seq, why);
		return;
	}
	board_set_notice(&s->board, why);
	requeue(s, id, seq, (struct trouble){.storage = storage}, RETRY_NS);
}

static void handle_storage(struct scheduler *s, uint64_t id, uint64_t seq, const char *why)
{
	char text[1200];
	snprintf(text, sizeof text, "the state directory cannot take the result: %s", why);
	handle_refusal(s, id, seq, ENOSPC, text);
}

static void handle_death(struct scheduler *s, uint64_t id, uint64_t seq, const char *why)
{
	int deaths, tries;
	char text[1200];
	counts(s->fs, id, &deaths, &tries);
	if (deaths + 1 < JOBS_POISON) {
		requeue(s, id, seq, (struct trouble){.death = true}, 0);
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
	char text[1300], device[24];
	bool again = true;
	int failures = 0;
	pthread_mutex_lock(&fs->lock);
	struct input *input = jobs_find(&fs->jobs, id);
	const struct tree_node *node = tree_find(&fs->tree, id);
	if (jobs_wants(input, seq)) {
		again = workers_note_failure(&s->workers, slot, input);
		failures = input->device_failures;
		snprintf(text, sizeof text, "%s failed and the job is done again%s: %s", worker_slot_name(slot, device),
			failures > 1 ? " elsewhere" : "", task->text);
		if (again)
			scheduler_note_problem(fs, node, text, false);
	}
	pthread_mutex_unlock(&fs->lock);
	if (again) {
		requeue(s, id, seq, (struct trouble){0}, 0);
		return;
	}
	snprintf(text, sizeof text, "given up after the device failed %d times: %s", failures, task->text);
	outcome_fail(fs, s->publisher, id, seq, text);
}

static void handle_done(struct scheduler *s, struct worker_task *task, uint64_t id, uint64_t seq)
{
	struct error err;
	int error = outcome_publish(s->fs, s->publisher, id, seq, &task->files, task->result.sizes, &err);
	if (error == ECANCELED)
		return;
	if (error) {
		handle_refusal(s, id, seq, error, err.text);
		return;
	}
	board_forget_problems(&s->board, id);
	board_set_result(&s->board, &task->result);
	board_set_notice(&s->board, publisher_notice(s->publisher));
}

/* Until it has been handled the job is one of those that run: nobody is to think that it has gone. */
static void handle_outcome(struct worker_slot *slot, struct worker_task *task)
{
	struct scheduler *s = slot->scheduler;
	uint64_t id = task->input, seq = task->seq;
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
		requeue(s, id, seq, (struct trouble){0}, 0);
	task->finished = false;
	set_task(slot, task, 0, 0);
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

static bool may_run(void *user, const struct input *input)
{
	const struct worker_slot *slot = user;
	struct scheduler *s = slot->scheduler;
	if (slot->finishing.input == input->id || /* it was written again */
		!workers_may_run(&s->workers, slot, input))
		return false;
	if (!input->retry_ns || input->retry_ns <= fs_monotonic_ns())
		return true;
	note_retry(s, input);
	return false;
}

/* The next input that this worker may run, or NULL. Its content has been looked at: it may have been written before the start. */
static struct input *next_input(struct worker_slot *slot)
{
	struct fs *fs = slot->scheduler->fs;
	for (;;) {
		uint32_t last_uid = fs->jobs.last_uid;
		struct input *input = jobs_next(&fs->jobs, may_run, slot);
		const struct tree_node *node = input ? tree_find(&fs->tree, input->id) : NULL;
		bool unseen = node && node->unseen;
		if (input && !unseen && !(slot->finishing.input && (slot->finishing.alone || workers_suspect(input))))
			return input;
		fs->jobs.last_uid = last_uid; /* it keeps its turn, until that one has ended */
		if (!unseen)
			return NULL;
		uint64_t id = node->id;
		pthread_mutex_unlock(&fs->lock);
		contents_look(fs, id);
		pthread_mutex_lock(&fs->lock);
	}
}

/* Take it and describe its job; the input is RUNNING then. */
static bool take_next(struct worker_slot *slot, struct message_job *job, uint64_t *seq, bool *suspect)
{
	struct fs *fs = slot->scheduler->fs;
	pthread_mutex_lock(&fs->lock);
	struct input *input = next_input(slot);
	const struct tree_node *node = input ? tree_find(&fs->tree, input->id) : NULL;
	if (node) {
		*job = (struct message_job){.id = input->id, .options = input->options};
		jobs_show_name(node, job->name, sizeof job->name);
		*seq = input->seq;
		*suspect = workers_suspect(input);
		set_task(slot, &slot->running, input->id, input->seq); /* under the lock: a cancel has to find it */
		jobs_set_state(&fs->jobs, input, INPUT_RUNNING, false);
		record_input(fs_change(fs), input);
		fs_commit(fs, true);
	}
	pthread_mutex_unlock(&fs->lock);
	return node != NULL;
}

/* True: the job could not be given, so the worker may have another one at once. */
static bool start_job(struct worker_slot *slot)
{
	struct scheduler *s = slot->scheduler;
	struct worker_task *task = &slot->running;
	struct message_job job;
	struct error err;
	uint64_t seq;
	int fds[PROTOCOL_MAX_FDS];
	if (!take_next(slot, &job, &seq, &task->alone))
		return false;
	s->status_changed = true;
	int error = outcome_prepare(s->fs, &job, &task->files, fds, &err);
	if (error) {
		handle_refusal(s, job.id, seq, error, err.text);
		set_task(slot, task, 0, 0);
		return true;
	}
	bool given = worker_link_submit(slot->link, &job, fds, &err);
	close(fds[0]);
	if (given)
		return false;
	fs_log("cannot give in/%s to the worker: %s", job.name, err.text); /* it is dying, or descriptors are short */
	outcome_drop_files(s->fs, &task->files);
	requeue(s, job.id, seq, (struct trouble){0}, S / 2);
	set_task(slot, task, 0, 0);
	return true;
}

/* ---- The loop. ---- */

static void publish_outcome(struct scheduler *s, uint64_t id)
{
	struct fs *fs = s->fs;
	struct error err;
	char text[1024];
	contents_look(fs, id);
	pthread_mutex_lock(&fs->lock);
	const struct input *input = jobs_find(&fs->jobs, id);
	bool waits = input && input->unpublished, failed = waits && input->state == INPUT_FAILED;
	uint64_t seq = waits ? input->seq : 0;
	if (waits)
		fs->jobs.last_outcome_uid = input->uid;
	snprintf(text, sizeof text, "%s", waits && input->error ? input->error : "failed");
	pthread_mutex_unlock(&fs->lock);
	if (!waits)
		return;
	if (failed) {
		outcome_fail(fs, s->publisher, id, seq, text);
		return;
	}
	int error = outcome_publish_again(fs, s->publisher, id, seq, &err);
	if (!error)
		board_forget_problems(&s->board, id);
	else if (error == EAGAIN || error == ECANCELED)
		requeue(s, id, seq, (struct trouble){0}, 0); /* then it has to run, if it is still wanted */
	else
		handle_refusal(s, id, seq, error, err.text);
}

/* Inputs that failed before they became jobs, and those whose results exist already: some of them, by turns, so that thousands
 * hold up neither workers nor other users. False: none is left. */
static bool publish_outcomes(struct scheduler *s)
{
	struct fs *fs = s->fs;
	struct input *turns[JOBS_TURNS_MAX];
	uint64_t ids[JOBS_TURNS_MAX];
	int64_t until = fs_monotonic_ns() + OUTCOMES_NS;
	pthread_mutex_lock(&fs->lock);
	size_t n = jobs_outcome_turns(&fs->jobs, turns);
	for (size_t i = 0; i < n; i++)
		ids[i] = turns[i]->id;
	pthread_mutex_unlock(&fs->lock);
	for (size_t i = 0; i < n && !s->stop && (i == 0 || fs_monotonic_ns() < until); i++) {
		board_set_publishing(&s->board, ids[i]);
		publish_outcome(s, ids[i]);
	}
	board_set_publishing(&s->board, 0);
	s->status_changed |= n > 0;
	pthread_mutex_lock(&fs->lock);
	bool left = fs->jobs.outcomes.n > 0;
	pthread_mutex_unlock(&fs->lock);
	return left;
}

/* Of pictures that were renamed. True: there are more. */
static bool move_results(struct scheduler *s)
{
	pthread_mutex_lock(&s->fs->lock);
	bool waits = follow_waiting(s->fs) > 0;
	pthread_mutex_unlock(&s->fs->lock);
	s->status_changed |= waits;
	return waits && follow_turn(s->fs, s->publisher, fs_monotonic_ns() + OUTCOMES_NS);
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
		for (int k = 0; k < 2; k++)
			if (board_take_cancel(&s->board, i, k) && tasks[k]->input)
				worker_link_cancel(slot->link, tasks[k]->input);
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
	if (s->retry_ns < at)
		at = s->retry_ns;
	if (at == INT64_MAX)
		return -1;
	return at <= now ? 0 : (int)((at - now) / 1000000) + 1;
}

/* True: there is more to do at once. */
static bool turn(struct scheduler *s)
{
	int64_t now = fs_monotonic_ns();
	if (s->model_changed_ns && now - s->model_changed_ns >= MODEL_QUIET_NS) {
		s->model_changed_ns = 0;
		for (int i = 0; i < s->workers.n; i++)
			worker_link_retry(s->workers.slots[i].link);
	}
	publisher_reap(s->publisher);
	cancel_if_asked(s);
	bool more = move_results(s), waits = work_waits(s);
	more |= publish_outcomes(s);
	s->retry_ns = INT64_MAX;
	for (int i = 0; waits && i < s->workers.n; i++) {
		struct worker_slot *slot = &s->workers.slots[i];
		if (!slot->running.input && worker_link_report(slot->link)->state == WORKER_READY &&
			!is_early(s, &slot->finishing)) /* its place is wanted when this one leaves the device */
			more |= start_job(slot);
	}
	tell_status(s, fs_monotonic_ns());
	return more;
}

static void wait_for_events(struct scheduler *s, bool more)
{
	struct pollfd fds[2 + WORKERS_MAX] = {
		{.fd = s->wake_fd, .events = POLLIN}, {.fd = s->watch_fd, .events = POLLIN}};
	eventfd_t value;
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

static void *run(void *user)
{
	struct scheduler *s = user;
	struct error err;
	bool ok = publisher_adopt(s->publisher, &err);
	s->mounted(s->mounted_user, ok ? NULL : &err);
	worker_link_start(s->workers.slots[0].link);
	follow_all(s->fs);
	while (!atomic_load(&s->stop)) {
		handle_outcomes(s);
		bool more = turn(s);
		if (!atomic_load(&s->stop))
			wait_for_events(s, more);
	}
	workers_stop(&s->workers, s->fs, STOP_NS);
	return NULL;
}

/* ---- Start and end. ---- */

bool scheduler_create(struct fs *fs, struct error *err)
{
	struct scheduler *s = calloc(1, sizeof *s);
	if (!s)
		return error_set(err, "out of memory");
	s->fs = fs;
	board_init(&s->board);
	s->retry_ns = INT64_MAX;
	s->watch_fd = model_watch_open(fs->options->model);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fs->scheduler = s;
	if (s->wake_fd < 0)
		return error_set(err, "cannot make an eventfd: %s", strerror(errno));
	const struct worker_events events = {
		.changed = on_changed, .progress = on_progress, .freed = on_freed, .done = on_done};
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
	board_finish(&s->board);
	free(s);
}
