/* test_fs_worker_link.c - the supervisor against the fake worker: results, cancels, and every way to die. */
#include "worker_link.h"

#include "worker_process.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct seen {
	struct worker_link *link;
	int changed, progress, freed, done;
	uint64_t freed_id, first; /* the latter was done first */
	enum worker_outcome first_outcome;
	struct worker_done last;
	struct message_result result;
	char text[1024], stage[32];
};

static void on_changed(void *user)
{
	((struct seen *)user)->changed++;
}

static void on_progress(void *user, const struct message_progress *progress)
{
	struct seen *seen = user;
	seen->progress++;
	cr_expect_eq(progress->id, worker_link_report(seen->link)->job);
	snprintf(seen->stage, sizeof seen->stage, "%s", progress->stage);
}

static void on_freed(void *user, uint64_t id)
{
	struct seen *seen = user;
	seen->freed++;
	seen->freed_id = id;
}

static void on_done(void *user, const struct worker_done *done)
{
	struct seen *seen = user;
	if (!seen->done++) {
		seen->first = done->id;
		seen->first_outcome = done->outcome;
	}
	seen->last = *done;
	snprintf(seen->text, sizeof seen->text, "%s", done->text);
	if (done->result)
		seen->result = *done->result;
	cr_expect_eq(done->result != NULL, done->outcome == WORKER_DONE);
	cr_expect_eq(*done->text == 0, done->outcome == WORKER_DONE);
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void link_to(struct seen *seen, const char *switches, int idle_s, int hang_s)
{
	static char program[4096];
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 16);
	cr_assert_gt(n, 0);
	program[n] = 0;
	strcpy(strrchr(program, '/'), "/fake_worker");
	setenv("FAKE_WORKER", switches, 1);
	const char *argv[] = {program, "worker", NULL};
	struct error err;
	memset(seen, 0, sizeof *seen);
	seen->link = worker_link_create(&(struct worker_options){.argv = argv, .idle_s = idle_s, .hang_s = hang_s},
		&(struct worker_events){on_changed, on_progress, on_freed, on_done}, seen, &err);
	cr_assert_not_null(seen->link, "%s", err.text);
}

/* Run the loop until *what is at least `enough`, or fail after 10 s. */
static void run_until(struct seen *seen, const int *what, int enough)
{
	double end = now_s() + 10;
	while (*what < enough) {
		struct pollfd p = {.fd = worker_link_fd(seen->link), .events = POLLIN};
		cr_assert_gt(end, now_s(), "waited for 10 s; problem: %s", worker_link_report(seen->link)->problem);
		if (poll(&p, 1, 1000) > 0)
			worker_link_handle(seen->link);
	}
}

static void run_until_state(struct seen *seen, enum worker_state state)
{
	while (worker_link_report(seen->link)->state != state)
		run_until(seen, &seen->changed, seen->changed + 1);
}

#define N_OUTPUTS 3
static const uint32_t outputs = 1u << JOB_GLB | 1u << JOB_STL | 1u << JOB_PREVIEW;

static struct message_job job_of(uint64_t id, const char *name)
{
	struct message_job job = {
		.id = id, .options = {.structure_guidance = -1, .latent_guidance = -1, .outputs = outputs}};
	MESSAGE_STRING(job.name, name);
	return job;
}

static void open_files(int fds[1 + N_OUTPUTS], const char *picture)
{
	for (int i = 0; i < 1 + N_OUTPUTS; i++) {
		fds[i] = memfd_create("job", MFD_CLOEXEC);
		cr_assert_geq(fds[i], 0);
	}
	cr_assert_eq(write(fds[0], picture, strlen(picture)), (ssize_t)strlen(picture));
}

static void close_files(int fds[1 + N_OUTPUTS])
{
	for (int i = 0; i < 1 + N_OUTPUTS; i++)
		close(fds[i]);
}

/* Have a ready worker, give it a job, return when it has ended. */
static void do_job(struct seen *seen, uint64_t id, const char *name, int fds[1 + N_OUTPUTS])
{
	struct error err;
	struct message_job job = job_of(id, name);
	int done = seen->done;
	worker_link_start(seen->link);
	run_until_state(seen, WORKER_READY);
	cr_assert(worker_link_submit(seen->link, &job, fds, &err), "%s", err.text);
	cr_expect_eq(worker_link_report(seen->link)->state, WORKER_BUSY);
	run_until(seen, &seen->done, done + 1);
	cr_expect_eq(seen->done, done + 1);
	cr_expect_eq(seen->last.id, id);
}

