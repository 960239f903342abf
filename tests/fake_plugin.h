/* fake_plugin.h - for tests: have the plugin of fake_plugin.c loaded, to do as a plan says. */
#ifndef TRELLIS_FAKE_PLUGIN_H
#define TRELLIS_FAKE_PLUGIN_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* build/tests/plugins/NAME; static */
static inline const char *plugin_directory(const char *name)
{
	static char path[4200];
	char program[4096];
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
	cr_assert(n > 0);
	program[n] = '\0';
	*strrchr(program, '/') = '\0';
	snprintf(path, sizeof path, "%s/plugins/%s", program, name);
	return path;
}

/* Make the fake plugin the one that is found, with this plan. */
static inline void plan(const char *text)
{
	char path[] = "/tmp/trellis-plan-XXXXXX";
	int fd = mkstemp(path);
	cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
	setenv("TRELLIS_FAKE_PLUGIN", path, 1);
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("fake"), 1);
}

static inline void forget_plan(void)
{
	const char *path = getenv("TRELLIS_FAKE_PLUGIN");
	if (path)
		unlink(path);
}

#endif
