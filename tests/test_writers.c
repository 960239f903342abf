/* test_writers.c - mesh files byte by byte, read back, written whole or not at all; and the GLB reader on bad files. */
#include "glb_read.h"
#include "mesh.h"
#include "shape.h"
#include "writers.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const float corners[] = {
	-0.5f, -0.25f, 0.125f, 0.3f, -0.25f, 0.125f, -0.5f, 0.35f, 0.125f, -0.5f, -0.25f, 0.325f};
static const float colors[] = {1, 0.5f, 0, 0, 1, 0, 0, 0, 1, 0.2f, 0.2f, 0.2f};
static const int32_t faces[] = {0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3};

/* A tetrahedron over borrowed arrays, with normals of its own. */
static struct trellis_mesh tetrahedron(void)
{
	struct trellis_mesh m = {
		.n_vertices = 4,
		.n_faces = 4,
		.vertices = (float *)corners,
		.colors = (float *)colors,
		.faces = (int32_t *)faces,
		.model = "tiny \"model\" \\ \xc3\xa9",
		.cutout = "alpha",
		.seed = 4294967295u,
	};
	struct error err = {""};
	cr_assert(mesh_compute_normals(&m, &err), "%s", err.text);
	return m;
}

static struct buffer bytes_of(const struct trellis_mesh *m, enum mesh_format format)
{
	struct buffer b = {0};
	struct error err = {""};
	cr_assert(mesh_format_bytes(&b, m, format, &err), "%s", err.text);
	return b;
}

static uint32_t u32_at(const struct buffer *b, size_t at)
{
	uint32_t value;
	cr_assert_leq(at + 4, b->size);
	memcpy(&value, b->data + at, 4);
	return value;
}

static float f32_at(const struct buffer *b, size_t at)
{
	float value;
	cr_assert_leq(at + 4, b->size);
	memcpy(&value, b->data + at, 4);
	return value;
}

static double number(json_t *root, const char *array, int index, const char *key, int at)
{
	return json_number_value(json_array_get(
		json_object_get(json_array_get(json_object_get(root, array), (size_t)index), key), (size_t)at));
}

Test(writers, glb_layout)
{
	struct trellis_mesh m = tetrahedron();
	struct buffer b = bytes_of(&m, MESH_GLB);
	cr_assert_arr_eq(b.data, "glTF\2\0\0\0", 8);
	cr_assert_eq(u32_at(&b, 8), b.size);
	uint32_t json_size = u32_at(&b, 12);
	cr_assert_eq(json_size % 4, 0);
	cr_assert_eq(u32_at(&b, 20 + json_size) % 4, 0);
	cr_assert_arr_eq(b.data + 24 + json_size, "BIN\0", 4);
	cr_assert_eq(28 + json_size + u32_at(&b, 20 + json_size), b.size);
	for (uint32_t i = json_size; b.data[19 + i] != '}'; i--)
		cr_assert_eq(b.data[19 + i], ' ');

	json_t *root = json_loadb((const char *)b.data + 20, json_size, 0, NULL);
	cr_assert_not_null(root);
	const float low[3] = {-0.5f, 0.125f, -0.35f}, high[3] = {0.3f, 0.325f, 0.25f}; /* (x, z, -y) */
	for (int i = 0; i < 3; i++) {
		cr_assert_eq((float)number(root, "accessors", 0, "min", i), low[i]);
		cr_assert_eq(number(root, "accessors", 0, "min", i), (double)low[i]);
		cr_assert_eq(number(root, "accessors", 0, "max", i), (double)high[i]);
	}
	json_t *extras = json_object_get(json_object_get(root, "asset"), "extras");
	cr_assert_str_eq(json_string_value(json_object_get(extras, "model")), m.model);
	cr_assert_str_eq(json_string_value(json_object_get(extras, "cutout")), "alpha");
	cr_assert_str_eq(json_string_value(json_object_get(extras, "version")), TRELLISFS_VERSION);
	cr_assert_eq(json_integer_value(json_object_get(extras, "seed")), 4294967295);
	json_t *material = json_array_get(json_object_get(root, "materials"), 0);
	json_t *pbr = json_object_get(material, "pbrMetallicRoughness");
	cr_assert(json_is_false(json_object_get(material, "doubleSided")));
	cr_assert_eq(json_number_value(json_object_get(pbr, "metallicFactor")), 0);
	cr_assert(json_is_number(json_object_get(pbr, "metallicFactor")));
	cr_assert_eq(json_number_value(json_object_get(pbr, "roughnessFactor")), 1);

	/* Colour 0.5 in sRGB is 0.214 linear. */
	size_t bin = 28 + json_size;
	uint16_t rgba[4];
	memcpy(rgba, b.data + bin + 4 * 12 + 4 * 12, sizeof rgba);
	cr_assert_eq(rgba[0], 65535);
	cr_assert_float_eq(rgba[1] / 65535.0, 0.21404, 1e-4);
	cr_assert_eq(rgba[2], 0);
	cr_assert_eq(rgba[3], 65535);
	json_decref(root);
	buffer_finish(&b);
	free(m.normals);
}