/* A job with a fault: its outcome, whether it counts, and the text. Afterwards the link recovers without the fault. */
static void expect_fault(const char *switches, enum worker_outcome outcome, bool counts, const char *text)
{
	struct seen seen;
	int fds[1 + N_OUTPUTS];
	char with[256];
	snprintf(with, sizeof with, "%s only=bad", switches);
	link_to(&seen, with, 0, 1);
	open_files(fds, "picture");
	do_job(&seen, 5, "in/bad.png", fds);
	cr_expect_eq(seen.last.outcome, outcome, "%s: outcome %d: %s", switches, seen.last.outcome, seen.text);
	cr_expect_eq(worker_outcome_counts(seen.last.outcome), counts);
	cr_expect_not_null(strstr(seen.text, text), "%s: said '%s', not '%s'", switches, seen.text, text);
	close_files(fds);
	open_files(fds, "picture");
	do_job(&seen, 6, "in/good.png", fds);
	cr_expect_eq(seen.last.outcome, WORKER_DONE, "%s", seen.text);
	cr_expect_not(worker_link_report(seen.link)->failed, "a problem stays after it is over");
	close_files(fds);
	worker_link_destroy(seen.link);
}

static int count_open_fds(void)
{
	int n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

Test(worker_link, jobs_end_in_files)
{
	struct seen seen;
	uint64_t size[2] = {0};
	char glb[2][4096];
	int before = count_open_fds();
	link_to(&seen, "load=100", 0, 5);
	cr_expect_eq(worker_link_report(seen.link)->state, WORKER_STOPPED);
	for (int i = 0; i < 2; i++) {
		int fds[1 + N_OUTPUTS];
		open_files(fds, "the same picture");
		do_job(&seen, 1 + (uint64_t)i, "in/a.png", fds);
		cr_assert_eq(seen.last.outcome, WORKER_DONE, "%s", seen.text);
		cr_expect_eq(seen.result.faces, 4);
		size[i] = (uint64_t)pread(fds[1], glb[i], sizeof glb[i], 0);
		cr_expect_eq(size[i], seen.result.sizes[JOB_GLB]);
		cr_expect(seen.result.sizes[JOB_STL] > 0 && seen.result.sizes[JOB_PREVIEW] > 0 &&
			  !seen.result.sizes[JOB_OBJ]);
		close_files(fds);
	}
	cr_expect(size[0] == size[1] && !memcmp(glb[0], glb[1], size[0]), "equal pictures, different files");
	cr_expect_eq(memcmp(glb[0], "glTF", 4), 0);
	const struct worker_report *r = worker_link_report(seen.link);
	cr_expect(r->starts == 1 && r->deaths == 0 && r->have_status && r->pid > 0);
	cr_expect_str_eq(r->status.model, "fake");
	cr_expect_geq(seen.progress, 20);
	cr_expect_str_eq(seen.stage, "structure");
	worker_link_destroy(seen.link);
	cr_expect_eq(count_open_fds(), before, "descriptors leak");
}

Test(worker_link, failures_are_passed_on)
{
	expect_fault("fail", WORKER_FAILED, false, "the picture shows nothing");
	expect_fault("oom", WORKER_FAILED, false, "out of memory: 1073741824 bytes");
	expect_fault("storage", WORKER_STORAGE, false, "No space left on device");
	expect_fault("device", WORKER_DEVICE, false, "the device is lost");
}

Test(worker_link, deaths_in_a_job)
{
	expect_fault("crash-at=2", WORKER_CRASHED, true, "the worker was killed by signal 11 (SEGV)");
	expect_fault("signal=9", WORKER_CRASHED, true, "signal 9 (KILL)");
	expect_fault("signal=15", WORKER_LOST, false, "signal 15 (TERM)");
	expect_fault("exit=3", WORKER_CRASHED, true, "the worker ended by itself with status 3");
}

Test(worker_link, hung_in_a_job)
{
	expect_fault(
		"hang", WORKER_HUNG, false, "the worker gave no sign of life for 1 s while structure, and was killed");
}

/* Keeps a process from being reaped by its parent, as a driver that hangs does: it traces it and doesn't look. The pid of the
 * tracer; 0 when tracing is not allowed here. */
static pid_t hold(pid_t pid)
{
	int pair[2];
	char ok = 0;
	cr_assert_eq(pipe(pair), 0);
	pid_t tracer = fork();
	if (tracer == 0) {
		ok = ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
		_exit(write(pair[1], &ok, 1) == 1 && ok ? (pause(), 0) : 1);
	}
	cr_assert_eq(read(pair[0], &ok, 1), 1);
	close(pair[0]);
	close(pair[1]);
	if (!ok)
		waitpid(tracer, NULL, 0);
	return ok ? tracer : 0;
}

Test(worker_link, a_worker_that_cannot_die_is_left_behind)
{
	struct seen seen;
	struct error err;
	int fds[1 + N_OUTPUTS];
	struct message_job job = job_of(5, "in/bad.png");
	link_to(&seen, "hang only=bad", 0, 1);
	open_files(fds, "picture");
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	pid_t worker = worker_link_report(seen.link)->pid, tracer = hold(worker);
	if (!tracer)
		cr_skip_test("processes can't be traced here");
	cr_assert(worker_link_submit(seen.link, &job, fds, &err), "%s", err.text);
	run_until(&seen, &seen.done, 1);
	cr_expect_eq(seen.last.outcome, WORKER_HUNG);
	cr_expect_not_null(strstr(seen.text, "and was killed; it does not die"), "%s", seen.text);
	run_until_state(&seen, WORKER_READY); /* another one */
	cr_expect_neq(worker_link_report(seen.link)->pid, worker);
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	close_files(fds);
	worker_link_destroy(seen.link);
}

Test(worker_link, nonsense_in_a_job)
{
	expect_fault("nonsense slow=50", WORKER_CRASHED, true, "protocol: a packet of 8 bytes is not a message");
	expect_fault("wrong-size", WORKER_CRASHED, true, "the worker's files are not of the sizes that it told");
}

/* Cancel after that many progress messages. */
static void expect_cancel(const char *switches, int progress, double at_least_s, double at_most_s, long starts)
{
	struct seen seen;
	struct error err;
	int fds[1 + N_OUTPUTS];
	struct message_job job = job_of(9, "in/a.png");
	link_to(&seen, switches, 0, 20);
	open_files(fds, "picture");
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	cr_assert(worker_link_submit(seen.link, &job, fds, &err), "%s", err.text);
	run_until(&seen, &seen.progress, progress);
	worker_link_cancel(seen.link, 8); /* another job's: nothing */
	double start = now_s();
	worker_link_cancel(seen.link, 9);
	worker_link_cancel(seen.link, 9);
	run_until(&seen, &seen.done, 1);
	double took = now_s() - start;
	cr_expect_eq(seen.last.outcome, WORKER_CANCELLED);
	cr_expect_str_eq(seen.text, "cancelled");
	cr_expect(took >= at_least_s && took <= at_most_s, "took %.2f s", took);
	run_until_state(&seen, WORKER_READY); /* by itself: the cancelled job was not the worker's fault */
	cr_expect_eq(worker_link_report(seen.link)->starts, starts);
	cr_expect_eq(worker_link_report(seen.link)->deaths, 0);
	close_files(fds);
	worker_link_destroy(seen.link);
}

Test(worker_link, cancel_is_obeyed)
{
	expect_cancel("slow=100", 2, 0, 1, 1);
}

Test(worker_link, cancel_is_enforced_after_two_seconds)
{
	expect_cancel("slow=100000 deaf", 1, 1.9, 3.5, 2);
	expect_cancel("slow=10 hang", 4, 1.9, 3.5, 2);
}

/* Job 1 is being finished and job 2, of this name, runs. */
static void have_two(struct seen *seen, const char *switches, const char *second, int fds[2][1 + N_OUTPUTS])
{
	struct error err;
	struct message_job one = job_of(1, "in/a.png"), two = job_of(2, second);
	link_to(seen, switches, 0, 1);
	for (int i = 0; i < 2; i++)
		open_files(fds[i], "picture");
	worker_link_start(seen->link);
	run_until_state(seen, WORKER_READY);
	cr_assert(worker_link_submit(seen->link, &one, fds[0], &err), "%s", err.text);
	run_until(seen, &seen->freed, 1);
	cr_expect_eq(seen->freed_id, 1);
	cr_expect_eq(seen->done, 0);
	cr_expect_eq(worker_link_report(seen->link)->state, WORKER_READY);
	cr_assert(worker_link_submit(seen->link, &two, fds[1], &err), "%s", err.text);
	cr_expect_eq(worker_link_report(seen->link)->job, 2);
}

static void end_two(struct seen *seen, int fds[2][1 + N_OUTPUTS])
{
	for (int i = 0; i < 2; i++)
		close_files(fds[i]);
	worker_link_destroy(seen->link);
}

Test(worker_link, a_job_is_finished_while_the_next_one_runs)
{
	struct seen seen;
	int fds[2][1 + N_OUTPUTS];
	have_two(&seen, "finish=200 slow=50", "in/b.png", fds); /* the second one takes longer */
	run_until(&seen, &seen.done, 1);
	cr_expect_eq(worker_link_report(seen.link)->state, WORKER_BUSY);
	run_until(&seen, &seen.done, 2);
	cr_expect_eq(seen.freed, 2);
	cr_expect(seen.first == 1 && seen.first_outcome == WORKER_DONE);
	cr_expect(seen.last.id == 2 && seen.last.outcome == WORKER_DONE);
	cr_expect_eq(lseek(fds[1][1], 0, SEEK_END), (off_t)seen.result.sizes[JOB_GLB]);
	end_two(&seen, fds);
	/* The other way round: the device has to wait. */
	have_two(&seen, "finish=400", "in/b.png", fds);
	run_until(&seen, &seen.freed, 2);
	cr_expect(seen.done == 1 && seen.first == 1);
	run_until(&seen, &seen.done, 2);
	cr_expect(seen.last.id == 2 && seen.last.outcome == WORKER_DONE);
	cr_expect_eq(worker_link_report(seen.link)->starts, 1);
	end_two(&seen, fds);
}

Test(worker_link, cancelling_one_of_two_leaves_the_other)
{
	struct seen seen;
	int fds[2][1 + N_OUTPUTS];
	have_two(&seen, "finish=60000 slow=50", "in/b.png", fds);
	worker_link_cancel(seen.link, 1);
	run_until(&seen, &seen.done, 1);
	cr_expect(seen.first == 1 && seen.first_outcome == WORKER_CANCELLED);
	run_until(&seen, &seen.freed, 2);
	worker_link_cancel(seen.link, 2);
	run_until(&seen, &seen.done, 2);
	cr_expect(seen.last.id == 2 && seen.last.outcome == WORKER_CANCELLED);
	cr_expect_eq(worker_link_report(seen.link)->starts, 1);
	end_two(&seen, fds);
	/* The second one waits until the first is finished. */
	have_two(&seen, "finish=60000", "in/b.png", fds);
	run_until(&seen, &seen.progress, seen.progress + 10);
	worker_link_cancel(seen.link, 2);
	run_until(&seen, &seen.done, 1);
	cr_expect(seen.first == 2 && seen.first_outcome == WORKER_CANCELLED);
	cr_expect_eq(worker_link_report(seen.link)->starts, 1);
	cr_expect_eq(worker_link_report(seen.link)->state, WORKER_READY);
	end_two(&seen, fds);
	/* One that doesn't obey is killed with the worker: the other one is only lost. */
	have_two(&seen, "finish=60000 slow=400 deaf only=bad", "in/bad.png", fds);
	run_until(&seen, &seen.progress, seen.progress + 1);
	worker_link_cancel(seen.link, 2);
	run_until(&seen, &seen.done, 2);
	cr_expect(seen.first == 1 && seen.first_outcome == WORKER_LOST);
	cr_expect(seen.last.id == 2 && seen.last.outcome == WORKER_CANCELLED);
	cr_expect_eq(worker_link_report(seen.link)->deaths, 0);
	end_two(&seen, fds);
}

Test(worker_link, both_jobs_end_with_their_worker)
{
	static const struct {
		const char *switches;
		enum worker_outcome outcome;
	} ends[] = {{"finish=60000 only=bad crash-at=3", WORKER_CRASHED}, {"finish=60000 only=bad hang", WORKER_HUNG},
		{"finish=60000 only=bad device", WORKER_DEVICE}, {"finish=60000 only=bad hasty", WORKER_CRASHED}};
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		struct seen seen;
		int fds[2][1 + N_OUTPUTS];
		have_two(&seen, ends[i].switches, "in/bad.png", fds);
		run_until(&seen, &seen.done, 2);
		cr_expect(seen.first == 1 && seen.first_outcome == ends[i].outcome, "%s: %d", ends[i].switches,
			seen.first_outcome);
		cr_expect(seen.last.id == 2 && seen.last.outcome == ends[i].outcome, "%s: %d", ends[i].switches,
			seen.last.outcome);
		run_until_state(&seen, WORKER_READY);
		end_two(&seen, fds);
	}
}

