/* resize.c - Lanczos resampling as Pillow does it, because the networks were trained behind it.
 * Used by prepare_image.c and matting.c.
 *
 * Separable, the rows first, each pass rounded to 8 bits. A pass is a table of windows over the input, one an output
 * pixel, with weights in 22-bit fixed point. Opaque images come out as Pillow's RGB ones do.
 * Source: Pillow's Image.resize with Resampling.LANCZOS. */
#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22 /* 32 minus 8 for the pixel and 2 for overshoot and sign */

/* Where the windows of one axis lie: output i reads in[first[i] .. first[i] + count[i] - 1]. */
struct windows {
	int stride; /* weights a window */
	int *first, *count;
	int32_t *weights; /* [out_size, stride] */
};

static void windows_finish(struct windows *w)
{
	free(w->first);
	free(w->count);
	free(w->weights);
}

static double sinc(double x)
{
	return x == 0 ? 1 : sin(x * M_PI) / (x * M_PI);
}

static double lanczos3(double x)
{
	return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/* Weights of output pixel i over inputs first .. end-1, in double into exact; the rounding of each step is Pillow's. */
static void weigh(int32_t *weights, double *exact, int i, int first, int end, double scale)
{
	double centre = (i + 0.5) * scale, shrink = 1 / (scale < 1 ? 1 : scale), sum = 0;
	for (int k = 0; k < end - first; k++) {
		exact[k] = lanczos3((k + first - centre + 0.5) * shrink);
		sum += exact[k];
	}
	for (int k = 0; k < end - first; k++) {
		double v = (sum != 0 ? exact[k] / sum : exact[k]) * (1 << WEIGHT_BITS);
		weights[k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
	}
}

/* An axis of in_size pixels, of which only real_first .. real_end-1 exist and the others are zero: windows are cut to
 * the existing ones and count from real_first. */
static bool windows_init(struct windows *w, int in_size, int out_size, int real_first, int real_end)
{
	double scale = (double)in_size / out_size;
	double support = 3 * (scale < 1 ? 1 : scale);
	*w = (struct windows){.stride = (int)ceil(support) * 2 + 1};
	w->first = malloc((size_t)out_size * sizeof *w->first);
	w->count = malloc((size_t)out_size * sizeof *w->count);
	w->weights = malloc((size_t)out_size * (size_t)w->stride * sizeof *w->weights);
	double *exact = malloc((size_t)w->stride * sizeof *exact);
	bool ok = w->first && w->count && w->weights && exact;
	for (int i = 0; ok && i < out_size; i++) {
		double centre = (i + 0.5) * scale;
		int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
		first = first < 0 ? 0 : first;
		end = end > in_size ? in_size : end;
		int32_t *weights = w->weights + (size_t)i * (size_t)w->stride;
		weigh(weights, exact, i, first, end, scale);
		int skip = real_first > first ? real_first - first : 0;
		int count = (end < real_end ? end : real_end) - first - skip;
		count = count < 0 ? 0 : count;
		memmove(weights, weights + (count ? skip : 0), (size_t)count * sizeof *weights);
		w->first[i] = count ? first + skip - real_first : 0;
		w->count[i] = count;
	}
	free(exact);
	return ok;
}

static uint8_t round_to_8_bits(int32_t sum)
{
	sum >>= WEIGHT_BITS;
	return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One row, in [in_w, 4] -> out [out_w, 4] */
static void resample_row(uint8_t *out, int out_w, const uint8_t *in, const struct windows *w)
{
	for (int x = 0; x < out_w; x++) {
		const int32_t *weights = w->weights + (size_t)x * (size_t)w->stride;
		const uint8_t *p = in + (size_t)w->first[x] * 4;
		int32_t sum[4] = {0};
		for (int k = 0; k < w->count[x]; k++, p += 4)
			for (int c = 0; c < 4; c++)
				sum[c] += p[c] * weights[k];
		for (int c = 0; c < 4; c++)
			*out++ = round_to_8_bits(sum[c] + (1 << (WEIGHT_BITS - 1)));
	}
}

/* in [in_h, n] -> out [out_h, n]; sums [n] is scratch */
static void resample_columns(
	uint8_t *out, int out_h, const uint8_t *in, size_t n, const struct windows *w, int32_t *sums)
{
	for (int y = 0; y < out_h; y++, out += n) {
		const int32_t *weights = w->weights + (size_t)y * (size_t)w->stride;
		const uint8_t *p = in + (size_t)w->first[y] * n;
		for (size_t i = 0; i < n; i++)
			sums[i] = 1 << (WEIGHT_BITS - 1);
		for (int k = 0; k < w->count[y]; k++, p += n)
			for (size_t i = 0; i < n; i++)
				sums[i] += p[i] * weights[k];
		for (size_t i = 0; i < n; i++)
			out[i] = round_to_8_bits(sums[i]);
	}
}

/* round(a * b / 255) */
static uint8_t multiply_255(int a, int b)
{
	int t = a * b + 128;
	return (uint8_t)((t + (t >> 8)) >> 8);
}

static void premultiply(uint8_t *out, const uint8_t *in, int n)
{
	for (int i = 0; i < 4 * n; i += 4) {
		for (int c = 0; c < 3; c++)
			out[i + c] = multiply_255(in[i + c], in[i + 3]);
		out[i + 3] = in[i + 3];
	}
}

static void unpremultiply(uint8_t *rgba, size_t n)
{
	for (uint8_t *p = rgba; p < rgba + 4 * n; p += 4) {
		for (int c = 0; p[3] && c < 3; c++) {
			int v = 255 * p[c] / p[3];
			p[c] = (uint8_t)(v > 255 ? 255 : v);
		}
	}
}

static int clamp(int v, int low, int high)
{
	return v < low ? low : v > high ? high : v;
}

bool resize_lanczos(uint8_t **rgba, int width, int height, const struct trellis_image *image,
	const struct resize_box *box, struct error *err)
{
	int box_w = box->x1 - box->x0, box_h = box->y1 - box->y0;
	bool same_size = box_w == width && box_h == height;
	/* the part of the image inside the box */
	int x0 = clamp(box->x0, 0, image->width), x1 = clamp(box->x1, x0, image->width);
	int y0 = clamp(box->y0, 0, image->height), y1 = clamp(box->y1, y0, image->height);

	struct windows across = {0}, down = {0};
	size_t row_bytes = (size_t)width * 4;
	uint8_t *half = malloc(row_bytes * (size_t)(y1 - y0) + 1), *full = malloc(row_bytes * (size_t)height);
	uint8_t *row = malloc((size_t)(x1 - x0) * 4 + 1);
	int32_t *sums = malloc(row_bytes * sizeof *sums);
	bool ok = half && full && row && sums && windows_init(&across, box_w, width, x0 - box->x0, x1 - box->x0) &&
		  windows_init(&down, box_h, height, y0 - box->y0, y1 - box->y0);
	if (ok) {
		for (int y = y0; y < y1; y++) {
			const uint8_t *in = image->rgba + ((size_t)y * (size_t)image->width + (size_t)x0) * 4;
			if (!same_size) {
				premultiply(row, in, x1 - x0);
				in = row;
			}
			resample_row(half + (size_t)(y - y0) * row_bytes, width, in, &across);
		}
		resample_columns(full, height, half, row_bytes, &down, sums);
		if (!same_size)
			unpremultiply(full, (size_t)width * (size_t)height);
		*rgba = full;
	} else {
		free(full);
		error_set(err, "out of memory resizing an image to %d x %d pixels", width, height);
	}
	windows_finish(&down);
	windows_finish(&across);
	free(sums);
	free(row);
	free(half);
	return ok;
}
