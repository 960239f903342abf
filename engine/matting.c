/* matting.c - cut the object out of a photograph without alpha, classically. Used by prepare_image.c.
 *
 *   photograph -> at most 1024 pixels (Lanczos, as the official code scales it)
 *     -> coarse copy, at most 256: background model from the border, flood from the border, three rounds of GrabCut
 *     -> tidy: significant parts, no holes -> a band around the outline is cut again at full size -> soft edge
 *
 * The background along the border is a smooth surface of colour plus a few Gaussians, so that gradients and two-tone
 * backgrounds are followed into the middle. A flood from the border takes what has these colours, and what looks like
 * their shadow as long as the colour changes gently: a soft shadow is entered from the side, an object with a sharp
 * outline is not, even if it is grey on white. The flood is only evidence; the cut decides.
 *
 * Limits: an object in the colour of a textured background is lost in parts (wood before wood), hard-edged shadows stay
 * with the object, openings that one can look through are filled (the handle of a cup), and a textured background with
 * nothing before it can yield a piece of itself. Figures for seven kinds of background are in tests/test_matting.c. On
 * a floor before a wall (pictures by Blender, contrib/mini/blender.py: plain, shaded, wood) the overlap is 0.94 for the 4
 * objects on which is_shadow was chosen and 0.85 for 3 others; without its brighter range 0.72 and 0.68. Worst are a white
 * stem before near-white (lost, 0.83) and a strip of wall that stays (0.53). At 1024 x 1024 pixels it takes about 0.4 s of
 * one core.
 *
 * Sources: Rother, Kolmogorov, Blake, "GrabCut", SIGGRAPH 2004 (mixtures, contrast, iteration); the rest is our own. */
#include "matting.h"

#include "matting_color.h"
#include "matting_cut.h"
#include "matting_edge.h"
#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	MAX_SIDE = 1024,   /* the official limit */
	COARSE_SIDE = 256, /* enough to find the object, a sixteenth of the work */
	ROUNDS = 3,
};

/* A picture in the making: one level of resolution. */
struct level {
	int width, height, n;
	float (*lab)[3];      /* [n] */
	float (*residual)[3]; /* [n] lab minus the background surface, when there is one */
	float (*sample)[3];   /* [n] scratch for fitting */
	float *steep;	      /* [n] largest colour difference to a neighbour */
	float *energy;	      /* [n] of the background model, then preference for the object */
	uint8_t *flooded;     /* [n] reached from the border */
	uint8_t *labels;      /* [n] */
};

static void level_finish(struct level *l)
{
	free(l->labels);
	free(l->flooded);
	free(l->energy);
	free(l->steep);
	free(l->sample);
	free(l->residual);
	free(l->lab);
	*l = (struct level){0};
}

static bool level_init(struct level *l, const struct trellis_image *image, struct error *err)
{
	size_t n = (size_t)image->width * (size_t)image->height;
	*l = (struct level){.width = image->width, .height = image->height, .n = (int)n};
	l->lab = malloc(n * sizeof *l->lab);
	l->residual = malloc(n * sizeof *l->residual);
	l->sample = malloc(n * sizeof *l->sample);
	l->steep = malloc(n * sizeof *l->steep);
	l->energy = malloc(n * sizeof *l->energy);
	l->flooded = calloc(n, 1);
	l->labels = calloc(n, 1);
	if (!l->lab || !l->residual || !l->sample || !l->steep || !l->energy || !l->flooded || !l->labels) {
		level_finish(l);
		return error_set(err, "out of memory cutting out an image of %d x %d pixels", l->width, l->height);
	}
	color_to_lab(l->lab, image->rgba, l->n);
	return true;
}

/* What the border says about the background. */
struct background {
	bool has_surface; /* else the mixture is of the colours themselves */
	struct color_surface surface;
	struct color_mixture mixture;
	float threshold; /* energies below it are background */
};

static void subtract_surface(struct level *l, const struct background *b, const struct level *fitted)
{
	for (int i = 0; i < l->n; i++) {
		float at[3] = {0};
		if (b->has_surface) /* in the coordinates of the level it was fitted to */
			color_surface_at(at, &b->surface,
				((float)(i % l->width) + 0.5f) * (float)fitted->width / (float)l->width - 0.5f,
				((float)(i / l->width) + 0.5f) * (float)fitted->height / (float)l->height - 0.5f);
		for (int c = 0; c < 3; c++)
			l->residual[i][c] = l->lab[i][c] - at[c];
	}
}

