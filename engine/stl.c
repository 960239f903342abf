/* stl.c - binary STL for printing: millimetres, z up, standing on z = 0, the longest side 100. See writers.h. */
#include "writers.h"

#include <math.h>
#include <string.h>

#define LONGEST_SIDE_MM 100.0

struct placement {
	double middle[2], floor, scale;
};

static struct placement place(const struct trellis_mesh *m)
{
	double low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY}, longest = 0;
	for (int64_t i = 0; i < 3 * m->n_faces; i++)
		for (int a = 0; a < 3; a++) {
			double value = m->vertices[3 * (int64_t)m->faces[i] + a];
			low[a] = fmin(low[a], value);
			high[a] = fmax(high[a], value);
		}
	for (int a = 0; a < 3; a++)
		longest = fmax(longest, high[a] - low[a]);
	return (struct placement){
		.middle = {(low[0] + high[0]) / 2, (low[1] + high[1]) / 2},
		.floor = low[2],
		.scale = longest > 0 ? LONGEST_SIDE_MM / longest : 1,
	};
}

static void corner_mm(const struct placement *at, const float p[3], float out[3])
{
	out[0] = (float)((p[0] - at->middle[0]) * at->scale);
	out[1] = (float)((p[1] - at->middle[1]) * at->scale);
	out[2] = (float)((p[2] - at->floor) * at->scale);
}

/* facet: normal, then three corners. A facet without area has normal 0, as the format allows. */
static void set_normal(float facet[12])
{
	double n[3], length = 0;
	for (int i = 0; i < 3; i++) {
		int j = (i + 1) % 3, k = (i + 2) % 3;
		n[i] = ((double)facet[6 + j] - facet[3 + j]) * ((double)facet[9 + k] - facet[3 + k]) -
		       ((double)facet[6 + k] - facet[3 + k]) * ((double)facet[9 + j] - facet[3 + j]);
		length += n[i] * n[i];
	}
	length = sqrt(length);
	for (int i = 0; i < 3; i++)
		facet[i] = length > 0 ? (float)(n[i] / length) : 0;
}

void stl_append(struct buffer *out, const struct trellis_mesh *m)
{
	char header[80] = "trellisfs " TRELLISFS_VERSION ", millimetres, z up"; /* must not begin with "solid" */
	uint32_t count = (uint32_t)m->n_faces;
	struct placement at = place(m);
	buffer_append(out, header, sizeof header);
	buffer_append(out, &count, sizeof count);
	for (int64_t f = 0; f < m->n_faces; f++) {
		float facet[12];
		const uint16_t attribute = 0;
		for (int i = 0; i < 3; i++)
			corner_mm(&at, m->vertices + 3 * (int64_t)m->faces[3 * f + i], facet + 3 * (i + 1));
		set_normal(facet);
		buffer_append(out, facet, sizeof facet);
		buffer_append(out, &attribute, sizeof attribute);
	}
}
