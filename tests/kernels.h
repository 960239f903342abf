/* kernels.h - what the kernel tests share: noise, poisoned views with gaps between rows, and the comparison of two
 * backends. Both backends of these tests keep their tensors in host memory. */
#ifndef TRELLIS_TEST_KERNELS_H
#define TRELLIS_TEST_KERNELS_H

#include "../kernels/cpu.h"

#include <criterion/criterion.h>
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

static const float poison = 1e30f; /* finds its way into every sum that reads it, and is seen when overwritten */

/* Uninitialised [rows, cols] with `gap` numbers between rows, all poisoned. */
static inline struct tensor room(struct backend *b, int64_t rows, int64_t cols, int64_t gap)
{
	struct tensor all = scratch_new(b, rows, cols + gap);
	cr_assert(all.data, "%s", b->error.text);
	for (int64_t i = 0; i < rows * (cols + gap); i++)
		((float *)all.data)[i] = poison;
	return tensor_columns(all, gap / 2, cols);
}

static inline struct tensor place(struct backend *b, const float *values, int64_t rows, int64_t cols, int64_t gap)
{
	struct tensor x = room(b, rows, cols, gap);
	op_upload(b, x, values);
	return x;
}

static inline struct tensor place_noise(struct backend *b, int64_t rows, int64_t cols, int64_t gap, uint32_t seed)
{
	float *values = noise(rows * cols, seed);
	struct tensor x = place(b, values, rows, cols, gap);
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
	struct weight *w = weight_create(b, kind, out, in, DTYPE_F32, values);
	cr_assert(w, "%s", b->error.text);
	free(values);
	return w;
}

/* |y - expected| <= limit * (largest |expected|), element for element; the gaps between y's rows are still poisoned. */
static inline void expect_close(struct tensor y, struct tensor expected, double limit, const char *what)
{
	double largest = 0, worst = 0;
	int64_t worst_row = 0, worst_col = 0;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t c = 0; c < y.cols; c++) {
			double want = (double)((float *)expected.data)[r * expected.stride + c];
			double error = fabs((double)((float *)y.data)[r * y.stride + c] - want);
			largest = fmax(largest, fabs(want));
			if (!(error <= worst)) {
				worst = isnan(error) ? INFINITY : error;
				worst_row = r;
				worst_col = c;
			}
		}
	cr_expect(worst <= limit * largest,
		"%s: (%lld, %lld) is %.9g, wanted %.9g: off by %.3g of the largest, allowed %.3g", what,
		(long long)worst_row, (long long)worst_col, (double)((float *)y.data)[worst_row * y.stride + worst_col],
		(double)((float *)expected.data)[worst_row * expected.stride + worst_col], worst / largest, limit);
	for (int64_t r = 0; r + 1 < y.rows; r++)
		for (int64_t c = y.cols; c < y.stride; c++)
			cr_assert(((float *)y.data)[r * y.stride + c] == poison, "%s: wrote past row %lld", what,
				(long long)r);
}

/* Calls check with the oracle and every CPU backend that this machine runs: each instruction set, one and three
 * threads. */
static inline void for_each_cpu(void (*check)(struct backend *reference, struct backend *cpu))
{
	for (int level = 0; simd_level(level); level++)
		for (int threads = 1; threads <= 3; threads += 2) {
			struct error err = {""};
			struct backend *reference = backend_reference_create(&err);
			struct backend *cpu = cpu_create_with(threads, simd_level(level), &err);
			cr_assert(reference && cpu, "%s", err.text);
			check(reference, cpu);
			cr_expect(backend_finish(reference, &err), "reference: %s", err.text);
			cr_expect(backend_finish(cpu, &err), "%s: %s", simd_level(level)->name, err.text);
			backend_destroy(cpu);
			backend_destroy(reference);
		}
}

#endif
