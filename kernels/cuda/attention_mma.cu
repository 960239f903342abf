/* attention_mma.cu - attention on the tensor cores of every generation since Ampere.
 *   S = Q K^T and O += P V with mma.sync m16n8k16, f16 or bf16 operands, f32 sums; P is rounded to the operands' type.
 *   Q stays in registers; tiles of keys and values come through a ring in shared memory (cp.async, 16 bytes a thread).
 *   launch: a block for ROWS queries of a head of a group; a warp has 16 TILES of them and all keys.
 *   limit: rows aligned to 16 bytes (the launcher falls back to the simple kernel). */
#include "attention.cuh"

/* D: head size. A warp has TILES x 16 queries; a stage of the ring holds KEYS keys and values. BLOCKS: at least so many on
 * a multiprocessor, which bounds the registers. */
template <int D_, int WARPS_, int TILES_, int KEYS_, int STAGES_, int BLOCKS_> struct shape {
	static constexpr int D = D_, WARPS = WARPS_, TILES = TILES_, KEYS = KEYS_, STAGES = STAGES_, BLOCKS = BLOCKS_;
	static constexpr int THREADS = 32 * WARPS, ROWS = 16 * TILES * WARPS;
	static constexpr int SHARED = (ROWS + 2 * STAGES * KEYS) * D * 2; /* bytes */
	static_assert(SHARED <= 99 * 1024, "more than a block can have outside sm_80 and sm_90");
	static_assert(STAGES >= 2 && KEYS % 16 == 0 && D % 16 == 0, "");
};

/* Where the 16 bytes `chunk` of a tile's row lie, in units of 16 bytes. The 8 rows that one load of a matrix reads lie in
 * different banks. */
template <int D> __device__ __forceinline__ int place(int row, int chunk)
{
	constexpr int CHUNKS = D / 8, FOLD = CHUNKS < 8 ? 8 / CHUNKS : 1, MASK = CHUNKS < 8 ? CHUNKS - 1 : 7;

	return row * CHUNKS + (chunk ^ (row / FOLD & MASK));
}

template <int N> __device__ __forceinline__ void wait_copies()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void commit_copies()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Copies tiles of COUNT rows, 16 bytes a thread and turn; rows past the group's end become zeros. */
template <typename S, int COUNT, typename T> struct tile_copy {
	static constexpr int CHUNKS = S::D / 8, STEP = S::THREADS / CHUNKS; /* rows a turn */
	static_assert(STEP % 8 == 0, "place() repeats every 8 rows");
	const T *from; /* this thread's chunk of the head in the group's row 0 (of row 0 if rows are gathered) */
	int64_t stride;

	__device__ tile_copy(const struct tensor &x, int64_t column, const struct group_rows &rows)
	{
		from = (const T *)x.data + column + threadIdx.x % CHUNKS * 8 + (rows.order ? 0 : rows.first * x.stride);
		stride = x.stride;
	}
	__device__ __forceinline__ void start(uint32_t tile, const struct group_rows &rows, int32_t first) const
	{
		int row = threadIdx.x / CHUNKS;
		uint32_t to = tile + 16 * place<S::D>(row, threadIdx.x % CHUNKS);

#pragma unroll
		for (int i = 0; i < COUNT; i += STEP) {
			int32_t r = first + row + i;
			bool inside = r < rows.count && (COUNT % STEP == 0 || row + i < COUNT);
			const T *source = from + (!inside ? 0 : rows.order ? rows[r] * stride : r * stride);
			if (COUNT % STEP == 0 || row + i < COUNT)
				asm volatile(
					"cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + 16 * i * CHUNKS),
					"l"(source), "r"(inside ? 16 : 0)
					: "memory");
		}
	}
};

/* Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t address)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
		     : "r"(address)
		     : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&x)[4], uint32_t address)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
		     : "r"(address)
		     : "memory");
}

/* d[16, 8] += a[16, 16] b[16, 8] */
template <typename T>
__device__ __forceinline__ void multiply(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> __device__ __forceinline__ void multiply<__half>(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
	    "{%0, %1, %2, %3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
	    "{%0, %1, %2, %3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* What a warp keeps of its queries. Of each 16 x 8 block a lane has row lane / 4, columns 2 (lane % 4) and the next in
 * [0], [1], and the same of row lane / 4 + 8 in [2], [3]. */
template <typename S> struct rows_state {
	uint32_t q[S::TILES][S::D / 16][4];
	float result[S::TILES][S::D / 2];
	struct running softmax[S::TILES];
};

template <typename S, typename T>
__device__ __forceinline__ void add_scores(
	float (&s)[S::TILES][S::KEYS / 2], const struct rows_state<S> &w, uint32_t keys, int lane)
{
	int row = (lane & 7) + (lane >> 4) * 8, chunk = lane >> 3 & 1;

#pragma unroll
	for (int c = 0; c < S::D / 16; c++)
#pragma unroll
		for (int n = 0; n < S::KEYS / 16; n++) {
			uint32_t b[4];
			load_matrices(b, keys + 16 * place<S::D>(16 * n + row, 2 * c + chunk));
#pragma unroll
			for (int t = 0; t < S::TILES; t++) {
				multiply<T>(&s[t][8 * n], w.q[t][c], b[0], b[1]);
				multiply<T>(&s[t][8 * n + 4], w.q[t][c], b[2], b[3]);
			}
		}
}

template <typename S, typename T>
__device__ __forceinline__ void add_values(
	struct rows_state<S> &w, const float (&s)[S::TILES][S::KEYS / 2], uint32_t values, int lane)
{
	int row = (lane & 7) + (lane >> 3 & 1) * 8, chunk = lane >> 4;

#pragma unroll
	for (int n = 0; n < S::KEYS / 16; n++) {
		uint32_t p[S::TILES][4];
#pragma unroll
		for (int t = 0; t < S::TILES; t++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				p[t][i] = packed<T>(s[t][8 * n + 2 * i], s[t][8 * n + 2 * i + 1]);
#pragma unroll
		for (int c = 0; c < S::D / 16; c++) {
			uint32_t b[4];
			load_transposed(b, values + 16 * place<S::D>(16 * n + row, 2 * c + chunk));
#pragma unroll
			for (int t = 0; t < S::TILES; t++) {
				multiply<T>(&w.result[t][8 * c], p[t], b[0], b[1]);
				multiply<T>(&w.result[t][8 * c + 4], p[t], b[2], b[3]);
			}
		}
	}
}

template <typename S, typename T>
__device__ __forceinline__ void scores_of(
	float (&s)[S::TILES][S::KEYS / 2], const struct rows_state<S> &w, uint32_t keys, int32_t left, int lane)
{
#pragma unroll
	for (int i = 0; i < S::TILES * S::KEYS / 2; i++)
		s[i / (S::KEYS / 2)][i % (S::KEYS / 2)] = 0.0f;
	add_scores<S, T>(s, w, keys, lane);
	if (left < S::KEYS)
#pragma unroll
		for (int i = 0; i < S::KEYS / 2; i++)
			if (8 * (i / 4) + 2 * (lane & 3) + i % 2 >= left)
#pragma unroll
				for (int t = 0; t < S::TILES; t++)
					s[t][i] = -INFINITY;
}

/* Scores of a stage, the first or a later one, become weights and gather values. */
template <typename S, typename T>
__device__ __forceinline__ void attend(struct rows_state<S> &w, float (&s)[S::TILES][S::KEYS / 2], uint32_t values,
	bool is_first, float scale, int lane)
{
#pragma unroll
	for (int t = 0; t < S::TILES; t++) {
		if (is_first)
			running_begin(s[t], w.softmax[t], scale);
		else if (running_exponents(s[t], w.softmax[t], scale))
#pragma unroll
			for (int i = 0; i < S::D / 2; i++)
				w.result[t][i] *= w.softmax[t].shrink[i / 2 % 2];
		running_weights(s[t], w.softmax[t]);
	}
	add_values<S, T>(w, s, values, lane);
}

/* first: the warp's first query; y: the head's first column. */
template <typename S, typename T>
__device__ __forceinline__ void store(
	const struct rows_state<S> &w, T *y, int64_t stride, const struct group_rows &rows, int32_t first, int lane)
{
#pragma unroll
	for (int t = 0; t < S::TILES; t++) {
		float part[2];
		running_end(part, w.softmax[t]);
#pragma unroll
		for (int h = 0; h < 2; h++) {
			int32_t row = first + 16 * t + 8 * h + lane / 4;
			if (row >= rows.count)
				continue;
			uint32_t *to = (uint32_t *)(y + rows[row] * stride) + (lane & 3);
			const float *from = &w.result[t][2 * h];
#pragma unroll
			for (int c = 0; c < S::D / 8; c++)
				to[4 * c] = packed<T>(from[4 * c] * part[h], from[4 * c + 1] * part[h]);
		}
	}
}

template <typename T, typename S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) mma_kernel(const __grid_constant__ struct attention a)
{
	extern __shared__ uint4 shared[];
	constexpr uint32_t TILE = S::KEYS * S::D * 2; /* bytes of a tile of keys or values */
	uint32_t q_tile = (uint32_t)__cvta_generic_to_shared(shared), ring = q_tile + S::ROWS * S::D * 2;
	int blocks = (a.queries + S::ROWS - 1) / S::ROWS, group = blockIdx.x / blocks;
	int32_t first = blockIdx.x % blocks * S::ROWS;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	struct group_rows queries = group_rows(a, group, false), keys = group_rows(a, group, true);
	int64_t column = (int64_t)blockIdx.y * S::D;
	int stages = (keys.count + S::KEYS - 1) / S::KEYS;
	struct rows_state<S> w = {
	};

	if (first >= queries.count)
		return;
	const tile_copy<S, S::KEYS, T> copy_k(a.k, column, keys), copy_v(a.v, column, keys);
	auto fetch = [&](int stage) {
		uint32_t tile = ring + stage % S::STAGES * 2 * TILE;
		if (stage < stages) {
			copy_k.start(tile, keys, stage * S::KEYS);
			copy_v.start(tile + TILE, keys, stage * S::KEYS);
		}
		commit_copies();
	};
	tile_copy<S, S::ROWS, T>(a.q, column, queries).start(q_tile, queries, first);
	for (int i = 0; i < S::STAGES - 1; i++)
		fetch(i);
	wait_copies<S::STAGES - 2>();
	__syncthreads();
#pragma unroll
	for (int t = 0; t < S::TILES; t++) {
		int row = 16 * (warp * S::TILES + t) + (lane & 7) + (lane >> 3 & 1) * 8;
#pragma unroll
		for (int c = 0; c < S::D / 16; c++)
			load_matrices(w.q[t][c], q_tile + 16 * place<S::D>(row, 2 * c + (lane >> 4)));
	}
	for (int i = 0; i < stages; i++) {
		float s[S::TILES][S::KEYS / 2];
		uint32_t tile = ring + i % S::STAGES * 2 * TILE;
		wait_copies<S::STAGES - 2>();
		__syncthreads(); /* stage i is there for all, and all are done with stage i - 1 */
		fetch(i + S::STAGES - 1);
		scores_of<S, T>(s, w, tile, keys.count - i * S::KEYS, lane);
		attend<S, T>(w, s, tile + TILE, i == 0, a.scale, lane);
	}
	store<S, T>(w, (T *)a.y.data + column, a.y.stride, queries, first + 16 * warp * S::TILES, lane);
}

template <typename T, typename S> static cudaError_t mma_launch(const struct launch *l, const struct attention *a)
{
	cudaError_t error =
		cudaFuncSetAttribute(mma_kernel<T, S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::SHARED);
	int32_t blocks = (a->queries + S::ROWS - 1) / S::ROWS;

	if (error != cudaSuccess)
		return error;
	mma_kernel<T, S><<<dim3(blocks * a->groups, a->heads), S::THREADS, S::SHARED, l->stream>>>(*a);
	return cudaGetLastError();
}

template <typename T> static cudaError_t launch_shape(const struct launch *l, const struct attention *a)
{
	switch (a->head_size) {
	case 16:
		return mma_launch<T, shape<16, 4, 1, 64, 2, 4>>(l, a);
	case 32:
		return mma_launch<T, shape<32, 4, 1, 64, 2, 4>>(l, a);
	case 64: {
		/* windows are short; few queries are spread over all multiprocessors */
		if (a->order)
			return mma_launch<T, shape<64, 4, 1, 32, 4, 4>>(l, a);
		int64_t blocks = (int64_t)(a->queries + 127) / 128 * a->groups * a->heads;
		return blocks < 2 * l->sm_count ? mma_launch<T, shape<64, 4, 1, 64, 2, 3>>(l, a)
						: mma_launch<T, shape<64, 4, 2, 64, 2, 2>>(l, a);
	}
	case 128:
		return mma_launch<T, shape<128, 4, 1, 64, 2, 2>>(l, a);
	default:
		return cudaErrorInvalidValue;
	}
}

cudaError_t attention_mma(const struct launch *l, const struct attention *a)
{
	return a->y.dtype == DTYPE_F16 ? launch_shape<__half>(l, a) : launch_shape<__nv_bfloat16>(l, a);
}