Test(writers, glb_reads_back)
{
	struct trellis_mesh m = tetrahedron(), back;
	struct buffer b = bytes_of(&m, MESH_GLB);
	struct error err = {""};
	cr_assert(glb_read(&back, b.data, b.size, "test", &err), "%s", err.text);
	cr_assert_eq(back.n_vertices, 4);
	cr_assert_eq(back.n_faces, 4);
	cr_assert_arr_eq(back.vertices, corners, sizeof corners);
	cr_assert_arr_eq(back.faces, faces, sizeof faces);
	for (int i = 0; i < 12; i++) {
		cr_assert_float_eq(back.normals[i], m.normals[i], 1e-6);
		cr_assert_float_eq(back.colors[i], colors[i], 2e-4);
	}
	cr_assert_str_eq(back.model, m.model);
	cr_assert_eq(back.seed, m.seed);
	trellis_mesh_finish(&back);
	buffer_finish(&b);
	m.seed = UINT64_MAX; /* as a 64-bit number it would be -1 */
	b = bytes_of(&m, MESH_GLB);
	cr_assert(memmem(b.data, b.size, "\"18446744073709551615\"", 22), "the seed is not in the file");
	cr_assert(glb_read(&back, b.data, b.size, "test", &err), "%s", err.text);
	cr_assert_eq(back.seed, UINT64_MAX);
	trellis_mesh_finish(&back);
	buffer_finish(&b);
	free(m.normals);
}

Test(writers, glb_indices_are_as_wide_as_needed)
{
	enum { N = 65536 };
	struct trellis_mesh m = {.n_faces = 1}, back;
	struct error err = {""};
	m.vertices = calloc(3 * N, sizeof *m.vertices);
	for (m.n_vertices = N - 1; m.n_vertices <= N; m.n_vertices++) {
		int32_t last[3] = {0, 1, (int32_t)m.n_vertices - 1};
		m.faces = last;
		struct buffer b = bytes_of(&m, MESH_GLB);
		const char *type = m.n_vertices < N ? "\"componentType\":5123" : "\"componentType\":5125";
		cr_assert_not_null(memmem(b.data, b.size, type, strlen(type)));
		cr_assert(glb_read(&back, b.data, b.size, "test", &err), "%s", err.text);
		cr_assert_arr_eq(back.faces, last, sizeof last);
		trellis_mesh_finish(&back);
		buffer_finish(&b);
	}
	free(m.vertices);
}

Test(writers, glb_names_that_are_not_utf8_stay_readable)
{
	struct trellis_mesh m = tetrahedron(), back;
	strcpy(m.model, "bad\xff\xc3name");
	struct buffer b = bytes_of(&m, MESH_GLB);
	struct error err = {""};
	cr_assert(glb_read(&back, b.data, b.size, "test", &err), "%s", err.text);
	cr_assert_str_eq(back.model, "bad??name");
	trellis_mesh_finish(&back);
	buffer_finish(&b);
	free(m.normals);
}

