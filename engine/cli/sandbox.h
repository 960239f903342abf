/* sandbox.h - what the worker gives up before a stranger's picture comes: user, capabilities, files, system calls.
 * Used by worker.c. sandbox.c has the order of things, sandbox_files.c Landlock, sandbox_calls.c seccomp.
 *
 *   sandbox_enter   main thread, before any other: another user (of a daemon that is root), no capability but one, no system
 *                   calls that a worker has no need of; of all files only those of the system's libraries, of devices and of
 *                   the model can be read, and none written but by descriptors that the
 *                   daemon gives, devices and the names of its own threads
 *   model_open      on the device thread: maps the model's files, which are not opened again
 *   sandbox_settle  each thread that there is by then: no capability at all, and no file of the model any more
 *   device, jobs    by then nothing is left: user nobody, no capabilities, Landlock, seccomp
 *
 * A model may lie where only the one who mounts can read. The capability that is kept until it is open, CAP_DAC_READ_SEARCH,
 * lets a process read what Landlock allows it to, here exactly the model, and nothing else: no write, no other process (Landlock
 * refuses /proc/PID too), and no file by its handle (seccomp). Descriptors instead of it would not do: below a directory of mode
 * 0700 openat() asks again, whoever opened it; and a broker would be another privileged process to get right. Without Landlock
 * the capability would read everything, so it is not kept and the model has to be readable by the worker's user.
 *
 * Where the kernel lacks Landlock or seccomp the worker runs without and says so. Files that Landlock knows nothing of are
 * protected by their modes alone then. Landlock does not look at changes of mode, owner, times and attributes: seccomp refuses
 * those calls. What must hold and fails, the other user or the loss of a capability, fails the worker. */
#ifndef TRELLIS_SANDBOX_H
#define TRELLIS_SANDBOX_H

#include "error.h"

#include <sys/types.h>

struct sandbox {
	/* in */
	bool on;
	bool other_user; /* become these; else it stays who it is */
	uid_t uid;
	gid_t gid;
	/* set by sandbox_enter */
	char user[64];	    /* name, or number */
	int landlock;	    /* version; 0: it does not hold */
	int landlock_errno; /* why not */
	int seccomp_errno;  /* 0: it holds */
	int settled_rules;  /* a Landlock ruleset; -1: none */
};

/* "UID:GID" */
bool sandbox_parse_user(struct sandbox *s, const char *text);
/* What keeps a fault of ours, or a hostile picture, from hurting others in any case: sizes, priority, no new privileges, and no
 * life without the daemon. */
void sandbox_limit(void);
/* model as in struct trellis_options. False: what must hold does not, and err says what. When !on nothing changes. */
bool sandbox_enter(struct sandbox *s, const char *model, struct error *err);
/* For the calling thread and those that it starts. */
bool sandbox_settle(const struct sandbox *s, struct error *err);
/* What holds for the calling thread, "user nobody, no capabilities, Landlock 6, seccomp", as the kernel says. */
void sandbox_describe(const struct sandbox *s, char *out, size_t size);

/* ---- sandbox_files.c ---- */

/* The newest version of Landlock that the kernel and this program know; 0 and errno: none. */
int sandbox_files_version(void);
/* Confine the calling thread to what the system and this model need. *settled is a second ruleset, without the model; -1 when
 * it fails, which errno tells. */
bool sandbox_files_confine(int version, const char *model, int *settled);
/* Confine it by that second one. */
bool sandbox_files_settle(int settled);

/* ---- sandbox_calls.c ---- */

/* Refuse, to all threads, what no worker needs to ask the kernel for. False: errno. */
bool sandbox_calls_refuse(void);

#endif
