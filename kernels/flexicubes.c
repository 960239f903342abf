/* flexicubes.c - dual surface extraction over active cubes, with nothing dense.
 * Behind op_extract of the CPU backends. Source: FlexiCubes (Shen et al. 2023, arXiv 2308.05371) as TRELLIS uses it;
 * numbering and order of operations: engine/MODEL.md "Mesh extraction".
 *
 * Everything is a sorted list of grid keys (x S + y) S + z, S = R + 1 grid vertices a side, and neighbours are found by
 * walking such lists side by side:
 *
 *   cubes [n]  ->  touched grid vertices (8-way merge)  ->  crossing edges (6 pointers that only move forward)
 *              ->  surface cubes (sort of the edges' four cubes)  ->  dual vertices  ->  quads, two triangles each
 *
 * A surface cube need not be active: beside an active one it gets weights 0, and vertices that no active cube touches
 * have sdf 1, deform 0 and colour 0. Sums run in the official order, in float32. */
#include "flexicubes.h"
#include "flexicubes_tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SDF = 0, DEFORM = 8, WEIGHTS = 32, COLOR = 53, COLS_PLAIN = 53, COLS_COLOR = 101, N_COLORS = 6, N_WEIGHTS = 21 };
enum { BETA = 0, ALPHA = 12, GAMMA = 20 }; /* within the weights */

#define WEIGHT_SCALE 0.99f
#define OUTSIDE_SDF 1.0f

struct pair {
	int64_t key;
	int32_t value;
};

/* A grid edge with one end inside. Sorted by (first end, second end). */
struct edge {
	int64_t lower;	/* key of the end nearer the origin */
	int32_t end[2]; /* touched vertices in the order of fc_edge_corners, -1: not touched */
	uint8_t axis;
	bool first_outside;
	int32_t cube[4]; /* surface cubes around it in cube order, -1: outside of the grid */
};

/* A cube with corners on both sides. Sorted by key. */
struct cube {
	int64_t key;
	const float *weights;	/* [21] raw, NULL: not active */
	int32_t edge[FC_EDGES]; /* crossing edges, -1: does not cross */
	int32_t first_vertex;
	uint8_t plain_case, case_id; /* before and after ambiguity resolution */
};

struct extraction {
	int64_t resolution, stride[3];
	bool has_color;
	struct fc_tables tables;

	/* Where raw values come from: rows of network output, or a dense grid (touch is then NULL). */
	const float *features;
	int64_t cols;
	const float *grid_deform, *grid_weights, *grid_colors;

	int64_t n_active;
	struct pair *active; /* key, row; ascending */

	int64_t n_corners; /* touched grid vertices, ascending */
	int64_t *corner_key;
	int32_t (*touch)[8]; /* row * 8 + corner of the cubes that touch it, by row; -1: fewer */
	float *sdf;
	float (*position)[3]; /* of those on crossing edges; with a grid, of all */
	float (*color)[N_COLORS];

	int64_t n_edges;
	struct edge *edges;

	int64_t n_cubes;
	struct cube *cubes;
};

static void *take(int64_t count, size_t size)
{
	return calloc(count > 0 ? (size_t)count : 1, size);
}

static bool no_memory(struct error *err, int64_t count, const char *what)
{
	return error_set(err, "mesh extraction: no memory for %lld %s", (long long)count, what);
}

static void extraction_finish(struct extraction *x)
{
	free(x->cubes);
	free(x->edges);
	free(x->color);
	free(x->position);
	free(x->sdf);
	free(x->touch);
	free(x->corner_key);
	free(x->active);
}

