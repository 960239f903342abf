/* valgrind_shim.c - preloaded by tests/mount/valgrind.sh for what valgrind 3.19 cannot do: it knows no pidfd_open, and in a
 * child of it /proc/self/exe is valgrind itself. */
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct watch {
	pid_t pid;
	int fd;
};

static void *wait_for_end(void *user)
{
	struct watch *w = user;
	siginfo_t info;
	waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOWAIT);
	eventfd_write(w->fd, 1);
	close(w->fd);
	free(w);
	return NULL;
}

/* Becomes readable when the process has ended, which is all that is asked of it here. */
int pidfd_open(pid_t pid, unsigned flags)
{
	pthread_t thread;
	struct watch *w = malloc(sizeof *w);
	int fd = eventfd(0, EFD_CLOEXEC);
	(void)flags;
	if (!w || fd < 0)
		abort();
	*w = (struct watch){.pid = pid, .fd = dup(fd)};
	if (pthread_create(&thread, NULL, wait_for_end, w) != 0)
		abort();
	pthread_detach(thread);
	return fd;
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
	const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
	int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *,
		char *const *) = NULL;
	*(void **)&real = dlsym(RTLD_NEXT, "posix_spawn");
	const char *self = getenv("VALGRIND_SHIM_SELF");
	return real(pid, self && strcmp(path, "/proc/self/exe") == 0 ? self : path, actions, attributes, argv, envp);
}
