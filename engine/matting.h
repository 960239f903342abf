/* matting.h - cut the object out of a photograph without alpha, classically: no network, no weights. */
#ifndef TRELLIS_MATTING_H
#define TRELLIS_MATTING_H

#include "trellis.h"

/* Scale image to at most 1024 pixels as the official code does and cut out what differs from the colours along its
 * border: *out is a new image, which the caller ends with trellis_image_finish(). *method (static):
 *   "matting"  out has an alpha channel
 *   "uncut"    the background is too busy to be told from an object: out is the whole picture, opaque
 * Errors: "no object found: ..." when nothing differs, or want of memory. */
bool matting_cut_out(
	struct trellis_image *out, const char **method, const struct trellis_image *image, struct error *err);

#endif
