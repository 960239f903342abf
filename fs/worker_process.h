/* worker_process.h - start a worker's process, and read what its end says about it and about the job that it was
 * running. */
#ifndef FS_WORKER_PROCESS_H
#define FS_WORKER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Start argv[0] with `theirs` (O_CLOEXEC or not) as PROTOCOL_FD, /dev/null as input, our stderr as both outputs, every
 * other descriptor closed, in / (never on the mount), no signal blocked or ignored, and in a process group of its own:
 * a terminal's ^C is for the daemon. Returns 0 and *pid, or an errno. */
int worker_process_spawn(char *const *argv, int theirs, pid_t *pid);

/* How often the kernel has killed a process for lack of memory since boot, -1 when it doesn't say. path:
 * "/proc/vmstat". */
long worker_process_oom_kills(const char *path);

enum worker_death {
	DEATH_FAULT,  /* a signal that nobody asked for, or an exit nobody asked for */
	DEATH_MEMORY, /* SIGKILL, and the kernel has killed for memory meanwhile */
	DEATH_ASKED,  /* TERM, INT, HUP or QUIT: somebody outside ended it (systemd stops the whole group) */
};

/* Judge a wait status that no signal of ours explains, and say it in one line, text[size]. oom_before and oom_after:
 * the counter when the worker started and now. */
enum worker_death worker_process_judge(int wait_status, long oom_before, long oom_after, char *text, size_t size);

#endif
