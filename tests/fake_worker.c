/* fake_worker.c - a worker without a model, for the daemon's tests: speaks protocol.h, answers every job with small
 * valid files made from the picture's hash (equal pictures give equal files), and misbehaves on request.
 *
 * Started like `trellis worker`; of its arguments only --device counts. $FAKE_WORKER holds switches separated by spaces, or @FILE
 * to read them from FILE again at every job:
 *
 *   devices=N               there are so many CUDA devices: auto and cuda take the first
 *   at=N                    what follows happens on this device only (cuda:N; -1: cpu; cuda: all but the cpu)
 *   load=MS slow=MS         time of loading, of each of the 10 steps of a job (default 0 and 1)
 *   finish=MS               after them the job leaves the device (FREE) and is finished for so long beside the next one
 *   bad-version no-model hang-load        at the start
 *   fail oom storage device a FAILURE; after the last the worker ends (out of memory is a real one, under a limit)
 *   crash-at=STEP signal=N exit=N         die: SIGSEGV, that signal (both at STEP, default 3), or exit
 *   hang deaf               stop talking for ever; ignore CANCEL and the end of the socket for 60 s
 *   nonsense wrong-size hasty   break the protocol's rules; the last: hand over while another one is being finished
 *   times=FILE              write down when a job comes and when its result goes, in seconds, a line each
 *   only=TEXT               do all this only to jobs whose name contains TEXT
 *   once                    in @FILE: what stands before it is for the first who reads it */
#include "protocol.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STEPS 10

struct fake {
	char switches[512];
	bool on;      /* of this job: `only` matches */
	uint64_t job; /* 0: none, or its answer is ready */
	struct message answer;
	bool cancelled;
	struct message finishing; /* RESULT of the job that is being finished; id 0: none */
	double due_s;
	const char *device; /* --device */
	int ordinal;
};

static void read_switches(struct fake *f)
{
	const char *text = getenv("FAKE_WORKER");
	f->switches[0] = 0;
	if (text && text[0] == '@') {
		FILE *file = fopen(text + 1, "re");
		size_t n = file ? fread(f->switches, 1, sizeof f->switches - 1, file) : 0;
		f->switches[n] = 0;
		if (file)
			fclose(file);
		const char *once = strstr(f->switches, " once ");
		if (once && (file = fopen(text + 1, "we"))) {
			fputs(once + 6, file);
			fclose(file);
		}
	} else if (text) {
		snprintf(f->switches, sizeof f->switches, "%s", text);
	}
}

/* The value of NAME=VALUE or NAME among the switches, "" for the latter, NULL when it isn't there. */
static const char *find_switch(const struct fake *f, const char *name, char *value, size_t size)
{
	size_t len = strlen(name);
	for (const char *p = f->switches; *p;) {
		p += strspn(p, " \n");
		size_t word = strcspn(p, " \n");
		if (word >= len && !strncmp(p, name, len) && (word == len || p[len] == '=')) {
			size_t skip = word == len ? len : len + 1;
			snprintf(value, size, "%.*s", (int)(word - skip), p + skip);
			return value;
		}
		p += word;
	}
	return NULL;
}

static bool is_here(const struct fake *f)
{
	char value[128];
	if (!find_switch(f, "at", value, sizeof value))
		return true;
	return strcmp(value, "cuda") == 0 ? f->ordinal >= 0 : atoi(value) == f->ordinal;
}

static bool has(const struct fake *f, const char *name)
{
	char value[128];
	return f->on && is_here(f) && find_switch(f, name, value, sizeof value);
}

static int number(const struct fake *f, const char *name, int otherwise)
{
	char value[128];
	return f->on && find_switch(f, name, value, sizeof value) ? atoi(value) : otherwise;
}

static void stamp(const struct fake *f, const char *what)
{
	char path[128];
	struct timespec t;
	FILE *out = find_switch(f, "times", path, sizeof path) ? fopen(path, "ae") : NULL;
	if (!out)
		return;
	clock_gettime(CLOCK_REALTIME, &t);
	fprintf(out, "%s %ld.%09ld\n", what, (long)t.tv_sec, t.tv_nsec);
	fclose(out);
}

static void hang(void)
{
	for (;;)
		pause();
}

static void send_or_end(const struct message *m)
{
	if (message_send(PROTOCOL_FD, m, NULL, NULL) != MESSAGE_SENT)
		exit(0);
}

static void greet(const struct fake *f)
{
	struct message hello = {.type = MESSAGE_HELLO};
	MESSAGE_STRING(hello.hello.version, "fake");
	if (has(f, "bad-version")) {
		uint8_t bytes[PROTOCOL_MAX_BYTES];
		size_t size = message_encode(&hello, bytes, NULL);
		bytes[4] = 99; /* the version's low byte */
		send(PROTOCOL_FD, bytes, size, MSG_NOSIGNAL);
		hang();
	}
	send_or_end(&hello);
}

