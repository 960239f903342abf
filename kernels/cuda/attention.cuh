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
/* sm_90: f16 and bf16, head size 64, no windows, pointers and rows aligned to 16 bytes. */
cudaError_t attention_hopper(const struct launch *l, const struct attention *a);

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

/* The softmax of two rows that a lane and the three beside it share, as it stands after some tiles of keys. Scores come as
 * the tensor cores leave them: of each 16 x 8 block a lane has row lane / 4, columns 2 (lane % 4) and the next in [0],
 * [1], and the same of row lane / 4 + 8 in [2], [3].
 * Weights are 2^(score scale - base). They may grow to 2^LATE before the base follows: then it seldom moves after the
 * first tile, and until it does nobody needs the largest score, nor do the results shrink. */
struct running {
	float base[2];
	float sum[2];	 /* this lane's share */
	float shrink[2]; /* what the results so far must be multiplied with if the base moved */
};

constexpr float LATE = 8.0f; /* f16 ends at 2^16 */

/* The largest exponents of both rows become the base. */
template <int N> __device__ __forceinline__ void running_move(float (&x)[N], struct running &r)
{
#pragma unroll
	for (int h = 0; h < 2; h++) {
		float top = fmaxf(x[2 * h], x[2 * h + 1]);
#pragma unroll
		for (int i = 4; i < N; i += 4)
			top = fmaxf(top, fmaxf(x[i + 2 * h], x[i + 2 * h + 1]));
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
		r.base[h] += top;
		r.shrink[h] = exp2_fast(-top);
		r.sum[h] *= r.shrink[h];
#pragma unroll
		for (int i = 0; i < N; i += 4) {
			x[i + 2 * h] -= top;
			x[i + 2 * h + 1] -= top;
		}
	}
}

/* Scores of the first keys become exponents: the base starts there. */
template <int N> __device__ __forceinline__ void running_begin(float (&x)[N], struct running &r, float scale)
{
#pragma unroll
	for (int i = 0; i < N; i++)
		x[i] *= scale;
	r = {};
	running_move(x, r);
	r.sum[0] = r.sum[1] = 0.0f; /* shrink may be infinite here */
}

/* Scores become exponents. True if the base has moved: then the results so far must shrink. */
template <int N> __device__ __forceinline__ bool running_exponents(float (&x)[N], struct running &r, float scale)
{
	int top[2] = {0, 0}; /* bits of positive floats are in the order of the floats, others are below */

#pragma unroll
	for (int i = 0; i < N; i++)
		x[i] = fmaf(x[i], scale, -r.base[i / 2 % 2]);
#pragma unroll
	for (int i = 0; i < N; i += 4) {
		top[0] = max(top[0], max(__float_as_int(x[i]), __float_as_int(x[i + 1])));
		top[1] = max(top[1], max(__float_as_int(x[i + 2]), __float_as_int(x[i + 3])));
	}
	bool moved = __any_sync(0xffffffffu, max(top[0], top[1]) > __float_as_int(LATE));
	if (moved)
		running_move(x, r);
	return moved;
}

/* Exponents become weights. */
template <int N> __device__ __forceinline__ void running_weights(float (&x)[N], struct running &r)
{
#pragma unroll
	for (int i = 0; i < N; i++) {
		x[i] = exp2_fast(x[i]);
		r.sum[i / 2 % 2] += x[i];
	}
}

/* part = 1 / sum, over the four lanes of a row. */
__device__ __forceinline__ void running_end(float (&part)[2], const struct running &r)
{
#pragma unroll
	for (int h = 0; h < 2; h++) {
		float sum = r.sum[h];
		sum += __shfl_xor_sync(0xffffffffu, sum, 1);
		sum += __shfl_xor_sync(0xffffffffu, sum, 2);
		part[h] = 1.0f / sum;
	}
}

#endif
