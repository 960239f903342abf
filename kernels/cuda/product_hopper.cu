/* product_hopper.cu - op_linear_qkv on sm_90a, f16 and bf16: a product whose first columns are normalised in heads of 64 before
 * they are stored, which cuBLASLt can't.
 *   launch: one block a multiprocessor that takes one tile of 128 rows x 256 columns after the other. Two groups of four
 *   warps make 64 x 256 sums each with wgmma. Of a third group one thread copies rows of x and w into shared memory (the bulk
 *   copy engine), 64 numbers of each a step, in a ring whose stages are full or empty by barriers; two more, one for each
 *   group, take results away while the next tile's sums are made.
 *   limit: in a multiple of 64, out of 256, 16-byte rows. A sum has one order whatever the number of rows. */
#include "hopper.cuh"

enum {
	ROWS = 128,
	COLS = 256,
	DEPTH = 64, /* a step */
	STAGES = 3, /* steps in the ring */
	X_TILE = ROWS * HOPPER_ROW,
	W_TILE = COLS * HOPPER_ROW,
	STAGE = X_TILE + W_TILE,
	GROUPS = 2,		     /* that compute */
	PIECE = 64 * HOPPER_ROW,     /* 64 x 64 numbers of a group's part of y */
	PIECES = COLS / 64,	     /* of a group */
	BARRIERS = 2 * STAGES + 2 * GROUPS,
	SHARED = 1024 + STAGES * STAGE + GROUPS * PIECES * PIECE + 8 * BARRIERS, /* tiles start at multiples of 1024 */
	THREADS = 128 * (GROUPS + 1),
};
static_assert(SHARED <= 227 * 1024, "more than a block can have");

/* y [rows, 3 c] = x w^T + bias, x [rows, depth] */
struct product {
	int rows, cols, depth, c;
	const float *bias;     /* [3 c] or NULL */
	const float *gamma[2]; /* [c] each, of columns [0, c) and [c, 2 c) */
};

struct maps {
	CUtensorMap x, w, y;
};

/* As many rows of 128 bytes as the map's box has. */
__device__ __forceinline__ void copy_rows(uint32_t to, const CUtensorMap *map, uint32_t barrier, int column, int row)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
		     "[%1, {%2, %3}], [%4];" ::"r"(to),
		     "l"(map), "r"(column), "r"(row), "r"(barrier)
		     : "memory");
}

__device__ __forceinline__ void store_rows(const CUtensorMap *map, uint32_t from, int column, int row)
{
	asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
		     "r"(column), "r"(row), "r"(from)
		     : "memory");
}

/* Until this thread's stores have been read out of shared memory. */
__device__ __forceinline__ void stores_wait()
{
	asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* d[64, 256] = (add ? d : 0) + x[64, 16] w[256, 16]^T */
template <typename T> __device__ __forceinline__ void multiply(float (&d)[COLS / 2], uint64_t x, uint64_t w, int add);

#define MULTIPLY(T, NAME)                                                                                              \
	template <>                                                                                                    \
	__device__ __forceinline__ void multiply<T>(float(&d)[COLS / 2], uint64_t x, uint64_t w, int add)              \
	{                                                                                                              \
		asm volatile(                                                                                          \
			"{ .reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." NAME    \
			"." NAME " {" PLACES128 "}, %128, %129, p, 1, 1, 0, 0; }"                                        \
			: SUMS64(d, 0), SUMS64(d, 64)                                                                          \
			: "l"(x), "l"(w), "r"(add));                                                                   \
	}
MULTIPLY(__half, "f16")
MULTIPLY(__nv_bfloat16, "bf16")

typedef ring_position<STAGES> position;

/* Addresses in shared memory. A group's pieces are free, or done by it. */
struct places {
	uint32_t ring, pieces, full, empty, free, done;
};

__device__ __forceinline__ struct places places_in(void *shared)
{
	struct places at;

	at.ring = uniform(((uint32_t)__cvta_generic_to_shared(shared) + 1023) & ~1023u);
	at.pieces = at.ring + STAGES * STAGE;
	at.full = at.pieces + GROUPS * PIECES * PIECE;
	at.empty = at.full + 8 * STAGES;
	at.free = at.empty + 8 * STAGES;
	at.done = at.free + 8 * GROUPS;
	return at;
}

/* The tile's first row and column. Blocks that run together share rows of x and columns of w. */
__device__ __forceinline__ int2 tile_at(const struct product &p, int tile)
{
	int across = p.cols / COLS;

	return make_int2(tile / across * ROWS, tile % across * COLS);
}

static __device__ void produce(const struct product &p, const struct places &at, const struct maps &maps, int tiles)
{
	position pos = {0, 1};

	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
		int2 first = tile_at(p, tile);
		for (int k = 0; k < p.depth; k += DEPTH, pos.next()) {
			uint32_t full = at.full + 8 * pos.stage, to = at.ring + pos.stage * STAGE;
			barrier_wait(at.empty + 8 * pos.stage, pos.phase);
			barrier_expect(full, STAGE);
			copy_rows(to, &maps.x, full, k, first.x);
			copy_rows(to + X_TILE, &maps.w, full, k, first.y);
		}
	}
}

