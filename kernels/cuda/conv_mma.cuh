/* conv_mma.cuh - mma.sync m16n8k16 and the shared memory that it reads: rows of 32 numbers of 16 bits. */
#ifndef TRELLIS_CUDA_CONV_MMA_CUH
#define TRELLIS_CUDA_CONV_MMA_CUH

#include <stdint.h>

/* Place of chunk c (8 numbers) of a row of 32, in numbers: eight rows of one chunk lie in different banks. */
__device__ __forceinline__ int swizzled_32(int row, int chunk)
{
	return row * 32 + (chunk ^ (row >> 1 & 3)) * 8;
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(from));
}

template <bool BF16>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	if (BF16)
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
			     "{%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
	else
		asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
			     "{%8, %9}, {%0, %1, %2, %3};"
			     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
