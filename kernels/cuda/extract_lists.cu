/* extract_lists.cu - from active cubes to the sets that a surface is made of: corners, crossing edges, surface cubes.
 * First half of the extraction on the device; extract.cu follows. Mirrors ../flexicubes_lists.c.
 *
 *   cubes [n]  ->  touched corners  ->  which are inside  ->  surface cubes, used corners, quads
 *
 * Sets are bitmaps, and most steps compute 32 points at once with shifts: cost is the grid's R^3 / 32 words read from
 * the second-level cache a few times, and n cubes looked up. Order and result do not depend on timing. */
#include "extract.cuh"

/* --- exclusive scan: sums of tiles, sums before each tile, sums inside the tiles --- */

enum { SCAN_ITEMS = 8, SCAN_TILE = EXTRACT_BLOCK * SCAN_ITEMS, SCAN_WIDE = 1024 };

int64_t launch_extract_room(int64_t n)
{
	return (n + SCAN_TILE - 1) / SCAN_TILE + 1;
}

/* Sum over the threads below this one; *total: over all. n: threads in the block, a multiple of 32. */
static __device__ uint32_t block_scan(uint32_t value, uint32_t *total)
{
	__shared__ uint32_t warp_total[32];
	uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, sum = value;
	for (int step = 1; step < 32; step *= 2) {
		uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
		sum += lane >= step ? other : 0;
	}
	__syncthreads(); /* warp_total may still be read for the round before */
	if (lane == 31)
		warp_total[warp] = sum;
	__syncthreads();
	uint32_t below = 0, all = 0;
	for (uint32_t w = 0; w < warps; w++) {
		below += w < warp ? warp_total[w] : 0;
		all += warp_total[w];
	}
	*total = all;
	return below + sum - value;
}

static __device__ uint32_t scan_value(const uint32_t *values, bool bits, int64_t i, int64_t n)
{
	uint32_t value = i < n ? values[i] : 0;
	return bits ? __popc(value) : value;
}

static __global__ void scan_sum_tiles(const uint32_t *values, bool bits, int64_t n, uint32_t *tile_sums)
{
	uint32_t sum = 0, total;
	for (int i = 0; i < SCAN_ITEMS; i++)
		sum += scan_value(values, bits, (int64_t)blockIdx.x * SCAN_TILE + i * EXTRACT_BLOCK + threadIdx.x, n);
	block_scan(sum, &total);
	if (threadIdx.x == 0)
		tile_sums[blockIdx.x] = total;
}

static __global__ void scan_tile_sums(uint32_t *tile_sums, int64_t tiles, uint32_t *total)
{
	uint32_t before = 0, round;
	for (int64_t first = 0; first < tiles; first += SCAN_WIDE) {
		int64_t i = first + threadIdx.x;
		uint32_t below = block_scan(i < tiles ? tile_sums[i] : 0, &round);
		if (i < tiles)
			tile_sums[i] = before + below;
		before += round;
	}
	if (threadIdx.x == 0)
		*total = before;
}

static __global__ void scan_tiles(
	const uint32_t *values, bool bits, uint32_t *before, int64_t n, const uint32_t *tile_sums)
{
	uint32_t item[SCAN_ITEMS], sum = 0, total;
	int64_t first = (int64_t)blockIdx.x * SCAN_TILE + threadIdx.x * SCAN_ITEMS;
#pragma unroll
	for (int i = 0; i < SCAN_ITEMS; i++)
		sum += item[i] = scan_value(values, bits, first + i, n);
	sum = tile_sums[blockIdx.x] + block_scan(sum, &total);
#pragma unroll
	for (int i = 0; i < SCAN_ITEMS; i++) {
		if (first + i < n)
			before[first + i] = sum;
		sum += item[i];
	}
}

cudaError_t launch_extract_scan(const struct launch *l, const uint32_t *values, bool bits, uint32_t *before, int64_t n,
	uint32_t *tile_sums, uint32_t *total)
{
	unsigned tiles = (unsigned)((n + SCAN_TILE - 1) / SCAN_TILE);
	if (tiles)
		scan_sum_tiles<<<tiles, EXTRACT_BLOCK, 0, l->stream>>>(values, bits, n, tile_sums);
	scan_tile_sums<<<1, SCAN_WIDE, 0, l->stream>>>(tile_sums, tiles, total);
	if (tiles)
		scan_tiles<<<tiles, EXTRACT_BLOCK, 0, l->stream>>>(values, bits, before, n, tile_sums);
	return cudaGetLastError();
}

static cudaError_t scan_set(const struct launch *l, const struct extraction *x, struct bitmap set, uint32_t *total)
{
	return launch_extract_scan(l, set.bits, true, set.before, x->grid.words, x->tile_sums, total);
}

/* --- words of 32 points along z --- */

/* Bit b: the point at z + 1 of bit b. */
static __device__ __forceinline__ uint32_t ahead(const uint32_t *bits, int64_t w)
{
	return __funnelshift_r(bits[w], bits[w + 1], 1);
}

