/* conv_mma.cu - convolutions of f16 and bf16 on the tensor cores of sm_80 and later: mma.sync m16n8k16, sums in f32.
 * A block makes 128 rows x COLS channels. The K loop walks (tap, 32 input channels) over the taps that the tile has;
 * gathered rows and weights travel by cp.async through STAGES buffers, a source that does not exist as zeros. A warp
 * makes 32 rows x COLS / 2 and leaves out taps that none of its rows has.
 * launch: (row tiles, column tiles, children * splits) x 256 threads;  limit: in a multiple of 8, 16-byte rows. */
#include "conv.cuh"
#include "conv_mma.cuh"

enum {
	ROWS = TILE_ROWS,
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
	struct sources sources;
};

/* A place in the K loop. */
struct cursor {
	uint32_t slot, k;
	__device__ __forceinline__ void advance(uint32_t in)
	{
		k += DEPTH;
		if (k >= in) {
			k = 0;
			slot++;
		}
	}
};

/* What a thread copies in every step: one chunk of rows that lie 64 apart. */
struct copier {
	uint32_t row, chunk, place; /* place of the first in its buffer, bytes */
	const char *x, *w;
};

__device__ __forceinline__ struct copier copier_of(const struct conv &c, int child, int first_col)
{
	struct copier t = {.row = threadIdx.x / CHUNKS, .chunk = threadIdx.x % CHUNKS};
	t.place = 2 * swizzled_32(t.row, t.chunk);
	t.x = (const char *)c.x;
	t.w = (const char *)c.w + packed_row(c, child, 0, 0, first_col + (int)t.row) * (2 * PANEL);
	return t;
}

/* Start the copies of one step. x, w: the step's buffers. */
template <int COLS>
__device__ __forceinline__ void load_step(
	const struct sources &s, uint32_t x, uint32_t w, const struct conv &c, const struct copier &t, struct cursor at)
{
	constexpr uint32_t APART = THREADS / CHUNKS;
	uint32_t tap = s.tap[at.slot], channel = at.k + t.chunk * 8, panels = (uint32_t)(c.in + PANEL - 1) / PANEL;
	bool inside = channel < (uint32_t)c.in;
	const char *from = t.x + (inside ? 2 * channel : 0);
	const char *weights = t.w + (uint64_t)(tap * panels + at.k / PANEL) * (uint32_t)(c.out * 2 * PANEL) +
			      ((at.k / 8 % 8 + t.chunk) ^ t.row % 8) * 16;
	const int *source = s.source + t.row * TAPS + tap;
#pragma unroll
	for (uint32_t i = 0; i < ROWS / APART; i++) {
		int r = source[i * APART * TAPS];
		copy_async(x + t.place + i * APART * DEPTH * 2,
			from + (uint64_t)(uint32_t)max(r, 0) * (uint32_t)(c.x_stride * 2), r >= 0 && inside);
	}
#pragma unroll
	for (uint32_t i = 0; i < (COLS + APART - 1) / APART; i++) {
		bool exists = blockIdx.y * COLS + t.row + i * APART < (uint32_t)c.out;
		if (COLS % APART == 0 || t.row + i * APART < COLS)
			copy_async(w + t.place + i * APART * DEPTH * 2, exists ? weights + i * APART * PANEL * 2 : t.x,
				exists);
	}
}

/* x, w: where a lane reads its first matrices. Further chunks differ by the bits that swizzling changes. */
template <int COLS, bool BF16>
__device__ __forceinline__ void multiply_step(float (&sums)[2][COLS / 16][4], uint32_t x, uint32_t w)
{
#pragma unroll
	for (int k = 0; k < CHUNKS; k += 2) {
		uint32_t a[2][4], b[COLS / 32][4];
#pragma unroll
		for (int i = 0; i < 2; i++)
			load_matrices(a[i], (x ^ k * 16) + i * 16 * DEPTH * 2);
#pragma unroll
		for (int j = 0; j < COLS / 32; j++)
			load_matrices(b[j], (w ^ k * 16) + j * 16 * DEPTH * 2);
#pragma unroll
		for (int j = 0; j < COLS / 16; j++)
#pragma unroll
			for (int i = 0; i < 2; i++)
				multiply<BF16>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
	}
}

