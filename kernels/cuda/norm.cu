/* norm.cu - layer, group and per-head RMS normalisation. Bound by memory: a row is read once and kept in registers.
 * Statistics are f32, of the group norm's whole tensor f64; every sum has one order, so results repeat bit for bit. */
#include "vector.cuh"

enum { WARPS = 8 }; /* of a block; one row a warp */

static unsigned row_blocks(int64_t rows)
{
	return (unsigned)((rows + WARPS - 1) / WARPS);
}

/* v = act((v * weight + bias) * (1 + scale) + shift) for the V columns from c */
template <int V> __device__ __forceinline__ void affine(float (&v)[V], const struct fused_norm &n, int c)
{
	float a[V], b[V];
	if (n.weight) {
		load<V>(a, n.weight + c);
		load<V>(b, n.bias + c);
		for (int i = 0; i < V; i++)
			v[i] = fmaf(v[i], a[i], b[i]);
	}
	if (n.scale) {
		load<V>(a, n.scale + c);
		load<V>(b, n.shift + c);
		for (int i = 0; i < V; i++)
			v[i] = fmaf(v[i], 1 + a[i], b[i]);
	}
	if (n.act != ACT_NONE)
		for (int i = 0; i < V; i++)
			v[i] = activated(v[i], n.act);
}

/* ---- layer norm ---- */

/* The groups of 8 columns of row r that this lane keeps: all loads go out before the first number is looked at. */
template <int G>
__device__ __forceinline__ void load_groups(float (&v)[G][8], const view &x, int64_t r, int cols, int lane)
{
	if (x.dtype == DTYPE_F32) {
#pragma unroll
		for (int g = 0; g < G; g++)
			if ((g * 32 + lane) * 8 < cols)
				load<8>(v[g], (const float *)x.at(r, (g * 32 + lane) * 8));
		return;
	}
	uint4 bits[G];
#pragma unroll
	for (int g = 0; g < G; g++)
		if ((g * 32 + lane) * 8 < cols)
			bits[g] = *(const uint4 *)x.at(r, (g * 32 + lane) * 8);
#pragma unroll
	for (int g = 0; g < G; g++)
		decode(v[g], bits[g], x.dtype);
}

/* v[g] = the normalised row whose groups of 8 columns this warp holds; columns (32 g + lane) 8. */
template <int G> __device__ __forceinline__ void normalise(float (&v)[G][8], int cols, int lane, float eps)
{
	float sum = 0, squares = 0;
#pragma unroll
	for (int g = 0; g < G; g++)
		if ((g * 32 + lane) * 8 < cols)
			for (int i = 0; i < 8; i++)
				sum += v[g][i];
	float mean = warp_sum(sum) / (float)cols;
#pragma unroll
	for (int g = 0; g < G; g++)
		if ((g * 32 + lane) * 8 < cols)
			for (int i = 0; i < 8; i++) {
				v[g][i] -= mean;
				squares = fmaf(v[g][i], v[g][i], squares);
			}
	float scale = 1 / sqrtf(warp_sum(squares) / (float)cols + eps);
#pragma unroll
	for (int g = 0; g < G; g++)
		for (int i = 0; i < 8; i++)
			v[g][i] *= scale;
}

/* y[r,:] = affine((x[r,:] - mean) / sqrt(var + eps))
 *   x, y [rows, cols], may alias; G: groups of 8 columns a lane keeps, cols <= 256 G
 *   launch: a warp a row;  cost: reads x once, writes y once */
template <int G>
__global__ void __launch_bounds__(32 * WARPS) layer_norm_kernel(view y, view x, int64_t rows, int cols, fused_norm n)
{
	int64_t r = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
	int lane = threadIdx.x % 32;
	float v[G][8];
	if (r >= rows)
		return;
	load_groups<G>(v, x, r, cols, lane);
	normalise<G>(v, cols, lane, n.eps);
#pragma unroll
	for (int g = 0; g < G; g++) {
		int c = (g * 32 + lane) * 8;
		if (c < cols) {
			affine<8>(v[g], n, c);
			store<8>(y.at(r, c), y.dtype, v[g]);
		}
	}
}

