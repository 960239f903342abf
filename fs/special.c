/* special.c - status, status.json, config, README. See special.h. */
#include "special.h"

#include "config.h"
#include "follow.h"
#include "ingest.h"
#include "names.h"
#include "record.h"
#include "scheduler.h"
#include "status_text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* How old a snapshot may be that is opened, so that a storm of readers costs little; and that a stat tells the size of while it
 * is held open: the kernel does not say through which handle a reader asks for the size of what he reads. */
enum { OPENED_MS = 50, HELD_MS = 1000 };
enum { NAME_ROOM = PATH_MAX + 8, CONFIG_WRITE_MAX = 65536 };

static const char README[] =
	"This folder makes 3D models out of pictures.\n"
	"\n"
	"  in/          put pictures here (PNG, JPEG), also in folders: cp chair.png in/\n"
	"  out/         the models appear here, complete: out/chair.glb, out/chair.preview.png\n"
	"               or out/chair.error.txt, which says why there is none\n"
	"  status       what is going on: cat status, watch cat status\n"
	"  status.json  the same for programs\n"
	"  config       options of the jobs to come: cat config; echo 'seed = 7' > config\n"
	"  lost/        only after damage: files whose place is not known any more\n"
	"\n"
	"To wait for a result: trellis wait in/chair.png\n"
	"Options for one picture, before it is copied or with a new submission:\n"
	"  setfattr -n user.trellis.seed -v 7 in/chair.png\n"
	"  setfattr -n user.trellis.submit -v 1 in/chair.png\n"
	"What became of it: getfattr -n user.trellis.state in/chair.png (also .progress, .error, .outputs)\n"
	"\n"
	"A result is replaced when its picture is written again, and renamed when its picture or a folder of it is.\n"
	"Deleting a picture cancels its job and keeps its models. What you delete or rename in out/ is not made "
	"again\nuntil its picture is written or submitted again.\n"
	"Hidden files and folders, and those of a trash, a backup or a transfer, are kept and ignored.\n";

/* One immutable text, shared by the handles that opened it. */
struct snapshot {
	int refs; /* fs->lock */
	size_t len;
	char *data;
};

struct special {
	uint64_t id;
	struct snapshot *snapshot; /* status, status.json */
	struct bytes text;	   /* config: this handle's own; fs->lock */
	bool writer;
	bool written, refused; /* fs->lock */
	void *waiter;	       /* fs->lock */
	struct special *next;  /* fs->lock: those that wait */
	uint64_t version;      /* of the state when it was opened */
};

struct special_files {
	void (*notify)(void *waiter);
	void (*drop)(void *waiter);
	struct snapshot *current[2]; /* fs->lock: of status and status.json */
	int64_t made_ns;	     /* fs->lock */
	pthread_mutex_t notifying;   /* goes before fs->lock; held while waiters are notified, never by a FUSE thread */
	bool silent;		     /* notifying */
	uint64_t version;	     /* fs->lock: counts special_wake */
	struct special *waiting;     /* fs->lock */
	char notice[512];	     /* fs->lock: what was wrong with the last config */
};

static void unref(struct snapshot *snapshot)
{
	if (snapshot && --snapshot->refs == 0) {
		free(snapshot->data);
		free(snapshot);
	}
}

static struct snapshot *wrap(char *data, size_t len)
{
	struct snapshot *snapshot = data ? malloc(sizeof *snapshot) : NULL;
	if (!snapshot) {
		free(data);
		return NULL;
	}
	*snapshot = (struct snapshot){.refs = 1, .len = len, .data = data};
	return snapshot;
}

static void fill_problems(
	const struct scheduler_report *report, struct status_snapshot *s, struct status_problem *problems)
{
	for (int i = 0; i < report->n_problems; i++)
		problems[i] = (struct status_problem){.name = report->problems[i].name,
			.text = report->problems[i].text,
			.when = report->problems[i].when};
	s->problems = problems;
	s->n_problems = report->n_problems;
}

