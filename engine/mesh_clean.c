/* mesh_clean.c - weld, drop what is not surface, drop specks, drop unused vertices.
 * Steps of mesh_from_surface (mesh.c). */
#include "mesh_clean.h"
#include "threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash_position(const float p[3])
{
	uint64_t hash = 0;
	for (int i = 0; i < 3; i++) {
		float value = p[i] + 0.0f; /* -0 and 0 are one place */
		uint32_t bits;
		memcpy(&bits, &value, sizeof bits);
		hash = (hash ^ bits) * UINT64_C(0x9e3779b97f4a7c15);
	}
	return hash ^ hash >> 32;
}

/* same[v]: the first vertex at v's position. */
static bool find_equal_vertices(const struct trellis_mesh *m, int32_t *same, struct error *err)
{
	uint64_t size = 16;
	while (size < 2 * (uint64_t)m->n_vertices)
		size *= 2;
	int32_t *table = malloc(size * sizeof *table);
	if (!table)
		return mesh_no_memory(m, err);
	memset(table, -1, size * sizeof *table);
	for (int64_t v = 0; v < m->n_vertices; v++) {
		const float *p = m->vertices + 3 * v;
		uint64_t at = hash_position(p) & (size - 1);
		for (; table[at] >= 0; at = (at + 1) & (size - 1)) {
			const float *q = m->vertices + 3 * (int64_t)table[at];
			if (p[0] == q[0] && p[1] == q[1] && p[2] == q[2])
				break;
		}
		if (table[at] < 0)
			table[at] = (int32_t)v;
		same[v] = table[at];
	}
	free(table);
	return true;
}

static bool is_degenerate(const struct trellis_mesh *m, int64_t face)
{
	const int32_t *f = m->faces + 3 * face;
	double c[3];
	if (f[0] == f[1] || f[1] == f[2] || f[2] == f[0])
		return true;
	mesh_face_cross(m, face, c);
	return !(0.5 * sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]) >= DEGENERATE_AREA);
}

static void keep_faces(struct trellis_mesh *m, const uint8_t *drop)
{
	int64_t n = 0;
	for (int64_t f = 0; f < m->n_faces; f++)
		if (!drop[f])
			memmove(m->faces + 3 * n++, m->faces + 3 * f, 3 * sizeof *m->faces);
	m->n_faces = n;
}

/* Turn a face so that its smallest vertex comes first; the winding stays. */
static void rotate_face(const int32_t f[3], int32_t r[3])
{
	int first = f[0] < f[1] ? (f[0] < f[2] ? 0 : 2) : (f[1] < f[2] ? 1 : 2);
	for (int i = 0; i < 3; i++)
		r[i] = f[(first + i) % 3];
}

/* Mark duplicates among the faces, chained by their smallest vertex. Of equal faces the first stays; two of opposite
 * winding cancel. */
static bool mark_duplicates(const struct trellis_mesh *m, uint8_t *drop, struct error *err)
{
	int32_t *head = malloc(((size_t)m->n_vertices + 1) * sizeof *head);
	int32_t *next = malloc(((size_t)m->n_faces + 1) * sizeof *next);
	bool ok = head && next;
	if (ok)
		memset(head, -1, (size_t)m->n_vertices * sizeof *head);
	for (int64_t f = 0; ok && f < m->n_faces; f++) {
		int32_t a[3], b[3];
		if (drop[f])
			continue;
		rotate_face(m->faces + 3 * f, a);
		for (int32_t g = head[a[0]]; g >= 0 && !drop[f]; g = next[g]) {
			rotate_face(m->faces + 3 * (int64_t)g, b);
			if (drop[g])
				continue;
			if (a[1] == b[1] && a[2] == b[2])
				drop[f] = 1;
			else if (a[1] == b[2] && a[2] == b[1])
				drop[f] = drop[g] = 1;
		}
		next[f] = head[a[0]];
		head[a[0]] = (int32_t)f;
	}
	free(next);
	free(head);
	return ok || mesh_no_memory(m, err);
}

bool mesh_weld(struct trellis_mesh *m, struct error *err)
{
	int32_t *same = malloc(((size_t)m->n_vertices + 1) * sizeof *same);
	uint8_t *drop = calloc((size_t)m->n_faces + 1, 1);
	bool ok = same && drop ? find_equal_vertices(m, same, err) : mesh_no_memory(m, err);
	if (ok) {
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
		for (int64_t f = 0; f < m->n_faces; f++) {
			for (int i = 0; i < 3; i++)
				m->faces[3 * f + i] = same[m->faces[3 * f + i]];
			drop[f] = is_degenerate(m, f);
		}
		ok = mark_duplicates(m, drop, err);
	}
	if (ok)
		keep_faces(m, drop);
	free(drop);
	free(same);
	return ok;
}

