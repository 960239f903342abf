/* attention.cuh - what the attention kernels share: which rows a block works on, and the softmax that runs along.
 *
 * y[i, h, :] = sum_j softmax_j(q[i, h, :] . k[j, h, :] / sqrt(d)) v[j, h, :]
 *
 * No kernel stores an n x m matrix: keys come in tiles, each row keeps its largest score and its sum so far, and what it
 * has gathered shrinks whenever the largest score grows (online softmax; FlashAttention, arXiv 2205.14135). Scores are
 * kept unscaled; log2(e) / sqrt(d) is folded into the exponential's argument. A row is summed by one warp in a fixed order,
 * so results are the same bits in every run. */
#ifndef TRELLIS_CUDA_ATTENTION_CUH
#define TRELLIS_CUDA_ATTENTION_CUH

#include "device.cuh"

/* What a launch works on. A group is a part or a window: rows that see each other. */
struct attention {
	struct tensor y, q, k, v;
	int heads, head_size;
	int32_t groups;
	int32_t queries, keys;	       /* of a group; of the longest window */
	const int32_t *order, *offset; /* as in struct windows, or NULL: groups follow each other */
	float scale;		       /* log2(e) / sqrt(head_size) */
};

cudaError_t attention_simple(const struct launch *l, const struct attention *a);
/* f16 and bf16, head sizes 16, 32, 64 and 128, pointers and rows aligned to 16 bytes. */
cudaError_t attention_mma(const struct launch *l, const struct attention *a);

/* Rows of a group in q, y (of_keys false) or k, v. */
struct group_rows {
	const int32_t *order;
	int64_t first;
	int32_t count;

	__device__ int64_t operator[](int32_t i) const
	{
		return order ? order[first + i] : first + i;
	}
};

__device__ __forceinline__ struct group_rows group_rows(const struct attention &a, int32_t group, bool of_keys)
{
	if (a.order) {
		int32_t first = a.offset[group];
		return {a.order, first, a.offset[group + 1] - first};
	}
	int32_t count = of_keys ? a.keys : a.queries;
	return {nullptr, (int64_t)group * count, count};
}

/* 2^x as one instruction; 0 for -infinity. */
__device__ __forceinline__ float exp2_fast(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* Two numbers in one register, the first in the low half. */
template <typename T> __device__ __forceinline__ uint32_t packed(float low, float high);
template <> __device__ __forceinline__ uint32_t packed<__half>(float low, float high)
{
	__half2 x = __floats2half2_rn(low, high);
	return *(uint32_t *)&x;
}
template <> __device__ __forceinline__ uint32_t packed<__nv_bfloat16>(float low, float high)
{
	__nv_bfloat162 x = __floats2bfloat162_rn(low, high);
	return *(uint32_t *)&x;
}

#endif
