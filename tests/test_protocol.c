/* test_protocol.c - every message there and back, every cut and every bad field refused, descriptors checked and not
 * leaked. */
#include "protocol.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct message example(enum message_type type)
{
	struct message m = {.type = type};
	switch (type) {
	case MESSAGE_HELLO:
		MESSAGE_STRING(m.hello.version, "1.2.3");
		break;
	case MESSAGE_STATUS:
		m.status.state = MODEL_LOADING;
		m.status.percent = 37;
		m.status.device_memory = 0x1122334455667788;
		MESSAGE_STRING(m.status.device, "CPU");
		MESSAGE_STRING(m.status.dtype, "f32");
		m.status.ordinal = 1;
		m.status.devices = 2;
		MESSAGE_STRING(m.status.device_note, "note");
		MESSAGE_STRING(m.status.model, "model \xc3\xa4");
		MESSAGE_STRING(m.status.model_note, "");
		MESSAGE_STRING(m.status.sandbox, "user nobody");
		MESSAGE_STRING(m.status.reason, "reason");
		break;
	case MESSAGE_PROGRESS:
		m.progress = (struct message_progress){.id = 5, .step = 3, .steps = 25, .fraction = 0.125, .eta_s = -1};
		MESSAGE_STRING(m.progress.stage, "structure");
		break;
	case MESSAGE_RESULT:
		m.result =
			(struct message_result){.id = 5, .sizes = {1, 0, 3}, .vertices = 4, .faces = 5, .seconds = 1.5};
		MESSAGE_STRING(m.result.cutout, "alpha");
		break;
	case MESSAGE_FAILURE:
		m.failure = (struct message_failure){.id = 5, .kind = JOB_STORAGE};
		MESSAGE_STRING(m.failure.text, "No space left on device");
		break;
	case MESSAGE_JOB:
		m.job = (struct message_job){.id = 1ull << 63,
			.options = {.seed = 4294967295u,
				.structure_steps = 12,
				.latent_steps = 0,
				.structure_guidance = 7.5f,
				.latent_guidance = -1,
				.simplify = 0.25f,
				.outputs = 1u << JOB_GLB | 1u << JOB_PREVIEW}};
		MESSAGE_STRING(m.job.name, "in/a b\n\xff.png");
		break;
	case MESSAGE_CANCEL:
		m.cancel.id = 7;
		break;
	case MESSAGE_FREE:
		m.free.id = 7;
		break;
	}
	return m;
}

static size_t encode(const struct message *m, uint8_t *bytes)
{
	struct error err;
	size_t size = message_encode(m, bytes, &err);
	cr_assert(size >= 8 && size <= PROTOCOL_MAX_BYTES, "%s", err.text);
	return size;
}

static enum message_got decode(struct message *m, const uint8_t *bytes, size_t size, struct error *err)
{
	/* An exact copy, so that the sanitizers see a read behind the end. */
	uint8_t *copy = malloc(size ? size : 1);
	memcpy(copy, bytes, size);
	enum message_got got = message_decode(m, copy, size, err);
	free(copy);
	return got;
}

Test(protocol, every_message_there_and_back)
{
	for (int type = MESSAGE_HELLO; type <= MESSAGE_FREE; type++) {
		struct message sent = example((enum message_type)type), got;
		struct error err;
		uint8_t bytes[PROTOCOL_MAX_BYTES], again[PROTOCOL_MAX_BYTES];
		size_t size = encode(&sent, bytes);
		memset(&got, 0xee, sizeof got);
		cr_assert_eq(decode(&got, bytes, size, &err), MESSAGE_OK, "type %d: %s", type, err.text);
		cr_assert_eq((int)got.type, type);
		cr_assert(encode(&got, again) == size && !memcmp(bytes, again, size), "type %d differs", type);
	}
	struct message job = example(MESSAGE_JOB), got;
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	struct error err;
	cr_assert_eq(decode(&got, bytes, encode(&job, bytes), &err), MESSAGE_OK);
	cr_expect_eq(got.job.id, 1ull << 63);
	cr_expect_eq(got.job.options.seed, 4294967295u);
	cr_expect_eq(got.job.options.structure_steps, 12);
	cr_expect_float_eq(got.job.options.latent_guidance, -1.0f, 0);
	cr_expect_float_eq(got.job.options.simplify, 0.25f, 0);
	cr_expect_str_eq(got.job.name, "in/a b\n\xff.png");
	cr_expect_eq(message_fds(&got), 3);
}

/* The layout is a promise: other programs may speak it. */
Test(protocol, the_bytes_of_a_cancel)
{
	static const uint8_t want[] = {
		'1', 'T', 'R', 'W', PROTOCOL_VERSION, 0, MESSAGE_CANCEL, 0, 7, 0, 0, 0, 0, 0, 0, 0};
	struct message m = example(MESSAGE_CANCEL);
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	cr_assert_eq(encode(&m, bytes), sizeof want);
	cr_expect_eq(memcmp(bytes, want, sizeof want), 0);
}

