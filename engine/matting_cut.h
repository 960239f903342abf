/* matting_cut.h - the smallest cut between object and background on a pixel grid. */
#ifndef TRELLIS_MATTING_CUT_H
#define TRELLIS_MATTING_CUT_H

#include "error.h"

#include <stdint.h>

enum { LABEL_BACKGROUND, LABEL_OBJECT, LABEL_UNKNOWN };

/* Decide the unknown labels: minimise  sum of preferences against + sum over 8-neighbours with different labels of
 *   smoothness * exp(-falloff * |colour difference|^2) / distance.
 * labels [h, w] in: any of the three, out: the first two; preference [h, w]: how much better object is than background
 * at a pixel (negative: worse), read where the label is unknown; lab [h, w, 3]. Fails only for want of memory. */
bool matting_cut(uint8_t *labels, int width, int height, const float *preference, const float (*lab)[3],
	float smoothness, float falloff, struct error *err);

#endif
