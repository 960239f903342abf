/* cpu_sparse.c - submanifold 3x3x3 convolution over active voxels, and the neighbour tables it reads.
 * A block of output rows is summed at a time. For each tap the rows that have a neighbour there are listed, and the
 * product tile goes down the list reading the neighbours and adding to the sums through pointers: no row is copied, and
 * neighbours that do not exist cost nothing. Weights lie in panels [tap][out / tile cols][in][tile cols], padded with
 * zero columns. Each row is summed in the same order whatever the blocks and threads. */
#include "cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 512, /* output rows of a block: the weights are read once a block */
	DEPTH = 256, /* input channels at a time: a panel of weights stays in the first-level cache */
	CHILDREN = 8,
	MERGED = 8, /* parents that a child's 27 taps meet */
};

static int64_t padded(const struct simd *simd, int64_t out)
{
	return (out + simd->cols - 1) / simd->cols * simd->cols;
}

/* ---- weights ---- */

/* Column of a parents' neighbour table for child c and its t-th parent (2 x 2 x 2): offset d - 1 + t along each axis.
 */
static int merged_column(int c, int t)
{
	int x = (c >> 2) + (t >> 2), y = (c >> 1 & 1) + (t >> 1 & 1), z = (c & 1) + (t & 1);
	return (x * 3 + y) * 3 + z;
}

/* Which of a child's 8 parents its tap k meets: the inverse of the above. */
static int merged_tap(int c, int k)
{
	int d[3] = {c >> 2, c >> 1 & 1, c & 1}, tap[3] = {k / 9, k / 3 % 3, k % 3}, t = 0;
	for (int i = 0; i < 3; i++)
		t = t * 2 + subdivision_parent(d[i], tap[i]) - d[i] + 1;
	return t;
}

/* panel [in, cols] column by column: sums[i] = the taps of `taps` (a bit each) of plain[o, :, i] added. */
static void pack_panel(const struct simd *simd, float *panel, const float *plain, int64_t out, int64_t in,
	int64_t first, uint32_t taps)
{
	for (int64_t o = first; o < first + simd->cols; o++)
		for (int64_t i = 0; i < in; i++) {
			double sum = 0;
			for (int k = 0; o < out && k < 27; k++)
				sum += taps >> k & 1 ? (double)plain[(o * 27 + k) * in + i] : 0;
			panel[i * simd->cols + o - first] = (float)sum;
		}
}

float *cpu_sparse_pack(const struct simd *simd, enum weight_kind kind, int64_t out, int64_t in, const float *plain)
{
	uint32_t taps[CHILDREN * MERGED] = {0};
	int n = kind == WEIGHT_SPARSE3 ? 27 : CHILDREN * MERGED;
	for (int k = 0; k < 27; k++)
		if (kind == WEIGHT_SPARSE3)
			taps[k] = 1u << k;
		else
			for (int c = 0; c < CHILDREN; c++)
				taps[c * MERGED + merged_tap(c, k)] |= 1u << k;
	int64_t width = padded(simd, out), panels = width / simd->cols;
	float *data = aligned_alloc(64, (size_t)((n * width * in * 4 + 63) / 64 * 64));
	if (!data)
		return NULL;
#pragma omp parallel for schedule(static)
	for (int64_t i = 0; i < n * panels; i++)
		pack_panel(simd, data + i * in * simd->cols, plain, out, in, i % panels * simd->cols, taps[i / panels]);
	return data;
}

/* ---- convolution ---- */

/* Pairs of a source row and the sums it is added to. */
struct pairs {
	int n;
	const float *from[BLOCK + SIMD_MAX_ROWS];
	float *to[BLOCK + SIMD_MAX_ROWS];
};

/* to[i][:] += from[i][:] w for one tap's panels w. spare: a row of sums that nobody reads. */
static void add_products(
	const struct simd *simd, struct pairs *p, const float *w, int64_t in, int64_t width, float *spare)
{
	for (int i = p->n; p->n > 0 && i < p->n + simd->rows; i++) {
		p->from[i] = p->from[0];
		p->to[i] = spare;
	}
	for (int64_t k = 0; k < in; k += DEPTH) {
		int64_t depth = in - k < DEPTH ? in - k : DEPTH;
		for (int64_t o = 0; o < width; o += simd->cols)
			for (int i = 0; i < p->n; i += simd->rows)
				simd->product(depth, p->from + i, k, w + o * in + k * simd->cols, p->to + i, o, true);
	}
}

/* Sums of rows [begin, end) x children of the table's rows; sums [(end - begin) * children + 1, width]. */
static void sum_block(const struct simd *simd, struct tensor sums, struct tensor x, const float *w,
	struct tensor neighbours, int64_t begin, int64_t end, int children)
{
	struct pairs pairs;
	int taps = children == 1 ? 27 : MERGED;
	memset(sums.data, 0, (size_t)((end - begin) * children * sums.stride) * sizeof(float));
	for (int c = 0; c < children; c++)
		for (int t = 0; t < taps; t++) {
			int column = children == 1 ? t : merged_column(c, t);
			pairs.n = 0;
			for (int64_t r = begin; r < end; r++) {
				int32_t row = cpu_row_i32(neighbours, r)[column];
				if (row < 0)
					continue;
				pairs.from[pairs.n] = cpu_row(x, row);
				pairs.to[pairs.n++] = cpu_row(sums, (r - begin) * children + c);
			}
			add_products(simd, &pairs, w + (c * MERGED + t) * x.cols * sums.cols, x.cols, sums.cols,
				cpu_row(sums, (end - begin) * children));
		}
}

