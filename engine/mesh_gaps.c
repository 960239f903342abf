/* mesh_gaps.c - close the small gaps that leaving out the inner shell opens.
 * A step of mesh_from_surface (mesh.c).
 *
 * The border of a mesh is what is left of its half-edges when those that run both ways cancel: a sum of closed walks,
 * cut here into loops that meet no vertex twice. A loop is filled with the triangulation of least area (dynamic
 * programming, O(n^3); Barequet and Sharir 1995), which avoids edges that the mesh already has. Of a long loop ears are
 * cut off before, always at the shortest chord, which sews cracks and smooths a jagged border. Loops are found one after another
 * and filled side by side: a filling looks at the edges of the mesh as it was, not at other fillings. */
#include "mesh_clean.h"
#include "threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool half_edges_init(struct half_edges *h, const struct trellis_mesh *m, struct error *err)
{
	h->first = calloc((size_t)m->n_vertices + 2, sizeof *h->first);
	h->to = malloc(((size_t)m->n_faces * 3 + 1) * sizeof *h->to);
	if (!h->first || !h->to) {
		half_edges_finish(h);
		return mesh_no_memory(m, err);
	}
	/* Counting sort; first[v + 1] is the write position of v until all are in. */
	for (int64_t i = 0; i < 3 * m->n_faces; i++)
		h->first[m->faces[i] + 2]++;
	for (int64_t v = 0; v < m->n_vertices; v++)
		h->first[v + 2] += h->first[v + 1];
	for (int64_t f = 0; f < m->n_faces; f++)
		for (int i = 0; i < 3; i++)
			h->to[h->first[m->faces[3 * f + i] + 1]++] = m->faces[3 * f + (i == 2 ? 0 : i + 1)];
	return true;
}

void half_edges_finish(struct half_edges *h)
{
	free(h->to);
	free(h->first);
	*h = (struct half_edges){0};
}

int half_edges_count(const struct half_edges *h, int32_t a, int32_t b)
{
	int count = 0;
	for (int64_t i = h->first[a]; i < h->first[a + 1]; i++)
		count += h->to[i] == b;
	return count;
}

static bool half_edges_copy(
	struct half_edges *copy, const struct half_edges *h, const struct trellis_mesh *m, struct error *err)
{
	size_t first_size = ((size_t)m->n_vertices + 2) * sizeof *h->first,
	       to_size = (size_t)m->n_faces * 3 * sizeof *h->to;
	copy->first = malloc(first_size);
	copy->to = malloc(to_size + 1);
	if (!copy->first || !copy->to)
		return mesh_no_memory(m, err);
	memcpy(copy->first, h->first, first_size);
	memcpy(copy->to, h->to, to_size);
	return true;
}

/* Reduce h to the border: of the half-edges a -> b as many as outnumber b -> a. Half-edges that go become -1. */
static void keep_border(struct half_edges *border, const struct half_edges *all, int64_t n_vertices)
{
#pragma omp parallel for schedule(dynamic, 4096) num_threads(threads_now())
	for (int32_t a = 0; a < n_vertices; a++)
		for (int64_t i = all->first[a]; i < all->first[a + 1]; i++) {
			int32_t b = all->to[i];
			int before = 0;
			for (int64_t j = all->first[a]; j < i; j++)
				before += all->to[j] == b;
			border->to[i] = before < half_edges_count(all, b, a) ? -1 : b;
		}
}

/* Loops of at most this many edges are filled at once. */
#define EXACT_EDGES 96

/* The loops found, and the faces that fill them: of each loop of n vertices up to n - 2. */
struct loops {
	int32_t *vertices; /* [first[n]] against the border's direction, so that the filling runs against it */
	int64_t *first;	   /* [n + 1] */
	int64_t n;
};

struct walker {
	const struct half_edges *all;
	struct half_edges border;
	struct loops loops;
	int32_t *place; /* [n_vertices] position on the walk, -1: not on it */
	int32_t *walk;
};

/* What filling one loop works with. */
struct filler {
	const struct trellis_mesh *m;
	const struct half_edges *all;
	int32_t *faces;		   /* goes on where the next face is to be */
	double at[EXACT_EDGES][3]; /* where the loop's vertices are */
	double cost[EXACT_EDGES][EXACT_EDGES];
	int16_t middle[EXACT_EDGES][EXACT_EDGES];
};