Test(writers, obj_text)
{
	struct trellis_mesh m = tetrahedron();
	free(m.normals);
	m.normals = NULL;
	struct buffer b = bytes_of(&m, MESH_OBJ);
	buffer_append(&b, "", 1);
	cr_assert_str_eq((char *)b.data, "# trellisfs " TRELLISFS_VERSION "\n"
					 "v -0.500000 0.125000 0.250000 1.0000 0.5000 0.0000\n"
					 "v 0.300000 0.125000 0.250000 0.0000 1.0000 0.0000\n"
					 "v -0.500000 0.125000 -0.350000 0.0000 0.0000 1.0000\n"
					 "v -0.500000 0.325000 0.250000 0.2000 0.2000 0.2000\n"
					 "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n");
	buffer_finish(&b);
}

Test(writers, obj_with_normals)
{
	struct trellis_mesh m = tetrahedron();
	m.colors = NULL;
	struct buffer b = bytes_of(&m, MESH_OBJ);
	buffer_append(&b, "", 1);
	cr_assert_not_null(strstr((char *)b.data, "\nv -0.500000 0.125000 0.250000\nv"));
	cr_assert_not_null(strstr((char *)b.data, "\nvn "));
	cr_assert_not_null(strstr((char *)b.data, "\nf 1//1 3//3 2//2\n"));
	buffer_finish(&b);
	free(m.normals);
}

Test(writers, decimals_are_exact_in_any_locale)
{
	static const struct {
		double value;
		int decimals;
		const char *text;
	} cases[] = {{0, 3, "0.000"}, {-0.0004, 3, "0.000"}, {-0.0006, 3, "-0.001"}, {12.345678, 6, "12.345678"},
		{0.9999999, 4, "1.0000"}, {-7, 1, "-7.0"}, {1e30, 2, "1000000000.00"}};
	setlocale(LC_ALL, "de_DE.UTF-8"); /* where it is installed */
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct buffer b = {0};
		buffer_decimal(&b, cases[i].value, cases[i].decimals);
		buffer_append(&b, "", 1);
		cr_assert_str_eq((char *)b.data, cases[i].text);
		buffer_finish(&b);
	}
}

Test(writers, ply_bytes)
{
	struct trellis_mesh m = tetrahedron();
	struct buffer b = bytes_of(&m, MESH_PLY);
	static const char header[] = "ply\nformat binary_little_endian 1.0\ncomment trellisfs " TRELLISFS_VERSION "\n"
				     "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
				     "property float nx\nproperty float ny\nproperty float nz\n"
				     "property uchar red\nproperty uchar green\nproperty uchar blue\n"
				     "element face 4\nproperty list uchar int vertex_indices\nend_header\n";
	size_t at = sizeof header - 1;
	cr_assert_arr_eq(b.data, header, at);
	cr_assert_eq(b.size, at + 4 * (24 + 3) + 4 * 13);
	cr_assert_arr_eq(b.data + at + 27, corners + 3, 12, "z up, as the model has it");
	cr_assert_arr_eq(b.data + at + 24, "\xff\x80\x00", 3);
	cr_assert_eq(b.data[at + 4 * 27], 3);
	cr_assert_arr_eq(b.data + at + 4 * 27 + 1, faces, 12);
	buffer_finish(&b);
	free(m.normals);
}

/* 0.8 long: 100 mm. */
Test(writers, stl_stands_on_the_floor_in_millimetres)
{
	struct trellis_mesh m = tetrahedron();
	struct buffer b = bytes_of(&m, MESH_STL);
	cr_assert_eq(b.size, 84 + 4 * 50u);
	cr_assert_neq(memcmp(b.data, "solid", 5), 0);
	cr_assert_eq(u32_at(&b, 80), 4);
	const float facet[12] = {0, 0, -1, -50, -37.5f, 0, -50, 37.5f, 0, 50, -37.5f, 0};
	for (size_t i = 0; i < 12; i++)
		cr_assert_float_eq(f32_at(&b, 84 + 4 * i), facet[i], 1e-4);
	cr_assert_float_eq(f32_at(&b, 84 + 50 + 44), 25, 1e-4); /* the tip is 0.2 above the floor */
	buffer_finish(&b);
	free(m.normals);
}