Test(worker_link, a_worker_that_finishes_a_job_is_neither_idle_nor_unwatched)
{
	struct seen seen;
	int fds[1 + N_OUTPUTS];
	struct error err;
	struct message_job job = job_of(1, "in/a.png");
	link_to(&seen, "finish=1500", 1, 0); /* idle after 1 s */
	open_files(fds, "picture");
	do_job(&seen, 1, "in/a.png", fds);
	cr_expect_eq(seen.last.outcome, WORKER_DONE);
	run_until_state(&seen, WORKER_STOPPED);
	close_files(fds);
	worker_link_destroy(seen.link);
	link_to(&seen, "finish=60000", 0, 1); /* no sign of life for 1 s */
	open_files(fds, "picture");
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	cr_assert(worker_link_submit(seen.link, &job, fds, &err), "%s", err.text);
	run_until(&seen, &seen.done, 1);
	cr_expect_eq(seen.last.outcome, WORKER_HUNG);
	close_files(fds);
	worker_link_destroy(seen.link);
}

Test(worker_link, stop_ends_the_worker_and_loses_the_job)
{
	struct seen seen;
	struct error err;
	int fds[1 + N_OUTPUTS];
	struct message_job job = job_of(3, "in/a.png");
	link_to(&seen, "slow=200", 0, 5);
	open_files(fds, "picture");
	cr_expect_not(worker_link_submit(seen.link, &job, fds, &err), "a stopped worker took a job");
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	cr_assert(worker_link_submit(seen.link, &job, fds, &err), "%s", err.text);
	cr_expect_not(worker_link_submit(seen.link, &job, fds, &err), "a busy worker took a job");
	run_until(&seen, &seen.progress, 1);
	int pid = worker_link_report(seen.link)->pid;
	double start = now_s();
	worker_link_stop(seen.link);
	cr_expect_eq(worker_link_report(seen.link)->state, WORKER_STOPPING);
	run_until_state(&seen, WORKER_STOPPED);
	cr_expect_lt(now_s() - start, 2.5);
	cr_expect_eq(seen.done, 1);
	cr_expect_eq(seen.last.outcome, WORKER_LOST);
	cr_expect(kill(pid, 0) < 0 && errno == ESRCH, "the worker is still there");
	cr_expect_not(worker_link_report(seen.link)->failed);
	/* A start during the end is kept. */
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	worker_link_stop(seen.link);
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	cr_expect_eq(worker_link_report(seen.link)->starts, 3);
	close_files(fds);
	worker_link_destroy(seen.link);
}

