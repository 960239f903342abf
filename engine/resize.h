/* resize.h - Lanczos resampling of 8-bit RGBA, equal to Pillow's to the last bit. */
#ifndef TRELLIS_RESIZE_H
#define TRELLIS_RESIZE_H

#include "trellis.h"

/* Half-open, in pixels of an image; may reach beyond it, where everything is transparent black. */
struct resize_box {
	int x0, y0, x1, y1;
};

/* Resample a box of the image to a new *rgba[height, width, 4], which the caller frees. As in Pillow, colours are
 * premultiplied to 8 bits on the way, so that hidden ones do not bleed into the edge, unless the box has the size
 * already. What lies beyond the image costs no memory. Fails only for want of memory. Sides of the box: 1 to 65,535. */
bool resize_lanczos(uint8_t **rgba, int width, int height, const struct trellis_image *image,
	const struct resize_box *box, struct error *err);

#endif
