/* fuzz_image.c - any bytes through the image decoders: no crash, no leak, every pixel set, and an error is one line
 * that names the file. */
#include "image.h"

#include "../image_files.h"
#include "seeds.h"

#include <stdlib.h>
#include <string.h>

/* Small pictures keep a run fast; the checks are the same. */
static const struct image_limits limits = {.side = 4096, .pixels = 1 << 18, .file_bytes = 1 << 20, .scans = 20};

static void write_seed(const char *corpus, const char *kind, int number, struct bytes file)
{
	char name[32];
	snprintf(name, sizeof name, "%s-%d", kind, number);
	seeds_write(corpus, name, file.data, file.size);
	free(file.data);
}

static void write_png_seeds(const char *corpus, const uint8_t *pixels)
{
	static const int color_types[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_GRAY_ALPHA,
		PNG_COLOR_TYPE_RGB_ALPHA, PNG_COLOR_TYPE_PALETTE};
	static const png_color palette[4] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};
	static const png_byte alphas[2] = {0, 128};
	for (int i = 0; i < 20; i++) {
		bool is_palette = i >= 16;
		struct png_options o = {.width = 16, .height = 16, .color_type = color_types[i / 4]};
		o.bit_depth = i & 1 && !is_palette ? 16 : 8;
		o.interlace = i & 2 ? PNG_INTERLACE_ADAM7 : 0;
		if (is_palette) {
			o.palette = palette;
			o.n_palette = 4;
			o.alphas = alphas;
			o.n_alphas = 2;
		}
		write_seed(corpus, "png", i, make_png(&o, pixels));
	}
}

static void write_jpeg_seeds(const char *corpus, const uint8_t *pixels)
{
	static const struct {
		J_COLOR_SPACE space, stored;
		int channels;
	} colors[] = {{JCS_RGB, JCS_YCbCr, 3}, {JCS_GRAYSCALE, JCS_GRAYSCALE, 1}, {JCS_CMYK, JCS_CMYK, 4},
		{JCS_CMYK, JCS_YCCK, 4}};
	for (int i = 0; i < 16; i++) {
		struct jpeg_options o = {.width = 16, .height = 16, .space = colors[i / 4].space};
		o.stored_space = colors[i / 4].stored;
		o.channels = colors[i / 4].channels;
		o.progressive = i & 1;
		o.orientation = i & 2 ? 6 : 0;
		o.is_big_endian = i & 1;
		write_seed(corpus, "jpeg", i, make_jpeg(&o, pixels));
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *corpus = seeds_corpus(*argc, *argv);
	uint8_t pixels[16 * 16 * 8];
	for (size_t i = 0; i < sizeof pixels; i++)
		pixels[i] = (uint8_t)(i * i >> 3 & 3); /* indices of the palette too */
	write_png_seeds(corpus, pixels);
	write_jpeg_seeds(corpus, pixels);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct trellis_image image = {0};
	struct error err = {""};
	if (image_decode(&image, data, size, "input", &limits, &err)) {
		uint32_t sum = 0;
		for (size_t i = 0; i < (size_t)image.width * (size_t)image.height * 4; i++)
			sum += image.rgba[i];
		if (image.width <= 0 || image.height <= 0 || sum == UINT32_MAX)
			abort();
		trellis_image_finish(&image);
	} else if (strncmp(err.text, "input: ", 7) != 0 || strchr(err.text, '\n')) {
		abort();
	}
	image_exif_orientation(data, size);
	return 0;
}
