/* rng.c - torch's CPU random numbers: mt19937 and its two Box-Muller transforms.
 * Used by sample_structure.c and sample_latent.c for the noise that a flow starts from.
 *
 * torch fills 16 numbers and more with a vector routine in float32 whose logarithm, sine and cosine are the Cephes
 * single-precision polynomials. Equal bits therefore need the same polynomials in the same order of operations with
 * every multiply-add fused; fmaf() is exact on every machine, with or without an FMA unit. Smaller draws are made one
 * by one in double. Source: Matsumoto and Nishimura 1998 (mt19937); S. Moshier's Cephes library (logf, sinf, cosf). */
#include "rng.h"

#include <math.h>
#include <string.h>

#define N 624
#define M 397

void rng_seed(struct rng *rng, uint64_t seed)
{
	rng->state[0] = (uint32_t)seed;
	for (uint32_t i = 1; i < N; i++) {
		uint32_t last = rng->state[i - 1];
		rng->state[i] = 1812433253u * (last ^ last >> 30) + i;
	}
	rng->next = N;
	rng->has_kept = false;
	rng->kept = 0;
}

static void twist(uint32_t *state)
{
	for (int i = 0; i < N; i++) {
		uint32_t y = (state[i] & 0x80000000u) | (state[(i + 1) % N] & 0x7fffffffu);
		state[i] = state[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
	}
}

static uint32_t next_u32(struct rng *rng)
{
	if (rng->next == N) {
		twist(rng->state);
		rng->next = 0;
	}
	uint32_t y = rng->state[rng->next++];
	y ^= y >> 11;
	y ^= y << 7 & 0x9d2c5680u;
	y ^= y << 15 & 0xefc60000u;
	return y ^ y >> 18;
}

/* [0, 1) in steps of 2^-24 */
static float uniform_f32(struct rng *rng)
{
	return (float)(next_u32(rng) & 0xffffff) * 0x1p-24f;
}

/* [0, 1) in steps of 2^-53; the high word is drawn first. */
static double uniform_f64(struct rng *rng)
{
	uint64_t high = next_u32(rng);
	uint64_t bits = high << 32 | next_u32(rng);
	return (double)(bits & ((1ull << 53) - 1)) * 0x1p-53;
}

/* Natural logarithm of a normal x in (0, 1]. */
static float cephes_log(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	float e = (float)((int)(bits >> 23) - 126);
	bits = (bits & 0x007fffffu) | 0x3f000000u; /* mantissa in [0.5, 1) */
	memcpy(&x, &bits, sizeof x);
	if (x < 0.707106781186547524f) {
		e -= 1;
		x += x - 1;
	} else {
		x -= 1;
	}
	static const float p[] = {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
		1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
	float z = x * x;
	float y = p[0];
	for (int i = 1; i < 9; i++)
		y = fmaf(y, x, p[i]);
	y *= x;
	y = fmaf(y, z, e * -2.12194440e-4f); /* ln 2 in two parts: 0.693359375 - 2.1219444e-4 */
	y = fmaf(z, -0.5f, y);
	return fmaf(e, 0.693359375f, x + y);
}

/* Sine and cosine of x in [0, 2 pi]. */
static void cephes_sincos(float x, float *sine, float *cosine)
{
	unsigned octant = ((unsigned)(x * 1.27323954473516f) + 1) & ~1u; /* x / (pi / 4), made even */
	float y = (float)octant;
	x = fmaf(y, -0.78515625f, x); /* pi / 4 in three parts */
	x = fmaf(y, -2.4187564849853515625e-4f, x);
	x = fmaf(y, -3.77489497744594108e-8f, x);

	float z = x * x;
	float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
	c = fmaf(c, z, 4.166664568298827e-2f) * z;
	c = fmaf(c, z, z * -0.5f) + 1;
	float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
	s = fmaf(s, z, -1.6666654611e-1f) * z;
	s = fmaf(s, x, x);

	bool swapped = octant & 2;
	*sine = swapped ? c : s;
	*cosine = swapped ? s : c;
	if (octant & 4)
		*sine = -*sine;
	if ((octant + 2) & 4)
		*cosine = -*cosine;
}

/* Box-Muller in place: uniforms u[0..7] give the radii, u[8..15] the angles. */
static void normal_16(float *u)
{
	for (int j = 0; j < 8; j++) {
		float radius = sqrtf(-2 * cephes_log(1 - u[j]));
		float sine, cosine;
		cephes_sincos(6.28318530717958647692f * u[j + 8], &sine, &cosine);
		u[j] = radius * cosine + 0.0f; /* torch adds the mean, which turns -0 into 0 */
		u[j + 8] = radius * sine + 0.0f;
	}
}

static float normal_1(struct rng *rng)
{
	if (rng->has_kept) {
		rng->has_kept = false;
		return (float)rng->kept;
	}
	double angle = 2 * M_PI * uniform_f64(rng);
	double radius = sqrt(-2 * log1p(-uniform_f64(rng)));
	rng->kept = radius * sin(angle);
	rng->has_kept = true;
	return (float)(radius * cos(angle));
}

void rng_normal(struct rng *rng, float *out, int64_t n)
{
	if (n < 16) {
		for (int64_t i = 0; i < n; i++)
			out[i] = normal_1(rng);
		return;
	}
	for (int64_t i = 0; i < n; i++)
		out[i] = uniform_f32(rng);
	for (int64_t i = 0; i + 16 <= n; i += 16)
		normal_16(out + i);
	if (n % 16) { /* the last 16 are drawn again, overlapping the last whole group */
		for (int64_t i = n - 16; i < n; i++)
			out[i] = uniform_f32(rng);
		normal_16(out + n - 16);
	}
}
