/* test_device_faults.c - what the engine does when a device that worked fails: in loading, in a job, and for good. */
#include "fake_plugin.h"
#include "trellis.h"

#include <pthread.h>
#include <stdatomic.h>

static struct trellis_image image;
static struct error err;

static struct trellis *open_model(const char *text, bool low_memory)
{
	plan(text);
	const struct trellis_options options = {
		.model = "tests/golden/e2e", .device = "cuda", .dtype = "f32", .low_memory = low_memory};
	struct trellis *t = trellis_create(&options, &err);
	cr_assert(t, "%s", err.text);
	if (!image.rgba)
		cr_assert(trellis_image_load(&image, "tests/golden/e2e/input.png", &err), "%s", err.text);
	return t;
}

static void close_model(struct trellis *t)
{
	trellis_destroy(t);
	forget_plan();
}

/* A job of two steps each; its latent's first number, 0 when it failed. */
static double run_watched_job(struct trellis *t, trellis_progress_fn progress, void *user, bool *ok)
{
	struct trellis_params p = trellis_params_default();
	struct trellis_latent latent = {0};
	struct trellis_mesh mesh = {0};
	p.structure_steps = p.latent_steps = 2;
	*ok = trellis_generate(t, &image, 1, &p, progress, user, &latent, &err) &&
	      trellis_decode(t, &latent, &p, progress, user, &mesh, &err);
	double first = *ok ? (double)latent.feats[0] : 0;
	cr_expect(!*ok || mesh.n_faces > 0);
	trellis_mesh_finish(&mesh);
	trellis_latent_finish(&latent);
	return first;
}

static double run_job(struct trellis *t, bool *ok)
{
	return run_watched_job(t, NULL, NULL, ok);
}

struct told {
	int n, last, cancel_at;
	double fraction;
};

static bool watch(const struct trellis_progress *p, void *user)
{
	struct told *told = user;
	cr_expect_eq(p->stage, TRELLIS_LOAD);
	cr_expect_geq(p->step, told->last);
	told->last = p->step;
	told->fraction = p->fraction;
	return ++told->n != told->cancel_at;
}

Test(device_faults, loading_tells_how_far_it_is)
{
	struct told told = {0};
	struct trellis *t = open_model("helper=0", false);
	cr_assert(trellis_load(t, watch, &told, &err), "%s", err.text);
	cr_expect_geq(told.n, 20, "told only %d times", told.n);
	cr_expect_gt(told.fraction, 0.97, "ended at %g", told.fraction);
	told = (struct told){0};
	cr_assert(trellis_load(t, watch, &told, &err), "%s", err.text);
	cr_expect_eq(told.n, 0, "loaded again");
	close_model(t);
}

/* What loads ahead is ready sooner; the rest comes while a job runs. */
Test(device_faults, ready_with_the_first_networks)
{
	struct told all = {0}, told = {0};
	bool ok;
	struct trellis *t = open_model("helper=0", false);
	cr_assert(trellis_load(t, watch, &all, &err), "%s", err.text);
	close_model(t);
	t = open_model("", false);
	cr_assert(trellis_load(t, watch, &told, &err), "%s", err.text);
	cr_expect_gt(told.fraction, 0.97, "ended at %g", told.fraction);
	cr_expect_lt(told.n, all.n, "told as often as of all networks");
	run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	close_model(t);
}

Test(device_faults, loading_can_be_cancelled)
{
	struct told told = {.cancel_at = 5};
	struct trellis *t = open_model("helper=0", false);
	cr_expect(!trellis_load(t, watch, &told, &err));
	cr_expect_str_eq(err.text, "cancelled");
	cr_expect_eq(told.n, 5);
	cr_expect(!trellis_device_failed(t, &err));
	told = (struct told){0};
	cr_expect(trellis_load(t, watch, &told, &err), "%s", err.text);
	close_model(t);
}

Test(device_faults, low_memory_loads_nothing_before_a_job)
{
	struct told told = {0};
	bool ok;
	struct trellis *t = open_model("", true);
	cr_expect(trellis_load(t, watch, &told, &err));
	cr_expect_eq(told.n, 0);
	run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	close_model(t);
}

