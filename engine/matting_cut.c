/* matting_cut.c - maximum flow on the pixel grid, whose dual is the best boundary. Used by matting.c.
 *
 * Two search trees grow from the terminals; where they meet, flow is pushed along the path, and the nodes that its
 * saturated edges cut off look for another parent in their tree or fall out of it. Trees are kept between paths, which
 * makes this the fastest method in practice on images.
 * Source: Boykov and Kolmogorov, "An experimental comparison of min-cut/max-flow algorithms", PAMI 2004. */
#include "matting_cut.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT 256	    /* capacities are whole numbers: no rounding can lose flow */
#define MAX_CAPACITY 500000 /* per edge and terminal, so that sums stay far from overflow */

enum { TREE_NONE, TREE_SOURCE, TREE_SINK, TREE_NO_NODE };	   /* source: object; sink: background */
enum { PARENT_NONE = -1, PARENT_TERMINAL = 8, PARENT_ORPHAN = 9 }; /* else a direction, 0 to 7 */

struct queue {
	int *items;
	int capacity, first, count; /* a ring */
};

/* Directions d and 7 - d are opposite. */
static const int step_x[8] = {-1, 0, 1, -1, 1, -1, 0, 1}, step_y[8] = {-1, -1, -1, 0, 0, 1, 1, 1};

/* The grid has a rim of one pixel without nodes, so that neighbours need no bounds. */
struct graph {
	int stride, n;
	int step[8];	   /* index offset of each direction */
	int32_t *capacity; /* [n, 8] left from a node to its neighbour */
	int32_t *terminal; /* [n] left from the source (> 0) or to the sink (< 0) */
	uint8_t *tree;
	int8_t *parent;
	uint8_t *queued; /* in active */
	int *distance;	 /* to the terminal, a bound that was right at time stamp */
	int *stamp;
	struct queue active, orphans;
	int now;
};

static void queue_push(struct queue *q, int item)
{
	int at = q->first + q->count++;
	q->items[at < q->capacity ? at : at - q->capacity] = item;
}

static int queue_pop(struct queue *q)
{
	int item = q->items[q->first];
	q->first = q->first + 1 < q->capacity ? q->first + 1 : 0;
	q->count--;
	return item;
}

static void activate(struct graph *g, int i)
{
	if (!g->queued[i]) {
		g->queued[i] = 1;
		queue_push(&g->active, i);
	}
}

static void make_orphan(struct graph *g, int i)
{
	g->parent[i] = PARENT_ORPHAN;
	queue_push(&g->orphans, i);
}

/* What can still flow between i and its neighbour in direction d, along the tree's orientation: from parent to child in
 * the source's tree, from child to parent in the sink's. child_side: i is the child. */
static int32_t *tree_edge(struct graph *g, int i, int d, bool is_child)
{
	bool from_i = (g->tree[i] == TREE_SOURCE) != is_child;
	return from_i ? &g->capacity[8 * i + d] : &g->capacity[8 * (i + g->step[d]) + 7 - d];
}

/* The least that the path from i up to its terminal can carry, and pushing that much. */
static int32_t path_capacity(struct graph *g, int i, int32_t least)
{
	for (; g->parent[i] != PARENT_TERMINAL; i += g->step[g->parent[i]]) {
		int32_t left = *tree_edge(g, i, g->parent[i], true);
		least = left < least ? left : least;
	}
	int32_t left = abs(g->terminal[i]);
	return left < least ? left : least;
}

static void path_push(struct graph *g, int i, int32_t flow)
{
	bool from_source = g->tree[i] == TREE_SOURCE;
	while (g->parent[i] != PARENT_TERMINAL) {
		int d = g->parent[i], up = i + g->step[d];
		int32_t *down_edge = &g->capacity[8 * up + 7 - d], *up_edge = &g->capacity[8 * i + d];
		*down_edge += from_source ? -flow : flow;
		*up_edge += from_source ? flow : -flow;
		if ((from_source ? *down_edge : *up_edge) == 0)
			make_orphan(g, i);
		i = up;
	}
	g->terminal[i] += from_source ? -flow : flow;
	if (g->terminal[i] == 0)
		make_orphan(g, i);
}

