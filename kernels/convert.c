/* convert.c - checkpoint numbers (f32, f16, bf16) to f32. Exact: every half is a float. */
#include "backend_impl.h"

#include <string.h>

/* f16 has 5 exponent bits biased by 15, f32 has 8 biased by 127: shifted into place, a half's bits are a float that is
 * 2^112 too small, subnormals included. What was infinite or NaN comes out at 2^16 or above and gets its exponent back.
 * No branch, so that the loop vectorises without F16C. */
static inline float half_to_float(uint16_t h)
{
	uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
	float f;
	memcpy(&f, &bits, sizeof f);
	f *= 0x1p112f;
	memcpy(&bits, &f, sizeof bits);
	bits |= f >= 0x1p16f ? 0x7f800000u : 0;
	bits |= (uint32_t)(h & 0x8000) << 16;
	memcpy(&f, &bits, sizeof f);
	return f;
}

void convert_to_f32(float *y, const void *x, enum dtype dtype, int64_t n)
{
	const struct {
		uint16_t bits;
	} __attribute__((packed, may_alias)) *half = x;
	if (dtype == DTYPE_F32) {
		memcpy(y, x, (size_t)n * sizeof *y);
	} else if (dtype == DTYPE_F16) {
#pragma omp simd
		for (int64_t i = 0; i < n; i++)
			y[i] = half_to_float(half[i].bits);
	} else {
#pragma omp simd
		for (int64_t i = 0; i < n; i++) {
			uint32_t bits = (uint32_t)half[i].bits << 16;
			memcpy(y + i, &bits, sizeof bits);
		}
	}
}
