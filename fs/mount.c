/* mount.c - mountpoint, session, threads, and their end. See mount.h. */
#include "mount.h"

#include "contents.h"
#include "ingest.h"
#include "ops.h"
#include "scheduler.h"
#include "special.h"
#include "sync.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

char *mount_absolute_path(const char *path, struct error *err)
{
	char copy[PATH_MAX], folder[PATH_MAX], *joined = NULL;
	if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
		error_set(err, "%s: the path is too long", path);
		return NULL;
	}
	for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
		copy[len - 1] = '\0';
	char *slash = strrchr(copy, '/'), *name = slash ? slash + 1 : copy;
	bool whole = !name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
	if (slash && slash != copy && !whole)
		*slash = '\0';
	if (!realpath(whole ? copy : !slash ? "." : slash == copy ? "/" : copy, folder))
		error_set(err, "%s: %s", path, strerror(errno));
	else if (asprintf(&joined, "%s%s%s", folder, whole || !folder[1] ? "" : "/", whole ? "" : name) < 0)
		joined = NULL;
	return joined;
}

/* Is the topmost mount at that path one of ours? /proc/self/mountinfo: ... mountpoint options ... - fstype source ...
 */
static bool is_our_mount(const char *mountpoint)
{
	char *line = NULL;
	size_t size = 0;
	bool ours = false;
	FILE *info = fopen("/proc/self/mountinfo", "re");
	while (info && getline(&line, &size, info) > 0) {
		char path[PATH_MAX], type[64];
		const char *dash = strstr(line, " - ");
		if (!dash || sscanf(line, "%*d %*d %*s %*s %4095s", path) != 1 || sscanf(dash, " - %63s", type) != 1)
			continue;
		for (char *in = path, *out = path;; in++, out++) { /* \040 and the like */
			unsigned code;
			if (in[0] == '\\' && sscanf(in + 1, "%3o", &code) == 1) {
				*out = (char)code;
				in += 3;
			} else if (!(*out = *in)) {
				break;
			}
		}
		if (strcmp(path, mountpoint) == 0)
			ours = strcmp(type, "fuse.trellisfs") == 0;
	}
	free(line);
	if (info)
		fclose(info);
	return ours;
}

static bool unmount_stale(const char *mountpoint, struct error *err)
{
	int status = 0;
	pid_t pid;
	if (umount2(mountpoint, MNT_DETACH) == 0)
		return true;
	char *const argv[] = {
		(char *)"fusermount3", (char *)"-u", (char *)"-z", (char *)"--", (char *)mountpoint, NULL};
	int error = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (!error && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	return error_set(err, "%s: a dead mount is in the way and cannot be unmounted", mountpoint);
}

bool mount_is_empty(const char *path, struct error *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return error_set(err, "%s: %s", path, strerror(errno));
	int n = 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n <= 2 || error_set(err, "%s: the folder is not empty", path);
}

bool mount_prepare(const char *mountpoint, struct error *err)
{
	/* Opening asks the daemon behind a mount; stat might be answered by what the kernel has kept of a dead one. */
	int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOTCONN || errno == ECONNABORTED)) {
		if (!is_our_mount(mountpoint))
			return error_set(err, "%s: a dead mount of another file system is in the way", mountpoint);
		if (!unmount_stale(mountpoint, err))
			return false;
		fs_log("%s: took a dead mount away", mountpoint);
		fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return error_set(err, "%s: %s", mountpoint,
			errno == ENOTDIR ? "the mountpoint is not a folder" : strerror(errno));
	close(fd);
	if (is_our_mount(mountpoint))
		return error_set(err, "%s: a trellisfs is already mounted there", mountpoint);
	return mount_is_empty(mountpoint, err);
}

/* What libfuse has to say goes to the log, so that the shell gets our one line; -d asked for the requests on stderr. */
static void log_libfuse(enum fuse_log_level level, const char *format, va_list args)
{
	char text[1024];
	vsnprintf(text, sizeof text, format, args);
	if (level >= FUSE_LOG_DEBUG)
		fputs(text, stderr);
	else
		fs_log("%s", text);
}