/* What a model gives under this plan. */
static double result_of(const char *text, bool low_memory)
{
	bool ok;
	struct trellis *t = open_model(text, low_memory);
	double first = run_job(t, &ok);
	cr_expect(ok, "%s: %s", text, err.text);
	cr_expect_eq(run_job(t, &ok), first, "%s: the second job", text);
	close_model(t);
	return first;
}

/* The encoder's first product does not end before a weight of the structure flow has been loaded, and the other way round:
 * the encoder has 26 tensors, the flow 49. */
Test(device_faults, the_next_network_is_loaded_while_one_works, .timeout = 120)
{
	double wanted = result_of("helper=0", false);
	cr_expect_eq(result_of("meet=40", false), wanted);
	cr_expect_eq(result_of("meet=40", true), wanted);
	cr_expect_eq(result_of("helper=0", true), wanted);
}

/* The whole does not fit, two networks at a time sometimes do: what has no room waits until one has left. */
Test(device_faults, ahead_as_far_as_there_is_room)
{
	double wanted = result_of("helper=0", false);
	cr_expect_eq(result_of("free=1000", false), wanted);
	cr_expect_eq(result_of("free=9000000", false), wanted);
	cr_expect_eq(result_of("free=20000000", false), wanted);
}

/* A mesh decoder that was loaded ahead and not asked for takes the room that the encoder needs. */
Test(device_faults, a_latent_is_never_decoded, .timeout = 60)
{
	struct trellis_params p = trellis_params_default();
	struct trellis *t = open_model("free=1000", false);
	p.structure_steps = p.latent_steps = 1;
	for (int i = 0; i < 2; i++) {
		struct trellis_latent latent;
		cr_assert(trellis_generate(t, &image, 1, &p, NULL, NULL, &latent, &err), "%s", err.text);
		trellis_latent_finish(&latent);
		usleep(300000); /* by then it is there */
	}
	close_model(t);
}

/* What can't be loaded ahead is loaded when it is needed. */
Test(device_faults, loading_ahead_fails)
{
	double wanted = result_of("helper=0", false);
	cr_expect_eq(result_of("ahead=memory", false), wanted);
	cr_expect_eq(result_of("ahead=memory", true), wanted);
	cr_expect_eq(result_of("ahead=call", true), wanted);
}

/* No thread can be had, here because its stack would be larger than any address space. */
Test(device_faults, no_thread_to_load_ahead, .timeout = 60)
{
	double wanted = result_of("helper=0", true);
	pthread_attr_t attr;
	bool ok;
	struct trellis *t = open_model("", true);
	cr_assert(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, (size_t)1 << 47) == 0 &&
		  pthread_setattr_default_np(&attr) == 0);
	for (int i = 0; i < 2; i++) {
		cr_expect_eq(run_job(t, &ok), wanted);
		cr_expect(ok, "%s", err.text);
	}
	close_model(t);
}

/* Two networks at a time are too much, one is not. */
Test(device_faults, no_memory_in_a_job_for_what_was_loaded_ahead)
{
	double wanted = result_of("helper=0", true);
	cr_expect_eq(result_of("memory=40", true), wanted);
}

Test(device_faults, the_device_is_lost_while_loading_ahead)
{
	bool ok;
	struct trellis *t = open_model("ahead=sticky", true);
	run_job(t, &ok);
	cr_expect(!ok);
	cr_expect(strstr(err.text, "an illegal memory access"), "%s", err.text);
	cr_expect(trellis_device_failed(t, &err));
	close_model(t);
}

static atomic_int heard;

static bool hear(const struct trellis_progress *p, void *user)
{
	(void)p;
	(void)user;
	heard++;
	return true;
}

static void *run_hanging_job(void *t)
{
	bool ok;
	run_watched_job(t, hear, NULL, &ok);
	abort(); /* it can't come to an end */
}

