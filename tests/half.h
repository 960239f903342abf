/* half.h - half precision without a compiler's type for it: clang 14 has none. */
#ifndef TRELLIS_TEST_HALF_H
#define TRELLIS_TEST_HALF_H

#include <stdint.h>
#include <string.h>

/* x as a half, cut rather than rounded; what would be subnormal is zero. */
static inline uint16_t cut_to_half(float x)
{
	uint32_t bits, size;
	memcpy(&bits, &x, sizeof bits);
	size = bits & 0x7fffffff;
	return (uint16_t)((bits >> 16 & 0x8000) | (size < 0x38800000 ? 0 : (size - 0x38000000) >> 13));
}

#endif
