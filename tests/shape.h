/* shape.h - a closed object for tests: what the mesh decoder would give for a distance field, through FlexiCubes.
 * Active voxels are those that the surface passes through or comes near, as in the released models. */
#ifndef TRELLIS_TEST_SHAPE_H
#define TRELLIS_TEST_SHAPE_H

#include "flexicubes.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* Signed distance at p (inside negative) and colour there. */
typedef float (*shape_fn)(const float p[3], float rgb[3]);

static inline float shape_ball(const float p[3], float x, float y, float z, float radius)
{
	return sqrtf((p[0] - x) * (p[0] - x) + (p[1] - y) * (p[1] - y) + (p[2] - z) * (p[2] - z)) - radius;
}

static inline void shape_paint(float rgb[3], float r, float g, float b)
{
	rgb[0] = r;
	rgb[1] = g;
	rgb[2] = b;
}

static inline float shape_sphere(const float p[3], float rgb[3])
{
	shape_paint(rgb, 0.9f, 0.4f, 0.1f);
	return shape_ball(p, 0, 0, 0, 0.4f);
}

/* Three balls, an orange nose and two coal eyes at the front (-y), a red scarf. */
static inline float shape_snowman(const float p[3], float rgb[3])
{
	float body = fminf(fminf(shape_ball(p, 0, 0, -0.24f, 0.22f), shape_ball(p, 0, 0, 0.06f, 0.16f)),
		shape_ball(p, 0, 0, 0.29f, 0.12f));
	float ring = hypotf(hypotf(p[0], p[1]) - 0.1f, p[2] - 0.19f) - 0.045f;
	float eyes =
		fminf(shape_ball(p, -0.045f, -0.105f, 0.325f, 0.02f), shape_ball(p, 0.045f, -0.105f, 0.325f, 0.02f));
	float along = fminf(fmaxf(-p[1] - 0.08f, 0) / 0.14f, 1);
	float nose = 0.8f * (hypotf(p[0], p[2] - 0.28f) - 0.03f * (1 - along));
	nose = fmaxf(nose, -p[1] - 0.22f);
	nose = fmaxf(nose, p[1]);
	float d = fminf(fminf(body, ring), fminf(eyes, nose));
	shape_paint(rgb, 0.93f, 0.95f, 0.98f);
	if (ring < body)
		shape_paint(rgb, 0.8f, 0.1f, 0.12f);
	if (eyes < body)
		shape_paint(rgb, 0.05f, 0.05f, 0.06f);
	if (nose < body)
		shape_paint(rgb, 0.95f, 0.45f, 0.05f);
	return d;
}

static inline float shape_logit(float v)
{
	v = fminf(fmaxf(v, 1e-4f), 1 - 1e-4f);
	return logf(v / (1 - v));
}

/* The cubes of one voxel, 4 a side: feature rows [64, 101] and coords [64, 3]. Returns false where nothing is near. */
static inline bool shape_voxel(shape_fn shape, int voxels, const int at[3], float *features, int32_t *coords)
{
	int resolution = 4 * voxels;
	float middle[3], rgb[3];
	for (int a = 0; a < 3; a++)
		middle[a] = ((float)at[a] + 0.5f) / (float)voxels - 0.5f;
	if (fabsf(shape(middle, rgb)) > 1.2f / (float)voxels)
		return false;
	for (int i = 0; i < 64; i++) {
		int32_t *c = coords + 3 * i;
		float *f = features + 101 * i;
		for (int a = 0; a < 3; a++)
			c[a] = 4 * at[a] + (i >> (4 - 2 * a) & 3);
		for (int k = 0; k < 101; k++)
			f[k] = 0;
		for (int k = 0; k < 8; k++) {
			float p[3];
			for (int a = 0; a < 3; a++)
				p[a] = (float)(c[a] + (k >> a & 1)) / (float)resolution - 0.5f;
			f[k] = shape(p, rgb) + 1.0f / (float)resolution;
			for (int a = 0; a < 3; a++)
				f[53 + 6 * k + a] = shape_logit(rgb[a]);
		}
	}
	return true;
}

/* voxels: of the structure, along an axis. The voxel `skip` (x, y, z) is left out; NULL: none. */
static inline struct surface shape_surface(shape_fn shape, int voxels, const int skip[3])
{
	int64_t n = 0, room = (int64_t)voxels * voxels * 20;
	float *features = malloc((size_t)room * 64 * 101 * sizeof *features);
	int32_t *coords = malloc((size_t)room * 64 * 3 * sizeof *coords);
	struct surface s;
	struct error err = {""};
	cr_assert(features && coords);
	for (int i = 0; i < voxels * voxels * voxels; i++) {
		int at[3] = {i / (voxels * voxels), i / voxels % voxels, i % voxels};
		if (skip && at[0] == skip[0] && at[1] == skip[1] && at[2] == skip[2])
			continue;
		cr_assert_lt(n, room);
		n += shape_voxel(shape, voxels, at, features + n * 64 * 101, coords + n * 64 * 3);
	}
	cr_assert(flexicubes_from_features(&s, features, coords, n * 64, 4 * voxels, true, &err), "%s", err.text);
	free(coords);
	free(features);
	return s;
}

#endif
