/* png_write.c - write PNG and APNG with zlib. Used for previews and `trellis render`.
 * Source: PNG (Third Edition), sec. 5, 9.2 and 11.3.
 * Rows are filtered by Paeth or Up, whichever leaves smaller numbers: shaded pictures compress well by those. */
#include "png_write.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CHANNELS = 3, FILTER_UP = 2, FILTER_PAETH = 4, LEVEL = 4 };

static void put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void append_chunk(struct buffer *out, const char type[4], const uint8_t *data, size_t size)
{
	uint8_t number[4];
	put_u32(number, (uint32_t)size);
	buffer_append(out, number, 4);
	buffer_append(out, type, 4);
	buffer_append(out, data, size);
	uLong crc = crc32(0, (const Bytef *)type, 4);
	if (size)
		crc = crc32(crc, data, (uInt)size);
	put_u32(number, (uint32_t)crc);
	buffer_append(out, number, 4);
}

static int paeth(int left, int above, int corner)
{
	int to_left = abs(above - corner), to_above = abs(left - corner), to_corner = abs(left + above - 2 * corner);
	return to_left <= to_above && to_left <= to_corner ? left : to_above <= to_corner ? above : corner;
}

/* One row after its filter byte; above is the row before, or zeros. Returns the sum of the numbers' sizes. */
static long filter_row(uint8_t *out, const uint8_t *row, const uint8_t *above, size_t size, int filter)
{
	long sum = 0;
	out[0] = (uint8_t)filter;
	for (size_t i = 0; i < size; i++) {
		int left = i >= CHANNELS ? row[i - CHANNELS] : 0, corner = i >= CHANNELS ? above[i - CHANNELS] : 0;
		int guess = filter == FILTER_UP ? above[i] : paeth(left, above[i], corner);
		out[1 + i] = (uint8_t)(row[i] - guess);
		sum += abs((int8_t)out[1 + i]);
	}
	return sum;
}

static void filter_picture(uint8_t *out, const uint8_t *rgb, size_t row_size, int height, uint8_t *spare)
{
	const uint8_t *above = spare + row_size + 1; /* zeros */
	for (int y = 0; y < height; y++) {
		const uint8_t *row = rgb + (size_t)y * row_size;
		uint8_t *place = out + (size_t)y * (row_size + 1);
		long up = filter_row(place, row, above, row_size, FILTER_UP);
		if (filter_row(spare, row, above, row_size, FILTER_PAETH) < up)
			memcpy(place, spare, row_size + 1);
		above = row;
	}
}

/* The compressed picture in memory that the caller frees; NULL: no memory. The first `reserve` bytes are left free. */
static uint8_t *compress_picture(const uint8_t *rgb, int width, int height, size_t reserve, size_t *size)
{
	size_t row_size = (size_t)width * CHANNELS, raw_size = (row_size + 1) * (size_t)height;
	uLongf packed = compressBound(raw_size);
	uint8_t *raw = malloc(raw_size), *spare = calloc(2 * row_size + 1, 1), *out = malloc(reserve + packed);
	bool ok = raw && spare && out;
	if (ok) {
		filter_picture(raw, rgb, row_size, height, spare);
		ok = compress2(out + reserve, &packed, raw, raw_size, LEVEL) == Z_OK;
	}
	free(spare);
	free(raw);
	if (!ok) {
		free(out);
		return NULL;
	}
	*size = reserve + packed;
	return out;
}

static void append_frame_control(struct buffer *out, uint32_t sequence, int width, int height, int frame_ms)
{
	uint8_t control[26] = {0}; /* no offset, no disposal, no blending */
	put_u32(control, sequence);
	put_u32(control + 4, (uint32_t)width);
	put_u32(control + 8, (uint32_t)height);
	control[20] = (uint8_t)(frame_ms >> 8);
	control[21] = (uint8_t)frame_ms;
	control[22] = 1000 >> 8;
	control[23] = 1000 & 255;
	append_chunk(out, "fcTL", control, sizeof control);
}

bool png_append(struct buffer *out, const uint8_t *const *frames, int n_frames, int width, int height, int frame_ms,
	struct error *err)
{
	uint8_t header[13] = {0}, animation[8] = {0};
	uint32_t sequence = 0;
	put_u32(header, (uint32_t)width);
	put_u32(header + 4, (uint32_t)height);
	header[8] = 8; /* bits */
	header[9] = 2; /* RGB */
	put_u32(animation, (uint32_t)n_frames);
	buffer_append(out, "\x89PNG\r\n\x1a\n", 8);
	append_chunk(out, "IHDR", header, sizeof header);
	append_chunk(out, "sRGB", (const uint8_t[]){0}, 1);
	if (n_frames > 1)
		append_chunk(out, "acTL", animation, sizeof animation);
	for (int i = 0; i < n_frames; i++) {
		size_t size;
		uint8_t *packed = compress_picture(frames[i], width, height, 4, &size);
		if (!packed)
			return error_set(err, "a picture of %d x %d: out of memory", width, height);
		if (n_frames > 1)
			append_frame_control(out, sequence++, width, height, frame_ms);
		if (i == 0) {
			append_chunk(out, "IDAT", packed + 4, size - 4);
		} else {
			put_u32(packed, sequence++);
			append_chunk(out, "fdAT", packed, size);
		}
		free(packed);
	}
	append_chunk(out, "IEND", NULL, 0);
	return buffer_ok(out, "a picture", err);
}
