/* test_image.c - picture files of every kind that is read, and of the kinds that must be refused in one clear line. */
#include "image.h"

/* stdio before jpeglib */
#include "image_files.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define W 13
#define H 9
#define ADAM7 PNG_INTERLACE_ADAM7

static struct trellis_image decode(struct bytes file)
{
	struct trellis_image image;
	struct error err;
	cr_assert(trellis_image_decode(&image, file.data, file.size, "x", &err), "%s", err.text);
	free(file.data);
	return image;
}

static void expect_error(const void *data, size_t size, const char *text)
{
	struct trellis_image image = {.width = 77};
	struct error err = {""};
	cr_assert_not(trellis_image_decode(&image, data, size, "pictures/x", &err), "wanted: %s", text);
	cr_assert_str_eq(err.text, text);
	cr_assert(image.width == 77 && image.rgba == NULL, "output written on failure");
}

static void expect_pixel(const struct trellis_image *image, int x, int y, int r, int g, int b, int a, int tolerance)
{
	const uint8_t *p = image->rgba + (y * image->width + x) * 4;
	int wanted[4] = {r, g, b, a};
	for (int c = 0; c < 4; c++)
		cr_assert(abs(p[c] - wanted[c]) <= tolerance, "%d, %d: %d %d %d %d, not %d %d %d %d", x, y, p[0], p[1],
			p[2], p[3], r, g, b, a);
}

/* A value that differs between neighbours and channels. */
static int value(int x, int y, int c, int bits)
{
	return (int)((unsigned)(x * 37 + y * 101 + c * 59 + x * y * 7) * 2654435761u >> 3) & ((1 << bits) - 1);
}

/* PNG rows of value() */
static uint8_t *make_rows(int channels, int bits)
{
	size_t row_bytes = (size_t)(W * channels * bits + 7) / 8;
	uint8_t *rows = calloc(H, row_bytes);
	for (int y = 0; y < H; y++) {
		uint8_t *row = rows + (size_t)y * row_bytes;
		for (int i = 0; i < W * channels; i++) {
			int v = value(i / channels, y, i % channels, bits);
			if (bits == 16) {
				row[2 * i] = (uint8_t)(v >> 8);
				row[2 * i + 1] = (uint8_t)v;
			} else {
				row[i * bits / 8] |= (uint8_t)(v << (8 - bits - i * bits % 8));
			}
		}
	}
	return rows;
}

/* A PNG of value(), checked pixel by pixel against what its colour type means. */
static void check_png(int color_type, int bits, int interlace)
{
	static const int channels_of[] = {[PNG_COLOR_TYPE_GRAY] = 1,
		[PNG_COLOR_TYPE_RGB] = 3,
		[PNG_COLOR_TYPE_GRAY_ALPHA] = 2,
		[PNG_COLOR_TYPE_RGB_ALPHA] = 4};
	int channels = channels_of[color_type];
	uint8_t *rows = make_rows(channels, bits);
	struct trellis_image image =
		decode(make_png(&(struct png_options){W, H, bits, color_type, .interlace = interlace}, rows));
	cr_assert(image.width == W && image.height == H);
	for (int y = 0; y < H; y++) {
		for (int x = 0; x < W; x++) {
			int v[4];
			for (int c = 0; c < channels; c++)
				v[c] = bits == 16 ? value(x, y, c, 16) >> 8
						  : value(x, y, c, bits) * 255 / ((1 << bits) - 1);
			bool is_gray = channels < 3;
			int alpha = channels == 2 ? v[1] : channels == 4 ? v[3] : 255;
			expect_pixel(&image, x, y, v[0], v[is_gray ? 0 : 1], v[is_gray ? 0 : 2], alpha, 0);
		}
	}
	cr_assert_eq(image.has_alpha, channels == 2 || channels == 4);
	trellis_image_finish(&image);
	free(rows);
}

Test(image, png_of_every_depth)
{
	for (int interlace = 0; interlace <= ADAM7; interlace += ADAM7) {
		for (int bits = 1; bits <= 16; bits *= 2)
			check_png(PNG_COLOR_TYPE_GRAY, bits, interlace);
		for (int bits = 8; bits <= 16; bits *= 2) {
			check_png(PNG_COLOR_TYPE_RGB, bits, interlace);
			check_png(PNG_COLOR_TYPE_GRAY_ALPHA, bits, interlace);
			check_png(PNG_COLOR_TYPE_RGB_ALPHA, bits, interlace);
		}
	}
}

