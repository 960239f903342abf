/* wait.c - `trellis wait PATH...`: block until pictures that were put into a mount have become meshes or errors.
 * Knows a mount by its layout and by the xattrs user.trellis.state and user.trellis.outputs of its inputs, so it works
 * over a share as well. inotify wakes it where that works; a look every second serves every other filesystem. */
#include "commands.h"
#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_TIMEOUT = 124, LOOK_MS = 1000 };

static const char help[] =
	"usage: trellis wait [--timeout S] PATH...\n"
	"\n"
	"Waits until every PATH has come out, prints the files (one a line) as they come, and ends.\n"
	"PATH is either a result, which need not exist yet:\n"
	"  MOUNT/out/d/chair.glb   until that file or MOUNT/out/d/chair.error.txt is there\n"
	"or a picture in a mount:\n"
	"  MOUNT/in/d/chair.png    until its latest content has become meshes or an error\n"
	"A result that is there already counts, whichever content it came from; name the picture to wait for the "
	"newest.\n"
	"\n"
	"  -t, --timeout S  give up after S seconds\n"
	"  -h, --help       print this text\n"
	"\n"
	"Exit status: 0 every PATH has its result, 1 one ended in an error (its text is on stderr), 2 wrong usage,\n"
	"124 the time is over.\n";

enum outcome { WAITING, CAME, FAILED, HOPELESS };

/* The mount's root for a path inside in/: up to the component "in" that has out/ and status beside it, as a prefix that
 * ends in '/' or is empty. False: not a picture in a mount. */
static bool find_root(const char *path, char root[PATH_MAX])
{
	char beside[PATH_MAX + 8];
	struct stat st;
	for (const char *p = path; (p = strstr(p, "in/")); p += 3) {
		if (p != path && p[-1] != '/')
			continue;
		if (snprintf(root, PATH_MAX, "%.*s", (int)(p - path), path) >= PATH_MAX)
			return false;
		snprintf(beside, sizeof beside, "%sout", root);
		bool out = stat(beside, &st) == 0 && S_ISDIR(st.st_mode);
		snprintf(beside, sizeof beside, "%sstatus", root);
		if (out && stat(beside, &st) == 0 && S_ISREG(st.st_mode))
			return true;
	}
	return false;
}

/* path without the extension of one of our results ("a.gaussian.ply" is "a", not "a.gaussian"). */
static void cut_extension(char *path)
{
	size_t len = strlen(path), longest = 0;
	for (int i = 0; i < JOB_OUTPUTS; i++) {
		const char *extension = job_output_extension((enum job_output)i);
		size_t n = strlen(extension) + 1;
		if (len > n && path[len - n] == '.' && !strcasecmp(path + len - n + 1, extension) && n > longest)
			longest = n;
	}
	path[len - longest] = 0;
}

static bool is_file(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
}

/* An error file's text (or what else went wrong with the path) on stderr: one line. */
static void print_failure(const char *argv0, const char *path, const char *text)
{
	struct error err;
	char read_text[512] = "";
	int fd = text ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd >= 0) {
		ssize_t n = read(fd, read_text, sizeof read_text - 1);
		read_text[n > 0 ? n : 0] = 0;
		read_text[strcspn(read_text, "\n")] = 0;
		close(fd);
		text = read_text;
	}
	error_set(&err, "%s: %s", path, text ? text : strerror(errno));
	cli_fail(argv0, &err);
}

static enum outcome look_at_result(const char *argv0, const char *path)
{
	char error_path[PATH_MAX];
	size_t len = (size_t)snprintf(error_path, sizeof error_path, "%s", path);
	if (len + sizeof ".error.txt" > sizeof error_path)
		return HOPELESS;
	cut_extension(error_path);
	strcat(error_path, ".error.txt");
	/* The error first: beside it lies the mesh of an earlier content. */
	if (is_file(error_path)) {
		puts(error_path);
		print_failure(argv0, error_path, NULL);
		return FAILED;
	}
	if (!is_file(path))
		return WAITING;
	puts(path);
	return CAME;
}

/* xattr as text; false leaves errno. */
static bool get_xattr(const char *path, const char *name, char *value, size_t size)
{
	ssize_t n = getxattr(path, name, value, size - 1);
	value[n > 0 ? n : 0] = 0;
	return n >= 0;
}

