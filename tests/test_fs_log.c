/* test_fs_log.c - the log: nobody waits for who reads it, what does not fit is counted, control bytes are escaped. */
#include "log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_S = 30 };

/* The log is a pipe that holds a page; gives its reading end. What waits for it for ever is killed. */
static int open_log(void)
{
	int ends[2];
	cr_assert(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
	close(ends[1]);
	fcntl(ends[0], F_SETPIPE_SZ, 4096);
	log_open("test", true);
	alarm(WAIT_S);
	return ends[0];
}

/* What comes until it contains `end`. */
static char *read_until(int fd, const char *end)
{
	static char text[1 << 20];
	size_t len = 0;
	do {
		ssize_t n = read(fd, text + len, sizeof text - 1 - len);
		cr_assert_gt(n, 0);
		len += (size_t)n;
		text[len] = '\0';
	} while (!strstr(text, end));
	return text;
}

/* As it is written. */
static const char *told(const char *line)
{
	static char text[200];
	snprintf(text, sizeof text, "test[%d]: %s\n", (int)getpid(), line);
	return text;
}

Test(log, before_the_start_a_line_is_written_at_once)
{
	int fd = open_log();
	fs_log("a\nline\x1b of %d", 7);
	cr_expect_str_eq(read_until(fd, "\n"), told("a?line? of 7"));
}

Test(log, nobody_waits_and_what_is_dropped_is_counted)
{
	struct error err;
	int fd = open_log();
	cr_assert(log_start(&err), "%s", err.text);
	for (int i = 0; i < 5000; i++)
		fs_log("line %d %0100d", i, 0);
	char *text = read_until(fd, " lines are missing here");
	cr_expect(strstr(text, "line 0 ") && strstr(text, "line 1 "));
	int lines = 0;
	for (char *p = text; (p = strstr(p, "]: line ")); p++)
		lines++;
	char *missing = strrchr(text, '\n') ? strstr(text, " lines are missing") : NULL;
	while (missing && missing > text && missing[-1] != ' ')
		missing--;
	cr_expect_eq(lines + atoi(missing ? missing : "0"), 5000, "%d lines, then: %s", lines, missing);
	fs_log("afterwards");
	read_until(fd, told("afterwards"));
	log_stop();
}

Test(log, the_end_waits_for_what_is_read_and_not_for_ever)
{
	struct error err;
	struct timespec before, after;
	open_log();
	cr_assert(log_start(&err), "%s", err.text);
	for (int i = 0; i < 1000; i++)
		fs_log("line %d %0100d", i, 0);
	clock_gettime(CLOCK_MONOTONIC, &before);
	log_stop();
	clock_gettime(CLOCK_MONOTONIC, &after);
	cr_expect_lt(after.tv_sec - before.tv_sec, 10);
	fs_log("nobody waits for this one either");
}

Test(log, what_was_said_is_written_at_the_end)
{
	struct error err;
	int fd = open_log();
	cr_assert(log_start(&err), "%s", err.text);
	fs_log("last words");
	log_stop();
	cr_expect_str_eq(read_until(fd, "\n"), told("last words"));
}