static bool explain_failure(const char *mountpoint, bool allow_other, struct error *err)
{
	if (access("/dev/fuse", R_OK | W_OK) != 0)
		return error_set(err, "%s: cannot mount: /dev/fuse: %s", mountpoint, strerror(errno));
	return error_set(err, "%s: cannot mount: fusermount3 refused%s", mountpoint,
		allow_other ? " (allow_other needs user_allow_other in /etc/fuse.conf)" : "; the log says why");
}

static struct fuse_session *open_session(struct fs *fs)
{
	const struct options *o = fs->options;
	char options[512];
	snprintf(options, sizeof options, "fsname=trellisfs,subtype=trellisfs,default_permissions,nosuid,nodev%s%s",
		o->allow_other ? ",allow_other" : "", o->mount_options);
	fuse_set_log_func(log_libfuse);
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	bool ok = fuse_opt_add_arg(&args, "trellisfs") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
		  fuse_opt_add_arg(&args, options) == 0 && (!o->debug || fuse_opt_add_arg(&args, "-d") == 0);
	struct fuse_session *session = ok ? fuse_session_new(&args, &trellisfs_ops, sizeof trellisfs_ops, fs) : NULL;
	fuse_opt_free_args(&args);
	return session;
}

#ifdef FUSE_CAP_HANDLE_KILLPRIV_V2
static bool say_killpriv(struct fuse_session *session)
{
	(void)session; /* op_init has asked for it */
	return true;
}
#else
static ssize_t read_request(int fd, void *buffer, size_t size, void *user)
{
	(void)user;
	return read(fd, buffer, size);
}

/* Before each write the kernel asks for security.capability, which takes as long as the write, unless the file system
 * says that it takes the set-id bits away itself (files.c does). An older libfuse cannot say it, so it is said here, in the
 * reply to INIT: struct fuse_out_header, then struct fuse_init_out. A kernel that does not know the flag ignores it. */
static ssize_t write_reply(int fd, struct iovec *parts, int n, void *user)
{
	struct fs *fs = user;
	if (fs->greeting && n == 2 && parts[1].iov_len >= offsetof(struct fuse_init_out, max_background)) {
		struct fuse_init_out *init = parts[1].iov_base;
		init->flags |= FUSE_HANDLE_KILLPRIV_V2;
		fs->greeting = false;
	}
	return writev(fd, parts, n);
}

static bool say_killpriv(struct fuse_session *session)
{
	static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
	return fuse_session_custom_io(session, &io, fuse_session_fd(session)) == 0;
}
#endif

/* Our threads leave signals to the main one: libfuse ends its loop there. */
static bool start_threads(
	struct fs *fs, void (*ready)(void *user, const struct error *failure), void *user, struct error *err)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	bool ok = sync_start(fs, err) && ingest_start(fs, err) && contents_start(fs, err) &&
		  scheduler_start(fs, ready, user, err);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ok;
}

static int run_loop(struct fs *fs, struct fuse_session *session)
{
	if (fs->options->single_thread)
		return fuse_session_loop(session);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, 10);
	fuse_loop_cfg_set_idle_threads(config, 4);
	int result = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return result;
}

/* The order matters. The helper goes first to the mount, so it is started before there is one; when all ends, the mount
 * goes before the threads, because the helper may wait in a call that nobody will answer any more. */
bool mount_run(struct fs *fs, void (*ready)(void *user, const struct error *failure), void *user, struct error *err)
{
	struct fuse_session *session = NULL;
	bool mounted = false, ok = special_start(fs, ops_notify_poll, ops_drop_poll, err) && scheduler_create(fs, err);
	if (ok) {
		session = open_session(fs);
		ok = session && fuse_set_signal_handlers(session) == 0;
		mounted = ok && fuse_session_mount(session, fs->options->mountpoint) == 0;
		ok = mounted && say_killpriv(session);
		if (!ok)
			ok = explain_failure(fs->options->mountpoint, fs->options->allow_other, err);
	}
	ok = ok && start_threads(fs, ready, user, err);
	if (ok && run_loop(fs, session) < 0)
		ok = error_set(err, "the FUSE loop has failed");
	state_going(&fs->state);
	special_silence(fs);
	if (mounted)
		fuse_session_unmount(session);
	contents_stop(fs); /* it wakes the scheduler */
	scheduler_stop(fs);
	ingest_stop(fs);
	sync_stop(fs);
	if (session) {
		fuse_remove_signal_handlers(session);
		fuse_session_destroy(session);
	}
	special_stop(fs);
	return ok;
}