/* The trees meet on the edge from i in direction d. */
static void augment(struct graph *g, int i, int d)
{
	int j = i + g->step[d];
	if (g->tree[i] == TREE_SINK) {
		int swap = i;
		i = j;
		j = swap;
		d = 7 - d;
	}
	int32_t flow = path_capacity(g, j, path_capacity(g, i, g->capacity[8 * i + d]));
	g->capacity[8 * i + d] -= flow;
	g->capacity[8 * j + 7 - d] += flow;
	path_push(g, i, flow);
	path_push(g, j, flow);
}

/* Distance of i to its terminal when its path reaches one, else -1; nodes on the way are stamped. */
static int distance_to_terminal(struct graph *g, int i)
{
	int length = 0, j = i;
	for (;; j += g->step[g->parent[j]], length++) {
		if (g->stamp[j] == g->now)
			break;
		if (g->parent[j] == PARENT_TERMINAL) {
			g->stamp[j] = g->now;
			g->distance[j] = 1;
			break;
		}
		if (g->parent[j] == PARENT_ORPHAN || g->parent[j] == PARENT_NONE)
			return -1;
	}
	int total = length + g->distance[j];
	for (int k = i, left = total; g->stamp[k] != g->now; k += g->step[g->parent[k]]) {
		g->stamp[k] = g->now;
		g->distance[k] = left--;
	}
	return total;
}

static void adopt(struct graph *g, int i)
{
	int best = PARENT_NONE, best_distance = 0;
	for (int d = 0; d < 8; d++) {
		int j = i + g->step[d];
		if (g->tree[j] != g->tree[i] || *tree_edge(g, i, d, true) == 0)
			continue;
		int distance = distance_to_terminal(g, j);
		if (distance >= 0 && (best == PARENT_NONE || distance < best_distance)) {
			best = d;
			best_distance = distance;
		}
	}
	if (best != PARENT_NONE) {
		g->parent[i] = (int8_t)best;
		g->stamp[i] = g->now;
		g->distance[i] = best_distance + 1;
		return;
	}
	for (int d = 0; d < 8; d++) {
		int j = i + g->step[d];
		if (g->tree[j] != g->tree[i])
			continue;
		if (*tree_edge(g, i, d, true) > 0)
			activate(g, j);
		if (g->parent[j] == 7 - d)
			make_orphan(g, j);
	}
	g->tree[i] = TREE_NONE;
	g->parent[i] = PARENT_NONE;
}

/* Extend the tree of i; the direction in which it meets the other tree, or -1. */
static int grow(struct graph *g, int i)
{
	for (int d = 0; d < 8; d++) {
		int j = i + g->step[d];
		if (g->tree[j] == TREE_NO_NODE || *tree_edge(g, i, d, false) == 0)
			continue;
		if (g->tree[j] == TREE_NONE) {
			g->tree[j] = g->tree[i];
			g->parent[j] = (int8_t)(7 - d);
			g->stamp[j] = g->stamp[i];
			g->distance[j] = g->distance[i] + 1;
			activate(g, j);
		} else if (g->tree[j] != g->tree[i]) {
			return d;
		} else if (g->stamp[j] <= g->stamp[i] && g->distance[j] > g->distance[i] + 1) {
			g->parent[j] = (int8_t)(7 - d); /* a shorter way to the terminal */
			g->stamp[j] = g->stamp[i];
			g->distance[j] = g->distance[i] + 1;
		}
	}
	return -1;
}

