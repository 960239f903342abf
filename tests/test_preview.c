/* test_preview.c - pictures of meshes: framing, colours, light, the same every time; PNG files that libpng reads. */
#include "mesh.h"
#include "png_write.h"
#include "preview.h"
#include "shape.h"

#include <criterion/criterion.h>
#include <png.h>
#include <string.h>

enum { SIZE = 128 };

static struct trellis_mesh shape_mesh(shape_fn shape, int voxels)
{
	struct trellis_params params = {0};
	struct surface s = shape_surface(shape, voxels, NULL);
	struct trellis_mesh m;
	struct error err = {""};
	cr_assert(mesh_from_surface(&m, &s, &params, &err), "%s", err.text);
	surface_finish(&s);
	return m;
}

static uint8_t *draw(const struct trellis_mesh *m, float yaw_deg, float pitch_deg)
{
	struct error err = {""};
	uint8_t *rgb = malloc(SIZE * SIZE * 3);
	struct preview *p = preview_create(m, &err);
	cr_assert_not_null(p, "%s", err.text);
	cr_assert(preview_draw(p, rgb, SIZE, SIZE, SIZE, yaw_deg, pitch_deg, &err), "%s", err.text);
	preview_destroy(p);
	return rgb;
}

static const uint8_t *pixel(const uint8_t *rgb, int x, int y)
{
	return rgb + 3 * (y * SIZE + x);
}

static bool is_orange(const uint8_t *p)
{
	return p[0] > p[1] * 3 / 2 && p[1] > p[2] * 5 / 4;
}

Test(preview, sphere_fills_the_frame_and_is_lit_from_the_upper_left)
{
	struct trellis_mesh m = shape_mesh(shape_sphere, 16);
	uint8_t *rgb = draw(&m, 30, 18);
	int low = SIZE, high = 0;
	for (int x = 0; x < SIZE; x++)
		if (is_orange(pixel(rgb, x, SIZE / 2))) {
			low = x < low ? x : low;
			high = x;
		}
	cr_assert(low >= 4 && low <= 10, "%d", low);
	cr_assert(high >= SIZE - 11 && high <= SIZE - 5, "%d", high);
	int lit = pixel(rgb, SIZE * 2 / 5, SIZE * 2 / 5)[0], away = pixel(rgb, SIZE * 4 / 5, SIZE * 3 / 4)[0];
	cr_assert_gt(lit, away + 40, "lit %d, away %d", lit, away);
	for (int i = 0; i < 4; i++) { /* the backdrop is light and grey */
		const uint8_t *corner = pixel(rgb, i & 1 ? SIZE - 1 : 0, i & 2 ? SIZE - 1 : 0);
		cr_assert(corner[0] > 150 && abs(corner[0] - corner[2]) < 12);
	}
	/* The floor behind the object to the right lies in its shadow. */
	cr_assert_lt(pixel(rgb, SIZE - 3, SIZE * 3 / 4)[1], pixel(rgb, 2, SIZE * 3 / 4)[1] - 10);
	free(rgb);
	trellis_mesh_finish(&m);
}

static int count(const uint8_t *rgb, bool (*is)(const uint8_t *p))
{
	int n = 0;
	for (int i = 0; i < SIZE * SIZE; i++)
		n += is(rgb + 3 * i);
	return n;
}

static bool is_coal(const uint8_t *p)
{
	return p[0] < 70 && p[1] < 70 && p[2] < 70;
}

Test(preview, yaw_zero_is_the_front)
{
	struct trellis_mesh m = shape_mesh(shape_snowman, 32);
	uint8_t *front = draw(&m, 0, 10), *back = draw(&m, 180, 10), *right = draw(&m, 90, 10);
	cr_assert_gt(count(front, is_coal), count(back, is_coal) + 20, "a crease may be dark too");
	/* From +x the front, with the nose, is on the left. */
	int left_half = 0, right_half = 0;
	for (int y = 0; y < SIZE; y++)
		for (int x = 0; x < SIZE; x++)
			*(x < SIZE / 2 ? &left_half : &right_half) += is_orange(pixel(right, x, y));
	cr_assert(left_half > 5 && right_half == 0, "%d, %d", left_half, right_half);
	free(front);
	free(back);
	free(right);
	trellis_mesh_finish(&m);
}

