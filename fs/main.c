/* main.c - the program `trellisfs`: options and checks, then the daemon, which tells the shell when the mount answers.
 */
#include "check.h"
#include "fs.h"
#include "helper.h"
#include "mount.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* Tells the waiting shell once; in the foreground there is none (fd -1). */
struct teller {
	int fd;
	bool told, failed;
};

static void tell(struct teller *teller, const char *text)
{
	if (teller->fd < 0 || teller->told)
		return;
	teller->told = true;
	(void)!write(teller->fd, text, strlen(text));
	close(teller->fd);
}

/* The mount answers: let go of the terminal. From the scheduler thread. */
static void ready(void *user, const struct error *failure)
{
	struct teller *teller = user;
	if (failure) {
		fs_log("%s", failure->text);
		teller->failed = true;
		kill(getpid(), SIGTERM); /* ends the loop in the main thread */
		return;
	}
	if (teller->fd < 0)
		return;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	tell(teller, "ok");
}

static bool is_inside(const char *path, const char *folder)
{
	size_t len = strlen(folder);
	return strncmp(path, folder, len) == 0 && (path[len] == '/' || !path[len] || len == 1);
}

/* A path becomes absolute and must look like a model; anything else is a hub id, which the worker resolves. */
static bool resolve_model(struct options *o, struct error *err)
{
	char path[PATH_MAX + 32], resolved[PATH_MAX];
	struct stat st;
	if (!o->model)
		return true;
	if (stat(o->model, &st) != 0) {
		bool is_path = o->model[0] == '/' || o->model[0] == '.' || o->model[0] == '~';
		return !is_path || error_set(err, "option model: %s: %s", o->model, strerror(errno));
	}
	if (!S_ISDIR(st.st_mode) || !realpath(o->model, resolved))
		return error_set(err, "option model: %s is not a directory", o->model);
	if (is_inside(resolved, o->mountpoint))
		return error_set(err, "option model: %s lies inside the mountpoint", o->model);
	snprintf(path, sizeof path, "%s/pipeline.json", resolved);
	if (access(path, F_OK) != 0 && !mount_is_empty(resolved, NULL)) /* an empty one may be copied in later */
		return error_set(err, "option model: %s is not a model directory: it has no pipeline.json", o->model);
	free(o->model);
	o->model = strdup(resolved);
	return o->model || error_set(err, "out of memory");
}

static bool resolve_mountpoint(struct options *o, struct error *err)
{
	char resolved[PATH_MAX];
	char *path = mount_absolute_path(o->mountpoint, err);
	if (!path)
		return false;
	free(o->mountpoint);
	o->mountpoint = path;
	if (!mount_prepare(path, err))
		return false;
	if (!realpath(path, resolved)) /* it may be a symlink itself */
		return error_set(err, "%s: %s", path, strerror(errno));
	o->mountpoint = strdup(resolved);
	free(path);
	return o->mountpoint || error_set(err, "out of memory");
}

/* The state directory's folders need not exist yet; symlinks above it are resolved, itself must not be one. */
static bool resolve_state(struct options *o, struct error *err)
{
	char *path = o->state ? strdup(o->state) : state_default_path(o->mountpoint);
	if (!path)
		return error_set(err, "no home folder is known: give a state directory with -o state=DIR");
	char *absolute = path[0] == '/' ? strdup(path) : mount_absolute_path(path, err);
	char *resolved = absolute ? mount_absolute_path(absolute, NULL) : NULL;
	free(path);
	free(o->state);
	o->state = resolved ? resolved : absolute;
	if (resolved)
		free(absolute);
	if (!o->state)
		return false;
	return !is_inside(o->state, o->mountpoint) ||
	       error_set(err, "option state: %s lies inside the mountpoint", o->state);
}

/* The program `trellis`: beside this one, as built and as installed. */
static bool resolve_worker(struct options *o, struct error *err)
{
	char path[PATH_MAX + 16];
	if (!o->worker) {
		ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
		path[n > 0 ? n : 0] = '\0';
		char *slash = strrchr(path, '/');
		strcpy(slash ? slash + 1 : path, "trellis");
		o->worker = strdup(path);
	} else {
		char *absolute = realpath(o->worker, NULL);
		if (absolute) {
			free(o->worker);
			o->worker = absolute;
		}
	}
	if (!o->worker)
		return error_set(err, "out of memory");
	return access(o->worker, X_OK) == 0 || error_set(err, "option worker: %s: %s", o->worker, strerror(errno));
}

