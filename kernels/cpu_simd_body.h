/* cpu_simd_body.h - the inner loops of cpu_simd.h, included by one .c file for each instruction set after it defines
 * SIMD_TABLE (name of the table), SIMD_NAME, LANES (floats a register) and ROWS (rows of the product's tile).
 * Loops are plain C with `omp simd`; sums are reassociated into LANES * 4 partial sums there and nowhere else.
 *
 * The tile of product: ROWS x 2 registers of sums stay in registers while b streams from the first-level cache; each
 * step loads two registers of b and broadcasts ROWS numbers of a for 2 ROWS multiply-adds. */
#include "cpu_simd.h"

#include <math.h>
#include <string.h>

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define SIMD _Pragma("omp simd")

enum { COLS = 2 * LANES };

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static void product(int64_t n, const float *const *a, int64_t a0, const float *b, float *const *c, int64_t c0, bool add)
{
	vec sum[ROWS][2] = {0};
	const float *row[ROWS];
	UNROLL for (int i = 0; i < ROWS; i++) row[i] = a[i] + a0;
	for (int64_t k = 0; k < n; k++) {
		vec b0 = *(const vec_any *)(b + k * COLS), b1 = *(const vec_any *)(b + k * COLS + LANES);
		UNROLL for (int i = 0; i < ROWS; i++)
		{
			float x = row[i][k];
			sum[i][0] += x * b0;
			sum[i][1] += x * b1;
		}
	}
	UNROLL for (int i = 0; i < ROWS; i++)
	{
		vec_any *y = (vec_any *)(c[i] + c0), *z = (vec_any *)(c[i] + c0 + LANES);
		if (add) {
			sum[i][0] += *y;
			sum[i][1] += *z;
		}
		*y = sum[i][0];
		*z = sum[i][1];
	}
}

/* e^x, relative error 1.5e-7; held at e^-87 (the smallest normal numbers) below -87 and at e^88 above 88.
 * x = n ln 2 + f with n whole and f in +-ln(2) / 2: n goes into the exponent, e^f is a polynomial through the Chebyshev
 * nodes (degree 6, error 2.5e-9). ln 2 comes in two parts, the first so short that its product with n is exact. */
static inline float exp_fast(float x)
{
	const float magic = 0x1.8p23f; /* adding it rounds to a whole number, which lands in the low bits */
	x = x < -87.0f ? -87.0f : x;
	x = x > 88.0f ? 88.0f : x;
	float shifted = x * 1.44269504f + magic;
	float n = shifted - magic;
	float f = x - n * 0.693145752f;
	f = f - n * 1.42860677e-6f;
	float p = 1.39411084e-3f;
	p = p * f + 8.3751264e-3f;
	p = p * f + 4.16663529e-2f;
	p = p * f + 1.66664155e-1f;
	p = p * f + 5.00000005e-1f;
	p = p * f + 1.0f;
	p = p * f + 1.0f;
	uint32_t exponent, bits;
	memcpy(&exponent, &shifted, sizeof exponent);
	memcpy(&bits, &p, sizeof bits);
	bits += exponent << 23;
	memcpy(&p, &bits, sizeof p);
	return p;
}

static inline float silu(float x)
{
	return x / (1.0f + exp_fast(-x));
}

/* 0.5 x (1 + tanh u) = x / (1 + e^(-2 u)) */
static inline float gelu_tanh(float x)
{
	float u = x * (0.797884561f + 0.0356774081f * x * x);
	return x / (1.0f + exp_fast(-2.0f * u));
}

/* 0.5 x (1 + erf(x / sqrt 2)). With z = |x| / sqrt 2 and t = 1 / (1 + z / 2), erfc(z) = t e^(-z^2) Q(t); Q is smooth on
 * (0, 1] and interpolated at the Chebyshev nodes (degree 10 in 2 t - 1, relative error 2.6e-8). */
static inline float gelu_erf(float x)
{
	float z = fabsf(x) * 0.707106781f;
	float t = 1.0f / (1.0f + 0.5f * z), u = 2.0f * t - 1.0f;
	float q = 4.42884217e-5f;
	q = q * u - 3.67643682e-5f;
	q = q * u - 3.04719100e-4f;
	q = q * u + 4.31040034e-4f;
	q = q * u + 1.53384705e-3f;
	q = q * u - 3.24373308e-3f;
	q = q * u - 1.07533109e-2f;
	q = q * u + 1.82217491e-2f;
	q = q * u + 1.39735946e-1f;
	q = q * u + 3.43580313e-1f;
	q = q * u + 5.10791353e-1f;
	float half_erfc = 0.5f * t * q * exp_fast(-z * z);
	return x * (x < 0 ? half_erfc : 1.0f - half_erfc);
}

