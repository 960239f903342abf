/* test_probe.c - the probe believes a device that computes, and none that only seems to. */
#include "probe.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static struct backend *create(void)
{
	struct error err = {""};
	struct backend *b = backend_cpu_create(1, &err);
	cr_assert(b, "%s", err.text);
	return b;
}

Test(probe, believes_a_device_that_computes)
{
	struct error err = {""};
	struct backend *b = create();
	cr_expect(probe_backend(b, &err), "%s", err.text);
	cr_expect(backend_ok(b));
	cr_expect_eq(scratch_mark(b), 0, "the probe left scratch memory in use");
	cr_expect_gt(probe_product_rate(b, 64), 0);
	backend_destroy(b);
	b = backend_reference_create(&err);
	cr_expect(probe_backend(b, &err), "%s", err.text);
	backend_destroy(b);
}

static void do_nothing(
	struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	(void)b, (void)x, (void)w, (void)e;
	memset(y.data, 0, (size_t)(y.rows * y.stride) * sizeof(float));
}

static void answer_nan(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	const struct windows *windows)
{
	(void)b, (void)q, (void)k, (void)v, (void)heads, (void)windows;
	for (int64_t i = 0; i < y.rows * y.stride; i++)
		((float *)y.data)[i] = NAN;
}

static void skip_the_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	(void)b, (void)n;
	for (int64_t i = 0; i < y.rows * y.stride; i++)
		((float *)y.data)[i] = ((float *)x.data)[i] * 1.01f;
}

static void fail(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	(void)y, (void)x, (void)n;
	backend_fail(b, "no kernel image for this device");
}

static void *refuse(struct backend *b, size_t bytes)
{
	backend_fail(b, "out of device memory: %zu bytes", bytes);
	return NULL;
}

static void expect_disbelief(const struct backend_ops *broken, const char *wanted)
{
	struct error err = {""};
	struct backend *b = create();
	const struct backend_ops *working = b->ops;
	b->ops = broken;
	cr_expect(!probe_backend(b, &err), "believed; wanted: %s", wanted);
	cr_expect(strstr(err.text, wanted), "wanted \"%s\", got \"%s\"", wanted, err.text);
	cr_expect(backend_ok(b), "the error must be cleared");
	b->ops = working;
	backend_destroy(b);
}

Test(probe, disbelieves_a_device_that_does_not)
{
	struct backend *b = create();
	const struct backend_ops working = *b->ops;
	backend_destroy(b);
	struct backend_ops broken = working;
	broken.linear = do_nothing;
	expect_disbelief(&broken, "computes wrong results");
	broken = working;
	broken.attention = answer_nan;
	expect_disbelief(&broken, "computes wrong results");
	broken = working;
	broken.layer_norm = skip_the_norm;
	expect_disbelief(&broken, "computes wrong results");
	broken = working;
	broken.layer_norm = fail;
	expect_disbelief(&broken, "no kernel image for this device");
	broken = working;
	broken.alloc = refuse;
	expect_disbelief(&broken, "out of device memory");
}
