/* protocol.c - messages between daemon and worker as bytes, checked on the way in and on the way out.
 * In both libraries: libtrellis (worker) and libtrellisfs (daemon). Layout and rules: protocol.h. */
#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROTOCOL_MAGIC 0x57525431u /* "1TRW" */
#define HEADER_BYTES 8

const char *job_output_extension(enum job_output output)
{
	static const char *const names[JOB_OUTPUTS] = {"glb", "obj", "ply", "stl", "gaussian.ply", "preview.png"};
	return names[output];
}

bool job_options_check(const struct job_options *o, struct error *err)
{
	if (o->structure_steps < 0 || o->structure_steps > JOB_STEPS_MAX || o->latent_steps < 0 ||
		o->latent_steps > JOB_STEPS_MAX)
		return error_set(err, "steps %d,%d: each is 0 (the model's own) to %d", o->structure_steps,
			o->latent_steps, JOB_STEPS_MAX);
	/* Written so that NaN fails. */
	if (!(o->structure_guidance >= -1 && o->structure_guidance <= JOB_GUIDANCE_MAX) ||
		!(o->latent_guidance >= -1 && o->latent_guidance <= JOB_GUIDANCE_MAX))
		return error_set(err, "guidance %g,%g: each is -1 (the model's own) to %g",
			(double)o->structure_guidance, (double)o->latent_guidance, (double)JOB_GUIDANCE_MAX);
	if (!(o->simplify >= 0 && o->simplify <= JOB_SIMPLIFY_MAX))
		return error_set(err, "simplify %g: 0 to %g", (double)o->simplify, (double)JOB_SIMPLIFY_MAX);
	if (!o->outputs || o->outputs >> JOB_OUTPUTS)
		return error_set(err, "outputs 0x%x: a set of %d known ones, not empty", o->outputs, JOB_OUTPUTS);
	return true;
}

void message_set_string(char *out, size_t size, const char *text)
{
	size_t len = text ? strnlen(text, size) : 0;
	if (len >= size) {
		len = size - 1;
		/* Step back over the continuation bytes of a character that the cut would split; 3 is the most it can
		 * have. */
		for (size_t back = 0; back < 3 && len > back && (text[len - back] & 0xc0) == 0x80; back++)
			if (((unsigned char)text[len - back - 1] & 0xc0) == 0xc0) {
				len -= back + 1;
				break;
			}
	}
	memmove(out, text ? text : "", len);
	memset(out + len, 0, size - len);
}

/* A cursor that writes or reads: each message is described once (the *_fields functions) for both directions, so that
 * the two cannot differ. bad latches. */
struct wire {
	uint8_t *out;	   /* writing, else NULL */
	const uint8_t *in; /* reading, else NULL */
	size_t pos, size;
	bool bad;
};

static bool wire_room(struct wire *w, size_t n)
{
	if (w->bad || w->size - w->pos < n)
		w->bad = true;
	return !w->bad;
}

static void wire_uint(struct wire *w, uint64_t *value, int bytes)
{
	if (!wire_room(w, (size_t)bytes))
		return;
	if (w->in)
		*value = 0;
	for (int i = 0; i < bytes; i++) {
		if (w->out)
			w->out[w->pos + i] = (uint8_t)(*value >> (8 * i));
		else
			*value |= (uint64_t)w->in[w->pos + i] << (8 * i);
	}
	w->pos += (size_t)bytes;
}

static void wire_u16(struct wire *w, uint16_t *value)
{
	uint64_t v = *value;
	wire_uint(w, &v, 2);
	*value = (uint16_t)v;
}

static void wire_u32(struct wire *w, uint32_t *value)
{
	uint64_t v = *value;
	wire_uint(w, &v, 4);
	*value = (uint32_t)v;
}

static void wire_i32(struct wire *w, int32_t *value)
{
	uint32_t v = (uint32_t)*value;
	wire_u32(w, &v);
	*value = (int32_t)v;
}