Test(worker_link, an_idle_worker_ends_and_comes_back)
{
	struct seen seen;
	int fds[1 + N_OUTPUTS];
	link_to(&seen, "", 1, 5);
	for (int i = 0; i < 2; i++) {
		open_files(fds, "picture");
		do_job(&seen, 1, "in/a.png", fds);
		cr_expect_eq(seen.last.outcome, WORKER_DONE);
		close_files(fds);
		double start = now_s();
		run_until_state(&seen, WORKER_STOPPED);
		cr_expect(now_s() - start > 0.9 && now_s() - start < 2.5, "after %.2f s", now_s() - start);
	}
	const struct worker_report *r = worker_link_report(seen.link);
	cr_expect(r->starts == 2 && r->deaths == 0 && !r->failed && r->have_status && !r->pid);
	worker_link_destroy(seen.link);
}

/* Start, expect a failure with this text and a backoff that doubles; then repair and retry. */
static void expect_bad_start(const char *switches, const char *text)
{
	struct seen seen;
	link_to(&seen, switches, 0, 1);
	worker_link_start(seen.link);
	double start = now_s();
	run_until_state(&seen, WORKER_BACKOFF);
	const struct worker_report *r = worker_link_report(seen.link);
	cr_expect(r->failed && strstr(r->problem, text), "%s: '%s'", switches, r->problem);
	cr_expect_eq(r->retry_s, 1);
	run_until_state(&seen, WORKER_STARTING);
	cr_expect_gt(now_s() - start, 0.45, "no backoff");
	cr_expect(r->failed, "status forgets why while it tries again");
	run_until_state(&seen, WORKER_BACKOFF);
	worker_link_start(seen.link);
	cr_expect_eq(r->state, WORKER_BACKOFF, "start cut the backoff short");
	setenv("FAKE_WORKER", "", 1);
	worker_link_retry(seen.link);
	cr_expect_eq(r->state, WORKER_STARTING);
	run_until_state(&seen, WORKER_READY);
	cr_expect(!r->failed && !*r->problem);
	cr_expect_eq(r->starts, 3);
	worker_link_destroy(seen.link);
}

