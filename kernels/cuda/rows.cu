/* rows.cu - the ops that only move or combine numbers: epilogues that a product can't fuse, activations, Euler steps,
 * gathers. All are bound by memory; a thread handles 8 neighbouring columns where shapes and addresses allow 16-byte
 * accesses, else one. */
#include "vector.cuh"

/* ---- y = residual + gate * act(sums + bias) + row ---- */

template <int V>
__global__ void __launch_bounds__(256) finish_kernel(view y, view x, view residual, int64_t rows,
	int64_t cols, const float *bias, const float *gate, enum activation act, const float *row)
{
	FOR_EACH_GROUP(V, rows, cols, r, c)
	{
		float v[V], other[V];
		load<V>(v, x.at(r, c), x.dtype);
		if (bias) {
			load<V>(other, bias + c);
			for (int i = 0; i < V; i++)
				v[i] += other[i];
		}
		for (int i = 0; i < V; i++)
			v[i] = activated(v[i], act);
		if (gate) {
			load<V>(other, gate + c);
			for (int i = 0; i < V; i++)
				v[i] *= other[i];
		}
		if (residual.data) {
			load<V>(other, residual.at(r, c), residual.dtype);
			for (int i = 0; i < V; i++)
				v[i] += other[i];
		}
		if (row) {
			load<V>(other, row + c);
			for (int i = 0; i < V; i++)
				v[i] += other[i];
		}
		store<V>(y.at(r, c), y.dtype, v);
	}
}

cudaError_t launch_finish(const struct launch *l, struct tensor y, struct tensor sums, const struct fused *f)
{
	bool wide = is_wide(y) && is_wide(sums) && is_wide(f->residual) && is_wide(f->bias) && is_wide(f->gate) &&
		    is_wide(f->row);
	auto *kernel = wide ? finish_kernel<8> : finish_kernel<1>;
	unsigned blocks = wide ? group_blocks<8>(l, y.rows, y.cols) : group_blocks<1>(l, y.rows, y.cols);
	kernel<<<blocks, 256, 0, l->stream>>>(
		view_of(y), view_of(sums), view_of(f->residual), y.rows, y.cols, f->bias, f->gate, f->act, f->row);
	return cudaGetLastError();
}

#ifdef TRELLIS_CUDA_FAULT
/* A test build's: the context is lost in the middle of a job (tests/gpu/check.sh). */
__global__ void fault_kernel(int *nowhere)
{
	*nowhere = 1;
}
#endif

cudaError_t launch_activate(const struct launch *l, struct tensor y, struct tensor x, enum activation act)
{
	struct fused f = {};
	f.act = act;
#ifdef TRELLIS_CUDA_FAULT
	fault_kernel<<<1, 1, 0, l->stream>>>((int *)16);
#endif
	return launch_finish(l, y, x, &f);
}

/* ---- y = p a + q x; x may be one row for all ---- */

template <int V>
__global__ void __launch_bounds__(256)
	combine_kernel(view y, float p, view a, float q, view x, int64_t rows, int64_t cols)
{
	FOR_EACH_GROUP(V, rows, cols, r, c)
	{
		float v[V], other[V];
		load<V>(v, a.at(r, c), a.dtype);
		for (int i = 0; i < V; i++)
			v[i] = __fmul_rn(p, v[i]);
		if (x.data) {
			load<V>(other, x.at(r, c), x.dtype);
			for (int i = 0; i < V; i++)
				v[i] = fmaf(q, other[i], v[i]);
		}
		store<V>(y.at(r, c), y.dtype, v);
	}
}

cudaError_t launch_combine(const struct launch *l, struct tensor y, float p, struct tensor a, float q, struct tensor x)
{
	if (x.rows == 1 && y.rows > 1)
		x.stride = 0;
	bool wide = is_wide(y) && is_wide(a) && is_wide(x);
	auto *kernel = wide ? combine_kernel<8> : combine_kernel<1>;
	unsigned blocks = wide ? group_blocks<8>(l, y.rows, y.cols) : group_blocks<1>(l, y.rows, y.cols);
	kernel<<<blocks, 256, 0, l->stream>>>(view_of(y), p, view_of(a), q, view_of(x), y.rows, y.cols);
	return cudaGetLastError();
}

cudaError_t launch_add(const struct launch *l, struct tensor y, struct tensor a, struct tensor x)
{
	return launch_combine(l, y, 1, a, 1, x);
}

/* ---- whether all of x is finite ---- */

template <int V>
__global__ void __launch_bounds__(256) is_finite_kernel(view x, int64_t rows, int64_t cols, int32_t *bad)
{
	bool seen = false;
	FOR_EACH_GROUP(V, rows, cols, r, c)
	{
		float v[V];
		load<V>(v, x.at(r, c), x.dtype);
		for (int i = 0; i < V; i++)
			seen |= !isfinite(v[i]);
	}
	if (seen)
		*bad = 1; /* all who write it write the same */
}

cudaError_t launch_is_finite(const struct launch *l, struct tensor x, int32_t *bad)
{
	auto *kernel = is_wide(x) ? is_finite_kernel<8> : is_finite_kernel<1>;
	unsigned blocks = is_wide(x) ? group_blocks<8>(l, x.rows, x.cols) : group_blocks<1>(l, x.rows, x.cols);
	kernel<<<blocks, 256, 0, l->stream>>>(view_of(x), x.rows, x.cols, bad);
	return cudaGetLastError();
}

/* ---- y[r, :] = x[index[r], :] ---- */