template <int COLS, bool BF16> static __global__ void __launch_bounds__(THREADS, 2) conv_mma(const struct conv c)
{
	constexpr uint32_t X_BYTES = ROWS * DEPTH * 2, W_BYTES = COLS * DEPTH * 2;
	extern __shared__ __align__(128) char memory[];
	tile_memory<COLS> &s = *(tile_memory<COLS> *)memory;
	static_assert(sizeof(tile_memory<COLS>) <= 99 * 1024 && COLS % 32 == 0, "");
	int child = blockIdx.z / c.splits, split = blockIdx.z % c.splits;
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	int first_row = warp % WARPS_DOWN * WARP_ROWS, first_col = warp / WARPS_DOWN * (COLS / 2);

	int steps_a_tap = (c.in + DEPTH - 1) / DEPTH, steps = list_sources(s.sources, c, child) * steps_a_tap;
	int begin = (int)((int64_t)steps * split / c.splits), end = (int)((int64_t)steps * (split + 1) / c.splits);
	uint32_t mask = s.sources.mask[first_row / 16] | s.sources.mask[first_row / 16 + 1];
	struct copier copier = copier_of(c, child, blockIdx.y * COLS);
	float sums[2][COLS / 16][4] = {};
	struct cursor load = {(uint32_t)(begin / steps_a_tap), (uint32_t)(begin % steps_a_tap * DEPTH)}, at = load;
	uint32_t x_buffer = shared_address(s.x), w_buffer = shared_address(s.w);
	uint32_t x_lane = x_buffer + 2 * swizzled_32(first_row + lane % 16, lane / 16);
	uint32_t w_lane = w_buffer + 2 * swizzled_32(first_col + lane / 16 * 8 + lane % 8, lane / 8 % 2);

	for (int i = 0; i < STAGES - 1; i++) {
		if (begin + i < end) {
			load_step<COLS>(s.sources, x_buffer + i * X_BYTES, w_buffer + i * W_BYTES, c, copier, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
	}
	uint32_t stage = 0;
	for (int i = begin; i < end; i++) {
		asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
		__syncthreads();
		if (i + STAGES - 1 < end) {
			uint32_t to = (stage + STAGES - 1) % STAGES;
			load_step<COLS>(s.sources, x_buffer + to * X_BYTES, w_buffer + to * W_BYTES, c, copier, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
		if (mask >> s.sources.tap[at.slot] & 1)
			multiply_step<COLS, BF16>(sums, x_lane + stage * X_BYTES, w_lane + stage * W_BYTES);
		at.advance(c.in);
		stage = (stage + 1) % STAGES;
	}

	int children = c.gather == GATHER_UP ? CHILDREN : 1;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int row = s.sources.row[first_row + i * 8 + lane / 4];
		if (row < 0)
			continue;
		float2 v[COLS / 16];
#pragma unroll
		for (int j = 0; j < COLS / 16; j++)
			v[j] = make_float2(sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]);
		store_row(c, (int64_t)row * children + child, c.rows * children, split,
			blockIdx.y * COLS + first_col + lane % 4 * 2, v);
	}
}

template <int COLS, bool BF16> static cudaError_t launch_tile(const struct launch *l, const struct conv &c)
{
	int bytes = sizeof(tile_memory<COLS>), children = c.gather == GATHER_UP ? CHILDREN : 1;
	dim3 grid((unsigned)((c.rows + ROWS - 1) / ROWS), (unsigned)((c.out + COLS - 1) / COLS),
		(unsigned)(children * c.splits));
	cudaError_t status =
		cudaFuncSetAttribute(conv_mma<COLS, BF16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	if (status != cudaSuccess)
		return status;
	conv_mma<COLS, BF16><<<grid, THREADS, bytes, l->stream>>>(c);
	return cudaGetLastError();
}

/* Columns of a tile: the fewest that are made for nothing, and of equal ones the widest. */
int conv_cols_mma(int out)
{
	static const int widths[] = {128, 96, 64, 32};
	int best = 128;
	for (int width : widths)
		if ((out + width - 1) / width * width < (out + best - 1) / best * best)
			best = width;
	return best;
}

template <bool BF16> static cudaError_t launch_type(const struct launch *l, const struct conv &c)
{
	switch (conv_cols_mma(c.out)) {
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
