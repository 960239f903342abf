/* flexicubes_lists.c - from active cubes to crossing edges and surface cubes with their cases. Part of flexicubes.c.
 *
 *   cubes [n]  ->  touched grid vertices (8-way merge)  ->  crossing edges (6 pointers that only move forward)
 *              ->  surface cubes (sort of the edges' four cubes)
 *
 * A surface cube need not be active: beside an active one it gets weights 0, and vertices that no active cube touches
 * have sdf 1. Sums run in the official order, in float32. */
#include "flexicubes_lists.h"
#include "threads.h"

#include <stdlib.h>
#include <string.h>

void *fc_take(int64_t count, size_t size)
{
	return calloc(count > 0 ? (size_t)count : 1, size);
}

bool fc_no_memory(struct error *err, int64_t count, const char *what)
{
	return error_set(err, "mesh extraction: no memory for %lld %s", (long long)count, what);
}

/* Stable radix sort by key, 0 <= key <= max_key. */
static bool sort_pairs(struct pair *pairs, int64_t n, int64_t max_key)
{
	enum { BITS = 11, BUCKETS = 1 << BITS };
	struct pair *other = fc_take(n, sizeof *other), *from = pairs, *to = other;
	if (!other)
		return false;
	for (int shift = 0; shift < 63 && max_key >> shift; shift += BITS) {
		int64_t start[BUCKETS + 1] = {0};
		for (int64_t i = 0; i < n; i++)
			start[(from[i].key >> shift & (BUCKETS - 1)) + 1]++;
		for (int b = 0; b < BUCKETS; b++)
			start[b + 1] += start[b];
		for (int64_t i = 0; i < n; i++)
			to[start[from[i].key >> shift & (BUCKETS - 1)]++] = from[i];
		struct pair *swap = from;
		from = to;
		to = swap;
	}
	if (from != pairs)
		memcpy(pairs, from, (size_t)n * sizeof *pairs);
	free(other);
	return true;
}

void fc_key_to_xyz(const struct extraction *x, int64_t key, int64_t xyz[3])
{
	int64_t side = x->resolution + 1;
	xyz[0] = key / (side * side);
	xyz[1] = key / side % side;
	xyz[2] = key % side;
}

static int64_t corner_offset(const struct extraction *x, int k)
{
	return (k & 1) * x->stride[0] + (k >> 1 & 1) * x->stride[1] + (k >> 2 & 1) * x->stride[2];
}

/* active: the cubes by key. */
bool fc_sort_cubes(struct extraction *x, const int32_t *coords, int64_t n, struct error *err)
{
	x->n_active = n;
	x->active = fc_take(n, sizeof *x->active);
	if (!x->active)
		return fc_no_memory(err, n, "cubes");
	for (int64_t i = 0; i < n; i++) {
		const int32_t *c = coords + 3 * i;
		for (int a = 0; a < 3; a++)
			if (c[a] < 0 || c[a] >= x->resolution)
				return error_set(err,
					"mesh extraction: cube (%d, %d, %d) lies outside of the grid of %lld", c[0],
					c[1], c[2], (long long)x->resolution);
		x->active[i] = (struct pair){c[0] * x->stride[0] + c[1] * x->stride[1] + c[2], (int32_t)i};
	}
	if (!sort_pairs(x->active, n, x->stride[0] * (x->resolution + 1)))
		return fc_no_memory(err, n, "cubes");
	for (int64_t i = 1; i < n; i++)
		if (x->active[i].key == x->active[i - 1].key) {
			const int32_t *c = coords + 3 * (int64_t)x->active[i].value;
			return error_set(err, "mesh extraction: cube (%d, %d, %d) is listed twice", c[0], c[1], c[2]);
		}
	return true;
}

/* corner_key and touch: the k-th corners of the sorted cubes are a sorted list for each k; merge the eight lists.
 * Called first with NULL arrays to count. */
static int64_t merge_corners(const struct extraction *x, int64_t *corner_key, int32_t (*touch)[8])
{
	int64_t at[8] = {0}, offset[8], head[8], n = 0;
	for (int k = 0; k < 8; k++) {
		offset[k] = corner_offset(x, k);
		head[k] = x->n_active ? x->active[0].key + offset[k] : INT64_MAX;
	}
	for (;; n++) {
		int64_t key = INT64_MAX;
		for (int k = 0; k < 8; k++)
			key = head[k] < key ? head[k] : key;
		if (key == INT64_MAX)
			return n;
		int n_touch = 0;
		for (int k = 0; k < 8; k++) {
			if (head[k] != key)
				continue;
			if (touch) {
				int32_t value = x->active[at[k]].value * 8 + k;
				int slot = n_touch++;
				for (; slot > 0 && touch[n][slot - 1] > value; slot--)
					touch[n][slot] = touch[n][slot - 1];
				touch[n][slot] = value;
			}
			at[k]++;
			head[k] = at[k] < x->n_active ? x->active[at[k]].key + offset[k] : INT64_MAX;
		}
		if (touch) {
			corner_key[n] = key;
			for (; n_touch < 8; n_touch++)
				touch[n][n_touch] = -1;
		}
	}
}

