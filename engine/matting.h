/* matting.h - cut the object out of a photograph without alpha, classically: no network, no weights. */
#ifndef TRELLIS_MATTING_H
#define TRELLIS_MATTING_H

#include "trellis.h"

/* Scale image to at most 1024 pixels as the official code does and cut out what differs from the colours along its
 * border: *out is a new image with alpha, which the caller ends with trellis_image_finish(). *method (static):
 *   "matting"  the object stands free of the border or touches a part of it. */
bool matting_cut_out(
	struct trellis_image *out, const char **method, const struct trellis_image *image, struct error *err);

#endif
