/* model_watch.c - inotify on the model directory. See model_watch.h. */
#include "model_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

/* Adding a watch twice does no harm. Returns the descriptor of the one on the parent, -1: none. */
static int add_watches(int fd, const char *model)
{
	static const uint32_t EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR;
	char path[PATH_MAX];
	int parent = -1;
	snprintf(path, sizeof path, "%s", model);
	char *slash = strrchr(path, '/');
	if (slash && slash > path) {
		*slash = '\0';
		parent = inotify_add_watch(fd, path, EVENTS);
	}
	inotify_add_watch(fd, model, EVENTS);
	snprintf(path, sizeof path, "%s/ckpts", model);
	inotify_add_watch(fd, path, EVENTS);
	return parent;
}

int model_watch_open(const char *model)
{
	if (!model || model[0] != '/')
		return -1;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd >= 0)
		add_watches(fd, model);
	return fd;
}

bool model_watch_read(int fd, const char *model)
{
	char events[4096] __attribute__((aligned(8)));
	const char *slash = strrchr(model, '/');
	int parent = add_watches(fd, model);
	bool ours = false;
	for (ssize_t n; (n = read(fd, events, sizeof events)) > 0;) {
		for (char *p = events; p < events + n;) {
			const struct inotify_event *event = (const void *)p;
			ours |= event->wd != parent || (event->len && strcmp(event->name, slash + 1) == 0);
			p += sizeof *event + event->len;
		}
	}
	return ours;
}

/* The sum over the files, since a folder lists them in any order. Takes fd, a folder. */
static void add_files(int fd, int levels, uint64_t *sum)
{
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir && fd >= 0)
		close(fd);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct stat st;
		if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) != 0)
			continue;
		if (S_ISDIR(st.st_mode) && levels > 0)
			add_files(
				openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), levels - 1, sum);
		if (!S_ISREG(st.st_mode))
			continue;
		uint64_t digest, facts[] = {st.st_ino, st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
		struct hash hash;
		hash_init(&hash, sizeof digest);
		hash_update(&hash, facts, sizeof facts);
		hash_update(&hash, entry->d_name, strlen(entry->d_name));
		hash_final(&hash, (uint8_t *)&digest);
		*sum += digest;
	}
	if (dir)
		closedir(dir);
}

void model_identify(const char *model, struct hash *hash)
{
	uint64_t sum = 0;
	if (model[0] == '/')
		add_files(open(model, O_RDONLY | O_DIRECTORY | O_CLOEXEC), 1, &sum);
	hash_update(hash, model, strlen(model));
	hash_update(hash, &sum, sizeof sum);
}