Test(worker_link, a_model_that_fails_to_load)
{
	expect_bad_start("no-model", "the model directory /no/such/model does not exist");
}

Test(worker_link, another_protocol_version)
{
	expect_bad_start("bad-version", "protocol: the other side speaks version 99, this program version 4");
}

Test(worker_link, hung_while_loading)
{
	expect_bad_start(
		"hang-load", "the worker gave no sign of life for 1 s while loading the model, and was killed");
}

Test(worker_link, a_program_that_is_not_there)
{
	struct seen seen = {0};
	struct error err;
	const char *argv[] = {"/no/such/program", NULL};
	seen.link = worker_link_create(&(struct worker_options){.argv = argv},
		&(struct worker_events){on_changed, on_progress, on_freed, on_done}, &seen, &err);
	worker_link_start(seen.link);
	const struct worker_report *r = worker_link_report(seen.link);
	cr_expect_eq(r->state, WORKER_BACKOFF);
	cr_expect_str_eq(r->problem, "starting the worker /no/such/program: No such file or directory");
	worker_link_stop(seen.link);
	cr_expect_eq(r->state, WORKER_STOPPED);
	worker_link_destroy(seen.link);
	worker_link_destroy(NULL);
}

Test(worker_link, the_worker_inherits_nothing_and_is_not_on_the_mount)
{
	struct seen seen;
	char path[64], cwd[64];
	int leak = memfd_create("leak", 0); /* not O_CLOEXEC, on purpose */
	link_to(&seen, "", 0, 5);
	worker_link_start(seen.link);
	run_until_state(&seen, WORKER_READY);
	int pid = worker_link_report(seen.link)->pid;
	for (int fd = PROTOCOL_FD + 1; fd < 64; fd++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
		cr_expect_neq(access(path, F_OK), 0, "descriptor %d is open in the worker", fd);
	}
	snprintf(path, sizeof path, "/proc/%d/cwd", pid);
	ssize_t n = readlink(path, cwd, sizeof cwd);
	cr_expect(n == 1 && cwd[0] == '/');
	cr_expect_eq(getpgid(pid), pid);
	close(leak);
	worker_link_destroy(seen.link);
	cr_expect(kill(pid, 0) < 0, "the worker outlives the link");
}

Test(worker_process, the_kernels_memory_killer_is_recognised)
{
	char text[128], path[] = "/tmp/vmstat.XXXXXX";
	FILE *file = fdopen(mkstemp(path), "w");
	cr_assert_not_null(file);
	fputs("nr_free_pages 5\noom_kill_other 9\noom_kill 3\n", file);
	fclose(file);
	cr_expect_eq(worker_process_oom_kills(path), 3);
	unlink(path);
	cr_expect_eq(worker_process_oom_kills(path), -1);
	cr_expect_eq(worker_process_judge(SIGKILL, 3, 4, text, sizeof text), DEATH_MEMORY);
	cr_expect_str_eq(text, "out of memory: the kernel killed the worker");
	cr_expect_eq(worker_process_judge(SIGKILL, 3, 3, text, sizeof text), DEATH_FAULT);
	cr_expect_eq(worker_process_judge(SIGKILL, -1, -1, text, sizeof text), DEATH_FAULT);
	cr_expect_eq(worker_process_judge(SIGSEGV, 3, 4, text, sizeof text), DEATH_FAULT);
	cr_expect_eq(worker_process_judge(SIGTERM, 3, 4, text, sizeof text), DEATH_ASKED);
}
