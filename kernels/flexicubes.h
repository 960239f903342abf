/* flexicubes.h - dual surface extraction from a signed distance field on a grid, over the cubes that are active only.
 * Source: FlexiCubes (Shen et al. 2023, arXiv 2308.05371) as TRELLIS uses it
 * (trellis/representations/mesh/cube2mesh.py). Conventions (corner and edge order, numbering of vertices and faces):
 * engine/MODEL.md "Mesh extraction". */
#ifndef TRELLIS_FLEXICUBES_H
#define TRELLIS_FLEXICUBES_H

#include "backend.h"

/* The network's output, one row a cube: features [n, 53 | 101] f32 dense (sdf 8, deform 24, weights 21, color 48),
 * coords [n, 3] cube indices in 0 .. resolution - 1, distinct, in any order. Adds the official sdf bias -1/resolution,
 * averages corners over the active cubes that touch them, squashes deform, colours and weights.
 * Corners that no active cube covers have sdf 1 (outside). Memory: O(n), nothing dense. */
bool flexicubes_from_features(struct surface *s, const float *features, const int32_t *coords, int64_t n,
	int64_t resolution, bool has_color, struct error *err);

/* A dense grid as the golden files hold it: sdf [(R+1)^3] used as it is, deform [(R+1)^3, 3] raw, weights [R^3, 21]
 * raw, colors [(R+1)^3, 6] raw or NULL. case_ids: NULL, or receives a malloc'd array of the surface cubes' case ids in
 * cube order after the ambiguous cases are resolved, and *n_cases their number; positions: NULL or [(R+1)^3, 3]. */
bool flexicubes_from_grid(struct surface *s, const float *sdf, const float *deform, const float *weights,
	const float *colors, int64_t resolution, float *positions, int32_t **case_ids, int64_t *n_cases,
	struct error *err);

#endif
