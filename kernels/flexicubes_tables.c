/* flexicubes_tables.c - derive the dual marching cubes cases from the rule in flexicubes_tables.h.
 * Used by flexicubes.c, once an extraction (256 cases take microseconds). tests/test_flexicubes.c compares the result
 * with the published tables. */
#include "flexicubes_tables.h"

#include <stdbool.h>
#include <string.h>

const uint8_t fc_edge_corners[FC_EDGES][2] = {
	{0, 1}, {1, 5}, {4, 5}, {0, 4}, {2, 3}, {3, 7}, {6, 7}, {2, 6}, {2, 0}, {3, 1}, {7, 5}, {6, 4}};

static bool is_inside(int case_id, int corner)
{
	return case_id >> corner & 1;
}

static uint16_t crossing_edges(int case_id)
{
	uint16_t crossing = 0;
	for (int e = 0; e < FC_EDGES; e++)
		if (is_inside(case_id, fc_edge_corners[e][0]) != is_inside(case_id, fc_edge_corners[e][1]))
			crossing |= 1u << e;
	return crossing;
}

/* The edges whose two corners both lie on the face axis = side. */
static uint16_t face_edges(int axis, int side)
{
	uint16_t edges = 0;
	for (int e = 0; e < FC_EDGES; e++)
		if ((fc_edge_corners[e][0] >> axis & 1) == side && (fc_edge_corners[e][1] >> axis & 1) == side)
			edges |= 1u << e;
	return edges;
}

static int inside_corner(int case_id, int edge)
{
	return fc_edge_corners[edge][!is_inside(case_id, fc_edge_corners[edge][0])];
}

/* Join the loops of edges a and b; loop[e] is the smallest edge of e's loop. */
static void join(uint8_t loop[FC_EDGES], int a, int b)
{
	uint8_t keep = loop[a] < loop[b] ? loop[a] : loop[b], drop = loop[a] ^ loop[b] ^ keep;
	for (int e = 0; e < FC_EDGES; e++)
		if (loop[e] == drop)
			loop[e] = keep;
}

/* Follow the surface across the six faces. Returns how many faces have their two inside corners on a diagonal and
 * stores the last of them in *diagonal (as fc_case.ambiguous). */
static int trace_loops(int case_id, uint16_t crossing, uint8_t loop[FC_EDGES], int8_t *diagonal)
{
	int n_diagonals = 0;
	for (int e = 0; e < FC_EDGES; e++)
		loop[e] = e;
	for (int face = 0; face < 6; face++) {
		int axis = face / 2, side = face & 1;
		uint16_t cut = crossing & face_edges(axis, side);
		bool apart = __builtin_popcount(cut) == 4;
		if (apart) {
			n_diagonals++;
			*diagonal = side ? 1 + axis : -(1 + axis);
		}
		for (int a = 0; a < FC_EDGES; a++)
			for (int b = 0; b < a; b++)
				if (cut >> a & cut >> b & 1 &&
					(!apart || inside_corner(case_id, a) == inside_corner(case_id, b)))
					join(loop, a, b);
	}
	return n_diagonals;
}

/* Smallest corner of the rarer kind on the edges of a loop. */
static int first_corner(int case_id, uint16_t edges)
{
	bool kind = __builtin_popcount(case_id) <= 4;
	int first = 8;
	for (int e = 0; e < FC_EDGES; e++)
		for (int end = 0; end < 2 && edges >> e & 1; end++) {
			int corner = fc_edge_corners[e][end];
			if (is_inside(case_id, corner) == kind && corner < first)
				first = corner;
		}
	return first;
}

static void derive_case(struct fc_case *c, int case_id)
{
	uint8_t loop[FC_EDGES];
	int8_t diagonal = 0;
	*c = (struct fc_case){.crossing = crossing_edges(case_id)};
	int n_diagonals = trace_loops(case_id, c->crossing, loop, &diagonal);

	for (int start = 0; start < FC_EDGES; start++) {
		uint16_t edges = 0;
		for (int e = 0; e < FC_EDGES; e++)
			if (c->crossing >> e & 1 && loop[e] == start)
				edges |= 1u << e;
		if (!edges)
			continue;
		int at = c->n_duals++;
		for (; at > 0 && first_corner(case_id, c->edges[at - 1]) > first_corner(case_id, edges); at--)
			c->edges[at] = c->edges[at - 1];
		c->edges[at] = edges;
	}
	for (int d = 0; d < c->n_duals; d++)
		for (int e = 0; e < FC_EDGES; e++)
			if (c->edges[d] >> e & 1)
				c->dual_of_edge[e] = d;
	c->ambiguous = n_diagonals == 1 && c->n_duals == 1 ? diagonal : 0;
}

void fc_tables_init(struct fc_tables *t)
{
	memset(t, 0, sizeof *t);
	for (int case_id = 0; case_id < 256; case_id++) {
		derive_case(&t->cases[case_id], case_id);
		if (!is_inside(case_id, 0))
			t->case_of_crossing[t->cases[case_id].crossing] = case_id;
	}
}
