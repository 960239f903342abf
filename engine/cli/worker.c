/* worker.c - `trellis worker`: the process that the daemon starts to run its jobs. Protocol and descriptors:
 * protocol.h.
 *
 *   main thread     reads the socket: hands jobs over, notes cancellations, ends the process when the daemon is gone
 *   device thread   owns engine and device: loads the model, runs jobs; the engine may load ahead on a thread of its own
 *   finisher        with a GPU: cleans the mesh and writes the files of a job while the device has the next one
 *
 * All may send: a message is one packet, which the kernel keeps whole. The process ends by _exit, because the device
 * thread may be anywhere in a computation when the daemon goes; nothing of the worker's needs an orderly end. It opens
 * files of the model only, before the first job: pictures and results are descriptors that the daemon gave it. */
#include "buffer.h"
#include "commands.h"
#include "pipeline.h"
#include "preview.h"
#include "protocol.h"
#include "sandbox.h"
#include "writers.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_PICTURE_BYTES (1ull << 30)

static const char help[] =
	"usage: trellis worker [OPTION]...\n"
	"\n"
	"Runs the jobs of a trellisfs daemon, which starts it with a socket as descriptor 3. Of no use by itself.\n"
	"\n"
	"  -m, --model MODEL    directory (absolute: the worker runs in /) or hub id\n"
	"  -d, --device DEVICE  auto (default), cpu, cuda or cuda:N\n"
	"      --dtype TYPE     f16 (default), bf16 or f32 on CUDA\n"
	"      --memory HOW     auto (default), or low: weights leave the device when their stage is over\n"
	"      --hang S         the daemon ends a worker that says nothing for so long; a device that does not answer\n"
	"                       in half of it is refused\n"
	"  -t, --threads N      of the CPU; 0 (default): all\n"
	"      --sandbox[=UID:GID]  give up all that a worker has no need of, and become this user\n"
	"  -h, --help           print this text\n";

struct task {
	struct message_job job;	   /* id 0: none */
	int fds[PROTOCOL_MAX_FDS]; /* of that job */
	atomic_bool cancel;	   /* set under the lock, looked at without */
	double started_s;
	struct trellis_surface *surface; /* NULL: not yet */
	char cutout[16];
	struct message answer; /* RESULT or FAILURE */
	bool doubtful;	       /* it failed in a way that the device may have caused */
};

struct worker {
	struct trellis_options options;
	struct sandbox sandbox;
	const struct trellis *trellis; /* the device thread's, as the next: NULL while there is none */
	char confined[256];	       /* what holds of the sandbox, "" before it is all there */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct task running, finishing; /* lock: their ids. The rest is of the thread that has the job */
	bool to_finish, to_judge; /* lock: whose turn it is at `finishing`, the finisher's or the device thread's */
};

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A message that can't be sent is no longer wanted: the main thread reads the end of the socket next. */
static void tell(const struct message *message)
{
	struct error err;
	if (message_send(PROTOCOL_FD, message, NULL, &err) == MESSAGE_BROKEN)
		shutdown(PROTOCOL_FD, SHUT_RDWR);
}

/* percent of loading; -1: unknown */
static void tell_status(const struct worker *w, enum model_state state, int percent, const char *reason)
{
	const struct trellis *t = w->trellis;
	struct message m = {.type = MESSAGE_STATUS, .status = {.state = state, .percent = percent, .ordinal = -1}};
	if (t) {
		const struct trellis_device *d = trellis_device(t);
		m.status.device_memory = d->memory_bytes;
		MESSAGE_STRING(m.status.device, d->name);
		MESSAGE_STRING(m.status.dtype, d->dtype);
		m.status.ordinal = d->ordinal;
		m.status.devices = d->count < MESSAGE_DEVICES_MAX ? d->count : MESSAGE_DEVICES_MAX;
		MESSAGE_STRING(m.status.device_note, d->note);
		MESSAGE_STRING(m.status.model, trellis_model_name(t));
		MESSAGE_STRING(m.status.model_note, trellis_model_note(t));
	}
	MESSAGE_STRING(m.status.sandbox, w->confined);
	MESSAGE_STRING(m.status.reason, reason);
	tell(&m);
}

