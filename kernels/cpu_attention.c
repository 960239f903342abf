/* cpu_attention.c - blocked attention with an online softmax (Dao et al. 2022, arXiv 2205.14135).
 * Queries lie side by side in the lanes of the product tile, keys go down: the scores of a block of keys,
 *   S [keys, queries] = K [keys, d] Q^T [d, queries],
 * are at once the right-hand panel of the second product,
 *   O^T [d, queries] += V^T [d, keys] P [keys, queries],
 * and the softmax needs no sum across lanes. K and V^T of a head are copied together once, Q goes through in tiles. */
#include "cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
	KEY_BLOCK = 128, /* S of a block stays in the first-level cache */
	GROUP = 4,	 /* tiles of queries that use a block of keys while it is in the second-level cache */
};

/* Shapes that all tiles of a call share. */
struct attention {
	const struct simd *simd;
	int64_t d, d_padded; /* head size; rounded up to the tile's rows */
	float scale;
};

/* One head's keys and values, copied together. */
struct keys {
	int64_t n;
	float *k; /* [n + SIMD_MAX_ROWS, d]: a tile may reach past the end */
	float *v; /* V^T: [d_padded, v_stride] */
	int64_t v_stride;
};

/* What one thread works in. The rows are pointers for the product tile, to be used with offsets: they are set once for
 * a group of tiles. */
struct workspace {
	float *scores;		      /* [ROOM, tile cols] */
	float *q, *o;		      /* [GROUP][d or d_padded, tile cols] */
	float *largest, *total;	      /* [GROUP][tile cols] */
	const float **k_row, **v_row; /* [ROOM] keys from the first on; [d_padded] */
	float **score_row, **o_row;   /* [ROOM]; [d_padded] of the first tile */
};

enum { ROOM = KEY_BLOCK + SIMD_MAX_ROWS }; /* a tile may reach past the end of a block */

static int64_t round_up(int64_t n, int64_t multiple)
{
	return (n + multiple - 1) / multiple * multiple;
}

/* A row of V^T: an odd number of cache lines, so that the rows of a tile do not fall into one set of the cache. */
static int64_t value_stride(int64_t n)
{
	return round_up(n, 32) + 16;
}

static int64_t keys_size(const struct attention *a, int64_t n)
{
	return round_up((n + SIMD_MAX_ROWS) * a->d, 16) + a->d_padded * value_stride(n);
}

static struct keys keys_at(const struct attention *a, float *memory, int64_t n)
{
	int64_t k_size = round_up((n + SIMD_MAX_ROWS) * a->d, 16);
	return (struct keys){.n = n, .k = memory, .v = memory + k_size, .v_stride = value_stride(n)};
}

static int64_t workspace_size(const struct attention *a)
{
	int64_t floats = a->simd->cols * (ROOM + GROUP * (a->d + a->d_padded + 2));
	int64_t pointer_bytes = 2 * (ROOM + a->d_padded) * (int64_t)sizeof(float *);
	return round_up(floats, 16) + pointer_bytes / (int64_t)sizeof(float);
}

static struct workspace workspace_at(const struct attention *a, float *memory)
{
	int64_t cols = a->simd->cols;
	struct workspace w = {.scores = memory};
	w.q = w.scores + cols * ROOM;
	w.o = w.q + cols * GROUP * a->d;
	w.largest = w.o + cols * GROUP * a->d_padded;
	w.total = w.largest + cols * GROUP;
	w.k_row = (const float **)(memory + round_up(w.total + cols * GROUP - memory, 16));
	w.v_row = w.k_row + ROOM;
	w.score_row = (float **)(w.v_row + a->d_padded);
	w.o_row = w.score_row + ROOM;
	return w;
}

/* Copy keys [from, to) and the values with them; key j is row order[j], or j without an order. first: the head's
 * column. */
