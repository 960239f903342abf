/* sandbox_calls.c - seccomp: the system calls that a worker is refused. Contract: sandbox.h.
 * A list of what is refused and not of what is allowed: libraries that this program does not know, of the GPU's driver above
 * all, call what they like. They get EPERM and go on without. Calls newer than this list get ENOSYS, as from an older kernel,
 * and so does clone3, whose flags no filter can see: libraries then take clone.
 * Source: seccomp(2), the lists of container runtimes (what needs no capability there is refused here by name, too). */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#ifdef ARCHITECTURE

#define LAST_KNOWN 450	    /* set_mempolicy_home_node, Linux 5.17; the numbers since 424 are the same everywhere */
#define X32_BIT 0x40000000u /* x86-64's other set of calls */
#define SOCKET_TYPE 0xf	    /* of a socket's type: the rest are flags */
#define NAMESPACES                                                                                                     \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* clang-format off */
static const int refused[] = {
	/* another program */
	SYS_execve, SYS_execveat,
	/* talk to anybody but the daemon: a datagram socket of a pair sends anywhere. See also socket below */
	SYS_socketpair, SYS_connect,
	SYS_mq_open, SYS_mq_unlink, SYS_msgget, SYS_semget, SYS_shmget,
	/* other processes: see also kill below */
	SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_open, SYS_pidfd_getfd,
	SYS_pidfd_send_signal, SYS_process_madvise, SYS_process_mrelease, SYS_tkill, SYS_rt_sigqueueinfo,
	SYS_rt_tgsigqueueinfo, SYS_setpriority, SYS_ioprio_set,
	/* files: what Landlock does not look at, and what it would refuse, for kernels that lack it */
	SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_utimensat,
	SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_mkdirat,
	SYS_mknodat, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_truncate,
	SYS_fanotify_init, SYS_fanotify_mark, SYS_quotactl, SYS_quotactl_fd, SYS_acct, SYS_swapon, SYS_swapoff,
	/* namespaces and mounts */
	SYS_unshare, SYS_setns, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount,
	SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr,
	/* parts of the kernel with a history of faults, or with power over the machine */
	SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
	SYS_keyctl, SYS_add_key, SYS_request_key, SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module,
	SYS_delete_module, SYS_reboot, SYS_syslog, SYS_personality, SYS_settimeofday, SYS_clock_settime,
	SYS_clock_adjtime, SYS_adjtimex, SYS_sethostname, SYS_setdomainname, SYS_lookup_dcookie, SYS_vhangup,
#ifdef __x86_64__
	SYS_fork, SYS_vfork, SYS_creat, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_mkdir,
	SYS_rmdir, SYS_mknod, SYS_link, SYS_symlink, SYS_rename, SYS_iopl, SYS_ioperm, SYS_modify_ldt,
	SYS_uselib, SYS_ustat, SYS_sysfs,
#endif
};
/* clang-format on */

enum { MAX_INSTRUCTIONS = 400 };

struct filter {
	struct sock_filter code[MAX_INSTRUCTIONS];
	unsigned short n;
};

static void add(struct filter *f, uint16_t code, uint32_t k, uint8_t if_true, uint8_t if_false)
{
	f->code[f->n++] = (struct sock_filter){code, if_true, if_false, k};
}

static void load(struct filter *f, size_t at)
{
	add(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)at, 0, 0);
}

static void answer(struct filter *f, uint32_t action)
{
	add(f, BPF_RET | BPF_K, action, 0, 0);
}

static void refuse(struct filter *f, int error)
{
	answer(f, SECCOMP_RET_ERRNO | (uint32_t)error);
}

/* The low half of an argument: flags, commands and process ids have no more. */
static void load_argument(struct filter *f, int i)
{
	load(f, offsetof(struct seccomp_data, args) +
			(size_t)i * sizeof(uint64_t)); /* little-endian, as both machines are */
}