static bool tell_progress(const struct trellis_progress *progress, void *user)
{
	struct task *task = user;
	struct message m = {.type = MESSAGE_PROGRESS};
	/* The engine's estimates are not bound to the protocol's ranges. */
	int steps = progress->steps > 0 ? progress->steps : 0;
	int step = progress->step < 0 ? 0 : progress->step > steps ? steps : progress->step;
	double fraction =
		progress->fraction >= 0 && progress->fraction <= 1 ? progress->fraction : progress->fraction > 1;
	double eta_s = progress->eta_s >= 0 && progress->eta_s < 1e9 ? progress->eta_s : -1;
	m.progress = (struct message_progress){
		.id = task->job.id, .step = step, .steps = steps, .fraction = fraction, .eta_s = eta_s};
	MESSAGE_STRING(m.progress.stage, trellis_stage_name(progress->stage));
	tell(&m);
	return !atomic_load(&task->cancel);
}

static bool fail(struct task *task, enum job_failure kind, const struct error *err)
{
	if (atomic_load(&task->cancel))
		kind = JOB_CANCELLED;
	task->answer = (struct message){.type = MESSAGE_FAILURE, .failure = {.id = task->job.id, .kind = kind}};
	MESSAGE_STRING(task->answer.failure.text, err->text);
	return false;
}

/* The engine failed: the device's fault or the job's, which judge() finds out. */
static bool fail_computing(struct task *task, const struct error *err)
{
	fail(task, JOB_FAILED, err);
	task->doubtful = task->answer.failure.kind == JOB_FAILED;
	return false;
}

static void judge(struct trellis *t, struct task *task)
{
	struct error err;
	snprintf(err.text, sizeof err.text, "%s", task->answer.failure.text);
	if (task->doubtful && trellis_device_failed(t, &err))
		fail(task, JOB_DEVICE, &err);
	task->doubtful = false;
}

/* Read rather than mapped: a file that its writer shortens meanwhile must not raise SIGBUS. */
static bool read_picture(const struct task *task, struct trellis_image *image, struct error *err)
{
	struct stat st;
	if (fstat(task->fds[0], &st) < 0)
		return error_set(err, "reading the picture: %s", strerror(errno));
	if ((uint64_t)st.st_size > MAX_PICTURE_BYTES)
		return error_set(err, "the picture has %lld bytes, over 1 GiB", (long long)st.st_size);
	size_t size = (size_t)st.st_size;
	uint8_t *bytes = malloc(size ? size : 1);
	if (!bytes)
		return error_set(err, "out of memory: %zu bytes for the picture", size);
	ssize_t n = file_read(task->fds[0], bytes, size);
	bool ok = n < 0 ? error_set(err, "reading the picture: %s", strerror(errno))
			: trellis_image_decode(image, bytes, (size_t)n, task->job.name, err);
	free(bytes);
	return ok;
}

static struct trellis_params params_of(const struct job_options *o)
{
	struct trellis_params p = trellis_params_default();
	p.seed = o->seed;
	p.structure_steps = o->structure_steps;
	p.latent_steps = o->latent_steps;
	p.structure_guidance = o->structure_guidance;
	p.latent_guidance = o->latent_guidance;
	p.simplify = o->simplify;
	p.want_gaussians = o->outputs & 1u << JOB_GAUSSIAN_PLY;
	return p;
}

static bool make_output(struct buffer *out, const struct trellis_mesh *mesh, enum job_output output, struct error *err)
{
	static const enum mesh_format formats[] = {[JOB_GLB] = MESH_GLB,
		[JOB_OBJ] = MESH_OBJ,
		[JOB_PLY] = MESH_PLY,
		[JOB_STL] = MESH_STL,
		[JOB_GAUSSIAN_PLY] = MESH_GAUSSIAN_PLY};
	if (output == JOB_PREVIEW)
		return preview_append_png(out, mesh, err);
	return mesh_format_bytes(out, mesh, formats[output], err);
}

/* Each output is made in memory and then written, so that a full disk can be told from a mesh that has no such form. */
static bool write_outputs(struct task *task, const struct trellis_mesh *mesh, struct message_result *result)
{
	struct error err;
	int count = __builtin_popcount(task->job.options.outputs), n = 0;
	for (int i = 0; i < JOB_OUTPUTS; i++) {
		const char *extension = job_output_extension((enum job_output)i);
		struct buffer bytes = {0};
		if (!(task->job.options.outputs & 1u << i))
			continue;
		if (!tell_progress(&(struct trellis_progress){TRELLIS_WRITE, n, count, 1, -1}, task)) {
			error_set(&err, "cancelled");
			return fail(task, JOB_CANCELLED, &err);
		}
		n++;
		bool made = make_output(&bytes, mesh, (enum job_output)i, &err);
		bool written = made && buffer_write(&bytes, task->fds[n], extension, &err);
		result->sizes[i] = bytes.size;
		buffer_finish(&bytes);
		if (!written)
			return fail(task, made ? JOB_STORAGE : JOB_FAILED, &err);
	}
	return true;
}

