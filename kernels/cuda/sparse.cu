/* sparse.cu - convolutions as the backend calls them: weights packed, a kernel chosen, shared sums put together.
 * Packed weights (layout: packed_row) have the taps of the official order; for the subdivision child * 8 + parent, each
 * the sum of the taps that meet that parent (see merged_column). */
#include "conv.cuh"

#include <type_traits>

/* ---- weights ---- */

int64_t launch_pack_count(enum weight_kind kind, int64_t out, int64_t in)
{
	return (kind == WEIGHT_SPARSE3_UP ? CHILDREN * MERGED : TAPS) * out * ((in + PANEL - 1) / PANEL * PANEL);
}

/* Which of a child's 2 parents along an axis tap k (0, 1, 2) of child side d meets: fine coordinate d + k - 1. */
__device__ __forceinline__ int merged_parent(int d, int k)
{
	int fine = d + k - 1;
	return (fine < 0 ? -1 : fine / 2) - d + 1;
}

template <typename P, typename F>
static __global__ void pack(P *packed, const F *from, enum weight_kind kind, int64_t out, int64_t in, int64_t n)
{
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
		int64_t panels = (in + PANEL - 1) / PANEL, row = i / PANEL, o = row % out;
		int64_t channel = row / out % panels * PANEL + ((i / 8 ^ o) % 8) * 8 + i % 8;
		int t = (int)(row / (out * panels));
		float sum = 0;
		if (channel >= in)
			sum = 0;
		else if (kind == WEIGHT_CONV3)
			sum = to_float(from[(o * in + channel) * TAPS + t]);
		else if (kind == WEIGHT_SPARSE3)
			sum = to_float(from[(o * TAPS + t) * in + channel]);
		else
			for (int k = 0; k < TAPS; k++) {
				int c = t / MERGED, x = merged_parent(c >> 2, k / 9),
				    y = merged_parent(c >> 1 & 1, k / 3 % 3), z = merged_parent(c & 1, k % 3);
				if ((x * 2 + y) * 2 + z == t % MERGED)
					sum += to_float(from[(o * TAPS + k) * in + channel]);
			}
		packed[i] = from_float<P>(sum);
	}
}

cudaError_t launch_pack(const struct launch *l, enum weight_kind kind, int64_t out, int64_t in, void *packed,
	enum dtype packed_type, const void *from, enum dtype from_type)
{
	int64_t n = launch_pack_count(kind, out, in), blocks = (n + 255) / 256;
	if (n == 0)
		return cudaSuccess;
	return with_type(packed_type, [&](auto *p) {
		using P = std::remove_pointer_t<decltype(p)>;
		return with_type(from_type, [&](auto *f) {
			using F = std::remove_pointer_t<decltype(f)>;
			pack<P, F><<<(unsigned)(blocks < 65536 ? blocks : 65536), 256, 0, l->stream>>>(
				(P *)packed, (const F *)from, kind, out, in, n);
			return cudaGetLastError();
		});
	});
}

/* ---- convolution ---- */

/* The parts of each sum, added in order, and the epilogue. A thread makes two numbers. */
static __global__ void add_parts(const struct conv c, int64_t rows)
{
	int half = (c.out + 1) / 2;
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * half;
		i += (int64_t)gridDim.x * blockDim.x) {
		const float2 *part = (const float2 *)c.partial + i;
		float2 sum = *part;
		for (int s = 1; s < c.splits; s++) {
			float2 v = part[s * rows * half];
			sum.x += v.x;
			sum.y += v.y;
		}
		finish_pair(c.output, i / half, (int)(i % half) * 2, sum);
	}
}

static bool pairs_of(const void *data, enum dtype type, int64_t stride)
{
	return stride % 2 == 0 && (uintptr_t)data % (type == DTYPE_F32 ? 8 : 4) == 0;
}

static struct output output_of(struct tensor y, const struct fused *f)
{
	struct tensor r = f->residual;
	return {
		.y = y.data,
		.residual = r.data,
		.y_type = y.dtype,
		.residual_type = r.dtype,
		.y_stride = y.stride,
		.residual_stride = r.stride,
		.bias = f->bias,
		.gate = f->gate,
		.act = f->act,
		.cols = (int)y.cols,
		.pairs = pairs_of(y.data, y.dtype, y.stride) && (!r.data || pairs_of(r.data, r.dtype, r.stride)),
	};
}