/* The workers that there are, and their jobs. */
static void fill_workers(struct fs *fs, const struct scheduler_report *report, struct status_snapshot *s,
	struct status_worker *workers, struct status_job *jobs, char names[][NAME_ROOM])
{
	for (int i = 0; i < report->n_workers; i++) {
		const struct scheduler_worker *w = &report->workers[i];
		if (w->stands_by && w->worker.state == WORKER_STOPPED)
			continue;
		struct status_worker *worker = &workers[s->n_workers++];
		*worker = (struct status_worker){.report = &w->worker, .running = ""};
		for (int k = 1; k >= 0; k--) { /* the older one first */
			const struct scheduler_job *job = &w->jobs[k];
			const struct tree_node *node = job->input ? tree_find(&fs->tree, job->input) : NULL;
			char *name = names[s->n_jobs];
			if (!node || !node->parent)
				continue;
			memcpy(name, "in/", 3);
			jobs_show_name(node, name + 3, NAME_ROOM - 3);
			worker->running = name;
			jobs[s->n_jobs++] = (struct status_job){.name = name,
				.device = w->worker.status.device,
				.stage = job->progress.stage,
				.step = job->progress.step,
				.steps = job->progress.steps,
				.fraction = job->progress.fraction,
				.eta_s = job->progress.eta_s,
				.running_s = job->running_s};
		}
	}
	s->jobs = jobs;
}

/* Pictures whose outcome needs no worker and is not published to its last file. */
static long count_publishing(const struct fs *fs, const struct scheduler_report *report)
{
	const struct input *now = report->publishing ? jobs_find(&fs->jobs, report->publishing) : NULL;
	return fs->jobs.outcomes.n + (now && !now->unpublished) + follow_waiting(fs);
}

/* Make both texts from one look at the state. state_free: asked for before the lock was taken, since a disk may be slow. */
static void make_snapshots(struct fs *fs, uint64_t state_free)
{
	struct special_files *special = fs->special;
	struct scheduler_report report;
	struct status_problem problems[sizeof report.problems / sizeof *report.problems];
	struct status_job jobs[2 * WORKERS_MAX];
	struct status_worker workers[WORKERS_MAX];
	char names[2 * WORKERS_MAX][NAME_ROOM], notice[1100];
	scheduler_report(fs, &report);
	snprintf(notice, sizeof notice, "%s%s%s", special->notice, special->notice[0] && report.notice[0] ? "; " : "",
		report.notice);
	struct status_snapshot s = {.version = TRELLISFS_VERSION,
		.mountpoint = fs->options->mountpoint,
		.uptime_s = (fs_monotonic_ns() - fs->start_ns) / 1e9,
		.workers = workers,
		.model_path = fs->options->model,
		.queued = fs->jobs.queue.n,
		.settling = ingest_waiting(fs),
		.publishing = count_publishing(fs, &report),
		.last_cutout = report.cutout,
		.last_s = report.last_s,
		.done = fs->jobs.n_done,
		.failed = fs->jobs.n_failed,
		.state_dir = fs->state.path,
		.state_free = state_free,
		.state_used = (uint64_t)fs_used(fs),
		.recovery = fs->recovery,
		.state_max = fs->options->max_bytes,
		.notice = notice};
	fill_workers(fs, &report, &s, workers, jobs, names);
	fill_problems(&report, &s, problems);
	char *(*const render[2])(const struct status_snapshot *, size_t *) = {status_text, status_json};
	for (int i = 0; i < 2; i++) {
		size_t len = 0;
		char *data = render[i](&s, &len);
		struct snapshot *made = wrap(data, len);
		if (!made)
			continue; /* out of memory: the old one is better than none */
		unref(special->current[i]);
		special->current[i] = made;
		tree_find(&fs->tree, TREE_STATUS + i)->size = made->len;
	}
	special->made_ns = fs_monotonic_ns();
}

static void refresh(struct fs *fs, int max_age_ms, uint64_t state_free)
{
	struct special_files *special = fs->special;
	if (!special->made_ns || fs_monotonic_ns() - special->made_ns >= max_age_ms * INT64_C(1000000))
		make_snapshots(fs, state_free);
}

static bool is_held(const struct special_files *special)
{
	for (int i = 0; i < 2; i++)
		if (special->current[i] && special->current[i]->refs > 1)
			return true;
	return false;
}

static bool is_status(uint64_t id)
{
	return id == TREE_STATUS || id == TREE_STATUS_JSON;
}

static size_t render_config(struct fs *fs, char *text)
{
	size_t len = config_render(&fs->config, text, CONFIG_TEXT_MAX);
	tree_find(&fs->tree, TREE_CONFIG)->size = len;
	return len;
}

bool special_start(struct fs *fs, void (*notify)(void *waiter), void (*drop)(void *waiter), struct error *err)
{
	char text[CONFIG_TEXT_MAX];
	struct special_files *special = calloc(1, sizeof *special);
	if (!special)
		return error_set(err, "out of memory");
	special->notify = notify;
	special->drop = drop;
	pthread_mutex_init(&special->notifying, NULL);
	pthread_mutex_lock(&fs->lock);
	fs->special = special;
	tree_find(&fs->tree, TREE_README)->size = sizeof README - 1;
	render_config(fs, text);
	pthread_mutex_unlock(&fs->lock);
	return true;
}

