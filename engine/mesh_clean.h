/* mesh_clean.h - the steps of mesh_from_surface, each leaving a valid mesh. Private to mesh*.c and tests.
 * They read and write vertices, colors and faces; normals and attrs must be NULL. */
#ifndef TRELLIS_MESH_CLEAN_H
#define TRELLIS_MESH_CLEAN_H

#include "trellis.h"

/* A component is a speck when its bounding box has a diagonal under SPECK_SIZE of the object's and its surface is under
 * SPECK_AREA of the object's: about two voxels of 64. Every larger part stays, however far from the rest. */
#define SPECK_SIZE 0.04
#define SPECK_AREA 0.0025

/* A border of at most this many edges is a gap and gets closed: a hole of about a third of the grid across, or a crack
 * along all of it. */
#define GAP_EDGES 1024

/* Triangles of less area (0.5 x length x height) have no direction of their own in float32. */
#define DEGENERATE_AREA 1e-12

/* Vertices at equal positions become one; triangles without area go, of equal triangles one stays, and of triangles
 * that differ in winding alone both go. */
bool mesh_weld(struct trellis_mesh *m, struct error *err);
bool mesh_drop_specks(struct trellis_mesh *m, struct error *err);
/* Adds triangles, no vertices: colours run on from the border. */
bool mesh_close_gaps(struct trellis_mesh *m, struct error *err);
/* Drop the vertices that no face uses. */
bool mesh_compact(struct trellis_mesh *m, struct error *err);

/* Half-edges by their start: those of vertex v go to to[first[v]] .. to[first[v + 1] - 1]. Both owned by the caller. */
struct half_edges {
	int64_t *first;
	int32_t *to;
};
bool half_edges_init(struct half_edges *h, const struct trellis_mesh *m, struct error *err);
void half_edges_finish(struct half_edges *h);
/* How many half-edges go from a to b. */
int half_edges_count(const struct half_edges *h, int32_t a, int32_t b);

/* Twice the area of a face, times its normal. */
void mesh_face_cross(const struct trellis_mesh *m, int64_t face, double cross[3]);

bool mesh_no_memory(const struct trellis_mesh *m, struct error *err);

#endif
