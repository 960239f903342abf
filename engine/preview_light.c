/* preview_light.c - how much light of a sky and of a lamp reaches points. Part of preview.c.
 *
 * For each of a few directions towards the light the mesh is drawn into a depth map as seen from there, and every point
 * compares its own depth. Nothing is random: the same mesh gives the same light. */
#include "preview_light.h"
#include "mesh_clean.h"
#include "threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SKY = 16, SKY_SIZE = 176, KEY = 7, KEY_SIZE = 352, MOST = SKY };

#define KEY_RADIUS 0.12f /* of the lamp, in radians: its shadows are soft */
#define GOLDEN_ANGLE 2.3999632f

struct view {
	float right[3], up[3], towards[3]; /* towards the light */
	float middle[3], scale;		   /* to pixels */
	int size;
	float *depth; /* [size, size] nearest to the light is largest; -INFINITY: nothing */
};

static float dot(const float a[3], const float b[3])
{
	return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void normalize(float v[3])
{
	float length = sqrtf(dot(v, v));
	for (int i = 0; i < 3; i++)
		v[i] /= length;
}

static void cross(float out[3], const float a[3], const float b[3])
{
	for (int i = 0; i < 3; i++)
		out[i] = a[(i + 1) % 3] * b[(i + 2) % 3] - a[(i + 2) % 3] * b[(i + 1) % 3];
}

/* x, y in pixels, z along the light. */
static void project(const struct view *v, const float p[3], float out[3])
{
	float q[3] = {p[0] - v->middle[0], p[1] - v->middle[1], p[2] - v->middle[2]};
	out[0] = dot(q, v->right) * v->scale + (float)v->size * 0.5f;
	out[1] = dot(q, v->up) * v->scale + (float)v->size * 0.5f;
	out[2] = dot(q, v->towards);
}

/* The first pixel centre at or after x, and the last before x, within 0 .. size. */
static int pixel_from(float x, int size)
{
	return x <= 0.5f ? 0 : x >= (float)size ? size : (int)(x + 0.5f);
}

static int pixel_to(float x, int size)
{
	return x < 0.5f ? -1 : x >= (float)size ? size - 1 : (int)(x - 0.5f);
}

/* A pixel is covered when its centre is; a small triangle often covers none. What faces away lies behind what does not. */
static void draw_triangle(struct view *v, const float a[3], const float b[3], const float c[3])
{
	int left = pixel_from(min_of(min_of(a[0], b[0]), c[0]), v->size);
	int right = pixel_to(max_of(max_of(a[0], b[0]), c[0]), v->size);
	if (left > right)
		return;
	int low = pixel_from(min_of(min_of(a[1], b[1]), c[1]), v->size);
	int high = pixel_to(max_of(max_of(a[1], b[1]), c[1]), v->size);
	float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
	if (low > high || area <= 0)
		return;
	for (int j = low; j <= high; j++)
		for (int i = left; i <= right; i++) {
			float x = (float)i + 0.5f, y = (float)j + 0.5f;
			float wa = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area;
			float wb = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area;
			float wc = 1 - wa - wb;
			if (wa < 0 || wb < 0 || wc < 0)
				continue;
			float depth = wa * a[2] + wb * b[2] + wc * c[2], *at = &v->depth[j * v->size + i];
			*at = max_of(*at, depth);
		}
}

static void draw_depth(struct view *v, const struct trellis_mesh *m, float (*projected)[3])
{
	for (int64_t i = 0; i < m->n_vertices; i++)
		project(v, m->vertices + 3 * i, projected[i]);
	for (int i = 0; i < v->size * v->size; i++)
		v->depth[i] = -INFINITY;
	for (int64_t f = 0; f < m->n_faces; f++) {
		const int32_t *t = m->faces + 3 * f;
		draw_triangle(v, projected[t[0]], projected[t[1]], projected[t[2]]);
	}
}

/* Share of the four pixels around the point whose depth does not hide it. The point is lifted along its normal by a
 * pixel or two, against a surface shadowing itself. */
static float visibility(const struct view *v, const struct light_point *point)
{
	float lift = 1.5f / v->scale, lifted[3], at[3];
	for (int i = 0; i < 3; i++)
		lifted[i] = point->position[i] + lift * (point->normal[i] + 0.5f * v->towards[i]);
	project(v, lifted, at);
	float x = at[0] - 0.5f, y = at[1] - 0.5f;
	if (!(x >= 0 && y >= 0 && x < (float)(v->size - 1) && y < (float)(v->size - 1)))
		return 1;
	int i = (int)x, j = (int)y;
	float u = x - (float)i, w = y - (float)j;
	const float *d = v->depth + j * v->size + i;
	return (d[0] <= at[2]) * (1 - u) * (1 - w) + (d[1] <= at[2]) * u * (1 - w) +
	       (d[v->size] <= at[2]) * (1 - u) * w + (d[v->size + 1] <= at[2]) * u * w;
}

struct bounds bounds_of(const struct trellis_mesh *m)
{
	struct bounds b = {.low = {INFINITY, INFINITY, INFINITY}, .high = {-INFINITY, -INFINITY, -INFINITY}};
	float square = 0, farthest = 0;
	for (int64_t v = 0; v < m->n_vertices; v++)
		for (int a = 0; a < 3; a++) {
			b.low[a] = min_of(b.low[a], m->vertices[3 * v + a]);
			b.high[a] = max_of(b.high[a], m->vertices[3 * v + a]);
		}
	for (int a = 0; a < 3; a++) {
		b.middle[a] = (b.low[a] + b.high[a]) / 2;
		square += (b.high[a] - b.low[a]) * (b.high[a] - b.low[a]) / 4;
		farthest = max_of(farthest, fabsf(b.middle[a]));
	}
	b.radius = max_of(sqrtf(square), max_of(1e-6f, 1e-4f * farthest));
	return b;
}

/* A view that holds the whole mesh, whatever the direction. */
static struct view view_along(const struct bounds *b, const float towards[3], int size)
{
	const float z[3] = {0, 0, 1}, x[3] = {1, 0, 0};
	struct view v = {.size = size, .scale = ((float)size - 2) / (2 * b->radius)};
	memcpy(v.towards, towards, sizeof v.towards);
	memcpy(v.middle, b->middle, sizeof v.middle);
	cross(v.right, fabsf(towards[2]) < 0.9f ? z : x, towards);
	normalize(v.right);
	cross(v.up, towards, v.right);
	return v;
}

static bool gather(float *out, const struct light_point *points, int64_t n, const struct trellis_mesh *m,
	struct view *views, int n_views, bool with_cosine, struct error *err)
{
	bool ok = true;
#pragma omp parallel for schedule(dynamic) num_threads(threads_now())
	for (int i = 0; i < n_views; i++) {
		float(*projected)[3] = malloc((size_t)m->n_vertices * sizeof *projected);
		views[i].depth = malloc((size_t)views[i].size * (size_t)views[i].size * sizeof *views[i].depth);
		if (projected && views[i].depth)
			draw_depth(&views[i], m, projected);
		else
#pragma omp atomic write
			ok = false;
		free(projected);
	}
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
	for (int64_t k = 0; k < (ok ? n : 0); k++) {
		float sum = 0;
		for (int i = 0; i < n_views; i++) {
			float cosine = dot(points[k].normal, views[i].towards);
			if (cosine > 0)
				sum += visibility(&views[i], &points[k]) * (with_cosine ? 2 * cosine : 1);
		}
		out[k] = sum / (float)n_views;
	}
	for (int i = 0; i < n_views; i++)
		free(views[i].depth);
	return ok || mesh_no_memory(m, err);
}

/* Directions even in area over the upper half of the sphere (Fibonacci spiral). */
bool light_from_sky(
	float *out, const struct light_point *points, int64_t n, const struct trellis_mesh *m, struct error *err)
{
	struct view views[MOST];
	struct bounds b = bounds_of(m);
	for (int i = 0; i < SKY; i++) {
		float z = ((float)i + 0.5f) / SKY, r = sqrtf(1 - z * z), angle = GOLDEN_ANGLE * (float)i;
		const float towards[3] = {r * cosf(angle), r * sinf(angle), z};
		views[i] = view_along(&b, towards, SKY_SIZE);
	}
	return gather(out, points, n, m, views, SKY, true, err);
}

/* Directions even in area over the lamp. */
bool light_from_key(float *out, const struct light_point *points, int64_t n, const struct trellis_mesh *m,
	const float towards[3], struct error *err)
{
	struct bounds b = bounds_of(m);
	struct view views[MOST], middle = view_along(&b, towards, KEY_SIZE);
	for (int i = 0; i < KEY; i++) {
		float r = KEY_RADIUS * sqrtf(((float)i + 0.5f) / KEY), angle = GOLDEN_ANGLE * (float)i, at[3];
		for (int a = 0; a < 3; a++)
			at[a] = towards[a] + r * (cosf(angle) * middle.right[a] + sinf(angle) * middle.up[a]);
		normalize(at);
		views[i] = view_along(&b, at, KEY_SIZE);
	}
	return gather(out, points, n, m, views, KEY, false, err);
}