static int compare_floats(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static bool is_border(const struct level *l, int i)
{
	int x = i % l->width, y = i / l->width;
	return x == 0 || y == 0 || x == l->width - 1 || y == l->height - 1;
}

/* The pixels beside i; i itself where the picture ends. */
static void find_neighbours(int neighbours[4], const struct level *l, int i)
{
	int x = i % l->width, y = i / l->width;
	neighbours[0] = x > 0 ? i - 1 : i;
	neighbours[1] = x + 1 < l->width ? i + 1 : i;
	neighbours[2] = y > 0 ? i - l->width : i;
	neighbours[3] = y + 1 < l->height ? i + l->width : i;
}

/* The largest colour difference between a pixel and its 8 neighbours. */
static float steepness(const struct level *l, int i)
{
	int x = i % l->width, y = i / l->width;
	float steepest = 0;
	for (int v = y > 0 ? y - 1 : 0; v <= y + 1 && v < l->height; v++) {
		for (int u = x > 0 ? x - 1 : 0; u <= x + 1 && u < l->width; u++) {
			const float *a = l->lab[i], *b = l->lab[v * l->width + u];
			float square = 0;
			for (int c = 0; c < 3; c++)
				square += (a[c] - b[c]) * (a[c] - b[c]);
			steepest = square > steepest ? square : steepest;
		}
	}
	return sqrtf(steepest);
}

/* Learn the background from a rim of 3 % of the picture. l->flooded is the rim's mask for the moment. */
static void learn_background(struct background *b, struct level *l)
{
	int rim = (l->width < l->height ? l->width : l->height) * 3 / 100;
	rim = rim < 2 ? 2 : rim;
	for (int i = 0; i < l->n; i++) {
		int x = i % l->width, y = i / l->width;
		l->flooded[i] = x < rim || y < rim || x >= l->width - rim || y >= l->height - rim;
	}
	color_surface_fit(&b->surface, l->lab, l->flooded, l->width, l->height);
	b->has_surface = b->surface.spread < 3;
	subtract_surface(l, b, l);
	int count = 0;
	for (int i = 0; i < l->n; i++)
		if (l->flooded[i])
			memcpy(l->sample[count++], l->residual[i], sizeof *l->sample);
	color_mixture_fit(&b->mixture, 4, l->sample, count, 1);
	for (int i = 0; i < count; i++)
		l->energy[i] = color_mixture_energy(&b->mixture, l->sample[i]);
	qsort(l->energy, (size_t)count, sizeof *l->energy, compare_floats);
	b->threshold = l->energy[count * 3 / 4] + 4;
}

/* A shadow of the background: its colour scaled towards black. Where the light is uneven (a floor and a wall: the border is
 * no smooth surface, nor is it a texture) also a little brighter; before an even one that would be a white object. */
static bool is_shadow(const struct background *b, const struct level *l, int i)
{
	bool is_uneven = b->surface.spread > 0.55f && b->surface.spread < 2; /* Oklab units */
	float brightest = is_uneven ? 1.06f : 0.97f;
	for (int k = 0; k < b->mixture.n; k++) {
		float lit[3], dot = 0, square = 0, off = 0;
		for (int c = 0; c < 3; c++) {
			lit[c] = l->lab[i][c] - l->residual[i][c] + b->mixture.g[k].mean[c];
			dot += lit[c] * l->lab[i][c];
			square += lit[c] * lit[c];
		}
		float scale = dot / (square + 1);
		for (int c = 0; c < 3; c++)
			off += (l->lab[i][c] - scale * lit[c]) * (l->lab[i][c] - scale * lit[c]);
		if (scale > 0.6f && scale < brightest && off < 4)
			return true;
	}
	return false;
}

/* Flood from the border through what is gentle: background up to limit, its shadows up to shadow_limit. */
static void flood_gentle(struct level *l, const struct background *b, float limit, float shadow_limit, int *queue)
{
	int count = 0;
	for (int i = 0; i < l->n; i++) {
		l->flooded[i] = is_border(l, i) && l->energy[i] < b->threshold;
		if (l->flooded[i])
			queue[count++] = i;
	}
	for (int k = 0; k < count; k++) {
		int neighbours[4];
		find_neighbours(neighbours, l, queue[k]);
		for (int d = 0; d < 4; d++) {
			int j = neighbours[d];
			bool is_entered = (l->energy[j] < b->threshold && l->steep[j] < limit) ||
					  (l->steep[j] < shadow_limit && is_shadow(b, l, j));
			if (!l->flooded[j] && is_entered) {
				l->flooded[j] = 1;
				queue[count++] = j;
			}
		}
	}
	/* up to the outline, where it is steep but still background */
	for (int k = 0; k < count; k++) {
		int neighbours[4];
		find_neighbours(neighbours, l, queue[k]);
		for (int d = 0; d < 4; d++)
			if (l->energy[neighbours[d]] < b->threshold)
				l->flooded[neighbours[d]] = 1;
	}
}

/* How much of the background in the outer tenth of the picture is flooded. */
static float flooded_share(const struct level *l, const struct background *b)
{
	int all = 0, flooded = 0, frame_x = l->width / 10, frame_y = l->height / 10;
	for (int i = 0; i < l->n; i++) {
		int x = i % l->width, y = i / l->width;
		bool is_inner = x >= frame_x && x < l->width - frame_x && y >= frame_y && y < l->height - frame_y;
		if (is_inner || l->energy[i] >= b->threshold)
			continue;
		all++;
		flooded += l->flooded[i];
	}
	return all ? (float)flooded / (float)all : 1;
}

/* Flood with the strictest limit at which the flood still gets through the background's own texture and noise: then an
 * outline stops it even between equal colours, and it does not squeeze through a weak spot. Shadows are looked for
 * beyond that limit only on a plain background; on a textured one an object in a darker tone looks the same. queue [n]
 * is scratch. */
static bool flood(struct level *l, const struct background *b, int *queue)
{
	const float plain = 1, shadow = 4; /* Oklab units per coarse pixel */
	for (int i = 0; i < l->n; i++) {
		l->energy[i] = color_mixture_energy(&b->mixture, l->residual[i]);
		l->steep[i] = steepness(l, i);
	}
	for (float limit = 0.7f; limit < 8; limit *= 1.25f) {
		flood_gentle(l, b, limit, limit < plain ? shadow : limit, queue);
		if (flooded_share(l, b) > 0.9f)
			return true;
	}
	return false;
}

/* Fit a mixture to every stride'th pixel of one label. */
static void fit_label(struct color_mixture *m, struct level *l, float (*colors)[3], uint8_t label, int stride)
{
	int count = 0;
	for (int i = 0; i < l->n; i += stride)
		if (l->labels[i] == label)
			memcpy(l->sample[count++], colors[i], sizeof *l->sample);
	color_mixture_fit(m, MIXTURE_MAX, l->sample, count, 1);
}

/* One over twice the mean squared difference of neighbours: contrast counts relative to the picture's own. */
static float contrast_falloff(const struct level *l)
{
	double sum = 0;
	for (int i = 1; i < l->n; i++)
		for (int c = 0; c < 3; c++)
			sum += (l->lab[i][c] - l->lab[i - 1][c]) * (l->lab[i][c] - l->lab[i - 1][c]);
	return (float)(l->n / (2 * sum + 1e-3));
}

/* Colours of both sides from the labels, then the best boundary among the pixels that candidates marks unknown.
 * evidence: what the flood counts beside the colours. */
static bool grabcut(struct level *l, const uint8_t *candidates, float evidence, int stride, struct error *err)
{
	struct color_mixture object, background;
	fit_label(&object, l, l->lab, LABEL_OBJECT, stride);
	fit_label(&background, l, l->residual, LABEL_BACKGROUND, stride);
	for (int i = 0; i < l->n; i++) {
		if (candidates[i] != LABEL_UNKNOWN)
			continue;
		float p = color_mixture_energy(&background, l->residual[i]) - color_mixture_energy(&object, l->lab[i]);
		l->energy[i] = fminf(fmaxf(p, -8), 8) + (l->flooded[i] ? -evidence : evidence);
	}
	memcpy(l->labels, candidates, (size_t)l->n);
	return matting_cut(l->labels, l->width, l->height, l->energy, l->lab, 12, contrast_falloff(l), err);
}

/* Find the object at coarse size: labels without unknowns, or *is_separated false. */
static bool segment_coarse(struct level *l, struct background *b, bool *is_separated, struct error *err)
{
	uint8_t *candidates = malloc((size_t)l->n);
	int *queue = malloc((size_t)l->n * sizeof *queue);
	bool ok = candidates && queue;
	*is_separated = false;
	if (!ok) {
		error_set(err, "out of memory cutting out an image of %d x %d pixels", l->width, l->height);
	} else {
		learn_background(b, l);
		*is_separated = flood(l, b, queue);
		for (int i = 0; i < l->n; i++) {
			l->labels[i] = l->flooded[i] ? LABEL_BACKGROUND : LABEL_OBJECT;
			candidates[i] = l->flooded[i] && is_border(l, i) ? LABEL_BACKGROUND : LABEL_UNKNOWN;
		}
	}
	for (int round = 0; ok && *is_separated && round < ROUNDS; round++)
		ok = grabcut(l, candidates, 4, 1, err);
	free(queue);
	free(candidates);
	return ok;
}

/* Carry the labels over to the full size and decide a band of one and a half coarse pixels again there. */
static bool segment_fine(
	struct level *fine, const struct level *coarse, int factor, const struct background *b, struct error *err)
{
	uint8_t *candidates = malloc((size_t)fine->n);
	if (!candidates)
		return error_set(
			err, "out of memory cutting out an image of %d x %d pixels", fine->width, fine->height);
	subtract_surface(fine, b, coarse);
	int reach = factor + factor / 2;
	for (int i = 0; i < fine->n; i++) {
		int x = i % fine->width, y = i / fine->width;
		int x0 = (x - reach < 0 ? 0 : x - reach) / factor, x1 = (x + reach) / factor;
		int y0 = (y - reach < 0 ? 0 : y - reach) / factor, y1 = (y + reach) / factor;
		uint8_t own = coarse->labels[y / factor * coarse->width + x / factor];
		candidates[i] = own;
		fine->labels[i] = own;
		fine->flooded[i] = own == LABEL_BACKGROUND;
		for (int v = y0; v <= y1 && v < coarse->height; v++)
			for (int u = x0; u <= x1 && u < coarse->width; u++)
				if (coarse->labels[v * coarse->width + u] != own)
					candidates[i] = LABEL_UNKNOWN;
	}
	bool ok = grabcut(fine, candidates, 0.5f, 1 + fine->n / 40000, err);
	free(candidates);
	return ok;
}

/* At most MAX_SIDE pixels, as the official code scales; a copy of its own in any case. */
static bool scale_down(struct trellis_image *out, const struct trellis_image *image, struct error *err)
{
	int longest = image->width > image->height ? image->width : image->height;
	double scale = longest > MAX_SIDE ? (double)MAX_SIDE / longest : 1;
	int width = (int)(image->width * scale), height = (int)(image->height * scale);
	width = width < 1 ? 1 : width;
	height = height < 1 ? 1 : height;
	struct resize_box all = {0, 0, image->width, image->height};
	*out = (struct trellis_image){.width = width, .height = height};
	return resize_lanczos(&out->rgba, width, height, image, &all, err);
}

/* Means of blocks of factor x factor pixels. */
static bool shrink(struct trellis_image *out, const struct trellis_image *image, int factor, struct error *err)
{
	int width = (image->width + factor - 1) / factor, height = (image->height + factor - 1) / factor;
	*out = (struct trellis_image){
		.width = width, .height = height, .rgba = malloc((size_t)width * (size_t)height * 4)};
	if (!out->rgba)
		return error_set(
			err, "out of memory cutting out an image of %d x %d pixels", image->width, image->height);
	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			int sum[4] = {0}, count = 0;
			for (int v = y * factor; v < (y + 1) * factor && v < image->height; v++)
				for (int u = x * factor; u < (x + 1) * factor && u < image->width; u++, count++)
					for (int c = 0; c < 4; c++)
						sum[c] += image->rgba[(v * image->width + u) * 4 + c];
			for (int c = 0; c < 4; c++)
				out->rgba[(y * width + x) * 4 + c] = (uint8_t)((sum[c] + count / 2) / count);
		}
	}
	return true;
}

