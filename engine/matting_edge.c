/* matting_edge.c - tidy a mask of labels and give it a soft edge. Used by matting.c. */
#include "matting_edge.h"

#include "matting_cut.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Collect the pixels connected to start (by their sides) that have its label and are not seen yet: stack[0 .. n-1]. */
static int collect(int *stack, uint8_t *seen, const uint8_t *labels, int width, int height, int start)
{
	int n = 0;
	stack[n++] = start;
	seen[start] = 1;
	for (int k = 0; k < n; k++) {
		int i = stack[k], x = i % width, y = i / width;
		int neighbours[4] = {x > 0 ? i - 1 : i, x + 1 < width ? i + 1 : i, y > 0 ? i - width : i,
			y + 1 < height ? i + width : i};
		for (int d = 0; d < 4; d++) {
			int j = neighbours[d];
			if (!seen[j] && labels[j] == labels[start]) {
				seen[j] = 1;
				stack[n++] = j;
			}
		}
	}
	return n;
}

static bool touches_border(const int *pixels, int n, int width, int height)
{
	for (int k = 0; k < n; k++) {
		int x = pixels[k] % width, y = pixels[k] / width;
		if (x == 0 || y == 0 || x == width - 1 || y == height - 1)
			return true;
	}
	return false;
}

static void relabel(uint8_t *labels, const int *pixels, int n, uint8_t label)
{
	for (int k = 0; k < n; k++)
		labels[pixels[k]] = label;
}

bool matting_tidy(uint8_t *labels, int width, int height, int *size, struct error *err)
{
	int n = width * height, largest = 0, total = 0;
	int *stack = malloc((size_t)n * sizeof *stack);
	uint8_t *seen = calloc((size_t)n, 1);
	if (!stack || !seen) {
		free(seen);
		free(stack);
		return error_set(err, "out of memory cutting out an image of %d x %d pixels", width, height);
	}
	for (int i = 0; i < n; i++) {
		if (seen[i])
			continue;
		int part = collect(stack, seen, labels, width, height, i);
		if (labels[i] == LABEL_BACKGROUND && !touches_border(stack, part, width, height))
			relabel(labels, stack, part, LABEL_OBJECT);
	}
	for (int pass = 0; pass < 2; pass++) { /* measure, then drop; filled holes count */
		memset(seen, 0, (size_t)n);
		for (int i = 0; i < n; i++) {
			if (seen[i] || labels[i] != LABEL_OBJECT)
				continue;
			int part = collect(stack, seen, labels, width, height, i);
			if (pass == 0)
				largest = part > largest ? part : largest;
			else if (part * 20 < largest)
				relabel(labels, stack, part, LABEL_BACKGROUND);
			else
				total += part;
		}
	}
	free(seen);
	free(stack);
	*size = total;
	return true;
}

enum { ZONE = 2, REACH = 6 }; /* pixels: half width of the edge; how far colours of the two sides are looked for */

/* Mark the pixels within ZONE of a change of label. */
static void mark_zone(uint8_t *zone, const uint8_t *labels, int width, int height)
{
	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			const uint8_t *l = labels + y * width + x;
			if (!(x + 1 < width && l[0] != l[1]) && !(y + 1 < height && l[0] != l[width]))
				continue;
			for (int v = y - ZONE + 1; v <= y + ZONE; v++)
				for (int u = x - ZONE + 1; u <= x + ZONE; u++)
					if (u >= 0 && v >= 0 && u < width && v < height)
						zone[v * width + u] = 1;
		}
	}
}

/* Mean colours of the two sides near x, y, outside the zone; false when a side has too few pixels there. */
static bool sides(float object[3], float background[3], const uint8_t *rgba, const uint8_t *labels, const uint8_t *zone,
	int width, int height, int x, int y)
{
	int sum[2][4] = {{0}};
	for (int v = y - REACH < 0 ? 0 : y - REACH; v <= y + REACH && v < height; v++) {
		for (int u = x - REACH < 0 ? 0 : x - REACH; u <= x + REACH && u < width; u++) {
			int i = v * width + u;
			if (zone[i])
				continue;
			int *s = sum[labels[i] == LABEL_OBJECT];
			for (int c = 0; c < 3; c++)
				s[c] += rgba[4 * i + c];
			s[3]++;
		}
	}
	if (sum[0][3] < 4 || sum[1][3] < 4)
		return false;
	for (int c = 0; c < 3; c++) {
		background[c] = (float)sum[0][c] / (float)sum[0][3];
		object[c] = (float)sum[1][c] / (float)sum[1][3];
	}
	return true;
}

/* The share of object among a pixel's 3 x 3 neighbours: an edge where colours cannot say. */
static float blurred(const uint8_t *labels, int width, int height, int x, int y)
{
	int object = 0, all = 0;
	for (int v = y - 1; v <= y + 1; v++)
		for (int u = x - 1; u <= x + 1; u++)
			if (u >= 0 && v >= 0 && u < width && v < height) {
				object += labels[v * width + u] == LABEL_OBJECT;
				all++;
			}
	return (float)object / (float)all;
}

/* Where on the way from the background's colour to the object's the pixel lies; the label bounds it, so that texture
 * near the edge cannot punch holes. The pixel's colour becomes the object's share of it. */
static float unmix(uint8_t *pixel, const float object[3], const float background[3], bool is_object)
{
	float dot = 0, square = 0;
	for (int c = 0; c < 3; c++) {
		dot += ((float)pixel[c] - background[c]) * (object[c] - background[c]);
		square += (object[c] - background[c]) * (object[c] - background[c]);
	}
	float alpha = dot / square;
	alpha = is_object ? fminf(fmaxf(alpha, 0.5f), 1) : fminf(fmaxf(alpha, 0), 0.5f);
	for (int c = 0; c < 3; c++) {
		float own = alpha < 0.5f ? object[c] : ((float)pixel[c] - (1 - alpha) * background[c]) / alpha;
		pixel[c] = (uint8_t)lrintf(fminf(fmaxf(own, 0), 255));
	}
	return alpha;
}

bool matting_soften(struct trellis_image *image, const uint8_t *labels, struct error *err)
{
	int width = image->width, height = image->height, n = width * height;
	uint8_t *zone = calloc((size_t)n, 1), *copy = malloc((size_t)n * 4);
	if (!zone || !copy) {
		free(copy);
		free(zone);
		return error_set(err, "out of memory cutting out an image of %d x %d pixels", width, height);
	}
	memcpy(copy, image->rgba, (size_t)n * 4);
	mark_zone(zone, labels, width, height);
	for (int i = 0; i < n; i++) {
		uint8_t *pixel = image->rgba + 4 * i;
		bool is_object = labels[i] == LABEL_OBJECT;
		float alpha = is_object, object[3], background[3];
		if (zone[i]) {
			int x = i % width, y = i / width;
			bool known = sides(object, background, copy, labels, zone, width, height, x, y);
			float contrast = 0;
			for (int c = 0; known && c < 3; c++)
				contrast += fabsf(object[c] - background[c]);
			alpha = known && contrast > 45 ? unmix(pixel, object, background, is_object)
						       : blurred(labels, width, height, x, y);
		}
		pixel[3] = (uint8_t)lrintf(255 * alpha);
	}
	free(copy);
	free(zone);
	return true;
}
