/* conv_hopper.cu - convolutions of f16 and bf16 with wgmma (sm_90a). The same walk as conv_mma.cu, 64 input channels at a
 * time: gathered rows travel by cp.async into rows of 128 bytes, swizzled; a step's weights lie in one piece of memory
 * and come by one bulk copy. Each of two warpgroups makes 64 rows x COLS and leaves out taps that none of its rows has.
 * launch: (row tiles, column tiles, children * splits) x 256 threads;  limit: in a multiple of 8, 16-byte rows. */
#include "conv.cuh"
#include "hopper.cuh"

enum {
	ROWS = TILE_ROWS,
	DEPTH = PANEL,
	CHUNKS = DEPTH / 8,
	THREADS = 256,
};

/* Up to 128 columns two blocks share a multiprocessor and fill each other's gaps; a wider block has it alone and starts
 * a step's products before the last one's are done. */
template <int COLS> struct shape {
	static constexpr bool ALONE = COLS > 128;
	static constexpr int STAGES = ALONE || COLS == 64 ? 4 : 3;
	static constexpr int AHEAD = STAGES - 1 - ALONE; /* steps that are on their way */
};

template <int COLS> struct hopper_memory {
	alignas(1024) uint16_t x[shape<COLS>::STAGES][ROWS * DEPTH];
	alignas(1024) uint16_t w[shape<COLS>::STAGES][COLS * DEPTH];
	uint64_t arrived[shape<COLS>::STAGES];
	struct sources sources;
};

/* ---- wgmma ---- */

/* d[64, n] += a[64, 16] b[n, 16]^T, for each width that tiles have. */
#define DEFINE_PRODUCT(n, places, a, b, registers)                                                                     \
	template <bool BF16> __device__ __forceinline__ void product(float(&d)[n / 2], uint64_t x, uint64_t w)         \
	{                                                                                                              \
		if (BF16)                                                                                              \
			asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" places "}, " a       \
				     ", " b ", 1, 1, 1, 0, 0;"                                                         \
				     : registers                                                                       \
				     : "l"(x), "l"(w));                                                                \
		else                                                                                                   \
			asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" places "}, " a ", " b  \
				     ", 1, 1, 1, 0, 0;"                                                                \
				     : registers                                                                       \
				     : "l"(x), "l"(w));                                                                \
	}
#define COMMA ,
DEFINE_PRODUCT(64, PLACES32, "%32", "%33", SUMS16(d, 0) COMMA SUMS16(d, 16))
DEFINE_PRODUCT(96, PLACES48, "%48", "%49", SUMS16(d, 0) COMMA SUMS16(d, 16) COMMA SUMS16(d, 32))
DEFINE_PRODUCT(128, PLACES64, "%64", "%65", SUMS64(d, 0))
DEFINE_PRODUCT(256, PLACES128, "%128", "%129", SUMS64(d, 0) COMMA SUMS64(d, 64))

/* The products of `parts` times 16 channels. Returns when they are done, or (ALONE) when those before are. */
template <int COLS, bool BF16, int PARTS>
__device__ __forceinline__ void add_products(float (&d)[COLS / 2], uint64_t x, uint64_t w)
{
	products_begin();
#pragma unroll
	for (int k = 0; k < PARTS; k++)
		product<BF16>(d, x + 2 * k, w + 2 * k);
	products_commit();
	products_wait<shape<COLS>::ALONE ? 1 : 0>();
}

/* ---- steps ---- */

struct step {
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

/* Start the copies of one step. Half a step that has no channels is neither copied nor multiplied. */
template <int COLS>
__device__ __forceinline__ void load_step(
	hopper_memory<COLS> &s, int stage, const struct conv &c, int child, struct step at)
{
	int tap = s.sources.tap[at.slot], chunk = threadIdx.x % CHUNKS, k = at.k + chunk * 8;
	bool inside = k < c.in;
	if (threadIdx.x == 0) {
		int first = blockIdx.y * COLS, bytes = min(COLS, c.out - first) * DEPTH * 2;
		const uint16_t *w = (const uint16_t *)c.w + packed_row(c, child, tap, at.k, first) * PANEL;
		barrier_expect(shared_address(&s.arrived[stage]), bytes);
		asm volatile(
			"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
				shared_address(s.w[stage])),
			"l"(w), "r"(bytes), "r"(shared_address(&s.arrived[stage]))
			: "memory");
	}
	if (k >= (c.in + DEPTH / 2 - 1) / (DEPTH / 2) * (DEPTH / 2))
		return;
	constexpr int APART = THREADS / CHUNKS; /* rows of a thread */
	int row = threadIdx.x / CHUNKS, stride = (int)c.x_stride;
	uint32_t place = shared_address(&s.x[stage][row * DEPTH + (chunk ^ row % 8) * 8]);
	const uint16_t *x = (const uint16_t *)c.x + (inside ? k : 0);
#pragma unroll
	for (int i = 0; i < ROWS / APART; i++) {
		int source = s.sources.source[(row + i * APART) * TAPS + tap];
		copy_async(place + i * APART * DEPTH * 2, x + (int64_t)max(source, 0) * stride, source >= 0 && inside);
	}
}