void special_silence(struct fs *fs)
{
	if (!fs->special)
		return;
	pthread_mutex_lock(&fs->special->notifying); /* none is on its way any more, and none follows */
	fs->special->silent = true;
	pthread_mutex_unlock(&fs->special->notifying);
}

void special_stop(struct fs *fs)
{
	struct special_files *special = fs->special;
	if (!special)
		return;
	fs->special = NULL;
	unref(special->current[0]);
	unref(special->current[1]);
	pthread_mutex_destroy(&special->notifying);
	free(special);
}

int special_open(struct fs *fs, uint64_t id, int flags, struct special **out)
{
	bool writer = (flags & O_ACCMODE) != O_RDONLY;
	if (writer && id != TREE_CONFIG)
		return EACCES;
	struct special *file = calloc(1, sizeof *file);
	if (!file)
		return ENOMEM;
	file->id = id;
	file->writer = writer;
	uint64_t state_free = is_status(id) ? state_free_bytes(&fs->state) : 0;
	pthread_mutex_lock(&fs->lock);
	if (is_status(id)) {
		refresh(fs, OPENED_MS, state_free);
		file->snapshot = fs->special->current[id - TREE_STATUS];
		if (file->snapshot)
			file->snapshot->refs++;
	} else if (id == TREE_README) {
		bytes_put(&file->text, README, sizeof README - 1);
	} else if (!(flags & O_TRUNC)) {
		char text[CONFIG_TEXT_MAX];
		size_t len = render_config(fs, text);
		bytes_put(&file->text, text, len);
	}
	file->version = fs->special->version;
	pthread_mutex_unlock(&fs->lock);
	*out = file;
	return 0;
}

size_t special_read(struct fs *fs, struct special *file, void *data, size_t size, off_t at)
{
	pthread_mutex_lock(&fs->lock);
	const char *text = file->snapshot ? file->snapshot->data : (const char *)file->text.data;
	size_t len = file->snapshot ? file->snapshot->len : file->text.len;
	size_t n = at < 0 || (size_t)at >= len ? 0 : len - at < size ? len - at : size;
	if (n)
		memcpy(data, text + at, n);
	pthread_mutex_unlock(&fs->lock);
	return n;
}

static void set_notice(struct special_files *special, const char *why)
{
	snprintf(special->notice, sizeof special->notice, "%s%.490s", why[0] ? "config refused: " : "", why);
	special->made_ns = 0;
}

/* A line that does not hold makes the whole text one that does not, whatever follows: the writer hears of it at once, because
 * a shell tells of a failed write and not of a failed close. Nothing of the text counts until it is cut to nothing. */
static bool check_lines(struct fs *fs, struct special *file)
{
	const char *text = (const char *)file->text.data, *end = memrchr(text, '\n', file->text.len);
	struct job_options scratch = config_defaults();
	struct error err;
	if (!end || config_parse(&scratch, text, end - text, &err))
		return true;
	file->refused = true;
	set_notice(fs->special, err.text);
	return false;
}

/* Needs fs->lock. */
static ssize_t write_text(struct fs *fs, struct special *file, const void *data, size_t size, off_t at)
{
	size_t old = file->text.len;
	if (old < at + size) {
		if (!bytes_extend(&file->text, at + size - old))
			return -ENOMEM;
		memset(file->text.data + old, ' ', file->text.len - old);
	}
	memcpy(file->text.data + at, data, size);
	file->written = true;
	bool appends = (size_t)at == old; /* what is written over may be written over again: FLUSH judges that */
	return file->refused || (appends && memchr(data, '\n', size) && !check_lines(fs, file)) ? -EINVAL
												: (ssize_t)size;
}

ssize_t special_write(struct fs *fs, struct special *file, const void *data, size_t size, off_t at)
{
	if (!file->writer)
		return -EBADF;
	if (at < 0 || at + size > CONFIG_WRITE_MAX)
		return -EFBIG;
	pthread_mutex_lock(&fs->lock);
	ssize_t n = write_text(fs, file, data, size, at);
	pthread_mutex_unlock(&fs->lock);
	if (n < 0)
		scheduler_wake(fs); /* status says what is wrong with it */
	return n;
}

