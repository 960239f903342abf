/* mesh.h - from the extracted surface to the mesh that people get: cleaning, gaps, simplification, normals.
 * Between decode_mesh.c and the writers. Meshes are changed in place; on failure the mesh stays valid but may be half
 * done, and its owner ends it as usual. */
#ifndef TRELLIS_MESH_H
#define TRELLIS_MESH_H

#include "backend.h"
#include "trellis.h"

/* Everything the parameters ask for, simplification included. Reads raw_mesh, keep_inner_shell, simplify and seed;
 * model and cutout are left empty. Copies s. Fails when s is empty or has a number that is not finite. */
bool mesh_from_surface(
	struct trellis_mesh *out, const struct surface *s, const struct trellis_params *params, struct error *err);

/* keep in (0, 1): share of the triangles to keep; >= 1: number to keep. Vertices that stay keep place and colour.
 * Borders stay. Normals are made again. A mesh that has no more triangles than that is left alone. */
bool mesh_simplify(struct trellis_mesh *m, float keep, struct error *err);

/* Unit normals, the mean of the face normals weighted by area. */
bool mesh_compute_normals(struct trellis_mesh *m, struct error *err);

#endif
