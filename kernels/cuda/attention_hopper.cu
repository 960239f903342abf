/* attention_hopper.cu - attention on sm_90a: head size 64, f16 or bf16, no windows.
 *   launch: one block a multiprocessor that takes one tile of queries after the other. Three groups of four warps have 64
 *   queries each; one thread of a fourth group copies tiles of queries, keys and values into shared memory (the bulk copy
 *   engine), in steps that are full or empty by barriers.
 *   A group multiplies with wgmma: S = Q K^T with both in shared memory, O += P V with P in registers. While the tensor
 *   cores work on step j's scores and step j - 1's results, the other groups take exponentials: groups start their
 *   products in turns. (What FlashAttention-3, arXiv 2407.08608, does, with the base of attention.cuh.)
 *   Rows are independent: which block has them changes nothing in the results. */
#include "attention.cuh"
#include "hopper.cuh"

enum {
	D = 64,
	GROUPS = 3,	      /* that compute */
	KEYS = 128,	      /* a step */
	STAGES = 4,	      /* steps in the ring */
	ROW = HOPPER_ROW,     /* bytes: a row of a head */
	Q_TILE = 64 * ROW,    /* of one group */
	KV_TILE = KEYS * ROW, /* of keys or of values */
	STAGE = 2 * KV_TILE,
	BARRIERS = 2 * 2 * GROUPS + 2 * STAGES,
	SHARED = 1024 + 2 * GROUPS * Q_TILE + STAGES * STAGE + 8 * BARRIERS, /* tiles start at multiples of 1024 */
	THREADS = 128 * (GROUPS + 1),
};
static_assert(SHARED <= 227 * 1024, "more than a block can have");
static_assert(GROUPS == 3, "share of registers below: 65536 = 128 (3 x 160 + 32)");

/* Tiles of queries, in units of 64 rows: of each head and part first `wide` tiles of three units, then `narrow` ones of
 * two. Wide tiles are faster, narrow ones even out what the multiprocessors get. */
struct tiles {
	int units, wide, narrow, heads, all_wide, all;
};

struct tile {
	int first, width, head, part; /* first query; units */
};

__device__ __forceinline__ struct tile tile_at(const struct tiles &t, int i)
{
	bool is_wide = i < t.all_wide;
	int j = is_wide ? i : i - t.all_wide, count = is_wide ? t.wide : t.narrow, at = j % count;
	int first = is_wide ? 3 * at : 3 * t.wide + 2 * at, width = min(is_wide ? 3 : 2, t.units - first);

	return {64 * first, width, j / count % t.heads, j / count / t.heads};
}

/* Rows of one head of one part into shared memory, swizzled; rows past the part's end become zeros. */
__device__ __forceinline__ void copy_tile(
	uint32_t to, const CUtensorMap *map, uint32_t barrier, int head, int row, int part)
{
	asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
		     "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
		     "l"(map), "r"(0), "r"(head), "r"(row), "r"(part), "r"(barrier)
		     : "memory");
}

/* s[64, 128] = (add ? s : 0) + q[64, 16] k[128, 16]^T */
template <typename T>
__device__ __forceinline__ void multiply_scores(float (&s)[KEYS / 2], uint64_t q, uint64_t k, int add);
/* o[64, 64] += p[64, 16] v[16, 64] */
template <typename T> __device__ __forceinline__ void multiply_values(float (&o)[D / 2], const uint32_t *p, uint64_t v);