static void print_outputs(const char *root, char *outputs)
{
	char *rest;
	for (char *line = strtok_r(outputs, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		printf("%s%s\n", root, line);
}

static enum outcome look_at_picture(const char *argv0, const char *path, const char *root)
{
	char state[32], outputs[8 * PATH_MAX], text[512];
	if (!get_xattr(path, "user.trellis.state", state, sizeof state)) {
		if (errno == ENOENT)
			return WAITING;
		print_failure(argv0, path,
			errno == ENOTSUP || errno == ENODATA
				? "this filesystem doesn't tell a picture's state; name its result in out/"
				: strerror(errno));
		return HOPELESS;
	}
	if (!strcmp(state, "ignored")) {
		print_failure(argv0, path, "not a picture, so nothing will come of it");
		return FAILED;
	}
	bool failed = !strcmp(state, "failed");
	if (!failed && strcmp(state, "done") != 0)
		return WAITING;
	if (get_xattr(path, "user.trellis.outputs", outputs, sizeof outputs))
		print_outputs(root, outputs);
	if (!failed)
		return CAME;
	bool known = get_xattr(path, "user.trellis.error", text, sizeof text);
	print_failure(argv0, path, known ? text : "failed");
	return FAILED;
}

/* A picture so deep that no path from the root can name it is known by its state alone. */
static enum outcome look(const char *argv0, const char *path)
{
	char root[PATH_MAX], state[32];
	if (find_root(path, root))
		return look_at_picture(argv0, path, root);
	bool is_picture = get_xattr(path, "user.trellis.state", state, sizeof state);
	return is_picture ? look_at_picture(argv0, path, "") : look_at_result(argv0, path);
}

/* Watch the folder that path will appear in, or the nearest above it that exists. A failed watch costs nothing: there
 * is a look every second. */
static void watch_folder(int inotify, const char *path)
{
	char folder[PATH_MAX];
	int n = snprintf(folder, sizeof folder, "%s", path);
	while (inotify >= 0 && n < (int)sizeof folder) {
		char *slash = strrchr(folder, '/');
		if (slash == folder)
			folder[1] = 0;
		else if (slash)
			*slash = 0;
		else
			strcpy(folder, ".");
		int watch = inotify_add_watch(inotify, folder, IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR);
		if (watch >= 0 || !slash || slash == folder)
			return;
	}
}

/* For a picture its result's folder: MOUNT/in/d/a.png is told by MOUNT/out/d. */
static void watch(int inotify, const char *path)
{
	char root[PATH_MAX], result[PATH_MAX + 8];
	if (!find_root(path, root)) {
		watch_folder(inotify, path);
		return;
	}
	snprintf(result, sizeof result, "%sout/%s", root, path + strlen(root) + strlen("in/"));
	watch_folder(inotify, result);
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pause_for(int inotify, int64_t ms)
{
	char events[4096];
	struct pollfd p = {.fd = inotify, .events = POLLIN};
	if (ms > LOOK_MS)
		ms = LOOK_MS;
	if (poll(&p, 1, (int)ms) > 0)
		while (read(inotify, events, sizeof events) > 0)
			;
}

/* The path, absolute when only that shows the mount (`cd MOUNT/in; trellis wait a.png`). malloc'd. */
static char *copy_path(const char *path)
{
	char cwd[PATH_MAX], absolute[2 * PATH_MAX], root[PATH_MAX];
	if (path[0] != '/' && !find_root(path, root) && getcwd(cwd, sizeof cwd)) {
		snprintf(absolute, sizeof absolute, "%s/%s", cwd, path);
		if (find_root(absolute, root))
			return strdup(absolute);
	}
	return strdup(path);
}

/* Look at each path that is still there; one that has come out is freed and set to NULL. Returns how many are left. */
static int look_at_all(const char *argv0, char **paths, int n, int *status)
{
	int left = 0;
	for (int i = 0; i < n; i++) {
		enum outcome outcome = paths[i] ? look(argv0, paths[i]) : CAME;
		left += outcome == WAITING;
		if (outcome == HOPELESS || (outcome == FAILED && *status == 0))
			*status = outcome == HOPELESS ? 2 : 1;
		if (outcome != WAITING) {
			free(paths[i]);
			paths[i] = NULL;
		}
	}
	fflush(stdout);
	return left;
}

/* timeout_ms < 0: none. */
static int wait_for(const char *argv0, char **paths, int n, int64_t timeout_ms)
{
	struct error err;
	int left, status = 0, inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int64_t end = now_ms() + timeout_ms;
	for (;;) {
		/* Watch first, then look: what comes in between wakes the pause. */
		for (int i = 0; i < n; i++)
			if (paths[i])
				watch(inotify, paths[i]);
		left = look_at_all(argv0, paths, n, &status);
		int64_t rest = timeout_ms < 0 ? LOOK_MS : end - now_ms();
		if (!left || rest <= 0)
			break;
		pause_for(inotify, rest);
	}
	if (inotify >= 0)
		close(inotify);
	if (!left)
		return status;
	error_set(&err, "the time is over; still waiting for %d of %d", left, n);
	cli_fail(argv0, &err);
	return EXIT_TIMEOUT;
}

static int wait_for_copies(const char *argv0, char **arguments, int n, int64_t timeout_ms)
{
	struct error err;
	int status;
	char **paths = calloc((size_t)n, sizeof *paths);
	bool ok = paths != NULL;
	for (int i = 0; ok && i < n; i++)
		ok = (paths[i] = copy_path(arguments[i])) != NULL;
	if (ok) {
		status = wait_for(argv0, paths, n, timeout_ms);
	} else {
		error_set(&err, "out of memory");
		status = cli_fail(argv0, &err);
	}
	for (int i = 0; paths && i < n; i++)
		free(paths[i]);
	free(paths);
	return status;
}

int command_wait(int argc, char **argv)
{
	static const struct option options[] = {
		{"timeout", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	int64_t timeout_ms = -1;
	int option;
	while ((option = getopt_long(argc, argv, "t:h", options, NULL)) != -1) {
		char *end;
		double seconds;
		switch (option) {
		case 't':
			seconds = strtod(optarg, &end);
			if (end == optarg || *end || !(seconds >= 0 && seconds <= 1e9))
				return cli_usage(argv[0], "--timeout %s is not a number of seconds", optarg);
			timeout_ms = (int64_t)(seconds * 1000);
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind == argc)
		return cli_usage(argv[0], "a path is missing");
	return wait_for_copies(argv[0], argv + optind, argc - optind, timeout_ms);
}
