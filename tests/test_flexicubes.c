/* test_flexicubes.c - case tables against the published ones, extraction against the official code. */
#include "flexicubes.h"
#include "flexicubes_tables.h"
#include "golden.h"

#include <string.h>

/* Positions agree to the last bits; attributes of a few ill-conditioned edges (sdf near 0 at both ends) do not. */
#define GATE_VERTICES 1e-5
#define GATE_ATTRS 2e-4

static uint64_t fnv1a(uint64_t hash, int value)
{
	return (hash ^ (uint8_t)value) * UINT64_C(0x100000001b3);
}

/* The FNV-1a sum of tables.py of FlexiCubes, a byte a number: for each case num_vd_table, dmc_table, check_table. */
Test(flexicubes, derived_tables_equal_the_published)
{
	struct fc_tables t;
	fc_tables_init(&t);
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (int id = 0; id < 256; id++) {
		const struct fc_case *c = &t.cases[id];
		hash = fnv1a(hash, c->n_duals);
		for (int d = 0; d < FC_MAX_DUALS; d++) {
			int n = 0;
			for (int e = 0; e < FC_EDGES; e++)
				if (c->edges[d] >> e & 1) {
					cr_assert_eq(c->dual_of_edge[e], d);
					hash = fnv1a(hash, e);
					n++;
				}
			for (; n < 7; n++)
				hash = fnv1a(hash, -1);
		}
		hash = fnv1a(hash, c->ambiguous != 0);
		for (int axis = 0; axis < 3; axis++)
			hash = fnv1a(hash, c->ambiguous == 1 + axis ? 1 : c->ambiguous == -(1 + axis) ? -1 : 0);
		hash = fnv1a(hash, c->ambiguous ? 255 - id : 0);
	}
	cr_assert_eq(hash, UINT64_C(0x3d8af6058a8005f1), "got %#llx", (unsigned long long)hash);
}

static void check_grid(const char *path)
{
	struct safetensors *f = golden_open(path);
	float *sdf = golden_f32(f, "in.sdf"), *deform = golden_f32(f, "in.deform");
	float *weights = golden_f32(f, "in.weights"), *colors = golden_f32(f, "in.colors");
	int32_t *resolution = golden_i32(f, "in.resolution"), *case_ids = NULL;
	int64_t side = *resolution + 1, n_cases = 0;
	float *positions = malloc((size_t)(side * side * side) * 3 * sizeof *positions);
	struct surface s;
	struct error err = {""};

	cr_assert(flexicubes_from_grid(
			  &s, sdf, deform, weights, colors, *resolution, positions, &case_ids, &n_cases, &err),
		"%s", err.text);
	golden_compare(positions, side * side * side * 3, f, "tap.positions", GATE_VERTICES);
	golden_equal(case_ids, n_cases, f, "tap.case_ids");
	golden_compare(s.vertices, s.n_vertices * 3, f, "expect.vertices", GATE_VERTICES);
	golden_equal(s.faces, s.n_faces * 3, f, "expect.faces");
	golden_compare(s.attrs, s.n_vertices * 6, f, "expect.vertex_attrs", GATE_ATTRS);
	for (int64_t i = 0; i < s.n_faces; i++)
		cr_assert_not(s.is_inner[i], "face %lld", (long long)i);

	surface_finish(&s);
	free(positions);
	free(case_ids);
	free(resolution);
	free(colors);
	free(weights);
	free(deform);
	free(sdf);
	safetensors_close(f);
}

Test(flexicubes, sphere)
{
	check_grid("tests/golden/flexicubes_sphere.io.safetensors");
}

Test(flexicubes, blobs_leaving_the_box)
{
	check_grid("tests/golden/flexicubes_blobs.io.safetensors");
}

Test(flexicubes, noise_with_inverted_cases)
{
	check_grid("tests/golden/flexicubes_random.io.safetensors");
}

/* Sparse features at R = 64: twice subdivided rows as the mesh decoder orders them. */
static int32_t *subdivided(const struct safetensors *f, int64_t *n)
{
	const struct st_tensor *t = golden_find(f, "in.coords");
	int32_t *coarse = golden_i32(f, "in.coords");
	*n = t->dim[0] * 64;
	int32_t *fine = malloc((size_t)*n * 3 * sizeof *fine);
	for (int64_t i = 0; i < *n; i++)
		for (int a = 0; a < 3; a++) /* first subdivision: bits 5..3 of the row, second: bits 2..0; z fastest */
			fine[3 * i + a] =
				4 * coarse[4 * (i / 64) + 1 + a] + 2 * (i >> (5 - a) & 1) + (i >> (2 - a) & 1);
	free(coarse);
	return fine;
}

