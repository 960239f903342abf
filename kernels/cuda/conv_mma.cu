/* conv_mma.cu - convolutions of f16 and bf16 on the tensor cores of sm_80 and later: mma.sync m16n8k16, sums in f32.
 * A block makes 128 rows x COLS channels. The K loop walks (tap, 32 input channels) over the taps that the tile has;
 * gathered rows and weights travel by cp.async through STAGES buffers, a source that does not exist as zeros. A warp
 * makes 32 rows x COLS / 2 and leaves out taps that none of its rows has.
 * launch: (row tiles, column tiles, children * splits) x 256 threads;  limit: in a multiple of 8, 16-byte rows. */
#include "conv.cuh"

enum {
	ROWS = 128,
	DEPTH = 32, /* input channels at a time: a row of 64 bytes, four chunks of 16 */
	CHUNKS = DEPTH / 8,
	STAGES = 4,
	THREADS = 256,
	WARPS_DOWN = 4, /* x 2 across */
	WARP_ROWS = ROWS / WARPS_DOWN,
};

template <int COLS> struct tile_memory {
	alignas(128) uint16_t x[STAGES][ROWS * DEPTH];
	alignas(128) uint16_t w[STAGES][COLS * DEPTH];
	int source[ROWS * TAPS]; /* [row][tap] */
	int row[ROWS];
	uint32_t mask[ROWS / 16]; /* taps of 16 rows */
	uint8_t tap[TAPS + 1];
};

/* Place of chunk c of a row in its buffer, in numbers: eight rows of one chunk lie in different banks. */
__device__ __forceinline__ int swizzled(int row, int chunk)
{
	return row * DEPTH + (chunk ^ (row >> 1 & 3)) * 8;
}

__device__ __forceinline__ void copy_async(void *to, const void *from, bool exists)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
		"l"(from), "r"(exists ? 16 : 0));
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const uint16_t *from)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"((uint32_t)__cvta_generic_to_shared(from)));
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

/* The tile's rows, their sources, the taps of every 16 rows and the list of the tile's taps; returns their number. */
template <int COLS> __device__ __forceinline__ int list_sources(tile_memory<COLS> &s, const struct conv &c, int child)
{
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	if (threadIdx.x < ROWS)
		s.row[threadIdx.x] = row_at(c, (int64_t)blockIdx.x * ROWS + threadIdx.x);
	__syncthreads();
	uint32_t found = 0;
	for (int r = warp * 16; r < warp * 16 + 16; r++) {
		int source = lane < c.taps ? source_of(c, s.row[r], child, lane) : -1;
		if (lane < TAPS)
			s.source[r * TAPS + lane] = source;
		found |= source >= 0;
	}
	uint32_t mask = __ballot_sync(0xffffffffu, found);
	if (lane == 0)
		s.mask[warp] = mask;
	__syncthreads();
	uint32_t all = 0;
	for (int i = 0; i < ROWS / 16; i++)
		all |= s.mask[i];
	if (warp == 0 && (all >> lane & 1))
		s.tap[__popc(all & ((1u << lane) - 1))] = (uint8_t)lane;
	__syncthreads();
	return __popc(all);
}

/* A place in the K loop. */
struct cursor {
	int slot, k;
	__device__ __forceinline__ void advance(int in)
	{
		k += DEPTH;
		if (k >= in) {
			k = 0;
			slot++;
		}
	}
};

/* Start the copies of one step. */
template <int COLS>
__device__ __forceinline__ void load_step(
	tile_memory<COLS> &s, int stage, const struct conv &c, int child, struct cursor at)
{
	int tap = s.tap[at.slot], chunk = threadIdx.x % CHUNKS, k = at.k + chunk * 8;
	bool inside = k < c.in;
	const uint16_t *x = (const uint16_t *)c.x + (inside ? k : 0);
	const uint16_t *w = (const uint16_t *)c.w + (int64_t)(child * c.taps + tap) * c.out * c.in + (inside ? k : 0);
#pragma unroll
	for (int r = threadIdx.x / CHUNKS; r < ROWS; r += THREADS / CHUNKS) {
		int source = s.source[r * TAPS + tap];
		copy_async(&s.x[stage][swizzled(r, chunk)], x + (source < 0 ? 0 : source * c.x_stride),
			source >= 0 && inside);
	}
#pragma unroll
	for (int r = threadIdx.x / CHUNKS; r < COLS; r += THREADS / CHUNKS) {
		int o = blockIdx.y * COLS + r;
		copy_async(&s.w[stage][swizzled(r, chunk)], w + (o < c.out ? (int64_t)o * c.in : 0),
			o < c.out && inside);
	}
}