static void max_flow(struct graph *g)
{
	for (int i = 0; i < g->n; i++) {
		if (g->tree[i] == TREE_NO_NODE || g->terminal[i] == 0)
			continue;
		g->tree[i] = g->terminal[i] > 0 ? TREE_SOURCE : TREE_SINK;
		g->parent[i] = PARENT_TERMINAL;
		g->distance[i] = 1;
		activate(g, i);
	}
	while (g->active.count > 0) {
		int i = queue_pop(&g->active);
		g->queued[i] = 0;
		int d;
		while (g->tree[i] != TREE_NONE && (d = grow(g, i)) >= 0) {
			g->now++;
			augment(g, i, d);
			while (g->orphans.count > 0)
				adopt(g, queue_pop(&g->orphans));
		}
	}
}

static void graph_finish(struct graph *g)
{
	free(g->capacity);
	free(g->terminal);
	free(g->tree);
	free(g->parent);
	free(g->queued);
	free(g->distance);
	free(g->stamp);
	free(g->active.items);
	free(g->orphans.items);
}

static bool graph_init(struct graph *g, int width, int height)
{
	*g = (struct graph){.stride = width + 2, .n = (width + 2) * (height + 2)};
	for (int d = 0; d < 8; d++)
		g->step[d] = step_y[d] * g->stride + step_x[d];
	size_t n = (size_t)g->n;
	g->capacity = calloc(n * 8, sizeof *g->capacity);
	g->terminal = calloc(n, sizeof *g->terminal);
	g->tree = malloc(n);
	g->parent = malloc(n);
	g->queued = calloc(n, 1);
	g->distance = calloc(n, sizeof *g->distance);
	g->stamp = calloc(n, sizeof *g->stamp);
	g->active = (struct queue){.items = malloc(n * sizeof(int)), .capacity = g->n};
	g->orphans = (struct queue){.items = malloc(n * sizeof(int)), .capacity = g->n};
	if (!g->capacity || !g->terminal || !g->tree || !g->parent || !g->queued || !g->distance || !g->stamp ||
		!g->active.items || !g->orphans.items) {
		graph_finish(g);
		return false;
	}
	memset(g->tree, TREE_NO_NODE, n);
	memset(g->parent, PARENT_NONE, n);
	return true;
}

static int32_t to_capacity(float v)
{
	float scaled = v * UNIT;
	return (int32_t)(scaled < -MAX_CAPACITY ? -MAX_CAPACITY : scaled > MAX_CAPACITY ? MAX_CAPACITY : scaled);
}

bool matting_cut(uint8_t *labels, int width, int height, const float *preference, const float (*lab)[3],
	float smoothness, float falloff, struct error *err)
{
	struct graph g;
	if (!graph_init(&g, width, height))
		return error_set(err, "out of memory cutting out an image of %d x %d pixels", width, height);
	for (int i = 0; i < width * height; i++) {
		if (labels[i] != LABEL_UNKNOWN)
			continue;
		int x = i % width, y = i / width, node = (y + 1) * g.stride + x + 1;
		g.tree[node] = TREE_NONE;
		g.terminal[node] += to_capacity(preference[i]);
		for (int d = 0; d < 8; d++) {
			int nx = x + step_x[d], ny = y + step_y[d];
			if (nx < 0 || ny < 0 || nx >= width || ny >= height)
				continue;
			int j = ny * width + nx;
			float a = lab[i][0] - lab[j][0], b = lab[i][1] - lab[j][1], c = lab[i][2] - lab[j][2];
			float weight = smoothness * expf(-falloff * (a * a + b * b + c * c));
			int32_t capacity = to_capacity(nx != x && ny != y ? weight * 0.70710678f : weight);
			if (labels[j] == LABEL_UNKNOWN)
				g.capacity[8 * node + d] = capacity;
			else
				g.terminal[node] += labels[j] == LABEL_OBJECT ? capacity : -capacity;
		}
	}
	max_flow(&g);
	for (int i = 0; i < width * height; i++) {
		int node = (i / width + 1) * g.stride + i % width + 1;
		if (labels[i] == LABEL_UNKNOWN)
			labels[i] = g.tree[node] == TREE_SOURCE ? LABEL_OBJECT : LABEL_BACKGROUND;
	}
	graph_finish(&g);
	return true;
}
