/* test_threads.c - how many threads work: the limit is obeyed by every loop and leaves the caller's own setting alone; where
 * threads wait for a processor, there are fewer. */
#include "kernels.h"
#include "shape.h"

#include "../engine/mesh.h"
#include "../engine/preview.h"
#include "threads.h"

#include <dirent.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	int n = 0;
	cr_assert(dir);
	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

Test(threads, the_limit_is_what_all_may_use_and_no_less_than_one)
{
	threads_limit(0);
	cr_expect_eq(threads_now(), omp_get_max_threads());
	threads_limit(3);
	cr_expect(threads_now() == 3 && threads_of(2) == 2 && threads_of(5) == 5);
	threads_limit(1);
	cr_expect_eq(threads_now(), 1);
}

/* What the device leaves to the CPU: cleaning, filling, simplifying, drawing and packing. */
Test(threads, a_limit_of_one_starts_no_thread)
{
	struct trellis_params params = {.simplify = 9000};
	struct trellis_mesh m;
	struct buffer png = {0};
	struct error err = {""};
	threads_limit(1);
	omp_set_num_threads(4); /* what the loops would take by themselves */
	int before = count_threads();
	struct surface s = shape_surface(shape_sphere, 32, NULL);
	cr_assert(mesh_from_surface(&m, &s, &params, &err), "%s", err.text);
	cr_assert(preview_append_png(&png, &m, &err), "%s", err.text);
	cr_expect_eq(count_threads(), before, "%d threads more", count_threads() - before);
	threads_limit(3);
	buffer_finish(&png);
	cr_assert(preview_append_png(&png, &m, &err), "%s", err.text);
	cr_expect_eq(count_threads(), before + 2, "no use was made of them");
	buffer_finish(&png);
	surface_finish(&s);
	trellis_mesh_finish(&m);
}

/* The library may be part of a program that uses OpenMP itself. */
Test(threads, the_callers_own_number_stays)
{
	struct error err = {""};
	omp_set_num_threads(5);
	struct backend *b = backend_cpu_create(2, &err);
	cr_assert(b, "%s", err.text);
	struct weight *linear = weight_noise(b, WEIGHT_LINEAR, 32, 32, 1),
		      *conv = weight_noise(b, WEIGHT_CONV3, 8, 8, 2);
	struct tensor x = place_noise(b, 64, 32, 0, 3), cube = place_noise(b, 64, 8, 0, 4);
	op_linear(b, scratch_new(b, 64, 32), x, linear, NULL);
	op_conv3d(b, scratch_new(b, 64, 8), cube, conv, 4, NULL);
	cr_expect(backend_finish(b, &err), "%s", err.text);
	cr_expect_eq(omp_get_max_threads(), 5);
	weight_destroy(b, linear);
	weight_destroy(b, conv);
	backend_destroy(b);
}

static void judge(struct threads_trend *t, int most, double waited, int times)
{
	for (int i = 0; i < times; i++)
		threads_judge(t, most, waited);
}

Test(threads, as_many_fewer_as_wait_and_one_more_when_none_does)
{
	struct threads_trend t = {0};
	judge(&t, 16, 0.1, 100);
	cr_expect_eq(t.allowed, 0, "a tenth is nothing to speak of");
	judge(&t, 16, 0.3, 1);
	cr_expect_eq(t.allowed, 11);
	judge(&t, 16, 0.1, 100);
	cr_expect_eq(t.allowed, 11, "some still wait");
	judge(&t, 16, 0.01, THREADS_PATIENCE);
	cr_expect_eq(t.allowed, 12);
	judge(&t, 16, 0.01, 100);
	cr_expect_eq(t.allowed, 16);
	judge(&t, 16, 1, 1);
	cr_expect_eq(t.allowed, 1);
	judge(&t, 1, 1, 3);
	cr_expect_eq(t.allowed, 1, "one always works");
}

Test(threads, what_was_too_much_is_tried_less_and_less_often)
{
	struct threads_trend t = {0};
	judge(&t, 2, 0.5, 1);
	for (int wait = THREADS_PATIENCE; wait < 4 * THREADS_MOST_PATIENCE; wait *= 2) {
		int patience = wait < THREADS_MOST_PATIENCE ? wait : THREADS_MOST_PATIENCE;
		judge(&t, 2, 0, patience - 1);
		cr_expect_eq(t.allowed, 1, "after %d", patience - 1);
		judge(&t, 2, 0, 1);
		cr_expect_eq(t.allowed, 2, "after %d", patience);
		judge(&t, 2, 0.5, 1);
		cr_expect_eq(t.allowed, 1);
	}
}

static void compute_for(double seconds)
{
	clock_t end = clock() + (clock_t)(seconds * CLOCKS_PER_SEC);
	while (clock() < end)
		;
}

/* On one processor with another process beside: half of the time is waited. */
Test(threads, the_kernel_tells_who_waits)
{
	struct threads_watch watch = {0}, none = {0};
	cpu_set_t all, one;
	threads_limit(4);
	threads_review(&none);
	if (!none.begun)
		cr_skip_test("no /proc/thread-self/schedstat here");
	cr_assert(sched_getaffinity(0, sizeof all, &all) == 0);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &one);
	cr_assert(sched_setaffinity(0, sizeof one, &one) == 0);
	threads_review(&watch);
	pid_t other = fork();
	if (other == 0) {
		compute_for(60);
		_exit(0);
	}
	compute_for(0.3);
	threads_review(&watch);
	cr_expect(threads_now() < 4, "a thread that waits half of the time and nothing changes");
	cr_expect_eq(threads_of(1), 1);
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
}