Test(image, png_palette_with_alpha)
{
	static const png_color palette[4] = {{1, 2, 3}, {40, 50, 60}, {70, 80, 90}, {255, 254, 253}};
	static const png_byte alphas[2] = {0, 128};
	for (int bits = 2; bits <= 8; bits *= 2) {
		uint8_t *rows = make_rows(1, bits);
		if (bits > 2)
			for (int i = 0; i < H * ((W * bits + 7) / 8); i++)
				rows[i] &= 0x33; /* indices below 4 only */
		if (bits == 8)
			for (int i = 0; i < H * W; i++)
				rows[i] &= 3;
		struct trellis_image image =
			decode(make_png(&(struct png_options){W, H, bits, PNG_COLOR_TYPE_PALETTE, .palette = palette,
						.n_palette = 4, .alphas = alphas, .n_alphas = 2},
				rows));
		for (int y = 0; y < H; y++) {
			for (int x = 0; x < W; x++) {
				int at = y * ((W * bits + 7) / 8) + x * bits / 8;
				int i = rows[at] >> (8 - bits - x * bits % 8) & ((1 << bits) - 1);
				expect_pixel(&image, x, y, palette[i].red, palette[i].green, palette[i].blue,
					i < 2 ? alphas[i] : 255, 0);
			}
		}
		cr_assert(image.has_alpha);
		trellis_image_finish(&image);
		free(rows);
	}
}

/* The transparent colour is compared at full depth: a neighbour in the low byte stays opaque. */
Test(image, png_transparent_colour)
{
	uint8_t gray[4] = {10, 20, 10, 30};
	struct trellis_image image = decode(make_png(
		&(struct png_options){4, 1, 8, PNG_COLOR_TYPE_GRAY, .transparent = &(png_color_16){.gray = 10}}, gray));
	expect_pixel(&image, 0, 0, 10, 10, 10, 0, 0);
	expect_pixel(&image, 1, 0, 20, 20, 20, 255, 0);
	trellis_image_finish(&image);

	uint8_t deep[12] = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 7};
	png_color_16 color = {.red = 0x0102, .green = 0x0304, .blue = 0x0506};
	image = decode(make_png(&(struct png_options){2, 1, 16, PNG_COLOR_TYPE_RGB, .transparent = &color}, deep));
	expect_pixel(&image, 0, 0, 1, 3, 5, 0, 0);
	expect_pixel(&image, 1, 0, 1, 3, 5, 255, 0);
	trellis_image_finish(&image);
}

/* A smooth picture: what JPEG at quality 100 keeps within a few steps. */
static uint8_t *make_smooth(int channels, int width, int height)
{
	uint8_t *pixels = malloc((size_t)(width * height * channels));
	for (int y = 0; y < height; y++)
		for (int x = 0; x < width; x++)
			for (int c = 0; c < channels; c++)
				pixels[(y * width + x) * channels + c] = (uint8_t)(20 + 4 * x + 3 * y + 30 * c);
	return pixels;
}

Test(image, jpeg_colour_gray_progressive)
{
	uint8_t *rgb = make_smooth(3, W, H), *gray = make_smooth(1, W, H);
	for (int i = 0; i < 4; i++) {
		bool progressive = i & 1, is_gray = i & 2;
		struct trellis_image image =
			decode(make_jpeg(&(struct jpeg_options){W, H, is_gray ? JCS_GRAYSCALE : JCS_RGB,
						 is_gray ? JCS_GRAYSCALE : JCS_YCbCr, is_gray ? 1 : 3,
						 .progressive = progressive, .full_chroma = true},
				is_gray ? gray : rgb));
		cr_assert(image.width == W && image.height == H && !image.has_alpha);
		for (int y = 0; y < H; y++)
			for (int x = 0; x < W; x++)
				expect_pixel(&image, x, y, 20 + 4 * x + 3 * y, 20 + 4 * x + 3 * y + (is_gray ? 0 : 30),
					20 + 4 * x + 3 * y + (is_gray ? 0 : 60), 255, 2);
		trellis_image_finish(&image);
	}
	free(rgb);
	free(gray);
}

/* Inverted ink as Adobe stores it, plain and as YCCK: (255 - c) of the file is the ink. */
Test(image, jpeg_cmyk)
{
	static const int cases[][7] = {/* c m y k as stored -> r g b */
		{255, 255, 255, 255, 255, 255, 255}, {255, 255, 255, 0, 0, 0, 0}, {0, 255, 255, 255, 0, 255, 255},
		{255, 0, 255, 128, 128, 0, 128}, {100, 150, 200, 220, 86, 129, 173}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint8_t pixels[8 * 8 * 4];
		for (int p = 0; p < 8 * 8 * 4; p++)
			pixels[p] = (uint8_t)cases[i][p % 4];
		for (int ycck = 0; ycck < 2; ycck++) {
			struct trellis_image image = decode(make_jpeg(
				&(struct jpeg_options){8, 8, JCS_CMYK, ycck ? JCS_YCCK : JCS_CMYK, 4, .quality = 100},
				pixels));
			expect_pixel(&image, 3, 4, cases[i][4], cases[i][5], cases[i][6], 255, 2);
			trellis_image_finish(&image);
		}
	}
}