static void keys_copy(const struct attention *a, const struct keys *keys, struct tensor k, struct tensor v,
	const int32_t *order, int64_t first, int64_t from, int64_t to)
{
	for (int64_t j = from; j < to; j++) {
		int64_t row = order ? order[j] : j;
		const float *value = cpu_row(v, row) + first;
		memcpy(keys->k + j * a->d, cpu_row(k, row) + first, (size_t)a->d * sizeof(float));
		for (int64_t i = 0; i < a->d; i++)
			keys->v[i * keys->v_stride + j] = value[i];
	}
}

/* Padding: keys past the end and dimensions past the head are zero. */
static void keys_pad(const struct attention *a, const struct keys *keys)
{
	memset(keys->k + keys->n * a->d, 0, (size_t)(SIMD_MAX_ROWS * a->d) * sizeof(float));
	for (int64_t i = a->d; i < a->d_padded; i++)
		memset(keys->v + i * keys->v_stride, 0, (size_t)keys->n * sizeof(float));
}

/* Queries of a tile into lanes, scaled; lanes past n are zero. Query i is row order[i], or i without an order. */
static void load_queries(const struct attention *a, float *panel, struct tensor q, const int32_t *order, int64_t begin,
	int64_t n, int64_t first)
{
	int64_t cols = a->simd->cols;
	memset(panel, 0, (size_t)(a->d * cols) * sizeof(float));
	for (int64_t i = 0; i < n; i++) {
		const float *row = cpu_row(q, order ? order[begin + i] : begin + i) + first;
		for (int64_t k = 0; k < a->d; k++)
			panel[k * cols + i] = row[k] * a->scale;
	}
}

static void store_queries(const struct attention *a, struct tensor y, const float *o, const float *total,
	const int32_t *order, int64_t begin, int64_t n, int64_t first)
{
	int64_t cols = a->simd->cols;
	for (int64_t i = 0; i < n; i++) {
		float *row = cpu_row(y, order ? order[begin + i] : begin + i) + first;
		float inverse = 1 / total[i];
		for (int64_t k = 0; k < a->d; k++)
			row[k] = o[k * cols + i] * inverse;
	}
}

static void set_rows(const struct attention *a, const struct workspace *w, const struct keys *keys)
{
	for (int64_t j = 0; j < ROOM; j++) {
		w->k_row[j] = keys->k + j * a->d;
		w->score_row[j] = w->scores + j * a->simd->cols;
	}
	for (int64_t k = 0; k < a->d_padded; k++) {
		w->v_row[k] = keys->v + k * keys->v_stride;
		w->o_row[k] = w->o + k * a->simd->cols;
	}
}

/* Tile t of the group meets keys [first, first + n). */
static void meet_keys(const struct attention *a, const struct workspace *w, int64_t first, int64_t n, int64_t t)
{
	const struct simd *simd = a->simd;
	int64_t cols = simd->cols, o = t * a->d_padded * cols;
	for (int64_t j = 0; j < n; j += simd->rows)
		simd->product(a->d, w->k_row + j, first * a->d, w->q + t * a->d * cols, w->score_row + j, 0, false);
	simd->softmax_step(n, w->scores, w->largest + t * cols, w->total + t * cols, a->d_padded, w->o + o);
	for (int64_t k = 0; k < a->d_padded; k += simd->rows)
		simd->product(n, w->v_row + k, first, w->scores, w->o_row + k, o, true);
}

/* Queries [begin, end) of one head, at most GROUP tiles. */
static void attend(const struct attention *a, const struct workspace *w, const struct keys *keys, struct tensor y,
	struct tensor q, const int32_t *order, int64_t begin, int64_t end, int64_t first)
{
	int64_t cols = a->simd->cols, tiles = (end - begin + cols - 1) / cols;
	int64_t q_size = a->d * cols, o_size = a->d_padded * cols;
	memset(w->o, 0, (size_t)(tiles * o_size) * sizeof(float));
	for (int64_t i = 0; i < tiles * cols; i++) {
		w->largest[i] = -INFINITY;
		w->total[i] = 0;
	}
	for (int64_t t = 0; t < tiles; t++) {
		int64_t at = begin + t * cols, n = end - at < cols ? end - at : cols;
		load_queries(a, w->q + t * q_size, q, order, at, n, first);
	}
	set_rows(a, w, keys);
	for (int64_t j = 0; j < keys->n; j += KEY_BLOCK)
		for (int64_t t = 0; t < tiles; t++)
			meet_keys(a, w, j, keys->n - j < KEY_BLOCK ? keys->n - j : KEY_BLOCK, t);
	for (int64_t t = 0; t < tiles; t++) {
		int64_t at = begin + t * cols, n = end - at < cols ? end - at : cols;
		store_queries(a, y, w->o + t * o_size, w->total + t * cols, order, at, n, first);
	}
}

