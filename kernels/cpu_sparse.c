/* cpu_sparse.c - submanifold 3x3x3 convolution over active voxels, and the neighbour tables it reads.
 * A block of output rows is summed at a time. For each tap the rows that have a neighbour there are listed, some of
 * their channels are copied together, and the product tile goes down the list and adds to the sums through pointers:
 * neighbours that do not exist cost nothing. Weights lie in panels [tap][out / tile cols][in][tile cols], padded with
 * zero columns. Each row is summed in the same order whatever the blocks and threads. */
#include "cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 1024, /* output rows of a block: the weights are read once a block */
	DEPTH = 256,  /* input channels at a time: a panel of weights stays in the first-level cache */
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

/* panel [in, cols]: column o is the sum of plain[first + o, k, :] over the taps k whose bits are set; zero past out. */
static void pack_panel(const struct simd *simd, float *panel, const float *plain, int64_t out, int64_t in,
	int64_t first, uint32_t taps)
{
	for (int64_t o = 0; o < simd->cols; o++)
		for (int64_t i = 0; i < in; i++) {
			double sum = 0;
			for (uint32_t rest = first + o < out ? taps : 0; rest; rest &= rest - 1)
				sum += (double)plain[((first + o) * 27 + __builtin_ctz(rest)) * in + i];
			panel[i * simd->cols + o] = (float)sum;
		}
}

float *cpu_sparse_pack(const struct cpu *c, enum weight_kind kind, int64_t out, int64_t in, const float *plain)
{
	uint32_t taps[CHILDREN * MERGED] = {0};
	int n = kind == WEIGHT_SPARSE3 ? 27 : CHILDREN * MERGED;
	for (int k = 0; k < 27; k++)
		if (kind == WEIGHT_SPARSE3)
			taps[k] = 1u << k;
		else
			for (int child = 0; child < CHILDREN; child++)
				taps[child * MERGED + merged_tap(child, k)] |= 1u << k;
	int64_t cols = c->simd->cols, width = padded(c->simd, out), panels = width / cols;
	float *data = aligned_alloc(64, (size_t)((n * width * in * 4 + 63) / 64 * 64));
	if (!data)
		return NULL;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(c))
	for (int64_t i = 0; i < n * panels; i++)
		pack_panel(c->simd, data + i * in * cols, plain, out, in, i % panels * cols, taps[i / panels]);
	return data;
}

/* ---- convolution ---- */

/* What one thread works in. */
struct block {
	struct tensor sums;   /* [BLOCK + 1, width]; the last row takes what nobody reads */
	struct tensor packed; /* [BLOCK, DEPTH] */
	int n;		      /* pairs of a source row and the sums it is added to */
	const float *from[BLOCK + SIMD_MAX_ROWS];
	float *to[BLOCK + SIMD_MAX_ROWS];
};

/* Copy channels [k, k + depth) of the sources together and point at[] there. Rows of 2^n channels lie a multiple of the
 * cache's set size apart and would evict each other. */
static void pack_sources(struct block *p, const float **at, int64_t k, int64_t depth)
{
	for (int i = 0; i < p->n; i++) {
		float *to = cpu_row(p->packed, i);
		memcpy(to, p->from[i] + k, (size_t)depth * sizeof *to);
		at[i] = to;
	}
}

/* to[i][:] += from[i][:] w for all pairs; w: one tap's panels. */
static void add_products(const struct simd *simd, struct block *p, const float *w, int64_t in)
{
	const float *at[BLOCK + SIMD_MAX_ROWS];
	for (int i = p->n; p->n > 0 && i < p->n + simd->rows; i++)
		p->to[i] = cpu_row(p->sums, BLOCK);
	for (int64_t k = 0; k < in; k += DEPTH) {
		int64_t depth = in - k < DEPTH ? in - k : DEPTH;
		pack_sources(p, at, k, depth);
		for (int i = p->n; p->n > 0 && i < p->n + simd->rows; i++)
			at[i] = at[0];
		for (int64_t o = 0; o < p->sums.cols; o += simd->cols)
			for (int i = 0; i < p->n; i += simd->rows)
				simd->product(depth, at + i, 0, w + o * in + k * simd->cols, p->to + i, o, true);
	}
}

