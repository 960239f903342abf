/* worker_process.c - spawn a worker, read a dead one's wait status. Contract: worker_process.h. Used by worker_link.c.
 */
#include "worker_process.h"

#include "protocol.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static int add_actions(posix_spawn_file_actions_t *actions, int theirs)
{
	int failed = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
	failed = failed ? failed : posix_spawn_file_actions_adddup2(actions, 2, 1);
	failed = failed ? failed : posix_spawn_file_actions_adddup2(actions, theirs, PROTOCOL_FD);
	failed = failed ? failed : posix_spawn_file_actions_addclosefrom_np(actions, PROTOCOL_FD + 1);
	return failed ? failed : posix_spawn_file_actions_addchdir_np(actions, "/");
}

static int set_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	int failed = posix_spawnattr_setsigmask(attributes, &none);
	failed = failed ? failed : posix_spawnattr_setsigdefault(attributes, &all);
	failed = failed ? failed : posix_spawnattr_setpgroup(attributes, 0);
	return failed ? failed
		      : posix_spawnattr_setflags(
				attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

int worker_process_spawn(char *const *argv, int theirs, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int failed = posix_spawn_file_actions_init(&actions);
	if (failed)
		return failed;
	failed = posix_spawnattr_init(&attributes);
	if (failed)
		goto out;
	failed = add_actions(&actions, theirs);
	failed = failed ? failed : set_attributes(&attributes);
	failed = failed ? failed : posix_spawn(pid, argv[0], &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
out:
	posix_spawn_file_actions_destroy(&actions);
	return failed;
}

long worker_process_oom_kills(const char *path)
{
	static const char key[] = "oom_kill ";
	char line[128];
	long count = -1;
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	while (count < 0 && fgets(line, sizeof line, file))
		if (!strncmp(line, key, sizeof key - 1))
			count = atol(line + sizeof key - 1);
	fclose(file);
	return count;
}

enum worker_death worker_process_judge(int wait_status, long oom_before, long oom_after, char *text, size_t size)
{
	if (!WIFSIGNALED(wait_status)) {
		snprintf(text, size, "the worker ended by itself with status %d", WEXITSTATUS(wait_status));
		return DEATH_FAULT;
	}
	int signal = WTERMSIG(wait_status);
	const char *name = sigabbrev_np(signal);
	if (signal == SIGKILL && oom_before >= 0 && oom_after > oom_before) {
		snprintf(text, size, "out of memory: the kernel killed the worker");
		return DEATH_MEMORY;
	}
	snprintf(text, size, "the worker was killed by signal %d (%s)", signal, name ? name : "?");
	bool asked = signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGQUIT;
	return asked ? DEATH_ASKED : DEATH_FAULT;
}
