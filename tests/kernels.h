/* kernels.h - what the kernel tests share: noise, poisoned views with gaps between rows, and the comparison of a backend
 * with the oracle. Nothing here touches a tensor's memory: it may be a device's. */
#ifndef TRELLIS_TEST_KERNELS_H
#define TRELLIS_TEST_KERNELS_H

#include "../kernels/cpu.h"
#include "../kernels/plugin.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Uniform in +-1, the same for the same seed. */
static inline float noise_next(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return (float)(int32_t)*state * 0x1p-31f;
}

/* malloc'd */
static inline float *noise(int64_t n, uint32_t seed)
{
	float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
	uint32_t state = seed * 2654435761u + 1;
	for (int64_t i = 0; i < n; i++)
		x[i] = noise_next(&state);
	return x;
}

/* What is compared with the oracle at the moment; NULL: the oracle with numbers written down. */
static struct backend *under_test;

/* x as the backend under test can hold it: both sides then start from the same numbers. Below 65504. */
static inline float as_held(float x)
{
	enum dtype type = under_test ? under_test->act : DTYPE_F32;
	int drop = type == DTYPE_F16 ? 13 : type == DTYPE_BF16 ? 16 : 0;
	uint32_t bits;
	if (type == DTYPE_F16 && fabsf(x) < 0x1p-14f)
		return rintf(x * 0x1p24f) * 0x1p-24f; /* subnormal */
	if (drop == 0)
		return x;
	memcpy(&bits, &x, sizeof bits);
	bits += (1u << (drop - 1)) - 1 + (bits >> drop & 1); /* to the nearest, ties to even */
	bits &= ~0u << drop;
	memcpy(&x, &bits, sizeof x);
	return x;
}

/* A limit in f32, or what rounding a sum's terms and the result to a half type costs. */
static inline double limit_of(double limit)
{
	double rounding = !under_test || under_test->act == DTYPE_F32 ? 0
			  : under_test->act == DTYPE_F16	      ? 2e-3
								      : 1.6e-2;
	return limit > rounding ? limit : rounding;
}

/* Finds its way into every sum that reads it, and is seen when overwritten; every float type holds it exactly. */
static const float poison = 49152;

/* Uninitialised [rows, cols] with `gap` numbers between rows, all poisoned. */
static inline struct tensor room(struct backend *b, int64_t rows, int64_t cols, int64_t gap)
{
	struct tensor all = scratch_new(b, rows, cols + gap);
	float *values = malloc((size_t)(rows * (cols + gap)) * sizeof *values);
	cr_assert(all.data && values, "%s", b->error.text);
	for (int64_t i = 0; i < rows * (cols + gap); i++)
		values[i] = poison;
	op_upload(b, all, values);
	free(values);
	return tensor_columns(all, gap / 2, cols);
}

static inline struct tensor place(struct backend *b, const float *values, int64_t rows, int64_t cols, int64_t gap)
{
	struct tensor x = room(b, rows, cols, gap);
	op_upload(b, x, values);
	return x;
}

/* Noise times `size`, plus `shift`. */
static inline struct tensor place_noise_sized(
	struct backend *b, int64_t rows, int64_t cols, int64_t gap, uint32_t seed, float size, float shift)
{
	float *values = noise(rows * cols, seed);
	for (int64_t i = 0; i < rows * cols; i++)
		values[i] = as_held(values[i] * size + shift);
	struct tensor x = place(b, values, rows, cols, gap);
	free(values);
	return x;
}

static inline struct tensor place_noise(struct backend *b, int64_t rows, int64_t cols, int64_t gap, uint32_t seed)
{
	return place_noise_sized(b, rows, cols, gap, seed, 1, 0);
}

/* One row of f32 whatever activations are: gates, scales and shifts. */
static inline struct tensor place_row(struct backend *b, int64_t cols, uint32_t seed)
{
	float *values = noise(cols, seed);
	struct tensor x = scratch_new_as(b, DTYPE_F32, 1, cols);
	op_upload(b, x, values);
	free(values);
	return x;
}

static inline struct tensor place_i32(struct backend *b, const int32_t *values, int64_t rows, int64_t cols)
{
	struct tensor x = scratch_new_as(b, DTYPE_I32, rows, cols);
	op_upload_i32(b, x, values);
	return x;
}

