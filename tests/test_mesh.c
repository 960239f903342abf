/* test_mesh.c - from extracted surfaces to clean meshes: shells, gaps, specks, winding, normals, simplification. */
#include "mesh.h"
#include "mesh_clean.h"
#include "shape.h"
#include "threads.h"

#include <string.h>

static struct trellis_mesh clean(struct surface *s, const struct trellis_params *params)
{
	struct trellis_mesh m;
	struct error err = {""};
	cr_assert(mesh_from_surface(&m, s, params, &err), "%s", err.text);
	surface_finish(s);
	return m;
}

static double volume(const struct trellis_mesh *m)
{
	double sum = 0;
	for (int64_t f = 0; f < m->n_faces; f++) {
		double cross[3];
		mesh_face_cross(m, f, cross);
		for (int i = 0; i < 3; i++)
			sum += cross[i] * m->vertices[3 * (int64_t)m->faces[3 * f] + i] / 6;
	}
	return sum;
}

static int64_t border_edges(const struct trellis_mesh *m)
{
	struct half_edges h;
	struct error err = {""};
	int64_t n = 0;
	cr_assert(half_edges_init(&h, m, &err), "%s", err.text);
	for (int32_t a = 0; a < m->n_vertices; a++)
		for (int64_t i = h.first[a]; i < h.first[a + 1]; i++)
			n += half_edges_count(&h, a, h.to[i]) != half_edges_count(&h, h.to[i], a);
	half_edges_finish(&h);
	return n;
}

static void check_sound(const struct trellis_mesh *m)
{
	uint8_t *used = calloc((size_t)m->n_vertices, 1);
	for (int64_t i = 0; i < 3 * m->n_faces; i++) {
		cr_assert(m->faces[i] >= 0 && m->faces[i] < m->n_vertices);
		used[m->faces[i]] = 1;
	}
	for (int64_t f = 0; f < m->n_faces; f++) {
		double c[3];
		mesh_face_cross(m, f, c);
		cr_assert_geq(sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2]) / 2, DEGENERATE_AREA);
	}
	for (int64_t v = 0; v < m->n_vertices; v++) {
		const float *n = m->normals + 3 * v;
		cr_assert(used[v], "vertex %lld is not used", (long long)v);
		cr_assert_float_eq(n[0] * n[0] + n[1] * n[1] + n[2] * n[2], 1, 1e-5);
		for (int i = 0; i < 3; i++)
			cr_assert(m->colors[3 * v + i] >= 0 && m->colors[3 * v + i] <= 1);
	}
	free(used);
}

Test(mesh, sphere_has_one_shell_that_looks_outward)
{
	struct trellis_params params = {.seed = 7};
	struct surface s = shape_surface(shape_sphere, 16, NULL);
	int64_t n_inner = 0, n_faces = s.n_faces;
	for (int64_t f = 0; f < s.n_faces; f++)
		n_inner += s.is_inner[f];
	cr_assert_gt(n_inner, n_faces / 3);
	struct trellis_mesh m = clean(&s, &params);
	check_sound(&m);
	cr_assert_eq(m.seed, 7);
	cr_assert_leq(m.n_faces, n_faces - n_inner);
	cr_assert_eq(border_edges(&m), 0);
	cr_assert_eq(m.n_vertices - m.n_faces / 2, 2, "Euler characteristic of a sphere");
	cr_assert_float_eq(volume(&m), 4.0 / 3 * M_PI * 0.4 * 0.4 * 0.4, 0.002);
	for (int64_t v = 0; v < m.n_vertices; v++) {
		const float *p = m.vertices + 3 * v, *n = m.normals + 3 * v;
		cr_assert_gt((p[0] * n[0] + p[1] * n[1] + p[2] * n[2]) / 0.4f, 0.98f);
		cr_assert_float_eq(m.colors[3 * v], 0.9f, 0.01f);
	}
	trellis_mesh_finish(&m);
}

Test(mesh, inner_shell_stays_on_request)
{
	struct trellis_params with = {.keep_inner_shell = true}, without = {0};
	struct surface s = shape_surface(shape_sphere, 16, NULL), t = shape_surface(shape_sphere, 16, NULL);
	struct trellis_mesh a = clean(&s, &with), b = clean(&t, &without);
	check_sound(&a);
	cr_assert_gt(a.n_faces, b.n_faces * 3 / 2);
	cr_assert_lt(volume(&a), volume(&b) / 2, "the shell encloses the band alone");
	trellis_mesh_finish(&a);
	trellis_mesh_finish(&b);
}

Test(mesh, raw_is_the_extraction_untouched)
{
	struct trellis_params params = {.raw_mesh = true, .simplify = 0.5f};
	struct surface s = shape_surface(shape_sphere, 12, NULL);
	struct trellis_mesh m;
	struct error err = {""};
	cr_assert(mesh_from_surface(&m, &s, &params, &err), "%s", err.text);
	cr_assert_eq(m.n_vertices, s.n_vertices);
	cr_assert_eq(m.n_faces, s.n_faces);
	cr_assert_null(m.normals);
	cr_assert_arr_eq(m.vertices, s.vertices, (size_t)s.n_vertices * 3 * sizeof *s.vertices);
	cr_assert_arr_eq(m.faces, s.faces, (size_t)s.n_faces * 3 * sizeof *s.faces);
	cr_assert_arr_eq(m.attrs, s.attrs, (size_t)s.n_vertices * 6 * sizeof *s.attrs);
	trellis_mesh_finish(&m);
	surface_finish(&s);
}