template <int COLS, bool BF16>
__device__ __forceinline__ void multiply_step(
	float (&sums)[2][COLS / 16][4], const uint16_t *x, const uint16_t *w, int lane)
{
#pragma unroll
	for (int k = 0; k < CHUNKS; k += 2) {
		uint32_t a[2][4];
#pragma unroll
		for (int i = 0; i < 2; i++)
			load_matrices(a[i], x + swizzled(i * 16 + lane % 16, k + lane / 16));
#pragma unroll
		for (int j = 0; j < COLS / 16; j += 2) {
			uint32_t b[4];
			load_matrices(b, w + swizzled(j * 8 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
			for (int i = 0; i < 2; i++) {
				multiply<BF16>(sums[i][j], a[i], b[0], b[1]);
				if (j + 1 < COLS / 16)
					multiply<BF16>(sums[i][j + 1], a[i], b[2], b[3]);
			}
		}
	}
}

template <int COLS, bool BF16> static __global__ void __launch_bounds__(THREADS, 2) conv_mma(const struct conv c)
{
	extern __shared__ __align__(128) char memory[];
	tile_memory<COLS> &s = *(tile_memory<COLS> *)memory;
	static_assert(sizeof(tile_memory<COLS>) <= 99 * 1024 && COLS % 32 == 0, "");
	int child = blockIdx.z / c.splits, split = blockIdx.z % c.splits;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int first_row = warp % WARPS_DOWN * WARP_ROWS, first_col = warp / WARPS_DOWN * (COLS / 2);

	int steps_a_tap = (c.in + DEPTH - 1) / DEPTH, steps = list_sources(s, c, child) * steps_a_tap;
	int begin = (int)((int64_t)steps * split / c.splits), end = (int)((int64_t)steps * (split + 1) / c.splits);
	uint32_t mask = s.mask[first_row / 16] | s.mask[first_row / 16 + 1];
	float sums[2][COLS / 16][4] = {};
	struct cursor load = {begin / steps_a_tap, begin % steps_a_tap * DEPTH}, at = load;

	for (int i = 0; i < STAGES - 1; i++) {
		if (begin + i < end) {
			load_step(s, i, c, child, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
	}
	for (int i = begin, stage = 0; i < end; i++) {
		asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
		__syncthreads();
		if (i + STAGES - 1 < end) {
			load_step(s, (stage + STAGES - 1) % STAGES, c, child, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
		if (mask >> s.tap[at.slot] & 1)
			multiply_step<COLS, BF16>(
				sums, &s.x[stage][first_row * DEPTH], &s.w[stage][first_col * DEPTH], lane);
		at.advance(c.in);
		stage = (stage + 1) % STAGES;
	}

	int children = c.gather == GATHER_UP ? CHILDREN : 1;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int row = s.row[first_row + i * 8 + lane / 4];
		if (row < 0)
			continue;
#pragma unroll
		for (int j = 0; j < COLS / 16; j++) {
			int col = blockIdx.y * COLS + first_col + j * 8 + lane % 4 * 2;
			if (col < c.out)
				store_sums(c, (int64_t)row * children + child, c.rows * children, split, col,
					make_float2(sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]));
		}
	}
}

template <int COLS, bool BF16> static cudaError_t launch_tile(const struct launch *l, const struct conv &c)
{
	int bytes = sizeof(tile_memory<COLS>), children = c.gather == GATHER_UP ? CHILDREN : 1;
	dim3 grid((unsigned)((c.rows + ROWS - 1) / ROWS), (unsigned)((c.out + COLS - 1) / COLS),
		(unsigned)(children * c.splits));
	cudaError_t status = cudaFuncSetAttribute(
		conv_mma<COLS, BF16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	if (status != cudaSuccess)
		return status;
	conv_mma<COLS, BF16><<<grid, THREADS, bytes, l->stream>>>(c);
	return cudaGetLastError();
}

/* Columns of a tile: the fewest that are made for nothing, and of equal ones the widest. */
static int tile_cols(int out)
{
	static const int widths[] = {128, 96, 64, 32};
	int best = 128;
	for (int width : widths)
		if ((out + width - 1) / width * width < (out + best - 1) / best * best)
			best = width;
	return best;
}

int conv_splits_mma(const struct launch *l, int64_t rows, int children, int out, int64_t depth)
{
	int cols = tile_cols(out), best = 1;
	int64_t tiles = (rows + ROWS - 1) / ROWS * ((out + cols - 1) / cols) * children, slots = 2 * l->sm_count;
	double least = 1e30;
	for (int splits = 1; splits <= 8 && depth / splits >= 512; splits++) {
		/* waves of blocks, each as long as its share of the sum; sums that are stored and read again */
		double waves = (double)((tiles * splits + slots - 1) / slots) / splits;
		double cost = waves * (double)depth + (splits > 1 ? 64.0 * (1 + splits) * (double)tiles / (double)slots : 0);
		if (cost < least * 0.97) {
			least = cost;
			best = splits;
		}
	}
	return best;
}

template <bool BF16> static cudaError_t launch_type(const struct launch *l, const struct conv &c)
{
	switch (tile_cols(c.out)) {
	case 128:
		return launch_tile<128, BF16>(l, c);
	case 96:
		return launch_tile<96, BF16>(l, c);
	case 64:
		return launch_tile<64, BF16>(l, c);
	default:
		return launch_tile<32, BF16>(l, c);
	}
}

cudaError_t conv_launch_mma(const struct launch *l, const struct conv &c, enum dtype dtype)
{
	return dtype == DTYPE_BF16 ? launch_type<true>(l, c) : launch_type<false>(l, c);
}