/* The same for narrow rows: L lanes a row, cols = 8 L, so that a warp takes 32 / L rows. */
template <int L>
__global__ void __launch_bounds__(32 * WARPS) layer_norm_narrow(view y, view x, int64_t rows, fused_norm n)
{
	int64_t r = (blockIdx.x * (int64_t)(32 * WARPS) + threadIdx.x) / L;
	int c = (int)(threadIdx.x % L) * 8;
	float v[8] = {}, sum = 0, squares = 0;
	if (r < rows)
		load<8>(v, x.at(r, c), x.dtype);
	for (int i = 0; i < 8; i++)
		sum += v[i];
	for (int lanes = L / 2; lanes > 0; lanes /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
	for (int i = 0; i < 8; i++) {
		v[i] -= sum / (8 * L);
		squares = fmaf(v[i], v[i], squares);
	}
	for (int lanes = L / 2; lanes > 0; lanes /= 2)
		squares += __shfl_xor_sync(0xffffffffu, squares, lanes);
	float scale = 1 / sqrtf(squares / (8 * L) + n.eps);
	for (int i = 0; i < 8; i++)
		v[i] *= scale;
	if (r < rows) {
		affine<8>(v, n, c);
		store<8>(y.at(r, c), y.dtype, v);
	}
}

/* x[r,:] = residual[r,:] + gate * sums[r,:] + row (ROW), then y = layer norm of x: what follows a gated product, in one pass. The
 * norm sees x as it was stored, so that the result is that of the two passes.
 *   residual, sums: of half types */
template <int G, bool ROW>
__global__ void __launch_bounds__(32 * WARPS) finish_norm_kernel(
	view y, view x, view residual, view sums, const float *gate, const float *row, int64_t rows, int cols,
	fused_norm n)
{
	int64_t r = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
	int lane = threadIdx.x % 32;
	float v[G][8], factor[G][8], added[G][8];
	uint4 old[G], sum[G];
	if (r >= rows)
		return;
#pragma unroll
	for (int g = 0; g < G; g++) { /* all loads go out before the first number is looked at */
		int c = (g * 32 + lane) * 8;
		if (c < cols) {
			sum[g] = *(const uint4 *)sums.at(r, c);
			old[g] = *(const uint4 *)residual.at(r, c);
			load<8>(factor[g], gate + c);
			if (ROW)
				load<8>(added[g], row + c);
		}
	}
#pragma unroll
	for (int g = 0; g < G; g++) {
		int c = (g * 32 + lane) * 8;
		if (c < cols) {
			float before[8];
			decode(v[g], sum[g], sums.dtype);
			decode(before, old[g], residual.dtype);
			for (int i = 0; i < 8; i++)
				v[g][i] = fmaf(factor[g][i], v[g][i], before[i]) + (ROW ? added[g][i] : 0);
			store<8>(x.at(r, c), x.dtype, v[g]);
			for (int i = 0; i < 8; i++)
				v[g][i] = as_stored(v[g][i], x.dtype);
		}
	}
	normalise<G>(v, cols, lane, n.eps);
#pragma unroll
	for (int g = 0; g < G; g++) {
		int c = (g * 32 + lane) * 8;
		if (c < cols) {
			affine<8>(v[g], n, c);
			store<8>(y.at(r, c), y.dtype, v[g]);
		}
	}
}

/* The same for any shape: a warp a row, which is read three times. */
__global__ void __launch_bounds__(32 * WARPS) layer_norm_any(view y, view x, int64_t rows, int cols, fused_norm n)
{
	int64_t r = blockIdx.x * (int64_t)WARPS + threadIdx.x / 32;
	int lane = threadIdx.x % 32;
	float v[1], sum = 0, squares = 0;
	if (r >= rows)
		return;
	for (int c = lane; c < cols; c += 32) {
		load<1>(v, x.at(r, c), x.dtype);
		sum += v[0];
	}
	float mean = warp_sum(sum) / (float)cols;
	for (int c = lane; c < cols; c += 32) {
		load<1>(v, x.at(r, c), x.dtype);
		squares = fmaf(v[0] - mean, v[0] - mean, squares);
	}
	float scale = 1 / sqrtf(warp_sum(squares) / (float)cols + n.eps);
	for (int c = lane; c < cols; c += 32) {
		load<1>(v, x.at(r, c), x.dtype);
		v[0] = (v[0] - mean) * scale;
		affine<1>(v, n, c);
		store<1>(y.at(r, c), y.dtype, v);
	}
}

static bool is_wide(const struct fused_norm *n)
{
	return is_wide(n->weight) && is_wide(n->bias) && is_wide(n->scale) && is_wide(n->shift);
}

cudaError_t launch_layer_norm(const struct launch *l, struct tensor y, struct tensor x, const struct fused_norm *n)
{
	auto *kernel = layer_norm_any;
	if (is_wide(y) && is_wide(x) && is_wide(n)) {
		auto *narrow = x.cols == 32 ? layer_norm_narrow<4> : x.cols == 64 ? layer_norm_narrow<8>
			     : x.cols == 128			? layer_norm_narrow<16>
							: nullptr;
		if (narrow) {
			int64_t threads = x.rows * (x.cols / 8);
			narrow<<<(unsigned)((threads + 32 * WARPS - 1) / (32 * WARPS)), 32 * WARPS, 0, l->stream>>>(
				view_of(y), view_of(x), x.rows, *n);
			return cudaGetLastError();
		}
		if (x.cols <= 256)
			kernel = layer_norm_kernel<1>;
		else if (x.cols <= 512)
			kernel = layer_norm_kernel<2>;
		else if (x.cols <= 1024)
			kernel = layer_norm_kernel<4>;
		else if (x.cols <= 2048)
			kernel = layer_norm_kernel<8>;
	}
	kernel<<<row_blocks(x.rows), 32 * WARPS, 0, l->stream>>>(view_of(y), view_of(x), x.rows, (int)x.cols, *n);
	return cudaGetLastError();
}

bool launch_finish_norm_fits(struct tensor y, struct tensor x, struct tensor sums, const struct fused *f,
	const struct fused_norm *n)
{
	return is_wide(y) && is_wide(x) && is_wide(sums) && is_wide(f->residual) && is_wide(f->gate) && is_wide(f->row) &&
	       is_wide(n) && f->gate && f->residual.data && f->residual.dtype != DTYPE_F32 &&
	       sums.dtype != DTYPE_F32 && x.cols <= 1024 && !f->bias && f->act == ACT_NONE;
}

cudaError_t launch_finish_norm(const struct launch *l, struct tensor y, struct tensor x, struct tensor sums,
	const struct fused *f, const struct fused_norm *n)
{
	auto *kernel = x.cols <= 256 ? (f->row ? finish_norm_kernel<1, true> : finish_norm_kernel<1, false>)
		     : x.cols <= 512 ? (f->row ? finish_norm_kernel<2, true> : finish_norm_kernel<2, false>)
				     : (f->row ? finish_norm_kernel<4, true> : finish_norm_kernel<4, false>);
	kernel<<<row_blocks(x.rows), 32 * WARPS, 0, l->stream>>>(
		view_of(y), view_of(x), view_of(f->residual), view_of(sums), f->gate, f->row, x.rows, (int)x.cols, *n);
	return cudaGetLastError();
}

/* ---- RMS norm of q and k, head by head ---- */

/* x[r, h, :] *= gamma[h, :] * sqrt(d) / max(|x[r, h, :]|, 1e-12), in place
 *   a group of d / 8 lanes a head; d a power of two from 8 to 256 */
__global__ void __launch_bounds__(256) rms_norm_kernel(view x, int64_t rows, int cols, int d, const float *gamma)
{
	uint32_t per = (uint32_t)cols / 8, n = (uint32_t)rows * per, i = blockIdx.x * 256u + threadIdx.x;
	uint32_t r = i / per, c = (i - r * per) * 8;
	float v[8] = {}, g[8], squares = 0;
	if (i < n) {
		load<8>(v, x.at(r, c), x.dtype);
		load<8>(g, gamma + c);
	}
	for (int k = 0; k < 8; k++)
		squares = fmaf(v[k], v[k], squares);
	for (int lanes = d / 16; lanes > 0; lanes /= 2)
		squares += __shfl_xor_sync(0xffffffffu, squares, lanes);
	float scale = sqrtf((float)d) / fmaxf(sqrtf(squares), 1e-12f);
	for (int k = 0; k < 8; k++)
		v[k] *= scale * g[k];
	if (i < n)
		store<8>(x.at(r, c), x.dtype, v);
}

/* The same for any head size: a warp a head. */
__global__ void __launch_bounds__(256) rms_norm_any(view x, int64_t rows, int heads, int d, const float *gamma)
{
	int64_t i = blockIdx.x * 8ll + threadIdx.x / 32;
	int64_t r = i / heads, first = i % heads * d;
	float v[1], squares = 0;
	if (r >= rows)
		return;
	for (int c = threadIdx.x % 32; c < d; c += 32) {
		load<1>(v, x.at(r, first + c), x.dtype);
		squares = fmaf(v[0], v[0], squares);
	}
	float scale = sqrtf((float)d) / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
	for (int c = threadIdx.x % 32; c < d; c += 32) {
		load<1>(v, x.at(r, first + c), x.dtype);
		v[0] *= scale * gamma[first + c];
		store<1>(x.at(r, first + c), x.dtype, v);
	}
}

cudaError_t launch_rms_norm_heads(const struct launch *l, struct tensor x, const float *gamma, int heads)
{
	int d = (int)(x.cols / heads);
	bool wide = is_wide(x) && is_wide(gamma) && d >= 8 && d <= 256 && (d & (d - 1)) == 0;
	int64_t blocks = wide ? (x.rows * (x.cols / 8) + 255) / 256 : (x.rows * heads + 7) / 8;
	if (blocks > (wide ? UINT32_MAX / 256 : INT32_MAX)) /* the former counts threads in 32 bits */
		return cudaErrorInvalidValue;
	if (wide)
		rms_norm_kernel<<<(unsigned)blocks, 256, 0, l->stream>>>(view_of(x), x.rows, (int)x.cols, d, gamma);
	else
		rms_norm_any<<<(unsigned)blocks, 256, 0, l->stream>>>(view_of(x), x.rows, heads, d, gamma);
	return cudaGetLastError();
}

/* ---- group norm over all rows ---- */

/* Rows are cut into parts; a block takes the statistics of one part and group in two passes (mean, then squares about
 * it), a second kernel merges the parts in order. */
enum { MAX_PARTS = 512, LEAST_ROWS = 64 };

static int64_t part_rows(int64_t rows)
{
	int64_t each = (rows + MAX_PARTS - 1) / MAX_PARTS;
	return each < LEAST_ROWS ? LEAST_ROWS : each;
}

__device__ float block_sum(float x, float *shared)
{
	x = warp_sum(x);
	__syncthreads();
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = x;
	__syncthreads();
	x = 0;
	for (int i = 0; i < 8; i++)
		x += shared[i];
	return x;
}

/* partial[group][part] = {mean, sum of squares about it} */
__global__ void __launch_bounds__(256)
	group_statistics_kernel(view x, int64_t rows, int64_t each, int width, int parts, float2 *partial)
{
	__shared__ float shared[8];
	int64_t first = blockIdx.x * each, end = first + each < rows ? first + each : rows;
	int column = blockIdx.y * width;
	int count = (int)(end - first) * width;
	float v[1], sum = 0;
	for (int i = threadIdx.x; i < count; i += 256) {
		load<1>(v, x.at(first + i / width, column + i % width), x.dtype);
		sum += v[0];
	}
	float mean = block_sum(sum, shared) / (float)count;
	sum = 0;
	for (int i = threadIdx.x; i < count; i += 256) {
		load<1>(v, x.at(first + i / width, column + i % width), x.dtype);
		sum = fmaf(v[0] - mean, v[0] - mean, sum);
	}
	sum = block_sum(sum, shared);
	if (threadIdx.x == 0)
		partial[blockIdx.y * parts + blockIdx.x] = make_float2(mean, sum);
}

/* The same for rows that are read in groups of 8 columns, all groups of a part at once: a thread keeps to its 8 columns,
 * so rows are read whole.  launch: parts blocks;  limit: cols <= 2048, at most 256 norm groups */
__global__ void __launch_bounds__(256) group_statistics_wide(
	view x, int64_t rows, int64_t each, int cols, int groups, int parts, float2 *partial)
{
	__shared__ float sums[256 * 8], column[2048], mean[256];
	int per = cols / 8, width = cols / groups, slots = 256 / per;
	int slot = threadIdx.x / per, c = threadIdx.x % per * 8;
	int64_t first = blockIdx.x * each, end = first + each < rows ? first + each : rows;
	float count = (float)(end - first) * (float)width;

	for (int pass = 0; pass < 2; pass++) { /* sums, then squares about the mean */
		float v[8], about[8] = {}, sum[8] = {};
		if (pass == 1 && slot < slots)
			for (int i = 0; i < 8; i++)
				about[i] = mean[(c + i) / width];
		for (int64_t r = first + slot; slot < slots && r < end; r += slots) {
			load<8>(v, x.at(r, c), x.dtype);
			for (int i = 0; i < 8; i++)
				sum[i] = pass == 0 ? sum[i] + v[i] : fmaf(v[i] - about[i], v[i] - about[i], sum[i]);
		}
		for (int i = 0; slot < slots && i < 8; i++)
			sums[slot * cols + c + i] = sum[i];
		__syncthreads();
		for (int k = threadIdx.x; k < cols; k += 256) {
			float total = 0;
			for (int i = 0; i < slots; i++)
				total += sums[i * cols + k];
			column[k] = total;
		}
		__syncthreads();
		if (threadIdx.x < groups) {
			float total = 0;
			for (int i = 0; i < width; i++)
				total += column[threadIdx.x * width + i];
			if (pass == 0)
				mean[threadIdx.x] = total / count;
			else
				partial[threadIdx.x * parts + blockIdx.x] = make_float2(mean[threadIdx.x], total);
		}
		__syncthreads();
	}
}

/* One warp a group: statistics[group] = {mean, 1 / sqrt(var + eps)}; lanes are merged in a fixed order. */
__global__ void group_merge_kernel(
	float2 *statistics, const float2 *partial, int64_t rows, int64_t each, int width, int parts, float eps)
{
	double sum = 0, squares = 0, total = (double)rows * width;
	partial += (int64_t)blockIdx.x * parts;
	for (int i = threadIdx.x; i < parts; i += 32) {
		int64_t n = (i + 1) * each < rows ? each : rows - i * each;
		sum += (double)partial[i].x * (double)(n * width);
	}
	for (int i = 16; i > 0; i /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, i);
	double mean = sum / total;
	for (int i = threadIdx.x; i < parts; i += 32) {
		int64_t n = (i + 1) * each < rows ? each : rows - i * each;
		double off = (double)partial[i].x - mean;
		squares += (double)partial[i].y + off * off * (double)(n * width);
	}
	for (int i = 16; i > 0; i /= 2)
		squares += __shfl_xor_sync(0xffffffffu, squares, i);
	if (threadIdx.x == 0)
		statistics[blockIdx.x] = make_float2((float)mean, (float)(1 / sqrt(squares / total + (double)eps)));
}

template <int V>
__global__ void __launch_bounds__(256)
	group_apply_kernel(view y, view x, int64_t rows, int cols, int width, const float2 *statistics, fused_norm n)
{
	FOR_EACH_GROUP(V, rows, cols, r, c)
	{
		float v[V];
		load<V>(v, x.at(r, c), x.dtype);
		for (int i = 0; i < V; i++) {
			float2 s = statistics[(c + i) / width];
			v[i] = (v[i] - s.x) * s.y;
		}
		affine<V>(v, n, (int)c);
		store<V>(y.at(r, c), y.dtype, v);
	}
}

int64_t launch_group_norm_room(struct tensor x, int groups)
{
	int64_t each = part_rows(x.rows), parts = (x.rows + each - 1) / each;
	return 2 * groups * (parts + 1);
}

cudaError_t launch_group_norm(const struct launch *l, struct tensor y, struct tensor x, int groups,
	const struct fused_norm *n, float *room)
{
	int64_t each = part_rows(x.rows);
	int parts = (int)((x.rows + each - 1) / each), width = (int)(x.cols / groups);
	float2 *statistics = (float2 *)room, *partial = statistics + groups;
	if (is_wide(x) && x.cols <= 2048 && groups <= 256)
		group_statistics_wide<<<(unsigned)parts, 256, 0, l->stream>>>(
			view_of(x), x.rows, each, (int)x.cols, groups, parts, partial);
	else
		group_statistics_kernel<<<dim3((unsigned)parts, (unsigned)groups), 256, 0, l->stream>>>(
			view_of(x), x.rows, each, width, parts, partial);
	group_merge_kernel<<<(unsigned)groups, 32, 0, l->stream>>>(
		statistics, partial, x.rows, each, width, parts, n->eps);
	bool wide = is_wide(y) && is_wide(x) && is_wide(n);
	auto *kernel = wide ? group_apply_kernel<8> : group_apply_kernel<1>;
	unsigned blocks = wide ? group_blocks<8>(l, x.rows, x.cols) : group_blocks<1>(l, x.rows, x.cols);
	kernel<<<blocks, 256, 0, l->stream>>>(view_of(y), view_of(x), x.rows, (int)x.cols, width, statistics, *n);
	return cudaGetLastError();
}