static void attend_all(int threads, const struct attention *a, struct tensor y, struct tensor q, struct tensor k,
	struct tensor v, int heads, float *keys_memory, struct tensor work)
{
	int64_t size = keys_size(a, k.rows), blocks = (k.rows + KEY_BLOCK - 1) / KEY_BLOCK;
	int64_t queries = GROUP * a->simd->cols, groups = (q.rows + queries - 1) / queries;
#pragma omp parallel num_threads(threads)
	{
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < heads * blocks; i++) {
			int64_t h = i / blocks, j = i % blocks * KEY_BLOCK;
			struct keys keys = keys_at(a, keys_memory + h * size, k.rows);
			keys_copy(a, &keys, k, v, NULL, h * a->d, j, j + KEY_BLOCK < k.rows ? j + KEY_BLOCK : k.rows);
			if (j == 0)
				keys_pad(a, &keys);
		}
#pragma omp for schedule(dynamic)
		for (int64_t i = 0; i < heads * groups; i++) {
			int64_t h = i / groups, begin = i % groups * queries;
			struct keys keys = keys_at(a, keys_memory + h * size, k.rows);
			struct workspace w = workspace_at(a, cpu_row(work, omp_get_thread_num()));
			attend(a, &w, &keys, y, q, NULL, begin, begin + queries < q.rows ? begin + queries : q.rows,
				h * a->d);
		}
	}
}

static void attend_windows(int threads, const struct attention *a, struct tensor y, struct tensor q, struct tensor k,
	struct tensor v, int heads, const struct windows *windows, struct tensor keys_memory, struct tensor work)
{
	const int32_t *offset = windows->offset.data;
	int64_t queries = GROUP * a->simd->cols;
#pragma omp parallel for schedule(dynamic) collapse(2) num_threads(threads)
	for (int64_t i = 0; i < windows->count; i++)
		for (int64_t h = 0; h < heads; h++) {
			int64_t n = offset[i + 1] - offset[i];
			const int32_t *order = (const int32_t *)windows->order.data + offset[i];
			struct keys keys = keys_at(a, cpu_row(keys_memory, omp_get_thread_num()), n);
			struct workspace w = workspace_at(a, cpu_row(work, omp_get_thread_num()));
			keys_copy(a, &keys, k, v, order, h * a->d, 0, n);
			keys_pad(a, &keys);
			for (int64_t begin = 0; begin < n; begin += queries)
				attend(a, &w, &keys, y, q, order, begin, begin + queries < n ? begin + queries : n,
					h * a->d);
		}
}

void cpu_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	const struct windows *windows)
{
	struct cpu *c = cpu_of(b);
	int threads = cpu_threads(c);
	int64_t d = q.cols / heads;
	struct attention a = {
		.simd = c->simd, .d = d, .d_padded = round_up(d, c->simd->rows), .scale = (float)(1 / sqrt((double)d))};
	size_t mark = scratch_mark(b);
	struct tensor work = scratch_new(b, threads, round_up(workspace_size(&a), 16));
	struct tensor keys = windows ? scratch_new(b, threads, round_up(keys_size(&a, windows->longest), 16))
				     : scratch_new(b, heads, keys_size(&a, k.rows));
	if (backend_ok(b)) {
		if (windows)
			attend_windows(threads, &a, y, q, k, v, heads, windows, keys, work);
		else
			attend_all(threads, &a, y, q, k, v, heads, keys.data, work);
	}
	scratch_release(b, mark);
}
