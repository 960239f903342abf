/* protocol.h - what the daemon and its worker say to each other; the one engine header that fs/ includes.
 *
 * One AF_UNIX SOCK_SEQPACKET socket pair, inherited by the worker as descriptor PROTOCOL_FD: a packet is a message.
 *
 *   worker -> daemon   HELLO     once, before anything slow
 *                      STATUS    device and model: while loading, when ready, when loading failed (it then ends)
 *                      PROGRESS  of a job, at most a few a second; also the sign of life
 *                      FREE      of the running job, at most once: it no longer needs the device and is being finished; another
 *                                one may come. Only when no other is being finished. Not for a device that is the CPU
 *                      RESULT or FAILURE, exactly one a job, after every descriptor of the job has been closed
 *   daemon -> worker   JOB       only while the last STATUS said ready and no job runs, but for one that is being finished;
 *                                carries descriptors
 *                      CANCEL    of a job; one that has just ended is ignored
 *
 * Either side ends by closing its socket; the worker exits when it reads the end.
 *
 * Descriptors go with JOB only: the picture, open for reading, then for every bit of job.options.outputs, lowest first,
 * an empty regular file open for reading and writing (of the daemon's state directory, where it has a name that users
 * cannot see). So the worker needs no name and no permission in any directory, publishing copies no bytes, and a full disk
 * shows as ENOSPC to the worker (FAILURE of kind JOB_STORAGE). What a dead worker had half-written the daemon removes, and
 * what a dead daemon leaves is removed at its next start. The worker must not write to them any more once it has answered;
 * a worker that breaks this rule spoils its own results only.
 *
 * A packet is `u32 magic, u16 version, u16 type` and then the fields in the order of the structs below: integers and
 * IEEE floats little-endian, strings as u16 length + bytes without a zero. The first eight bytes are the same in every
 * version, so that a peer of another version is recognised and not misread. Everything received is checked (length to
 * the byte, ranges, enums, finite numbers, number of descriptors) before it is handed on: either side may be hostile.
 */
#ifndef TRELLIS_PROTOCOL_H
#define TRELLIS_PROTOCOL_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

enum {
	PROTOCOL_VERSION = 4,
	PROTOCOL_FD = 3,	   /* the worker's end of the socket */
	PROTOCOL_MAX_BYTES = 8192, /* of a packet */
	PROTOCOL_MAX_FDS = 8,
};

/* What a job can write; a set of them is 1u << JOB_GLB | ... */
enum job_output { JOB_GLB, JOB_OBJ, JOB_PLY, JOB_STL, JOB_GAUSSIAN_PLY, JOB_PREVIEW, JOB_OUTPUTS };

/* "glb", "obj", "ply", "stl", "gaussian.ply", "preview.png". */
const char *job_output_extension(enum job_output output);

/* Options of a job; the defaults of config.h are the model's own. */
struct job_options {
	uint32_t seed;
	int32_t structure_steps, latent_steps;	   /* 0: the model's own; at most JOB_STEPS_MAX */
	float structure_guidance, latent_guidance; /* < 0: the model's own; at most JOB_GUIDANCE_MAX */
	float simplify;	  /* 0: keep all; (0, 1): share of the triangles; >= 1: how many to keep */
	uint32_t outputs; /* set of enum job_output, not empty */
};

#define JOB_STEPS_MAX 1000
#define JOB_GUIDANCE_MAX 100.0f
#define JOB_SIMPLIFY_MAX 1e9f

/* False, with a line naming the option, when an option is out of its range. */
bool job_options_check(const struct job_options *options, struct error *err);

enum message_type {
	MESSAGE_HELLO = 1,
	MESSAGE_STATUS,
	MESSAGE_PROGRESS,
	MESSAGE_RESULT,
	MESSAGE_FAILURE,
	MESSAGE_JOB,
	MESSAGE_CANCEL,
	MESSAGE_FREE
};

struct message_hello {
	char version[32]; /* of the program, for people */
};

enum model_state { MODEL_LOADING, MODEL_READY, MODEL_FAILED };

#define MESSAGE_DEVICES_MAX 10000

