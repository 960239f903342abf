/* image.h - what the decoders of picture files share. Public functions: trellis.h. */
#ifndef TRELLIS_IMAGE_H
#define TRELLIS_IMAGE_H

#include "trellis.h"

struct image_limits {
	int side;	/* pixels */
	int64_t pixels; /* of the whole image */
	size_t file_bytes;
	int scans; /* of a progressive JPEG: each goes over all coefficients, whatever few bytes it has */
};

extern const struct image_limits image_default_limits;

/* Decode bytes of any kind; trellis_image_decode() is this with the default limits. */
bool image_decode(struct trellis_image *image, const void *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err);

/* One format. image is written only on success; has_alpha is left false. */
bool image_decode_png(struct trellis_image *image, const uint8_t *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err);
bool image_decode_jpeg(struct trellis_image *image, const uint8_t *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err);

/* Refuse a size over the limits before anything is allocated for it. */
bool image_check_size(
	uint32_t width, uint32_t height, const char *name, const struct image_limits *limits, struct error *err);

/* Exif's orientation, 1 to 8, from the payload of a JPEG's APP1 segment; 1 when it has none. */
int image_exif_orientation(const uint8_t *bytes, size_t size);

/* Turn the picture as Exif's orientation says: 1 leaves it, 6 turns it by 90 degrees clockwise. */
bool image_orient(struct trellis_image *image, int orientation, const char *name, struct error *err);

#endif