/* A voxel that the structure lacks opens a gap of a voxel's size; it is closed without new vertices. */
Test(mesh, gap_of_a_missing_voxel_is_closed)
{
	struct trellis_params params = {0};
	int missing[3] = {14, 8, 8};
	struct surface s = shape_surface(shape_sphere, 16, missing);
	struct trellis_mesh open = {0}, m;
	struct error err = {""};
	for (int64_t f = 0; f < s.n_faces; f++)
		if (!s.is_inner[f])
			memmove(s.faces + 3 * open.n_faces++, s.faces + 3 * f, 3 * sizeof *s.faces);
	open.n_vertices = s.n_vertices;
	open.vertices = s.vertices;
	open.faces = s.faces;
	cr_assert_gt(border_edges(&open), 10);
	s.n_faces = open.n_faces;
	memset(s.is_inner, 0, (size_t)s.n_faces);
	cr_assert(mesh_from_surface(&m, &s, &params, &err), "%s", err.text);
	check_sound(&m);
	cr_assert_eq(border_edges(&m), 0);
	cr_assert_gt(m.n_faces, open.n_faces);
	cr_assert_float_eq(volume(&m), 4.0 / 3 * M_PI * 0.4 * 0.4 * 0.4, 0.003);
	trellis_mesh_finish(&m);
	surface_finish(&s);
}

/* A ball of 1.2 voxels beside the sphere goes; one of four voxels stays. */
static float sphere_with_speck(const float p[3], float rgb[3])
{
	return fminf(shape_sphere(p, rgb), shape_ball(p, 0.44f, 0.44f, 0.44f, 0.015f));
}

static float sphere_with_part(const float p[3], float rgb[3])
{
	return fminf(shape_sphere(p, rgb), shape_ball(p, 0.4f, 0.4f, 0.4f, 0.06f));
}

static bool reaches(const struct trellis_mesh *m, float x)
{
	for (int64_t v = 0; v < m->n_vertices; v++)
		if (m->vertices[3 * v] > x && m->vertices[3 * v + 1] > x)
			return true;
	return false;
}

Test(mesh, specks_go_and_parts_stay)
{
	struct trellis_params params = {0};
	struct surface s = shape_surface(sphere_with_speck, 32, NULL), t = shape_surface(sphere_with_part, 32, NULL);
	struct trellis_mesh a = {.vertices = s.vertices, .n_vertices = s.n_vertices};
	cr_assert(reaches(&a, 0.42f), "the speck is extracted");
	a = clean(&s, &params);
	cr_assert_not(reaches(&a, 0.42f));
	cr_assert_eq(border_edges(&a), 0);
	struct trellis_mesh b = clean(&t, &params);
	cr_assert(reaches(&b, 0.42f));
	trellis_mesh_finish(&a);
	trellis_mesh_finish(&b);
}

static struct trellis_mesh hand_made(const float *vertices, int64_t n_vertices, const int32_t *faces, int64_t n_faces)
{
	struct trellis_mesh m = {.n_vertices = n_vertices, .n_faces = n_faces};
	m.vertices = malloc((size_t)n_vertices * 3 * sizeof *m.vertices);
	m.faces = malloc((size_t)n_faces * 3 * sizeof *m.faces);
	memcpy(m.vertices, vertices, (size_t)n_vertices * 3 * sizeof *m.vertices);
	memcpy(m.faces, faces, (size_t)n_faces * 3 * sizeof *m.faces);
	return m;
}

Test(mesh, weld_drops_what_is_no_surface)
{
	const float vertices[] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, -0.0f, 0, 0, 0.5f, 0, 0};
	const int32_t faces[] = {
		0, 1, 2, /* stays */
		1, 2, 4, /* the same after welding 4 to 0 */
		0, 4, 3, /* no area after welding */
		0, 5, 1, /* no area: in line */
		0, 1, 3, /* cancels with the next */
		1, 0, 3, /**/
		0, 2, 3, /* stays */
	};
	struct trellis_mesh m = hand_made(vertices, 6, faces, 7);
	struct error err = {""};
	cr_assert(mesh_weld(&m, &err) && mesh_compact(&m, &err), "%s", err.text);
	const int32_t left[] = {0, 1, 2, 0, 2, 3};
	cr_assert_eq(m.n_faces, 2);
	cr_assert_arr_eq(m.faces, left, sizeof left);
	cr_assert_eq(m.n_vertices, 4);
	trellis_mesh_finish(&m);
}