static int count_devices(const struct fake *f)
{
	char value[128];
	return find_switch(f, "devices", value, sizeof value) ? atoi(value) : 0;
}

static void load(const struct fake *f)
{
	struct message m = {.type = MESSAGE_STATUS, .status = {.state = MODEL_LOADING, .device_memory = 1ull << 30}};
	m.status.devices = count_devices(f);
	m.status.ordinal = f->ordinal;
	MESSAGE_STRING(m.status.device, "no device (fake worker)");
	if (f->ordinal >= 0)
		snprintf(m.status.device, sizeof m.status.device, "cuda:%d fake", f->ordinal);
	MESSAGE_STRING(m.status.dtype, "f32");
	MESSAGE_STRING(m.status.model, "fake");
	for (m.status.percent = 0; m.status.percent < 100; m.status.percent += 25) {
		send_or_end(&m);
		usleep((unsigned)number(f, "load", 0) * 250);
		if (has(f, "hang-load"))
			hang();
	}
	m.status.state = has(f, "no-model") ? MODEL_FAILED : MODEL_READY;
	if (m.status.state == MODEL_FAILED)
		MESSAGE_STRING(m.status.reason, "the model directory /no/such/model does not exist");
	send_or_end(&m);
	if (m.status.state == MODEL_FAILED)
		exit(1);
}

/* FNV-1a over the picture. */
static bool hash_picture(int fd, uint64_t *hash)
{
	uint8_t bytes[65536];
	off_t pos = 0;
	ssize_t n;
	*hash = 14695981039346656037u;
	while ((n = pread(fd, bytes, sizeof bytes, pos)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			*hash = (*hash ^ bytes[i]) * 1099511628211u;
		pos += n;
	}
	return n == 0;
}

/* A tetrahedron whose edge says the hash's low byte: (64 + byte) / 64, exact in float32 and in decimal. */
static void put_glb(FILE *out, double edge)
{
	const float vertices[4][3] = {{0, 0, 0}, {(float)edge, 0, 0}, {0, (float)edge, 0}, {0, 0, (float)edge}};
	const uint16_t faces[4][3] = {{0, 2, 1}, {0, 1, 3}, {0, 3, 2}, {1, 2, 3}};
	char json[1024];
	int len = snprintf(json, sizeof json,
		"{\"asset\":{\"version\":\"2.0\"},\"scene\":0,\"scenes\":[{\"nodes\":[0]}],\"nodes\":[{\"mesh\":0}],"
		"\"meshes\":[{\"primitives\":[{\"attributes\":{\"POSITION\":0},\"indices\":1}]}],"
		"\"buffers\":[{\"byteLength\":72}],\"bufferViews\":[{\"buffer\":0,\"byteLength\":48,\"target\":34962},"
		"{\"buffer\":0,\"byteOffset\":48,\"byteLength\":24,\"target\":34963}],\"accessors\":["
		"{\"bufferView\":0,\"componentType\":5126,\"count\":4,\"type\":\"VEC3\",\"min\":[0,0,0],"
		"\"max\":[%.6f,%.6f,%.6f]},"
		"{\"bufferView\":1,\"componentType\":5123,\"count\":12,\"type\":\"SCALAR\"}]}",
		edge, edge, edge);
	while (len % 4)
		json[len++] = ' ';
	const uint32_t head[] = {0x46546c67, 2, 12 + 8 + (uint32_t)len + 8 + 72, (uint32_t)len, 0x4e4f534a};
	const uint32_t binary[] = {72, 0x004e4942};
	fwrite(head, 1, sizeof head, out);
	fwrite(json, 1, (size_t)len, out);
	fwrite(binary, 1, sizeof binary, out);
	fwrite(vertices, 1, sizeof vertices, out);
	fwrite(faces, 1, sizeof faces, out);
}

/* Text formats hold the same tetrahedron; the preview is a fixed PNG of one black pixel. */
static void put_other(FILE *out, enum job_output format, double e)
{
	static const uint8_t pixel[] =
		"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\n"
		"IDATx\x9c\x63\x60\0\0\0\2\0\1\x48\xaf\xa4\x71\0\0\0\0IEND\xae\x42\x60\x82";
	static const char ply[] =
		"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
		"element face 4\nproperty list uchar int vertex_indices\nend_header\n";
	switch (format) {
	case JOB_OBJ:
		fprintf(out, "v 0 0 0\nv %f 0 0\nv 0 %f 0\nv 0 0 %f\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n", e, e, e);
		break;
	case JOB_STL:
		fprintf(out,
			"solid fake\nfacet normal 0 0 -1\nouter loop\nvertex 0 0 0\nvertex 0 %f 0\nvertex %f 0 0\n"
			"endloop\nendfacet\nendsolid fake\n",
			e, e);
		break;
	case JOB_PREVIEW:
		fwrite(pixel, 1, sizeof pixel - 1, out);
		break;
	default:
		fprintf(out, "%s0 0 0\n%f 0 0\n0 %f 0\n0 0 %f\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n", ply, e, e, e);
	}
}

/* Fill one output; false leaves errno. */
static bool write_output(int fd, enum job_output format, double edge, uint64_t *size)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	if (!out)
		return false;
	format == JOB_GLB ? put_glb(out, edge) : put_other(out, format, edge);
	bool ok = fclose(out) == 0;
	errno = 0;
	ok = ok && write(fd, text, len) == (ssize_t)len;
	if (!ok && !errno)
		errno = ENOSPC; /* written in part */
	free(text);
	*size = len;
	return ok;
}