static inline struct weight *weight_noise(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, uint32_t seed)
{
	float *values = noise(weight_count(kind, out, in), seed);
	for (int64_t i = 0; i < weight_count(kind, out, in); i++)
		values[i] = as_held(values[i]);
	struct weight *w = weight_create(b, kind, out, in, DTYPE_F32, values);
	cr_assert(w, "%s", b->error.text);
	free(values);
	return w;
}

/* A tensor's numbers, `cols` a row; the last row may end with the view's columns. malloc'd */
static inline float *fetch(struct backend *b, struct tensor x, int64_t cols)
{
	float *values = calloc((size_t)(x.rows * cols + 1), sizeof *values);
	struct tensor wide = x;
	wide.cols = cols;
	cr_assert(values);
	if (x.rows > 1)
		op_download(b, values, tensor_rows(wide, 0, x.rows - 1));
	op_download(b, values + (x.rows - 1) * cols, tensor_rows(x, x.rows - 1, 1));
	cr_assert(backend_ok(b), "%s", b->error.text);
	return values;
}

/* |y - expected| <= limit * (largest |expected|), element for element; the gaps between y's rows are still poisoned. */
static inline void expect_close(
	struct backend *b[2], struct tensor y, struct tensor expected, double limit, const char *what)
{
	double largest = 0, worst = 0;
	int64_t worst_row = 0, worst_col = 0, stride = y.rows > 1 ? y.stride : y.cols;
	float *want = fetch(b[0], expected, expected.cols), *have = fetch(b[1], y, stride);
	limit = limit_of(limit);
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t c = 0; c < y.cols; c++) {
			double wanted = (double)want[r * y.cols + c];
			double error = fabs((double)have[r * stride + c] - wanted);
			largest = fmax(largest, fabs(wanted));
			if (!(error <= worst)) {
				worst = isnan(error) ? INFINITY : error;
				worst_row = r;
				worst_col = c;
			}
		}
	cr_expect(worst <= limit * largest,
		"%s, %s %s: (%lld, %lld) is %.9g, wanted %.9g: off by %.3g of the largest, allowed %.3g",
		b[1]->ops->name, dtype_name(b[1]->act), what, (long long)worst_row, (long long)worst_col,
		(double)have[worst_row * stride + worst_col], (double)want[worst_row * y.cols + worst_col],
		worst / largest, limit);
	for (int64_t r = 0; r + 1 < y.rows; r++)
		for (int64_t c = y.cols; c < stride; c++)
			cr_assert(have[r * stride + c] == poison, "%s: wrote past row %lld", what, (long long)r);
	free(want);
	free(have);
}

static inline void check_backend(void (*check)(struct backend *b[2]), struct backend *b)
{
	struct error err = {""};
	struct backend *pair[2] = {backend_reference_create(&err), b};
	cr_assert(pair[0] && b, "%s", err.text);
	under_test = b;
	check(pair);
	for (int i = 0; i < 2; i++)
		cr_expect(backend_finish(pair[i], &err), "%s: %s", pair[i]->ops->name, err.text);
	backend_destroy(b);
	backend_destroy(pair[0]);
	under_test = NULL;
}

/* The library that TRELLIS_TEST_PLUGIN names (an absolute path), or NULL when it names none. */
static inline const struct trellis_plugin *test_plugin(void)
{
	const char *path = getenv("TRELLIS_TEST_PLUGIN");
	if (!path)
		return NULL;
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	cr_assert(library, "%s", dlerror());
	trellis_plugin_fn entry = (trellis_plugin_fn)dlsym(library, TRELLIS_PLUGIN_SYMBOL);
	cr_assert(entry, "%s has no " TRELLIS_PLUGIN_SYMBOL, path);
	return entry();
}

/* Calls check with the oracle and every backend there is: of the CPU each instruction set that this machine runs, with
 * one and three threads; with TRELLIS_TEST_PLUGIN instead that library's first device, in each of its types. */
static inline void for_each_backend(void (*check)(struct backend *b[2]))
{
	struct error err = {""};
	const struct trellis_plugin *plugin = test_plugin();
	if (plugin) {
		for (enum dtype act = DTYPE_F32; act <= DTYPE_BF16; act++) {
			struct backend *b = plugin->create(0, act, &err);
			cr_assert(b, "%s", err.text);
			check_backend(check, b);
		}
		return;
	}
	for (int level = 0; simd_level(level); level++)
		for (int threads = 1; threads <= 3; threads += 2)
			check_backend(check, cpu_create_with(threads, simd_level(level), &err));
}

#endif
