/* matting_color.h - models of colour for matting: a perceptual space, a smooth background, a mixture of Gaussians. */
#ifndef TRELLIS_MATTING_COLOR_H
#define TRELLIS_MATTING_COLOR_H

#include <stdbool.h>
#include <stdint.h>

/* n RGBA pixels to Oklab times 100 (lightness 0..100, a, b); alpha is ignored. A shadow scales the vector, because
 * Oklab is linear in cube roots of light. */
void color_to_lab(float (*lab)[3], const uint8_t *rgba, int n);

/* A quadratic in x, y for each channel: what a background with a gradient looks like where the object hides it. */
struct color_surface {
	float c[3][6]; /* 1, x, y, x^2, xy, y^2 with x, y in -1..1 over the image */
	float width, height;
	float spread; /* typical distance of a background pixel from it */
};

/* Fit to the pixels with a mask, robustly: a third of them may be something else. */
void color_surface_fit(struct color_surface *s, const float (*lab)[3], const uint8_t *mask, int width, int height);
void color_surface_at(float lab[3], const struct color_surface *s, float x, float y);

enum { MIXTURE_MAX = 5 };

struct color_mixture {
	int n;
	struct color_gaussian {
		float mean[3];
		float inverse[6]; /* of the covariance: 00 01 02 11 12 22 */
		float offset;	  /* -log weight + half the log determinant */
	} g[MIXTURE_MAX];
};

/* Fit up to n Gaussians to count colours; noise is the least standard deviation. */
void color_mixture_fit(struct color_mixture *m, int n, const float (*lab)[3], int count, float noise);

/* Minus the log likelihood under the best Gaussian, up to a constant; 1000 for an empty mixture. */
float color_mixture_energy(const struct color_mixture *m, const float lab[3]);

#endif