static void wire_u64(struct wire *w, uint64_t *value)
{
	wire_uint(w, value, 8);
}

static void wire_f32(struct wire *w, float *value)
{
	uint32_t v;
	memcpy(&v, value, sizeof v);
	wire_u32(w, &v);
	memcpy(value, &v, sizeof v);
}

static void wire_f64(struct wire *w, double *value)
{
	uint64_t v;
	memcpy(&v, value, sizeof v);
	wire_u64(w, &v);
	memcpy(value, &v, sizeof v);
}

static void wire_string(struct wire *w, char *text, size_t size)
{
	size_t len = w->out ? strnlen(text, size) : 0;
	if (len == size) {
		w->bad = true; /* not terminated */
		return;
	}
	uint16_t sent = (uint16_t)len;
	wire_u16(w, &sent);
	if (w->in && sent >= size)
		w->bad = true;
	if (!wire_room(w, sent))
		return;
	if (w->out) {
		memcpy(w->out + w->pos, text, sent);
	} else {
		if (memchr(w->in + w->pos, 0, sent))
			w->bad = true;
		memcpy(text, w->in + w->pos, sent);
		memset(text + sent, 0, size - sent);
	}
	w->pos += sent;
}
#define WIRE_STRING(w, array) wire_string((w), (array), sizeof(array))

/* An enum in one byte on the wire's u32; values from 0 to last. */
static uint32_t wire_enum(struct wire *w, uint32_t value, uint32_t last)
{
	wire_u32(w, &value);
	if (value > last)
		w->bad = true;
	return w->bad ? 0 : value;
}

static void status_fields(struct wire *w, struct message_status *m)
{
	m->state = (enum model_state)wire_enum(w, m->state, MODEL_FAILED);
	wire_i32(w, &m->percent);
	wire_u64(w, &m->device_memory);
	WIRE_STRING(w, m->device);
	WIRE_STRING(w, m->dtype);
	wire_i32(w, &m->ordinal);
	wire_i32(w, &m->devices);
	WIRE_STRING(w, m->device_note);
	WIRE_STRING(w, m->model);
	WIRE_STRING(w, m->model_note);
	WIRE_STRING(w, m->sandbox);
	WIRE_STRING(w, m->reason);
	if (m->percent < -1 || m->percent > 100 || m->ordinal < -1 || m->devices < 0 ||
		m->devices > MESSAGE_DEVICES_MAX || m->ordinal >= MESSAGE_DEVICES_MAX)
		w->bad = true;
}

static void progress_fields(struct wire *w, struct message_progress *m)
{
	wire_u64(w, &m->id);
	WIRE_STRING(w, m->stage);
	wire_i32(w, &m->step);
	wire_i32(w, &m->steps);
	wire_f64(w, &m->fraction);
	wire_f64(w, &m->eta_s);
	if (!m->id || m->step < 0 || m->step > m->steps || !(m->fraction >= 0 && m->fraction <= 1) ||
		!(m->eta_s >= -1 && m->eta_s <= 1e9))
		w->bad = true;
}

static void result_fields(struct wire *w, struct message_result *m)
{
	wire_u64(w, &m->id);
	for (int i = 0; i < JOB_OUTPUTS; i++)
		wire_u64(w, &m->sizes[i]);
	wire_u64(w, &m->vertices);
	wire_u64(w, &m->faces);
	wire_f64(w, &m->seconds);
	WIRE_STRING(w, m->cutout);
	if (!m->id || !(m->seconds >= 0 && m->seconds <= 1e9))
		w->bad = true;
}

static void failure_fields(struct wire *w, struct message_failure *m)
{
	wire_u64(w, &m->id);
	m->kind = (enum job_failure)wire_enum(w, m->kind, JOB_DEVICE);
	WIRE_STRING(w, m->text);
	if (!m->id)
		w->bad = true;
}

