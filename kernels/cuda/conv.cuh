/* conv.cuh - what the convolution kernels share: a convolution as a product over gathered rows, and its epilogue.
 * y[row, :] = finish(sum over taps t of w[t] x[source(row, t)]), where a source that does not exist adds nothing.
 *
 * Rows are taken in tiles. A tile lists its sources once and walks only the taps that some row of it has; the neighbour
 * tables therefore come with an order that puts rows with the same neighbours together. */
#ifndef TRELLIS_CUDA_CONV_CUH
#define TRELLIS_CUDA_CONV_CUH

#include "device.cuh"

enum { TAPS = 27, CHILDREN = 8, MERGED = 8 };

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
	const void *x;	   /* [.., in], stride in numbers */
	const void *w;	   /* [children * taps, out, in] */
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

/* The row of the table, or voxel of the cube, that is taken at `place`; -1 past the end. */
__device__ __forceinline__ int row_at(const struct conv &c, int64_t place)
{
	if (place >= c.rows)
		return -1;
	return c.gather == GATHER_CUBE ? (int)place : c.table[place * c.table_stride + TAPS];
}

/* Row of x that tap t of `row` meets, or -1. */
__device__ __forceinline__ int source_of(const struct conv &c, int row, int child, int t)
{
	if (row < 0)
		return -1;
	if (c.gather == GATHER_TABLE)
		return c.table[row * c.table_stride + t];
	if (c.gather == GATHER_UP)
		return c.table[row * c.table_stride + merged_column(child, t)];
	int n = c.resolution, x = row / (n * n) + t / 9 - 1, y = row / n % n + t / 3 % 3 - 1, z = row % n + t % 3 - 1;
	bool inside = (unsigned)x < (unsigned)n && (unsigned)y < (unsigned)n && (unsigned)z < (unsigned)n;
	return inside ? (x * n + y) * n + z : -1;
}

/* ---- epilogue ---- */

__device__ __forceinline__ float2 load_pair(const void *p, enum dtype type, int64_t i, bool both, bool pairs)
{
	if (type == DTYPE_F32) {
		const float *at = (const float *)p + i;
		return pairs ? *(const float2 *)at : make_float2(at[0], both ? at[1] : 0);
	}
	if (type == DTYPE_F16) {
		const __half *at = (const __half *)p + i;
		return pairs ? __half22float2(*(const __half2 *)at)
			     : make_float2(__half2float(at[0]), both ? __half2float(at[1]) : 0);
	}
	const __nv_bfloat16 *at = (const __nv_bfloat16 *)p + i;
	return pairs ? __bfloat1622float2(*(const __nv_bfloat162 *)at)
		     : make_float2(__bfloat162float(at[0]), both ? __bfloat162float(at[1]) : 0);
}

template <typename T>
__device__ __forceinline__ void store_two(void *p, int64_t i, float2 v, bool both, bool pairs)
{
	T *at = (T *)p + i;
	if (pairs) {
		struct alignas(2 * sizeof(T)) two {
			T a, b;
		};
		*(struct two *)at = {from_float<T>(v.x), from_float<T>(v.y)};
		return;
	}
	at[0] = from_float<T>(v.x);
	if (both)
		at[1] = from_float<T>(v.y);
}

/* y[row, col], y[row, col + 1] = residual + gate * act(sum + bias); the second only below cols. col is even. */
__device__ __forceinline__ void finish_pair(const struct output &o, int64_t row, int col, float2 v)
{
	bool both = col + 1 < o.cols, pairs = o.pairs && both;
	if (o.bias) {
		v.x += o.bias[col];
		v.y += both ? o.bias[col + 1] : 0;
	}
	if (o.act != ACT_NONE) {
		v.x = activated(v.x, o.act);
		v.y = activated(v.y, o.act);
	}
	if (o.gate) {
		v.x *= o.gate[col];
		v.y *= both ? o.gate[col + 1] : 0;
	}
	if (o.residual) {
		float2 r = load_pair(o.residual, o.residual_type, row * o.residual_stride + col, both, pairs);
		v.x += r.x;
		v.y += r.y;
	}
	int64_t i = row * o.y_stride + col;
	if (o.y_type == DTYPE_F32)
		store_two<float>(o.y, i, v, both, pairs);
	else if (o.y_type == DTYPE_F16)
		store_two<__half>(o.y, i, v, both, pairs);
	else
		store_two<__nv_bfloat16>(o.y, i, v, both, pairs);
}

/* Two sums of an output row: to their part's place if the sum is shared out, else finished. col is even, below out. */
__device__ __forceinline__ void store_sums(const struct conv &c, int64_t row, int64_t rows, int split, int col, float2 v)
{
	if (c.splits == 1)
		finish_pair(c.output, row, col, v);
	else
		*(float2 *)(c.partial + (split * rows + row) * ((c.out + 1) / 2 * 2) + col) = v;
}

/* conv_mma.cu: f16 or bf16, in a multiple of 8, x and w aligned to 16 bytes, x_stride a multiple of 8. */
cudaError_t conv_launch_mma(const struct launch *l, const struct conv &c, enum dtype dtype);
/* How many blocks share out one tile's sum for this shape. */
int conv_splits_mma(const struct launch *l, int64_t rows, int children, int out, int64_t depth);
/* conv_fma.cu: anything. Plain multiply and add in f32. */
cudaError_t conv_launch_fma(const struct launch *l, const struct conv &c, enum dtype dtype);

#endif