/* Raw value c of an attribute `width` numbers wide at touched vertex v: the mean over the active cubes that touch it.
 */
float fc_corner_mean(const struct extraction *x, int64_t v, int64_t column, int width, int c, float bias)
{
	const int32_t *touch = x->touch[v];
	float sum = 0;
	int count = 0;
	for (; count < 8 && touch[count] >= 0; count++)
		sum += x->features[(touch[count] >> 3) * x->cols + column + (touch[count] & 7) * width + c] + bias;
	return sum / (float)count;
}

bool fc_find_corners(struct extraction *x, struct error *err)
{
	int64_t n = x->n_corners = merge_corners(x, NULL, NULL);
	x->corner_key = fc_take(n, sizeof *x->corner_key);
	x->touch = fc_take(n, sizeof *x->touch);
	x->sdf = fc_take(n, sizeof *x->sdf);
	if (!x->corner_key || !x->touch || !x->sdf)
		return fc_no_memory(err, n, "grid vertices");
	merge_corners(x, x->corner_key, x->touch);
	const float bias = (float)(-1.0 / (double)x->resolution);
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
	for (int64_t v = 0; v < n; v++)
		x->sdf[v] = fc_corner_mean(x, v, SDF, 1, 0, bias);
	return true;
}

static bool is_inside(const struct extraction *x, int32_t vertex)
{
	return vertex >= 0 && x->sdf[vertex] < 0;
}

/* The edge between inside vertex `from` and its neighbour `to` (-1: not touched) at step +-1 along axis. */
static struct edge edge_between(const struct extraction *x, int64_t from, int64_t to, int axis, int step)
{
	int64_t end[2] = {step > 0 ? from : to, step > 0 ? to : from}; /* lower, upper */
	int first = axis == 1;					       /* the y edges run from +y to -y */
	return (struct edge){
		.lower = x->corner_key[from] - (step < 0 ? x->stride[axis] : 0),
		.end = {(int32_t)end[first], (int32_t)end[!first]},
		.axis = (uint8_t)axis,
		.first_outside = end[first] != from,
	};
}

/* edges, unsorted: each is met once, from its inside end. Called first with NULL to count. */
static int64_t collect_edges(const struct extraction *x, struct edge *edges)
{
	int64_t ahead[3] = {0}, behind[3] = {0}, n = 0;
	for (int64_t v = 0; v < x->n_corners; v++) {
		if (!is_inside(x, (int32_t)v))
			continue;
		int64_t key = x->corner_key[v], xyz[3];
		fc_key_to_xyz(x, key, xyz);
		for (int side = 0; side < 6; side++) {
			int axis = side >> 1, step = side & 1 ? 1 : -1;
			if (xyz[axis] == (step > 0 ? x->resolution : 0))
				continue;
			int64_t wanted = key + step * x->stride[axis], *at = step > 0 ? &ahead[axis] : &behind[axis];
			while (*at < x->n_corners && x->corner_key[*at] < wanted)
				++*at;
			int64_t to = *at < x->n_corners && x->corner_key[*at] == wanted ? *at : -1;
			if (is_inside(x, (int32_t)to))
				continue;
			if (edges)
				edges[n] = edge_between(x, v, to, axis, step);
			n++;
		}
	}
	return n;
}

bool fc_find_edges(struct extraction *x, struct error *err)
{
	static const uint8_t rank[3] = {2, 0, 1}; /* by second end: -y, +z, +x */
	int64_t n = x->n_edges = collect_edges(x, NULL);
	struct edge *unsorted = fc_take(n, sizeof *unsorted);
	struct pair *order = fc_take(n, sizeof *order);
	x->edges = fc_take(n, sizeof *x->edges);
	bool ok = unsorted && order && x->edges;
	if (ok) {
		collect_edges(x, unsorted);
		for (int64_t i = 0; i < n; i++) {
			const struct edge *e = &unsorted[i];
			int64_t first = e->lower + (e->axis == 1 ? x->stride[1] : 0);
			order[i] = (struct pair){first * 3 + rank[e->axis], (int32_t)i};
		}
		ok = sort_pairs(order, n, 3 * x->stride[0] * (x->resolution + 1));
	}
	for (int64_t i = 0; ok && i < n; i++)
		x->edges[i] = unsorted[order[i].value];
	free(order);
	free(unsorted);
	return ok || fc_no_memory(err, n, "edges");
}

