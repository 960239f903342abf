/* conv.cuh - what the convolution kernels share: a convolution as a product over gathered rows, and its epilogue.
 * y[row, :] = finish(sum over taps t of w[t] x[source(row, t)]), where a source that does not exist adds nothing.
 *
 * Rows are taken in tiles. A tile lists its sources once and walks only the taps that some row of it has; the neighbour
 * tables therefore come with an order that puts rows with the same neighbours together. */
#ifndef TRELLIS_CUDA_CONV_CUH
#define TRELLIS_CUDA_CONV_CUH

#include "device.cuh"

enum {
	TAPS = 27,
	CHILDREN = 8,
	MERGED = 8,
	TILE_ROWS = 128,
	PANEL = 64, /* input channels of a packed weight's row */
};

/* Where rows and their sources come from. */
enum gather {
	GATHER_CUBE, /* all of a cube of `resolution`, zeros outside */
	GATHER_TABLE,
	GATHER_UP, /* one of eight children of each row of the table: 8 of the row's 27 neighbours */
};

struct output {
	void *y;
	const void *residual; /* or NULL */
	enum dtype y_type, residual_type;
	int64_t y_stride, residual_stride;
	const float *bias, *gate; /* or NULL */
	enum activation act;
	int cols;
	bool pairs; /* two neighbouring numbers can be read and written at once */
};

struct conv {
	const void *x;	      /* [.., in], stride in numbers */
	const void *w;	      /* packed, see packed_row */
	const int32_t *table; /* [rows, 28] */
	int64_t x_stride, table_stride, rows;
	enum gather gather;
	int resolution, taps, in, out;
	int splits;	/* parts of the sum that blocks share out */
	float *partial; /* [splits, output rows, out_even] when splits > 1 */
	struct output output;
};

/* Column of a parents' neighbour table for child c and its t-th parent (2 x 2 x 2): offset d - 1 + t along each axis. */
__host__ __device__ __forceinline__ int merged_column(int c, int t)
{
	int x = (c >> 2) + (t >> 2), y = (c >> 1 & 1) + (t >> 1 & 1), z = (c & 1) + (t & 1);
	return (x * 3 + y) * 3 + z;
}

/* Row of x that tap t of voxel `row` of a cube meets, or -1. */
__device__ __forceinline__ int cube_source(int n, int row, int t)
{
	int x = row / (n * n) + t / 9 - 1, y = row / n % n + t / 3 % 3 - 1, z = row % n + t % 3 - 1;
	bool inside = (unsigned)x < (unsigned)n && (unsigned)y < (unsigned)n && (unsigned)z < (unsigned)n;
	return inside ? (x * n + y) * n + z : -1;
}

/* The row of the table, or voxel of the cube, that is taken at `place`; -1 past the end. */
__device__ __forceinline__ int row_at(const struct conv &c, int64_t place)
{
	if (place >= c.rows)
		return -1;
	return c.gather == GATHER_CUBE ? (int)place : __ldg(c.table + place * c.table_stride + TAPS);
}

/* Row of x that tap t of a row meets, or -1. */
__device__ __forceinline__ int source_of(const struct conv &c, int row, int child, int t)
{
	int column = c.gather == GATHER_UP ? merged_column(child, t) : t, safe = row < 0 ? 0 : row;
	int source = c.gather == GATHER_CUBE ? cube_source(c.resolution, safe, t)
					     : __ldg(c.table + safe * c.table_stride + column);
	return row < 0 ? -1 : source;
}

/* Packed weights: [child * taps + tap][panel][out][64], the input channels 64 panel..., zeros past the last, the eight
 * chunks of a row swizzled by its number: what a block reads for a step is one piece of memory, laid out as wgmma wants
 * it. This is the number of a row of 64. */
__host__ __device__ __forceinline__ int64_t packed_row(const struct conv &c, int child, int tap, int k, int o)
{
	int panels = (c.in + PANEL - 1) / PANEL;
	return ((int64_t)(child * c.taps + tap) * panels + k / PANEL) * c.out + o;
}

/* ---- a tile of rows ---- */

struct sources {
	int source[TILE_ROWS * TAPS]; /* [row][tap] */
	int row[TILE_ROWS];
	uint32_t mask[TILE_ROWS / 16]; /* taps of 16 rows */
	uint8_t tap[TAPS + 1];	       /* those of the tile */
};

/* The tile's rows, their sources, the taps of every 16 rows and the list of the tile's taps; returns their number. By
 * all of a block of 256. */
__device__ __forceinline__ int list_sources(struct sources &s, const struct conv &c, int child)
{
	int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
	if (threadIdx.x < TILE_ROWS)
		s.row[threadIdx.x] = row_at(c, (int64_t)blockIdx.x * TILE_ROWS + threadIdx.x);
	__syncthreads();
	int source[16], found = 0;
#pragma unroll
	for (int i = 0; i < 16; i++) /* all on their way before the first is waited for */
		source[i] = source_of(c, s.row[warp * 16 + i], child, lane < c.taps ? lane : 0);
#pragma unroll
	for (int i = 0; i < 16; i++) {
		found |= source[i] >= 0;
		if (lane < c.taps)
			s.source[(warp * 16 + i) * TAPS + lane] = source[i];
	}
	uint32_t mask = __ballot_sync(0xffffffffu, found && lane < c.taps);
	if (lane == 0)
		s.mask[warp] = mask;
	__syncthreads();
	uint32_t all = 0;
	for (int i = 0; i < TILE_ROWS / 16; i++)
		all |= s.mask[i];
	if (warp == 0 && (all >> lane & 1))
		s.tap[__popc(all & ((1u << lane) - 1))] = (uint8_t)lane;
	__syncthreads();
	return __popc(all);
}

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to an address in shared memory; zeros for what does not exist. */
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool exists)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0));
}