/* children: 1, or 8 for the subdivision. */
static void convolve(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e, int children)
{
	struct cpu *c = cpu_of(b);
	const float *data = ((const struct cpu_weight *)w)->data, *bias = cpu_vector(e->bias);
	int64_t width = padded(c->simd, w->out), rows = BLOCK / children;
	int64_t fair = (x.rows + 2 * c->threads - 1) / (2 * c->threads); /* two blocks a thread at least */
	rows = fair < rows ? fair : rows;
	size_t mark = scratch_mark(b);
	struct tensor work = scratch_new(b, c->threads, (rows * children + 1) * width);
	if (!backend_ok(b))
		goto done;
#pragma omp parallel for schedule(dynamic) num_threads(c->threads)
	for (int64_t begin = 0; begin < x.rows; begin += rows) {
		int64_t end = begin + rows < x.rows ? begin + rows : x.rows;
		struct tensor sums = {.data = cpu_row(work, omp_get_thread_num()),
			.dtype = DTYPE_F32,
			.rows = rows * children + 1,
			.cols = width,
			.stride = width};
		sum_block(c->simd, sums, x, data, neighbours, begin, end, children);
		for (int64_t r = begin * children; r < end * children; r++)
			c->simd->finish(w->out, cpu_row(y, r), cpu_row(sums, r - begin * children), bias, e->act,
				e->gate.data, e->residual.data ? cpu_row(e->residual, r) : NULL);
	}
done:
	scratch_release(b, mark);
}

void cpu_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	convolve(b, y, x, w, neighbours, e, 1);
}

void cpu_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	convolve(b, y, x, w, neighbours, e, CHILDREN);
}

/* ---- neighbour tables ---- */

/* Open addressing: slots hold rows, or -1. Coordinates are compared in the tensor. */
struct hash {
	int32_t *slot;
	uint64_t mask;
	struct tensor coords;
};

static uint64_t hash_of(const int32_t *c)
{
	uint64_t key = ((uint64_t)(uint32_t)c[0] << 42) ^ ((uint64_t)(uint32_t)c[1] << 21) ^ (uint64_t)(uint32_t)c[2];
	key *= 0x9e3779b97f4a7c15u;
	return key ^ key >> 32;
}

/* The slot of coordinates c: where they are, or the empty one where they belong. */
static int32_t *hash_find(const struct hash *h, const int32_t *c)
{
	for (uint64_t i = hash_of(c);; i++) {
		int32_t *slot = h->slot + (i & h->mask);
		if (*slot < 0)
			return slot;
		const int32_t *other = cpu_row_i32(h->coords, *slot);
		if (other[0] == c[0] && other[1] == c[1] && other[2] == c[2])
			return slot;
	}
}

void cpu_neighbours(struct backend *b, struct tensor table, struct tensor coords)
{
	struct cpu *c = cpu_of(b);
	int64_t size = 2;
	while (size < 2 * coords.rows)
		size *= 2;
	size_t mark = scratch_mark(b);
	struct tensor slots = scratch_new_as(b, DTYPE_I32, 1, size);
	struct hash h = {.slot = slots.data, .mask = (uint64_t)size - 1, .coords = coords};
	if (!backend_ok(b))
		goto done;
	memset(h.slot, -1, (size_t)size * sizeof *h.slot);
	for (int64_t r = 0; r < coords.rows; r++)
		*hash_find(&h, cpu_row_i32(coords, r)) = (int32_t)r;
#pragma omp parallel for schedule(static) num_threads(c->threads) if (cpu_is_large(table))
	for (int64_t r = 0; r < coords.rows; r++)
		for (int k = 0; k < 27; k++) {
			const int32_t *p = cpu_row_i32(coords, r);
			int32_t wanted[3] = {p[0] + k / 9 - 1, p[1] + k / 3 % 3 - 1, p[2] + k % 3 - 1};
			cpu_row_i32(table, r)[k] = *hash_find(&h, wanted);
		}
done:
	scratch_release(b, mark);
}

void cpu_neighbours_up(struct backend *b, struct tensor table, struct tensor parents)
{
	struct cpu *c = cpu_of(b);
	int column[CHILDREN][27], sibling[CHILDREN][27];
	for (int i = 0; i < CHILDREN; i++)
		for (int k = 0; k < 27; k++) {
			/* One tap away along an axis is the other child, wherever its parent is. */
			int x = ((i >> 2) + k / 9 + 1) & 1, y = ((i >> 1) + k / 3 % 3 + 1) & 1, z = (i + k % 3 + 1) & 1;
			sibling[i][k] = (x * 2 + y) * 2 + z;
			column[i][k] = merged_column(i, merged_tap(i, k));
		}
#pragma omp parallel for schedule(static) num_threads(c->threads) if (cpu_is_large(table))
	for (int64_t r = 0; r < table.rows; r++)
		for (int k = 0; k < 27; k++) {
			int32_t p = cpu_row_i32(parents, r / CHILDREN)[column[r % CHILDREN][k]];
			cpu_row_i32(table, r)[k] = p < 0 ? -1 : p * CHILDREN + sibling[r % CHILDREN][k];
		}
}