Test(protocol, every_cut_and_every_surplus_is_refused)
{
	for (int type = MESSAGE_HELLO; type <= MESSAGE_FREE; type++) {
		struct message m = example((enum message_type)type), got = {.type = 77};
		struct error err;
		uint8_t bytes[PROTOCOL_MAX_BYTES + 1] = {0};
		size_t size = encode(&m, bytes);
		for (size_t cut = 0; cut < size; cut++)
			cr_assert_eq(decode(&got, bytes, cut, &err), MESSAGE_BAD, "type %d cut at %zu", type, cut);
		cr_expect_eq(decode(&got, bytes, size + 1, &err), MESSAGE_BAD);
		cr_expect_eq((int)got.type, 77, "written without success");
	}
}

Test(protocol, another_version_is_told_from_rubbish)
{
	struct message m = example(MESSAGE_HELLO), got;
	struct error err;
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	size_t size = encode(&m, bytes);
	bytes[4] = 9;
	cr_expect_eq(decode(&got, bytes, size, &err), MESSAGE_BAD_VERSION);
	cr_expect_str_eq(err.text, "protocol: the other side speaks version 9, this program version 4");
	cr_expect_eq(decode(&got, bytes, 8, &err), MESSAGE_BAD_VERSION, "also when the rest is of another form");
	bytes[0] = 'x';
	cr_expect_eq(decode(&got, bytes, size, &err), MESSAGE_BAD);
	cr_expect_eq(decode(&got, (const uint8_t *)"1TRW\4\0\11\0", 8, &err), MESSAGE_BAD, "type 9");
	cr_expect_eq(decode(&got, (const uint8_t *)"1TRW\4\0\0\0", 8, &err), MESSAGE_BAD, "type 0");
}

#define EXPECT_BROKEN(type, change)                                                                                    \
	do {                                                                                                           \
		struct message m = example(type);                                                                      \
		uint8_t bytes[PROTOCOL_MAX_BYTES];                                                                     \
		struct error err = {0};                                                                                \
		m.change;                                                                                              \
		cr_expect_eq(message_encode(&m, bytes, &err), 0, "%s was taken", #change);                             \
		cr_expect_neq(err.text[0], 0);                                                                         \
	} while (0)

/* The same description of the fields writes and reads, so what can't be written can't be read either. */
Test(protocol, fields_out_of_range_are_refused)
{
	EXPECT_BROKEN(MESSAGE_STATUS, status.percent = 101);
	EXPECT_BROKEN(MESSAGE_STATUS, status.percent = -2);
	EXPECT_BROKEN(MESSAGE_STATUS, status.ordinal = -2);
	EXPECT_BROKEN(MESSAGE_STATUS, status.devices = -1);
	EXPECT_BROKEN(MESSAGE_STATUS, status.devices = MESSAGE_DEVICES_MAX + 1);
	EXPECT_BROKEN(MESSAGE_STATUS, status.state = (enum model_state)3);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.id = 0);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.step = -1);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.step = 26);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.fraction = 1.001);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.fraction = (double)NAN);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.eta_s = (double)INFINITY);
	EXPECT_BROKEN(MESSAGE_PROGRESS, progress.eta_s = -2);
	EXPECT_BROKEN(MESSAGE_RESULT, result.seconds = (double)NAN);
	EXPECT_BROKEN(MESSAGE_RESULT, result.id = 0);
	EXPECT_BROKEN(MESSAGE_FAILURE, failure.kind = (enum job_failure)9);
	EXPECT_BROKEN(MESSAGE_JOB, job.id = 0);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.structure_steps = -1);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.latent_steps = JOB_STEPS_MAX + 1);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.structure_guidance = NAN);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.latent_guidance = 101);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.simplify = -0.5f);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.outputs = 0);
	EXPECT_BROKEN(MESSAGE_JOB, job.options.outputs = 1u << JOB_OUTPUTS);
	EXPECT_BROKEN(MESSAGE_CANCEL, cancel.id = 0);
	EXPECT_BROKEN(MESSAGE_FREE, free.id = 0);
	EXPECT_BROKEN(MESSAGE_CANCEL, type = (enum message_type)0);
	struct message m = example(MESSAGE_HELLO), got;
	struct error err;
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	memset(m.hello.version, 'x', sizeof m.hello.version);
	cr_expect_eq(message_encode(&m, bytes, &err), 0, "a string without an end was taken");
	m = example(MESSAGE_HELLO);
	size_t size = encode(&m, bytes);
	bytes[11] = 0;
	cr_expect_eq(decode(&got, bytes, size, &err), MESSAGE_BAD, "a string with a zero inside was taken");
}

