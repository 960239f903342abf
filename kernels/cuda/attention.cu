/* attention.cu - op_attention and op_attention_parts: which kernel runs, and the simple kernel that runs anything.
 * attention_mma.cu and attention_hopper.cu are the fast ones. */
#include "attention.cuh"

#include <math.h>
#include <type_traits>

/* The simple kernel: f32 arithmetic (no TF32), any head size up to 256, any alignment.
 *   launch: a block of 128 threads for 32 queries of a head of a group; a thread has 4 queries x 2 keys of the scores and
 *   4 queries x D / 16 columns of the result; the 16 threads of a query are half a warp.
 *   D: the head size, rounded up to 32, 64, 128 or 256. */
enum { SIMPLE_ROWS = 32, SIMPLE_THREADS = 128, SIMPLE_SCORES = SIMPLE_ROWS + 4 };

template <int D> constexpr int simple_shared()
{
	return (2 * SIMPLE_ROWS * (D + 4) + SIMPLE_ROWS * SIMPLE_SCORES) * (int)sizeof(float);
}

/* tile[SIMPLE_ROWS, D + 4]: rows from `first` on of a head, zero where there are none. */
template <typename T, int D>
__device__ void simple_load(
	float *tile, const T *from, int64_t stride, const struct group_rows &rows, int32_t first, int head_size)
{
#pragma unroll 4
	for (int i = threadIdx.x; i < SIMPLE_ROWS * D; i += SIMPLE_THREADS) {
		int r = i / D, c = i % D;
		bool inside = first + r < rows.count && c < head_size;
		tile[r * (D + 4) + c] = inside ? to_float(from[rows[first + r] * stride + c]) : 0.0f;
	}
}

/* score[i][j] = q row 4 ty + i times k row tx + 16 j. */
template <int D>
__device__ __forceinline__ void simple_scores(
	float (&score)[4][2], const float *q, const float *k, int ty, int tx, int head_size)
{
	for (int i = 0; i < 4; i++)
		score[i][0] = score[i][1] = 0.0f;
#pragma unroll 2
	for (int c = 0; c < head_size; c += 4) {
		float4 b[2];
		for (int j = 0; j < 2; j++)
			b[j] = *(const float4 *)&k[(tx + 16 * j) * (D + 4) + c];
		for (int i = 0; i < 4; i++) {
			float4 a = *(const float4 *)&q[(4 * ty + i) * (D + 4) + c];
			for (int j = 0; j < 2; j++) {
				score[i][j] = fmaf(a.x, b[j].x, score[i][j]);
				score[i][j] = fmaf(a.y, b[j].y, score[i][j]);
				score[i][j] = fmaf(a.z, b[j].z, score[i][j]);
				score[i][j] = fmaf(a.w, b[j].w, score[i][j]);
			}
		}
	}
}

/* Over the 16 lanes of a row. */
__device__ __forceinline__ float half_warp_max(float x)
{
	for (int i = 8; i > 0; i /= 2)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
	return x;
}

__device__ __forceinline__ float half_warp_sum(float x)
{
	for (int i = 8; i > 0; i /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, i);
	return x;
}

