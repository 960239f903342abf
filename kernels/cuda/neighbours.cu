/* neighbours.cu - neighbour tables of active voxels, and the order in which convolutions take their rows.
 * Row of a table: 27 rows of x or -1, then the order: the row that is taken at this place. Rows are sorted by their set
 * of neighbours within stretches of at most STRETCH rows, so that a convolution's tile has few taps and its rows still
 * lie near each other. */
#include "conv.cuh"

enum { STRETCH = 8192, SORTERS = 1024 };

/* ---- lookup ---- */

/* Open addressing: slots hold rows, or -1. Which slot a row gets depends on timing, what is found does not. */
__device__ __forceinline__ uint32_t hash_of(int x, int y, int z)
{
	uint64_t key = (uint64_t)(uint32_t)x << 42 ^ (uint64_t)(uint32_t)y << 21 ^ (uint64_t)(uint32_t)z;
	key *= 0x9e3779b97f4a7c15u;
	return (uint32_t)(key >> 32);
}

static __global__ void insert(int32_t *slot, uint32_t mask, const int32_t *coords, int64_t stride, int64_t n)
{
	int64_t r = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (r >= n)
		return;
	const int32_t *c = coords + r * stride;
	for (uint32_t i = hash_of(c[0], c[1], c[2]);; i++)
		if (atomicCAS(&slot[i & mask], -1, (int)r) < 0)
			return;
}

/* Column 27 receives the set of neighbours for now. A warp makes a row. */
__device__ __forceinline__ void write_row(int32_t *row, int lane, int found)
{
	uint32_t set = __ballot_sync(0xffffffffu, lane < TAPS && found >= 0);
	if (lane <= TAPS)
		row[lane] = lane < TAPS ? found : (int32_t)set;
}

static __global__ void look_up(int32_t *table, int64_t table_stride, const int32_t *slot, uint32_t mask,
	const int32_t *coords, int64_t stride, int64_t n)
{
	int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	int k = threadIdx.x % 32, found = -1;
	if (r >= n)
		return;
	if (k < TAPS) {
		const int32_t *c = coords + r * stride;
		int x = c[0] + k / 9 - 1, y = c[1] + k / 3 % 3 - 1, z = c[2] + k % 3 - 1;
		for (uint32_t i = hash_of(x, y, z);; i++) {
			found = slot[i & mask];
			if (found < 0)
				break;
			const int32_t *other = coords + found * stride;
			if (other[0] == x && other[1] == y && other[2] == z)
				break;
		}
	}
	write_row(table + r * table_stride, k, found);
}

/* Along each axis the tap lands on fine coordinate 2 p + side + k - 1: the parent, and which child of it. */
static __global__ void subdivide(
	int32_t *table, int64_t table_stride, const int32_t *parents, int64_t stride, int64_t n)
{
	int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32;
	int k = threadIdx.x % 32, found = -1;
	if (r >= n)
		return;
	if (k < TAPS) {
		int c = (int)(r % CHILDREN);
		int x = (c >> 2) + k / 9 + 1, y = (c >> 1 & 1) + k / 3 % 3 + 1, z = (c & 1) + k % 3 + 1;
		int p = parents[r / CHILDREN * stride + (x / 2 * 3 + y / 2) * 3 + z / 2];
		if (p >= 0)
			found = p * CHILDREN + ((x & 1) * 2 + (y & 1)) * 2 + (z & 1);
	}
	write_row(table + r * table_stride, k, found);
}

/* ---- order ---- */

/* Sort key of a set: corners first, then edges, faces and the middle, as the place in a Gray code: sets that follow each
 * other then differ in few members. */
__device__ __forceinline__ uint32_t key_of(uint32_t set)
{
	uint32_t key = 0;
#pragma unroll
	for (int axes = 3; axes >= 0; axes--)
#pragma unroll
		for (int k = 0; k < TAPS; k++)
			if ((k / 9 != 1) + (k / 3 % 3 != 1) + (k % 3 != 1) == axes)
				key = key << 1 | (set >> k & 1);
	for (int s = 1; s < 32; s *= 2)
		key ^= key >> s;
	return key;
}

