/* cpu_simd_base.c - the inner loops for every machine of the architecture (SSE2, NEON), and the choice between levels.
 */
#define SIMD_TABLE simd_base
#define SIMD_NAME "base"
#define LANES 4
#define ROWS 6
#include "cpu_simd_body.h"

const struct simd *simd_level(int level)
{
	if (level == 0)
		return &simd_base;
#ifdef __x86_64__
	if (level == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return &simd_avx2;
	if (level == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
		__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
		return &simd_avx512;
#endif
	return NULL;
}

const struct simd *simd_best(void)
{
	int level = 0;
	while (simd_level(level + 1))
		level++;
	return simd_level(level);
}