/* NAME or UID to its ids, "" when it is us anyway. */
static bool find_user(struct options *o, const char *name, struct error *err)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	bool is_number = name[0] >= '0' && name[0] <= '9' && !*end && number < UINT32_MAX;
	const struct passwd *entry = is_number ? getpwuid((uid_t)number) : getpwnam(name);
	if (!entry && !is_number)
		return error_set(err, "option worker_user: there is no user '%s'", name);
	unsigned uid = entry ? entry->pw_uid : (unsigned)number, gid = entry ? entry->pw_gid : uid;
	if (geteuid() != 0 && uid != geteuid())
		return error_set(err, "option worker_user: only root can mount for another user's worker");
	if (geteuid() == 0)
		snprintf(o->worker_ids, sizeof o->worker_ids, "%u:%u", uid, gid);
	return true;
}

static bool resolve_user(struct options *o, struct error *err)
{
	bool off = o->sandbox && strcmp(o->sandbox, "off") == 0;
	if (o->worker_user)
		return off ? error_set(err, "option worker_user: the worker stays who it is with sandbox=off")
			   : find_user(o, o->worker_user, err);
	if (off || geteuid() != 0)
		return true;
	return find_user(o, "_trellisfs", err) || find_user(o, "nobody", err) || find_user(o, "65534", err);
}

static void raise_limits(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Buffers of requests, a megabyte each, go back to the system with their thread; small pieces of many threads share one
 * place. Otherwise a daemon grows for days. */
static void keep_memory_small(void)
{
	mallopt(M_MMAP_THRESHOLD, 256 << 10);
	mallopt(M_ARENA_MAX, 1);
}

static int serve(struct options *options, struct teller *teller)
{
	struct error err = {""};
	struct fs fs;
	log_open("trellisfs", teller->fd < 0);
	raise_limits();
	keep_memory_small();
	if (!log_start(&err)) /* then a log that nobody reads holds us up */
		fs_log("%s", err.text);
	err.text[0] = '\0';
	bool ok = fs_init(&fs, options, options->state, &err);
	if (ok && chdir("/") != 0)
		ok = error_set(&err, "/: %s", strerror(errno));
	ok = ok && mount_run(&fs, ready, teller, &err) && !teller->failed;
	fs_finish(&fs);
	if (!ok) {
		if (!err.text[0])
			error_set(&err, "%s: the mount did not answer", options->mountpoint);
		if (teller->fd < 0)
			fprintf(stderr, "trellisfs: %s\n", err.text);
		tell(teller, err.text);
	}
	log_stop();
	return ok ? 0 : 1;
}

/* Wait for the daemon's word: "ok", or what went wrong. */
static int wait_for_daemon(int fd)
{
	char text[1024];
	size_t len = 0;
	ssize_t n;
	while (len < sizeof text - 1 && (n = read(fd, text + len, sizeof text - 1 - len)) != 0) {
		if (n > 0)
			len += n;
		else if (errno != EINTR)
			break;
	}
	text[len] = '\0';
	if (strcmp(text, "ok") == 0)
		return 0;
	fprintf(stderr, "trellisfs: %s\n", len ? text : "the daemon ended unexpectedly");
	return 1;
}

/* Whoever waits for the end of a pipe that the shell had open is not to wait for the mount's. */
static void close_inherited(int kept)
{
	if (kept > 3)
		close_range(3, (unsigned)kept - 1, 0);
	close_range((unsigned)kept + 1, ~0u, 0);
}

static int serve_in_background(struct options *options)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0) {
		fprintf(stderr, "trellisfs: cannot make a pipe: %s\n", strerror(errno));
		return 1;
	}
	pid_t pid = fork();
	if (pid < 0) {
		fprintf(stderr, "trellisfs: cannot fork: %s\n", strerror(errno));
		return 1;
	}
	if (pid > 0) {
		close(ends[1]);
		int status = wait_for_daemon(ends[0]);
		close(ends[0]);
		return status;
	}
	close_inherited(ends[1]);
	setsid();
	struct teller teller = {.fd = ends[1]};
	return serve(options, &teller);
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = {""};
	int status = 1;
	if (argc == 3 && strcmp(argv[1], HELPER_ARGUMENT) == 0)
		return helper_main(argv[2]);
	if (argc >= 2 && strcmp(argv[1], CHECK_ARGUMENT) == 0)
		return check_main(argc - 2, argv + 2);
	if (!options_parse(&options, argc, argv, &err)) {
		fprintf(stderr, "trellisfs: %s\n", err.text);
		options_finish(&options);
		return 2;
	}
	if (options.help || options.version) {
		options.help ? options_print_help() : (void)printf("trellisfs %s\n", TRELLISFS_VERSION);
		options_finish(&options);
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!resolve_mountpoint(&options, &err) || !resolve_state(&options, &err) || !resolve_model(&options, &err) ||
		!resolve_worker(&options, &err) || !resolve_user(&options, &err)) {
		fprintf(stderr, "trellisfs: %s\n", err.text);
	} else if (options.foreground) {
		struct teller teller = {.fd = -1};
		status = serve(&options, &teller);
	} else {
		status = serve_in_background(&options);
	}
	options_finish(&options);
	return status;
}