/* Stored 16 x 8 with one bright corner; where the corner is seen says how the picture was turned. */
Test(image, jpeg_orientation)
{
	enum { LONG = 16, SHORT = 8 };
	uint8_t gray[LONG * SHORT];
	for (int i = 0; i < LONG * SHORT; i++)
		gray[i] = i % LONG < 8 ? 20 + 6 * (i / LONG) : 150 + 6 * (i / LONG);
	for (int orientation = 0; orientation <= 9; orientation++) {
		for (int big = 0; big < 2; big++) {
			struct trellis_image image =
				decode(make_jpeg(&(struct jpeg_options){LONG, SHORT, JCS_GRAYSCALE, JCS_GRAYSCALE, 1,
							 .orientation = orientation, .is_big_endian = big},
					gray));
			bool is_turned = orientation >= 5 && orientation <= 8;
			cr_assert_eq(image.width, is_turned ? SHORT : LONG, "orientation %d", orientation);
			cr_assert_eq(image.height, is_turned ? LONG : SHORT, "orientation %d", orientation);
			/* Exif 2.32: where the stored row 0 and column 0 are on the upright picture */
			static const bool row_0_last[10] = {[3] = true, [4] = true, [6] = true, [7] = true};
			static const bool column_0_last[10] = {[2] = true, [3] = true, [7] = true, [8] = true};
			for (int v = 0; v < SHORT; v++) {
				for (int u = 0; u < LONG; u++) {
					int along = column_0_last[orientation] ? LONG - 1 - u : u;
					int across = row_0_last[orientation] ? SHORT - 1 - v : v;
					int g = gray[v * LONG + u];
					expect_pixel(&image, is_turned ? across : along, is_turned ? along : across, g,
						g, g, 255, 2);
				}
			}
			trellis_image_finish(&image);
		}
	}
}

Test(image, exif_is_bounded)
{
	static const char good[] = "Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
	cr_assert_eq(image_exif_orientation((const uint8_t *)good, sizeof good - 1), 6);
	for (size_t size = 0; size < 25; size++) { /* a buffer of exactly that size, for the sanitizer */
		uint8_t *cut = malloc(size + !size);
		memcpy(cut, good, size);
		cr_assert_eq(image_exif_orientation(cut, size), 1, "%zu bytes", size);
		free(cut);
	}
	static const char far[] = "Exif\0\0II*\0\xff\xff\xff\xff\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
	cr_assert_eq(image_exif_orientation((const uint8_t *)far, sizeof far - 1), 1);
	static const char text[] = "http://ns.adobe.com/xap/1.0/";
	cr_assert_eq(image_exif_orientation((const uint8_t *)text, sizeof text - 1), 1);
}

Test(image, garbage_after_the_end_is_ignored)
{
	uint8_t *rgb = make_smooth(3, W, H);
	struct bytes files[2] = {make_plain_png(W, H, PNG_COLOR_TYPE_RGB, rgb), make_plain_jpeg(W, H, false, rgb)};
	for (int i = 0; i < 2; i++) {
		files[i].data = realloc(files[i].data, files[i].size + 100);
		memset(files[i].data + files[i].size, 0x5a, 100);
		files[i].size += 100;
		struct trellis_image image = decode(files[i]);
		trellis_image_finish(&image);
	}
	free(rgb);
}

/* Every way to cut a file short is an error that names it. */
Test(image, every_truncation_is_an_error)
{
	uint8_t *rgb = make_smooth(3, 40, 40);
	struct bytes files[4] = {make_plain_png(40, 40, PNG_COLOR_TYPE_RGB, rgb),
		make_png(&(struct png_options){40, 40, 8, PNG_COLOR_TYPE_RGB, .interlace = ADAM7}, rgb),
		make_plain_jpeg(40, 40, false, rgb), make_plain_jpeg(40, 40, true, rgb)};
	for (int i = 0; i < 4; i++) {
		bool is_jpeg = i >= 2;
		/* libjpeg needs no end marker to have all the pixels */
		for (size_t size = 0; size + (is_jpeg ? 2 : 0) < files[i].size; size++) {
			uint8_t *cut = malloc(size + !size);
			memcpy(cut, files[i].data, size);
			struct trellis_image image;
			struct error err = {""};
			cr_assert_not(trellis_image_decode(&image, cut, size, "pictures/x", &err),
				"file %d: %zu of %zu bytes", i, size, files[i].size);
			cr_assert_eq(strncmp(err.text, "pictures/x: ", 12), 0, "%s", err.text);
			cr_assert_null(strchr(err.text, '\n'));
			free(cut);
		}
		free(files[i].data);
	}
	free(rgb);
}