/* Significant parts without holes; less than half a per cent of the picture is no object. */
static bool tidy(struct level *l, struct error *err)
{
	int size;
	if (!matting_tidy(l->labels, l->width, l->height, &size, err))
		return false;
	if (size * 200 < l->n)
		return error_set(err,
			"no object found: nothing in the picture differs clearly from the colours along its border");
	return true;
}

/* Labels of scaled at full size; NULL and *is_separated false when there is no telling object from background. */
static bool segment(uint8_t **labels, bool *is_separated, const struct trellis_image *scaled, struct error *err)
{
	int longest = scaled->width > scaled->height ? scaled->width : scaled->height;
	int factor = (longest + COARSE_SIDE - 1) / COARSE_SIDE;
	struct trellis_image small = {0};
	struct level coarse = {0}, fine = {0};
	struct background background;
	bool ok = shrink(&small, scaled, factor, err) && level_init(&coarse, &small, err) &&
		  segment_coarse(&coarse, &background, is_separated, err);
	if (ok && *is_separated)
		ok = tidy(&coarse, err) && level_init(&fine, scaled, err) &&
		     segment_fine(&fine, &coarse, factor, &background, err) && tidy(&fine, err);
	if (ok) {
		*labels = fine.labels;
		fine.labels = NULL;
	}
	level_finish(&fine);
	level_finish(&coarse);
	trellis_image_finish(&small);
	return ok;
}

bool matting_cut_out(
	struct trellis_image *out, const char **method, const struct trellis_image *image, struct error *err)
{
	struct trellis_image scaled = {0};
	uint8_t *labels = NULL;
	bool is_separated;
	bool ok = scale_down(&scaled, image, err) && segment(&labels, &is_separated, &scaled, err) &&
		  (!is_separated || matting_soften(&scaled, labels, err));
	free(labels);
	if (!ok) {
		trellis_image_finish(&scaled);
		return false;
	}
	scaled.has_alpha = is_separated;
	*out = scaled;
	*method = is_separated ? "matting" : "uncut";
	return true;
}