int special_truncate(struct fs *fs, struct special *file, off_t size)
{
	if (!file)
		return 0; /* `> config` alone: says nothing, changes nothing */
	if (!file->writer || size < 0 || size > CONFIG_WRITE_MAX)
		return EINVAL;
	pthread_mutex_lock(&fs->lock);
	if ((size_t)size < file->text.len)
		file->text.len = size;
	if (size == 0)
		file->refused = false;
	pthread_mutex_unlock(&fs->lock);
	return 0;
}

/* Needs fs->lock. */
static int take_config(struct fs *fs, struct special *file)
{
	struct error err = {""};
	char text[CONFIG_TEXT_MAX];
	struct job_options config = fs->config;
	file->written = false;
	int error = config_parse(&config, (const char *)file->text.data, file->text.len, &err) ? 0 : EINVAL;
	if (!error) {
		record_config(fs_change(fs), &config);
		error = fs_commit(fs, false);
		if (!error)
			fs->config = config;
		render_config(fs, text);
	}
	set_notice(fs->special, !error ? "" : err.text[0] ? err.text : strerror(error));
	return error;
}

/* The text is complete: it holds as a whole, or not at all. */
int special_flush(struct fs *fs, struct special *file)
{
	pthread_mutex_lock(&fs->lock);
	bool taken = file->written && !file->refused;
	int error = taken ? take_config(fs, file) : file->written ? EINVAL : 0;
	pthread_mutex_unlock(&fs->lock);
	if (taken)
		scheduler_wake(fs);
	return error;
}

void special_release(struct fs *fs, struct special *file)
{
	special_flush(fs, file); /* an NFS server sends no FLUSH */
	pthread_mutex_lock(&fs->lock);
	for (struct special **at = &fs->special->waiting; *at; at = &(*at)->next) {
		if (*at == file) {
			*at = file->next;
			break;
		}
	}
	void *waiter = file->waiter;
	unref(file->snapshot);
	pthread_mutex_unlock(&fs->lock);
	if (waiter)
		fs->special->drop(waiter);
	bytes_finish(&file->text);
	free(file);
}

int special_getattr(struct fs *fs, uint64_t id, const struct special *file, struct stat *st)
{
	uint64_t state_free = is_status(id) ? state_free_bytes(&fs->state) : 0;
	pthread_mutex_lock(&fs->lock);
	if (is_status(id))
		refresh(fs, is_held(fs->special) ? HELD_MS : OPENED_MS, state_free);
	const struct tree_node *node = tree_find(&fs->tree, id);
	names_fill_stat(node, st);
	if (file)
		st->st_size = file->snapshot ? file->snapshot->len : file->text.len;
	pthread_mutex_unlock(&fs->lock);
	return 0;
}

void special_poll(struct fs *fs, struct special *file, void *waiter, bool *changed)
{
	pthread_mutex_lock(&fs->lock);
	*changed = file->version != fs->special->version;
	void *old = file->waiter;
	if (waiter && !old) {
		file->next = fs->special->waiting;
		fs->special->waiting = file;
	}
	if (waiter)
		file->waiter = waiter;
	pthread_mutex_unlock(&fs->lock);
	if (waiter && old)
		fs->special->drop(old);
}

/* Take all waiters off; malloc'd. Without memory for it they wait for the next time. Needs fs->lock. */
static void **take_waiters(struct special_files *special, size_t *n)
{
	size_t all = 0;
	*n = 0;
	for (struct special *file = special->waiting; file; file = file->next)
		all++;
	void **waiters = all ? malloc(all * sizeof *waiters) : NULL;
	for (struct special *file; waiters && (file = special->waiting);) {
		waiters[(*n)++] = file->waiter;
		special->waiting = file->next;
		file->waiter = NULL;
	}
	return waiters;
}

/* Notifying writes to the FUSE device. When the mount goes its descriptor goes, and another file may get the number: so
 * special_silence waits for what is on its way. */
void special_wake(struct fs *fs)
{
	struct special_files *special = fs->special;
	size_t n;
	if (!special)
		return;
	pthread_mutex_lock(&special->notifying);
	pthread_mutex_lock(&fs->lock);
	special->version++;
	void **waiters = special->silent ? NULL : take_waiters(special, &n);
	pthread_mutex_unlock(&fs->lock);
	for (size_t i = 0; waiters && i < n; i++) {
		special->notify(waiters[i]);
		special->drop(waiters[i]);
	}
	pthread_mutex_unlock(&special->notifying);
	free(waiters);
}
