/* cpu_simd_avx2.c - the inner loops for x86-64 machines with AVX2 and FMA. */
typedef int cpu_simd_avx2_is_not_empty;
#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define SIMD_TABLE simd_avx2
#define SIMD_NAME "avx2"
#define LANES 8
#define ROWS 6
#include "cpu_simd_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