/* wgmma pays from 64 columns on. */
static bool takes_wgmma(const struct launch *l, int out)
{
	return l->capability == 90 && !l->force_mma && out > 32;
}

/* How many blocks share out one tile's sum: fills the chip where tiles are few. depth: products of the sum. */
static int splits_of(const struct launch *l, int64_t rows, int children, int out, int64_t depth)
{
	int cols = takes_wgmma(l, out) ? conv_cols_hopper(out, depth) : conv_cols_mma(out), best = 1;
	int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS * ((out + cols - 1) / cols) * children;
	int64_t slots = (cols > 128 ? 1 : 2) * l->sm_count; /* blocks that run at a time */
	double least = 0;
	for (int splits = 1; splits <= 4 && depth / splits >= 512; splits++) {
		/* Waves of blocks, each as long as its share of the sum; parts that are stored and read again weigh
		 * like 400 products each (H100). */
		double cost = (double)((tiles * splits + slots - 1) / slots) / splits * (double)depth;
		if (splits > 1)
			cost += 400.0 * (1 + splits) * (double)tiles / (double)slots;
		if (splits == 1 || cost < least * 0.97) {
			least = cost;
			best = splits;
		}
	}
	return best;
}

int64_t launch_conv_room(const struct launch *l, enum weight_kind kind, int64_t rows, int64_t out, int64_t in)
{
	bool is_up = kind == WEIGHT_SPARSE3_UP;
	if (kind == WEIGHT_CONV3 && in <= 32)
		return 0;
	int children = is_up ? CHILDREN : 1,
	    splits = splits_of(l, rows, children, (int)out, in * (is_up ? MERGED : TAPS));
	return splits > 1 ? splits * rows * children * ((out + 1) / 2 * 2) : 0;
}

/* c: all but the parts of the sum. */
static cudaError_t convolve(const struct launch *l, struct conv c, enum dtype dtype, float *room)
{
	int children = c.gather == GATHER_UP ? CHILDREN : 1;
	bool is_half = dtype == DTYPE_F16 || dtype == DTYPE_BF16;
	c.splits = 1;
	if (c.rows == 0 || c.out == 0)
		return cudaSuccess;
	if (!is_half || c.output.act != ACT_NONE || c.in % 8 != 0 || c.x_stride % 8 != 0 || c.x_stride > INT32_MAX ||
		((uintptr_t)c.x | (uintptr_t)c.w) % 16 != 0)
		return conv_launch_fma(l, c, dtype);
	if (c.gather == GATHER_CUBE && c.in <= 32)
		return conv_launch_cube(l, c, dtype);
	if (room)
		c.splits = splits_of(l, c.rows, children, c.out, (int64_t)c.in * c.taps);
	c.partial = room;
	cudaError_t status = takes_wgmma(l, c.out) ? conv_launch_hopper(l, c, dtype) : conv_launch_mma(l, c, dtype);
	if (c.splits == 1 || status != cudaSuccess)
		return status;
	int64_t rows = c.rows * children, blocks = (rows * ((c.out + 1) / 2) + 255) / 256;
	add_parts<<<(unsigned)(blocks < 65536 ? blocks : 65536), 256, 0, l->stream>>>(c, rows);
	return cudaGetLastError();
}

cudaError_t launch_conv3d(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	int64_t resolution, const struct fused *f, float *room)
{
	struct conv c = {.x = x.data,
		.w = packed,
		.x_stride = x.stride,
		.rows = x.rows,
		.gather = GATHER_CUBE,
		.resolution = (int)resolution,
		.taps = TAPS,
		.in = (int)x.cols,
		.out = (int)y.cols,
		.output = output_of(y, f)};
	return convolve(l, c, x.dtype, room);
}

static cudaError_t convolve_table(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room, enum gather gather)
{
	struct conv c = {.x = x.data,
		.w = packed,
		.table = (const int32_t *)neighbours.data,
		.x_stride = x.stride,
		.table_stride = neighbours.stride,
		.rows = neighbours.rows,
		.gather = gather,
		.taps = gather == GATHER_UP ? MERGED : TAPS,
		.in = (int)x.cols,
		.out = (int)y.cols,
		.output = output_of(y, f)};
	return convolve(l, c, x.dtype, room);
}

cudaError_t launch_sparse_conv(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room)
{
	return convolve_table(l, y, x, packed, neighbours, f, room, GATHER_TABLE);
}

cudaError_t launch_sparse_conv_up(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room)
{
	return convolve_table(l, y, x, packed, neighbours, f, room, GATHER_UP);
}
