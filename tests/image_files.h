/* image_files.h - write PNG and JPEG files of every kind into memory, for the tests and the fuzzer's seeds. */
#ifndef TESTS_IMAGE_FILES_H
#define TESTS_IMAGE_FILES_H

#include <stdio.h> /* jpeglib.h needs FILE */
#include <jpeglib.h>
#include <png.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
	uint8_t *data;
	size_t size;
};

struct png_options {
	int width, height, bit_depth, color_type;
	int interlace;		  /* PNG_INTERLACE_ADAM7 or 0 */
	const png_color *palette; /* with n_palette entries */
	int n_palette;
	const png_byte *alphas; /* tRNS of a palette, n_alphas entries */
	int n_alphas;
	const png_color_16 *transparent; /* tRNS of grey and RGB */
};

static inline void image_files_append(png_structp png, png_bytep data, size_t n)
{
	struct bytes *out = png_get_io_ptr(png);
	out->data = realloc(out->data, out->size + n);
	memcpy(out->data + out->size, data, n);
	out->size += n;
}

static inline void image_files_no_flush(png_structp png)
{
	(void)png;
}

/* pixels: rows as PNG stores them (16 bits big-endian, small depths packed). */
static inline struct bytes make_png(const struct png_options *o, const uint8_t *pixels)
{
	struct bytes out = {0};
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	png_set_write_fn(png, &out, image_files_append, image_files_no_flush);
	png_set_IHDR(png, info, (png_uint_32)o->width, (png_uint_32)o->height, o->bit_depth, o->color_type,
		o->interlace, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	if (o->palette)
		png_set_PLTE(png, info, o->palette, o->n_palette);
	if (o->alphas || o->transparent)
		png_set_tRNS(png, info, o->alphas, o->n_alphas, o->transparent);
	png_set_gAMA(png, info, 0.2); /* must change nothing */
	png_write_info(png, info);
	size_t row_bytes = png_get_rowbytes(png, info);
	int passes = png_set_interlace_handling(png);
	for (int pass = 0; pass < passes; pass++)
		for (int y = 0; y < o->height; y++)
			png_write_row(png, pixels + (size_t)y * row_bytes);
	png_write_end(png, NULL);
	png_destroy_write_struct(&png, &info);
	return out;
}

/* 8 bits, not interlaced, no palette */
static inline struct bytes make_plain_png(int width, int height, int color_type, const uint8_t *pixels)
{
	struct png_options options = {.width = width, .height = height, .bit_depth = 8, .color_type = color_type};
	return make_png(&options, pixels);
}

struct jpeg_options {
	int width, height;
	J_COLOR_SPACE space, stored_space; /* of the pixels given, and in the file */
	int channels;
	int quality; /* 0: 100 */
	bool progressive, full_chroma;
	int orientation;    /* 0: no Exif */
	bool is_big_endian; /* Exif's byte order */
};

static inline void image_files_write_exif(struct jpeg_compress_struct *jpeg, const struct jpeg_options *o)
{
	uint8_t little[] =
		"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\x02\0\0\0X\0\0\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0";
	uint8_t big[] =
		"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\0\x02X\0\0\0\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0";
	little[36] = (uint8_t)(o->orientation);
	little[37] = (uint8_t)(o->orientation >> 8);
	big[36] = (uint8_t)(o->orientation >> 8);
	big[37] = (uint8_t)o->orientation;
	jpeg_write_marker(jpeg, JPEG_APP0 + 1, o->is_big_endian ? big : little, sizeof little - 1);
}

static inline struct bytes make_jpeg(const struct jpeg_options *o, const uint8_t *pixels)
{
	struct jpeg_compress_struct jpeg;
	struct jpeg_error_mgr errors;
	unsigned char *data = NULL;
	unsigned long size = 0;
	jpeg.err = jpeg_std_error(&errors);
	jpeg_create_compress(&jpeg);
	jpeg_mem_dest(&jpeg, &data, &size);
	jpeg.image_width = (JDIMENSION)o->width;
	jpeg.image_height = (JDIMENSION)o->height;
	jpeg.input_components = o->channels;
	jpeg.in_color_space = o->space;
	jpeg_set_defaults(&jpeg);
	jpeg_set_colorspace(&jpeg, o->stored_space);
	jpeg_set_quality(&jpeg, o->quality ? o->quality : 100, TRUE);
	if (o->full_chroma)
		jpeg.comp_info[0].h_samp_factor = jpeg.comp_info[0].v_samp_factor = 1;
	if (o->progressive)
		jpeg_simple_progression(&jpeg);
	jpeg_start_compress(&jpeg, TRUE);
	if (o->orientation)
		image_files_write_exif(&jpeg, o);
	while (jpeg.next_scanline < jpeg.image_height) {
		JSAMPROW row = (JSAMPROW)pixels + (size_t)jpeg.next_scanline * (size_t)(o->width * o->channels);
		jpeg_write_scanlines(&jpeg, &row, 1);
	}
	jpeg_finish_compress(&jpeg);
	jpeg_destroy_compress(&jpeg);
	return (struct bytes){data, size};
}

static inline struct bytes make_plain_jpeg(int width, int height, bool progressive, const uint8_t *rgb)
{
	struct jpeg_options options = {.width = width,
		.height = height,
		.space = JCS_RGB,
		.stored_space = JCS_YCbCr,
		.channels = 3,
		.progressive = progressive};
	return make_jpeg(&options, rgb);
}

#endif
