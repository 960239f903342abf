/* model_watch.c - inotify on the model directory. See model_watch.h. */
#include "model_watch.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

static void add_watches(int fd, const char *model)
{
	static const uint32_t EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR;
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s", model);
	char *slash = strrchr(path, '/');
	if (slash && slash > path) {
		*slash = '\0';
		inotify_add_watch(fd, path, EVENTS);
	}
	inotify_add_watch(fd, model, EVENTS);
	snprintf(path, sizeof path, "%s/ckpts", model);
	inotify_add_watch(fd, path, EVENTS);
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

void model_watch_drain(int fd, const char *model)
{
	char events[4096] __attribute__((aligned(8)));
	while (read(fd, events, sizeof events) > 0)
		;
	add_watches(fd, model);
}
