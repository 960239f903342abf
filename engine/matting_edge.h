/* matting_edge.h - tidy a mask of labels and give it a soft edge. */
#ifndef TRELLIS_MATTING_EDGE_H
#define TRELLIS_MATTING_EDGE_H

#include "trellis.h"

/* Keep what belongs to the object in labels [h, w]: its largest connected part and parts of at least a twentieth of
 * that; and fill every hole. *size: object pixels left. Fails only for want of memory. */
bool matting_tidy(uint8_t *labels, int width, int height, int *size, struct error *err);

/* Write the alpha channel of image: the labels with an edge of 1 or 2 pixels estimated from the colours on both sides,
 * and take the background's colour out of the edge's. Fails only for want of memory. */
bool matting_soften(struct trellis_image *image, const uint8_t *labels, struct error *err);

#endif
