/* flexicubes_lists.h - what an extraction knows, and the sorted lists it is made of. Private to flexicubes*.c.
 *
 * Everything is a sorted list of grid keys (x S + y) S + z, S = R + 1 grid vertices a side, and neighbours are found by
 * walking such lists side by side. */
#ifndef TRELLIS_FLEXICUBES_LISTS_H
#define TRELLIS_FLEXICUBES_LISTS_H

#include "error.h"
#include "flexicubes_tables.h"

#include <stddef.h>
#include <stdint.h>

/* Columns of the network's output, and of the weights within. */
enum { SDF = 0, DEFORM = 8, WEIGHTS = 32, COLOR = 53, COLS_PLAIN = 53, COLS_COLOR = 101, N_COLORS = 6, N_WEIGHTS = 21 };
enum { BETA = 0, ALPHA = 12, GAMMA = 20 };

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

/* count zeroed elements; NULL: no memory. */
void *fc_take(int64_t count, size_t size);
bool fc_no_memory(struct error *err, int64_t count, const char *what);

void fc_key_to_xyz(const struct extraction *x, int64_t key, int64_t xyz[3]);
/* Raw value c of an attribute `width` numbers wide at touched vertex v: the mean over the active cubes that touch it. */
float fc_corner_mean(const struct extraction *x, int64_t v, int64_t column, int width, int c, float bias);

/* The lists one after the other; each needs those before. */
bool fc_sort_cubes(struct extraction *x, const int32_t *coords, int64_t n, struct error *err); /* active */
bool fc_find_corners(struct extraction *x, struct error *err); /* corner_key, touch, sdf, from features */
bool fc_find_edges(struct extraction *x, struct error *err);
bool fc_find_cubes(struct extraction *x, struct error *err); /* cubes, and the edges' cubes */
/* Case ids; two ambiguous cubes across the ambiguous face of one of them turn that one into its complement. */
void fc_classify_cubes(struct extraction *x);

#endif