/* The device's part of a job, from picture to surface. False: it has been answered. */
static bool compute(struct trellis *t, struct task *task)
{
	struct error err;
	struct trellis_image image;
	struct trellis_latent latent;
	struct trellis_params params = params_of(&task->job.options);
	if (!read_picture(task, &image, &err))
		return fail(task, JOB_FAILED, &err);
	bool ok = trellis_generate(t, &image, 1, &params, tell_progress, task, &latent, &err);
	trellis_image_finish(&image);
	if (!ok)
		return fail_computing(task, &err);
	MESSAGE_STRING(task->cutout, latent.cutout);
	ok = trellis_decode_surface(t, &latent, &params, tell_progress, task, &task->surface, &err);
	trellis_latent_finish(&latent);
	return ok || fail_computing(task, &err);
}

/* The CPU's part, from surface to files. task->answer is set in every case. */
static void finish(struct task *task)
{
	struct error err = {"cancelled"};
	struct trellis_mesh mesh;
	struct trellis_params params = params_of(&task->job.options);
	struct message answer = {.type = MESSAGE_RESULT, .result.id = task->job.id};
	bool ok = !atomic_load(&task->cancel) && trellis_surface_mesh(task->surface, &params, &mesh, &err);
	trellis_surface_destroy(task->surface);
	task->surface = NULL;
	if (!ok) {
		fail_computing(task, &err);
		return;
	}
	answer.result.vertices = (uint64_t)mesh.n_vertices;
	answer.result.faces = (uint64_t)mesh.n_faces;
	MESSAGE_STRING(answer.result.cutout, task->cutout);
	ok = write_outputs(task, &mesh, &answer.result);
	trellis_mesh_finish(&mesh);
	answer.result.seconds = now_s() - task->started_s;
	if (ok)
		task->answer = answer;
}

/* Give a job's descriptors back and its answer. A running job's place is free before its answer is out, because another job may
 * come at once; a finished one's afterwards, because the next FREE must not overtake it. */
static void conclude(struct worker *w, struct task *task)
{
	struct message answer = task->answer;
	for (int i = 0; i < message_fds(&(struct message){.type = MESSAGE_JOB, .job = task->job}); i++)
		close(task->fds[i]);
	malloc_trim(0);
	if (task == &w->finishing)
		tell(&answer);
	pthread_mutex_lock(&w->lock);
	task->job.id = 0;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	if (task == &w->running)
		tell(&answer);
}

static bool tell_loading(const struct trellis_progress *progress, void *user)
{
	tell_status(user, MODEL_LOADING, progress->step, "");
	return true;
}

/* All that this process reads by name, after which it can read no more of it. NULL: err. */
static struct model *open_files(struct worker *w, struct error *err)
{
	if (!w->options.device || strcmp(w->options.device, "cpu") != 0)
		device_load_plugin();
	struct model *model = model_open(w->options.model, err);
	struct error refused;
	if (!sandbox_settle(&w->sandbox, &refused)) {
		model_close(model);
		*err = refused;
		return NULL;
	}
	sandbox_describe(&w->sandbox, w->confined, sizeof w->confined);
	return model;
}

/* The model on the device, as far as it stays there; NULL when it can't be had, which has been told. */
static struct trellis *load(struct worker *w)
{
	struct error err;
	tell_status(w, MODEL_LOADING, -1, "");
	struct trellis *t = trellis_create_on(open_files(w, &err), &w->options, &err);
	w->trellis = t;
	if (t && trellis_load(t, tell_loading, w, &err)) {
		tell_status(w, MODEL_READY, -1, "");
		return t;
	}
	tell_status(w, MODEL_FAILED, -1, err.text);
	return NULL;
}

static bool device_failed(const struct task *task)
{
	return task->answer.type == MESSAGE_FAILURE && task->answer.failure.kind == JOB_DEVICE;
}

static bool a_job_has_come(const struct worker *w)
{
	return w->running.job.id != 0;
}

static bool none_is_finishing(const struct worker *w)
{
	return w->finishing.job.id == 0;
}

