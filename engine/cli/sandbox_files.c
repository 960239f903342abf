/* sandbox_files.c - Landlock: the files that a worker may read. Contract: sandbox.h.
 * Two rulesets: with the model, for as long as it is opened, and without. Rules belong to files and not to names, so what a
 * link leads to needs its own.
 * Source: landlock(7) and the kernel's userspace-api/landlock.rst; what a GPU's driver reads: the libraries of CUDA. */
#include "device.h"
#include "model.h"
#include "sandbox.h"
#include "text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What newer headers than those of Linux 5.19 have. */
#define FS_TRUNCATE (1ULL << 14)
#define FS_IOCTL_DEV (1ULL << 15)
#define NET_BIND_TCP (1ULL << 0)
#define NET_CONNECT_TCP (1ULL << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0)
#define SCOPE_SIGNAL (1ULL << 1)

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define USE (READ | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_IOCTL_DEV)
#define OF_FILES                                                                                                       \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | FS_TRUNCATE |     \
		FS_IOCTL_DEV)

enum { NEWEST = 6, LINK_DEPTH = 4 };

/* struct landlock_ruleset_attr of version 6; older kernels get as much of it as they know. */
struct ruleset_attributes {
	uint64_t files, net, scoped;
};

/* Rulesets that get the same rules. */
struct rules {
	int fds[2], n;
	uint64_t handled;
};

/* What libraries and drivers look for. Names with a * are patterns. */
static const struct {
	const char *path;
	uint64_t access;
} of_the_system[] = {
	{"/usr", READ},
	{"/lib", READ},
	{"/lib64", READ},
	{"/opt", READ},
	{"/nix/store", READ},
	{"/gnu/store", READ},
	{"/run/opengl-driver", READ},
	{"/etc/ld.so.cache", READ},
	{"/etc/nvidia", READ},
	{"/sys/bus", READ},
	{"/sys/class", READ},
	{"/sys/devices", READ},
	{"/sys/kernel/mm", READ}, /* huge pages */
	{"/sys/module", READ},
	{"/dev/null", USE},
	{"/dev/zero", USE},
	{"/dev/random", READ},
	{"/dev/urandom", READ},
	{"/dev/nvidia*", USE}, /* also the folder nvidia-caps */
	{"/dev/dxg", USE},
};

/* A file of /proc that nobody holds may come back as another one, which the rule would not be about: these stay open. */
static const char *const of_processes[] = {"/proc/self", "/proc/cpuinfo", "/proc/devices", "/proc/driver",
	"/proc/filesystems", "/proc/meminfo", "/proc/modules", "/proc/stat", "/proc/sys/kernel", "/proc/sys/vm",
	"/proc/version"};

int sandbox_files_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	return version < 0 ? 0 : version < NEWEST ? (int)version : NEWEST;
}

static int create_ruleset(int version, uint64_t *handled)
{
	struct ruleset_attributes a = {
		.net = NET_BIND_TCP | NET_CONNECT_TCP, .scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL};
	int bits = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
	a.files = *handled = (1ULL << bits) - 1;
	size_t size = version >= 6 ? sizeof a : version >= 4 ? 2 * sizeof a.files : sizeof a.files;
	return (int)syscall(SYS_landlock_create_ruleset, &a, size, 0);
}

/* What is not there needs no rule; what can't be looked at gets none. Returns the descriptor, to be closed, or -1. */
static int allow_open(const struct rules *r, const char *path, uint64_t access)
{
	struct stat st;
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0) {
		struct landlock_path_beneath_attr rule = {.parent_fd = fd,
			.allowed_access = access & r->handled & (S_ISDIR(st.st_mode) ? ~0ULL : OF_FILES)};
		for (int i = 0; i < r->n && rule.allowed_access; i++)
			syscall(SYS_landlock_add_rule, r->fds[i], LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
	}
	return fd;
}

static void allow(const struct rules *r, const char *path, uint64_t access)
{
	int fd = allow_open(r, path, access);
	if (fd >= 0)
		close(fd);
}

static void allow_matching(const struct rules *r, const char *pattern, uint64_t access)
{
	glob_t found;
	if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
		for (size_t i = 0; i < found.gl_pathc; i++)
			allow(r, found.gl_pathv[i], access);
	globfree(&found);
}

