/* mesh_simplify.c - fewer triangles by edge collapse (meshoptimizer).
 * Called by mesh_from_surface and for other sizes of a mesh that is there. Collapses end in vertices that were there,
 * so that colours carry over as they are. */
#include "mesh.h"
#include "mesh_clean.h"
#include "threads.h"

#include <float.h>
#include <math.h>
#include <meshoptimizer.h>
#include <stdlib.h>
#include <string.h>

static bool check_keep(float keep, struct error *err)
{
	return (keep > 0 && keep <= 2e9f) ||
	       error_set(err, "simplify: wanted a share in (0, 1) or a number of triangles, got %g", (double)keep);
}

/* The library works on unsigned indices, as wide as ours. */
_Static_assert(sizeof(unsigned) == sizeof(int32_t), "indices are 32 bits wide");

/* Collapse edges of `faces` until `target` are left or no more goes; to may not overlap from. Returns how many are left. */
static int64_t collapse(int32_t *to, const int32_t *from, int64_t n, const float *vertices, int64_t n_vertices,
	int64_t target, unsigned options)
{
	size_t count = meshopt_simplify((unsigned *)to, (const unsigned *)from, (size_t)n * 3, vertices,
		(size_t)n_vertices, 3 * sizeof *vertices, (size_t)target * 3, FLT_MAX, options, NULL);
	return (int64_t)count / 3;
}

/* --- cells: parts of the mesh that are simplified side by side before the whole is --- */

/* Cells along each axis. They leave a good part of the work to the whole mesh, which alone sees where triangles are
 * needed most and what lies on seams between cells: CELLS_LEAVE times the triangles that are wanted, and not less than
 * CELLS_LEAST of all. With a share beyond CELLS_PAY, or few triangles, they would not pay. */
enum { CELLS = 4, ALL_CELLS = CELLS * CELLS * CELLS, CELLS_FROM = 50000 };
#define CELLS_LEAVE 1.5f
#define CELLS_LEAST 0.25f
#define CELLS_PAY 0.6f

struct cells {
	int32_t *faces;		      /* those of a cell in a row, in the mesh's order */
	int64_t first[ALL_CELLS + 1]; /* of each cell */
	int64_t left[ALL_CELLS];      /* triangles that stay */
};

/* The cell of the first corner. */
static int cell_of(const struct trellis_mesh *m, int64_t face, const float low[3], const float step[3])
{
	const float *p = m->vertices + 3 * (int64_t)m->faces[3 * face];
	int cell = 0;
	for (int a = 0; a < 3; a++) {
		int at = step[a] > 0 ? (int)((p[a] - low[a]) / step[a]) : 0;
		cell = cell * CELLS + (at < CELLS ? at : CELLS - 1);
	}
	return cell;
}

static bool sort_into_cells(struct cells *c, const struct trellis_mesh *m)
{
	float low[3], step[3];
	uint8_t *cell = malloc((size_t)m->n_faces);
	c->faces = malloc((size_t)m->n_faces * 3 * sizeof *c->faces);
	if (!cell || !c->faces) {
		free(cell);
		return false;
	}
	for (int a = 0; a < 3; a++) {
		float high = low[a] = m->vertices[a];
		for (int64_t v = 1; v < m->n_vertices; v++) {
			float value = m->vertices[3 * v + a];
			low[a] = value < low[a] ? value : low[a];
			high = value > high ? value : high;
		}
		step[a] = (high - low[a]) / CELLS;
	}
	int64_t at[ALL_CELLS] = {0};
	for (int64_t f = 0; f < m->n_faces; f++)
		at[cell[f] = (uint8_t)cell_of(m, f, low, step)]++;
	for (int i = 0; i < ALL_CELLS; i++) {
		c->first[i + 1] = c->first[i] + at[i];
		at[i] = c->first[i];
	}
	for (int64_t f = 0; f < m->n_faces; f++)
		memcpy(c->faces + 3 * at[cell[f]]++, m->faces + 3 * f, 3 * sizeof *m->faces);
	free(cell);
	return true;
}

/* One thread's room for a cell with numbers of its own for its vertices. */
struct cell_room {
	int32_t *number; /* [n_vertices of the mesh], -1 between cells */
	int32_t *global; /* and back */
	int32_t *faces, *result;
	float *vertices;
};

