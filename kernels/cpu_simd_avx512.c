/* cpu_simd_avx512.c - the inner loops for x86-64 machines with AVX-512. */
typedef int cpu_simd_avx512_is_not_empty;
#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")
#endif
#define SIMD_TABLE simd_avx512
#define SIMD_NAME "avx512"
#define LANES 16
#define ROWS 8
#include "cpu_simd_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
