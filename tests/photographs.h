/* photographs.h - make photographs of which the true outline is known: a picture with alpha before a made-up
 * background, through JPEG. For the tests of matting. */
#ifndef TESTS_PHOTOGRAPHS_H
#define TESTS_PHOTOGRAPHS_H

#include "image.h"

#include "image_files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum scene { SCENE_WHITE, SCENE_GREEN, SCENE_GRADIENT, SCENE_NOISE, SCENE_SHADOW, SCENE_TWO_TONE, SCENE_WOOD, SCENES };

static const char *const scene_names[SCENES] = {"white", "green", "gradient", "noise", "shadow", "two-tone", "wood"};

/* Approximately normal, deviation 1 */
static inline float photograph_noise(uint32_t *state)
{
	float sum = -6;
	for (int i = 0; i < 12; i++) {
		*state = *state * 1664525u + 1013904223u;
		sum += (float)(*state >> 8) * 0x1p-24f;
	}
	return sum;
}

/* The background's colour at x, y in 0..1; shadow is how much light the object takes, 0..1. */
static inline void photograph_background(float rgb[3], enum scene scene, float x, float y, float shadow)
{
	static const float plain[SCENES][3] = {{250, 250, 250}, {60, 190, 80}, {180, 190, 210}, {150, 140, 130},
		{225, 222, 215}, {200, 205, 215}, {170, 125, 85}};
	float light = 1 - 0.55f * shadow;
	for (int c = 0; c < 3; c++) {
		float v = plain[scene][c];
		if (scene == SCENE_GRADIENT)
			v *= 1.15f - 0.35f * x - 0.3f * y + 0.15f * x * x;
		if (scene == SCENE_TWO_TONE && y > 0.68f)
			v = (float[]){120, 100, 85}[c];
		if (scene == SCENE_WOOD)
			v *= 1 + 0.09f * sinf(60 * y + 5 * sinf(3 * x)) + 0.04f * sinf(210 * y + 9 * sinf(2 * x + 1));
		rgb[c] = v * (scene == SCENE_SHADOW || scene == SCENE_TWO_TONE ? light : 1);
	}
}

/* A JPEG of width x height pixels with object (opaque where its alpha is) at left, top; the file is the caller's. */
static inline struct bytes make_photograph(
	const struct trellis_image *object, enum scene scene, int width, int height, int left, int top)
{
	uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
	uint32_t state = 1;
	float deviation = scene == SCENE_NOISE ? 12 : 2;
	int bottom = 0; /* of the object: where its shadow lies */
	for (int i = 0; i < object->width * object->height; i++)
		if (object->rgba[4 * i + 3] > 127)
			bottom = top + i / object->width;
	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			int u = x - left, v = y - top;
			const uint8_t *p = u >= 0 && v >= 0 && u < object->width && v < object->height
						   ? object->rgba + (v * object->width + u) * 4
						   : (const uint8_t[4]){0};
			float dx = ((float)x - (float)left - 0.55f * (float)object->width) /
				   (0.45f * (float)object->width);
			float dy = ((float)y - (float)bottom) / (0.1f * (float)object->height);
			float back[3];
			photograph_background(back, scene, (float)x / (float)width, (float)y / (float)height,
				expf(-dx * dx - dy * dy));
			for (int c = 0; c < 3; c++) {
				float a = (float)p[3] / 255, value = a * p[c] + (1 - a) * back[c];
				value += deviation * photograph_noise(&state);
				rgb[(y * width + x) * 3 + c] = (uint8_t)lrintf(fminf(fmaxf(value, 0), 255));
			}
		}
	}
	struct bytes file = make_jpeg(&(struct jpeg_options){.width = width,
					      .height = height,
					      .space = JCS_RGB,
					      .stored_space = JCS_YCbCr,
					      .channels = 3,
					      .quality = 88},
		rgb);
	free(rgb);
	return file;
}

#endif
