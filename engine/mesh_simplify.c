/* mesh_simplify.c - fewer triangles by edge collapse (meshoptimizer).
 * Called by mesh_from_surface and for other sizes of a mesh that is there. Collapses end in vertices that were there,
 * so that colours carry over as they are. */
#include "mesh.h"
#include "mesh_clean.h"

#include <float.h>
#include <meshoptimizer.h>
#include <stdlib.h>

static bool check_keep(float keep, struct error *err)
{
	return (keep > 0 && keep <= 2e9f) ||
	       error_set(err, "simplify: wanted a share in (0, 1) or a number of triangles, got %g", (double)keep);
}

bool mesh_simplify(struct trellis_mesh *m, float keep, struct error *err)
{
	if (!check_keep(keep, err))
		return false;
	double wanted = keep < 1 ? keep * (double)m->n_faces : keep;
	size_t target = (size_t)(wanted < 1 ? 1 : wanted);
	if (target >= (size_t)m->n_faces)
		return true;
	/* The library works on unsigned indices, as wide as ours. */
	_Static_assert(sizeof(unsigned) == sizeof(int32_t), "indices are 32 bits wide");
	int32_t *faces = malloc((size_t)m->n_faces * 3 * sizeof *faces);
	if (!faces)
		return mesh_no_memory(m, err);
	size_t count = meshopt_simplify((unsigned *)faces, (const unsigned *)m->faces, (size_t)m->n_faces * 3,
		m->vertices, (size_t)m->n_vertices, 3 * sizeof *m->vertices, target * 3, FLT_MAX, 0, NULL);
	if (count == 0) {
		free(faces);
		return error_set(
			err, "simplify: nothing is left at %zu of %lld triangles", target, (long long)m->n_faces);
	}
	free(m->faces);
	m->faces = faces;
	m->n_faces = (int64_t)count / 3;
	free(m->normals);
	m->normals = NULL;
	return mesh_weld(m, err) && mesh_compact(m, err) && mesh_compute_normals(m, err);
}