bool mesh_compact(struct trellis_mesh *m, struct error *err)
{
	int32_t *place = malloc(((size_t)m->n_vertices + 1) * sizeof *place);
	if (!place)
		return mesh_no_memory(m, err);
	memset(place, -1, (size_t)m->n_vertices * sizeof *place);
	for (int64_t i = 0; i < 3 * m->n_faces; i++)
		place[m->faces[i]] = 0;
	int32_t n = 0;
	for (int64_t v = 0; v < m->n_vertices; v++) {
		if (place[v] < 0)
			continue;
		place[v] = n++;
		memmove(m->vertices + 3 * (int64_t)place[v], m->vertices + 3 * v, 3 * sizeof *m->vertices);
		if (m->colors)
			memmove(m->colors + 3 * (int64_t)place[v], m->colors + 3 * v, 3 * sizeof *m->colors);
	}
	for (int64_t i = 0; i < 3 * m->n_faces; i++)
		m->faces[i] = place[m->faces[i]];
	m->n_vertices = n;
	free(place);
	return true;
}

struct part {
	float low[3], high[3];
	double area;
	bool is_speck;
};

static void part_init(struct part *p)
{
	*p = (struct part){.low = {INFINITY, INFINITY, INFINITY}, .high = {-INFINITY, -INFINITY, -INFINITY}};
}

static void part_add(struct part *p, const float low[3], const float high[3])
{
	for (int i = 0; i < 3; i++) {
		p->low[i] = low[i] < p->low[i] ? low[i] : p->low[i];
		p->high[i] = high[i] > p->high[i] ? high[i] : p->high[i];
	}
}

static double part_size(const struct part *p)
{
	return hypot(hypot(p->high[0] - p->low[0], p->high[1] - p->low[1]), p->high[2] - p->low[2]);
}

static int32_t find_root(int32_t *parent, int32_t v)
{
	while (parent[v] != v)
		v = parent[v] = parent[parent[v]];
	return v;
}

/* root[v]: the smallest vertex that is joined to v; number[root]: of the part, -1 without faces. Returns how many. */
static int32_t find_parts(const struct trellis_mesh *m, int32_t *root, int32_t *number)
{
	int32_t n = 0;
	for (int64_t v = 0; v < m->n_vertices; v++) {
		root[v] = (int32_t)v;
		number[v] = -1;
	}
	for (int64_t i = 0; i < 3 * m->n_faces; i++) {
		int32_t a = find_root(root, m->faces[i]), b = find_root(root, m->faces[i - i % 3]);
		root[a < b ? b : a] = a < b ? a : b;
	}
	for (int64_t v = 0; v < m->n_vertices; v++)
		root[v] = root[root[v]]; /* never above v, so it is a root by now */
	for (int64_t f = 0; f < m->n_faces; f++) {
		int32_t *of_part = &number[root[m->faces[3 * f]]];
		if (*of_part < 0)
			*of_part = n++;
	}
	return n;
}

static void measure_parts(const struct trellis_mesh *m, const int32_t *root, const int32_t *number, struct part *parts,
	int32_t n, struct part *whole)
{
	part_init(whole);
	for (int32_t i = 0; i < n; i++)
		part_init(&parts[i]);
	for (int64_t v = 0; v < m->n_vertices; v++)
		if (number[root[v]] >= 0)
			part_add(&parts[number[root[v]]], m->vertices + 3 * v, m->vertices + 3 * v);
	for (int32_t i = 0; i < n; i++)
		part_add(whole, parts[i].low, parts[i].high);
	for (int64_t f = 0; f < m->n_faces; f++) {
		double c[3];
		mesh_face_cross(m, f, c);
		double area = 0.5 * sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]);
		parts[number[root[m->faces[3 * f]]]].area += area;
		whole->area += area;
	}
}

bool mesh_drop_specks(struct trellis_mesh *m, struct error *err)
{
	int32_t *root = malloc(((size_t)m->n_vertices + 1) * sizeof *root);
	int32_t *number = malloc(((size_t)m->n_vertices + 1) * sizeof *number);
	uint8_t *drop = calloc((size_t)m->n_faces + 1, 1);
	struct part *parts = NULL, whole;
	int32_t n = root && number && drop ? find_parts(m, root, number) : -1;
	bool ok = n >= 0 && (n < 2 || (parts = malloc((size_t)n * sizeof *parts)));
	if (parts) {
		measure_parts(m, root, number, parts, n, &whole);
		for (int32_t i = 0; i < n; i++)
			parts[i].is_speck = part_size(&parts[i]) < SPECK_SIZE * part_size(&whole) &&
					    parts[i].area < SPECK_AREA * whole.area;
		for (int64_t f = 0; f < m->n_faces; f++)
			drop[f] = parts[number[root[m->faces[3 * f]]]].is_speck;
		keep_faces(m, drop);
	}
	free(parts);
	free(drop);
	free(number);
	free(root);
	return ok || mesh_no_memory(m, err);
}
