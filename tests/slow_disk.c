/* slow_disk.c - preloaded into the daemon: calls to the state disk take as long as the file $SLOW_DISK says, "NAME MS" a line. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static void wait_as(const char *call)
{
	const char *path = getenv("SLOW_DISK");
	char name[32];
	int ms;
	FILE *file = path ? fopen(path, "re") : NULL;
	while (file && fscanf(file, "%31s %d", name, &ms) == 2)
		if (strcmp(name, call) == 0)
			usleep(ms * 1000);
	if (file)
		fclose(file);
}

#define SLOW(type, call, arguments, ...)                                                                               \
	type call arguments                                                                                            \
	{                                                                                                              \
		static type(*real) arguments;                                                                          \
		if (!real)                                                                                             \
			real = (type(*) arguments)dlsym(RTLD_NEXT, #call);                                             \
		wait_as(#call);                                                                                        \
		return real(__VA_ARGS__);                                                                              \
	}

SLOW(int, ftruncate64, (int fd, off_t size), fd, size)
SLOW(int, fallocate64, (int fd, int mode, off_t at, off_t len), fd, mode, at, len)
SLOW(int, fdatasync, (int fd), fd)
SLOW(int, fsync, (int fd), fd)
SLOW(int, fstatvfs64, (int fd, struct statvfs64 *st), fd, st)
SLOW(int, linkat, (int from_fd, const char *from, int to_fd, const char *to, int flags), from_fd, from, to_fd, to,
	flags)
SLOW(int, unlinkat, (int fd, const char *path, int flags), fd, path, flags)
SLOW(int, renameat, (int from_fd, const char *from, int to_fd, const char *to), from_fd, from, to_fd, to)

/* Contents only: "3f/000000000000003f". */
int openat64(int dir, const char *path, int flags, ...)
{
	static int (*real)(int, const char *, int, ...);
	va_list args;
	va_start(args, flags);
	mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
	va_end(args);
	if (!real)
		real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
	if (strlen(path) == 19 && path[2] == '/')
		wait_as("openat64");
	return real(dir, path, flags, mode);
}
