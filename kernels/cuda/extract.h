/* extract.h - what a surface extraction on the device knows, and the launchers it is made of. Private to extract*.cu and
 * cuda_extract.c. Source and conventions: ../flexicubes.h, engine/MODEL.md "Mesh extraction".
 *
 * Every set of grid points is a bitmap in the order of the points' keys, so that counting bits before a point is the
 * official order and nothing is ever sorted: 2.4 MB a set at resolution 256, whatever the number of cubes. */
#ifndef TRELLIS_CUDA_EXTRACT_H
#define TRELLIS_CUDA_EXTRACT_H

#include "../flexicubes_tables.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Points (x, y, z), -1 <= c <= R + 1, have the key (x + 1) slab + (y + 1) row + z + 1: the grid's own, 0 .. R, have a
 * border of points that are in no set, and a row along z fills whole words. */
struct extract_grid {
	int32_t resolution, row, slab; /* row, slab: multiples of 32 */
	float sdf_bias, reach;	       /* -1 / R; how far a deformation moves a corner at most */
	int64_t words;		       /* of a bitmap */
};

/* Above it, the keys of an extraction do not fit 32 bits. */
#define EXTRACT_MAX_RESOLUTION 1024

struct bitmap {
	uint32_t *bits;	  /* bit key & 31 of word key / 32; the word before the first may be read */
	uint32_t *before; /* per word: bits in the words before it */
};

/* A used corner: position 3, colour 6, sdf. */
enum { CORNER_SDF = 9, CORNER_WIDTH = 12 };

/* A surface cube once it is numbered. */
struct extract_cube {
	int32_t first_vertex;
	float gamma;
	uint32_t duals; /* two bits an edge: the dual vertex that it belongs to */
	uint32_t case_id;
};

/* The host reads it after every step; bad_row and twice start as UINT32_MAX. */
struct extract_totals {
	uint32_t bad_row; /* the first row whose cube lies outside of the grid */
	uint32_t twice;	  /* the first key that two rows have */
	uint32_t n_touched, n_used, n_cubes, n_quads, n_vertices;
};

/* All pointers are on the device. */
struct extraction {
	struct extract_grid grid;
	int64_t n; /* active cubes */
	const int32_t *coords;
	int64_t coords_stride;
	const float *features; /* rows of sdf 8, deform 24, weights 21, colour 48 */
	int64_t stride;
	bool has_color;
	const struct fc_case *cases; /* [256] */
	struct extract_totals *totals;
	uint32_t *tile_sums; /* room of the scans */

	struct bitmap active;	/* cubes with a row */
	struct bitmap touched;	/* corners of active cubes */
	struct bitmap used;	/* touched corners at the ends of crossing edges */
	struct bitmap cubes;	/* cubes of the grid with corners on both sides */
	uint32_t *inside;	/* bits: touched corners with sdf < 0 */
	uint32_t *quads_before; /* [2 words]: quads whose first end is outside, then the others, before each word */
	int32_t *row_of;	/* [n] of the active cubes in key order */

	int32_t *touched_keys;	/* [n_touched] */
	int32_t *used_keys;	/* [n_used] */
	float *corners;		/* [n_used, CORNER_WIDTH] */
	int32_t *cube_keys;	/* [n_cubes] */
	uint32_t *duals_before; /* [4 n_cubes]: cubes with one dual vertex, with two, ...; vertices before each */
	struct extract_cube *numbered; /* [n_cubes] */
	uint32_t *quads;	       /* [n_quads]: first end's key * 3 + rank of the edge's direction */

	float *vertices, *attrs; /* struct surface */
	int32_t *faces;
	uint8_t *is_inner;
};

/* extract_lists.cu. Numbers of tile_sums for a scan of n. */
int64_t launch_extract_room(int64_t n);
/* before[i] = the sum of values below i, or with bits of their bits set; *total the sum of all. In place is fine. */
cudaError_t launch_extract_scan(const struct launch *l, const uint32_t *values, bool bits, uint32_t *before, int64_t n,
	uint32_t *tile_sums, uint32_t *total);
/* active, row_of, touched, n_touched; active.bits, inside and totals cleared. */
cudaError_t launch_extract_touched(const struct launch *l, const struct extraction *x);
/* touched_keys, inside, used, cubes, quads_before, n_used, n_cubes, n_quads. */
cudaError_t launch_extract_inside(const struct launch *l, const struct extraction *x, int64_t n_touched);
/* used_keys, cube_keys, quads. */
cudaError_t launch_extract_list(const struct launch *l, const struct extraction *x);
/* extract.cu: duals_before, n_vertices, corners. */
cudaError_t launch_extract_classify(
	const struct launch *l, const struct extraction *x, int64_t n_cubes, int64_t n_used);
/* numbered, vertices, attrs, faces, is_inner. */
cudaError_t launch_extract_surface(
	const struct launch *l, const struct extraction *x, int64_t n_cubes, int64_t n_quads);

#ifdef __cplusplus
}
#endif

#endif