static void job_fields(struct wire *w, struct message_job *m)
{
	struct job_options *o = &m->options;
	wire_u64(w, &m->id);
	WIRE_STRING(w, m->name);
	wire_u32(w, &o->seed);
	wire_i32(w, &o->structure_steps);
	wire_i32(w, &o->latent_steps);
	wire_f32(w, &o->structure_guidance);
	wire_f32(w, &o->latent_guidance);
	wire_f32(w, &o->simplify);
	wire_u32(w, &o->outputs);
	if (!m->id || !job_options_check(o, NULL))
		w->bad = true;
}

/* The fields after the header. False: no such type, a field out of its range, or too long for the packet. */
static bool message_fields(struct wire *w, struct message *m)
{
	switch (m->type) {
	case MESSAGE_HELLO:
		WIRE_STRING(w, m->hello.version);
		break;
	case MESSAGE_STATUS:
		status_fields(w, &m->status);
		break;
	case MESSAGE_PROGRESS:
		progress_fields(w, &m->progress);
		break;
	case MESSAGE_RESULT:
		result_fields(w, &m->result);
		break;
	case MESSAGE_FAILURE:
		failure_fields(w, &m->failure);
		break;
	case MESSAGE_JOB:
		job_fields(w, &m->job);
		break;
	case MESSAGE_CANCEL:
		wire_u64(w, &m->cancel.id);
		w->bad |= !m->cancel.id;
		break;
	case MESSAGE_FREE:
		wire_u64(w, &m->free.id);
		w->bad |= !m->free.id;
		break;
	default:
		w->bad = true;
	}
	return !w->bad;
}

static const char *type_name(unsigned type)
{
	static const char *const names[] = {
		"?", "HELLO", "STATUS", "PROGRESS", "RESULT", "FAILURE", "JOB", "CANCEL", "FREE"};
	return names[type >= MESSAGE_HELLO && type <= MESSAGE_FREE ? type : 0];
}

size_t message_encode(const struct message *message, uint8_t *out, struct error *err)
{
	struct message copy = *message; /* the wire only reads it when writing, but its type says otherwise */
	struct wire w = {.out = out, .size = PROTOCOL_MAX_BYTES};
	uint32_t magic = PROTOCOL_MAGIC;
	uint16_t version = PROTOCOL_VERSION, type = (uint16_t)message->type;
	wire_u32(&w, &magic);
	wire_u16(&w, &version);
	wire_u16(&w, &type);
	if (!message_fields(&w, &copy)) {
		error_set(err, "protocol: a %s message breaks the protocol's rules", type_name(message->type));
		return 0;
	}
	return w.pos;
}

enum message_got message_decode(struct message *message, const uint8_t *bytes, size_t size, struct error *err)
{
	struct message got = {0};
	struct wire w = {.in = bytes, .size = size};
	uint32_t magic = 0;
	uint16_t version = 0, type = 0;
	wire_u32(&w, &magic);
	wire_u16(&w, &version);
	wire_u16(&w, &type);
	if (w.bad || magic != PROTOCOL_MAGIC) {
		error_set(err, "protocol: a packet of %zu bytes is not a message", size);
		return MESSAGE_BAD;
	}
	if (version != PROTOCOL_VERSION) {
		error_set(err, "protocol: the other side speaks version %u, this program version %d", version,
			PROTOCOL_VERSION);
		return MESSAGE_BAD_VERSION;
	}
	got.type = (enum message_type)type;
	if (!message_fields(&w, &got) || w.pos != size) {
		error_set(err, "protocol: a malformed %s message of %zu bytes (type %u)", type_name(type), size, type);
		return MESSAGE_BAD;
	}
	*message = got;
	return MESSAGE_OK;
}

int message_fds(const struct message *message)
{
	return message->type == MESSAGE_JOB ? 1 + __builtin_popcount(message->job.options.outputs) : 0;
}

