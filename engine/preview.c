/* preview.c - pictures of a mesh: camera, rasteriser, shading. Light and shadow: preview_light.c.
 * Used by the worker and the command line for NAME.preview.png, and by `trellis render`.
 *
 * A frame is SAMPLES x SAMPLES samples a pixel of (triangle, depth), drawn in bands of rows that share nothing, then
 * shaded and averaged in linear light. The object stands on a floor that shows nothing but its shadow. */
#include "preview.h"
#include "mesh.h"
#include "mesh_clean.h"
#include "png_write.h"
#include "preview_light.h"
#include "threads.h"
#include "writers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 2, BAND = 32, FLOOR = 96, RINGS = 64, LINEAR_STEPS = 4096 };

#define FIELD_OF_VIEW 0.42f /* radians */
#define MARGIN 0.88f	    /* of the half frame that the object fills */
#define FLOOR_REACH 2.1f    /* of the floor around the object, in its radii */

/* Linear light. */
static const float sky_color[3] = {0.50f, 0.53f, 0.575f}, key_color[3] = {0.75f, 0.71f, 0.645f};
static const float bounce_color[3] = {0.17f, 0.16f, 0.15f};
/* sRGB, of the backdrop. */
static const float backdrop_top[3] = {0.945f, 0.950f, 0.957f}, backdrop_bottom[3] = {0.870f, 0.877f, 0.888f};
static const float clay[3] = {0.78f, 0.76f, 0.73f}; /* sRGB, of a mesh without colours */

struct preview {
	struct trellis_mesh m; /* borrowed, but for normals when own_normals */
	bool own_normals;
	struct bounds bounds;			 /* the floor is at bounds.low[2] */
	float ring_radius[RINGS], ring_z[RINGS]; /* the object's silhouette around the vertical through middle */
	int64_t n_points;
	struct light_point *points; /* the vertices, then the floor [FLOOR, FLOOR] */
	float *sky;		    /* [n_points] */
	float *albedo;		    /* [n_vertices, 3] linear */
	float backdrop[2][3];	    /* linear: top, bottom */
	uint8_t to_srgb[LINEAR_STEPS + 1];
};