Test(preview, the_same_mesh_gives_the_same_picture)
{
	struct trellis_mesh m = shape_mesh(shape_snowman, 16);
	uint8_t *a = draw(&m, 200, 30), *b = draw(&m, 200, 30);
	cr_assert_arr_eq(a, b, SIZE * SIZE * 3);
	free(a);
	free(b);
	trellis_mesh_finish(&m);
}

/* Meshes of other programs: no normals, no colours, flat, tiny, far from the origin. */
Test(preview, odd_meshes_are_drawn)
{
	static const float scales[] = {1e-12f, 1, 1e12f};
	for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
		for (int flat = 0; flat < 3; flat++) {
			float vertices[9] = {-1, -1, -1, 1, 0.5f, 0, 0, 1, 1};
			int32_t faces[6] = {0, 1, 2, 2, 1, 0};
			for (int k = 0; k < 9; k++)
				vertices[k] = k % 3 == flat ? 5 * scales[i] : vertices[k] * scales[i];
			struct trellis_mesh m = {.n_vertices = 3, .n_faces = 2, .vertices = vertices, .faces = faces};
			free(draw(&m, 30, 18));
			memset(vertices, 0, sizeof vertices);
			free(draw(&m, 30, 18));
		}
}

Test(preview, an_empty_mesh_is_told)
{
	struct trellis_mesh m = {0};
	struct error err = {""};
	cr_assert_null(preview_create(&m, &err));
	cr_assert_str_eq(err.text, "the mesh cannot be drawn: it is empty");
}

Test(preview, png_reads_back)
{
	enum { WIDTH = 37, HEIGHT = 23 };
	uint8_t rgb[2][WIDTH * HEIGHT * 3], back[WIDTH * HEIGHT * 3];
	struct error err = {""};
	for (int k = 0; k < 2; k++)
		for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
			rgb[k][i] = (uint8_t)(i * (i + k) / 7 + (i % 11) * 20);
	for (int n = 1; n <= 2; n++) {
		struct buffer b = {0};
		png_image image = {.version = PNG_IMAGE_VERSION};
		struct png png;
		png_begin(&png, &b, WIDTH, HEIGHT, n, 100);
		for (int k = 0; k < n; k++)
			cr_assert(png_frame(&png, rgb[k], &err), "%s", err.text);
		cr_assert(png_image_begin_read_from_memory(&image, b.data, b.size), "%s", image.message);
		cr_assert_eq(image.width, WIDTH);
		cr_assert_eq(image.height, HEIGHT);
		image.format = PNG_FORMAT_RGB;
		cr_assert(png_image_finish_read(&image, NULL, back, 0, NULL), "%s", image.message);
		cr_assert_arr_eq(back, rgb[0], sizeof back);
		cr_assert_eq(memmem(b.data, b.size, "acTL", 4) != NULL, n == 2);
		cr_assert_eq(memmem(b.data, b.size, "fdAT", 4) != NULL, n == 2);
		buffer_finish(&b);
	}
}

Test(preview, picture_beside_a_mesh)
{
	struct trellis_mesh m = shape_mesh(shape_snowman, 16);
	struct buffer b = {0};
	struct error err = {""};
	png_image image = {.version = PNG_IMAGE_VERSION};
	cr_assert(preview_append_png(&b, &m, &err), "%s", err.text);
	cr_assert(png_image_begin_read_from_memory(&image, b.data, b.size), "%s", image.message);
	cr_assert_eq(image.width, 1024);
	cr_assert_eq(image.height, 512);
	png_image_free(&image);
	buffer_finish(&b);
	trellis_mesh_finish(&m);
}
