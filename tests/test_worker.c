/* test_worker.c - the real `trellis worker` at the end of a socket: how it greets, loads, works, cancels, and ends.
 * On a tiny model of zeros, in which no picture becomes anything; the whole way to files is on engine/mini if it is
 * there. */
#include "fake_plugin.h"
#include "protocol.h"
#include "tiny_model.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct peer {
	int socket;
	pid_t pid;
};

static const char golden_picture[] = "tests/golden/images/b_200x120.png";
static char program[4096], folder[] = "/tmp/test_worker.XXXXXX", model[64];

static void find_program(void)
{
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 16);
	cr_assert_gt(n, 0);
	program[n] = 0;
	*strrchr(program, '/') = 0;
	strcpy(strrchr(program, '/'), "/trellis");
}

static void setup(void)
{
	char path[128];
	find_program();
	cr_assert_not_null(mkdtemp(folder));
	snprintf(model, sizeof model, "%s/m", folder);
	tiny_write_model(model);
	snprintf(path, sizeof path, "%s/dinov2", model);
	tiny_write_encoder(path);
}

static void teardown(void)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf %s", folder);
	cr_assert_eq(system(command), 0);
}

static struct peer start(const char *model_path)
{
	int pair[2];
	struct peer peer;
	posix_spawn_file_actions_t actions;
	char *const argv[] = {program, "worker", model_path ? "--model" : NULL, (char *)(uintptr_t)model_path, NULL};
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pair[1], PROTOCOL_FD);
	cr_assert_eq(posix_spawn(&peer.pid, program, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(pair[1]);
	peer.socket = pair[0];
	return peer;
}

static enum message_got next(const struct peer *peer, struct message *message)
{
	struct error err = {0};
	struct pollfd p = {.fd = peer->socket, .events = POLLIN};
	int fds[PROTOCOL_MAX_FDS];
	cr_assert_eq(poll(&p, 1, 100000), 1, "nothing came for 100 s");
	enum message_got got = message_receive(peer->socket, message, fds, &err);
	cr_assert(got == MESSAGE_OK || got == MESSAGE_END, "%s", err.text);
	return got;
}

/* The next message that is not of this type, which must be `type`. */
static void expect_after(
	const struct peer *peer, enum message_type skip, enum message_type type, struct message *message)
{
	do
		cr_assert_eq(next(peer, message), MESSAGE_OK);
	while (message->type == skip);
	cr_assert_eq(message->type, type, "message %d, not %d", message->type, type);
}

static void send_message(const struct peer *peer, const struct message *message, const int *fds)
{
	struct error err;
	cr_assert_eq(message_send(peer->socket, message, fds, &err), MESSAGE_SENT, "%s", err.text);
}

/* The worker ends with this status within 5 s. */
static void expect_end(struct peer *peer, int want)
{
	int status = -1;
	for (int i = 0; i < 500 && waitpid(peer->pid, &status, WNOHANG) == 0; i++)
		usleep(10000);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == want, "wait status 0x%x", status);
	close(peer->socket);
}

static void until_ready(const struct peer *peer)
{
	struct message m;
	expect_after(peer, (enum message_type)0, MESSAGE_HELLO, &m);
	do
		expect_after(peer, (enum message_type)0, MESSAGE_STATUS, &m);
	while (m.status.state == MODEL_LOADING);
	cr_assert_eq(m.status.state, MODEL_READY, "%s", m.status.reason);
	cr_expect(m.status.device[0] && m.status.model[0] && m.status.device_memory > 0);
}

static struct message job_of(uint64_t id, uint32_t outputs)
{
	struct message m = {.type = MESSAGE_JOB,
		.job = {.id = id,
			.options = {.structure_steps = 1,
				.latent_steps = 1,
				.structure_guidance = -1,
				.latent_guidance = -1,
				.outputs = outputs}}};
	MESSAGE_STRING(m.job.name, "in/a.png");
	return m;
}

/* Send a job on this picture, or on "not a picture". */
static void send_job(const struct peer *peer, const struct message *job, const char *picture, int fds[PROTOCOL_MAX_FDS])
{
	fds[0] = picture ? open(picture, O_RDONLY | O_CLOEXEC) : memfd_create("picture", MFD_CLOEXEC);
	if (!picture)
		cr_assert_eq(write(fds[0], "not a picture", 13), 13);
	for (int i = 1; i < message_fds(job); i++)
		fds[i] = memfd_create("output", MFD_CLOEXEC);
	send_message(peer, job, fds);
}