static void softmax_step(int64_t n, float *s, float *largest, float *total, int64_t d, float *o)
{
	float top[COLS], shrink[COLS], sum[4][COLS] = {{0}};
	memcpy(top, largest, sizeof top);
	for (int64_t j = 0; j < n; j++)
		SIMD for (int i = 0; i < COLS; i++) top[i] = top[i] > s[j * COLS + i] ? top[i] : s[j * COLS + i];
	for (int64_t j = 0; j < n; j++)
		SIMD for (int i = 0; i < COLS; i++)
		{
			float p = exp_fast(s[j * COLS + i] - top[i]);
			s[j * COLS + i] = p;
			sum[j & 3][i] += p;
		}
	bool moved = false;
	for (int i = 0; i < COLS; i++)
		moved |= top[i] != largest[i];
	SIMD for (int i = 0; i < COLS; i++)
	{
		shrink[i] = exp_fast(largest[i] - top[i]);
		largest[i] = top[i];
		total[i] = total[i] * shrink[i] + ((sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]));
	}
	for (int64_t k = 0; moved && k < d; k++)
		SIMD for (int i = 0; i < COLS; i++) o[k * COLS + i] *= shrink[i];
}

static void activate(int64_t n, float *y, const float *x, enum activation act)
{
	switch (act) {
	case ACT_NONE:
		if (y != x)
			memmove(y, x, (size_t)n * sizeof *y);
		break;
	case ACT_SILU:
		SIMD for (int64_t i = 0; i < n; i++) y[i] = silu(x[i]);
		break;
	case ACT_GELU_TANH:
		SIMD for (int64_t i = 0; i < n; i++) y[i] = gelu_tanh(x[i]);
		break;
	case ACT_GELU_ERF:
		SIMD for (int64_t i = 0; i < n; i++) y[i] = gelu_erf(x[i]);
		break;
	}
}

enum { BLOCK = 512 }; /* numbers that pass from loop to loop in the first-level cache */

static void finish(int64_t n, float *y, const float *x, const float *bias, enum activation act, const float *gate,
	const float *residual)
{
	float t[BLOCK];
	for (int64_t first = 0; first < n; first += BLOCK) {
		int64_t m = n - first < BLOCK ? n - first : BLOCK;
		const float *from = x + first;
		if (bias) {
			SIMD for (int64_t i = 0; i < m; i++) t[i] = from[i] + bias[first + i];
			from = t;
		}
		if (act != ACT_NONE) {
			activate(m, t, from, act);
			from = t;
		}
		if (gate && residual)
			SIMD for (int64_t i = 0; i < m; i++) y[first + i] =
				residual[first + i] + gate[first + i] * from[i];
		else if (gate)
			SIMD for (int64_t i = 0; i < m; i++) y[first + i] = gate[first + i] * from[i];
		else if (residual)
			SIMD for (int64_t i = 0; i < m; i++) y[first + i] = residual[first + i] + from[i];
		else
			memmove(y + first, from, (size_t)m * sizeof *y);
	}
}

static void statistics(int64_t n, const float *x, float eps, float *mean, float *scale)
{
	double sum = 0, squares = 0;
	for (int64_t first = 0; first < n; first += BLOCK) {
		int64_t m = n - first < BLOCK ? n - first : BLOCK;
		float part = 0;
		_Pragma("omp simd reduction(+ : part)") for (int64_t i = 0; i < m; i++) part += x[first + i];
		sum += (double)part;
	}
	float centre = (float)(sum / (double)n);
	for (int64_t first = 0; first < n; first += BLOCK) {
		int64_t m = n - first < BLOCK ? n - first : BLOCK;
		float part = 0;
		_Pragma("omp simd reduction(+ : part)") for (int64_t i = 0; i < m; i++) part +=
			(x[first + i] - centre) * (x[first + i] - centre);
		squares += (double)part;
	}
	*mean = centre;
	*scale = (float)(1 / sqrt(squares / (double)n + (double)eps));
}

static void normalise(int64_t n, float *y, const float *x, const float *mean, const float *scale, int stride_stat,
	const float *w, const float *b, const float *s, const float *t, enum activation act)
{
	if (stride_stat)
		SIMD for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean[i]) * scale[i];
	else {
		float m = *mean, q = *scale;
		SIMD for (int64_t i = 0; i < n; i++) y[i] = (x[i] - m) * q;
	}
	if (w)
		SIMD for (int64_t i = 0; i < n; i++) y[i] = y[i] * w[i] + b[i];
	if (s)
		SIMD for (int64_t i = 0; i < n; i++) y[i] = y[i] * (1.0f + s[i]) + t[i];
	if (act != ACT_NONE)
		activate(n, y, y, act);
}

static float squares(int64_t n, const float *x)
{
	float sum = 0;
	_Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
	return sum;
}

const struct simd SIMD_TABLE = {
	.name = SIMD_NAME,
	.rows = ROWS,
	.cols = COLS,
	.product = product,
	.softmax_step = softmax_step,
	.activate = activate,
	.finish = finish,
	.statistics = statistics,
	.normalise = normalise,
	.squares = squares,
};