#define MULTIPLY(T, NAME)                                                                                              \
	template <>                                                                                                    \
	__device__ __forceinline__ void multiply_scores<T>(float(&s)[KEYS / 2], uint64_t q, uint64_t k, int add)       \
	{                                                                                                              \
		asm volatile(                                                                                          \
			"{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME     \
			"." NAME " {" PLACES64 "}, %64, %65, p, 1, 1, 0, 0; }"                                           \
			: SUMS64(s, 0)                                        \
			: "l"(q), "l"(k), "r"(add));                                                                   \
	}                                                                                                              \
	template <>                                                                                                    \
	__device__ __forceinline__ void multiply_values<T>(float(&o)[D / 2], const uint32_t *p, uint64_t v)            \
	{                                                                                                              \
		asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {" PLACES32                   \
			     "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                               \
			     : SUMS16(o, 0), SUMS16(o, 16)                                                               \
			     : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));                                    \
	}
MULTIPLY(__half, "f16")
MULTIPLY(__nv_bfloat16, "bf16")

/* Addresses in shared memory. Queries are there twice: of this tile and of the next. */
struct places {
	uint32_t q, ring, q_full, q_empty, full, empty;
};

__device__ __forceinline__ struct places places_in(void *shared)
{
	struct places at;

	at.q = uniform(((uint32_t)__cvta_generic_to_shared(shared) + 1023) & ~1023u);
	at.ring = at.q + 2 * GROUPS * Q_TILE;
	at.q_full = at.ring + STAGES * STAGE;
	at.q_empty = at.q_full + 8 * 2 * GROUPS;
	at.full = at.q_empty + 8 * 2 * GROUPS;
	at.empty = at.full + 8 * STAGES;
	return at;
}

typedef ring_position<STAGES> position;

/* Which buffer of queries, and the phase of its barriers. */
struct queries {
	int which, phase;

	__device__ __forceinline__ void next()
	{
		phase ^= which;
		which ^= 1;
	}
};

/* Every step brings the next keys and the values of the keys before, from one tile of queries on to the next. Keys go from
 * the last to the first. */
static __device__ void produce(const struct attention &a, const struct tiles &t, const struct places &at,
	const CUtensorMap *q_map, const CUtensorMap *k_map, const CUtensorMap *v_map)
{
	int steps = (a.keys + KEYS - 1) / KEYS, row = 0;
	position p = {0, 1};
	struct queries q = {0, 1};
	struct tile before = {};

	for (int i = blockIdx.x; i < t.all; i += gridDim.x, q.next()) {
		struct tile tile = tile_at(t, i);
		for (int g = 0; g < GROUPS; g++) {
			int n = q.which * GROUPS + g;
			barrier_wait(at.q_empty + 8 * n, q.phase);
			barrier_expect(at.q_full + 8 * n, Q_TILE);
			copy_tile(
				at.q + n * Q_TILE, q_map, at.q_full + 8 * n, tile.head, tile.first + 64 * g, tile.part);
		}
		for (int j = steps - 1; j >= 0; j--, p.next()) {
			uint32_t full = at.full + 8 * p.stage, to = at.ring + p.stage * STAGE;
			bool is_first = i == blockIdx.x && j == steps - 1;
			barrier_wait(at.empty + 8 * p.stage, p.phase);
			barrier_expect(full, is_first ? KV_TILE : STAGE);
			copy_tile(to, k_map, full, tile.head, j * KEYS, tile.part);
			if (!is_first)
				copy_tile(to + KV_TILE, v_map, full, before.head, row, before.part);
			before = tile;
			row = j * KEYS;
		}
	}
	barrier_wait(at.empty + 8 * p.stage, p.phase);
	barrier_expect(at.full + 8 * p.stage, KV_TILE);
	copy_tile(at.ring + p.stage * STAGE + KV_TILE, v_map, at.full + 8 * p.stage, before.head, row, before.part);
}

template <typename T> struct consumer {
	struct places at;
	position p;
	struct queries q;
	int group, lane;
	uint32_t ring_operand;
	float s[KEYS / 2], o[D / 2]; /* as in struct running */
	uint32_t weights[KEYS / 4];
	struct running softmax;
	bool ready; /* the next step, when last looked at */

	/* Groups start their products one after the other: barrier 1 + g is group g's turn. */
	__device__ __forceinline__ void wait_turn()
	{
		asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
	}
	__device__ __forceinline__ void pass_turn()
	{
		asm volatile("bar.arrive %0, 256;" ::"r"(group == GROUPS - 1 ? 1 : 2 + group) : "memory");
	}
	/* A step: its scores and the results of the weights before, both optional. On return the scores are there. */
	template <bool SCORES, bool VALUES> __device__ __forceinline__ void start_step()
	{
		uint32_t k = ring_operand + p.stage * (STAGE / 16), v = k + KV_TILE / 16;
		uint32_t q_tile = operand(at.q + (q.which * GROUPS + group) * Q_TILE);

		barrier_wait(at.full + 8 * p.stage, p.phase, ready);
		wait_turn();
		products_begin();
#pragma unroll
		for (int c = 0; c < D / 16 && SCORES; c++)
			multiply_scores<T>(s, whole(q_tile + 2 * c), whole(k + 2 * c), c);
		products_commit();
#pragma unroll
		for (int n = 0; n < KEYS / 16 && VALUES; n++)
			multiply_values<T>(o, weights + 4 * n, whole(v + n * (16 * ROW / 16)));
		products_commit();
		pass_turn();
		products_wait<1>();
		pin(s);
	}
	/* On return the results are there. */
	__device__ __forceinline__ void end_step()
	{
		pin(s);
		products_wait<0>();
		pin(o);
		if (lane == 0)
			barrier_arrive(at.empty + 8 * p.stage);
		p.next();
		ready = barrier_passed(at.full + 8 * p.stage, p.phase);
	}
	__device__ __forceinline__ void wait_queries()
	{
		barrier_wait(at.q_full + 8 * (q.which * GROUPS + group), q.phase);
	}
	__device__ __forceinline__ void end_queries()
	{
		if (lane == 0)
			barrier_arrive(at.q_empty + 8 * (q.which * GROUPS + group));
		q.next();
	}
	__device__ __forceinline__ void pack_weights()
	{
#pragma unroll
		for (int i = 0; i < KEYS / 4; i++)
			weights[i] = packed<T>(s[2 * i], s[2 * i + 1]);
	}
	/* The first step of a tile of queries, if this group has some, and the end of the tile before, if it had some there:
	 * its results go to rows [0, rows) from y on. left: keys in this step. */
	template <bool HAS, bool HAD>
	__device__ __forceinline__ void change(int left, float scale, T *y, int64_t stride, int rows)
	{
		float part[2];

		start_step<HAS, HAD>();
		if (HAD)
			running_end(part, softmax);
		if (HAS) {
			if (left < KEYS)
#pragma unroll
				for (int i = 0; i < KEYS / 2; i++)
					if (8 * (i / 4) + 2 * (lane & 3) + i % 2 >= left)
						s[i] = -INFINITY;
			running_begin(s, softmax, scale);
			running_weights(s, softmax);
		}
		end_step();
#pragma unroll
		for (int h = 0; h < 2 && HAD; h++) {
			int row = 8 * h + lane / 4;
			uint32_t *to = (uint32_t *)(y + row * stride) + (lane & 3);
			if (row < rows)
#pragma unroll
				for (int c = 0; c < D / 8; c++)
					to[4 * c] =
						packed<T>(o[4 * c + 2 * h] * part[h], o[4 * c + 2 * h + 1] * part[h]);
		}
#pragma unroll
		for (int i = 0; i < D / 2 && HAS; i++)
			o[i] = 0.0f;
		if (HAS)
			pack_weights();
	}
	/* All further steps of a tile. */
	__device__ __forceinline__ void attend(int steps, float scale)
	{
		for (int j = 1; j < steps; j++) {
			start_step<true, true>();
			bool moved = running_exponents(s, softmax, scale);
			running_weights(s, softmax);
			end_step();
			if (moved)
#pragma unroll
				for (int i = 0; i < D / 2; i++)
					o[i] *= softmax.shrink[i / 2 % 2];
			pack_weights();
		}
	}
	/* A group without queries in this tile keeps the others company. */
	__device__ __forceinline__ void idle(int steps)
	{
		for (int j = 1; j < steps; j++) {
			start_step<false, false>();
			end_step();
		}
	}
};

template <typename T>
__global__ void __launch_bounds__(THREADS, 1) hopper_kernel(const __grid_constant__ struct attention a,
	const __grid_constant__ struct tiles t, const __grid_constant__ CUtensorMap q_map,
	const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map)
{
	extern __shared__ uint8_t shared[];
	struct places at = places_in(shared);
	int group = uniform(threadIdx.x / 128), warp = threadIdx.x / 32 % 4;

	if (threadIdx.x == 0) {
		for (int i = 0; i < 2 * GROUPS; i++) {
			barrier_init(at.q_full + 8 * i, 1);
			barrier_init(at.q_empty + 8 * i, 4);
		}
		for (int i = 0; i < STAGES; i++) {
			barrier_init(at.full + 8 * i, 1);
			barrier_init(at.empty + 8 * i, 4 * GROUPS);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	if (group == GROUPS) {
		asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
		if (threadIdx.x == 128 * GROUPS)
			produce(a, t, at, &q_map, &k_map, &v_map);
		return;
	}
	asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
	int steps = (a.keys + KEYS - 1) / KEYS, left = a.keys - (steps - 1) * KEYS, rows = 0;
	bool had = false;
	T *y = NULL;
	struct consumer<T> c = {
		at, {0, 0}, {0, 0}, group, (int)threadIdx.x % 32
	};
	c.ring_operand = operand(at.ring);
	if (group == GROUPS - 1)
		c.pass_turn();
	for (int i = blockIdx.x; i < t.all; i += gridDim.x) {
		struct tile tile = tile_at(t, i);
		int first = tile.first + 64 * group + 16 * warp;
		bool has = group < tile.width;
		c.wait_queries();
		if (has && had)
			c.template change<true, true>(left, a.scale, y, a.y.stride, rows);
		else if (has)
			c.template change<true, false>(left, a.scale, y, a.y.stride, rows);
		else if (had)
			c.template change<false, true>(left, a.scale, y, a.y.stride, rows);
		else
			c.template change<false, false>(left, a.scale, y, a.y.stride, rows);
		if (has)
			c.attend(steps, a.scale);
		else
			c.idle(steps);
		c.end_queries();
		had = has;
		rows = a.queries - first;
		y = (T *)a.y.data + ((int64_t)tile.part * a.queries + first) * a.y.stride + tile.head * D;
	}
	if (had)
		c.template change<false, true>(left, a.scale, y, a.y.stride, rows);
	else
		c.template change<false, false>(left, a.scale, y, a.y.stride, rows);
	if (group == 0) /* the turn that is left over */
		c.wait_turn();
}

/* Rows [rows, 64 heads] of each part as [part][row][head][64]. */
static cudaError_t map_tensor(CUtensorMap *map, const struct attention *a, struct tensor x, int64_t rows, int tile_rows)
{
	cuuint64_t sizes[4] = {D, (cuuint64_t)a->heads, (cuuint64_t)rows, (cuuint64_t)a->groups};
	cuuint64_t strides[3] = {ROW, (cuuint64_t)x.stride * 2, (cuuint64_t)(x.stride * 2 * rows)};
	cuuint32_t box[4] = {D, 1, (cuuint32_t)tile_rows, 1};

	return map_encode(map, x.dtype, x.data, 4, sizes, strides, box);
}

/* The mixture of tiles that is done first: a narrow tile takes NARROW of a wide one's time. */
static struct tiles choose_tiles(const struct attention *a, int blocks)
{
	const double NARROW = 0.775;
	struct tiles best = {};
	double best_time = INFINITY;
	int units = (a->queries + 63) / 64, pairs = a->heads * a->groups;

	for (int wide = units / 3; wide >= 0 && wide >= units / 3 - 16; wide--) {
		int narrow = (units - 3 * wide + 1) / 2, all_wide = wide * pairs, all = all_wide + narrow * pairs;
		int wide_rounds = (all_wide + blocks - 1) / blocks, rounds = (all + blocks - 1) / blocks;
		double time = wide_rounds + (rounds - wide_rounds) * NARROW;
		if (time < best_time) {
			best_time = time;
			best = {units, wide, narrow, a->heads, all_wide, all};
		}
	}
	return best;
}

template <typename T> static cudaError_t hopper_launch(const struct launch *l, const struct attention *a)
{
	struct tiles t = choose_tiles(a, l->sm_count);
	CUtensorMap q, k, v;
	cudaError_t error = cudaFuncSetAttribute(hopper_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);

	if (error == cudaSuccess)
		error = map_tensor(&q, a, a->q, a->queries, 64);
	if (error == cudaSuccess)
		error = map_tensor(&k, a, a->k, a->keys, KEYS);
	if (error == cudaSuccess)
		error = map_tensor(&v, a, a->v, a->keys, KEYS);
	if (error != cudaSuccess)
		return error;
	int blocks = t.all < l->sm_count ? t.all : l->sm_count;
	hopper_kernel<T><<<blocks, THREADS, SHARED, l->stream>>>(*a, t, q, k, v);
	return cudaGetLastError();
}

cudaError_t attention_hopper(const struct launch *l, const struct attention *a)
{
	return a->y.dtype == DTYPE_F16 ? hopper_launch<__half>(l, a) : hopper_launch<__nv_bfloat16>(l, a);
}