static float dot(const float a[3], const float b[3])
{
	return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static void measure(struct preview *p)
{
	const struct bounds *b = &p->bounds;
	p->bounds = bounds_of(&p->m);
	for (int64_t v = 0; v < p->m.n_vertices; v++) {
		const float *q = p->m.vertices + 3 * v;
		float r = hypotf(q[0] - b->middle[0], q[1] - b->middle[1]);
		int ring = (int)((q[2] - b->low[2]) / max_of(b->high[2] - b->low[2], 1e-6f) * (RINGS - 1) + 0.5f);
		if (r >= p->ring_radius[ring]) {
			p->ring_radius[ring] = r;
			p->ring_z[ring] = q[2];
		}
	}
	for (int i = 0; i < RINGS; i++)
		p->ring_z[i] = p->ring_radius[i] > 0 ? p->ring_z[i] : b->middle[2];
}

static void place_points(struct preview *p)
{
	const struct trellis_mesh *m = &p->m;
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
	for (int64_t v = 0; v < m->n_vertices; v++) {
		memcpy(p->points[v].position, m->vertices + 3 * v, 3 * sizeof(float));
		memcpy(p->points[v].normal, m->normals + 3 * v, 3 * sizeof(float));
		for (int i = 0; i < 3; i++)
			p->albedo[3 * v + i] = color_to_linear(m->colors ? m->colors[3 * v + i] : clay[i]);
	}
	for (int i = 0; i < FLOOR * FLOOR; i++) {
		float x = 2 * (float)(i % FLOOR) / (FLOOR - 1) - 1, y = 2 * (float)(i / FLOOR) / (FLOOR - 1) - 1;
		p->points[m->n_vertices + i] = (struct light_point){
			.position = {p->bounds.middle[0] + x * FLOOR_REACH * p->bounds.radius,
				p->bounds.middle[1] + y * FLOOR_REACH * p->bounds.radius, p->bounds.low[2]},
			.normal = {0, 0, 1},
		};
	}
	for (int i = 0; i < 3; i++) {
		p->backdrop[0][i] = color_to_linear(backdrop_top[i]);
		p->backdrop[1][i] = color_to_linear(backdrop_bottom[i]);
	}
	for (int i = 0; i <= LINEAR_STEPS; i++)
		p->to_srgb[i] = color_to_byte(color_to_srgb((float)i / LINEAR_STEPS));
}

/* A few directions of light draw streaks on the floor that a mean over its neighbours takes away. */
static void smooth_floor(float *floor, int times)
{
	float other[FLOOR * FLOOR];
	for (int k = 0; k < 2 * times; k++) {
		int step = k & 1 ? FLOOR : 1;
		memcpy(other, floor, sizeof other);
		for (int i = 2 * step; i < FLOOR * FLOOR - 2 * step; i++)
			floor[i] = (other[i - 2 * step] + other[i - step] + other[i] + other[i + step] +
					   other[i + 2 * step]) /
				   5;
	}
}

struct preview *preview_create(const struct trellis_mesh *m, struct error *err)
{
	struct preview *p = calloc(1, sizeof *p);
	if (!p) {
		mesh_no_memory(m, err);
		return NULL;
	}
	p->m = *m;
	p->own_normals = !m->normals;
	p->n_points = m->n_vertices + FLOOR * FLOOR;
	p->points = malloc((size_t)p->n_points * sizeof *p->points);
	p->sky = malloc((size_t)p->n_points * sizeof *p->sky);
	p->albedo = malloc((size_t)m->n_vertices * 3 * sizeof *p->albedo);
	bool ok = m->n_faces > 0 || error_set(err, "the mesh cannot be drawn: it is empty");
	ok = ok && ((p->points && p->sky && p->albedo) || mesh_no_memory(m, err));
	ok = ok && (m->normals || mesh_compute_normals(&p->m, err));
	if (ok) {
		measure(p);
		place_points(p);
		ok = light_from_sky(p->sky, p->points, p->n_points, &p->m, err);
	}
	if (ok)
		smooth_floor(p->sky + m->n_vertices, 2);
	if (!ok) {
		preview_destroy(p);
		return NULL;
	}
	return p;
}

void preview_destroy(struct preview *p)
{
	if (!p)
		return;
	if (p->own_normals)
		free(p->m.normals);
	free(p->albedo);
	free(p->sky);
	free(p->points);
	free(p);
}

/* Looks along -out; a point is at (right, up) / depth x zoom from the middle of the frame. */
struct camera {
	float right[3], up[3], out[3], eye[3];
	float zoom, shift_y; /* to samples; shift upwards */
	float width, height; /* of the frame in samples */
};

/* x and y in samples from the top left, then 1 / depth. */
static void camera_project(const struct camera *c, const float p[3], float at[3])
{
	const float q[3] = {p[0] - c->eye[0], p[1] - c->eye[1], p[2] - c->eye[2]};
	at[2] = -1 / dot(q, c->out);
	at[0] = c->width / 2 + dot(q, c->right) * at[2] * c->zoom;
	at[1] = c->height / 2 - (dot(q, c->up) * at[2] - c->shift_y) * c->zoom;
}

/* Zoom and shift so that the object's silhouette fits the frame, the same from every yaw. */
static void fit_frame(struct camera *c, const struct preview *p)
{
	float across = 0, low = INFINITY, high = -INFINITY;
	enum { TURNS = 24 };
	for (int i = 0; i < RINGS * TURNS; i++) {
		float angle = 2 * (float)M_PI * (float)(i % TURNS) / TURNS, r = p->ring_radius[i / TURNS];
		const float q[3] = {p->bounds.middle[0] + r * cosf(angle) - c->eye[0],
			p->bounds.middle[1] + r * sinf(angle) - c->eye[1], p->ring_z[i / TURNS] - c->eye[2]};
		float depth = -dot(q, c->out), y = dot(q, c->up) / depth;
		across = max_of(across, fabsf(dot(q, c->right)) / depth);
		low = min_of(low, y);
		high = max_of(high, y);
	}
	c->shift_y = (low + high) / 2;
	float least = 0.01f * FIELD_OF_VIEW; /* of a mesh that is a point */
	c->zoom = MARGIN / 2 * min_of(c->width / max_of(across, least), 2 * c->height / max_of(high - low, least));
}

static struct camera camera_around(const struct preview *p, int width, int height, float yaw_deg, float pitch_deg)
{
	float yaw = yaw_deg * (float)M_PI / 180, pitch = pitch_deg * (float)M_PI / 180;
	float distance = p->bounds.radius / sinf(FIELD_OF_VIEW / 2);
	struct camera c = {
		.right = {cosf(yaw), sinf(yaw), 0},
		.out = {sinf(yaw) * cosf(pitch), -cosf(yaw) * cosf(pitch), sinf(pitch)},
		.up = {-sinf(yaw) * sinf(pitch), cosf(yaw) * sinf(pitch), cosf(pitch)},
		.width = (float)(width * SAMPLES),
		.height = (float)(height * SAMPLES),
	};
	for (int i = 0; i < 3; i++)
		c.eye[i] = p->bounds.middle[i] + distance * c.out[i];
	fit_frame(&c, p);
	return c;
}

/* One frame being drawn. */
struct frame {
	const struct preview *p;
	struct camera camera;
	float towards_key[3];
	int width, height; /* in pixels */
	float (*at)[3];	   /* [n_vertices] as camera_project gives them */
	float *key;	   /* [n_points] */
	float *depth;	   /* [height, width] samples of 1 / depth, 0: nothing */
	int32_t *face;	   /* the same samples */
	int64_t *band;	   /* [bands + 1] where the faces that a band of BAND rows meets start in band_faces */
	int32_t *band_faces;
};

struct edges {
	float a[3], b[3], c[3]; /* barycentric weight k at (x, y): a[k] x + b[k] y + c[k] */
};

static bool triangle_edges(const struct frame *f, int64_t face, struct edges *e)
{
	const int32_t *t = f->p->m.faces + 3 * face;
	const float *p[3] = {f->at[t[0]], f->at[t[1]], f->at[t[2]]};
	float area = (p[1][0] - p[0][0]) * (p[2][1] - p[0][1]) - (p[1][1] - p[0][1]) * (p[2][0] - p[0][0]);
	if (area == 0)
		return false;
	for (int k = 0; k < 3; k++) {
		const float *q = p[(k + 1) % 3], *r = p[(k + 2) % 3];
		e->a[k] = (q[1] - r[1]) / area;
		e->b[k] = (r[0] - q[0]) / area;
		e->c[k] = (q[0] * r[1] - q[1] * r[0]) / area;
	}
	return true;
}

/* The first sample whose centre is at or after x, and the last before it, within low .. high. */
static int sample_from(float x, int low, int high)
{
	return x <= (float)low + 0.5f ? low : x > (float)high + 0.5f ? high + 1 : (int)(x + 0.5f);
}

static int sample_to(float x, int low, int high)
{
	return x < (float)low + 0.5f ? low - 1 : x >= (float)high + 0.5f ? high : (int)(x - 0.5f);
}

struct rows {
	int16_t top, bottom; /* of samples */
};

/* The rows of samples that a triangle may cover; none: bottom < top. */
static struct rows triangle_rows(const struct frame *f, int64_t face)
{
	const int32_t *t = f->p->m.faces + 3 * face;
	float p = f->at[t[0]][1], q = f->at[t[1]][1], r = f->at[t[2]][1];
	int last = f->height * SAMPLES - 1;
	return (struct rows){.top = (int16_t)sample_from(min_of(min_of(p, q), r), 0, last),
		.bottom = (int16_t)sample_to(max_of(max_of(p, q), r), 0, last)};
}

static int count_bands(const struct frame *f)
{
	return (f->height + BAND - 1) / BAND;
}

/* band and band_faces: every band's faces in the mesh's order. */
static bool sort_into_bands(struct frame *f)
{
	int64_t n = f->p->m.n_faces, *at = calloc((size_t)count_bands(f) + 2, sizeof *at);
	struct rows *rows = malloc((size_t)n * sizeof *rows);
	f->band = at;
	if (!at || !rows) {
		free(rows);
		return false;
	}
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
	for (int64_t i = 0; i < n; i++)
		rows[i] = triangle_rows(f, i);
	/* Counting sort; at[k + 1] is where band k writes until all are in. */
	for (int64_t i = 0; i < n; i++)
		for (int k = rows[i].top / (BAND * SAMPLES); k * BAND * SAMPLES <= rows[i].bottom; k++)
			at[k + 2]++;
	for (int k = 0; k < count_bands(f); k++)
		at[k + 2] += at[k + 1];
	f->band_faces = malloc((size_t)(at[count_bands(f) + 1] + 1) * sizeof *f->band_faces);
	for (int64_t i = 0; f->band_faces && i < n; i++)
		for (int k = rows[i].top / (BAND * SAMPLES); k * BAND * SAMPLES <= rows[i].bottom; k++)
			f->band_faces[at[k + 1]++] = (int32_t)i;
	free(rows);
	return f->band_faces;
}

/* Rows first .. last of samples. Triangles are drawn from both sides: a gap shows the inside, not what is behind. */
static void draw_triangle(struct frame *f, int64_t face, int first, int last)
{
	const int32_t *t = f->p->m.faces + 3 * face;
	const float *p = f->at[t[0]], *q = f->at[t[1]], *r = f->at[t[2]];
	int row_samples = f->width * SAMPLES;
	int top = sample_from(min_of(min_of(p[1], q[1]), r[1]), first, last);
	int bottom = sample_to(max_of(max_of(p[1], q[1]), r[1]), first, last);
	if (top > bottom)
		return;
	int left = sample_from(min_of(min_of(p[0], q[0]), r[0]), 0, row_samples - 1);
	int right = sample_to(max_of(max_of(p[0], q[0]), r[0]), 0, row_samples - 1);
	struct edges e;
	if (left > right || !triangle_edges(f, face, &e))
		return;
	for (int y = top; y <= bottom; y++)
		for (int x = left; x <= right; x++) {
			float px = (float)x + 0.5f, py = (float)y + 0.5f, w[3];
			for (int k = 0; k < 3; k++)
				w[k] = e.a[k] * px + e.b[k] * py + e.c[k];
			if (w[0] < 0 || w[1] < 0 || w[2] < 0)
				continue;
			float depth = w[0] * p[2] + w[1] * q[2] + w[2] * r[2];
			int64_t at = (int64_t)y * row_samples + x;
			if (depth > f->depth[at]) {
				f->depth[at] = depth;
				f->face[at] = (int32_t)face;
			}
		}
}

/* Adds what a sample of a face looks like. */
static void add_surface(const struct frame *f, int64_t face, const struct edges *e, float x, float y, float out[3])
{
	const struct preview *p = f->p;
	const int32_t *t = p->m.faces + 3 * face;
	float normal[3] = {0}, albedo[3] = {0}, sky = 0, key = 0, weight[3], sum = 0;
	for (int k = 0; k < 3; k++) /* perspective: weights by 1 / depth */
		sum += weight[k] = max_of(e->a[k] * x + e->b[k] * y + e->c[k], 0) * f->at[t[k]][2];
	for (int k = 0; k < 3; k++) {
		float w = weight[k] / sum;
		for (int i = 0; i < 3; i++) {
			normal[i] += w * p->m.normals[3 * (int64_t)t[k] + i];
			albedo[i] += w * p->albedo[3 * (int64_t)t[k] + i];
		}
		sky += w * p->sky[t[k]];
		key += w * f->key[t[k]];
	}
	float length = sqrtf(dot(normal, normal));
	float lit = key * max_of(dot(normal, f->towards_key) / max_of(length, 1e-6f), 0);
	float down = 0.5f - 0.5f * normal[2] / max_of(length, 1e-6f);
	for (int i = 0; i < 3; i++)
		out[i] += albedo[i] * (sky_color[i] * sky + key_color[i] * lit + bounce_color[i] * down);
}

/* How much darker the floor is for the object, where the ray through sample (x, y) meets it: 1 is not at all. */
static float floor_shade(const struct frame *f, float x, float y)
{
	const struct preview *p = f->p;
	const struct camera *c = &f->camera;
	float u = (x - c->width / 2) / c->zoom, v = (c->height / 2 - y) / c->zoom + c->shift_y, ray[3];
	for (int i = 0; i < 3; i++)
		ray[i] = u * c->right[i] + v * c->up[i] - c->out[i];
	if (ray[2] > -1e-3f)
		return 1;
	float along = (p->bounds.low[2] - c->eye[2]) / ray[2], reach = FLOOR_REACH * p->bounds.radius;
	float dx = (c->eye[0] + along * ray[0] - p->bounds.middle[0]) / reach;
	float dy = (c->eye[1] + along * ray[1] - p->bounds.middle[1]) / reach, r = hypotf(dx, dy);
	if (r >= 1)
		return 1;
	float gx = (dx + 1) / 2 * (FLOOR - 1), gy = (dy + 1) / 2 * (FLOOR - 1), sky = 0, key = 0;
	int i = (int)gx, j = (int)gy;
	for (int k = 0; k < 4; k++) {
		int64_t at = p->m.n_vertices + (j + (k >> 1)) * FLOOR + i + (k & 1);
		float wx = k & 1 ? gx - (float)i : 1 - gx + (float)i, wy = k >> 1 ? gy - (float)j : 1 - gy + (float)j;
		sky += wx * wy * p->sky[at];
		key += wx * wy * f->key[at];
	}
	float lamp = key_color[1] * f->towards_key[2];
	float shade = (sky_color[1] * sky + lamp * key) / (sky_color[1] + lamp), fade = (1 - r) * 2;
	return 1 - (1 - min_of(shade, 1)) * min_of(fade, 1);
}

static void shade_backdrop(const struct frame *f, int x, int y, float out[3])
{
	float blend = ((float)y + 0.5f) / (float)f->height;
	float shade = floor_shade(f, ((float)x + 0.5f) * SAMPLES, ((float)y + 0.5f) * SAMPLES);
	for (int i = 0; i < 3; i++)
		out[i] = shade * (f->p->backdrop[0][i] * (1 - blend) + f->p->backdrop[1][i] * blend);
}

static void shade_pixel(const struct frame *f, int x, int y, uint8_t rgb[3])
{
	float sum[3] = {0};
	int n_empty = 0;
	int32_t face = -1; /* whose edges these are */
	struct edges e = {0};
	for (int s = 0; s < SAMPLES * SAMPLES; s++) {
		int sx = x * SAMPLES + s % SAMPLES, sy = y * SAMPLES + s / SAMPLES;
		int64_t at = (int64_t)sy * f->width * SAMPLES + sx;
		if (!(f->depth[at] > 0)) {
			n_empty++;
			continue;
		}
		if (f->face[at] != face)
			triangle_edges(f, face = f->face[at], &e); /* has an area, or it would not be seen */
		add_surface(f, face, &e, (float)sx + 0.5f, (float)sy + 0.5f, sum);
	}
	if (n_empty) { /* smooth: once a pixel */
		float color[3];
		shade_backdrop(f, x, y, color);
		for (int i = 0; i < 3; i++)
			sum[i] += (float)n_empty * color[i];
	}
	for (int i = 0; i < 3; i++) {
		float linear = min_of(sum[i] / (SAMPLES * SAMPLES), 1);
		rgb[i] = f->p->to_srgb[(int)(linear * LINEAR_STEPS + 0.5f)];
	}
}

static void draw_band(struct frame *f, int band, uint8_t *rgb, int row_pixels)
{
	int first = band * BAND, last = first + BAND > f->height ? f->height - 1 : first + BAND - 1;
	int64_t row_samples = (int64_t)f->width * SAMPLES, from = first * SAMPLES * row_samples;
	memset(f->depth + from, 0, (size_t)((last - first + 1) * SAMPLES * row_samples) * sizeof *f->depth);
	for (int64_t i = f->band[band]; i < f->band[band + 1]; i++)
		draw_triangle(f, f->band_faces[i], first * SAMPLES, last * SAMPLES + SAMPLES - 1);
	for (int y = first; y <= last; y++)
		for (int x = 0; x < f->width; x++)
			shade_pixel(f, x, y, rgb + ((int64_t)y * row_pixels + x) * 3);
}

/* The lamp stands to the left of the camera and above it. */
static void place_lamp(struct frame *f, float yaw_deg)
{
	float yaw = (yaw_deg - 42) * (float)M_PI / 180, pitch = 0.72f;
	f->towards_key[0] = sinf(yaw) * cosf(pitch);
	f->towards_key[1] = -cosf(yaw) * cosf(pitch);
	f->towards_key[2] = sinf(pitch);
}

bool preview_draw(const struct preview *p, uint8_t *rgb, int width, int height, int row_pixels, float yaw_deg,
	float pitch_deg, struct error *err)
{
	size_t samples = (size_t)width * (size_t)height * SAMPLES * SAMPLES;
	struct frame f = {.p = p, .width = width, .height = height};
	f.camera = camera_around(p, width, height, yaw_deg, pitch_deg);
	place_lamp(&f, yaw_deg);
	f.at = malloc((size_t)p->m.n_vertices * sizeof *f.at);
	f.key = malloc((size_t)p->n_points * sizeof *f.key);
	f.depth = malloc(samples * sizeof *f.depth);
	f.face = malloc(samples * sizeof *f.face);
	bool ok = f.at && f.key && f.depth && f.face;
	if (!ok)
		error_set(err, "a picture of %d x %d: out of memory", width, height);
	ok = ok && light_from_key(f.key, p->points, p->n_points, &p->m, f.towards_key, err);
	if (ok) {
		smooth_floor(f.key + p->m.n_vertices, 1);
#pragma omp parallel for schedule(dynamic, 1024) num_threads(threads_now())
		for (int64_t v = 0; v < p->m.n_vertices; v++)
			camera_project(&f.camera, p->m.vertices + 3 * v, f.at[v]);
		ok = sort_into_bands(&f) || mesh_no_memory(&p->m, err);
	}
#pragma omp parallel for schedule(dynamic) num_threads(threads_now())
	for (int band = 0; band < (ok ? count_bands(&f) : 0); band++)
		draw_band(&f, band, rgb, row_pixels);
	free(f.band_faces);
	free(f.band);
	free(f.face);
	free(f.depth);
	free(f.key);
	free(f.at);
	return ok;
}

bool preview_append_png(struct buffer *out, const struct trellis_mesh *m, struct error *err)
{
	enum { SIZE = 512, VIEWS = 2 };
	static const float yaw_deg[VIEWS] = {30, 210};
	const float pitch_deg = 18;
	uint8_t *rgb = malloc((size_t)SIZE * SIZE * VIEWS * 3);
	struct preview *p = preview_create(m, err);
	struct png png;
	bool ok = p && (rgb || error_set(err, "the preview: out of memory"));
	for (int i = 0; ok && i < VIEWS; i++)
		ok = preview_draw(p, rgb + 3 * SIZE * i, SIZE, SIZE, SIZE * VIEWS, yaw_deg[i], pitch_deg, err);
	if (ok) {
		png_begin(&png, out, SIZE * VIEWS, SIZE, 1, 0);
		ok = png_frame(&png, rgb, err);
	}
	preview_destroy(p);
	free(rgb);
	return ok;
}

bool preview_write(const struct trellis_mesh *m, int fd, struct error *err)
{
	struct buffer bytes = {0};
	bool ok = preview_append_png(&bytes, m, err) && buffer_write(&bytes, fd, "preview.png", err);
	buffer_finish(&bytes);
	return ok;
}