/* ---- epilogue ---- */

template <typename T> struct alignas(2 * sizeof(T)) pair {
	T a, b;
};

/* act(v + bias) * gate for columns col and col + 1, the second only below cols. The network's convolutions have no
 * activation: only conv_fma.cu has the code, which would be most of what the others consist of. */
template <bool ACT> __device__ __forceinline__ float2 without_residual(const struct output &o, int col, float2 v)
{
	int second = col + 1 < o.cols ? col + 1 : col;
	if (o.bias) {
		v.x += __ldg(o.bias + col);
		v.y += __ldg(o.bias + second);
	}
	if (ACT) {
		v.x = activated(v.x, o.act);
		v.y = activated(v.y, o.act);
	}
	if (o.gate) {
		v.x *= __ldg(o.gate + col);
		v.y *= __ldg(o.gate + second);
	}
	return v;
}

__device__ __forceinline__ float load_number(const void *p, enum dtype type, int64_t i)
{
	return type == DTYPE_F32   ? ((const float *)p)[i]
	       : type == DTYPE_F16 ? __half2float(((const __half *)p)[i])
				   : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}

__device__ __forceinline__ void store_number(void *p, enum dtype type, int64_t i, float v)
{
	if (type == DTYPE_F32)
		((float *)p)[i] = v;
	else if (type == DTYPE_F16)
		((__half *)p)[i] = __float2half_rn(v);
	else
		((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
}

/* y[row, col] and, below cols, y[row, col + 1] = residual + gate * act(sum + bias). */
template <bool ACT = false>
__device__ __forceinline__ void finish_pair(const struct output &o, int64_t row, int col, float2 v)
{
	int64_t y = row * o.y_stride + col, r = row * o.residual_stride + col;
	v = without_residual<ACT>(o, col, v);
	store_number(o.y, o.y_type, y, v.x + (o.residual ? load_number(o.residual, o.residual_type, r) : 0));
	if (col + 1 < o.cols)
		store_number(
			o.y, o.y_type, y + 1, v.y + (o.residual ? load_number(o.residual, o.residual_type, r + 1) : 0));
}

template <typename T, int N> __device__ __forceinline__ void add_row(float2 (&v)[N], const void *from, int64_t i)
{
	pair<T> r[N];
#pragma unroll
	for (int j = 0; j < N; j++)
		r[j] = *(const pair<T> *)((const T *)from + i + 8 * j);
#pragma unroll
	for (int j = 0; j < N; j++) {
		v[j].x += to_float(r[j].a);
		v[j].y += to_float(r[j].b);
	}
}

template <typename T, int N> __device__ __forceinline__ void write_row(void *to, int64_t i, const float2 (&v)[N])
{
#pragma unroll
	for (int j = 0; j < N; j++)
		*(pair<T> *)((T *)to + i + 8 * j) = {from_float<T>(v[j].x), from_float<T>(v[j].y)};
}

/* Sums of an output row in columns col + 8 j and the next, as mma and wgmma leave them: to their part's place if the
 * sum is shared out, else finished. What is read of the residual is read before anything is written: y may be it. */
template <int N>
__device__ __forceinline__ void store_row(
	const struct conv &c, int64_t row, int64_t rows, int split, int col, float2 (&v)[N])
{
	const struct output &o = c.output;
	if (c.splits > 1) {
		float *to = c.partial + (split * rows + row) * ((c.out + 1) / 2 * 2) + col;
#pragma unroll
		for (int j = 0; j < N; j++)
			if (col + 8 * j < c.out)
				*(float2 *)(to + 8 * j) = v[j];
		return;
	}
	if (!o.pairs || col + 8 * N - 6 > o.cols) {
#pragma unroll
		for (int j = 0; j < N; j++)
			if (col + 8 * j < o.cols)
				finish_pair(o, row, col + 8 * j, v[j]);
		return;
	}
#pragma unroll
	for (int j = 0; j < N; j++)
		v[j] = without_residual<false>(o, col + 8 * j, v[j]);
	int64_t y = row * o.y_stride + col, r = row * o.residual_stride + col;
	if (o.residual && o.residual_type == DTYPE_F32)
		add_row<float>(v, o.residual, r);
	else if (o.residual && o.residual_type == DTYPE_F16)
		add_row<__half>(v, o.residual, r);
	else if (o.residual)
		add_row<__nv_bfloat16>(v, o.residual, r);
	if (o.y_type == DTYPE_F32)
		write_row<float>(o.y, y, v);
	else if (o.y_type == DTYPE_F16)
		write_row<__half>(o.y, y, v);
	else
		write_row<__nv_bfloat16>(o.y, y, v);
}

/* conv_mma.cu: f16 or bf16, no activation, in a multiple of 8, x and w aligned to 16 bytes, x_stride a multiple of 8. */
cudaError_t conv_launch_mma(const struct launch *l, const struct conv &c, enum dtype dtype);
/* conv_hopper.cu: the same with wgmma, on sm_90a only. */
cudaError_t conv_launch_hopper(const struct launch *l, const struct conv &c, enum dtype dtype);
/* conv_cube.cu: the same for a cube and in <= 32. */
cudaError_t conv_launch_cube(const struct launch *l, const struct conv &c, enum dtype dtype);
/* Columns of a tile for this many output channels and this many products a sum. */
int conv_cols_mma(int out);
int conv_cols_hopper(int out, int64_t depth);
/* conv_fma.cu: anything. Plain multiply and add in f32. */
cudaError_t conv_launch_fma(const struct launch *l, const struct conv &c, enum dtype dtype);

#endif