Test(flexicubes, mesh_decoder_output)
{
	struct safetensors *io = golden_open("tests/data/slat_dec_mesh_a.io.safetensors");
	struct safetensors *mesh = golden_open("tests/data/slat_dec_mesh_a.mesh.safetensors");
	float *features = golden_f32(io, "expect.feats");
	int64_t n, n_inner = 0;
	int32_t *coords = subdivided(io, &n);
	struct surface s;
	struct error err = {""};
	cr_assert(flexicubes_from_features(&s, features, coords, n, 64, true, &err), "%s", err.text);
	golden_compare(s.vertices, s.n_vertices * 3, mesh, "expect.vertices", GATE_VERTICES);
	golden_equal(s.faces, s.n_faces * 3, mesh, "expect.faces");
	golden_compare(s.attrs, s.n_vertices * 6, mesh, "expect.vertex_attrs", GATE_ATTRS);
	for (int64_t i = 0; i < s.n_faces; i++)
		n_inner += s.is_inner[i];
	cr_assert(n_inner > 0 && n_inner < s.n_faces, "%lld of %lld", (long long)n_inner, (long long)s.n_faces);
	surface_finish(&s);

	/* The order of the rows changes neither numbering nor, beyond rounding, positions. */
	float *features_back = malloc((size_t)n * 101 * sizeof *features_back);
	int32_t *coords_back = malloc((size_t)n * 3 * sizeof *coords_back);
	for (int64_t i = 0; i < n; i++) {
		memcpy(features_back + 101 * i, features + 101 * (n - 1 - i), 101 * sizeof *features);
		memcpy(coords_back + 3 * i, coords + 3 * (n - 1 - i), 3 * sizeof *coords);
	}
	cr_assert(flexicubes_from_features(&s, features_back, coords_back, n, 64, true, &err), "%s", err.text);
	golden_compare(s.vertices, s.n_vertices * 3, mesh, "expect.vertices", GATE_VERTICES);
	golden_equal(s.faces, s.n_faces * 3, mesh, "expect.faces");
	surface_finish(&s);
	free(coords_back);
	free(features_back);
	free(coords);
	free(features);
	safetensors_close(mesh);
	safetensors_close(io);
}

/* One active cube, all eight corners inside: a closed shell around it, made by uncovered corners alone, as the sparse
 * sum over a 3x3x3 neighbourhood of which only the middle is active. */
Test(flexicubes, surface_cubes_need_not_be_active)
{
	float features[53] = {0};
	for (int k = 0; k < 8; k++)
		features[k] = -1;
	int32_t coords[3] = {4, 5, 6};
	struct surface s;
	struct error err = {""};
	cr_assert(flexicubes_from_features(&s, features, coords, 1, 16, false, &err), "%s", err.text);
	cr_assert_eq(s.n_vertices, 26);
	cr_assert_eq(s.n_faces, 48); /* 24 edges leave the cube's corners */
	cr_assert_null(s.attrs);
	for (int64_t i = 0; i < s.n_faces; i++)
		cr_assert(s.is_inner[i]);
	surface_finish(&s);

	/* In a corner of the grid only the edges with four cubes around them give faces. */
	memset(coords, 0, sizeof coords);
	cr_assert(flexicubes_from_features(&s, features, coords, 1, 16, false, &err), "%s", err.text);
	cr_assert_eq(s.n_vertices, 7);
	cr_assert_eq(s.n_faces, 6);
	surface_finish(&s);
}

Test(flexicubes, nothing_inside_is_an_empty_surface)
{
	float features[53] = {0};
	for (int k = 0; k < 8; k++)
		features[k] = 1;
	int32_t coords[3] = {1, 2, 3};
	struct surface s;
	struct error err = {""};
	cr_assert(flexicubes_from_features(&s, features, coords, 1, 16, false, &err), "%s", err.text);
	cr_assert_eq(s.n_vertices + s.n_faces, 0);
	surface_finish(&s);
	cr_assert(flexicubes_from_features(&s, features, coords, 0, 16, false, &err), "%s", err.text);
	cr_assert_eq(s.n_vertices + s.n_faces, 0);
	surface_finish(&s);
}

Test(flexicubes, bad_cubes_are_told)
{
	float features[2 * 53] = {0};
	int32_t outside[3] = {1, 2, 16}, twice[6] = {1, 2, 3, 1, 2, 3};
	struct surface s;
	struct error err = {""};
	cr_assert_not(flexicubes_from_features(&s, features, outside, 1, 16, false, &err));
	cr_assert_str_eq(err.text, "mesh extraction: cube (1, 2, 16) lies outside of the grid of 16");
	cr_assert_not(flexicubes_from_features(&s, features, twice, 2, 16, false, &err));
	cr_assert_str_eq(err.text, "mesh extraction: cube (1, 2, 3) is listed twice");
}