static double triangle_area(const struct trellis_mesh *m, int32_t a, int32_t b, int32_t c)
{
	int32_t corners[3] = {a, b, c};
	const struct trellis_mesh one = {.vertices = m->vertices, .faces = corners};
	double cross[3];
	mesh_face_cross(&one, 0, cross);
	return 0.5 * sqrt(cross[0] * cross[0] + cross[1] * cross[1] + cross[2] * cross[2]);
}

/* A triangle without area is left out: its three corners are in line, and nothing shows. */
static void add_face(struct filler *g, int32_t a, int32_t b, int32_t c)
{
	if (triangle_area(g->m, a, b, c) < DEGENERATE_AREA)
		return;
	*g->faces++ = a;
	*g->faces++ = b;
	*g->faces++ = c;
}

static void add_faces(struct filler *g, const int32_t *loop, int i, int j)
{
	if (j - i < 2)
		return;
	int k = g->middle[i][j];
	add_face(g, loop[i], loop[k], loop[j]);
	add_faces(g, loop, i, k);
	add_faces(g, loop, k, j);
}

static bool has_edge(const struct filler *g, int32_t a, int32_t b)
{
	return half_edges_count(g->all, a, b) || half_edges_count(g->all, b, a);
}

/* triangle_area of three vertices of the loop: the innermost loop of all. */
static double loop_area(const struct filler *g, int i, int k, int j)
{
	const double *a = g->at[i], *b = g->at[k], *c = g->at[j];
	double u[3] = {b[0] - a[0], b[1] - a[1], b[2] - a[2]}, v[3] = {c[0] - a[0], c[1] - a[1], c[2] - a[2]};
	double x = u[1] * v[2] - u[2] * v[1], y = u[2] * v[0] - u[0] * v[2], z = u[0] * v[1] - u[1] * v[0];
	return 0.5 * sqrt(x * x + y * y + z * z);
}

/* cost[i][j]: least area over the polygon loop[i .. j]. An edge that the mesh already has costs more than any area. */
static void fill_loop(struct filler *g, const int32_t *loop, int n)
{
	const double taken = 1e3;
	for (int i = 0; i < n; i++)
		for (int axis = 0; axis < 3; axis++)
			g->at[i][axis] = (double)g->m->vertices[3 * (int64_t)loop[i] + axis];
	for (int i = 0; i + 1 < n; i++)
		g->cost[i][i + 1] = 0;
	for (int span = 2; span < n; span++)
		for (int i = 0; i + span < n; i++) {
			int j = i + span;
			double best = INFINITY;
			for (int k = i + 1; k < j; k++) {
				double cost = g->cost[i][k] + g->cost[k][j];
				if (cost < best) /* else no area could make it the least */
					cost += loop_area(g, i, k, j);
				if (cost < best) {
					best = cost;
					g->middle[i][j] = (int16_t)k;
				}
			}
			bool is_border = i == 0 && j == n - 1;
			if (!is_border && has_edge(g, loop[i], loop[j]))
				best += taken;
			g->cost[i][j] = best;
		}
	add_faces(g, loop, 0, n - 1);
}

static double chord_length(const struct filler *g, int32_t a, int32_t b)
{
	const float *p = g->m->vertices + 3 * (int64_t)a, *q = g->m->vertices + 3 * (int64_t)b;
	double x = (double)p[0] - q[0], y = (double)p[1] - q[1], z = (double)p[2] - q[2];
	return sqrt(x * x + y * y + z * z);
}

/* Cut the corner with the shortest chord off the loop of n vertices. */
static void cut_ear(struct filler *g, int32_t *loop, int n)
{
	double shortest = INFINITY;
	int ear = 0;
	for (int i = 0; i < n; i++) {
		int32_t before = loop[i ? i - 1 : n - 1], after = loop[i + 1 < n ? i + 1 : 0];
		double length = chord_length(g, before, after);
		if (length < shortest && has_edge(g, before, after))
			length += 1e3; /* last choice: the mesh has this edge already */
		if (length < shortest) {
			shortest = length;
			ear = i;
		}
	}
	add_face(g, loop[(ear + n - 1) % n], loop[ear], loop[(ear + 1) % n]);
	memmove(loop + ear, loop + ear + 1, (size_t)(n - 1 - ear) * sizeof *loop);
}

static void close_loop(struct filler *g, int32_t *loop, int n)
{
	for (; n > EXACT_EDGES; n--)
		cut_ear(g, loop, n);
	fill_loop(g, loop, n);
}