enum message_sent message_send(int socket, const struct message *message, const int *fds, struct error *err)
{
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	size_t size = message_encode(message, bytes, err);
	if (!size)
		return MESSAGE_BROKEN;
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * PROTOCOL_MAX_FDS)];
	} control = {0};
	struct iovec iov = {.iov_base = bytes, .iov_len = size};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};
	size_t fds_bytes = sizeof(int) * (size_t)message_fds(message);
	if (fds_bytes) {
		packet.msg_control = control.space;
		packet.msg_controllen = CMSG_SPACE(fds_bytes);
		struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(fds_bytes);
		memcpy(CMSG_DATA(c), fds, fds_bytes);
	}
	ssize_t sent;
	do
		sent = sendmsg(socket, &packet, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)size)
		return MESSAGE_SENT;
	if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return MESSAGE_FULL;
	error_set(err, "protocol: sending a %s message: %s", type_name(message->type),
		sent < 0 ? strerror(errno) : "cut short");
	return MESSAGE_BROKEN;
}

/* Collect the packet's descriptors; those over max are closed at once. Returns how many came in all. */
static int take_fds(struct msghdr *packet, int *fds, int max)
{
	int n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(packet); c; c = CMSG_NXTHDR(packet, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++, n++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (n < max)
				fds[n] = fd;
			else
				close(fd);
		}
	}
	return n;
}

static bool check_job_fds(const int *fds, int n, struct error *err)
{
	for (int i = 0; i < n; i++) {
		struct stat st;
		int flags = fcntl(fds[i], F_GETFL);
		if (flags < 0 || fstat(fds[i], &st) < 0)
			return error_set(err, "protocol: descriptor %d of a JOB: %s", i, strerror(errno));
		int mode = flags & O_ACCMODE;
		bool ok = S_ISREG(st.st_mode) && !(flags & O_PATH) &&
			  (i == 0 ? mode != O_WRONLY : mode == O_RDWR && st.st_size == 0);
		if (!ok)
			return error_set(err, "protocol: descriptor %d of a JOB is not %s", i,
				i == 0 ? "a regular file open for reading"
				       : "an empty regular file open for reading and writing");
	}
	return true;
}

enum message_got message_receive(int socket, struct message *message, int *fds, struct error *err)
{
	uint8_t bytes[PROTOCOL_MAX_BYTES];
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * PROTOCOL_MAX_FDS)];
	} control;
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof bytes};
	struct msghdr packet = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
	ssize_t size;
	do
		size = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
	while (size < 0 && errno == EINTR);
	if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return MESSAGE_NONE;
	if (size < 0 && errno != ECONNRESET) {
		error_set(err, "protocol: receiving: %s", strerror(errno));
		return MESSAGE_BAD;
	}
	if (size < 0)
		return MESSAGE_END; /* the peer died with our messages unread */

	int n = take_fds(&packet, fds, PROTOCOL_MAX_FDS);
	struct message received;
	enum message_got got;
	if (size == 0 && n == 0) {
		return MESSAGE_END;
	} else if (packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		error_set(err, "protocol: a packet with more than %d bytes or %d descriptors", PROTOCOL_MAX_BYTES,
			PROTOCOL_MAX_FDS);
		got = MESSAGE_BAD;
	} else {
		got = message_decode(&received, bytes, (size_t)size, err);
	}
	if (got == MESSAGE_OK && n != message_fds(&received)) {
		error_set(err, "protocol: a %s message with %d descriptors, not %d", type_name(received.type), n,
			message_fds(&received));
		got = MESSAGE_BAD;
	}
	if (got == MESSAGE_OK && n && !check_job_fds(fds, n, err))
		got = MESSAGE_BAD;
	if (got != MESSAGE_OK) {
		for (int i = 0; i < n && i < PROTOCOL_MAX_FDS; i++)
			close(fds[i]);
		return got;
	}
	*message = received;
	return MESSAGE_OK;
}