static __device__ void take_away(
	const struct product &p, const struct places &at, const struct maps &maps, int group, int tiles)
{
	uint32_t pieces = at.pieces + group * (PIECES * PIECE);
	int phase = 0;

	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, phase ^= 1) {
		int2 first = tile_at(p, tile);
		barrier_wait(at.done + 8 * group, phase);
		for (int i = 0; i < PIECES; i++)
			store_rows(&maps.y, pieces + i * PIECE, first.y + 64 * i, first.x + 64 * group);
		stores_wait();
		barrier_arrive(at.free + 8 * group);
	}
}

/* Of each 16 x 8 block of sums a lane has row lane / 4, columns 2 (lane % 4) and the next in [0], [1], and the same of row
 * lane / 4 + 8 in [2], [3]. v: eight blocks side by side. */
__device__ __forceinline__ void add_columns(float *v, const float *x)
{
#pragma unroll
	for (int i = 0; i < 8; i++) {
		float2 pair = *(const float2 *)(x + 8 * i);
		v[4 * i] += pair.x;
		v[4 * i + 1] += pair.y;
		v[4 * i + 2] += pair.x;
		v[4 * i + 3] += pair.y;
	}
}

__device__ __forceinline__ void normalise_head(float *v, const float *gamma)
{
	float scale[2] = {}; /* of the two rows */

#pragma unroll
	for (int i = 0; i < 32; i++)
		scale[i / 2 % 2] = fmaf(v[i], v[i], scale[i / 2 % 2]);
#pragma unroll
	for (int h = 0; h < 2; h++) {
		scale[h] += __shfl_xor_sync(0xffffffffu, scale[h], 1);
		scale[h] += __shfl_xor_sync(0xffffffffu, scale[h], 2);
		scale[h] = 8.0f / fmaxf(sqrtf(scale[h]), 1e-12f);
	}
#pragma unroll
	for (int i = 0; i < 8; i++) {
		float2 pair = *(const float2 *)(gamma + 8 * i);
		v[4 * i] *= scale[0] * pair.x;
		v[4 * i + 1] *= scale[0] * pair.y;
		v[4 * i + 2] *= scale[1] * pair.x;
		v[4 * i + 3] *= scale[1] * pair.y;
	}
}

/* The eight blocks from `column` on, from sums to rows of 128 bytes at `piece`, swizzled. */
template <typename T>
__device__ __forceinline__ void finish_piece(float *v, const struct product &p, int column, uint32_t piece)
{
	int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16, first = column + 2 * (lane & 3);

	if (p.bias)
		add_columns(v, p.bias + first);
	if (column < 2 * p.c)
		normalise_head(v, column < p.c ? p.gamma[0] + first : p.gamma[1] + first - p.c);
#pragma unroll
	for (int i = 0; i < 8; i += 2) {
		uint32_t address = piece + row * HOPPER_ROW + ((i + lane / 16) ^ row % 8) * 16, word[4];
#pragma unroll
		for (int k = 0; k < 4; k++)
			word[k] = packed<T>(v[4 * i + 2 * k], v[4 * i + 2 * k + 1]);
		/* No "memory": loads of the next piece's columns may go before. */
		asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
			     "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3]));
	}
}