/* Column 27 of a stretch: from sets to order. Bitonic; a key ends in the row's place, so equal sets keep their order.
 * size: a power of two not below the stretch. */
static __global__ void __launch_bounds__(SORTERS)
	sort_rows(int32_t *table, int64_t stride, int64_t n, int stretch, int size)
{
	extern __shared__ uint64_t key[];
	int64_t first = (int64_t)blockIdx.x * stretch;
	int count = (int)(n - first < stretch ? n - first : stretch);
	int32_t *column = table + first * stride + TAPS;
	for (int i = threadIdx.x; i < size; i += SORTERS)
		key[i] = i < count ? (uint64_t)key_of((uint32_t)column[i * stride]) << 13 | i : ~(uint64_t)0;
	for (int run = 2; run <= size; run *= 2)
		for (int step = run / 2; step > 0; step /= 2) {
			__syncthreads();
			for (int i = threadIdx.x; i < size / 2; i += SORTERS) {
				int a = i / step * step * 2 + i % step, b = a + step;
				uint64_t x = key[a], y = key[b];
				if (x > y == ((a & run) == 0)) {
					key[a] = y;
					key[b] = x;
				}
			}
		}
	__syncthreads();
	for (int i = threadIdx.x; i < count; i += SORTERS)
		column[i * stride] = (int32_t)(first + (key[i] & (STRETCH - 1)));
}

static cudaError_t sort_table(const struct launch *l, struct tensor table)
{
	/* equal stretches that end with a tile of the convolution */
	int64_t stretches = (table.rows + STRETCH - 1) / STRETCH;
	int stretch = (int)((table.rows + stretches - 1) / stretches + 127) / 128 * 128, size = 2;
	while (size < stretch)
		size *= 2;
	cudaError_t status = cudaFuncSetAttribute(
		sort_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, STRETCH * (int)sizeof(uint64_t));
	if (status != cudaSuccess)
		return status;
	sort_rows<<<(unsigned)((table.rows + stretch - 1) / stretch), SORTERS, size * sizeof(uint64_t), l->stream>>>(
		(int32_t *)table.data, table.stride, table.rows, stretch, size);
	return cudaGetLastError();
}

/* ---- launchers ---- */

int64_t launch_neighbours_room(int64_t n)
{
	int64_t size = 2;
	while (size < 2 * n)
		size *= 2;
	return size;
}

cudaError_t launch_neighbours(const struct launch *l, struct tensor table, struct tensor coords, int32_t *hash)
{
	int64_t n = coords.rows, size = launch_neighbours_room(n);
	const int32_t *c = (const int32_t *)coords.data;
	if (n == 0)
		return cudaSuccess;
	cudaError_t status = cudaMemsetAsync(hash, 0xff, (size_t)size * sizeof *hash, l->stream);
	if (status != cudaSuccess)
		return status;
	insert<<<(unsigned)((n + 255) / 256), 256, 0, l->stream>>>(hash, (uint32_t)size - 1, c, coords.stride, n);
	look_up<<<(unsigned)((n + 7) / 8), 256, 0, l->stream>>>(
		(int32_t *)table.data, table.stride, hash, (uint32_t)size - 1, c, coords.stride, n);
	status = cudaGetLastError();
	return status == cudaSuccess ? sort_table(l, table) : status;
}

cudaError_t launch_neighbours_up(const struct launch *l, struct tensor table, struct tensor parents)
{
	if (parents.rows == 0)
		return cudaSuccess;
	subdivide<<<(unsigned)((table.rows + 7) / 8), 256, 0, l->stream>>>(
		(int32_t *)table.data, table.stride, (const int32_t *)parents.data, parents.stride, table.rows);
	cudaError_t status = cudaGetLastError();
	return status == cudaSuccess ? sort_table(l, table) : status;
}
