/* preview_light.h - how much light of a sky and of a lamp reaches points, from depth maps along a few directions.
 * Private to preview*.c. */
#ifndef TRELLIS_PREVIEW_LIGHT_H
#define TRELLIS_PREVIEW_LIGHT_H

#include "trellis.h"

/* Compiled in place, unlike fminf and fmaxf, which have to care for what is not a number. */
static inline float min_of(float a, float b)
{
	return a < b ? a : b;
}

static inline float max_of(float a, float b)
{
	return a > b ? a : b;
}

/* The box around all vertices. */
struct bounds {
	float low[3], high[3], middle[3];
	float radius; /* half the diagonal, or what float32 can tell apart there if that is more */
};

struct bounds bounds_of(const struct trellis_mesh *m);

struct light_point {
	float position[3], normal[3];
};

/* Irradiance of a white sky over the horizon in the shadow of the mesh: 1 on an open floor. out[n] of points[n]. */
bool light_from_sky(
	float *out, const struct light_point *points, int64_t n, const struct trellis_mesh *m, struct error *err);
/* Share of a round light towards unit vector `towards` that the mesh does not hide, 0..1, without the cosine. */
bool light_from_key(float *out, const struct light_point *points, int64_t n, const struct trellis_mesh *m,
	const float towards[3], struct error *err);

#endif
