/* cpu_simd.h - the inner loops of the CPU backend, compiled once for each instruction set and chosen at run time.
 * The bodies are in cpu_simd_body.h; cpu_simd_{base,avx2,avx512}.c compile them. All data is f32. */
#ifndef TRELLIS_CPU_SIMD_H
#define TRELLIS_CPU_SIMD_H

#include "backend.h"

/* No instruction set's tile is larger than this. */
enum { SIMD_MAX_ROWS = 8, SIMD_MAX_COLS = 32 };

struct simd {
	const char *name;
	int rows, cols; /* the tile of product */

	/* The GEMM tile: c[i][c0 + j] (+)= sum over k < n of a[i][a0 + k] * b[k * cols + j], i < rows, j < cols; it is
	 * added to c or replaces it. Rows are reached through pointers, so that gathering needs no copy. Equal c's are
	 * allowed where the result is not wanted. */
	void (*product)(
		int64_t n, const float *const *a, int64_t a0, const float *b, float *const *c, int64_t c0, bool add);

	/* One step of the online softmax over n keys for `cols` queries side by side, s [n, cols] scores: with
	 * m = max(largest, s) and shrink = e^(largest - m), s = e^(s - m), total = total * shrink + sum of s,
	 * o [d, cols] *= shrink, largest = m. Rows of s from n on are left alone. */
	void (*softmax_step)(int64_t n, float *s, float *largest, float *total, int64_t d, float *o);

	/* y = act(x) over n numbers; y may be x. */
	void (*activate)(int64_t n, float *y, const float *x, enum activation act);
	/* y = residual + gate * act(x + bias); bias, gate and residual may be NULL. y may be x or residual. */
	void (*finish)(int64_t n, float *y, const float *x, const float *bias, enum activation act, const float *gate,
		const float *residual);

	/* Mean and 1 / sqrt(var + eps) of n numbers. */
	void (*statistics)(int64_t n, const float *x, float eps, float *mean, float *scale);
	/* y = act(((x - mean) * scale * w + b) * (1 + s) + t); the pairs w, b and s, t may be NULL; stride_stat 0: one
	 * mean and scale for all, 1: one for each number. y may be x. */
	void (*normalise)(int64_t n, float *y, const float *x, const float *mean, const float *scale, int stride_stat,
		const float *w, const float *b, const float *s, const float *t, enum activation act);
	/* sum of x^2 over n numbers */
	float (*squares)(int64_t n, const float *x);
};

/* Level 0 is what every machine of the architecture runs; NULL above what this one can. */
const struct simd *simd_level(int level);
/* The highest level that this machine runs. */
const struct simd *simd_best(void);

extern const struct simd simd_base;
#ifdef __x86_64__
extern const struct simd simd_avx2, simd_avx512;
#endif

#endif
