/* model_watch.c - inotify on the model directory. See model_watch.h. */
#include "model_watch.h"

#include <limits.h>
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
