/* device.cuh - what the kernels share: element access for the three float types, activations, sums over a warp.
 * Everything computes in f32. */
#ifndef TRELLIS_CUDA_DEVICE_CUH
#define TRELLIS_CUDA_DEVICE_CUH

#include "launch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T> __device__ __forceinline__ float to_float(T x);
template <> __device__ __forceinline__ float to_float<float>(float x) { return x; }
template <> __device__ __forceinline__ float to_float<__half>(__half x) { return __half2float(x); }
template <> __device__ __forceinline__ float to_float<__nv_bfloat16>(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

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

/* Formulas of backend.h. The exact tanh and erf: results are compared with f32 references. */
__device__ __forceinline__ float activated(float x, enum activation act)
{
	switch (act) {
	case ACT_SILU:
		return x / (1.0f + __expf(-x));
	case ACT_GELU_TANH:
		return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
	case ACT_GELU_ERF:
		return 0.5f * x * (1.0f + erff(x * 0.70710678f));
	default:
		return x;
	}
}

__device__ __forceinline__ float warp_sum(float x)
{
	for (int i = 16; i > 0; i /= 2)
		x += __shfl_xor_sync(0xffffffffu, x, i);
	return x;
}

/* Calls f with a null pointer of the C++ type of a float dtype. */
template <typename F> static inline cudaError_t with_type(enum dtype dtype, F f)
{
	switch (dtype) {
	case DTYPE_F32:
		return f((float *)nullptr);
	case DTYPE_F16:
		return f((__half *)nullptr);
	case DTYPE_BF16:
		return f((__nv_bfloat16 *)nullptr);
	default:
		return cudaErrorInvalidValue;
	}
}

#endif