/* The official file, its own numbers written again, byte for byte. */
Test(writers, gaussian_ply_equals_the_official)
{
	struct stat st;
	int fd = open("tests/golden/modules/slat_dec_gs_a.ply", O_RDONLY);
	cr_assert(fd >= 0 && fstat(fd, &st) == 0);
	uint8_t *golden = malloc((size_t)st.st_size);
	cr_assert_eq(read(fd, golden, (size_t)st.st_size), st.st_size);
	close(fd);
	static const char end[] = "end_header\n";
	uint8_t *data = memmem(golden, (size_t)st.st_size, end, sizeof end - 1);
	cr_assert_not_null(data);
	data += sizeof end - 1;
	struct trellis_mesh m = {.n_gaussians = (golden + st.st_size - data) / (17 * 4)};
	cr_assert_eq(m.n_gaussians, 1600);
	m.gaussians = malloc((size_t)m.n_gaussians * 14 * sizeof *m.gaussians);
	for (int64_t g = 0; g < m.n_gaussians; g++) {
		memcpy(m.gaussians + 14 * g, data + 68 * g, 12);
		memcpy(m.gaussians + 14 * g + 3, data + 68 * g + 24, 44);
	}
	struct buffer b = bytes_of(&m, MESH_GAUSSIAN_PLY);
	cr_assert_eq(b.size, (size_t)st.st_size);
	cr_assert_arr_eq(b.data, golden, b.size);
	buffer_finish(&b);
	trellis_mesh_finish(&m);
	free(golden);
}

Test(writers, what_cannot_be_written_is_told)
{
	struct trellis_mesh m = tetrahedron();
	struct error err = {""};
	struct buffer b = {0};
	float broken[12];
	cr_assert_not(mesh_format_bytes(&b, &m, MESH_GAUSSIAN_PLY, &err));
	cr_assert_str_eq(err.text, "gaussian.ply cannot be written: the job decoded no Gaussians");
	memcpy(broken, corners, sizeof broken);
	broken[7] = INFINITY;
	m.vertices = broken;
	cr_assert_not(mesh_format_bytes(&b, &m, MESH_GLB, &err));
	cr_assert_str_eq(err.text, "the mesh cannot be written: a number of its vertices is not finite");
	m.n_faces = 0;
	cr_assert_not(mesh_format_bytes(&b, &m, MESH_STL, &err));
	cr_assert_str_eq(err.text, "the mesh cannot be written: it is empty");
	cr_assert_not(trellis_mesh_save(&m, "dir.ply/chair.xyz", &err));
	cr_assert_str_eq(
		err.text, "dir.ply/chair.xyz: wanted a name that ends in .glb, .obj, .ply, .stl or .gaussian.ply");
	free(m.normals);
}

static char *in_folder(const char *folder, const char *name)
{
	char *path;
	cr_assert_gt(asprintf(&path, "%s/%s", folder, name), 0);
	return path;
}

Test(writers, save_is_whole_or_not_at_all)
{
	struct trellis_mesh m = tetrahedron();
	struct error err = {""};
	struct stat st;
	char folder[] = "/tmp/trellis-test-XXXXXX";
	cr_assert_not_null(mkdtemp(folder));
	char *path = in_folder(folder, "chair.v2.GLB"), *missing = in_folder(folder, "none/chair.glb");

	umask(027);
	cr_assert(trellis_mesh_save(&m, path, &err), "%s", err.text);
	cr_assert(stat(path, &st) == 0 && st.st_size > 100);
	cr_assert_eq(st.st_mode & 0777, 0640);
	cr_assert_not(trellis_mesh_save(&m, missing, &err));
	cr_assert_not_null(strstr(err.text, "none/chair.glb: No such file"));

	/* A file that does not fit leaves the old one, and nothing beside it. */
	struct rlimit small = {100, RLIM_INFINITY}, whole = {RLIM_INFINITY, RLIM_INFINITY};
	signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	off_t before = st.st_size;
	cr_assert_not(trellis_mesh_save(&m, path, &err));
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &whole), 0);
	cr_assert_not_null(strstr(err.text, "chair.v2.GLB: File too large"));
	cr_assert(stat(path, &st) == 0 && st.st_size == before);
	cr_assert_eq(unlink(path), 0);
	cr_assert_eq(rmdir(folder), 0, "nothing else was left");
	free(missing);
	free(path);
	free(m.normals);
}