static bool may_hand_over(const struct worker *w)
{
	return none_is_finishing(w) || atomic_load(&w->running.cancel);
}

/* On the device thread: wait for this, and judge what the finisher could not do meanwhile. False: the device failed. */
static bool wait_until(struct worker *w, struct trellis *t, bool (*is_so)(const struct worker *w))
{
	for (;;) {
		pthread_mutex_lock(&w->lock);
		while (!w->to_judge && !is_so(w))
			pthread_cond_wait(&w->changed, &w->lock);
		bool to_judge = w->to_judge;
		w->to_judge = false;
		pthread_mutex_unlock(&w->lock);
		if (!to_judge)
			return true;
		judge(t, &w->finishing);
		bool failed = device_failed(&w->finishing);
		conclude(w, &w->finishing);
		if (failed)
			return false;
	}
}

/* What the CPU does of the running job is the finisher's from now on. */
static void hand_over(struct worker *w)
{
	struct task *from = &w->running, *to = &w->finishing;
	struct message m = {.type = MESSAGE_FREE, .free.id = from->job.id};
	pthread_mutex_lock(&w->lock);
	to->job = from->job;
	memcpy(to->fds, from->fds, sizeof to->fds);
	atomic_store(&to->cancel, atomic_load(&from->cancel));
	to->started_s = from->started_s;
	to->surface = from->surface;
	memcpy(to->cutout, from->cutout, sizeof to->cutout);
	to->doubtful = false;
	from->surface = NULL;
	from->job.id = 0;
	pthread_mutex_unlock(&w->lock);
	tell(&m); /* before anything else about it */
	pthread_mutex_lock(&w->lock);
	w->to_finish = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

static void *run_finisher(void *user)
{
	struct worker *w = user;
	for (;;) {
		pthread_mutex_lock(&w->lock);
		while (!w->to_finish)
			pthread_cond_wait(&w->changed, &w->lock);
		w->to_finish = false;
		pthread_mutex_unlock(&w->lock);
		finish(&w->finishing);
		if (!w->finishing.doubtful) {
			conclude(w, &w->finishing);
			continue;
		}
		pthread_mutex_lock(&w->lock);
		w->to_judge = true;
		pthread_cond_broadcast(&w->changed);
		pthread_mutex_unlock(&w->lock);
	}
	return NULL;
}

/* One job; false: the device failed. */
static bool run_job(struct worker *w, struct trellis *t)
{
	struct task *task = &w->running;
	bool computed = compute(t, task), on_gpu = trellis_device(t)->ordinal >= 0;
	if (computed && on_gpu) {
		if (!wait_until(w, t, may_hand_over))
			return false;
		if (!atomic_load(&task->cancel)) {
			hand_over(w);
			return true;
		}
	}
	if (computed)
		finish(task); /* the device is the CPU, which is not free before; or it is cancelled */
	judge(t, task);
	bool failed = device_failed(task);
	if (failed && !wait_until(w, t, none_is_finishing))
		return false;
	conclude(w, task);
	return !failed;
}

static void *run_device(void *user)
{
	struct worker *w = user;
	pthread_t finisher;
	struct trellis *t = load(w);
	if (t && trellis_device(t)->ordinal >= 0) {
		int failed = pthread_create(&finisher, NULL, run_finisher, w);
		if (failed) {
			tell_status(w, MODEL_FAILED, -1, "starting a thread failed");
			t = NULL;
		}
	}
	while (t && wait_until(w, t, a_job_has_come) && run_job(w, t))
		;
	shutdown(PROTOCOL_FD, SHUT_RDWR); /* what was sent arrives; the main thread ends the process */
	return NULL;
}

/* One running job at a time: a second one is a fault of the daemon. */
static bool accept_job(struct worker *w, const struct message_job *job, const int *fds, int n_fds)
{
	struct task *task = &w->running;
	pthread_mutex_lock(&w->lock);
	bool free = task->job.id == 0;
	if (free) {
		task->job = *job;
		memcpy(task->fds, fds, sizeof *fds * (size_t)n_fds);
		atomic_store(&task->cancel, false);
		task->started_s = now_s();
		task->doubtful = false;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return free;
}

static void cancel_job(struct worker *w, uint64_t id)
{
	struct task *tasks[] = {&w->running, &w->finishing};
	pthread_mutex_lock(&w->lock);
	for (int i = 0; i < 2; i++)
		if (tasks[i]->job.id == id) /* else it has just ended */
			atomic_store(&tasks[i]->cancel, true);
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

/* Read the socket until the daemon is gone (true) or says something wrong. */
static bool serve(struct worker *w, struct error *err)
{
	for (;;) {
		struct message message;
		int fds[PROTOCOL_MAX_FDS];
		switch (message_receive(PROTOCOL_FD, &message, fds, err)) {
		case MESSAGE_OK:
			break;
		case MESSAGE_END:
			return true;
		case MESSAGE_NONE: /* not of a blocking socket */
		case MESSAGE_BAD:
		case MESSAGE_BAD_VERSION:
			return false;
		}
		if (message.type == MESSAGE_CANCEL)
			cancel_job(w, message.cancel.id);
		else if (message.type != MESSAGE_JOB || !accept_job(w, &message.job, fds, message_fds(&message)))
			return error_set(err, "the daemon sent what a worker can't take now");
	}
}

static bool have_socket(void)
{
	int type = 0;
	socklen_t size = sizeof type;
	return getsockopt(PROTOCOL_FD, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static int run_worker(const char *argv0, const struct trellis_options *options, const struct sandbox *sandbox)
{
	struct worker w = {.options = *options,
		.sandbox = *sandbox,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER};
	struct message hello = {.type = MESSAGE_HELLO};
	struct error err;
	pthread_t device;
	sandbox_limit();
	MESSAGE_STRING(hello.hello.version, TRELLISFS_VERSION);
	tell(&hello);
	if (!sandbox_enter(&w.sandbox, options->model, &err)) {
		tell_status(&w, MODEL_FAILED, -1, err.text);
		return cli_fail(argv0, &err);
	}
	int failed = pthread_create(&device, NULL, run_device, &w);
	if (failed) {
		error_set(&err, "starting a thread: %s", strerror(failed));
		return cli_fail(argv0, &err);
	}
	pthread_detach(device);
	bool ok = sandbox_settle(&w.sandbox, &err) && serve(&w, &err);
	if (!ok)
		cli_fail(argv0, &err);
	_exit(ok ? 0 : 1);
}

enum { OPT_DTYPE = 256, OPT_MEMORY, OPT_HANG, OPT_SANDBOX };

int command_worker(int argc, char **argv)
{
	static const struct option long_options[] = {{"model", required_argument, NULL, 'm'},
		{"device", required_argument, NULL, 'd'}, {"dtype", required_argument, NULL, OPT_DTYPE},
		{"memory", required_argument, NULL, OPT_MEMORY}, {"hang", required_argument, NULL, OPT_HANG},
		{"threads", required_argument, NULL, 't'}, {"sandbox", optional_argument, NULL, OPT_SANDBOX},
		{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	struct trellis_options options = {0};
	struct sandbox sandbox = {0};
	int option, hang_s;
	while ((option = getopt_long(argc, argv, "m:d:t:h", long_options, NULL)) != -1) {
		switch (option) {
		case 'm':
			options.model = optarg;
			break;
		case 'd':
			options.device = optarg;
			break;
		case 't':
			if (!cli_number(&options.threads, optarg, 0, 4096))
				return cli_usage(argv[0], "--threads %s is not a number from 0 to 4096", optarg);
			break;
		case OPT_DTYPE:
			options.dtype = optarg;
			break;
		case OPT_MEMORY:
			options.low_memory = !strcmp(optarg, "low");
			if (!options.low_memory && strcmp(optarg, "auto") != 0)
				return cli_usage(argv[0], "--memory %s is neither auto nor low", optarg);
			break;
		case OPT_HANG:
			if (!cli_number(&hang_s, optarg, 0, 1000000))
				return cli_usage(argv[0], "--hang %s is not a number from 0 to 1000000", optarg);
			/* Half of it, at most the two minutes that the engine waits by itself. */
			options.probe_s = hang_s == 0 || hang_s > 240 ? 0 : (hang_s + 1) / 2;
			break;
		case OPT_SANDBOX:
			sandbox.on = true;
			if (optarg && !sandbox_parse_user(&sandbox, optarg))
				return cli_usage(argv[0], "--sandbox=%s is not UID:GID", optarg);
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind != argc)
		return cli_usage(argv[0], "\"%s\" is one argument too many", argv[optind]);
	if (!have_socket())
		return cli_usage(argv[0], "it is started by trellisfs");
	return run_worker(argv[0], &options, &sandbox);
}
