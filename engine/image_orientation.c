/* image_orientation.c - how the camera was held: Exif's orientation tag, and turning the picture upright by it.
 * Used by image_jpeg.c.
 * Source: Exif 2.32, tag 0x0112; TIFF 6.0 for the structure around it. */
#include "image.h"

#include <stdlib.h>
#include <string.h>

/* A bounded view of the TIFF structure; reads outside give 0, which no tag or orientation has. */
struct tiff {
	const uint8_t *bytes;
	size_t size;
	bool is_big_endian;
};

static unsigned tiff_u16(const struct tiff *t, size_t offset)
{
	if (offset + 2 > t->size)
		return 0;
	unsigned a = t->bytes[offset], b = t->bytes[offset + 1];
	return t->is_big_endian ? a << 8 | b : b << 8 | a;
}

static uint32_t tiff_u32(const struct tiff *t, size_t offset)
{
	uint32_t a = tiff_u16(t, offset), b = tiff_u16(t, offset + 2);
	return t->is_big_endian ? a << 16 | b : b << 16 | a;
}

int image_exif_orientation(const uint8_t *bytes, size_t size)
{
	enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, ENTRY = 12 };
	if (size < 6 || memcmp(bytes, "Exif\0\0", 6) != 0)
		return 1;
	struct tiff t = {.bytes = bytes + 6, .size = size - 6};
	t.is_big_endian = t.size > 0 && t.bytes[0] == 'M';
	if (tiff_u16(&t, 0) != (t.is_big_endian ? 0x4d4d : 0x4949) || tiff_u16(&t, 2) != 42)
		return 1;
	size_t directory = tiff_u32(&t, 4);
	unsigned entries = tiff_u16(&t, directory);
	for (unsigned i = 0; i < entries; i++) {
		size_t entry = directory + 2 + (size_t)i * ENTRY;
		if (tiff_u16(&t, entry) != TAG_ORIENTATION)
			continue;
		unsigned value = tiff_u16(&t, entry + 8);
		bool is_valid = tiff_u16(&t, entry + 2) == TYPE_SHORT && value >= 1 && value <= 8;
		return is_valid ? (int)value : 1;
	}
	return 1;
}

bool image_orient(struct trellis_image *image, int orientation, const char *name, struct error *err)
{
	if (orientation == 1)
		return true;
	/* Bits of the turn: 5 to 8 swap the axes; then which output axes run backwards through the stored picture. */
	bool is_transposed = orientation >= 5;
	bool flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
	bool flip_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
	int width = is_transposed ? image->height : image->width, height = is_transposed ? image->width : image->height;
	uint8_t *out = malloc((size_t)width * (size_t)height * 4);
	if (!out)
		return error_set(err, "%s: out of memory turning %d x %d pixels", name, width, height);
	for (int y = 0; y < height; y++) {
		for (int x = 0; x < width; x++) {
			int u = flip_x ? width - 1 - x : x, v = flip_y ? height - 1 - y : y;
			size_t from = is_transposed ? (size_t)u * (size_t)image->width + (size_t)v
						    : (size_t)v * (size_t)image->width + (size_t)u;
			memcpy(out + ((size_t)y * (size_t)width + (size_t)x) * 4, image->rgba + from * 4, 4);
		}
	}
	free(image->rgba);
	image->rgba = out;
	image->width = width;
	image->height = height;
	return true;
}