/* Who watches a job for signs of life must not see any of a device that hangs beside it. */
Test(device_faults, the_device_hangs_while_loading_ahead)
{
#ifdef __SANITIZE_THREAD__
	cr_skip_test("the threads that hang are still there when the process ends");
#endif
	pthread_t thread;
	struct trellis *t = open_model("ahead=hang", true);
	cr_assert_eq(pthread_create(&thread, NULL, run_hanging_job, t), 0);
	pthread_detach(thread);
	usleep(1500000);
	int before = heard;
	cr_expect_gt(before, 0);
	usleep(1000000);
	cr_expect_eq(heard, before, "it goes on telling progress");
	forget_plan();
}

static bool cancel_soon(const struct trellis_progress *p, void *user)
{
	(void)p;
	return ++*(int *)user < 4;
}

/* Also while it waits for a network that is being loaded. */
Test(device_faults, a_job_is_cancelled_while_others_load)
{
	int told = 0;
	bool ok;
	struct trellis *t = open_model("slow-load=10", true);
	run_watched_job(t, cancel_soon, &told, &ok);
	cr_expect(!ok);
	cr_expect_str_eq(err.text, "cancelled");
	told = -1000000;
	run_watched_job(t, cancel_soon, &told, &ok);
	cr_expect(ok, "%s", err.text);
	close_model(t);
}

/* Less memory than all weights take: stage by stage from the start. */
Test(device_faults, a_small_device_is_no_failure)
{
	struct told told = {0};
	bool ok;
	struct trellis *t = open_model("bytes=200000000", false);
	run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	cr_expect(trellis_load(t, watch, &told, &err));
	close_model(t);
}

Test(device_faults, no_memory_while_loading)
{
	bool ok;
	struct trellis *t = open_model("load=memory", false);
	cr_expect(trellis_load(t, NULL, NULL, &err), "%s", err.text);
	run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	close_model(t);
}

/* The job is done once more and gives what it would have given. */
Test(device_faults, no_memory_in_a_job)
{
	bool ok;
	struct trellis *t = open_model("", false);
	double wanted = run_job(t, &ok);
	close_model(t);
	t = open_model("memory=40", false);
	double got = run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	cr_expect_eq(got, wanted);
	cr_expect(!trellis_device_failed(t, &err));
	close_model(t);
}

Test(device_faults, no_memory_again_and_again)
{
	bool ok;
	struct trellis *t = open_model("memory=40 more=1", false);
	run_job(t, &ok);
	cr_expect(!ok);
	cr_expect_str_eq(err.text, "out of device memory: 1234 bytes wanted");
	cr_expect(trellis_device_failed(t, &err), "another device might do it");
	close_model(t);
}

Test(device_faults, the_device_is_lost)
{
	bool ok;
	struct trellis *t = open_model("sticky=40", false);
	run_job(t, &ok);
	cr_expect(!ok);
	cr_expect(strstr(err.text, "an illegal memory access"), "%s", err.text);
	cr_expect(trellis_device_failed(t, &err));
	run_job(t, &ok);
	cr_expect(!ok && trellis_device_failed(t, &err), "it came back");
	close_model(t);
}

Test(device_faults, the_device_is_lost_while_loading)
{
	struct trellis *t = open_model("load=sticky", false);
	cr_expect(!trellis_load(t, NULL, NULL, &err));
	cr_expect(trellis_device_failed(t, &err));
	close_model(t);
}

/* A failure of the job is none of the device. */
Test(device_faults, one_call_fails)
{
	bool ok;
	struct trellis *t = open_model("call=40", false);
	run_job(t, &ok);
	cr_expect(!ok);
	cr_expect_str_eq(err.text, "fakeLaunch failed: 719");
	cr_expect(!trellis_device_failed(t, &err));
	run_job(t, &ok);
	cr_expect(ok, "%s", err.text);
	close_model(t);
}

/* Results that are wrong all of a sudden make an empty or an overfull structure: the device is asked before the picture is
 * blamed. */
Test(device_faults, wrong_results_all_of_a_sudden)
{
	bool ok;
	struct trellis *t = open_model("wrong=40 helper=0", false);
	run_job(t, &ok);
	cr_expect(!ok);
	cr_expect(strstr(err.text, "the structure"), "%s", err.text);
	cr_expect(trellis_device_failed(t, &err));
	cr_expect(strstr(err.text, "fake computes wrong results"), "%s", err.text);
	close_model(t);
}