/* The directories of a list with separators, as far as they are absolute. */
static void allow_list(const struct rules *r, const char *list, const char *separators)
{
	for (const char *p = list ? list + strspn(list, separators) : ""; *p; p += strspn(p, separators)) {
		size_t n = strcspn(p, separators);
		char *path = *p == '/' ? strndup(p, n) : NULL;
		if (path)
			allow(r, path, READ);
		free(path);
		p += n;
	}
}

/* Libraries outside the usual places, as the dynamic linker is told of them. */
static void allow_libraries(const struct rules *r)
{
	glob_t found;
	char line[PATH_MAX];
	allow_list(r, getenv("LD_LIBRARY_PATH"), ":;");
	if (glob("/etc/ld.so.conf.d/*.conf", GLOB_NOSORT, NULL, &found) == 0)
		for (size_t i = 0; i < found.gl_pathc; i++) {
			FILE *f = fopen(found.gl_pathv[i], "re");
			while (f && fgets(line, sizeof line, f))
				allow_list(r, line, "\n");
			if (f)
				fclose(f);
		}
	globfree(&found);
}

static void allow_directory_of(const struct rules *r, char *path)
{
	char *slash = strrchr(path, '/');
	if (slash && slash > path) {
		*slash = '\0';
		allow(r, path, READ);
	}
}

static void allow_program(const struct rules *r)
{
	char path[PATH_MAX];
	struct error ignored;
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	path[n > 0 ? n : 0] = '\0';
	allow_directory_of(r, path);
	if (device_find_plugin(path, &ignored))
		allow_directory_of(r, path);
}

static void allow_system(const struct rules *r)
{
	for (size_t i = 0; i < sizeof of_the_system / sizeof *of_the_system; i++)
		allow_matching(r, of_the_system[i].path, of_the_system[i].access);
	for (size_t i = 0; i < sizeof of_processes / sizeof *of_processes; i++)
		allow_open(r, of_processes[i], READ);
	/* CUDA's driver gives its threads names there; what else is there is about ourselves. */
	allow_open(r, "/proc/self/task", READ | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE);
	allow_libraries(r);
	allow_program(r);
}

static void allow_links(const struct rules *r, const char *directory, int depth);

static void allow_linked(const struct rules *r, const char *path, int depth)
{
	allow(r, path, READ);
	allow_links(r, path, depth);
}

/* What links below a directory lead to, as those of a snapshot in the Hugging Face cache. Files are no directories: nothing. */
static void allow_links(const struct rules *r, const char *path, int depth)
{
	DIR *directory = depth > 0 ? opendir(path) : NULL;
	struct dirent *entry;
	while (directory && (entry = readdir(directory))) {
		struct stat st = {0};
		bool dots = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
		char *child = dots ? NULL : text_format("%s/%s", path, entry->d_name);
		if (child && lstat(child, &st) == 0 && S_ISLNK(st.st_mode))
			allow_linked(r, child, depth - 1);
		else if (S_ISDIR(st.st_mode))
			allow_links(r, child, depth - 1);
		free(child);
	}
	if (directory)
		closedir(directory);
}

static void allow_place(void *user, const char *path, enum model_place kind)
{
	if (kind == PLACE_NAMES)
		allow(user, path, LANDLOCK_ACCESS_FS_READ_DIR);
	else if (kind == PLACE_FILES)
		allow(user, path, READ);
	else
		allow_linked(user, path, LINK_DEPTH);
}

bool sandbox_files_confine(int version, const char *model, int *settled)
{
	uint64_t handled = 0;
	int with_model = create_ruleset(version, &handled), without = create_ruleset(version, &handled);
	bool ok = with_model >= 0 && without >= 0;
	if (ok) {
		struct rules both = {{with_model, without}, 2, handled}, first = {{with_model}, 1, handled};
		allow_system(&both);
		model_places(model, allow_place, &first);
		ok = sandbox_files_settle(with_model);
	}
	int error = errno;
	if (with_model >= 0)
		close(with_model);
	if (without >= 0 && !ok)
		close(without);
	errno = error;
	*settled = ok ? without : -1;
	return ok;
}

bool sandbox_files_settle(int settled)
{
	return syscall(SYS_landlock_restrict_self, settled, 0) == 0;
}
