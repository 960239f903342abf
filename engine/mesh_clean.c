/* mesh_clean.c - weld, drop what is not surface, drop specks, drop unused vertices.
 * Steps of mesh_from_surface (mesh.c). */
#include "mesh_clean.h"

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
		for (int64_t i = 0; i < 3 * m->n_faces; i++)
			m->faces[i] = same[m->faces[i]];
		for (int64_t f = 0; f < m->n_faces; f++)
			drop[f] = is_degenerate(m, f);
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
};

static void part_init(struct part *p)
{
	*p = (struct part){.low = {INFINITY, INFINITY, INFINITY}, .high = {-INFINITY, -INFINITY, -INFINITY}};
}

static void part_add(struct part *p, const struct trellis_mesh *m, int64_t face)
{
	double c[3];
	mesh_face_cross(m, face, c);
	p->area += 0.5 * sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]);
	for (int corner = 0; corner < 3; corner++)
		for (int i = 0; i < 3; i++) {
			float value = m->vertices[3 * (int64_t)m->faces[3 * face + corner] + i];
			p->low[i] = fminf(p->low[i], value);
			p->high[i] = fmaxf(p->high[i], value);
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

bool mesh_drop_specks(struct trellis_mesh *m, struct error *err)
{
	int32_t *parent = malloc(((size_t)m->n_vertices + 1) * sizeof *parent);
	struct part *parts = malloc(((size_t)m->n_vertices + 1) * sizeof *parts), whole;
	uint8_t *drop = calloc((size_t)m->n_faces + 1, 1);
	bool ok = parent && parts && drop;
	if (ok) {
		for (int64_t v = 0; v < m->n_vertices; v++) {
			parent[v] = (int32_t)v;
			part_init(&parts[v]);
		}
		for (int64_t i = 0; i < 3 * m->n_faces; i++) {
			int32_t a = find_root(parent, m->faces[i]), b = find_root(parent, m->faces[i - i % 3]);
			parent[a < b ? b : a] = a < b ? a : b;
		}
		part_init(&whole);
		for (int64_t f = 0; f < m->n_faces; f++) {
			part_add(&parts[find_root(parent, m->faces[3 * f])], m, f);
			part_add(&whole, m, f);
		}
		for (int64_t f = 0; f < m->n_faces; f++) {
			const struct part *p = &parts[find_root(parent, m->faces[3 * f])];
			drop[f] = part_size(p) < SPECK_SIZE * part_size(&whole) && p->area < SPECK_AREA * whole.area;
		}
		keep_faces(m, drop);
	}
	free(drop);
	free(parts);
	free(parent);
	return ok || mesh_no_memory(m, err);
}