/* Keys of the cubes around an edge in cube order; returns a mask of those inside the grid. */
static int cubes_around(const struct extraction *x, const struct edge *e, int64_t key[4])
{
	int b = e->axis == 0 ? 1 : 0, c = e->axis == 2 ? 1 : 2, mask = 0;
	int64_t xyz[3];
	fc_key_to_xyz(x, e->lower, xyz);
	for (int s = 0; s < 4; s++) {
		int64_t in_b = xyz[b] - !(s >> 1), in_c = xyz[c] - !(s & 1);
		key[s] = e->lower - !(s >> 1) * x->stride[b] - !(s & 1) * x->stride[c];
		if (in_b >= 0 && in_b < x->resolution && in_c >= 0 && in_c < x->resolution)
			mask |= 1 << s;
	}
	return mask;
}

static int resolve_case(const struct extraction *x, const struct cube *c)
{
	unsigned crossing = 0;
	int e = 0;
	for (int i = 0; i < FC_EDGES; i++)
		if (c->edge[i] >= 0) {
			crossing |= 1u << i;
			e = i;
		}
	int case_id = x->tables.case_of_crossing[crossing];
	bool first_outside = !(case_id >> fc_edge_corners[e][0] & 1);
	return first_outside == x->edges[c->edge[e]].first_outside ? case_id : 255 - case_id;
}

/* Sorted (cube, edge * 4 + slot) -> cubes with their edges, edges with their cubes, weights by walking along active. */
static void group_cubes(struct extraction *x, const struct pair *items, int64_t n_items)
{
	/* The edge's place in the cube in slot s, by axis. */
	static const uint8_t place[3][4] = {{6, 4, 2, 0}, {10, 9, 11, 8}, {5, 1, 7, 3}};
	int64_t n = 0, active = 0;
	for (int64_t i = 0; i < n_items; i++) {
		if (i == 0 || items[i].key != items[i - 1].key) {
			struct cube *c = &x->cubes[n++];
			*c = (struct cube){.key = items[i].key};
			memset(c->edge, -1, sizeof c->edge);
			int64_t xyz[3];
			fc_key_to_xyz(x, c->key, xyz);
			while (active < x->n_active && x->active[active].key < c->key)
				active++;
			if (x->grid_weights)
				c->weights = x->grid_weights +
					     N_WEIGHTS * ((xyz[0] * x->resolution + xyz[1]) * x->resolution + xyz[2]);
			else if (active < x->n_active && x->active[active].key == c->key)
				c->weights = x->features + x->active[active].value * x->cols + WEIGHTS;
		}
		int32_t edge = items[i].value >> 2, slot = items[i].value & 3;
		x->edges[edge].cube[slot] = (int32_t)(n - 1);
		x->cubes[n - 1].edge[place[x->edges[edge].axis][slot]] = edge;
	}
}

bool fc_find_cubes(struct extraction *x, struct error *err)
{
	int64_t n = 0, key[4];
	struct pair *items = fc_take(4 * x->n_edges, sizeof *items);
	if (!items)
		return fc_no_memory(err, 4 * x->n_edges, "cubes");
	for (int64_t e = 0; e < x->n_edges; e++) {
		int mask = cubes_around(x, &x->edges[e], key);
		for (int s = 0; s < 4; s++) {
			x->edges[e].cube[s] = -1;
			if (mask >> s & 1)
				items[n++] = (struct pair){key[s], (int32_t)(e * 4 + s)};
		}
	}
	bool ok = sort_pairs(items, n, x->stride[0] * (x->resolution + 1));
	for (int64_t i = 0; i < n; i++)
		x->n_cubes += i == 0 || items[i].key != items[i - 1].key;
	x->cubes = fc_take(x->n_cubes, sizeof *x->cubes);
	ok = ok && x->cubes;
	if (ok)
		group_cubes(x, items, n);
	free(items);
	return ok || fc_no_memory(err, x->n_cubes, "surface cubes");
}

static const struct cube *cube_at(const struct extraction *x, int64_t key)
{
	int64_t low = 0, high = x->n_cubes;
	while (low < high) {
		int64_t middle = (low + high) / 2;
		if (x->cubes[middle].key < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low < x->n_cubes && x->cubes[low].key == key ? &x->cubes[low] : NULL;
}

void fc_classify_cubes(struct extraction *x)
{
	for (int64_t i = 0; i < x->n_cubes; i++)
		x->cubes[i].case_id = x->cubes[i].plain_case = (uint8_t)resolve_case(x, &x->cubes[i]);
	for (int64_t i = 0; i < x->n_cubes; i++) {
		struct cube *c = &x->cubes[i];
		int ambiguous = x->tables.cases[c->plain_case].ambiguous;
		if (!ambiguous)
			continue;
		int axis = abs(ambiguous) - 1, step = ambiguous > 0 ? 1 : -1;
		int64_t xyz[3];
		fc_key_to_xyz(x, c->key, xyz);
		if (xyz[axis] + step < 0 || xyz[axis] + step >= x->resolution)
			continue;
		const struct cube *other = cube_at(x, c->key + step * x->stride[axis]);
		if (other && x->tables.cases[other->plain_case].ambiguous)
			c->case_id = 255 - c->plain_case;
	}
}
