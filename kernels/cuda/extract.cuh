/* extract.cuh - points, sets of points and features, for the kernels of extract*.cu.
 * Decisions must equal the CPU's (flexicubes.c): where they hang on sums, no multiply-add is contracted. */
#ifndef TRELLIS_CUDA_EXTRACT_CUH
#define TRELLIS_CUDA_EXTRACT_CUH

#include "extract.h"

#include <limits.h>

enum { SDF = 0, DEFORM = 8, WEIGHTS = 32, COLOR = 53, N_COLORS = 6 };
enum { BETA = 0, ALPHA = 12, GAMMA = 20 };
#define NO_TOUCH INT_MAX

__device__ __forceinline__ int64_t thread_index()
{
	return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ bool has(const uint32_t *bits, int32_t key)
{
	return bits[key >> 5] >> (key & 31) & 1;
}

/* The place of key in the set, or -1. */
__device__ __forceinline__ int32_t rank_of(const struct bitmap &set, int32_t key)
{
	uint32_t word = set.bits[key >> 5], bit = 1u << (key & 31);
	return word & bit ? (int32_t)(set.before[key >> 5] + __popc(word & (bit - 1))) : -1;
}

/* Corner k of a cube relative to its key. */
__device__ __forceinline__ int32_t corner_offset(const struct extract_grid &g, int k)
{
	return (k & 1) * g.slab + (k >> 1 & 1) * g.row + (k >> 2 & 1);
}

__device__ __forceinline__ void key_to_xyz(const struct extract_grid &g, int32_t key, int32_t xyz[3])
{
	xyz[0] = key / g.slab - 1;
	xyz[1] = key % g.slab / g.row - 1;
	xyz[2] = key % g.row - 1;
}

/* row * 8 + corner of the active cubes that touch a corner, ascending, then NO_TOUCH: the official order of sums. */
__device__ __forceinline__ void find_touch(const struct extraction &x, int32_t key, int32_t touch[8])
{
#pragma unroll
	for (int k = 0; k < 8; k++) {
		int32_t cube = rank_of(x.active, key - corner_offset(x.grid, k));
		touch[k] = cube < 0 ? NO_TOUCH : x.row_of[cube] * 8 + k;
	}
#pragma unroll
	for (int last = 7; last > 0; last--)
#pragma unroll
		for (int i = 0; i < last; i++) {
			int32_t low = min(touch[i], touch[i + 1]);
			touch[i + 1] = max(touch[i], touch[i + 1]);
			touch[i] = low;
		}
}

/* As the decoder's sdf is meant: the mean over the cubes that touch the corner, with the official bias. */
__device__ __forceinline__ float touch_sdf(const struct extraction &x, const int32_t touch[8])
{
	float value[8], sum = 0;
	int count = 0;
#pragma unroll
	for (int i = 0; i < 8; i++) { /* no branch: eight loads are under way at once */
		int32_t t = touch[i] == NO_TOUCH ? touch[0] : touch[i];
		value[i] = x.features[(t >> 3) * x.stride + SDF + (t & 7)];
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (touch[i] != NO_TOUCH) {
			sum = __fadd_rn(sum, __fadd_rn(value[i], x.grid.sdf_bias));
			count++;
		}
	return __fdiv_rn(sum, (float)count);
}

/* Blocks for a thread for each of n items. */
#define EXTRACT_BLOCK 256
static inline unsigned extract_blocks(int64_t n)
{
	return (unsigned)((n + EXTRACT_BLOCK - 1) / EXTRACT_BLOCK);
}

#endif