template <int COLS, bool BF16>
static __global__ void __launch_bounds__(THREADS, shape<COLS>::ALONE ? 1 : 2) conv_hopper(const struct conv c)
{
	constexpr int STAGES = shape<COLS>::STAGES, AHEAD = shape<COLS>::AHEAD;
	constexpr bool ALONE = shape<COLS>::ALONE;
	extern __shared__ __align__(1024) char memory[];
	hopper_memory<COLS> &s = *(hopper_memory<COLS> *)memory;
	static_assert(sizeof(hopper_memory<COLS>) <= (ALONE ? 227 : 113) * 1024, "");
	int child = blockIdx.z / c.splits, split = blockIdx.z % c.splits, group = threadIdx.x / 128;

	if (threadIdx.x == 0) {
		for (int i = 0; i < STAGES; i++)
			barrier_init(shared_address(&s.arrived[i]), 1);
		asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
	}
	int steps_a_tap = (c.in + DEPTH - 1) / DEPTH, steps = list_sources(s.sources, c, child) * steps_a_tap;
	int begin = (int)((int64_t)steps * split / c.splits), end = (int)((int64_t)steps * (split + 1) / c.splits);
	uint32_t mask = 0;
	for (int i = 0; i < 4; i++)
		mask |= s.sources.mask[group * 4 + i];
	float d[COLS / 2] = {};
	struct step load = {begin / steps_a_tap, begin % steps_a_tap * DEPTH}, at = load;

	for (int i = 0; i < AHEAD; i++) {
		if (begin + i < end) {
			load_step(s, i, c, child, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
	}
	for (int i = begin, stage = 0, parity = 0; i < end; i++) {
		asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1));
		barrier_wait(shared_address(&s.arrived[stage]), parity);
		asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
		__syncthreads();
		if (i + AHEAD < end) {
			load_step(s, (stage + AHEAD) % STAGES, c, child, load);
			load.advance(c.in);
		}
		asm volatile("cp.async.commit_group;");
		if (mask >> s.sources.tap[at.slot] & 1) {
			uint64_t x = whole(operand(shared_address(&s.x[stage][group * 64 * DEPTH])));
			uint64_t w = whole(operand(shared_address(s.w[stage])));
			if (c.in - at.k > DEPTH / 2)
				add_products<COLS, BF16, DEPTH / 16>(d, x, w);
			else
				add_products<COLS, BF16, DEPTH / 32>(d, x, w);
		} else if (ALONE) { /* the next step's copies overwrite what the last products read */
			products_wait<0>();
		}
		at.advance(c.in);
		parity ^= stage + 1 == STAGES;
		stage = (stage + 1) % STAGES;
	}
	if (ALONE)
		products_wait<0>();

	int children = c.gather == GATHER_UP ? CHILDREN : 1, lane = threadIdx.x % 32;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		int row = s.sources.row[threadIdx.x / 32 * 16 + i * 8 + lane / 4];
		if (row < 0)
			continue;
		float2 v[COLS / 8];
#pragma unroll
		for (int j = 0; j < COLS / 8; j++)
			v[j] = make_float2(d[j * 4 + i * 2], d[j * 4 + i * 2 + 1]);
		store_row(c, (int64_t)row * children + child, c.rows * children, split,
			blockIdx.y * COLS + lane % 4 * 2, v);
	}
}

template <int COLS, bool BF16> static cudaError_t launch_tile(const struct launch *l, const struct conv &c)
{
	int bytes = sizeof(hopper_memory<COLS>), children = c.gather == GATHER_UP ? CHILDREN : 1;
	dim3 grid((unsigned)((c.rows + ROWS - 1) / ROWS), (unsigned)((c.out + COLS - 1) / COLS),
		(unsigned)(children * c.splits));
	cudaError_t status =
		cudaFuncSetAttribute(conv_hopper<COLS, BF16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
	if (status != cudaSuccess)
		return status;
	conv_hopper<COLS, BF16><<<grid, THREADS, bytes, l->stream>>>(c);
	return cudaGetLastError();
}

int conv_cols_hopper(int out, int64_t depth)
{
	static const int widths[] = {128, 96, 64};
	int best = 128;
	if (out % 256 == 0 && depth >= 6000) /* long sums pay for filling a lone block's buffers */
		return 256;
	for (int width : widths)
		if ((out + width - 1) / width * width < (out + best - 1) / best * best)
			best = width;
	return best;
}

template <bool BF16> static cudaError_t launch_type(const struct launch *l, const struct conv &c)
{
	switch (conv_cols_hopper(c.out, (int64_t)c.in * c.taps)) {
	case 256:
		return launch_tile<256, BF16>(l, c);
	case 128:
		return launch_tile<128, BF16>(l, c);
	case 96:
		return launch_tile<96, BF16>(l, c);
	default:
		return launch_tile<64, BF16>(l, c);
	}
}

cudaError_t conv_launch_hopper(const struct launch *l, const struct conv &c, enum dtype dtype)
{
	return dtype == DTYPE_BF16 ? launch_type<true>(l, c) : launch_type<false>(l, c);
}
