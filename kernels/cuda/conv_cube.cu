/* conv_cube.cu - dense convolutions of at most 32 input channels, f16 and bf16, mma.sync m16n8k16 with sums in f32.
 * With few channels a gathered row is read 27 times for little work. A block copies a brick of 4 x 4 x 16 voxels with its
 * border and the weights of all taps into shared memory once; a tap is then a shifted view of the brick, whose lines of
 * 16 voxels along z are the rows of a product. A warp makes two lines x COLS.
 * launch: (bricks, column tiles) x 256 threads;  limit: in a multiple of 8 up to 32, 16-byte rows. */
#include "conv.cuh"
#include "conv_mma.cuh"

enum {
	BRICK = 4, /* x and y */
	LINE = 16, /* z */
	WIDE = BRICK + 2,
	LONG = LINE + 2,
	DEPTH = 32,
	CHUNKS = DEPTH / 8,
	THREADS = 256,
};

template <int COLS> struct cube_memory {
	alignas(128) uint16_t x[WIDE * WIDE * LONG * DEPTH];
	alignas(128) uint16_t w[TAPS * COLS * DEPTH];
};

/* First voxel of the block's brick. */
__device__ __forceinline__ int3 brick_origin(int n)
{
	int across = (n + BRICK - 1) / BRICK, along = (n + LINE - 1) / LINE, b = blockIdx.x;
	return make_int3(b / along / across * BRICK, b / along % across * BRICK, b % along * LINE);
}

template <int COLS> __device__ __forceinline__ void load(cube_memory<COLS> &s, const struct conv &c, int3 origin)
{
	int n = c.resolution, chunk = threadIdx.x % CHUNKS;
	bool inside = chunk * 8 < c.in;
	for (int r = threadIdx.x / CHUNKS; r < WIDE * WIDE * LONG; r += THREADS / CHUNKS) {
		int x = origin.x + r / (WIDE * LONG) - 1, y = origin.y + r / LONG % WIDE - 1,
		    z = origin.z + r % LONG - 1;
		bool exists =
			inside && (unsigned)x < (unsigned)n && (unsigned)y < (unsigned)n && (unsigned)z < (unsigned)n;
		copy_async(shared_address(&s.x[swizzled_32(r, chunk)]),
			(const uint16_t *)c.x + (exists ? ((int64_t)x * n + y) * n + z : 0) * c.x_stride +
				(exists ? chunk * 8 : 0),
			exists);
	}
	for (int r = threadIdx.x / CHUNKS; r < TAPS * COLS; r += THREADS / CHUNKS) {
		int o = blockIdx.y * COLS + r % COLS;
		bool exists = o < c.out;
		copy_async(shared_address(&s.w[swizzled_32(r, chunk)]),
			(const uint16_t *)c.w + packed_row(c, 0, r / COLS, 0, exists ? o : 0) * PANEL +
				(chunk ^ o % 8) * 8,
			exists);
	}
	asm volatile("cp.async.wait_all;");
	__syncthreads();
}

template <int COLS, bool BF16> static __global__ void __launch_bounds__(THREADS, 2) conv_cube(const struct conv c)
{
	extern __shared__ __align__(128) char memory[];
	cube_memory<COLS> &s = *(cube_memory<COLS> *)memory;
	static_assert(sizeof(cube_memory<COLS>) <= 99 * 1024, "");
	int n = c.resolution, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int3 origin = brick_origin(n);
	float sums[2][COLS / 8][4] = {};

	uint32_t x = shared_address(s.x), w = shared_address(s.w) + 2 * swizzled_32(lane % 8, lane / 8);

	load(s, c, origin);
	for (int t = 0; t < TAPS; t++) {
		uint32_t a[2][2][4];
#pragma unroll
		for (int i = 0; i < 2; i++) {
			int line = warp * 2 + i;
			int first = ((line / BRICK + t / 9) * WIDE + line % BRICK + t / 3 % 3) * LONG + t % 3;
#pragma unroll
			for (int k = 0; k < 2; k++)
				load_matrices(a[i][k], x + 2 * swizzled_32(first + lane % 16, k * 2 + lane / 16));
		}
#pragma unroll
		for (int j = 0; j < COLS / 8; j++) {
			uint32_t b[4];
			load_matrices(b, w + (t * COLS + j * 8) * DEPTH * 2);
#pragma unroll
			for (int i = 0; i < 2; i++) {
				multiply<BF16>(sums[i][j], a[i][0], b[0], b[1]);
				multiply<BF16>(sums[i][j], a[i][1], b[2], b[3]);
			}
		}
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int line = warp * 2 + i / 2;
		int x = origin.x + line / BRICK, y = origin.y + line % BRICK, z = origin.z + i % 2 * 8 + lane / 4;
		if (x >= n || y >= n || z >= n)
			continue;
		float2 v[COLS / 8];
#pragma unroll
		for (int j = 0; j < COLS / 8; j++)
			v[j] = make_float2(sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]);
		store_row(c, ((int64_t)x * n + y) * n + z, c.rows, 0, blockIdx.y * COLS + lane % 4 * 2, v);
	}
}

template <int COLS, bool BF16> static cudaError_t launch_tile(const struct launch *l, const struct conv &c)
{
	int bytes = sizeof(cube_memory<COLS>), n = c.resolution;
	int across = (n + BRICK - 1) / BRICK, along = (n + LINE - 1) / LINE;
	cudaError_t status =
		cudaFuncSetAttribute(conv_cube<COLS, BF16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	if (status != cudaSuccess)
		return status;
	conv_cube<COLS, BF16>
		<<<dim3(across * across * along, (c.out + COLS - 1) / COLS), THREADS, bytes, l->stream>>>(c);
	return cudaGetLastError();
}

template <bool BF16> static cudaError_t launch_type(const struct launch *l, const struct conv &c)
{
	return c.out <= 8 ? launch_tile<8, BF16>(l, c) : launch_tile<32, BF16>(l, c);
}

cudaError_t conv_launch_cube(const struct launch *l, const struct conv &c, enum dtype dtype)
{
	return dtype == DTYPE_BF16 ? launch_type<true>(l, c) : launch_type<false>(l, c);
}