/* Every single bit flipped: never a message that could not have been sent, never a crash. */
Test(protocol, flipped_bits)
{
	for (int type = MESSAGE_HELLO; type <= MESSAGE_FREE; type++) {
		struct message m = example((enum message_type)type), got;
		struct error err;
		uint8_t bytes[PROTOCOL_MAX_BYTES], again[PROTOCOL_MAX_BYTES];
		size_t size = encode(&m, bytes);
		for (size_t bit = 0; bit < size * 8; bit++) {
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (decode(&got, bytes, size, &err) == MESSAGE_OK)
				cr_assert(encode(&got, again) == size && !memcmp(bytes, again, size));
			bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
}

Test(protocol, strings_are_cut_between_characters)
{
	char out[6];
	MESSAGE_STRING(out, "abcdefgh");
	cr_expect_str_eq(out, "abcde");
	MESSAGE_STRING(out, "abcd\xc3\xa4");
	cr_expect_str_eq(out, "abcd");
	MESSAGE_STRING(out, "abc\xe2\x82\xac");
	cr_expect_str_eq(out, "abc");
	MESSAGE_STRING(out, "ab\xe2\x82\xac");
	cr_expect_str_eq(out, "ab\xe2\x82\xac");
	MESSAGE_STRING(out, "a\xf0\x9f\x98\x80\xf0\x9f\x98\x80");
	cr_expect_str_eq(out, "a\xf0\x9f\x98\x80");
	MESSAGE_STRING(out, "\x80\x80\x80\x80\x80\x80\x80");
	cr_expect_eq(strlen(out), 5, "what is no UTF-8 is cut anywhere");
	MESSAGE_STRING(out, NULL);
	cr_expect_str_eq(out, "");
}

static int count_open_fds(void)
{
	int n = 0;
	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void send_raw(int socket, const void *bytes, size_t size, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * 32)];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n_fds) {
		packet.msg_control = control.space;
		packet.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
		*c = (struct cmsghdr){CMSG_LEN(sizeof(int) * n_fds), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	cr_assert_eq(sendmsg(socket, &packet, 0), (ssize_t)size);
}

Test(protocol, descriptors_travel_with_a_job_only)
{
	int pair[2], fds[PROTOCOL_MAX_FDS], files[20];
	struct error err;
	struct message job = example(MESSAGE_JOB), cancel = example(MESSAGE_CANCEL), got;
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	for (int i = 0; i < 20; i++)
		files[i] = memfd_create("file", 0);
	cr_assert_eq(write(files[0], "picture", 7), 7);
	int before = count_open_fds();
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_NONE);

	cr_assert_eq(message_send(pair[0], &job, files, &err), MESSAGE_SENT, "%s", err.text);
	cr_assert_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_OK, "%s", err.text);
	cr_expect_eq(count_open_fds(), before + 3);
	for (int i = 0; i < 3; i++) {
		cr_expect_neq(fcntl(fds[i], F_GETFD) & FD_CLOEXEC, 0);
		close(fds[i]);
	}

	size_t size = encode(&job, bytes);
	send_raw(pair[0], bytes, size, files, 2);
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_BAD);
	cr_expect_str_eq(err.text, "protocol: a JOB message with 2 descriptors, not 3");
	send_raw(pair[0], bytes, size, files, 20);
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_BAD);
	size = encode(&cancel, bytes);
	send_raw(pair[0], bytes, size, files, 1);
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_BAD);
	static const uint8_t large[PROTOCOL_MAX_BYTES + 1];
	send_raw(pair[0], large, sizeof large, files, 3);
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_BAD);
	cr_expect_eq(count_open_fds(), before, "a refused packet left descriptors open");

	close(pair[0]);
	cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_END);
	cr_expect_eq(message_send(pair[1], &cancel, NULL, &err), MESSAGE_BROKEN, "and no SIGPIPE");
}

Test(protocol, a_jobs_descriptors_must_be_what_they_should)
{
	int pair[2], pipes[2], fds[PROTOCOL_MAX_FDS], good[3], files[3];
	struct error err;
	struct message job = example(MESSAGE_JOB), got;
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && pipe(pipes) == 0);
	for (int i = 0; i < 3; i++)
		good[i] = memfd_create("file", 0);
	int folder = open("/", O_RDONLY | O_DIRECTORY), path = open("/proc/self/exe", O_PATH);
	int readable = open("/proc/self/exe", O_RDONLY), full = memfd_create("full", 0);
	cr_assert_eq(write(full, "x", 1), 1);
	const struct {
		int position, fd;
	} cases[] = {
		{0, pipes[0]}, {0, folder}, {0, path}, {1, readable}, {1, full}, {2, folder}, {2, pair[0]}, {1, path}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		memcpy(files, good, sizeof files);
		files[cases[i].position] = cases[i].fd;
		int before = count_open_fds();
		cr_assert_eq(message_send(pair[0], &job, files, &err), MESSAGE_SENT);
		cr_expect_eq(message_receive(pair[1], &got, fds, &err), MESSAGE_BAD, "case %zu was taken", i);
		cr_expect_eq(count_open_fds(), before);
	}
}

Test(protocol, a_full_socket_says_so)
{
	int pair[2];
	struct error err;
	struct message m = example(MESSAGE_CANCEL);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	enum message_sent sent;
	int n = 0;
	while ((sent = message_send(pair[0], &m, NULL, &err)) == MESSAGE_SENT && n < 100000)
		n++;
	cr_expect_eq(sent, MESSAGE_FULL);
}