static void note_loop(struct walker *w, const int32_t *loop, int64_t n)
{
	struct loops *l = &w->loops;
	if (n < 3 || n > GAP_EDGES)
		return;
	for (int64_t i = 0; i < n; i++)
		l->vertices[l->first[l->n] + i] = loop[n - 1 - i];
	l->first[l->n + 1] = l->first[l->n] + n;
	l->n++;
}

static int32_t take_border_edge(struct walker *w, int32_t from)
{
	for (int64_t i = w->border.first[from]; i < w->border.first[from + 1]; i++)
		if (w->border.to[i] >= 0) {
			int32_t to = w->border.to[i];
			w->border.to[i] = -1;
			return to;
		}
	return -1;
}

/* Walk along the border from a vertex until nothing is left there; whenever the walk meets itself, a loop falls off. */
static void find_loops_from(struct walker *w, int32_t start)
{
	int64_t n = 0;
	for (int32_t at = start, to;; at = to) {
		w->place[at] = (int32_t)n;
		w->walk[n++] = at;
		to = take_border_edge(w, at);
		if (to < 0)
			break;
		if (w->place[to] >= 0) {
			int64_t from = w->place[to];
			note_loop(w, w->walk + from, n - from);
			for (; n > from; n--)
				w->place[w->walk[n - 1]] = -1;
		}
	}
	for (; n > 0; n--)
		w->place[w->walk[n - 1]] = -1;
}

static bool find_loops(struct walker *w, const struct trellis_mesh *m, struct error *err)
{
	size_t n_vertices = (size_t)m->n_vertices, edges = (size_t)m->n_faces * 3; /* an edge is in one loop at most */
	w->place = malloc((n_vertices + 1) * sizeof *w->place);
	w->walk = malloc((n_vertices + 1) * sizeof *w->walk);
	w->loops.vertices = malloc((edges + 1) * sizeof *w->loops.vertices);
	w->loops.first = malloc((edges / 3 + 2) * sizeof *w->loops.first);
	if (!w->place || !w->walk || !w->loops.vertices || !w->loops.first)
		return mesh_no_memory(m, err);
	if (!half_edges_copy(&w->border, w->all, m, err))
		return false;
	memset(w->place, -1, n_vertices * sizeof *w->place);
	w->loops.first[0] = 0;
	keep_border(&w->border, w->all, m->n_vertices);
	for (int32_t v = 0; v < m->n_vertices; v++)
		find_loops_from(w, v);
	return true;
}

static void walker_finish(struct walker *w)
{
	half_edges_finish(&w->border);
	free(w->loops.vertices);
	free(w->loops.first);
	free(w->place);
	free(w->walk);
}

/* Fill all loops side by side, each into its own place after the mesh's faces; then close ranks. */
static bool fill_loops(struct trellis_mesh *m, const struct half_edges *all, struct loops *l, struct error *err)
{
	int64_t room = l->first[l->n]; /* of faces; two a loop stay over */
	int32_t *faces = realloc(m->faces, (size_t)(m->n_faces + room) * 3 * sizeof *faces + 1);
	int64_t *made = malloc((size_t)l->n * sizeof *made + 1);
	bool ok = faces && made;
	if (faces)
		m->faces = faces;
	if (ok) {
#pragma omp parallel num_threads(threads_now())
		{
			struct filler *g = malloc(sizeof *g);
#pragma omp for schedule(dynamic, 16)
			for (int64_t i = 0; i < l->n; i++) {
				int32_t *to = faces + 3 * (m->n_faces + l->first[i]);
				made[i] = -1;
				if (!g)
					continue;
				g->m = m;
				g->all = all;
				g->faces = to;
				close_loop(g, l->vertices + l->first[i], (int)(l->first[i + 1] - l->first[i]));
				made[i] = (g->faces - to) / 3;
			}
			free(g);
		}
	}
	int64_t n = m->n_faces;
	for (int64_t i = 0; ok && i < l->n; i++) {
		ok = made[i] >= 0;
		memmove(faces + 3 * n, faces + 3 * (m->n_faces + l->first[i]),
			(size_t)(ok ? made[i] : 0) * 3 * sizeof *faces);
		n += ok ? made[i] : 0;
	}
	free(made);
	if (!ok)
		return mesh_no_memory(m, err);
	m->n_faces = n;
	return true;
}

bool mesh_close_gaps(struct trellis_mesh *m, struct error *err)
{
	struct half_edges all;
	if (!half_edges_init(&all, m, err))
		return false;
	struct walker w = {.all = &all};
	bool ok = find_loops(&w, m, err) && fill_loops(m, &all, &w.loops, err);
	walker_finish(&w);
	half_edges_finish(&all);
	return ok;
}
