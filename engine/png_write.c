/* png_write.c - write PNG and APNG with zlib. Used for previews and `trellis render`.
 * Source: PNG (Third Edition), sec. 5, 9.2 and 11.3.
 * Rows are filtered by Paeth or Up, whichever leaves smaller numbers: shaded pictures compress well by those. */
#include "png_write.h"
#include "threads.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CHANNELS = 3, FILTER_UP = 2, FILTER_PAETH = 4, LEVEL = 4 };
enum { STRIP_ROWS = 64, WINDOW = 1 << 15, SYNC_ROOM = 16, ZLIB_HEADER = 2, ZLIB_TRAILER = 4 };

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

/* A strip of rows, compressed on its own: strips run side by side, and one behind the other they are one stream. */
struct strip {
	uint8_t *packed;
	size_t size;
	uLong adler; /* of the filtered rows */
};

/* Rows first .. last - 1 of a picture into their places in out. */
static bool filter_rows(uint8_t *out, const uint8_t *rgb, size_t row_size, int first, int last)
{
	uint8_t *spare = calloc(2 * row_size + 1, 1);
	const uint8_t *zeros = spare + row_size + 1;
	for (int y = first; spare && y < last; y++) {
		const uint8_t *row = rgb + (size_t)y * row_size, *above = y ? row - row_size : zeros;
		uint8_t *place = out + (size_t)y * (row_size + 1);
		long up = filter_row(place, row, above, row_size, FILTER_UP);
		if (filter_row(spare, row, above, row_size, FILTER_PAETH) < up)
			memcpy(place, spare, row_size + 1);
	}
	bool ok = spare;
	free(spare);
	return ok;
}

/* raw[from .. to) as deflate blocks that end on a byte; they refer to what comes before, as in one stream. */
static bool compress_strip(struct strip *s, const uint8_t *raw, size_t from, size_t to, bool is_last)
{
	size_t before = from < WINDOW ? from : WINDOW;
	z_stream z = {.next_in = (Bytef *)raw + from, .avail_in = (uInt)(to - from)};
	if (deflateInit2(&z, LEVEL, Z_DEFLATED, -MAX_WBITS, MAX_MEM_LEVEL - 1, Z_DEFAULT_STRATEGY) != Z_OK)
		return false;
	size_t room = deflateBound(&z, z.avail_in) + SYNC_ROOM;
	s->packed = malloc(room);
	z.next_out = s->packed;
	z.avail_out = (uInt)room;
	bool ok = s->packed && (before == 0 || deflateSetDictionary(&z, raw + from - before, (uInt)before) == Z_OK);
	ok = ok && deflate(&z, is_last ? Z_FINISH : Z_SYNC_FLUSH) == (is_last ? Z_STREAM_END : Z_OK);
	s->size = room - z.avail_out;
	s->adler = adler32(adler32(0, NULL, 0), raw + from, (uInt)(to - from));
	deflateEnd(&z);
	return ok;
}

/* The strips as a zlib stream (RFC 1950) behind `reserve` free bytes; the caller frees it. NULL: no memory. */
static uint8_t *join_strips(
	const struct strip *strips, int n, size_t strip_size, size_t raw_size, size_t reserve, size_t *size)
{
	static const uint8_t header[ZLIB_HEADER] = {0x78, 0x5e}; /* a window of 32 KB, a low level */
	uLong adler = adler32(0, NULL, 0);
	*size = reserve + ZLIB_HEADER + ZLIB_TRAILER;
	for (int i = 0; i < n; i++)
		*size += strips[i].size;
	uint8_t *out = malloc(*size);
	if (!out)
		return NULL;
	uint8_t *at = out + reserve + ZLIB_HEADER;
	memcpy(out + reserve, header, sizeof header);
	for (int i = 0; i < n; i++) {
		memcpy(at, strips[i].packed, strips[i].size);
		at += strips[i].size;
		size_t left = raw_size - (size_t)i * strip_size;
		adler = adler32_combine(adler, strips[i].adler, (z_off_t)(left < strip_size ? left : strip_size));
	}
	put_u32(at, (uint32_t)adler);
	return out;
}

/* The compressed picture in memory that the caller frees; NULL: no memory. The first `reserve` bytes are left free. */
static uint8_t *compress_picture(const uint8_t *rgb, int width, int height, size_t reserve, size_t *size)
{
	size_t row_size = (size_t)width * CHANNELS, raw_size = (row_size + 1) * (size_t)height;
	int n = (height + STRIP_ROWS - 1) / STRIP_ROWS;
	uint8_t *raw = malloc(raw_size), *out = NULL;
	struct strip *strips = calloc((size_t)n, sizeof *strips);
	int n_bad = !raw || !strips;
#pragma omp parallel for schedule(dynamic) num_threads(threads_now()) reduction(+ : n_bad) if (!n_bad)
	for (int i = 0; i < (raw && strips ? n : 0); i++)
		n_bad += !filter_rows(raw, rgb, row_size, i * STRIP_ROWS,
			(i + 1) * STRIP_ROWS < height ? (i + 1) * STRIP_ROWS : height);
	size_t strip_size = STRIP_ROWS * (row_size + 1);
#pragma omp parallel for schedule(dynamic) num_threads(threads_now()) reduction(+ : n_bad) if (!n_bad)
	for (int i = 0; i < (n_bad ? 0 : n); i++)
		n_bad += !compress_strip(&strips[i], raw, (size_t)i * strip_size,
			i + 1 < n ? (size_t)(i + 1) * strip_size : raw_size, i + 1 == n);
	if (!n_bad)
		out = join_strips(strips, n, strip_size, raw_size, reserve, size);
	for (int i = 0; strips && i < n; i++)
		free(strips[i].packed);
	free(strips);
	free(raw);
	return out;
}

static void append_frame_control(struct png *p)
{
	uint8_t control[26] = {0}; /* no offset, no disposal, no blending */
	put_u32(control, p->sequence++);
	put_u32(control + 4, (uint32_t)p->width);
	put_u32(control + 8, (uint32_t)p->height);
	control[20] = (uint8_t)(p->frame_ms >> 8);
	control[21] = (uint8_t)p->frame_ms;
	control[22] = 1000 >> 8;
	control[23] = 1000 & 255;
	append_chunk(p->out, "fcTL", control, sizeof control);
}

void png_begin(struct png *p, struct buffer *out, int width, int height, int n_frames, int frame_ms)
{
	uint8_t header[13] = {0}, animation[8] = {0};
	*p = (struct png){out, width, height, n_frames, frame_ms, 0, 0};
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
}

bool png_frame(struct png *p, const uint8_t *rgb, struct error *err)
{
	size_t size;
	uint8_t *packed = compress_picture(rgb, p->width, p->height, 4, &size);
	if (!packed)
		return error_set(err, "a picture of %d x %d: out of memory", p->width, p->height);
	if (p->n_frames > 1)
		append_frame_control(p);
	if (p->done++ == 0) {
		append_chunk(p->out, "IDAT", packed + 4, size - 4);
	} else {
		put_u32(packed, p->sequence++);
		append_chunk(p->out, "fdAT", packed, size);
	}
	free(packed);
	if (p->done == p->n_frames)
		append_chunk(p->out, "IEND", NULL, 0);
	return buffer_ok(p->out, "a picture", err);
}
