/* test_resize.c - Lanczos resampling against Pillow's own results: every byte equal. */
#include "resize.h"

#include "golden.h"

#include <string.h>

/* [h, w, channels] to RGBA, opaque when there are three */
static struct trellis_image read_image(const struct safetensors *file, const char *name, const char *suffix)
{
	char key[64];
	snprintf(key, sizeof key, "%s.%s", name, suffix);
	const struct st_tensor *t = golden_find(file, key);
	const uint8_t *in = t->data;
	int64_t n = t->dim[0] * t->dim[1], channels = t->dim[2];
	struct trellis_image image = {.width = (int)t->dim[1], .height = (int)t->dim[0]};
	image.rgba = malloc((size_t)n * 4);
	for (int64_t i = 0; i < n; i++)
		for (int64_t c = 0; c < 4; c++)
			image.rgba[4 * i + c] = c < channels ? in[channels * i + c] : 255;
	return image;
}

static void compare_case(const struct safetensors *file, const char *name)
{
	struct trellis_image image = read_image(file, name, "in"), wanted = read_image(file, name, "expect");
	struct resize_box all = {0, 0, image.width, image.height};
	struct error err;
	uint8_t *got;
	cr_assert(resize_lanczos(&got, wanted.width, wanted.height, &image, &all, &err), "%s", err.text);
	for (int i = 0; i < wanted.width * wanted.height * 4; i++)
		cr_assert_eq(got[i], wanted.rgba[i], "%s: byte %d is %d, not %d", name, i, got[i], wanted.rgba[i]);
	free(got);
	trellis_image_finish(&wanted);
	trellis_image_finish(&image);
}

Test(resize, equals_pillow)
{
	struct safetensors *file = golden_open("tests/golden/images/lanczos.safetensors");
	compare_case(file, "RGB.37x53.to.90x41");
	compare_case(file, "RGBA.61x47.to.29x73");
	compare_case(file, "RGB.149x110.to.64x50");
	compare_case(file, "RGBA.40x33.to.71x67");
	compare_case(file, "RGBA.103x91.to.37x31");
	safetensors_close(file);
}

/* What lies outside the image counts as transparent black without being stored: the same as padding it by hand. */
Test(resize, box_beyond_the_image_equals_padding)
{
	enum { W = 23, H = 17, PAD = 9 };
	struct trellis_image image = {.width = W, .height = H, .rgba = malloc(W * H * 4)};
	struct trellis_image padded = {
		.width = W + 2 * PAD, .height = H + 2 * PAD, .rgba = calloc((W + 2 * PAD) * (H + 2 * PAD), 4)};
	for (int i = 0; i < W * H * 4; i++)
		image.rgba[i] = (uint8_t)(i * 2654435761u >> 13);
	for (int y = 0; y < H; y++)
		memcpy(padded.rgba + ((y + PAD) * padded.width + PAD) * 4, image.rgba + y * W * 4, W * 4);
	struct resize_box beyond = {-PAD, -PAD, W + PAD, H + PAD}, all = {0, 0, padded.width, padded.height};
	static const int sizes[][2] = {{7, 5}, {90, 80}, {W + 2 * PAD, H + 2 * PAD}, {W + 2 * PAD, 11}};
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		uint8_t *a, *b;
		cr_assert(resize_lanczos(&a, sizes[s][0], sizes[s][1], &image, &beyond, NULL));
		cr_assert(resize_lanczos(&b, sizes[s][0], sizes[s][1], &padded, &all, NULL));
		cr_assert_arr_eq(a, b, (size_t)(sizes[s][0] * sizes[s][1] * 4));
		free(a);
		free(b);
	}
	trellis_image_finish(&image);
	trellis_image_finish(&padded);
}

/* As in Pillow, an unchanged size is a copy: colours of transparent pixels survive. */
Test(resize, same_size_is_a_copy)
{
	uint8_t bytes[2 * 2 * 4] = {1, 2, 3, 0, 200, 100, 50, 3, 9, 8, 7, 255, 255, 254, 253, 128};
	struct trellis_image image = {.width = 2, .height = 2, .rgba = bytes};
	uint8_t *out;
	cr_assert(resize_lanczos(&out, 2, 2, &image, &(struct resize_box){0, 0, 2, 2}, NULL));
	cr_assert_arr_eq(out, bytes, sizeof bytes);
	free(out);
}