static void fail(struct fake *f, enum job_failure kind, const char *text)
{
	f->answer = (struct message){.type = MESSAGE_FAILURE, .failure = {.id = f->job, .kind = kind}};
	MESSAGE_STRING(f->answer.failure.text, text);
	f->job = 0;
}

static void run_out_of_memory(struct fake *f)
{
	const size_t want = (size_t)1 << 30;
	struct rlimit old, low = {.rlim_cur = 256 << 20};
	getrlimit(RLIMIT_DATA, &old);
	low.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_DATA, &low);
	/* mmap rather than malloc: the sanitizers' malloc ends the process. */
	void *memory = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool refused = memory == MAP_FAILED;
	setrlimit(RLIMIT_DATA, &old);
	if (!refused)
		munmap(memory, want);
	fail(f, JOB_FAILED,
		refused ? "out of memory: 1073741824 bytes for the test" : "the limit on memory did not hold");
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Answer for the job that is being finished when it is time; milliseconds until then, -1: there is none. */
static int finish_due(struct fake *f)
{
	double left_s = f->due_s - now_s();
	if (!f->finishing.result.id)
		return -1;
	if (left_s > 0)
		return (int)(left_s * 1000) + 1;
	stamp(f, "ready");
	send_or_end(&f->finishing);
	f->finishing = (struct message){0};
	return -1;
}

/* Handle what comes within ms (-1: for ever) or until a message is there that is for `m`; at least one look. */
static bool listen_until(struct fake *f, int ms, struct message *m, int *fds)
{
	double end_s = now_s() + ms / 1000.0;
	for (;;) {
		int due = finish_due(f), left = ms < 0 ? -1 : (int)((end_s - now_s()) * 1000 + 0.999);
		struct pollfd poll_fd = {.fd = PROTOCOL_FD, .events = POLLIN};
		left = ms >= 0 && left < 0 ? 0 : left;
		int n = poll(&poll_fd, 1, due >= 0 && (left < 0 || due < left) ? due : left);
		if (n == 0 && (left == 0 || (due < 0 && left > 0)))
			return false;
		if (n <= 0)
			continue;
		struct error err;
		enum message_got got = message_receive(PROTOCOL_FD, m, fds, &err);
		if (got == MESSAGE_END)
			exit(0);
		if (got != MESSAGE_OK) {
			fprintf(stderr, "fake worker: %s\n", err.text);
			exit(2);
		}
		if (m->type == MESSAGE_CANCEL && m->cancel.id == f->finishing.result.id) {
			f->finishing = (struct message){
				.type = MESSAGE_FAILURE, .failure = {.id = m->cancel.id, .kind = JOB_CANCELLED}};
			MESSAGE_STRING(f->finishing.failure.text, "cancelled");
			f->due_s = 0;
			continue;
		}
		return true;
	}
}

static void listen_for(struct fake *f, int ms)
{
	struct message m;
	int fds[PROTOCOL_MAX_FDS];
	if (has(f, "deaf")) {
		usleep((unsigned)ms * 1000);
		return;
	}
	if (listen_until(f, ms, &m, fds) && m.type == MESSAGE_CANCEL && m.cancel.id == f->job)
		f->cancelled = true;
}

