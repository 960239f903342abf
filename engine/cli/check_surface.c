/* check_surface.c - compare an extracted mesh with the expected one. In f32 every vertex, attribute and face is the
 * same. In half precision a distance of nearly zero may change its sign and with it the numbering: there a vertex is
 * compared with the nearest one of the other mesh. Used by check_modules.c and check_files.c. */
#include "check_cases.h"

#include <math.h>
#include <stdlib.h>

/* What half precision may do to a mesh of a case: shares of its vertices and faces, parts of its mean edge, and what a
 * sampling run may lose in its attributes. */
static const double MAX_SHARE = 0.005, NEAR_EDGES = 0.1, MAX_ATTRIBUTE_L2 = 0.005;

static double distance(const float *a, const float *b)
{
	double sum = 0;
	for (int i = 0; i < 3; i++)
		sum += pow((double)a[i] - (double)b[i], 2);
	return sqrt(sum);
}

/* The row of the [n, 3] vertices that lies nearest. All are looked at: these meshes have some thousand. */
static int64_t nearest(const float *point, const float *vertices, int64_t n)
{
	int64_t best = 0;
	float least = INFINITY;
	for (int64_t i = 0; i < n; i++) {
		float dx = vertices[3 * i] - point[0], dy = vertices[3 * i + 1] - point[1],
		      dz = vertices[3 * i + 2] - point[2], d = dx * dx + dy * dy + dz * dz;
		if (d < least) {
			least = d;
			best = i;
		}
	}
	return best;
}

/* How many of a have no vertex of b within `near`; match (may be NULL) gets those that have, -1 for the others. */
static int64_t count_strays(const float *a, int64_t n, const float *b, int64_t m, double near, int64_t *match)
{
	int64_t strays = 0;
	for (int64_t i = 0; i < n; i++) {
		int64_t j = nearest(a + 3 * i, b, m);
		bool stray = !(distance(a + 3 * i, b + 3 * j) <= near);
		strays += stray;
		if (match)
			match[i] = stray ? -1 : j;
	}
	return strays;
}

static double mean_edge(const struct surface *s)
{
	double sum = 0;
	for (int64_t i = 0; i < 3 * s->n_faces; i++)
		sum += distance(s->vertices + 3 * s->faces[i], s->vertices + 3 * s->faces[i / 3 * 3 + (i + 1) % 3]);
	return s->n_faces ? sum / (3 * (double)s->n_faces) : 0;
}

static void compare_attributes(
	struct golden *g, const struct surface *s, const float *wanted, const int64_t *match, int64_t n)
{
	double error = 0, size = 0;
	for (int64_t i = 0; i < 6 * n; i++) {
		if (match[i / 6] < 0)
			continue;
		error += pow((double)s->attrs[6 * match[i / 6] + i % 6] - (double)wanted[i], 2);
		size += pow((double)wanted[i], 2);
	}
	double l2 = sqrt(error / size), gate = MAX_ATTRIBUTE_L2 * g->comparison->half;
	golden_verdict(g, "vertex_attrs", l2 <= gate, "L2 %.1e between nearest vertices (gate %g)", l2, gate);
}

static void check_nearly(struct golden *g, const struct surface *s)
{
	const struct st_tensor *vertices = golden_find(g, "vertices"), *faces = golden_find(g, "faces"),
			       *attrs = golden_find(g, "vertex_attrs");
	int64_t n = vertices ? vertices->count / 3 : 0, n_faces = faces ? faces->count / 3 : 0;
	float *wanted = malloc((size_t)n * 9 * sizeof *wanted + 1);
	int64_t *match = malloc((size_t)n * sizeof *match + 1);
	if (!wanted || !match || !n || !n_faces || !s->n_vertices) {
		golden_verdict(g, "vertices", false, "no mesh to compare");
		free(wanted);
		free(match);
		return;
	}
	double near = NEAR_EDGES * mean_edge(s), share = MAX_SHARE * g->comparison->half;
	st_read_f32(wanted, vertices);
	int64_t lost = count_strays(wanted, n, s->vertices, s->n_vertices, near, match),
		added = count_strays(s->vertices, s->n_vertices, wanted, n, near, NULL);
	golden_verdict(g, "vertices", (double)(lost + added) <= share * (double)(n + s->n_vertices),
		"%lld of %lld stray, %lld of ours (gate %g of all)", (long long)lost, (long long)n, (long long)added,
		share);
	golden_verdict(g, "faces", fabs((double)(s->n_faces - n_faces)) <= share * (double)n_faces,
		"%lld, wanted %lld (gate %g of all)", (long long)s->n_faces, (long long)n_faces, share);
	if (attrs && s->attrs && attrs->count == 6 * n) {
		st_read_f32(wanted + 3 * n, attrs);
		compare_attributes(g, s, wanted + 3 * n, match, n);
	}
	free(wanted);
	free(match);
}

void check_surface(struct golden *g, const struct surface *s)
{
	if (g->comparison->half) {
		check_nearly(g, s);
		return;
	}
	golden_matrix(g, "vertices", s->vertices, s->n_vertices, 3);
	golden_integers(g, "faces", s->faces, s->n_faces, 3);
	if (s->attrs)
		golden_matrix(g, "vertex_attrs", s->attrs, s->n_vertices, 6);
}