template <typename T>
static __device__ void consume(const struct product &p, const struct places &at, int group, int tiles)
{
	position pos = {0, 0};
	uint32_t pieces = at.pieces + group * (PIECES * PIECE);
	int steps = p.depth / DEPTH, phase = 0;
	bool is_first_lane = threadIdx.x % 32 == 0;
	float d[COLS / 2] = {};

	for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, phase ^= 1) {
		uint32_t before = 0; /* empty, of the stage that the running products read */
		int column = tile_at(p, tile).y;
		for (int j = 0; j < steps; j++) {
			uint32_t x = operand(at.ring + pos.stage * STAGE + group * (X_TILE / GROUPS));
			uint32_t w = operand(at.ring + pos.stage * STAGE + X_TILE);
			barrier_wait(at.full + 8 * pos.stage, pos.phase);
			products_begin();
#pragma unroll
			for (int k = 0; k < DEPTH / 16; k++)
				multiply<T>(d, whole(x + 2 * k), whole(w + 2 * k), j + k);
			products_commit();
			if (j > 0) {
				products_wait<1>();
				if (is_first_lane)
					barrier_arrive(before);
			}
			before = at.empty + 8 * pos.stage;
			pos.next();
		}
		products_wait<0>();
		pin(d);
		if (is_first_lane)
			barrier_arrive(before);
		barrier_wait(at.free + 8 * group, phase ^ 1);
#pragma unroll
		for (int i = 0; i < PIECES; i++)
			finish_piece<T>(d + 32 * i, p, column + 64 * i, pieces + i * PIECE);
		asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
		__syncwarp();
		if (is_first_lane)
			barrier_arrive(at.done + 8 * group);
	}
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 1)
	product_kernel(const __grid_constant__ struct product p, const __grid_constant__ struct maps maps)
{
	extern __shared__ uint8_t shared[];
	struct places at = places_in(shared);
	int group = uniform(threadIdx.x / 128), tiles = (p.rows + ROWS - 1) / ROWS * (p.cols / COLS);

	if (threadIdx.x == 0) {
		for (int i = 0; i < STAGES; i++) {
			barrier_init(at.full + 8 * i, 1);
			barrier_init(at.empty + 8 * i, 4 * GROUPS);
		}
		for (int i = 0; i < GROUPS; i++) {
			barrier_init(at.free + 8 * i, 1);
			barrier_init(at.done + 8 * i, 4);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	if (group == GROUPS) {
		asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
		int warp = uniform(threadIdx.x / 32 % 4);
		if (threadIdx.x % 32 == 0 && warp == 0)
			produce(p, at, maps, tiles);
		else if (threadIdx.x % 32 == 0 && warp <= GROUPS)
			take_away(p, at, maps, warp - 1, tiles);
	} else {
		asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
		consume<T>(p, at, group, tiles);
	}
}

static cudaError_t map_rows(CUtensorMap *map, struct tensor x, int box_rows)
{
	cuuint64_t sizes[2] = {(cuuint64_t)x.cols, (cuuint64_t)x.rows}, strides[1] = {(cuuint64_t)x.stride * 2};
	cuuint32_t box[2] = {64, (cuuint32_t)box_rows};

	return map_encode(map, x.dtype, x.data, 2, sizes, strides, box);
}

template <typename T> static cudaError_t start(const struct launch *l, const struct product &p, const struct maps &maps)
{
	cudaError_t error = cudaFuncSetAttribute(product_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);
	int tiles = (p.rows + ROWS - 1) / ROWS * (p.cols / COLS);

	if (error != cudaSuccess)
		return error;
	product_kernel<T><<<tiles < l->sm_count ? tiles : l->sm_count, THREADS, SHARED, l->stream>>>(p, maps);
	return cudaGetLastError();
}

static bool is_aligned(struct tensor x)
{
	return (uintptr_t)x.data % 16 == 0 && x.stride % 8 == 0;
}

static bool is_aligned(const float *x)
{
	return (uintptr_t)x % 8 == 0;
}

bool launch_linear_qkv_fits(const struct launch *l, struct tensor y, struct tensor x, struct tensor w, int heads,
	const float *bias, const float *q_gamma, const float *k_gamma)
{
	int64_t tiles = (y.rows + ROWS - 1) / ROWS * (y.cols / COLS), rounds = (tiles + l->sm_count - 1) / l->sm_count;

	return l->capability == 90 && !l->force_mma && w.dtype != DTYPE_F32 && y.dtype == w.dtype &&
	       x.dtype == w.dtype && is_aligned(y) && is_aligned(x) && is_aligned(w) && is_aligned(bias) &&
	       is_aligned(q_gamma) && is_aligned(k_gamma) && x.cols % DEPTH == 0 && y.cols % COLS == 0 &&
	       y.cols == 3 * 64ll * heads && y.rows <= INT32_MAX - ROWS &&
	       100 * tiles >= 55 * rounds * l->sm_count; /* tiles are large: the last round must not leave most idle */
}

cudaError_t launch_linear_qkv(const struct launch *l, struct tensor y, struct tensor x, struct tensor w,
	const float *bias, const float *q_gamma, const float *k_gamma)
{
	struct product p = {(int)y.rows, (int)y.cols, (int)x.cols, (int)y.cols / 3, bias, {q_gamma, k_gamma}};
	struct maps maps;
	cudaError_t error = map_rows(&maps.x, x, ROWS);

	if (error == cudaSuccess)
		error = map_rows(&maps.w, w, COLS);
	if (error == cudaSuccess)
		error = map_rows(&maps.y, y, 64);
	if (error != cudaSuccess)
		return error;
	return y.dtype == DTYPE_F16 ? start<__half>(l, p, maps) : start<__nv_bfloat16>(l, p, maps);
}
