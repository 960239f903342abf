/* sandbox.c - user and capabilities of the worker, and the order in which all is given up. Contract: sandbox.h.
 * Source: capabilities(7), prctl(2), landlock(7). Raw calls where libc has none. */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_RESULT_BYTES (4ull << 30)

/* The root user is nothing special and nothing brings a capability back; all of it for good. */
#define SECUREBITS                                                                                                     \
	(SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |               \
		SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)

/* No limit on address space: GPU drivers reserve far more of it than they use. */
void sandbox_limit(void)
{
	const struct rlimit no_core = {0, 0}, result = {MAX_RESULT_BYTES, MAX_RESULT_BYTES};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	setrlimit(RLIMIT_CORE, &no_core); /* it would hold people's pictures */
	setrlimit(RLIMIT_FSIZE, &result);
	signal(SIGXFSZ, SIG_IGN);	 /* a write over the limit fails instead */
	setpriority(PRIO_PROCESS, 0, 5); /* the daemon, which serves every file of the mount, comes first */
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) { /* when memory runs out, end the worker rather than the daemon */
		if (write(fd, "500", 3) < 0)
			errno = 0; /* refused: then the kernel chooses by size, which is ours as well */
		close(fd);
	}
}

struct capabilities {
	uint64_t effective, permitted, inheritable;
};

static void get_capabilities(struct capabilities *c)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0}};
	syscall(SYS_capget, &header, data);
	c->effective = data[0].effective | (uint64_t)data[1].effective << 32;
	c->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	c->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
}

/* The calling thread has these from now on, as far as it has them. */
static bool keep_capabilities(uint64_t wanted, struct error *err)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0}};
	struct capabilities c;
	get_capabilities(&c);
	wanted &= c.permitted;
	data[0].effective = data[0].permitted = (uint32_t)wanted;
	data[1].effective = data[1].permitted = (uint32_t)(wanted >> 32);
	if (syscall(SYS_capset, &header, data) == 0)
		return true;
	return error_set(err, "the worker cannot give up its capabilities: %s", strerror(errno));
}

/* A process without the right to do this has nothing that it could regain either: it can start no other program. */
static void forgo_regaining(void)
{
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int i = 0; prctl(PR_CAPBSET_READ, i) >= 0; i++)
		prctl(PR_CAPBSET_DROP, i);
	prctl(PR_SET_SECUREBITS, SECUREBITS);
}

static bool become(const struct sandbox *s, struct error *err)
{
	if (!s->other_user)
		return true;
	/* Who stays who it is may do so where groups can't be set, in the user namespace of somebody without rights. */
	bool may_keep_groups = s->uid == geteuid() && s->gid == getegid();
	if ((setgroups(0, NULL) == 0 || may_keep_groups) && setresgid(s->gid, s->gid, s->gid) == 0 &&
		setresuid(s->uid, s->uid, s->uid) == 0)
		return true;
	return error_set(
		err, "the worker cannot run as user %s: %s (-o worker_user= names another)", s->user, strerror(errno));
}

bool sandbox_parse_user(struct sandbox *s, const char *text)
{
	char end;
	s->other_user = sscanf(text, "%u:%u%c", &s->uid, &s->gid, &end) == 2;
	return s->other_user;
}

/* While there is somebody to ask. */
static void name_user(struct sandbox *s)
{
	uid_t uid = s->other_user ? s->uid : geteuid();
	const struct passwd *entry = getpwuid(uid);
	if (entry)
		snprintf(s->user, sizeof s->user, "%s", entry->pw_name);
	else
		snprintf(s->user, sizeof s->user, "%u", (unsigned)uid);
}

bool sandbox_enter(struct sandbox *s, const char *model, struct error *err)
{
	s->settled_rules = -1;
	s->landlock = 0;
	name_user(s);
	if (!s->on)
		return true;
	setenv("CUDA_CACHE_DISABLE", "1", 1); /* it would be in somebody's home directory */
	int version = sandbox_files_version();
	s->landlock_errno = version ? 0 : errno;
	forgo_regaining();
	if (!become(s, err) || !keep_capabilities(version ? 1ULL << CAP_DAC_READ_SEARCH : 0, err))
		return false;
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* forgotten with the old user */
	s->seccomp_errno = sandbox_calls_refuse() ? 0 : errno;
	if (version && sandbox_files_confine(version, model, &s->settled_rules))
		s->landlock = version;
	else if (version)
		s->landlock_errno = errno;
	return s->landlock || keep_capabilities(0, err);
}

bool sandbox_settle(const struct sandbox *s, struct error *err)
{
	if (!s->on)
		return true;
	if (!keep_capabilities(0, err))
		return false;
	return s->settled_rules < 0 || sandbox_files_settle(s->settled_rules) ||
	       error_set(err, "the worker cannot give up the model's files: %s", strerror(errno));
}

void sandbox_describe(const struct sandbox *s, char *out, size_t size)
{
	struct capabilities c;
	char capabilities[64] = "no capabilities", landlock[160] = "Landlock", seccomp[160] = "seccomp";
	get_capabilities(&c);
	if (c.effective | c.permitted | c.inheritable)
		snprintf(capabilities, sizeof capabilities, "capabilities %llx",
			(unsigned long long)(c.effective | c.permitted | c.inheritable));
	if (!s->on) {
		snprintf(out, size, "off (user %s, %s)", s->user, capabilities);
		return;
	}
	if (s->landlock)
		snprintf(landlock, sizeof landlock, "Landlock %d", s->landlock);
	else
		snprintf(landlock, sizeof landlock, "no Landlock (%s)", strerror(s->landlock_errno));
	if (s->seccomp_errno || prctl(PR_GET_SECCOMP) != 2) /* one of a container's is not ours */
		snprintf(seccomp, sizeof seccomp, "no seccomp (%s)", strerror(s->seccomp_errno));
	snprintf(out, size, "user %s, %s, %s, %s", s->user, capabilities, landlock, seccomp);
}