/* Stable radix sort by key, 0 <= key <= max_key. */
static bool sort_pairs(struct pair *pairs, int64_t n, int64_t max_key)
{
	enum { BITS = 11, BUCKETS = 1 << BITS };
	struct pair *other = take(n, sizeof *other), *from = pairs, *to = other;
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

static void key_to_xyz(const struct extraction *x, int64_t key, int64_t xyz[3])
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
static bool sort_cubes(struct extraction *x, const int32_t *coords, int64_t n, struct error *err)
{
	x->n_active = n;
	x->active = take(n, sizeof *x->active);
	if (!x->active)
		return no_memory(err, n, "cubes");
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
		return no_memory(err, n, "cubes");
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
static float corner_mean(const struct extraction *x, int64_t v, int64_t column, int width, int c, float bias)
{
	const int32_t *touch = x->touch[v];
	float sum = 0;
	int count = 0;
	for (; count < 8 && touch[count] >= 0; count++)
		sum += x->features[(touch[count] >> 3) * x->cols + column + (touch[count] & 7) * width + c] + bias;
	return sum / (float)count;
}

static bool corners_from_features(struct extraction *x, struct error *err)
{
	int64_t n = x->n_corners = merge_corners(x, NULL, NULL);
	x->corner_key = take(n, sizeof *x->corner_key);
	x->touch = take(n, sizeof *x->touch);
	x->sdf = take(n, sizeof *x->sdf);
	if (!x->corner_key || !x->touch || !x->sdf)
		return no_memory(err, n, "grid vertices");
	merge_corners(x, x->corner_key, x->touch);
	const float bias = (float)(-1.0 / (double)x->resolution);
#pragma omp parallel for schedule(static)
	for (int64_t v = 0; v < n; v++)
		x->sdf[v] = corner_mean(x, v, SDF, 1, 0, bias);
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
		key_to_xyz(x, key, xyz);
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

static bool find_edges(struct extraction *x, struct error *err)
{
	static const uint8_t rank[3] = {2, 0, 1}; /* by second end: -y, +z, +x */
	int64_t n = x->n_edges = collect_edges(x, NULL);
	struct edge *unsorted = take(n, sizeof *unsorted);
	struct pair *order = take(n, sizeof *order);
	x->edges = take(n, sizeof *x->edges);
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
	return ok || no_memory(err, n, "edges");
}

/* Keys of the cubes around an edge in cube order; returns a mask of those inside the grid. */
static int cubes_around(const struct extraction *x, const struct edge *e, int64_t key[4])
{
	int b = e->axis == 0 ? 1 : 0, c = e->axis == 2 ? 1 : 2, mask = 0;
	int64_t xyz[3];
	key_to_xyz(x, e->lower, xyz);
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
			key_to_xyz(x, c->key, xyz);
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

static bool find_cubes(struct extraction *x, struct error *err)
{
	int64_t n = 0, key[4];
	struct pair *items = take(4 * x->n_edges, sizeof *items);
	if (!items)
		return no_memory(err, 4 * x->n_edges, "cubes");
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
	x->cubes = take(x->n_cubes, sizeof *x->cubes);
	ok = ok && x->cubes;
	if (ok)
		group_cubes(x, items, n);
	free(items);
	return ok || no_memory(err, x->n_cubes, "surface cubes");
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

/* Case ids; two ambiguous cubes across the ambiguous face of one of them turn that one into its complement. */
static void classify_cubes(struct extraction *x)
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
		key_to_xyz(x, c->key, xyz);
		if (xyz[axis] + step < 0 || xyz[axis] + step >= x->resolution)
			continue;
		const struct cube *other = cube_at(x, c->key + step * x->stride[axis]);
		if (other && x->tables.cases[other->plain_case].ambiguous)
			c->case_id = 255 - c->plain_case;
	}
}

/* Dual vertices are numbered cubes with one first, then those with two, and so on. Returns how many there are. */
static int64_t number_vertices(struct extraction *x)
{
	int64_t n = 0;
	for (int duals = 1; duals <= FC_MAX_DUALS; duals++)
		for (int64_t i = 0; i < x->n_cubes; i++)
			if (x->tables.cases[x->cubes[i].case_id].n_duals == duals) {
				x->cubes[i].first_vertex = (int32_t)n;
				n += duals;
			}
	return n;
}

static float sigmoid(float v)
{
	return 1.0f / (1.0f + expf(-v));
}

static float grid_position(const struct extraction *x, int64_t i, float deform)
{
	const float reach = (float)((1.0 - 1e-8) / (2.0 * (double)x->resolution));
	return (float)i / (float)x->resolution - 0.5f + reach * tanhf(deform);
}

static void place_corner(struct extraction *x, int64_t v)
{
	int64_t xyz[3];
	key_to_xyz(x, x->corner_key[v], xyz);
	for (int a = 0; a < 3; a++) {
		float deform = x->touch ? corner_mean(x, v, DEFORM, 3, a, 0) : x->grid_deform[3 * v + a];
		x->position[v][a] = grid_position(x, xyz[a], deform);
	}
	for (int c = 0; x->has_color && c < N_COLORS; c++)
		x->color[v][c] =
			sigmoid(x->touch ? corner_mean(x, v, COLOR, N_COLORS, c, 0) : x->grid_colors[N_COLORS * v + c]);
}

/* Positions and colours of the touched vertices on crossing edges, or of all. */
static bool place_corners(struct extraction *x, bool all, struct error *err)
{
	int64_t n = x->n_corners;
	uint8_t *used = take(n, 1);
	x->position = take(n, sizeof *x->position);
	x->color = take(x->has_color ? n : 0, sizeof *x->color);
	bool ok = used && x->position && x->color;
	if (ok) {
		memset(used, all, (size_t)n);
		for (int64_t e = 0; e < x->n_edges; e++)
			for (int i = 0; i < 2; i++)
				if (x->edges[e].end[i] >= 0)
					used[x->edges[e].end[i]] = 1;
#pragma omp parallel for schedule(static)
		for (int64_t v = 0; v < n; v++)
			if (used[v])
				place_corner(x, v);
	}
	free(used);
	return ok || no_memory(err, n, "grid vertices");
}

/* What an end of an edge carries: position 3, colour 6, sdf. */
static void edge_end(const struct extraction *x, const struct edge *e, int i, float value[3 + N_COLORS], float *sdf)
{
	int32_t v = e->end[i];
	if (v >= 0) {
		memcpy(value, x->position[v], 3 * sizeof *value);
		if (x->has_color)
			memcpy(value + 3, x->color[v], N_COLORS * sizeof *value);
		*sdf = x->sdf[v];
		return;
	}
	int64_t xyz[3];
	bool is_upper = (e->axis == 1) == (i == 0);
	key_to_xyz(x, e->lower + (is_upper ? x->stride[e->axis] : 0), xyz);
	for (int a = 0; a < 3; a++)
		value[a] = grid_position(x, xyz[a], 0);
	for (int c = 0; c < N_COLORS; c++)
		value[3 + c] = sigmoid(0);
	*sdf = OUTSIDE_SDF;
}

/* The beta-weighted mean of the points where the cube's own alphas put the surface on its edges. */
static void place_duals(const struct extraction *x, const struct cube *c, float *vertices, float *attrs)
{
	const struct fc_case *kase = &x->tables.cases[c->case_id];
	int width = x->has_color ? 3 + N_COLORS : 3;
	for (int d = 0; d < kase->n_duals; d++) {
		float sum[3 + N_COLORS] = {0}, beta_sum = 0;
		for (int e = 0; e < FC_EDGES; e++) {
			if (!(kase->edges[d] >> e & 1))
				continue;
			float p[2][3 + N_COLORS], s[2], beta = 1;
			for (int i = 0; i < 2; i++) {
				edge_end(x, &x->edges[c->edge[e]], i, p[i], &s[i]);
				if (c->weights)
					s[i] *= tanhf(c->weights[ALPHA + fc_edge_corners[e][i]]) * WEIGHT_SCALE + 1.0f;
			}
			if (c->weights)
				beta = tanhf(c->weights[BETA + e]) * WEIGHT_SCALE + 1.0f;
			float denominator = s[1] - s[0];
			for (int k = 0; k < width; k++)
				sum[k] += (p[0][k] * s[1] + p[1][k] * -s[0]) / denominator * beta;
			beta_sum += beta;
		}
		int64_t v = c->first_vertex + d;
		for (int k = 0; k < 3; k++)
			vertices[3 * v + k] = sum[k] / beta_sum;
		for (int k = 3; k < width; k++)
			attrs[N_COLORS * v + k - 3] = sum[k] / beta_sum;
	}
}

static float gamma_of(const struct cube *c)
{
	return sigmoid(c->weights ? c->weights[GAMMA] : 0) * WEIGHT_SCALE + (float)((1 - 0.99) / 2);
}

/* The two triangles of the quad around an edge that four cubes share. */
static void write_quad(const struct extraction *x, int64_t edge, int32_t faces[6])
{
	static const uint8_t outward[2][4] = {{2, 3, 1, 0}, {0, 1, 3, 2}};
	static const uint8_t split[2][6] = {{0, 1, 3, 3, 1, 2}, {0, 1, 2, 0, 2, 3}};
	const struct edge *e = &x->edges[edge];
	int32_t quad[4];
	float gamma[4];
	for (int i = 0; i < 4; i++) {
		const struct cube *c = &x->cubes[e->cube[outward[e->first_outside][i]]];
		int place = 0;
		while (c->edge[place] != edge)
			place++;
		quad[i] = c->first_vertex + x->tables.cases[c->case_id].dual_of_edge[place];
		gamma[i] = gamma_of(c);
	}
	bool first = gamma[0] * gamma[2] > gamma[1] * gamma[3];
	for (int i = 0; i < 6; i++)
		faces[i] = quad[split[first][i]];
}

static bool has_quad(const struct edge *e)
{
	return e->cube[0] >= 0 && e->cube[1] >= 0 && e->cube[2] >= 0 && e->cube[3] >= 0;
}

/* Quads of edges whose first end is outside come first, then the others. */
static void write_faces(const struct extraction *x, struct surface *s)
{
	int64_t n = 0;
	for (int first_outside = 1; first_outside >= 0; first_outside--)
		for (int64_t i = 0; i < x->n_edges; i++) {
			const struct edge *e = &x->edges[i];
			if (e->first_outside != first_outside || !has_quad(e))
				continue;
			write_quad(x, i, s->faces + 3 * n);
			s->is_inner[n] = s->is_inner[n + 1] = e->end[0] < 0 || e->end[1] < 0;
			n += 2;
		}
}

static bool write_surface(struct extraction *x, struct surface *out, struct error *err)
{
	struct surface s = {.n_vertices = number_vertices(x)};
	for (int64_t e = 0; e < x->n_edges; e++)
		s.n_faces += has_quad(&x->edges[e]) ? 2 : 0;
	s.vertices = take(3 * s.n_vertices, sizeof *s.vertices);
	s.attrs = x->has_color ? take(N_COLORS * s.n_vertices, sizeof *s.attrs) : NULL;
	s.faces = take(3 * s.n_faces, sizeof *s.faces);
	s.is_inner = take(s.n_faces, 1);
	if (!s.vertices || (x->has_color && !s.attrs) || !s.faces || !s.is_inner) {
		surface_finish(&s);
		return no_memory(err, s.n_faces, "faces");
	}
#pragma omp parallel for schedule(static)
	for (int64_t i = 0; i < x->n_cubes; i++)
		place_duals(x, &x->cubes[i], s.vertices, s.attrs);
	write_faces(x, &s);
	*out = s;
	return true;
}

static void extraction_init(struct extraction *x, int64_t resolution, bool has_color)
{
	int64_t side = resolution + 1;
	*x = (struct extraction){.resolution = resolution, .stride = {side * side, side, 1}, .has_color = has_color};
	fc_tables_init(&x->tables);
}

bool flexicubes_from_features(struct surface *s, const float *features, const int32_t *coords, int64_t n,
	int64_t resolution, bool has_color, struct error *err)
{
	/* 2^24 cubes have under 2^27 vertices and 3 * 2^27 edges: every index, an edge's times four, fits 32 bits. */
	if (n > INT64_C(1) << 24 || resolution > INT64_C(1) << 19)
		return error_set(err, "mesh extraction: %lld cubes at resolution %lld are too many", (long long)n,
			(long long)resolution);
	struct extraction x;
	extraction_init(&x, resolution, has_color);
	x.features = features;
	x.cols = has_color ? COLS_COLOR : COLS_PLAIN;
	bool ok = sort_cubes(&x, coords, n, err) && corners_from_features(&x, err) && find_edges(&x, err) &&
		  find_cubes(&x, err) && place_corners(&x, false, err);
	if (ok) {
		classify_cubes(&x);
		ok = write_surface(&x, s, err);
	}
	extraction_finish(&x);
	return ok;
}

static bool copy_case_ids(const struct extraction *x, int32_t **case_ids, struct error *err)
{
	*case_ids = take(x->n_cubes, sizeof **case_ids);
	if (!*case_ids)
		return no_memory(err, x->n_cubes, "case ids");
	for (int64_t i = 0; i < x->n_cubes; i++)
		(*case_ids)[i] = x->cubes[i].case_id;
	return true;
}

bool flexicubes_from_grid(struct surface *s, const float *sdf, const float *deform, const float *weights,
	const float *colors, int64_t resolution, float *positions, int32_t **case_ids, int64_t *n_cases,
	struct error *err)
{
	struct extraction x;
	int32_t *ids = NULL;
	extraction_init(&x, resolution, colors != NULL);
	x.grid_deform = deform;
	x.grid_weights = weights;
	x.grid_colors = colors;
	x.n_corners = x.stride[0] * (resolution + 1);
	x.corner_key = take(x.n_corners, sizeof *x.corner_key);
	x.sdf = take(x.n_corners, sizeof *x.sdf);
	bool ok = (x.corner_key && x.sdf) || no_memory(err, x.n_corners, "grid vertices");
	for (int64_t v = 0; ok && v < x.n_corners; v++) {
		x.corner_key[v] = v;
		x.sdf[v] = sdf[v];
	}
	ok = ok && find_edges(&x, err) && find_cubes(&x, err) && place_corners(&x, positions != NULL, err);
	if (ok) {
		classify_cubes(&x);
		ok = (!case_ids || copy_case_ids(&x, &ids, err)) && write_surface(&x, s, err);
	}
	if (ok && positions)
		memcpy(positions, x.position, (size_t)x.n_corners * sizeof *x.position);
	if (ok && case_ids) {
		*case_ids = ids;
		*n_cases = x.n_cubes;
		ids = NULL;
	}
	free(ids);
	extraction_finish(&x);
	return ok;
}
