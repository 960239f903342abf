/* hopper.cuh - what the kernels for sm_90a share: barriers in shared memory, tensor maps, and wgmma's operands.
 * A barrier has a phase; who waits says which parity must be over. */
#ifndef TRELLIS_CUDA_HOPPER_CUH
#define TRELLIS_CUDA_HOPPER_CUH

#include "device.cuh"

#include <cuda.h>

enum { HOPPER_ROW = 128 }; /* bytes of a row in shared memory, swizzled: 64 numbers */

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ bool barrier_passed(uint32_t barrier, int phase)
{
	int done;

	asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
		     : "=r"(done)
		     : "r"(barrier), "r"(phase)
		     : "memory");
	return done;
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, int phase, bool passed = false)
{
	asm volatile(
		"{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p bra DONE_%=;\nAGAIN_%=:\n"
		"mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN_%=;\nDONE_%=:\n}" ::"r"(barrier),
		"r"(phase), "r"((int)passed)
		: "memory");
}

/* Describes a tile of swizzled 128-byte rows to wgmma: 1024 bytes from 8 rows to the next 8. The low half is the address
 * in units of 16 bytes and may be moved on. */
__device__ __forceinline__ uint32_t operand(uint32_t tile)
{
	return (tile >> 4 & 0x3fff) | 1u << 16;
}

__device__ __forceinline__ uint64_t whole(uint32_t operand)
{
	return (uint64_t)(1u << 30 | 1024 >> 4) << 32 | operand;
}

__device__ __forceinline__ void products_begin()
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_commit()
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most N of the committed groups are unfinished. */
template <int N> __device__ __forceinline__ void products_wait()
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps what computes x before, and what uses it after, this point: the compiler knows nothing of running products. */
template <int N> __device__ __forceinline__ void pin(float (&x)[N])
{
#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(x[i])::"memory");
}

/* The sums of a product as operands of its instruction: how many a thread has, and their places. */
#define SUMS4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS16(d, i) SUMS4(d, i), SUMS4(d, i + 4), SUMS4(d, i + 8), SUMS4(d, i + 12)
#define SUMS64(d, i) SUMS16(d, i), SUMS16(d, i + 16), SUMS16(d, i + 32), SUMS16(d, i + 48)
#define PLACES32 \
	"%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
	"%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLACES48 \
	PLACES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PLACES64 \
	PLACES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PLACES128 \
	PLACES64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, " \
	"%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, " \
	"%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
	"%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
	"%126, %127"

/* The compiler learns that all lanes have the same, and computes it once. */
__device__ __forceinline__ uint32_t uniform(uint32_t x)
{
	return __shfl_sync(0xffffffffu, x, 0);
}

/* Where one is in a ring of buffers. */
template <int STAGES> struct ring_position {
	int stage, phase;

	__device__ __forceinline__ void next()
	{
		if (++stage == STAGES) {
			stage = 0;
			phase ^= 1;
		}
	}
};

/* A map of 2-byte numbers for the bulk copy engine, rows of 128 bytes swizzled; sizes and strides (bytes; of all
 * dimensions but the first) from the innermost out. What lies outside reads as zero and is not written. */
static inline cudaError_t map_encode(CUtensorMap *map, enum dtype dtype, void *data, int dimensions,
	const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box)
{
	static decltype(&cuTensorMapEncodeTiled) encode;
	const cuuint32_t one[5] = {1, 1, 1, 1, 1};

	if (!encode) {
		cudaDriverEntryPointQueryResult found;
		void *entry = NULL;
		cudaError_t error = cudaGetDriverEntryPointByVersion(
			"cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
		if (error != cudaSuccess || found != cudaDriverEntryPointSuccess)
			return error != cudaSuccess ? error : cudaErrorNotSupported;
		encode = (decltype(encode))entry;
	}
	return encode(map, dtype == DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
		       dimensions, data, sizes, strides, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
		       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
		       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
		       ? cudaSuccess
		       : cudaErrorInvalidValue;
}

#endif
