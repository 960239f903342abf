/* flexicubes_tables.h - the dual marching cubes cases of a cube, derived from one rule. Private to flexicubes.c and
 * tests.
 *
 * Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1). A case is the sum of 1 << k over the corners inside.
 * On every face the surface cuts off the inside corners one by one (two corners across a diagonal stay apart), which
 * joins the crossing edges of the cube into loops; each loop gets one dual vertex. Loops are numbered by the smallest
 * corner that they touch among the corners of the rarer kind (inside corners up to four of them, else outside ones).
 * A case is ambiguous when exactly one face has a diagonal and the loops are one: if the cube across that face is
 * ambiguous too, both take the complementary case (Nielson 2004; FlexiCubes sec. 1.3 of the supplement). */
#ifndef TRELLIS_FLEXICUBES_TABLES_H
#define TRELLIS_FLEXICUBES_TABLES_H

#include <stdint.h>

#define FC_EDGES 12
#define FC_MAX_DUALS 4

/* The two corners of an edge, in the published order: the y edges run from +y to -y. */
extern const uint8_t fc_edge_corners[FC_EDGES][2];

struct fc_case {
	uint8_t n_duals;
	uint16_t edges[FC_MAX_DUALS]; /* bit e: edge e belongs to this dual vertex */
	uint8_t dual_of_edge[FC_EDGES];
	uint16_t crossing; /* bit e: edge e crosses the surface */
	int8_t ambiguous;  /* 0: no; 1 + axis: through the upper face along it; -(1 + axis): the lower one */
};

struct fc_tables {
	struct fc_case cases[256];
	uint8_t case_of_crossing[1 << FC_EDGES]; /* with corner 0 outside; its complement crosses the same edges */
};

void fc_tables_init(struct fc_tables *t);

#endif
