/* random_weights.h - what random_model.c and random_checkpoint.h share. */
#ifndef TRELLIS_TEST_RANDOM_WEIGHTS_H
#define TRELLIS_TEST_RANDOM_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* x as a half, cut rather than rounded; what would be subnormal is zero. Without _Float16, which clang 14 does not have. */
static inline uint16_t cut_to_half(float x)
{
	uint32_t bits, size;
	memcpy(&bits, &x, sizeof bits);
	size = bits & 0x7fffffff;
	return (uint16_t)((bits >> 16 & 0x8000) | (size < 0x38800000 ? 0 : (size - 0x38000000) >> 13));
}

static inline bool ends_with(const char *name, const char *end)
{
	size_t n = strlen(name), m = strlen(end);
	return n >= m && !strcmp(name + n - m, end);
}

#endif
