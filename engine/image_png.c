/* image_png.c - PNG to 8-bit RGBA through libpng. Used by image.c.
 *
 * As Pillow converts: 16 bits keep their high byte (also in grey, where Pillow's own conversion would clip at 255),
 * palette and grey are expanded, a transparent colour becomes alpha; gamma and colour profiles are not applied. Chunks
 * that we do not need are skipped unread, so that a compressed profile or text cannot blow up.
 *
 * libpng reports errors by longjmp: everything that lives across it is in struct reader, whose address does not change.
 */
#include "image.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	const uint8_t *bytes;
	size_t size, used;
	const char *name;
	const struct image_limits *limits;
	struct error *err;
	png_structp png;
	png_infop info;
	int width, height;
	int passes, pass; /* 7 when interlaced, else 1 */
	int row;	  /* rows of this pass that are read */
	bool ended;	  /* libpng wanted more bytes than there are */
	uint8_t *rgba;
};

static void read_bytes(png_structp png, png_bytep out, size_t n)
{
	struct reader *r = png_get_io_ptr(png);
	if (n > r->size - r->used) {
		r->ended = true;
		png_error(png, "the file ends early");
	}
	memcpy(out, r->bytes + r->used, n);
	r->used += n;
}

/* Does not return, as libpng demands. */
static PNG_NORETURN void on_error(png_structp png, png_const_charp message)
{
	struct reader *r = png_get_error_ptr(png);
	const char *what = r->ended ? "truncated" : "damaged PNG";
	const char *colon = r->ended ? "" : ": ", *detail = r->ended ? "" : message;
	if (!r->rgba)
		error_set(r->err, "%s: %s in its header%s%s", r->name, what, colon, detail);
	else if (r->pass == r->passes)
		error_set(r->err, "%s: %s after the last row%s%s", r->name, what, colon, detail);
	else if (r->passes > 1)
		error_set(r->err, "%s: %s in pass %d of %d of an interlaced image%s%s", r->name, what, r->pass + 1,
			r->passes, colon, detail);
	else
		error_set(r->err, "%s: %s after %d of %d rows%s%s", r->name, what, r->row, r->height, colon, detail);
	longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
	(void)png, (void)message;
}

/* Ask libpng for RGBA of 8 bits, whatever is stored. */
static void set_conversions(png_structp png, png_infop info)
{
	png_set_strip_16(png);
	png_set_expand(png);
	png_set_gray_to_rgb(png);
	png_set_filler(png, 255, PNG_FILLER_AFTER);
	png_read_update_info(png, info);
}

/* Runs under setjmp; false when the size is refused, which is no error of libpng's. */
static bool read_image(struct reader *r)
{
	png_read_info(r->png, r->info);
	uint32_t width = png_get_image_width(r->png, r->info), height = png_get_image_height(r->png, r->info);
	if (!image_check_size(width, height, r->name, r->limits, r->err))
		return false;
	r->width = (int)width;
	r->height = (int)height;
	r->passes = png_set_interlace_handling(r->png);
	set_conversions(r->png, r->info);
	size_t row_bytes = (size_t)width * 4;
	if (png_get_rowbytes(r->png, r->info) != row_bytes)
		return error_set(r->err, "%s: rows of %zu bytes instead of %zu after conversion to RGBA", r->name,
			png_get_rowbytes(r->png, r->info), row_bytes);
	r->rgba = calloc(height, row_bytes);
	if (!r->rgba)
		return error_set(r->err, "%s: out of memory for %u x %u pixels", r->name, width, height);
	for (r->pass = 0; r->pass < r->passes; r->pass++)
		for (r->row = 0; r->row < r->height; r->row++)
			png_read_row(r->png, r->rgba + (size_t)r->row * row_bytes, NULL);
	png_read_end(r->png, NULL);
	return true;
}

/* A frame of its own for setjmp: nothing here changes between setjmp and longjmp. */
static bool read_guarded(struct reader *r)
{
	if (setjmp(png_jmpbuf(r->png)))
		return false;
	png_set_user_limits(r->png, 0x7fffffff, 0x7fffffff); /* ours come with a better message */
	png_set_chunk_cache_max(r->png, 16);
	png_set_chunk_malloc_max(r->png, 1 << 20);
	png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
	png_set_compression_buffer_size(r->png, 1024); /* small reads: a cut file is told to within a few rows */
#ifdef FUZZING
	/* let mutated chunks through to the code behind the checksum */
	png_set_crc_action(r->png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
#endif
	png_set_read_fn(r->png, r, read_bytes);
	return read_image(r);
}

bool image_decode_png(struct trellis_image *image, const uint8_t *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err)
{
	struct reader r = {.bytes = bytes, .size = size, .name = name, .limits = limits, .err = err};
	r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
	r.info = r.png ? png_create_info_struct(r.png) : NULL;
	bool ok = r.info ? read_guarded(&r) : error_set(err, "%s: out of memory for a PNG reader", name);
	png_destroy_read_struct(&r.png, &r.info, NULL);
	if (!ok) {
		free(r.rgba);
		return false;
	}
	*image = (struct trellis_image){.width = r.width, .height = r.height, .rgba = r.rgba};
	return true;
}