template <int V>
__global__ void __launch_bounds__(256)
	gather_kernel(
		view y, view x, const int32_t *index, int64_t stride, int64_t repeat, int64_t rows, int64_t cols)
{
	FOR_EACH_GROUP(V, rows, cols, r, c)
	{
		float v[V];
		load<V>(v, x.at(index ? index[r * stride] : r / (uint32_t)repeat, c), x.dtype);
		store<V>(y.at(r, c), y.dtype, v);
	}
}

cudaError_t launch_gather_rows(const struct launch *l, struct tensor y, struct tensor x, struct tensor index)
{
	bool wide = is_wide(y) && is_wide(x);
	auto *kernel = wide ? gather_kernel<8> : gather_kernel<1>;
	unsigned blocks = wide ? group_blocks<8>(l, y.rows, y.cols) : group_blocks<1>(l, y.rows, y.cols);
	kernel<<<blocks, 256, 0, l->stream>>>(
		view_of(y), view_of(x), (const int32_t *)index.data, index.stride, y.rows / x.rows, y.rows, y.cols);
	return cudaGetLastError();
}

/* ---- coordinates of a subdivision ---- */

__global__ void coords_up_kernel(int32_t *children, int64_t stride, const int32_t *parents, int64_t from, int64_t n)
{
	int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, r = i / 3;
	int axis = (int)(i % 3);
	if (r < n)
		children[r * stride + axis] = 2 * parents[r / 8 * from + axis] + (int32_t)(r >> (2 - axis) & 1);
}

cudaError_t launch_coords_up(const struct launch *l, struct tensor children, struct tensor parents)
{
	coords_up_kernel<<<(unsigned)((children.rows * 3 + 255) / 256), 256, 0, l->stream>>>((int32_t *)children.data,
		children.stride, (const int32_t *)parents.data, parents.stride, children.rows);
	return cudaGetLastError();
}

/* ---- y[i, :] = (sum of x[r, :] over r with index[r] = i) / (count + 1) ---- */

/* Chains every row to the others of its parent: head[i] is the last that came, next[r] the one before r; -1 ends. */
__global__ void chain_kernel(int32_t *head, int32_t *next, const int32_t *index, int64_t stride, int64_t n)
{
	int64_t r = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
	if (r < n)
		next[r] = atomicExch(head + index[r * stride], (int32_t)r);
}

/* The order of a chain depends on the scheduler, that of the sum must not: take the rows in ascending order. A parent
 * has eight children at most in the network; longer chains are only slower. */
__global__ void downsample_kernel(
	view y, view x, const int32_t *head, const int32_t *next, int64_t rows, int64_t cols)
{
	for (int64_t i = blockIdx.x; i < rows; i += gridDim.x)
		for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
			float sum = 0;
			int32_t last = -1;
			int count = 1; /* the zero that the official mean starts from */
			for (;;) {
				int32_t least = INT32_MAX;
				for (int32_t r = head[i]; r >= 0; r = next[r])
					least = r > last && r < least ? r : least;
				if (least == INT32_MAX)
					break;
				float v[1];
				load<1>(v, x.at(least, c), x.dtype);
				sum += v[0];
				last = least;
				count++;
			}
			float v[1] = {sum / (float)count};
			store<1>(y.at(i, c), y.dtype, v);
		}
}

cudaError_t launch_downsample(
	const struct launch *l, struct tensor y, struct tensor x, struct tensor index, int32_t *room)
{
	int32_t *head = room, *next = room + y.rows;
	cudaError_t e = cudaMemsetAsync(head, 0xff, (size_t)y.rows * sizeof *head, l->stream);
	if (e != cudaSuccess)
		return e;
	chain_kernel<<<(unsigned)((x.rows + 255) / 256), 256, 0, l->stream>>>(
		head, next, (const int32_t *)index.data, index.stride, x.rows);
	int64_t most = 1 << 20;
	downsample_kernel<<<(unsigned)(y.rows < most ? y.rows : most), 128, 0, l->stream>>>(
		view_of(y), view_of(x), head, next, y.rows, y.cols);
	return cudaGetLastError();
}

/* ---- pixel shuffle: x[R^3, 8 c] -> y[(2 R)^3, c] ---- */

__global__ void __launch_bounds__(256)
	pixel_shuffle_kernel(view y, view x, int64_t rows, int64_t cols, int resolution)
{
	FOR_EACH_GROUP(1, rows, cols, fine, c)
	{
		int side = 2 * resolution, fx = (int)(fine / (side * side)), fy = (int)(fine / side % side),
		    fz = (int)(fine % side);
		int64_t coarse = ((int64_t)(fx / 2) * resolution + fy / 2) * resolution + fz / 2;
		int child = (fx % 2 * 2 + fy % 2) * 2 + fz % 2;
		float v[1];
		load<1>(v, x.at(coarse, 8 * c + child), x.dtype);
		store<1>(y.at(fine, c), y.dtype, v);
	}
}

cudaError_t launch_pixel_shuffle(const struct launch *l, struct tensor y, struct tensor x, int64_t resolution)
{
	pixel_shuffle_kernel<<<group_blocks<1>(l, y.rows, y.cols), 256, 0, l->stream>>>(
		view_of(y), view_of(x), y.rows, y.cols, (int)resolution);
	return cudaGetLastError();
}

__global__ void nothing_kernel(void)
{
}

cudaError_t launch_probe(const struct launch *l)
{
	nothing_kernel<<<1, 1, 0, l->stream>>>();
	return cudaGetLastError();
}