static bool proc_has(pid_t pid, const char *file, const char *text)
{
	char path[64], bytes[8192];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
	FILE *f = fopen(path, "r");
	cr_assert_not_null(f);
	bytes[fread(bytes, 1, sizeof bytes - 1, f)] = 0;
	fclose(f);
	return strstr(bytes, text) != NULL;
}

TestSuite(worker, .init = setup, .fini = teardown);

Test(worker, says_why_the_model_cannot_be_loaded_and_ends)
{
	struct peer peer = start("/no/such/model");
	struct message m;
	expect_after(&peer, (enum message_type)0, MESSAGE_HELLO, &m);
	expect_after(&peer, (enum message_type)0, MESSAGE_STATUS, &m);
	cr_expect_eq(m.status.state, MODEL_LOADING);
	expect_after(&peer, (enum message_type)0, MESSAGE_STATUS, &m);
	cr_expect_eq(m.status.state, MODEL_FAILED);
	cr_expect_not_null(strstr(m.status.reason, "/no/such/model"), "%s", m.status.reason);
	cr_expect_eq(next(&peer, &m), MESSAGE_END);
	expect_end(&peer, 0);
}

Test(worker, ends_with_the_socket)
{
	struct peer peer = start(model);
	until_ready(&peer);
	shutdown(peer.socket, SHUT_RDWR);
	expect_end(&peer, 0);
}

Test(worker, limits_itself)
{
	struct peer peer = start(model);
	until_ready(&peer);
	cr_expect(proc_has(peer.pid, "status", "NoNewPrivs:\t1"));
	cr_expect(proc_has(peer.pid, "limits", "Max core file size        0                    0"));
	cr_expect(proc_has(peer.pid, "limits", "Max file size             4294967296"));
	cr_expect(proc_has(peer.pid, "oom_score_adj", "500"));
	close(peer.socket);
	expect_end(&peer, 0);
}

Test(worker, a_job_that_fails_is_answered_and_the_next_one_too)
{
	struct peer peer = start(model);
	struct message m, job = job_of(1, 1u << JOB_GLB | 1u << JOB_PREVIEW);
	int fds[PROTOCOL_MAX_FDS];
	until_ready(&peer);
	for (job.job.id = 1; job.job.id <= 3; job.job.id++) {
		send_job(&peer, &job, NULL, fds);
		for (int i = 0; i < 3; i++)
			close(fds[i]);
		expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_FAILURE, &m);
		cr_expect_eq(m.failure.id, job.job.id);
		cr_expect_eq(m.failure.kind, JOB_FAILED);
		cr_expect_not_null(strstr(m.failure.text, "in/a.png"), "%s", m.failure.text);
	}
	/* A cancel that crosses the answer is nothing. */
	send_message(&peer, &(struct message){.type = MESSAGE_CANCEL, .cancel.id = 3}, NULL);
	close(peer.socket);
	expect_end(&peer, 0);
}

/* Before it computes for minutes. */
Test(worker, refuses_at_once_what_the_model_cannot_make)
{
	static const char role[] = "slat_decoder_gs";
	char path[128], text[sizeof tiny_pipeline];
	struct message m, job = job_of(1, 1u << JOB_GLB | 1u << JOB_GAUSSIAN_PLY);
	int fds[PROTOCOL_MAX_FDS];
	memcpy(text, tiny_pipeline, sizeof text);
	cr_assert_not_null(strstr(text, role));
	*strstr(text, role) = 'x'; /* a role that nobody knows */
	snprintf(path, sizeof path, "%s/pipeline.json", model);
	tiny_write_text(path, text);
	struct peer peer = start(model);
	until_ready(&peer);
	send_job(&peer, &job, golden_picture, fds);
	expect_after(&peer, (enum message_type)0, MESSAGE_FAILURE, &m);
	cr_expect_eq(m.failure.kind, JOB_FAILED);
	cr_expect_not_null(strstr(m.failure.text, role), "%s", m.failure.text);
	close(peer.socket);
	expect_end(&peer, 0);
}

Test(worker, ends_when_the_daemon_talks_nonsense)
{
	struct peer peer = start(model);
	until_ready(&peer);
	send_message(&peer, &(struct message){.type = MESSAGE_HELLO}, NULL);
	expect_end(&peer, 1);
	peer = start(model);
	until_ready(&peer);
	cr_assert_eq(send(peer.socket, "1TRW\1\0\6\0", 8, 0), 8); /* another version */
	expect_end(&peer, 1);
}