/* Sums of table rows [begin, end): w holds `taps` taps, tap t meets column[t] of the table. */
static void sum_block(const struct simd *simd, struct block *p, struct tensor x, const float *w,
	struct tensor neighbours, int64_t begin, int64_t end, int taps, const int *column)
{
	memset(p->sums.data, 0, (size_t)((end - begin) * p->sums.stride) * sizeof(float));
	for (int t = 0; t < taps; t++) {
		p->n = 0;
		for (int64_t r = begin; r < end; r++) {
			int32_t row = cpu_row_i32(neighbours, r)[column[t]];
			if (row < 0)
				continue;
			p->from[p->n] = cpu_row(x, row);
			p->to[p->n++] = cpu_row(p->sums, r - begin);
		}
		add_products(simd, p, w + t * x.cols * p->sums.cols, x.cols);
	}
}

/* Output row children r + c is the sum for table row r with kernel c: children 1 and 27 taps, or 8 and 8. */
static void convolve(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e, int children, int taps, const int (*column)[27])
{
	struct cpu *cpu = cpu_of(b);
	int threads = cpu_threads(cpu);
	const float *data = ((const struct cpu_weight *)w)->data, *bias = cpu_vector(e->bias);
	int64_t width = padded(cpu->simd, w->out), rows = (x.rows * children + 2 * threads - 1) / (2 * threads);
	rows = rows < BLOCK ? rows : BLOCK; /* two blocks a thread at least */
	int64_t blocks = (x.rows + rows - 1) / rows;
	size_t mark = scratch_mark(b);
	/* An odd number of cache lines a row, for the reason that sources are packed. */
	struct tensor sums = scratch_new(b, threads * (BLOCK + 1), width + 16);
	struct tensor packed = scratch_new(b, threads * BLOCK, DEPTH);
	if (!backend_ok(b))
		goto done;
#pragma omp parallel num_threads(threads)
	{
		int thread = omp_get_thread_num();
		struct block p = {
			.sums = tensor_columns(tensor_rows(sums, thread * (BLOCK + 1), BLOCK + 1), 0, width),
			.packed = tensor_rows(packed, thread * BLOCK, BLOCK),
		};
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < blocks * children; i++) {
			int64_t c = i % children, begin = i / children * rows;
			int64_t end = begin + rows < x.rows ? begin + rows : x.rows;
			sum_block(cpu->simd, &p, x, data + c * taps * x.cols * width, neighbours, begin, end, taps,
				column[c]);
			for (int64_t r = begin; r < end; r++) {
				int64_t to = r * children + c;
				cpu->simd->finish(w->out, cpu_row(y, to), cpu_row(p.sums, r - begin), bias, e->act,
					e->gate.data, e->residual.data ? cpu_row(e->residual, to) : NULL);
			}
		}
	}
done:
	scratch_release(b, mark);
}

void cpu_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	int column[1][27];
	for (int k = 0; k < 27; k++)
		column[0][k] = k;
	convolve(b, y, x, w, neighbours, e, 1, 27, column);
}

void cpu_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	int column[CHILDREN][27];
	for (int c = 0; c < CHILDREN; c++)
		for (int t = 0; t < MERGED; t++)
			column[c][t] = merged_column(c, t);
	convolve(b, y, x, w, neighbours, e, CHILDREN, MERGED, column);
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
#pragma omp parallel for schedule(dynamic, cpu_chunk(table)) num_threads(cpu_threads(c)) if (cpu_is_large(table))
	for (int64_t r = 0; r < coords.rows; r++)
		for (int k = 0; k < 27; k++) {
			const int32_t *p = cpu_row_i32(coords, r);
			int32_t wanted[3] = {p[0] + k / 9 - 1, p[1] + k / 3 % 3 - 1, p[2] + k % 3 - 1};
			cpu_row_i32(table, r)[k] = *hash_find(&h, wanted);
			cpu_row_i32(table, r)[NEIGHBOUR_ORDER] = (int32_t)r;
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
#pragma omp parallel for schedule(dynamic, cpu_chunk(table)) num_threads(cpu_threads(c)) if (cpu_is_large(table))
	for (int64_t r = 0; r < table.rows; r++)
		for (int k = 0; k < 27; k++) {
			int32_t p = cpu_row_i32(parents, r / CHILDREN)[column[r % CHILDREN][k]];
			cpu_row_i32(table, r)[k] = p < 0 ? -1 : p * CHILDREN + sibling[r % CHILDREN][k];
			cpu_row_i32(table, r)[NEIGHBOUR_ORDER] = (int32_t)r;
		}
}
