/* older_kernel.c - run a program as on a kernel that lacks something: `older_kernel landlock|seccomp PROGRAM [ARGUMENT...]`.
 * The call that asks for it gets ENOSYS, in that program and all that it starts. `older_kernel landlock` prints the version of
 * Landlock that this kernel has, or why it has none. Used by tests/scripts/mount_sandbox.sh. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc == 2) {
		long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
		version > 0 ? printf("%ld\n", version) : printf("%s\n", strerror(errno));
		return version > 0 ? 0 : 1;
	}
	if (argc < 3)
		return 2;
	unsigned lacking = strcmp(argv[1], "landlock") == 0 ? SYS_landlock_create_ruleset : SYS_seccomp;
	struct sock_filter code[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, lacking}, {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | ENOSYS},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
	const struct sock_fprog program = {sizeof code / sizeof *code, code};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
		perror("seccomp");
		return 1;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 1;
}