/* The faults of one step; returns false when the job has ended. */
static bool misbehave(struct fake *f, int step)
{
	if (step == number(f, "crash-at", -1)) {
		signal(SIGSEGV, SIG_DFL); /* without the sanitizers' report */
		raise(SIGSEGV);
	}
	if (step != 3)
		return true;
	if (has(f, "signal"))
		raise(number(f, "signal", 0));
	if (has(f, "exit"))
		exit(number(f, "exit", 0));
	if (has(f, "hang"))
		hang();
	if (has(f, "nonsense"))
		send(PROTOCOL_FD, "nonsense", 8, MSG_NOSIGNAL);
	if (has(f, "oom"))
		run_out_of_memory(f);
	else if (has(f, "fail"))
		fail(f, JOB_FAILED, "the picture shows nothing (fake worker)");
	else if (has(f, "storage"))
		fail(f, JOB_STORAGE, "writing a result: No space left on device");
	else if (has(f, "device"))
		fail(f, JOB_DEVICE, "the device is lost (fake worker)");
	return f->job != 0;
}

static void work(struct fake *f, const struct message_job *job, const int *fds)
{
	struct message m = {.type = MESSAGE_PROGRESS};
	for (int step = 0; step < STEPS; step++) {
		m.progress = (struct message_progress){.id = job->id,
			.step = step,
			.steps = STEPS,
			.fraction = (double)step / STEPS,
			.eta_s = (STEPS - step) * number(f, "slow", 1) / 1000.0};
		MESSAGE_STRING(m.progress.stage, "structure");
		send_or_end(&m);
		if (!misbehave(f, step))
			return;
		listen_for(f, number(f, "slow", 1));
		if (f->cancelled) {
			fail(f, JOB_CANCELLED, "cancelled");
			return;
		}
	}
	uint64_t hash;
	struct message result = {.type = MESSAGE_RESULT, .result = {.id = job->id, .vertices = 4, .faces = 4}};
	MESSAGE_STRING(result.result.cutout, "alpha");
	if (!hash_picture(fds[0], &hash)) {
		fail(f, JOB_FAILED, "the picture can't be read");
		return;
	}
	for (int i = 0, n = 1; i < JOB_OUTPUTS; i++) {
		if (!(job->options.outputs & 1u << i))
			continue;
		if (!write_output(
			    fds[n++], (enum job_output)i, (64 + (double)(hash & 255)) / 64, &result.result.sizes[i])) {
			fail(f, JOB_STORAGE, strerror(errno));
			return;
		}
	}
	result.result.sizes[JOB_GLB] += has(f, "wrong-size");
	f->answer = result;
	f->job = 0;
}

/* The job leaves the device; before that another one has to be finished. False: it was cancelled meanwhile. */
static bool hand_over(struct fake *f, int ms)
{
	struct message m = {.type = MESSAGE_FREE, .free.id = f->answer.result.id};
	f->job = m.free.id;
	for (int due; !has(f, "hasty") && (due = finish_due(f)) >= 0;) {
		listen_for(f, due);
		if (f->cancelled) {
			fail(f, JOB_CANCELLED, "cancelled");
			return false;
		}
	}
	f->job = 0;
	send_or_end(&m);
	f->finishing = f->answer;
	f->due_s = now_s() + ms / 1000.0;
	return true;
}

static void serve(struct fake *f)
{
	for (;;) {
		struct message m;
		int fds[PROTOCOL_MAX_FDS];
		char only[128];
		listen_until(f, -1, &m, fds);
		if (m.type != MESSAGE_JOB)
			continue; /* a CANCEL that crossed the answer */
		read_switches(f);
		f->on = !find_switch(f, "only", only, sizeof only) || strstr(m.job.name, only);
		f->job = m.job.id;
		f->cancelled = false;
		stamp(f, "start");
		work(f, &m.job, fds);
		for (int i = 0; i < message_fds(&m); i++)
			close(fds[i]);
		char value[128];
		int ms = find_switch(f, "finish", value, sizeof value) ? atoi(value) : 0;
		if (f->answer.type == MESSAGE_RESULT && ms > 0 && hand_over(f, ms))
			continue;
		stamp(f, "ready");
		send_or_end(&f->answer);
		if (f->answer.type == MESSAGE_FAILURE && f->answer.failure.kind == JOB_DEVICE)
			exit(0);
	}
}

/* As the engine would choose. */
static void choose_device(struct fake *f, int argc, char **argv)
{
	f->device = "auto";
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--device"))
			f->device = argv[i + 1];
	f->ordinal = -1;
	if (!strncmp(f->device, "cuda:", 5))
		f->ordinal = atoi(f->device + 5);
	else if (strcmp(f->device, "cpu") != 0 && count_devices(f) > 0)
		f->ordinal = 0;
}

int main(int argc, char **argv)
{
	const struct rlimit none = {0, 0};
	struct fake fake = {.on = true};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
	read_switches(&fake);
	choose_device(&fake, argc, argv);
	greet(&fake);
	load(&fake);
	serve(&fake);
}