Test(mesh, large_openings_stay_open)
{
	enum { N = GAP_EDGES + 1 };
	float vertices[3 * (N + 1)] = {0, 0, 1};
	int32_t faces[3 * N];
	for (int i = 0; i < N; i++) {
		vertices[3 * (i + 1)] = cosf(2 * (float)M_PI * (float)i / N);
		vertices[3 * (i + 1) + 1] = sinf(2 * (float)M_PI * (float)i / N);
		vertices[3 * (i + 1) + 2] = 0;
		faces[3 * i] = 0;
		faces[3 * i + 1] = 1 + i;
		faces[3 * i + 2] = 1 + (i + 1) % N;
	}
	struct error err = {""};
	struct trellis_mesh m = hand_made(vertices, N + 1, faces, N);
	cr_assert(mesh_close_gaps(&m, &err), "%s", err.text);
	cr_assert_eq(m.n_faces, N);
	trellis_mesh_finish(&m);

	faces[3 * (N - 2) + 2] = 1; /* one edge less */
	m = hand_made(vertices, N + 1, faces, N - 1);
	cr_assert(mesh_close_gaps(&m, &err), "%s", err.text);
	cr_assert_eq(m.n_faces, N - 1 + N - 3);
	cr_assert_eq(border_edges(&m), 0);
	trellis_mesh_finish(&m);
}

static struct trellis_mesh snowman(float simplify)
{
	struct trellis_params params = {.simplify = simplify};
	struct surface s = shape_surface(shape_snowman, 24, NULL);
	return clean(&s, &params);
}

/* Number of triangles in low .. high shares of the whole mesh's, the same body, the scarf still red. */
static void check_simplified(float keep, double low, double high)
{
	struct trellis_mesh whole = snowman(0), m = snowman(keep);
	int64_t red = 0;
	check_sound(&m);
	double share = (double)m.n_faces / (double)whole.n_faces;
	cr_assert(share >= low && share <= high, "kept %g", share);
	cr_assert_float_eq(volume(&m) / volume(&whole), 1, 0.02);
	for (int64_t v = 0; v < m.n_vertices; v++)
		red += m.colors[3 * v] > 0.7f && m.colors[3 * v + 1] < 0.2f;
	cr_assert(red > m.n_vertices / 50, "%lld of %lld are red", (long long)red, (long long)m.n_vertices);
	trellis_mesh_finish(&m);
	trellis_mesh_finish(&whole);
}

Test(mesh, simplify_by_share)
{
	check_simplified(0.25f, 0.24, 0.25);
}

Test(mesh, simplify_by_number)
{
	struct trellis_mesh m = snowman(1500);
	cr_assert(m.n_faces >= 1450 && m.n_faces <= 1500, "%lld triangles", (long long)m.n_faces);
	trellis_mesh_finish(&m);
	check_simplified(1e9f, 1, 1);
}

/* Large enough to be simplified in cells side by side first: no crack along their seams, and threads change nothing. */
Test(mesh, large_meshes_simplify_the_same_with_any_number_of_threads)
{
	struct trellis_params params = {.simplify = 9000};
	struct trellis_mesh m[2];
	for (int i = 0; i < 2; i++) {
		struct surface s = shape_surface(shape_sphere, 32, NULL);
		threads_limit(1 + 3 * i);
		m[i] = clean(&s, &params);
	}
	check_sound(&m[0]);
	cr_assert(m[0].n_faces >= 8900 && m[0].n_faces <= 9000, "%lld triangles", (long long)m[0].n_faces);
	cr_assert_eq(border_edges(&m[0]), 0);
	cr_assert_eq(m[0].n_vertices - m[0].n_faces / 2, 2, "Euler characteristic of a sphere");
	cr_assert_float_eq(volume(&m[0]), 4.0 / 3 * M_PI * 0.4 * 0.4 * 0.4, 0.002);
	cr_assert_eq(m[1].n_faces, m[0].n_faces);
	cr_assert_arr_eq(m[1].faces, m[0].faces, (size_t)m[0].n_faces * 3 * sizeof *m[0].faces);
	cr_assert_arr_eq(m[1].vertices, m[0].vertices, (size_t)m[0].n_vertices * 3 * sizeof *m[0].vertices);
	trellis_mesh_finish(&m[0]);
	trellis_mesh_finish(&m[1]);
}

Test(mesh, bad_simplify_is_told)
{
	struct trellis_mesh m = {0};
	struct error err = {""};
	cr_assert_not(mesh_simplify(&m, NAN, &err));
	cr_assert_str_eq(err.text, "simplify: wanted a share in (0, 1) or a number of triangles, got nan");
}

Test(mesh, empty_and_broken_surfaces_are_told)
{
	struct trellis_params params = {0};
	struct surface s = {0};
	struct trellis_mesh m;
	struct error err = {""};
	cr_assert_not(mesh_from_surface(&m, &s, &params, &err));
	cr_assert_str_eq(err.text, "the mesh is empty: the decoded surface has no faces");
	s = shape_surface(shape_sphere, 12, NULL);
	s.vertices[3 * 5 + 1] = NAN;
	cr_assert_not(mesh_from_surface(&m, &s, &params, &err));
	cr_assert_str_eq(err.text, "the mesh is broken: vertex 5 is not finite");
	surface_finish(&s);
}