Test(worker, is_of_no_use_by_hand)
{
	int status;
	char *const argv[] = {program, "worker", NULL};
	pid_t pid;
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addclosefrom_np(&actions, PROTOCOL_FD);
	cr_assert_eq(posix_spawn(&pid, program, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 2);
}

/* The small model that comes with the program, found by the worker itself. */
static struct peer start_mini(void)
{
	find_program();
	if (!getenv("TRELLIS_MODEL_PATH") && access("engine/mini/pipeline.json", R_OK) != 0)
		cr_skip_test("there is no model in engine/mini and none in $TRELLIS_MODEL_PATH");
	return start(NULL);
}

Test(worker, a_picture_becomes_files)
{
	struct peer peer = start_mini();
	struct message m, job = job_of(7, 1u << JOB_GLB | 1u << JOB_STL | 1u << JOB_PREVIEW);
	int fds[PROTOCOL_MAX_FDS];
	char magic[8] = "";
	until_ready(&peer);
	send_job(&peer, &job, golden_picture, fds);
	expect_after(&peer, (enum message_type)0, MESSAGE_PROGRESS, &m);
	expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_RESULT, &m);
	cr_expect(m.result.id == 7 && m.result.vertices > 0 && m.result.faces > 0 && m.result.seconds > 0);
	cr_expect_neq(m.result.cutout[0], 0);
	const int outputs[] = {JOB_GLB, JOB_STL, JOB_PREVIEW};
	for (int i = 0; i < 3; i++)
		cr_expect_eq(lseek(fds[1 + i], 0, SEEK_END), (off_t)m.result.sizes[outputs[i]]);
	cr_expect(pread(fds[1], magic, 4, 0) == 4 && !memcmp(magic, "glTF", 4));
	cr_expect(pread(fds[3], magic, 4, 0) == 4 && !memcmp(magic, "\x89PNG", 4));
	close(peer.socket);
	expect_end(&peer, 0);
}

Test(worker, a_job_is_cancelled_and_the_process_goes_on)
{
	struct peer peer = start_mini();
	struct message m, job = job_of(7, 1u << JOB_GLB);
	int fds[PROTOCOL_MAX_FDS];
	job.job.options.structure_steps = 1000;
	until_ready(&peer);
	send_job(&peer, &job, golden_picture, fds);
	do
		expect_after(&peer, (enum message_type)0, MESSAGE_PROGRESS, &m);
	while (m.progress.step < 2);
	send_message(&peer, &(struct message){.type = MESSAGE_CANCEL, .cancel.id = 7}, NULL);
	expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_FAILURE, &m);
	cr_expect_eq(m.failure.kind, JOB_CANCELLED);
	cr_expect_eq(lseek(fds[1], 0, SEEK_END), 0, "something was written");
	job.job.id = 8;
	send_job(&peer, &job, NULL, fds);
	expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_FAILURE, &m);
	cr_expect_eq(m.failure.kind, JOB_FAILED);
	close(peer.socket);
	expect_end(&peer, 0);
}

Test(worker, on_a_gpu_a_job_is_finished_while_the_next_one_runs)
{
	struct message m, job = job_of(1, 1u << JOB_GLB | 1u << JOB_PREVIEW);
	int fds[2][PROTOCOL_MAX_FDS];
	plan("");
	struct peer peer = start("tests/golden/e2e");
	until_ready(&peer);
	send_job(&peer, &job, "tests/golden/e2e/input.png", fds[0]);
	expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_FREE, &m);
	cr_expect_eq(m.free.id, 1);
	job.job.id = 2;
	send_job(&peer, &job, "tests/golden/e2e/input.png", fds[1]);
	for (uint64_t id = 1; id <= 2; id++) {
		if (id == 2) {
			expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_FREE, &m);
			cr_expect_eq(m.free.id, 2);
		}
		expect_after(&peer, MESSAGE_PROGRESS, MESSAGE_RESULT, &m);
		cr_expect(m.result.id == id && m.result.faces > 0);
		cr_expect_eq(lseek(fds[id - 1][1], 0, SEEK_END), (off_t)m.result.sizes[JOB_GLB]);
		cr_expect_eq(lseek(fds[id - 1][2], 0, SEEK_END), (off_t)m.result.sizes[JOB_PREVIEW]);
	}
	close(peer.socket);
	expect_end(&peer, 0);
	forget_plan();
}
