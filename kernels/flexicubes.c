/* flexicubes.c - dual surface extraction over active cubes, with nothing dense: dual vertices and faces.
 * Behind op_extract of the CPU backends. Source: FlexiCubes (Shen et al. 2023, arXiv 2308.05371) as TRELLIS uses it;
 * numbering and order of operations: engine/MODEL.md "Mesh extraction".
 *
 * flexicubes_lists.c finds the grid edges that cross the surface and the cubes around them. Here every such cube gets its
 * dual vertices, and every edge with four cubes a quad of two triangles. In float32, in the official order. */
#include "flexicubes.h"
#include "flexicubes_lists.h"
#include "threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_SCALE 0.99f
#define OUTSIDE_SDF 1.0f

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
	fc_key_to_xyz(x, x->corner_key[v], xyz);
	for (int a = 0; a < 3; a++) {
		float deform = x->touch ? fc_corner_mean(x, v, DEFORM, 3, a, 0) : x->grid_deform[3 * v + a];
		x->position[v][a] = grid_position(x, xyz[a], deform);
	}
	for (int c = 0; x->has_color && c < N_COLORS; c++)
		x->color[v][c] = sigmoid(
			x->touch ? fc_corner_mean(x, v, COLOR, N_COLORS, c, 0) : x->grid_colors[N_COLORS * v + c]);
}

/* Positions and colours of the touched vertices on crossing edges, or of all. */
static bool place_corners(struct extraction *x, bool all, struct error *err)
{
	int64_t n = x->n_corners;
	uint8_t *used = fc_take(n, 1);
	x->position = fc_take(n, sizeof *x->position);
	x->color = fc_take(x->has_color ? n : 0, sizeof *x->color);
	bool ok = used && x->position && x->color;
	if (ok) {
		memset(used, all, (size_t)n);
		for (int64_t e = 0; e < x->n_edges; e++)
			for (int i = 0; i < 2; i++)
				if (x->edges[e].end[i] >= 0)
					used[x->edges[e].end[i]] = 1;
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
		for (int64_t v = 0; v < n; v++)
			if (used[v])
				place_corner(x, v);
	}
	free(used);
	return ok || fc_no_memory(err, n, "grid vertices");
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
	fc_key_to_xyz(x, e->lower + (is_upper ? x->stride[e->axis] : 0), xyz);
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
	s.vertices = fc_take(3 * s.n_vertices, sizeof *s.vertices);
	s.attrs = x->has_color ? fc_take(N_COLORS * s.n_vertices, sizeof *s.attrs) : NULL;
	s.faces = fc_take(3 * s.n_faces, sizeof *s.faces);
	s.is_inner = fc_take(s.n_faces, 1);
	if (!s.vertices || (x->has_color && !s.attrs) || !s.faces || !s.is_inner) {
		surface_finish(&s);
		return fc_no_memory(err, s.n_faces, "faces");
	}
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
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
	bool ok = fc_sort_cubes(&x, coords, n, err) && fc_find_corners(&x, err) && fc_find_edges(&x, err) &&
		  fc_find_cubes(&x, err) && place_corners(&x, false, err);
	if (ok) {
		fc_classify_cubes(&x);
		ok = write_surface(&x, s, err);
	}
	extraction_finish(&x);
	return ok;
}

static bool copy_case_ids(const struct extraction *x, int32_t **case_ids, struct error *err)
{
	*case_ids = fc_take(x->n_cubes, sizeof **case_ids);
	if (!*case_ids)
		return fc_no_memory(err, x->n_cubes, "case ids");
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
	x.corner_key = fc_take(x.n_corners, sizeof *x.corner_key);
	x.sdf = fc_take(x.n_corners, sizeof *x.sdf);
	bool ok = (x.corner_key && x.sdf) || fc_no_memory(err, x.n_corners, "grid vertices");
	for (int64_t v = 0; ok && v < x.n_corners; v++) {
		x.corner_key[v] = v;
		x.sdf[v] = sdf[v];
	}
	ok = ok && fc_find_edges(&x, err) && fc_find_cubes(&x, err) && place_corners(&x, positions != NULL, err);
	if (ok) {
		fc_classify_cubes(&x);
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