struct message_status {
	enum model_state state;
	int32_t percent;	/* of loading, 0..100; < 0 (sent as -1): unknown */
	uint64_t device_memory; /* bytes; 0: unknown */
	char device[128];	/* "" until known */
	char dtype[16];		/* of the arithmetic: "f32" */
	int32_t ordinal;	/* of a CUDA device, else -1 */
	int32_t devices;	/* CUDA devices that there are, at most MESSAGE_DEVICES_MAX; 0: none was looked for */
	char device_note[512];	/* why a better device was refused, one sentence, or "" */
	char model[256];	/* name; "" until known */
	char model_note[512];	/* repairs that loading made, or "" */
	char sandbox[256];	/* what confines the worker, as it sees it itself; "" until known */
	char reason[1024];	/* MODEL_FAILED: one line; else "" */
};

struct message_progress {
	uint64_t id;
	char stage[32];	     /* for people: "structure" */
	int32_t step, steps; /* within the stage, 0 <= step <= steps */
	double fraction;     /* of the whole job, 0..1 */
	double eta_s;	     /* < 0 (sent as -1): unknown */
};

struct message_result {
	uint64_t id;
	uint64_t sizes[JOB_OUTPUTS]; /* bytes of each file written, 0 for those not asked for */
	uint64_t vertices, faces;
	double seconds;	 /* the whole job */
	char cutout[16]; /* how the background was removed: "alpha", "matting" */
};

enum job_failure {
	JOB_FAILED,    /* the picture or the options: doing it again gives the same */
	JOB_CANCELLED, /* as asked */
	JOB_STORAGE,   /* an output could not be written (disk full, quota) */
	JOB_DEVICE,    /* the device failed, not the job; the worker ends: it can't use the device any more */
};

struct message_failure {
	uint64_t id;
	enum job_failure kind;
	char text[1024]; /* one line */
};

struct message_job {
	uint64_t id;	 /* not 0 */
	char name[1024]; /* of the picture, for error texts only; never opened */
	struct job_options options;
};

struct message_cancel {
	uint64_t id;
};

struct message_free {
	uint64_t id;
};

struct message {
	enum message_type type;
	union {
		struct message_hello hello;
		struct message_status status;
		struct message_progress progress;
		struct message_result result;
		struct message_failure failure;
		struct message_job job;
		struct message_cancel cancel;
		struct message_free free;
	};
};

/* Copy text into a message's string: cut to fit, at a whole UTF-8 character where there is one. */
void message_set_string(char *out, size_t size, const char *text);
#define MESSAGE_STRING(array, text) message_set_string((array), sizeof(array), (text))

/* A message as bytes; 0 when it breaks a rule above (a bug of the caller, which err names). out: PROTOCOL_MAX_BYTES. */
size_t message_encode(const struct message *message, uint8_t *out, struct error *err);

enum message_got {
	MESSAGE_OK,
	MESSAGE_NONE,	     /* nothing there (non-blocking socket) */
	MESSAGE_END,	     /* the peer has closed */
	MESSAGE_BAD,	     /* err says what was wrong; the peer is not to be talked to any more */
	MESSAGE_BAD_VERSION, /* a message of another version; err names both */
};

/* The inverse: message is written only on MESSAGE_OK. */
enum message_got message_decode(struct message *message, const uint8_t *bytes, size_t size, struct error *err);

/* How many descriptors go with a message: for JOB 1 + the number of outputs, else 0. */
int message_fds(const struct message *message);

enum message_sent { MESSAGE_SENT, MESSAGE_FULL, MESSAGE_BROKEN };

/* Send one message with its message_fds() descriptors (borrowed; NULL when there are none). Never raises SIGPIPE.
 * MESSAGE_FULL: a non-blocking socket has no room. MESSAGE_BROKEN: err says why (the peer is gone, or a rule is
 * broken). */
enum message_sent message_send(int socket, const struct message *message, const int *fds, struct error *err);

/* Receive one message. fds: PROTOCOL_MAX_FDS entries, of which the first message_fds(message) are then the caller's to
 * close, all O_CLOEXEC. Anything but MESSAGE_OK leaves no descriptor open. A JOB's descriptors are checked: the picture
 * a regular file open for reading, the outputs empty regular files open for writing. */
enum message_got message_receive(int socket, struct message *message, int *fds, struct error *err);

#endif