static bool cell_room_init(struct cell_room *r, int64_t n_vertices, int64_t n_faces)
{
	int64_t most = n_vertices < 3 * n_faces ? n_vertices : 3 * n_faces;
	r->number = malloc((size_t)n_vertices * sizeof *r->number);
	r->global = malloc((size_t)most * sizeof *r->global);
	r->faces = malloc((size_t)n_faces * 3 * sizeof *r->faces);
	r->result = malloc((size_t)n_faces * 3 * sizeof *r->result);
	r->vertices = malloc((size_t)most * 3 * sizeof *r->vertices);
	if (r->number)
		memset(r->number, -1, (size_t)n_vertices * sizeof *r->number);
	return r->number && r->global && r->faces && r->result && r->vertices;
}

static void cell_room_finish(struct cell_room *r)
{
	free(r->vertices);
	free(r->result);
	free(r->faces);
	free(r->global);
	free(r->number);
}

/* Simplify n faces in place, the seams to other cells as they are. Returns how many are left. */
static int64_t simplify_cell(struct cell_room *r, int32_t *faces, int64_t n, const struct trellis_mesh *m, float share)
{
	int32_t n_vertices = 0;
	for (int64_t i = 0; i < 3 * n; i++) {
		int32_t v = faces[i], *number = &r->number[v];
		if (*number < 0) {
			memcpy(r->vertices + 3 * (int64_t)n_vertices, m->vertices + 3 * (int64_t)v, 3 * sizeof(float));
			r->global[n_vertices] = v;
			*number = n_vertices++;
		}
		r->faces[i] = *number;
	}
	for (int32_t v = 0; v < n_vertices; v++)
		r->number[r->global[v]] = -1;
	n = collapse(r->result, r->faces, n, r->vertices, n_vertices, (int64_t)(share * (float)n),
		meshopt_SimplifyLockBorder);
	for (int64_t i = 0; i < 3 * n; i++)
		faces[i] = r->global[r->result[i]];
	return n;
}

/* Leave about `share` of the triangles, cell by cell. The cells are the same for any number of threads. */
static bool simplify_cells(struct trellis_mesh *m, float share, struct error *err)
{
	struct cells c = {0};
	bool ok = sort_into_cells(&c, m);
	int64_t largest = 0;
	for (int i = 0; ok && i < ALL_CELLS; i++)
		largest = c.first[i + 1] - c.first[i] > largest ? c.first[i + 1] - c.first[i] : largest;
#pragma omp parallel num_threads(threads_now()) if (ok)
	{
		struct cell_room room = {0};
		bool has_room = ok && cell_room_init(&room, m->n_vertices, largest);
#pragma omp for schedule(dynamic)
		for (int i = 0; i < ALL_CELLS; i++)
			if (has_room)
				c.left[i] = simplify_cell(
					&room, c.faces + 3 * c.first[i], c.first[i + 1] - c.first[i], m, share);
		if (!has_room)
#pragma omp atomic write
			ok = false;
		cell_room_finish(&room);
	}
	if (ok) {
		m->n_faces = 0;
		for (int i = 0; i < ALL_CELLS; i++) {
			memcpy(m->faces + 3 * m->n_faces, c.faces + 3 * c.first[i],
				(size_t)c.left[i] * 3 * sizeof *m->faces);
			m->n_faces += c.left[i];
		}
	}
	free(c.faces);
	return ok || mesh_no_memory(m, err);
}

bool mesh_simplify(struct trellis_mesh *m, float keep, struct error *err)
{
	if (!check_keep(keep, err))
		return false;
	double wanted = keep < 1 ? keep * (double)m->n_faces : keep;
	int64_t target = (int64_t)(wanted < 1 ? 1 : wanted), n = m->n_faces;
	if (target >= n)
		return true;
	free(m->normals);
	m->normals = NULL;
	float share = fmaxf(CELLS_LEAVE * (float)target / (float)n, CELLS_LEAST);
	if (n >= CELLS_FROM && share < CELLS_PAY && (!simplify_cells(m, share, err) || !mesh_compact(m, err)))
		return false;
	int32_t *faces = malloc((size_t)m->n_faces * 3 * sizeof *faces);
	if (!faces)
		return mesh_no_memory(m, err);
	int64_t left = collapse(faces, m->faces, m->n_faces, m->vertices, m->n_vertices, target, 0);
	free(m->faces);
	m->faces = faces;
	m->n_faces = left;
	if (left == 0)
		return error_set(
			err, "simplify: nothing is left at %lld of %lld triangles", (long long)target, (long long)n);
	return mesh_weld(m, err) && mesh_compact(m, err) && mesh_compute_normals(m, err);
}
