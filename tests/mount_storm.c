/* mount_storm.c - many processes change the names of one small tree at once: create, mkdir, symlink, rename, unlink, rmdir,
 * chmod, truncate, list. Each call may only succeed or fail for a reason that a race explains; afterwards every name that a
 * folder lists can be looked up.
 *   mount_storm FOLDER SEED PROCESSES OPERATIONS      OPERATIONS each */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;

static uint32_t roll(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (state >> 33) % below;
}

/* One of few names in one to three levels of few folders, so that the processes meet. */
static const char *some_path(char *path, size_t size)
{
	size_t at = 0;
	for (uint32_t level = roll(3);; level--) {
		at += snprintf(path + at, size - at, "%s%c%u", at ? "/" : "", level ? 'd' : "dfs"[roll(3)], roll(4));
		if (!level)
			return path;
	}
}

static int list(const char *path)
{
	DIR *dir = opendir(path);
	if (!dir)
		return -1;
	errno = 0;
	while (readdir(dir))
		;
	int error = errno;
	closedir(dir);
	errno = error;
	return error ? -1 : 0;
}

static int write_some(const char *path, int flags)
{
	char bytes[5000];
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | flags, 0644);
	if (fd < 0)
		return -1;
	memset(bytes, (int)roll(256), sizeof bytes);
	int result = pwrite(fd, bytes, 1 + roll(sizeof bytes), roll(20000)) < 0 ? -1 : 0;
	return close(fd) == 0 ? result : -1;
}

static int step(const char **what)
{
	char from[64], to[64];
	struct stat st;
	some_path(from, sizeof from);
	some_path(to, sizeof to);
	switch (roll(12)) {
	case 0:
	case 1:
		return *what = "create", write_some(from, roll(2) ? O_EXCL : 0);
	case 2:
		return *what = "write", write_some(from, O_TRUNC);
	case 3:
		return *what = "mkdir", mkdir(from, 0755);
	case 4:
		return *what = "symlink", symlink(to, from);
	case 5:
	case 6:
		return *what = "rename", rename(from, to);
	case 7:
		return *what = "unlink", unlink(from);
	case 8:
		return *what = "rmdir", rmdir(from);
	case 9:
		return *what = "chmod", fchmodat(AT_FDCWD, from, 0700 | roll(64), 0);
	case 10:
		return *what = "list", list(roll(4) ? from : ".");
	default:
		return *what = "stat", lstat(from, &st);
	}
}

static bool is_race(int error)
{
	static const int races[] = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, ELOOP, EBUSY};
	for (size_t i = 0; i < sizeof races / sizeof *races; i++)
		if (races[i] == error)
			return true;
	return false;
}

static int storm(int process, uint64_t seed, long operations)
{
	state = seed * 1000 + process;
	for (long i = 0; i < operations; i++) {
		const char *what;
		errno = 0;
		if (step(&what) != 0 && !is_race(errno)) {
			fprintf(stderr, "process %d, operation %ld: %s: %s\n", process, i, what, strerror(errno));
			return 1;
		}
	}
	return 0;
}

/* Count the names below; -1: one is listed and cannot be looked up. */
static long walk(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	struct stat st;
	long n = 0;
	while (dir && n >= 0 && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
			perror(entry->d_name);
			n = -1;
			break;
		}
		long below = S_ISDIR(st.st_mode) ? walk(fd, entry->d_name) : 0;
		n = below < 0 ? -1 : n + 1 + below;
	}
	if (dir)
		closedir(dir);
	return dir ? n : -1;
}

int main(int argc, char **argv)
{
	if (argc != 5 || chdir(argv[1]) != 0)
		return 2;
	int processes = atoi(argv[3]), failed = 0, status;
	for (int i = 0; i < processes; i++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(storm(i, strtoull(argv[2], NULL, 10), atol(argv[4])));
		failed += pid < 0;
	}
	while (wait(&status) > 0)
		failed += status != 0;
	long names = walk(AT_FDCWD, ".");
	printf("seed %s: %d processes, %s operations each, %ld names left, %s\n", argv[2], processes, argv[4], names,
		failed || names < 0 ? "FAILED" : "no difference");
	return failed || names < 0;
}