Test(image, truncation_says_where)
{
	unsigned seed = 1;
	uint8_t *rows = malloc(64 * 64 * 3);
	for (int i = 0; i < 64 * 64 * 3; i++)
		rows[i] = (uint8_t)(rand_r(&seed) >> 8);
	struct bytes png = make_plain_png(64, 64, PNG_COLOR_TYPE_RGB, rows);
	struct bytes jpeg = make_plain_jpeg(64, 64, false, rows);
	struct bytes progressive = make_plain_jpeg(64, 64, true, rows);
	struct trellis_image image;
	struct error err;
	cr_assert_not(trellis_image_decode(&image, png.data, png.size / 2, "x.png", &err));
	int row, of;
	cr_assert_eq(sscanf(err.text, "x.png: truncated after %d of %d rows", &row, &of), 2, "%s", err.text);
	cr_assert(row >= 25 && row <= 33 && of == 64, "%s", err.text);
	cr_assert_not(trellis_image_decode(&image, jpeg.data, jpeg.size / 2, "x.jpg", &err));
	cr_assert_eq(sscanf(err.text, "x.jpg: truncated after %d of %d rows", &row, &of), 2, "%s", err.text);
	cr_assert(row >= 8 && row <= 40 && of == 64, "%s", err.text);
	cr_assert_not(trellis_image_decode(&image, progressive.data, progressive.size / 2, "x.jpg", &err));
	cr_assert_eq(sscanf(err.text, "x.jpg: truncated in scan %d of a progressive image", &row), 1, "%s", err.text);
	expect_error(png.data, 30, "pictures/x: truncated in its header");
	png.data[png.size / 2] ^= 0xff;
	cr_assert_not(trellis_image_decode(&image, png.data, png.size, "x.png", &err));
	cr_assert_not_null(strstr(err.text, "x.png: damaged PNG after "), "%s", err.text);
	free(png.data);
	free(jpeg.data);
	free(progressive.data);
	free(rows);
}

