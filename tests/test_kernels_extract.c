/* test_kernels_extract.c - op_extract of every backend against the CPU's (test_flexicubes.c compares that one with the
 * official code): same numbering, same triangles, in any order of the cubes. */
#include "kernels.h"

/* Tangents and exponentials differ in the last bits; an edge whose ends lie close to 0 multiplies them. */
static const double VERTEX_LIMIT = 2e-6, ATTR_LIMIT = 2e-4;

struct cubes {
	int64_t resolution, n;
	int32_t (*coords)[3];
	bool has_color;
	float *features;
};

/* About `share` of the cubes of a grid, shuffled, their numbers noise around `level` (sdf) and 0. */
static struct cubes some_cubes(int resolution, float share, bool has_color, float level, uint32_t seed)
{
	int64_t all = (int64_t)resolution * resolution * resolution, cols = has_color ? 101 : 53;
	struct cubes c = {.resolution = resolution, .has_color = has_color, .coords = malloc((size_t)all * 12)};
	uint32_t state = seed;
	for (int i = 0; i < all; i++)
		if (noise_next(&state) < 2 * share - 1) {
			int32_t at[3] = {i / (resolution * resolution), i / resolution % resolution, i % resolution};
			int64_t other = c.n ? (int64_t)((state >> 8) % (uint32_t)(c.n + 1)) : 0;
			memcpy(c.coords[c.n], c.coords[other], sizeof at);
			memcpy(c.coords[other], at, sizeof at);
			c.n++;
		}
	c.features = noise(c.n * cols, seed + 1);
	for (int64_t i = 0; i < c.n * cols; i++)
		c.features[i] = 2 * c.features[i] + (i % cols < 8 ? level : 0);
	return c;
}

/* Rows of features and coordinates lie apart. */
static void extract(struct backend *b, struct surface *s, const struct cubes *c)
{
	int64_t cols = c->has_color ? 101 : 53;
	struct tensor features = tensor_columns(scratch_new_as(b, DTYPE_F32, c->n, cols + 3), 2, cols);
	struct tensor coords = tensor_columns(scratch_new_as(b, DTYPE_I32, c->n, 5), 1, 3);
	op_upload(b, features, c->features);
	op_upload_i32(b, coords, c->coords[0]);
	*s = (struct surface){0};
	op_extract(b, s, features, coords, c->resolution, c->has_color);
	scratch_release(b, 0);
}

static void expect_near(const float *have, const float *want, int64_t n, double limit, const char *what)
{
	double worst = 0, largest = 0;
	for (int64_t i = 0; i < n; i++) {
		double error = fabs((double)have[i] - (double)want[i]);
		worst = error <= worst ? worst : error;
		largest = fmax(largest, fabs((double)want[i]));
	}
	cr_expect(
		worst <= limit * largest, "%s: off by %.3g of the largest, allowed %.3g", what, worst / largest, limit);
}

static void check_cubes(struct backend *b[2], struct cubes c)
{
	struct surface s[2], again;
	for (int i = 0; i < 2; i++) {
		extract(b[i], &s[i], &c);
		cr_assert(backend_ok(b[i]), "%s: %s", b[i]->ops->name, b[i]->error.text);
	}
	cr_assert_eq(s[1].n_vertices, s[0].n_vertices);
	cr_assert_eq(s[1].n_faces, s[0].n_faces);
	cr_expect_arr_eq(s[1].faces, s[0].faces, (size_t)s[0].n_faces * 12);
	cr_expect_arr_eq(s[1].is_inner, s[0].is_inner, (size_t)s[0].n_faces);
	expect_near(s[1].vertices, s[0].vertices, 3 * s[0].n_vertices, VERTEX_LIMIT, "vertices");
	cr_assert_eq(s[1].attrs != NULL, c.has_color);
	if (c.has_color)
		expect_near(s[1].attrs, s[0].attrs, 6 * s[0].n_vertices, ATTR_LIMIT, "attrs");
	extract(b[1], &again, &c);
	cr_expect_arr_eq(again.vertices, s[1].vertices, (size_t)s[1].n_vertices * 12, "another run differs");
	surface_finish(&again);
	surface_finish(&s[1]);
	surface_finish(&s[0]);
	free(c.features);
	free(c.coords);
}

/* Grids whose rows end before, at and after a word of 32 points; all cubes, half of them, and few. */
static void check_extract(struct backend *b[2])
{
	static const int sides[] = {1, 2, 5, 28, 29, 30, 31, 32, 33};
	for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
		check_cubes(b, some_cubes(sides[i], 1, true, 0, 3));
		check_cubes(b, some_cubes(sides[i], 0.5f, false, 0.2f, 5));
		check_cubes(b, some_cubes(sides[i], 0.03f, true, -0.5f, 7));
	}
	check_cubes(b, some_cubes(8, 0, true, 0, 1));
}

Test(kernels_extract, noise)
{
	for_each_backend(check_extract);
}

static void check_refusal(struct backend *b, const int32_t coords[3][3], const char *text)
{
	struct cubes c = {.resolution = 16, .n = 3};
	struct surface s;
	struct error err = {""};
	c.coords = malloc(3 * sizeof *c.coords);
	c.features = noise(3 * 53, 1);
	memcpy(c.coords, coords, 3 * sizeof *c.coords);
	extract(b, &s, &c);
	cr_expect_not(backend_finish(b, &err));
	cr_expect_str_eq(err.text, text);
	free(c.features);
	free(c.coords);
}

static void check_bad_cubes(struct backend *b[2])
{
	for (int i = 0; i < 2; i++) {
		check_refusal(b[i], (int32_t[3][3]){{1, 2, 3}, {4, -5, 6}, {1, 2, 16}},
			"mesh extraction: cube (4, -5, 6) lies outside of the grid of 16");
		check_refusal(b[i], (int32_t[3][3]){{1, 2, 3}, {4, 5, 6}, {1, 2, 3}},
			"mesh extraction: cube (1, 2, 3) is listed twice");
	}
}

Test(kernels_extract, bad_cubes_are_told)
{
	for_each_backend(check_bad_cubes);
}