template <typename T, int D>
__global__ void __launch_bounds__(SIMPLE_THREADS, D > 128 ? 2 : 4) simple_kernel(const struct attention a)
{
	extern __shared__ float4 shared[];
	float *q = (float *)shared, *kv = q + SIMPLE_ROWS * (D + 4), *p = kv + SIMPLE_ROWS * (D + 4);
	int tiles = (a.queries + SIMPLE_ROWS - 1) / SIMPLE_ROWS, group = blockIdx.x / tiles;
	int first = blockIdx.x % tiles * SIMPLE_ROWS, column = blockIdx.y * a.head_size;
	int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
	struct group_rows queries = group_rows(a, group, false), keys = group_rows(a, group, true);
	float largest[4], sum[4], result[4][D / 16] = {};

	if (first >= queries.count)
		return;
	for (int i = 0; i < 4; i++) {
		largest[i] = -INFINITY;
		sum[i] = 0.0f;
	}
	simple_load<T, D>(q, (const T *)a.q.data + column, a.q.stride, queries, first, a.head_size);
	for (int32_t key = 0; key < keys.count; key += SIMPLE_ROWS) {
		float score[4][2];

		__syncthreads();
		simple_load<T, D>(kv, (const T *)a.k.data + column, a.k.stride, keys, key, a.head_size);
		__syncthreads();
		simple_scores<D>(score, q, kv, ty, tx, a.head_size);
		for (int j = 0; j < 2; j++)
			for (int i = 0; i < 4 && key + tx + 16 * j >= keys.count; i++)
				score[i][j] = -INFINITY;
		for (int i = 0; i < 4; i++) {
			float top = fmaxf(largest[i], half_warp_max(fmaxf(score[i][0], score[i][1])));
			float shrink = exp2f((largest[i] - top) * a.scale);

			largest[i] = top;
			sum[i] *= shrink;
			for (int c = 0; c < D / 16; c++)
				result[i][c] *= shrink;
			for (int j = 0; j < 2; j++) {
				float weight = exp2f((score[i][j] - top) * a.scale);
				sum[i] += weight;
				p[(4 * ty + i) * SIMPLE_SCORES + tx + 16 * j] = weight;
			}
		}
		__syncthreads();
		simple_load<T, D>(kv, (const T *)a.v.data + column, a.v.stride, keys, key, a.head_size);
		__syncthreads();
#pragma unroll 4
		for (int j = 0; j < SIMPLE_ROWS; j++) {
			float weight[4];
			for (int i = 0; i < 4; i++)
				weight[i] = p[(4 * ty + i) * SIMPLE_SCORES + j];
			for (int c = 0; c < D / 16; c++) {
				float value = kv[j * (D + 4) + tx + 16 * c];
				for (int i = 0; i < 4; i++)
					result[i][c] = fmaf(weight[i], value, result[i][c]);
			}
		}
	}
	for (int i = 0; i < 4; i++) {
		float total = half_warp_sum(sum[i]);
		if (first + 4 * ty + i >= queries.count)
			continue;
		T *y = (T *)a.y.data + queries[first + 4 * ty + i] * a.y.stride + column;
		for (int c = 0; c < D / 16; c++)
			if (tx + 16 * c < a.head_size)
				y[tx + 16 * c] = from_float<T>(result[i][c] / total);
	}
}

template <typename T, int D> static cudaError_t simple_launch(const struct launch *l, const struct attention *a)
{
	static_assert(simple_shared<D>() <= 99 * 1024, "more than a block can have outside sm_80 and sm_90");
	cudaError_t error = cudaFuncSetAttribute(
		simple_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize, simple_shared<D>());
	int32_t tiles = (a->queries + SIMPLE_ROWS - 1) / SIMPLE_ROWS;

	if (error != cudaSuccess)
		return error;
	simple_kernel<T, D><<<dim3(tiles * a->groups, a->heads), SIMPLE_THREADS, simple_shared<D>(), l->stream>>>(*a);
	return cudaGetLastError();
}

cudaError_t attention_simple(const struct launch *l, const struct attention *a)
{
	return with_type(a->y.dtype, [&](auto *type) {
		typedef typename std::remove_pointer<decltype(type)>::type T;
		return a->head_size <= 32    ? simple_launch<T, 32>(l, a)
		       : a->head_size <= 64  ? simple_launch<T, 64>(l, a)
		       : a->head_size <= 128 ? simple_launch<T, 128>(l, a)
		       : a->head_size <= 256 ? simple_launch<T, 256>(l, a)
					     : cudaErrorInvalidValue;
	});
}

static bool is_aligned(struct tensor x)
{
	return (uintptr_t)x.data % 16 == 0 && x.stride % 8 == 0;
}

cudaError_t launch_attention(const struct launch *l, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, int64_t parts, const struct attention_windows *windows)
{
	int d = (int)(q.cols / heads);
	bool windowed = windows && windows->order;
	int64_t groups = windowed ? windows->count : parts;
	int64_t queries = windowed ? windows->longest : q.rows / parts;
	int64_t keys = windowed ? windows->longest : k.rows / parts;
	struct attention a = {y, q, k, v, heads, d, (int32_t)groups, (int32_t)queries, (int32_t)keys};

	/* blocks: groups * ceil(queries / 32), at most */
	if (queries > INT32_MAX / 2 || keys > INT32_MAX / 2 || groups * ((queries + 31) / 32) > INT32_MAX ||
		heads > 65535)
		return cudaErrorInvalidValue;
	if (windowed) {
		a.order = windows->order;
		a.offset = windows->offset;
	}
	a.scale = (float)(M_LOG2E / sqrt((double)d));
	bool aligned = is_aligned(y) && is_aligned(q) && is_aligned(k) && is_aligned(v);
	bool has_mma = d == 16 || d == 32 || d == 64 || d == 128;
	if (y.dtype == DTYPE_F32 || !aligned || !has_mma)
		return attention_simple(l, &a);
	if (d == 64 && !windowed && l->capability == 90 && !l->force_mma)
		return attention_hopper(l, &a);
	return attention_mma(l, &a);
}