/* Bit b: the point at z - 1 of bit b. */
static __device__ __forceinline__ uint32_t behind(const uint32_t *bits, int64_t w)
{
	return __funnelshift_l(bits[w - 1], bits[w], 1);
}

/* Whether word w lies in a row with 0 <= x, y <= last. */
static __device__ __forceinline__ bool in_grid(const struct extract_grid &g, int64_t w, int last)
{
	int x = (int)(w / (g.slab / 32)) - 1, y = (int)(w % (g.slab / 32) / (g.row / 32)) - 1;
	return x >= 0 && x <= last && y >= 0 && y <= last;
}

/* The bits of word w with 0 <= z <= last. */
static __device__ uint32_t grid_bits(const struct extract_grid &g, int64_t w, int last)
{
	int first = (int)(w % (g.row / 32)) * 32 - 1, count = last + 1 - first; /* z of bit 0; bits up to last */
	uint32_t bits = count >= 32 ? ~0u : count > 0 ? (1u << count) - 1 : 0;
	return first < 0 ? bits & ~1u : bits;
}

/* --- active cubes and the corners they touch --- */

static __global__ void mark_active(struct extraction x)
{
	int64_t i = thread_index();
	if (i >= x.n)
		return;
	const int32_t *c = x.coords + i * x.coords_stride;
	int32_t r = x.grid.resolution;
	if (c[0] < 0 || c[0] >= r || c[1] < 0 || c[1] >= r || c[2] < 0 || c[2] >= r) {
		atomicMin(&x.totals->bad_row, (uint32_t)i);
		return;
	}
	int32_t key = (c[0] + 1) * x.grid.slab + (c[1] + 1) * x.grid.row + c[2] + 1;
	uint32_t bit = 1u << (key & 31);
	if (atomicOr(&x.active.bits[key >> 5], bit) & bit)
		atomicMin(&x.totals->twice, (uint32_t)key);
}

static __global__ void find_rows(struct extraction x)
{
	int64_t i = thread_index();
	if (i >= x.n)
		return;
	const int32_t *c = x.coords + i * x.coords_stride;
	int32_t r = x.grid.resolution;
	if (c[0] < 0 || c[0] >= r || c[1] < 0 || c[1] >= r || c[2] < 0 || c[2] >= r)
		return;
	x.row_of[rank_of(x.active, (c[0] + 1) * x.grid.slab + (c[1] + 1) * x.grid.row + c[2] + 1)] = (int32_t)i;
}

static __global__ void find_touched(struct extraction x)
{
	int64_t w = thread_index(), slab = x.grid.slab / 32, row = x.grid.row / 32;
	if (w >= x.grid.words)
		return;
	uint32_t touched = 0;
	if (in_grid(x.grid, w, x.grid.resolution))
		for (int k = 0; k < 4; k++) {
			int64_t cubes = w - (k & 1) * slab - (k >> 1) * row;
			touched |= x.active.bits[cubes] | behind(x.active.bits, cubes);
		}
	x.touched.bits[w] = touched & grid_bits(x.grid, w, x.grid.resolution);
}

cudaError_t launch_extract_touched(const struct launch *l, const struct extraction *x)
{
	size_t bytes = (size_t)x->grid.words * sizeof(uint32_t);
	cudaMemsetAsync(x->totals, 0xff, sizeof *x->totals, l->stream);
	cudaMemsetAsync(x->active.bits, 0, bytes, l->stream);
	cudaMemsetAsync(x->inside, 0, bytes, l->stream);
	if (x->n)
		mark_active<<<extract_blocks(x->n), EXTRACT_BLOCK, 0, l->stream>>>(*x);
	scan_set(l, x, x->active, &x->totals->n_touched);
	if (x->n)
		find_rows<<<extract_blocks(x->n), EXTRACT_BLOCK, 0, l->stream>>>(*x);
	find_touched<<<extract_blocks(x->grid.words), EXTRACT_BLOCK, 0, l->stream>>>(*x);
	return scan_set(l, x, x->touched, &x->totals->n_touched);
}

/* --- what lies inside, and the cubes, corners and quads on the surface --- */

static __global__ void list_keys(struct bitmap set, int64_t words, int32_t *keys)
{
	int64_t w = thread_index();
	if (w >= words)
		return;
	uint32_t at = set.before[w];
	for (uint32_t left = set.bits[w]; left; left &= left - 1)
		keys[at++] = (int32_t)(w * 32 + __ffs(left) - 1);
}

static __global__ void find_inside(struct extraction x, int64_t n_touched)
{
	int64_t i = thread_index();
	int32_t touch[8];
	if (i >= n_touched)
		return;
	int32_t key = x.touched_keys[i];
	find_touch(x, key, touch);
	if (touch_sdf(x, touch) < 0)
		atomicOr(&x.inside[key >> 5], 1u << (key & 31));
}