/* Correct the checksum of a PNG chunk that was changed. */
static void set_crc(uint8_t *chunk)
{
	uint32_t length = (uint32_t)chunk[2] << 8 | chunk[3], crc = 0xffffffff;
	for (uint32_t i = 4; i < 8 + length; i++) {
		crc ^= chunk[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	for (int i = 0; i < 4; i++)
		chunk[8 + length + (uint32_t)i] = (uint8_t)(~crc >> (24 - 8 * i));
}

/* A header alone is enough to be refused: nothing is allocated for what it promises. */
Test(image, huge_sizes_are_refused)
{
	uint8_t black[3] = {0};
	struct bytes png = make_plain_png(1, 1, PNG_COLOR_TYPE_RGB, black);
	memcpy(png.data + 16, "\0\0\xea\x60\0\0\xea\x60", 8); /* 60,000 x 60,000 */
	set_crc(png.data + 8);
	expect_error(png.data, png.size,
		"pictures/x: 60000 x 60000 pixels is over the limit of 30000 a side and 100 megapixels in all");
	free(png.data);

	struct bytes jpeg = make_plain_jpeg(1, 1, false, black);
	uint8_t *frame = memmem(jpeg.data, jpeg.size, "\xff\xc0", 2);
	memcpy(frame + 5, "\xea\x60\xea\x60", 4);
	expect_error(jpeg.data, jpeg.size,
		"pictures/x: 60000 x 60000 pixels is over the limit of 30000 a side and 100 megapixels in all");
	memcpy(frame + 5, "\x2e\xe0\x2e\xe0", 4); /* 12,000 x 12,000 */
	expect_error(jpeg.data, jpeg.size,
		"pictures/x: 12000 x 12000 pixels is over the limit of 30000 a side and 100 megapixels in all");
	memcpy(frame + 5, "\0\0\0\1", 4);
	struct error err;
	struct trellis_image image;
	cr_assert_not(trellis_image_decode(&image, jpeg.data, jpeg.size, "x", &err));
	free(jpeg.data);
}

/* A file of a few kilobytes may ask for thousands of passes over millions of coefficients. */
Test(image, progressive_scans_are_limited)
{
	uint8_t *gray = make_smooth(1, 64, 64);
	struct bytes jpeg =
		make_jpeg(&(struct jpeg_options){64, 64, JCS_GRAYSCALE, JCS_GRAYSCALE, 1, .progressive = true}, gray);
	/* repeat the first scan, from its start to the table before the next */
	uint8_t *first = memmem(jpeg.data, jpeg.size, "\xff\xda", 2);
	size_t head = (size_t)(first - jpeg.data);
	uint8_t *next = memmem(first, jpeg.size - head, "\xff\xc4", 2);
	size_t scan = (size_t)(next - first);
	uint8_t *bomb = malloc(head + 200 * scan + 2);
	memcpy(bomb, jpeg.data, head);
	for (size_t i = 0; i < 200; i++)
		memcpy(bomb + head + i * scan, first, scan);
	memcpy(bomb + head + 200 * scan, "\xff\xd9", 2);
	expect_error(bomb, head + 200 * scan + 2, "pictures/x: more than 100 scans in a progressive JPEG");
	free(bomb);
	free(jpeg.data);
	free(gray);
}

Test(image, other_formats_are_named)
{
	static const struct {
		const char *bytes, *kind;
	} cases[] = {{"RIFF\x10\x20\x30\x40WEBPVP8 ", "WebP"},
		{"\0\0\0\x18"
		 "ftypheic\0\0\0\0",
			"HEIC"},
		{"\0\0\0\x1c"
		 "ftypavif\0\0\0\0",
			"AVIF"},
		{"II*\0\x08\0\0\0\0\0\0\0\0\0\0\0", "TIFF"}, {"MM\0*\0\0\0\x08\0\0\0\0\0\0\0\0", "TIFF"},
		{"GIF89a\1\0\1\0\0\0\0\0\0\0", "GIF"}, {"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\0\0", "BMP"},
		{"8BPS\0\1\0\0\0\0\0\0\0\3\0\0", "Photoshop"},
		{"\xff\x0a\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10\x10", "JPEG XL"},
		{"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\0", "JPEG XL"}, {"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0", "JPEG 2000"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char text[128];
		snprintf(
			text, sizeof text, "pictures/x: is a %s image; only PNG and JPEG are supported", cases[i].kind);
		expect_error(cases[i].bytes, 16, text);
	}
	expect_error("hello, world", 12, "pictures/x: is not an image; PNG and JPEG are supported");
	expect_error("\xff", 1, "pictures/x: is not an image; PNG and JPEG are supported");
	expect_error("", 0, "pictures/x: is empty");
}

/* Load path with contents; NULL contents: as it is. */
static void expect_load_error(const char *path, const char *format)
{
	struct trellis_image image;
	struct error err;
	char text[512];
	cr_assert_not(trellis_image_load(&image, path, &err));
	snprintf(text, sizeof text, format, path);
	cr_assert_str_eq(err.text, text);
}

Test(image, files)
{
	char folder[] = "/tmp/test_image.XXXXXX", path[64];
	cr_assert_not_null(mkdtemp(folder));
	expect_load_error(folder, "%s: is a directory, not an image file");
	expect_load_error("/dev/null", "%s: is not a regular file, not an image file");
	snprintf(path, sizeof path, "%s/x", folder);
	expect_load_error(path, "%s: No such file or directory");
	cr_assert_eq(mkfifo(path, 0600), 0);
	expect_load_error(path, "%s: is not a regular file, not an image file");
	unlink(path);

	int fd = open(path, O_RDWR | O_CREAT, 0600);
	expect_load_error(path, "%s: is empty");
	cr_assert_eq(ftruncate(fd, (off_t)1 << 40), 0);
	expect_load_error(path, "%s: 1099511627776 bytes is over the limit of 256 MiB for an image file");
	cr_assert_eq(ftruncate(fd, 0), 0);

	uint8_t rgba[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct bytes png = make_plain_png(2, 1, PNG_COLOR_TYPE_RGB_ALPHA, rgba);
	cr_assert_eq(write(fd, png.data, png.size), (ssize_t)png.size);
	close(fd);
	struct trellis_image image;
	struct error err;
	cr_assert(trellis_image_load(&image, path, &err), "%s", err.text);
	cr_assert_arr_eq(image.rgba, rgba, 8);
	cr_assert(image.has_alpha);
	trellis_image_finish(&image);
	free(png.data);
	unlink(path);
	rmdir(folder);
}
