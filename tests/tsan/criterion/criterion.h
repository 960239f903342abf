/* criterion.h - the part of criterion's interface that our tests use, for builds under ThreadSanitizer: criterion's own
 * library shares memory between processes at addresses that ThreadSanitizer keeps for itself.
 * Each test runs in a child process; all command line arguments are ignored. */
#ifndef TSAN_CRITERION_H
#define TSAN_CRITERION_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct shim_settings {
	void (*init)(void), (*fini)(void);
	int timeout; /* seconds */
	const char *description;
};

struct shim_test {
	const char *suite, *name;
	void (*run)(void); /* NULL: the settings of a whole suite */
	struct shim_settings settings;
	struct shim_test *next;
};

enum { SHIM_FAILED = 1, SHIM_SKIPPED = 77 };

static struct shim_test *shim_tests;
static int shim_status;

#define SHIM_REGISTER(suite_name, test_name, id, function, ...)                                                        \
	__attribute__((constructor)) static void id##_register(void)                                                   \
	{                                                                                                              \
		static struct shim_test test = {suite_name, test_name, function, {__VA_ARGS__}, NULL};                 \
		test.next = shim_tests;                                                                                \
		shim_tests = &test;                                                                                    \
	}

#define Test(suite, name, ...)                                                                                         \
	static void suite##_##name##_test(void);                                                                       \
	SHIM_REGISTER(#suite, #name, suite##_##name, suite##_##name##_test, __VA_ARGS__)                               \
	static void suite##_##name##_test(void)
#define TestSuite(suite, ...) SHIM_REGISTER(#suite, "", suite##_suite, NULL, __VA_ARGS__) struct shim_test

#define SHIM_CHECK(fatal, condition, text, ...)                                                                        \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s.", __FILE__, __LINE__, text);                                       \
			fprintf(stderr, " " __VA_ARGS__);                                                              \
			fputc('\n', stderr);                                                                           \
			shim_status = SHIM_FAILED;                                                                     \
			if (fatal)                                                                                     \
				exit(SHIM_FAILED);                                                                     \
		}                                                                                                      \
	} while (0)
#define SHIM_OP(fatal, a, op, b, ...) SHIM_CHECK(fatal, (a)op(b), #a " " #op " " #b, __VA_ARGS__)
#define SHIM_NEAR(fatal, a, b, e, ...)                                                                                 \
	SHIM_CHECK(fatal, fabs((double)((a) - (b))) <= (double)(e), #a " ~ " #b, __VA_ARGS__)
#define SHIM_STR(fatal, a, b, ...) SHIM_CHECK(fatal, strcmp(a, b) == 0, #a " is not " #b, __VA_ARGS__)
#define SHIM_ARR(fatal, a, b, n, ...) SHIM_CHECK(fatal, memcmp(a, b, n) == 0, #a " is not " #b, __VA_ARGS__)

#define cr_assert(c, ...) SHIM_CHECK(true, c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...) SHIM_CHECK(true, !(c), "not " #c, __VA_ARGS__)
#define cr_assert_null(p, ...) SHIM_CHECK(true, !(p), #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...) SHIM_CHECK(true, p, #p " is not NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) SHIM_OP(true, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) SHIM_OP(true, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) SHIM_OP(true, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) SHIM_OP(true, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) SHIM_OP(true, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) SHIM_OP(true, a, >=, b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) SHIM_NEAR(true, a, b, e, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) SHIM_STR(true, a, b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) SHIM_ARR(true, a, b, n, __VA_ARGS__)
#define cr_assert_fail(...) SHIM_CHECK(true, false, "failed", __VA_ARGS__)

#define cr_expect(c, ...) SHIM_CHECK(false, c, #c, __VA_ARGS__)
#define cr_expect_not(c, ...) SHIM_CHECK(false, !(c), "not " #c, __VA_ARGS__)
#define cr_expect_null(p, ...) SHIM_CHECK(false, !(p), #p " is NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...) SHIM_CHECK(false, p, #p " is not NULL", __VA_ARGS__)
#define cr_expect_eq(a, b, ...) SHIM_OP(false, a, ==, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) SHIM_OP(false, a, !=, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) SHIM_OP(false, a, <, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) SHIM_OP(false, a, <=, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) SHIM_OP(false, a, >, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) SHIM_OP(false, a, >=, b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) SHIM_NEAR(false, a, b, e, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) SHIM_STR(false, a, b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) SHIM_ARR(false, a, b, n, __VA_ARGS__)

#define cr_skip_test(...)                                                                                              \
	do {                                                                                                           \
		fprintf(stderr, "skipped: " __VA_ARGS__);                                                              \
		fputc('\n', stderr);                                                                                   \
		exit(SHIM_SKIPPED);                                                                                    \
	} while (0)

static void shim_run(const struct shim_test *test)
{
	struct shim_settings settings = test->settings;
	for (const struct shim_test *suite = shim_tests; suite; suite = suite->next) {
		if (!suite->run && strcmp(suite->suite, test->suite) == 0) {
			settings.init = settings.init ? settings.init : suite->settings.init;
			settings.fini = settings.fini ? settings.fini : suite->settings.fini;
		}
	}
	alarm(settings.timeout ? 10 * (unsigned)settings.timeout : 600); /* everything is slower here */
	if (settings.init)
		settings.init();
	test->run();
	if (settings.fini)
		settings.fini();
	exit(shim_status); /* where ThreadSanitizer makes it 66 after a report */
}

int main(void)
{
	int passed = 0, failed = 0, skipped = 0;
	for (const struct shim_test *test = shim_tests; test; test = test->next) {
		int status = -1;
		if (!test->run)
			continue;
		fflush(NULL);
		pid_t child = fork();
		if (child == 0)
			shim_run(test);
		waitpid(child, &status, 0);
		if (WIFEXITED(status) && WEXITSTATUS(status) == SHIM_SKIPPED) {
			skipped++;
		} else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
			passed++;
		} else {
			failed++;
			fprintf(stderr, "FAILED %s::%s, wait status 0x%x\n", test->suite, test->name, status);
		}
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed != 0;
}

#endif
