/* vector.cuh - views for kernels, and loads and stores of 8 neighbouring numbers in 16-byte pieces, as f32. The type of
 * a view is looked at when it runs: a branch that all threads take alike costs nothing beside the access, and one kernel
 * serves every mixture of types. */
#ifndef TRELLIS_CUDA_VECTOR_CUH
#define TRELLIS_CUDA_VECTOR_CUH

#include "device.cuh"

struct view {
	char *data;
	int64_t pitch; /* bytes from row to row */
	enum dtype dtype;
	__device__ __forceinline__ char *at(int64_t r, int64_t c) const
	{
		return data + r * pitch + c * (dtype == DTYPE_F32 ? 4 : 2);
	}
};

static inline struct view view_of(struct tensor x)
{
	return {(char *)x.data, x.stride * (x.dtype == DTYPE_F16 || x.dtype == DTYPE_BF16 ? 2 : 4), x.dtype};
}

/* Whether every row may be read in groups of 8 columns by 16-byte accesses; a view "none" may. */
static inline bool is_wide(struct tensor x)
{
	return !x.data || (((uintptr_t)x.data | (uintptr_t)view_of(x).pitch) % 16 == 0 && x.cols % 8 == 0);
}

static inline bool is_wide(const float *x)
{
	return (uintptr_t)x % 16 == 0;
}

template <int V> __device__ __forceinline__ void load(float (&v)[V], const float *p)
{
	if constexpr (V == 1) {
		v[0] = *p;
	} else {
		static_assert(V == 8, "groups of 8");
		float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
		v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
	}
}

/* 8 numbers of a half type in 16 bytes */
__device__ __forceinline__ void decode(float (&v)[8], uint4 bits, enum dtype dtype)
{
	const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
	for (int i = 0; i < 4; i++) {
		float2 pair = dtype == DTYPE_F16 ? __half22float2(*(const __half2 *)(word + i)) :
						   __bfloat1622float2(*(const __nv_bfloat162 *)(word + i));
		v[2 * i] = pair.x;
		v[2 * i + 1] = pair.y;
	}
}

/* The row pointers of a view are char *: what they point to is the view's type. */
template <int V> __device__ __forceinline__ void load(float (&v)[V], const char *p, enum dtype dtype)
{
	if (dtype == DTYPE_F32)
		load<V>(v, (const float *)p);
	else if constexpr (V == 1)
		v[0] = dtype == DTYPE_F16 ? __half2float(*(const __half *)p) :
					    __bfloat162float(*(const __nv_bfloat16 *)p);
	else
		decode(v, *(const uint4 *)p, dtype);
}

template <int V> __device__ __forceinline__ void store(char *p, enum dtype dtype, const float (&v)[V])
{
	if constexpr (V == 1) {
		if (dtype == DTYPE_F32)
			*(float *)p = v[0];
		else if (dtype == DTYPE_F16)
			*(__half *)p = __float2half_rn(v[0]);
		else
			*(__nv_bfloat16 *)p = __float2bfloat16_rn(v[0]);
	} else if (dtype == DTYPE_F32) {
		((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
		((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
	} else {
		uint32_t word[4];
#pragma unroll
		for (int i = 0; i < 4; i++)
			if (dtype == DTYPE_F16)
				*(__half2 *)(word + i) = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
			else
				*(__nv_bfloat162 *)(word + i) = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
		*(uint4 *)p = make_uint4(word[0], word[1], word[2], word[3]);
	}
}

/* x after it was stored and read again */
__device__ __forceinline__ float as_stored(float x, enum dtype dtype)
{
	return dtype == DTYPE_F32   ? x
	       : dtype == DTYPE_F16 ? __half2float(__float2half_rn(x))
				    : __bfloat162float(__float2bfloat16_rn(x));
}

/* Number of blocks of 256 threads for a loop over groups of V columns of every row (FOR_EACH_GROUP), which counts in 32 bits.
 * 0 where there are more groups: the launch then fails. */
template <int V> static inline unsigned group_blocks(const struct launch *l, int64_t rows, int64_t cols)
{
	int64_t blocks = (rows * (cols / V) + 255) / 256, most = (int64_t)l->sm_count * 32;
	blocks = blocks < most ? blocks : most;
	return rows * (cols / V) + blocks * 256 <= UINT32_MAX ? (unsigned)blocks : 0;
}

/* The (row, column) of every group of V columns that is this thread's: as many as group_blocks has blocks for. */
#define FOR_EACH_GROUP(V, rows, cols, r, c)                                                                            \
	for (uint32_t per_ = (uint32_t)((cols) / (V)), n_ = (uint32_t)(rows)*per_,                                     \
		      i_ = blockIdx.x * 256u + threadIdx.x, r, c;                                                      \
		i_ < n_ && (r = i_ / per_, c = (i_ - r * per_) * (V), true); i_ += gridDim.x * 256u)

#endif