/* For a call with this number comes what the caller adds until its end is set: n instructions, the last of which answers. The
 * number is then no longer loaded, which is why every such part answers in any case. */
static void on_call(struct filter *f, int number, uint8_t instructions)
{
	add(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, instructions);
}

/* Refused if the argument is one of these. */
static void refuse_values(struct filter *f, int number, int argument, const uint32_t *values, uint8_t count)
{
	on_call(f, number, (uint8_t)(count + 3));
	load_argument(f, argument);
	for (uint8_t i = 0; i < count; i++)
		add(f, BPF_JMP | BPF_JEQ | BPF_K, values[i], (uint8_t)(count - i), 0);
	answer(f, SECCOMP_RET_ALLOW);
	refuse(f, EPERM);
}

/* Refused unless the argument is one of two values. */
static void refuse_others(struct filter *f, int number, int argument, uint32_t value, uint32_t other)
{
	on_call(f, number, 5);
	load_argument(f, argument);
	add(f, BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
	add(f, BPF_JMP | BPF_JEQ | BPF_K, other, 0, 1);
	answer(f, SECCOMP_RET_ALLOW);
	refuse(f, EPERM);
}

/* Threads only: no process of its own, and no namespace. */
static void restrict_clone(struct filter *f)
{
	on_call(f, SYS_clone, 5);
	load_argument(f, 0);
	add(f, BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 2, 0);
	add(f, BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1);
	answer(f, SECCOMP_RET_ALLOW);
	refuse(f, EPERM);
}

/* A local socket that cannot send to anybody before it is connected, which is refused: it may only wait for others. */
static void restrict_socket(struct filter *f)
{
	on_call(f, SYS_socket, 7);
	load_argument(f, 0);
	add(f, BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 0, 4);
	load_argument(f, 1);
	add(f, BPF_ALU | BPF_AND | BPF_K, SOCKET_TYPE, 0, 0);
	add(f, BPF_JMP | BPF_JEQ | BPF_K, SOCK_SEQPACKET, 0, 1);
	answer(f, SECCOMP_RET_ALLOW);
	refuse(f, EPERM);
}

static void restrict_arguments(struct filter *f)
{
	/* keystrokes into the terminal that the daemon was started from; signals to others by way of a descriptor */
	static const uint32_t ioctls[] = {TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP}, fcntls[] = {F_SETOWN, F_SETOWN_EX};
	uint32_t self = (uint32_t)getpid();
	refuse_others(f, SYS_kill, 0, self, self);
	refuse_others(f, SYS_tgkill, 0, self, self);
	refuse_others(f, SYS_prlimit64, 0, 0, self);
	refuse_values(f, SYS_ioctl, 1, ioctls, sizeof ioctls / sizeof *ioctls);
	refuse_values(f, SYS_fcntl, 1, fcntls, sizeof fcntls / sizeof *fcntls);
	restrict_clone(f);
	restrict_socket(f);
#ifdef __x86_64__
	on_call(f, SYS_unlink, 1);
	refuse(f, ENOENT); /* what CUDA's driver takes for an answer */
#endif
}

bool sandbox_calls_refuse(void)
{
	struct filter f = {.n = 0};
	load(&f, offsetof(struct seccomp_data, arch));
	add(&f, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
	refuse(&f, EPERM);
	load(&f, offsetof(struct seccomp_data, nr));
	add(&f, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
	refuse(&f, EPERM);
	add(&f, BPF_JMP | BPF_JGT | BPF_K, LAST_KNOWN, 1, 0);
	add(&f, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
	refuse(&f, ENOSYS);
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		on_call(&f, refused[i], 1);
		refuse(&f, EPERM);
	}
	restrict_arguments(&f);
	answer(&f, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = {f.n, f.code};
	long thread = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
	if (thread > 0)
		errno = EBUSY; /* a thread with a filter of its own */
	return thread == 0;
}

#else

bool sandbox_calls_refuse(void)
{
	errno = ENOSYS;
	return false;
}

#endif
