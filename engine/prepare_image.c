/* prepare_image.c - a picture to the image encoder's input, pixel for pixel as the official pipeline prepares it.
 * First stage of pipeline.c; encode_image.c takes the result.
 *
 *   image -> [cut out, when it has no alpha] -> crop to 1.2 times the box of alpha > 0.8 -> Lanczos to size x size
 *         -> colour times alpha, cut to 8 bits -> (x / 255 - mean) / deviation
 *
 * The official code always resizes to 518, the input of its encoder; an encoder of another size gets its own size at
 * once rather than a second resampling. Source: TRELLIS, trellis_image_to_3d.py, preprocess_image and encode_image. */
#include "prepare_image.h"

#include "matting.h"
#include "resize.h"

#include <math.h>
#include <stdlib.h>

/* The square around the opaque pixels, enlarged by 1.2. Edges that fall between two pixels go to the even one. */
static bool find_crop(struct resize_box *crop, const struct trellis_image *image, struct error *err)
{
	int x0 = image->width, y0 = image->height, x1 = -1, y1 = -1;
	for (int y = 0; y < image->height; y++) {
		const uint8_t *row = image->rgba + (size_t)y * (size_t)image->width * 4;
		for (int x = 0; x < image->width; x++) {
			if (row[4 * x + 3] <= 204) /* 0.8 * 255 */
				continue;
			x0 = x < x0 ? x : x0;
			x1 = x > x1 ? x : x1;
			y0 = y < y0 ? y : y0;
			y1 = y;
		}
	}
	if (x1 < 0)
		return error_set(err, "no object found: no pixel of the alpha channel is more than 80%% opaque");
	double cx = (x0 + x1) / 2.0, cy = (y0 + y1) / 2.0;
	int longest = x1 - x0 > y1 - y0 ? x1 - x0 : y1 - y0;
	int half = (int)(longest * 1.2) / 2;
	if (half == 0)
		return error_set(err, "no object found: the opaque part of the image is only %d x %d pixels",
			x1 - x0 + 1, y1 - y0 + 1);
	*crop = (struct resize_box){
		(int)rint(cx - half), (int)rint(cy - half), (int)rint(cx + half), (int)rint(cy + half)};
	return true;
}

/* On black, in place: rgba [n, 4] -> rgb [n, 3]. The order of the float operations decides which way a value is cut. */
static void premultiply(uint8_t *rgba, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		float alpha = (float)rgba[4 * i + 3] / 255;
		for (size_t c = 0; c < 3; c++)
			rgba[3 * i + c] = (uint8_t)((float)rgba[4 * i + c] / 255 * alpha * 255);
	}
}

void normalise_pixels(float *pixels, int64_t n)
{
	static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
	for (int64_t c = 0; c < 3; c++)
		for (int64_t i = 0; i < n; i++)
			pixels[c * n + i] = (pixels[c * n + i] - mean[c]) / deviation[c];
}

static bool normalise(float **out, const uint8_t *rgb, size_t n, struct error *err)
{
	float *pixels = malloc(n * 3 * sizeof *pixels);
	if (!pixels)
		return error_set(err, "out of memory preparing an image");
	for (size_t c = 0; c < 3; c++)
		for (size_t i = 0; i < n; i++)
			pixels[c * n + i] = (float)rgb[3 * i + c] / 255;
	normalise_pixels(pixels, (int64_t)n);
	*out = pixels;
	return true;
}

bool prepare_image(float **pixels, uint8_t **rgb, const struct trellis_image *image, int size, const char **cutout,
	struct error *err)
{
	struct trellis_image cut = {0};
	const char *method = "alpha";
	if (!image->has_alpha) {
		if (!matting_cut_out(&cut, &method, image, err))
			return false;
		image = &cut;
	}
	struct resize_box crop;
	uint8_t *resized = NULL;
	bool ok = find_crop(&crop, image, err) && resize_lanczos(&resized, size, size, image, &crop, err);
	trellis_image_finish(&cut);
	if (ok) {
		size_t n = (size_t)size * (size_t)size;
		premultiply(resized, n);
		ok = normalise(pixels, resized, n, err);
	}
	if (ok)
		*cutout = method;
	if (ok && rgb)
		*rgb = resized;
	else
		free(resized);
	return ok;
}