/* A corner inside on the grid's border counts as used even if its edges do not cross: it costs a place and no more. */
static __global__ void find_surface(struct extraction x)
{
	int64_t w = thread_index(), slab = x.grid.slab / 32, row = x.grid.row / 32;
	const uint32_t *in = x.inside;
	uint32_t cubes = 0, used = 0;
	if (w >= x.grid.words)
		return;
	if (in_grid(x.grid, w, x.grid.resolution)) {
		uint32_t all = in[w + slab] & in[w - slab] & in[w + row] & in[w - row] & ahead(in, w) & behind(in, w);
		uint32_t any = in[w + slab] | in[w - slab] | in[w + row] | in[w - row] | ahead(in, w) | behind(in, w);
		used = x.touched.bits[w] & ((in[w] & ~all) | (~in[w] & any));
	}
	if (in_grid(x.grid, w, x.grid.resolution - 1)) {
		uint32_t all = ~0u, any = 0;
		for (int k = 0; k < 4; k++) {
			int64_t corners = w + (k & 1) * slab + (k >> 1) * row;
			all &= in[corners] & ahead(in, corners);
			any |= in[corners] | ahead(in, corners);
		}
		cubes = any & ~all & grid_bits(x.grid, w, x.grid.resolution - 1);
	}
	x.used.bits[w] = used;
	x.cubes.bits[w] = cubes;
}

/* Crossing edges with four surface cubes around them (an edge on the border of the grid has fewer), by the key of the
 * first end. An edge's directions in the official order, the place of its second end: -y, +z, +x. */
static __device__ bool find_quads(const struct extraction &x, int64_t w, uint32_t quads[3])
{
	int64_t slab = x.grid.slab / 32, row = x.grid.row / 32;
	const uint32_t *in = x.inside, *cubes = x.cubes.bits;
	if (!in_grid(x.grid, w, x.grid.resolution))
		return false;
	uint32_t here = cubes[w], below = cubes[w - row], behind_here = behind(cubes, w),
		 behind_below = behind(cubes, w - row);
	quads[0] = (in[w] ^ in[w - row]) & below & behind_below & cubes[w - row - slab] & behind(cubes, w - row - slab);
	quads[1] = (in[w] ^ ahead(in, w)) & here & below & cubes[w - slab] & cubes[w - slab - row];
	quads[2] = (in[w] ^ in[w + slab]) & here & below & behind_here & behind_below;
	return true;
}

static __global__ void count_quads(struct extraction x)
{
	int64_t w = thread_index();
	uint32_t quads[3], first_outside = 0, first_inside = 0;
	if (w >= x.grid.words)
		return;
	if (find_quads(x, w, quads))
		for (int r = 0; r < 3; r++) {
			first_outside += __popc(quads[r] & ~x.inside[w]);
			first_inside += __popc(quads[r] & x.inside[w]);
		}
	x.quads_before[w] = first_outside;
	x.quads_before[x.grid.words + w] = first_inside;
}

cudaError_t launch_extract_inside(const struct launch *l, const struct extraction *x, int64_t n_touched)
{
	unsigned blocks = extract_blocks(x->grid.words);
	list_keys<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(x->touched, x->grid.words, x->touched_keys);
	if (n_touched)
		find_inside<<<extract_blocks(n_touched), EXTRACT_BLOCK, 0, l->stream>>>(*x, n_touched);
	find_surface<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(*x);
	count_quads<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(*x);
	scan_set(l, x, x->used, &x->totals->n_used);
	scan_set(l, x, x->cubes, &x->totals->n_cubes);
	return launch_extract_scan(
		l, x->quads_before, false, x->quads_before, 2 * x->grid.words, x->tile_sums, &x->totals->n_quads);
}

static __global__ void list_quads(struct extraction x)
{
	int64_t w = thread_index();
	uint32_t quads[3];
	if (w >= x.grid.words || !find_quads(x, w, quads))
		return;
	uint32_t at[2] = {x.quads_before[w], x.quads_before[x.grid.words + w]}, inside = x.inside[w];
	for (uint32_t left = quads[0] | quads[1] | quads[2]; left; left &= left - 1) {
		int bit = __ffs(left) - 1;
		uint32_t place = inside >> bit & 1 ? at[1] : at[0], first = place;
		for (int r = 0; r < 3; r++)
			if (quads[r] >> bit & 1)
				x.quads[place++] = (uint32_t)(w * 32 + bit) * 3 + r;
		at[0] += inside >> bit & 1 ? 0 : place - first;
		at[1] += inside >> bit & 1 ? place - first : 0;
	}
}

cudaError_t launch_extract_list(const struct launch *l, const struct extraction *x)
{
	unsigned blocks = extract_blocks(x->grid.words);
	list_keys<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(x->used, x->grid.words, x->used_keys);
	list_keys<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(x->cubes, x->grid.words, x->cube_keys);
	list_quads<<<blocks, EXTRACT_BLOCK, 0, l->stream>>>(*x);
	return cudaGetLastError();
}
