/* helper.h - the process that acts on the mount from outside, for the daemon: what it does there, watchers see.
 * It keeps no descriptor and no working directory on the mount, so it never holds up an unmount, and when the daemon is
 * killed its calls fail with ECONNABORTED and it ends. It is this program started again (main.c), so that it inherits
 * nothing. One request, one answer, over a SOCK_SEQPACKET socket. */
#ifndef HELPER_H
#define HELPER_H

#include <limits.h>
#include <stdint.h>

#define HELPER_ARGUMENT "--internal-helper" /* argv[1]; argv[2] is the mountpoint */
enum { HELPER_FD = 3 };

enum helper_op {
	HELPER_ADOPT,  /* wait until the mount answers; tells its device */
	HELPER_CREATE, /* look up token, then create path exclusively and close it */
	HELPER_RENAME, /* token onto path */
	HELPER_MOVE,   /* from onto path */
	HELPER_MKDIR,
	HELPER_UNLINK,
	HELPER_RMDIR,
	HELPER_TOUCH, /* utimes */
};

struct helper_request {
	uint32_t op;
	uint64_t device; /* do nothing if the mountpoint is another one by now; not for ADOPT */
	char token[40];
	char path[PATH_MAX]; /* below the mountpoint, as from */
	char from[PATH_MAX];
};

struct helper_answer {
	int32_t error; /* errno */
	uint64_t device;
};

/* Serve until the socket ends; the exit status. */
int helper_main(const char *mountpoint);

#endif
