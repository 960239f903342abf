/* conv_fma.cu - convolutions without tensor cores: exact f32 products, and whatever the fast kernel cannot take.
 * A block makes 64 rows x 64 channels, a thread 4 x 4; 16 channels of a tap at a time through shared memory.
 * launch: (row tiles, column tiles, children) x 256 threads. */
#include "conv.cuh"

#include <type_traits>

enum { ROWS = 64, COLS = 64, DEPTH = 16, THREADS = 256 };

template <typename T> static __global__ void __launch_bounds__(THREADS, 2) conv_fma(const struct conv c)
{
	__shared__ float x[DEPTH][ROWS + 4], w[DEPTH][COLS + 4];
	__shared__ int rows[ROWS], source[ROWS];
	int child = blockIdx.z, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
	float sums[4][4] = {};

	if (threadIdx.x < ROWS)
		rows[threadIdx.x] = row_at(c, (int64_t)blockIdx.x * ROWS + threadIdx.x);
	for (int t = 0; t < c.taps; t++) {
		int found = 0;
		__syncthreads();
		if (threadIdx.x < ROWS)
			found = (source[threadIdx.x] = source_of(c, rows[threadIdx.x], child, t)) >= 0;
		if (!__syncthreads_or(found))
			continue;
		float tap[4][4] = {}; /* summed by itself: a sum of 27 channels' worth of terms would lose digits */
		for (int k = 0; k < c.in; k += DEPTH) {
			const T *panel = (const T *)c.w + packed_row(c, child, t, k, 0) * PANEL;
			/* thread (ty, tx): channel tx of rows ty, ty + 16... */
			for (int r = ty; r < ROWS; r += 16) {
				int o = blockIdx.y * COLS + r;
				bool inside = k + tx < c.in;
				x[tx][r] = inside && source[r] >= 0
						   ? to_float(((const T *)c.x)[source[r] * c.x_stride + k + tx])
						   : 0;
				w[tx][r] =
					inside && o < c.out
						? to_float(panel[o * PANEL + ((k + tx) / 8 % 8 ^ o % 8) * 8 + tx % 8])
						: 0;
			}
			__syncthreads();
#pragma unroll
			for (int d = 0; d < DEPTH; d++) {
				float4 a = *(const float4 *)&x[d][ty * 4], b = *(const float4 *)&w[d][tx * 4];
				float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
				for (int i = 0; i < 4; i++)
#pragma unroll
					for (int j = 0; j < 4; j++)
						tap[i][j] = fmaf(as[i], bs[j], tap[i][j]);
			}
			__syncthreads();
		}
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int j = 0; j < 4; j++)
				sums[i][j] += tap[i][j];
	}
	int children = c.gather == GATHER_UP ? CHILDREN : 1;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int row = rows[ty * 4 + i];
#pragma unroll
		for (int j = 0; j < 4; j += 2) {
			int col = blockIdx.y * COLS + tx * 4 + j;
			if (row >= 0 && col < c.out)
				finish_pair<true>(c.output, (int64_t)row * children + child, col,
					make_float2(sums[i][j], sums[i][j + 1]));
		}
	}
}

cudaError_t conv_launch_fma(const struct launch *l, const struct conv &c, enum dtype dtype)
{
	dim3 grid((unsigned)((c.rows + ROWS - 1) / ROWS), (unsigned)((c.out + COLS - 1) / COLS),
		c.gather == GATHER_UP ? CHILDREN : 1);
	return with_type(dtype, [&](auto *type) {
		using T = std::remove_pointer_t<decltype(type)>;
		conv_fma<T><<<grid, THREADS, 0, l->stream>>>(c);
		return cudaGetLastError();
	});
}
