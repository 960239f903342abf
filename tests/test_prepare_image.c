/* test_prepare_image.c - preprocessing against the official code's pictures: every byte equal. */
#include "prepare_image.h"

#include "cli/sha256.h"

#include <criterion/criterion.h>
#include <jansson.h>

#define GOLDEN "tests/golden/images/"

static struct trellis_image load(const char *name, const char *suffix)
{
	char path[128];
	struct trellis_image image;
	struct error err;
	snprintf(path, sizeof path, GOLDEN "%s%s.png", name, suffix);
	cr_assert(trellis_image_load(&image, path, &err), "%s", err.text);
	return image;
}

Test(prepare_image, equals_the_official_code)
{
	json_t *cases = json_load_file(GOLDEN "images.json", 0, NULL);
	cr_assert_not_null(cases);
	const char *name;
	json_t *entry;
	int compared = 0;
	json_object_foreach(cases, name, entry)
	{
		if (!json_is_object(entry))
			continue;
		struct trellis_image image = load(name, ""), expect = load(name, ".expect");
		struct error err;
		float *pixels;
		uint8_t *rgb;
		const char *cutout;
		cr_assert(prepare_image(&pixels, &rgb, &image, 518, &cutout, &err), "%s", err.text);
		cr_assert_str_eq(cutout, "alpha");
		for (int i = 0; i < 518 * 518; i++)
			for (int c = 0; c < 3; c++)
				cr_assert_eq(
					rgb[3 * i + c], expect.rgba[4 * i + c], "%s: pixel %d channel %d", name, i, c);
		char hex[65];
		sha256_hex(hex, rgb, 518 * 518 * 3);
		cr_assert_str_eq(hex, json_string_value(json_object_get(entry, "expect_sha256_rgb_rows")));
		/* planes of (x / 255 - mean) / deviation */
		cr_assert_eq(pixels[1234], ((float)rgb[3 * 1234] / 255 - 0.485f) / 0.229f);
		cr_assert_eq(pixels[2 * 518 * 518 + 99], ((float)rgb[3 * 99 + 2] / 255 - 0.406f) / 0.225f);
		free(pixels);
		free(rgb);
		trellis_image_finish(&image);
		trellis_image_finish(&expect);
		compared++;
	}
	cr_assert_eq(compared, 3);
	json_decref(cases);
}

/* A square of one opaque colour in an otherwise transparent picture, w x h at x, y. */
static struct trellis_image make_square(int x, int y, int w, int h, uint8_t alpha)
{
	struct trellis_image image = {.width = 50, .height = 40, .rgba = calloc(50 * 40, 4), .has_alpha = true};
	for (int v = y; v < y + h; v++)
		for (int u = x; u < x + w; u++)
			memcpy(image.rgba + (v * 50 + u) * 4, (uint8_t[]){200, 100, 50, alpha}, 4);
	return image;
}

static void expect_error(struct trellis_image image, const char *text)
{
	float *pixels = NULL;
	const char *cutout;
	struct error err = {""};
	cr_assert_not(prepare_image(&pixels, NULL, &image, 224, &cutout, &err));
	cr_assert_str_eq(err.text, text);
	cr_assert_null(pixels);
	trellis_image_finish(&image);
}

Test(prepare_image, masks_without_an_object_are_refused)
{
	expect_error(make_square(10, 10, 8, 8, 204),
		"no object found: no pixel of the alpha channel is more than 80% opaque");
	expect_error(
		make_square(10, 10, 1, 2, 255), "no object found: the opaque part of the image is only 1 x 2 pixels");
}

/* Any encoder's size: a square of 31 pixels in a crop of 36, in its own colour, on black; Lanczos rings near the edges.
 */
Test(prepare_image, other_sizes)
{
	struct trellis_image image = make_square(14, 4, 31, 31, 255);
	float *pixels;
	uint8_t *rgb;
	const char *cutout;
	cr_assert(prepare_image(&pixels, &rgb, &image, 224, &cutout, NULL));
	for (int y = 0; y < 224; y++) {
		for (int x = 0; x < 224; x++) {
			const uint8_t *p = rgb + (y * 224 + x) * 3;
			bool is_inside = x >= 40 && x < 190 && y >= 40 && y < 190;
			bool is_outside = x < 12 || x >= 218 || y < 12 || y >= 218;
			if (is_inside)
				cr_assert(p[0] == 200 && p[1] == 100 && p[2] == 50, "%d, %d: %d %d %d", x, y, p[0],
					p[1], p[2]);
			if (is_outside)
				cr_assert(p[0] <= 12 && p[1] <= 6 && p[2] <= 3, "%d, %d: %d %d %d", x, y, p[0], p[1],
					p[2]);
		}
	}
	free(pixels);
	free(rgb);
	trellis_image_finish(&image);
}
