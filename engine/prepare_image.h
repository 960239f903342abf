/* prepare_image.h - a picture to the image encoder's input: cut out, crop, resize, premultiply on black, normalise. */
#ifndef TRELLIS_PREPARE_IMAGE_H
#define TRELLIS_PREPARE_IMAGE_H

#include "trellis.h"

/* size: the encoder's image_size (518 for TRELLIS-image-large, 224 for trellis-mini).
 * *pixels [3, size, size] f32, normalised with ImageNet's mean and deviation; *rgb [size, size, 3] the same picture in
 * 8 bits, as the official preprocess_image returns it, unless rgb is NULL. The caller frees both. *cutout says what
 * separated the object from its background: "alpha", or a name from matting.h; static.
 * Errors: nothing opaque in the alpha channel, no object found by matting, an object of a single pixel. */
bool prepare_image(float **pixels, uint8_t **rgb, const struct trellis_image *image, int size, const char **cutout,
	struct error *err);

/* pixels [3, n] in 0..1 to what the encoder was trained on: ImageNet's mean and deviation taken out, in place. */
void normalise_pixels(float *pixels, int64_t n);

#endif
