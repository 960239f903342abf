/* image_jpeg.c - JPEG to 8-bit RGBA through libjpeg-turbo. Used by image.c.
 *
 * Pixels equal Pillow's, which uses the same defaults (accurate integer DCT, smooth chroma upsampling). CMYK files
 * store inverted ink, as Adobe's do; Exif's orientation is applied.
 *
 * libjpeg reports errors by longjmp: everything that lives across it is in struct reader, whose address does not
 * change. */
#include "image.h"

#include <jpeglib.h>
#include <jerror.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	struct jpeg_decompress_struct jpeg; /* client_data points back here */
	struct jpeg_error_mgr errors;
	struct jpeg_progress_mgr progress;
	jmp_buf jump;
	const char *name;
	const struct image_limits *limits;
	struct error *err;
	int width, height;
	int orientation;
	uint8_t *rgba;
};

/* Leave through longjmp with "NAME: WHAT after N of M rows: detail". */
static _Noreturn void fail(struct reader *r, const char *what, const char *colon, const char *detail)
{
	if (r->rgba && r->jpeg.output_scanline == 0 && jpeg_has_multiple_scans(&r->jpeg))
		error_set(r->err, "%s: %s in scan %d of a progressive image%s%s", r->name, what,
			r->jpeg.input_scan_number, colon, detail);
	else if (r->rgba)
		error_set(r->err, "%s: %s after %u of %d rows%s%s", r->name, what, r->jpeg.output_scanline, r->height,
			colon, detail);
	else
		error_set(r->err, "%s: %s in its header%s%s", r->name, what, colon, detail);
	longjmp(r->jump, 1);
}

static void on_error(j_common_ptr jpeg)
{
	char detail[JMSG_LENGTH_MAX];
	jpeg->err->format_message(jpeg, detail);
	fail(jpeg->client_data, "damaged JPEG", ": ", detail);
}

/* Warnings after which libjpeg goes on with made-up pixels; the others are harmless (bytes between segments and the
 * like). */
static void on_message(j_common_ptr jpeg, int level)
{
	if (level >= 0)
		return;
	switch (jpeg->err->msg_code) {
	case JWRN_JPEG_EOF:
		fail(jpeg->client_data, "truncated", "", "");
	case JWRN_HIT_MARKER:
	case JWRN_HUFF_BAD_CODE:
	case JWRN_MUST_RESYNC:
		on_error(jpeg);
	}
}

static void on_progress(j_common_ptr jpeg)
{
	struct reader *r = jpeg->client_data;
	if (r->jpeg.input_scan_number > r->limits->scans) {
		error_set(r->err, "%s: more than %d scans in a progressive JPEG", r->name, r->limits->scans);
		longjmp(r->jump, 1);
	}
}

/* In place, n pixels. Stored values are 255 - ink, so k is the brightness that black leaves. */
static void convert_cmyk(uint8_t *p, size_t n)
{
	for (; n > 0; n--, p += 4) {
		int k = p[3];
		for (int c = 0; c < 3; c++) {
			int t = (255 - p[c]) * k + 128;
			p[c] = (uint8_t)(k - ((t + (t >> 8)) >> 8));
		}
		p[3] = 255;
	}
}

/* Runs under setjmp; false for what is no error of libjpeg's. */
static bool read_image(struct reader *r)
{
	struct jpeg_decompress_struct *jpeg = &r->jpeg;
	jpeg_read_header(jpeg, TRUE);
	if (!image_check_size(jpeg->image_width, jpeg->image_height, r->name, r->limits, r->err))
		return false;
	r->width = (int)jpeg->image_width;
	r->height = (int)jpeg->image_height;
	r->orientation = 1;
	for (jpeg_saved_marker_ptr m = jpeg->marker_list; m && r->orientation == 1; m = m->next)
		r->orientation = image_exif_orientation(m->data, m->data_length);
	bool is_cmyk = jpeg->num_components == 4;
	jpeg->out_color_space = is_cmyk ? JCS_CMYK : JCS_EXT_RGBA;

	size_t row_bytes = (size_t)r->width * 4;
	r->rgba = malloc(row_bytes * (size_t)r->height);
	if (!r->rgba)
		return error_set(r->err, "%s: out of memory for %d x %d pixels", r->name, r->width, r->height);
	jpeg_start_decompress(jpeg);
	while (jpeg->output_scanline < jpeg->output_height) {
		JSAMPROW row = r->rgba + jpeg->output_scanline * row_bytes;
		jpeg_read_scanlines(jpeg, &row, 1);
		if (is_cmyk)
			convert_cmyk(row, (size_t)r->width);
	}
	return true;
}

/* A frame of its own for setjmp: nothing here changes between setjmp and longjmp. */
static bool read_guarded(struct reader *r, const uint8_t *bytes, size_t size)
{
	if (setjmp(r->jump))
		return false;
	jpeg_create_decompress(&r->jpeg);
	r->jpeg.client_data = r;
	r->jpeg.progress = &r->progress;
	jpeg_mem_src(&r->jpeg, bytes, size);
	jpeg_save_markers(&r->jpeg, JPEG_APP0 + 1, 0xffff);
	return read_image(r);
}

bool image_decode_jpeg(struct trellis_image *image, const uint8_t *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err)
{
	struct reader r = {.name = name, .limits = limits, .err = err};
	r.jpeg.err = jpeg_std_error(&r.errors);
	r.jpeg.client_data = &r; /* jpeg_create_decompress keeps err and client_data */
	r.errors.error_exit = on_error;
	r.errors.emit_message = on_message;
	r.progress.progress_monitor = on_progress;
	bool ok = read_guarded(&r, bytes, size);
	jpeg_destroy_decompress(&r.jpeg);
	struct trellis_image decoded = {.width = r.width, .height = r.height, .rgba = r.rgba};
	if (!ok || !image_orient(&decoded, r.orientation, name, err)) {
		trellis_image_finish(&decoded);
		return false;
	}
	*image = decoded;
	return true;
}