Test(writers, devices_are_written_through)
{
	struct trellis_mesh m = tetrahedron();
	struct error err = {""};
	struct stat st;
	struct buffer b = bytes_of(&m, MESH_STL);
	cr_assert(buffer_save(&b, "/dev/null", &err), "%s", err.text);
	cr_assert(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
	cr_assert_not(buffer_save(&b, "/dev/full", &err));
	cr_assert_str_eq(err.text, "/dev/full: No space left on device");
	buffer_finish(&b);
	free(m.normals);
}

static void check_refused(const struct buffer *b, const char *wanted)
{
	struct trellis_mesh m;
	struct error err = {""};
	cr_assert_not(glb_read(&m, b->data, b->size, "bad.glb", &err), "wanted: %s", wanted);
	cr_assert_not_null(strstr(err.text, wanted), "wanted \"%s\", got \"%s\"", wanted, err.text);
	cr_assert_eq(strncmp(err.text, "bad.glb: ", 9), 0);
}

/* Replace text in the JSON by other text of the same length. */
static void check_replaced(const struct trellis_mesh *m, const char *from, const char *to, const char *wanted)
{
	struct buffer b = bytes_of(m, MESH_GLB);
	cr_assert_eq(strlen(from), strlen(to));
	uint8_t *at = memmem(b.data, b.size, from, strlen(from));
	cr_assert_not_null(at, "%s", from);
	memcpy(at, to, strlen(to));
	check_refused(&b, wanted);
	buffer_finish(&b);
}

Test(writers, bad_glbs_are_refused)
{
	struct trellis_mesh m = tetrahedron();
	struct buffer b = bytes_of(&m, MESH_GLB);
	for (size_t size = 0; size < b.size; size++) {
		struct buffer part = {.data = b.data, .size = size};
		check_refused(&part, size < 20 ? "not a binary glTF file" : "truncated");
	}
	b.data[b.size - 2] = 9; /* the last index */
	check_refused(&b, "an index is beyond the last vertex");
	buffer_finish(&b);

	check_replaced(&m, "\"count\":12", "\"count\":11", "the indices are no triangles");
	check_replaced(&m, "\"count\":12", "\"count\":99", "reaches beyond the end");
	check_replaced(&m, "\"byteLength\":48", "\"byteLength\":12", "reaches beyond the end");
	check_replaced(&m, "\"mode\":4", "\"mode\":1", "not made of triangles");
	check_replaced(&m, "\"VEC3\"", "\"VEC2\"", "must be three floats");
	check_replaced(&m, "\"meshes\"", "\"Meshes\"", "there is no mesh in it");
	check_replaced(&m, "\"POSITION\"", "\"position\"", "an accessor is missing");
	check_replaced(&m, "{\"name\":\"object\",\"mesh\":0}", "{\"scale\":[9,9,9],\"mesh\":0}", "node 0 has a scale");
	check_replaced(&m, "\"asset\":", "\"asset\",", "JSON line 1");
	free(m.normals);
}

static void save_sample(const char *name, struct surface s, struct trellis_params params)
{
	const char *build = getenv("TRELLIS_BUILD");
	struct trellis_mesh m;
	struct error err = {""};
	char *folder = in_folder(build ? build : "build", "samples"), *path = in_folder(folder, name);
	mkdir(folder, 0777);
	cr_assert(mesh_from_surface(&m, &s, &params, &err), "%s", err.text);
	strcpy(m.model, "a shape of the tests");
	cr_assert(trellis_mesh_save(&m, path, &err), "%s", err.text);
	trellis_mesh_finish(&m);
	surface_finish(&s);
	free(path);
	free(folder);
}

/* For scripts/gltf_validator.sh and for looking at: $TRELLIS_BUILD/samples. */
Test(writers, samples)
{
	const int missing[3] = {14, 8, 8};
	save_sample("snowman.glb", shape_surface(shape_snowman, 48, NULL), (struct trellis_params){.seed = 1});
	save_sample(
		"simplified.glb", shape_surface(shape_snowman, 32, NULL), (struct trellis_params){.simplify = 2000});
	save_sample("gap.glb", shape_surface(shape_sphere, 16, missing), (struct trellis_params){.seed = 3});
	save_sample(
		"shell.glb", shape_surface(shape_sphere, 12, NULL), (struct trellis_params){.keep_inner_shell = true});
	save_sample("raw.glb", shape_surface(shape_sphere, 12, NULL), (struct trellis_params){.raw_mesh = true});
}
