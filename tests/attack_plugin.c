/* attack_plugin.c - loaded as trellis-cuda.so inside a worker, it tries what somebody would who has taken it over, and reports
 * what succeeded in the sentence with which it refuses to be a device: "succeeded: read-shadow execve", so that status shows it.
 * Used by tests/scripts/mount_sandbox.sh. What it is to reach is in the environment, absolute paths:
 *
 *   ATTACK_STATE   a file of the state directory      ATTACK_MNT     the mount
 *   ATTACK_MODEL   the model's directory
 *
 * A call that is made where it can't do harm counts by its errno: the kernel looked at it, so it was not refused. */
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct error succeeded;

static void note(const char *what, bool yes)
{
	size_t n = strlen(succeeded.text);
	if (yes)
		snprintf(succeeded.text + n, sizeof succeeded.text - n, " %s", what);
}

static const char *in(char out[4200], const char *variable, const char *name)
{
	const char *directory = getenv(variable);
	snprintf(out, 4200, "%s%s", directory ? directory : "/nowhere", name);
	return out;
}

static bool can_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static bool can_create(const char *variable, const char *name)
{
	char path[4200];
	bool can = can_open(in(path, variable, name), O_WRONLY | O_CREAT | O_EXCL);
	if (can)
		unlink(path);
	return can;
}

static void attack_files(void)
{
	char path[4200], other[4200];
	note("read-shadow", can_open("/etc/shadow", O_RDONLY));
	note("read-passwd", can_open("/etc/passwd", O_RDONLY));
	note("read-state", can_open(in(path, "ATTACK_STATE", ""), O_RDONLY));
	note("read-model", can_open(in(path, "ATTACK_MODEL", "/pipeline.json"), O_RDONLY));
	note("list-model", can_open(in(path, "ATTACK_MODEL", ""), O_RDONLY | O_DIRECTORY));
	note("read-mount", can_open(in(path, "ATTACK_MNT", "/status"), O_RDONLY));
	note("write-mount", can_create("ATTACK_MNT", "/in/attack"));
	note("write-model", can_create("ATTACK_MODEL", "/attack"));
	note("change-model", can_open(in(path, "ATTACK_MODEL", "/pipeline.json"), O_WRONLY));
	note("shorten-model", truncate(in(path, "ATTACK_MODEL", "/attack-me"), 0) == 0);
	note("chmod-model", chmod(in(path, "ATTACK_MODEL", "/attack-me"), 0600) == 0);
	note("link-model",
		link(in(path, "ATTACK_MODEL", "/attack-me"), in(other, "ATTACK_MODEL", "/attack-link")) == 0);
	note("unlink-model", unlink(in(path, "ATTACK_MODEL", "/attack-me")) == 0);
	note("mkdir-model", mkdir(in(path, "ATTACK_MODEL", "/attack-folder"), 0700) == 0);
	note("write-tmp", can_open("/tmp", O_WRONLY | O_TMPFILE));
	note("write-shm", can_open("/dev/shm", O_WRONLY | O_TMPFILE));
	note("read-tmp", can_open("/tmp", O_RDONLY | O_DIRECTORY));
	/* by the links of /proc, which lead past names */
	note("list-root", can_open("/proc/self/root/etc", O_RDONLY | O_DIRECTORY));
	note("read-cwd", can_open("/proc/self/cwd/etc/passwd", O_RDONLY));
	snprintf(path, sizeof path, "/proc/%d/environ", (int)getppid());
	note("read-environ", can_open(path, O_RDONLY));
	snprintf(path, sizeof path, "/proc/%d/mem", (int)getppid());
	note("parent-mem", can_open(path, O_RDONLY));
	note("init-mem", can_open("/proc/1/mem", O_RDONLY));
	struct file_handle handle = {.handle_bytes = 0};
	int mount_id;
	note("handle", name_to_handle_at(AT_FDCWD, "/", &handle, &mount_id, 0) == 0 || errno != EPERM);
}

/* Another program: started if there can be a process for it, else asked for where it can't be started. */
static bool can_execute(void)
{
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
		_exit(1);
	}
	if (pid > 0)
		return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7;
	char *const none[] = {NULL};
	return execve("/nowhere/sh", none, none) != 0 && errno != EPERM && errno != EACCES;
}

static bool can_fork(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		_exit(0);
	return pid > 0 && waitpid(pid, NULL, 0) == pid;
}

static bool can_execute_memory(void)
{
	int fd = memfd_create("attack", MFD_CLOEXEC);
	char *const none[] = {NULL};
	bool can = syscall(SYS_execveat, fd, "", none, none, AT_EMPTY_PATH) != 0 && errno != EPERM && errno != EACCES;
	close(fd);
	return can;
}

/* A datagram from a socket of a pair reaches any socket that has a name. */
static bool can_send_datagram(void)
{
	struct sockaddr_un nowhere = {.sun_family = AF_UNIX, .sun_path = "/nowhere"};
	int pair[2];
	return socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0 &&
	       sendto(pair[0], "x", 1, 0, (struct sockaddr *)&nowhere, sizeof nowhere) < 0 && errno == ENOENT;
}

static void attack_processes(void)
{
	note("execve", can_execute());
	note("execveat", can_execute_memory());
	note("fork", can_fork());
	note("kill", kill(getppid(), 0) == 0);
	note("kill-group", kill(0, 0) == 0);
	note("pidfd", syscall(SYS_pidfd_open, getppid(), 0) >= 0);
	note("ptrace", ptrace(PTRACE_SEIZE, getppid(), NULL, NULL) == 0);
	struct rlimit limit;
	note("prlimit", prlimit(getppid(), RLIMIT_NOFILE, NULL, &limit) == 0);
	note("nice", setpriority(PRIO_PROCESS, (id_t)getppid(), 0) == 0);
	note("socket-inet", socket(AF_INET, SOCK_STREAM, 0) >= 0);
	note("socket-unix", socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
	note("datagram", can_send_datagram());
}

static void attack_kernel(void)
{
	note("setuid", syscall(SYS_setuid, 0) == 0);
	note("unshare", unshare(CLONE_NEWNS) == 0);
	note("unshare-user", unshare(CLONE_NEWUSER) == 0 || errno == EINVAL); /* of a process with threads */
	note("mount", mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	note("bpf", syscall(SYS_bpf, -1, NULL, 0) == 0 || errno != EPERM);
	note("perf", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0) >= 0 || errno != EPERM);
	note("io_uring", syscall(SYS_io_uring_setup, 0, NULL) >= 0 || errno != EPERM);
	note("keyctl", syscall(SYS_keyctl, -1) >= 0 || errno != EPERM);
	note("userfaultfd", syscall(SYS_userfaultfd, -1) >= 0 || errno != EPERM);
}

static int attack_count(struct error *err)
{
	error_set(&succeeded, "succeeded:");
	attack_files();
	attack_processes();
	attack_kernel();
	return error_set(err, "%s", succeeded.text);
}

__attribute__((visibility("default"))) const struct trellis_plugin *trellis_plugin(void);

const struct trellis_plugin *trellis_plugin(void)
{
	static const struct trellis_plugin plugin = {.abi = TRELLIS_PLUGIN_ABI,
		.backend_size = sizeof(struct backend),
		.ops_size = sizeof(struct backend_ops),
		.name = "attack",
		.count = attack_count};
	return &plugin;
}
