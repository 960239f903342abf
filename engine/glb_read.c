/* glb_read.c - read a binary glTF file into a mesh. Used by `trellis render`.
 * Source: glTF 2.0 specification, sec. 3.6 and 4.4.
 * Every offset and count of the JSON is checked against the binary chunk before anything is allocated from it. */
#include "glb_read.h"
#include "mesh_clean.h"
#include "writers.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES (INT64_C(1) << 30)
#define MAX_JSON_BYTES (16 << 20)
#define MAX_VERTICES (INT64_C(1) << 25) /* of all primitives together: two may share an accessor */
#define MAX_FACES (INT64_C(1) << 26)

enum { BYTE = 5121, U16 = 5123, U32 = 5125, F32 = 5126 };

struct reader {
	const char *name; /* of the file, for errors */
	struct error *err;
	json_t *root;
	const uint8_t *bin;
	size_t bin_size;
	struct trellis_mesh *m;
};

/* Elements in the binary chunk, all inside it. */
struct accessor {
	const uint8_t *data;
	int64_t count;
	size_t stride;
	int component_type, components;
};

static bool fail(const struct reader *r, const char *what)
{
	return error_set(r->err, "%s: %s", r->name, what);
}

/* A member that is an integer in 0 .. limit; `otherwise` when it is absent; -1 when it is something else. */
static int64_t get_integer(const json_t *object, const char *key, int64_t limit, int64_t otherwise)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return otherwise;
	if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > limit)
		return -1;
	return json_integer_value(value);
}

static const json_t *get_element(const struct reader *r, const char *array, int64_t index)
{
	const json_t *list = json_object_get(r->root, array);
	return index >= 0 && (uint64_t)index < json_array_size(list) ? json_array_get(list, (size_t)index) : NULL;
}

static int component_bytes(int64_t type)
{
	return type == BYTE ? 1 : type == U16 ? 2 : type == U32 || type == F32 ? 4 : 0;
}

static int type_components(const json_t *accessor)
{
	static const char *const types[] = {"SCALAR", "VEC2", "VEC3", "VEC4"};
	const char *type = json_string_value(json_object_get(accessor, "type"));
	for (int i = 0; type && i < 4; i++)
		if (strcmp(type, types[i]) == 0)
			return i + 1;
	return 0;
}

static bool open_accessor(const struct reader *r, int64_t index, struct accessor *a)
{
	const json_t *accessor = get_element(r, "accessors", index);
	const json_t *view = get_element(r, "bufferViews", get_integer(accessor, "bufferView", INT32_MAX, -1));
	if (!accessor || !view || json_object_get(accessor, "sparse"))
		return fail(r, "an accessor is missing, sparse or without data");
	int64_t type = get_integer(accessor, "componentType", INT32_MAX, -1);
	int64_t count = get_integer(accessor, "count", MAX_FACES * 3, -1);
	int64_t at = get_integer(accessor, "byteOffset", INT32_MAX, 0);
	int64_t view_at = get_integer(view, "byteOffset", INT32_MAX, 0);
	int64_t view_size = get_integer(view, "byteLength", INT32_MAX, -1);
	int64_t element = component_bytes(type) * (int64_t)type_components(accessor);
	int64_t stride = get_integer(view, "byteStride", 252, element);
	if (get_integer(view, "buffer", 0, -1) != 0 || count < 1 || at < 0 || view_at < 0 || view_size < 0 ||
		element < 1 || stride < element)
		return fail(r, "an accessor or buffer view is malformed");
	if (view_at + view_size > (int64_t)r->bin_size || at + (count - 1) * stride + element > view_size)
		return fail(r, "an accessor reaches beyond the end of the data");
	*a = (struct accessor){r->bin + view_at + at, count, (size_t)stride, (int)type, type_components(accessor)};
	return true;
}

static uint32_t read_index(const struct accessor *a, int64_t i)
{
	const uint8_t *p = a->data + (size_t)i * a->stride;
	uint32_t wide;
	uint16_t narrow;
	switch (a->component_type) {
	case BYTE:
		return *p;
	case U16:
		memcpy(&narrow, p, sizeof narrow);
		return narrow;
	default:
		memcpy(&wide, p, sizeof wide);
		return wide;
	}
}

/* A component as a number; integers are normalised to 0..1. */
static float read_component(const struct accessor *a, int64_t i, int c)
{
	const uint8_t *p = a->data + (size_t)i * a->stride + (size_t)c * (size_t)component_bytes(a->component_type);
	float value;
	uint16_t narrow;
	switch (a->component_type) {
	case BYTE:
		return (float)*p / UINT8_MAX;
	case U16:
		memcpy(&narrow, p, sizeof narrow);
		return (float)narrow / UINT16_MAX;
	default:
		memcpy(&value, p, sizeof value);
		return value;
	}
}

/* The array with room for so many elements of three numbers of 32 bits; NULL, and the old one left, without memory. */
static void *grow(void *array, int64_t elements)
{
	return realloc(array, (size_t)elements * 3 * sizeof(float));
}

static bool read_vectors(const struct reader *r, const struct accessor *a, float *out)
{
	if (a->components != 3 || a->component_type != F32)
		return fail(r, "positions and normals must be three floats");
	for (int64_t v = 0; v < a->count; v++) {
		float p[3];
		for (int i = 0; i < 3; i++) {
			p[i] = read_component(a, v, i);
			if (!isfinite(p[i]) || fabsf(p[i]) > 1e18f)
				return fail(r, "a position or normal is not a sane number");
		}
		out[3 * v] = p[0];
		out[3 * v + 1] = -p[2];
		out[3 * v + 2] = p[1];
	}
	return true;
}

static bool read_colors(const struct reader *r, const struct accessor *a, float *out)
{
	if (a->components < 3 || a->component_type == U32)
		return fail(r, "COLOR_0 must be three or four floats, bytes or 16-bit numbers");
	for (int64_t v = 0; v < a->count; v++)
		for (int i = 0; i < 3; i++) /* the comparison makes 0 of what is not a number */
			out[3 * v + i] = color_to_srgb(fminf(fmaxf(read_component(a, v, i), 0), 1));
	return true;
}

/* Triangles of a primitive whose vertices begin at first; without indices they follow each other. */
static bool read_faces(const struct reader *r, const json_t *primitive, int64_t first, int64_t n_vertices)
{
	struct trellis_mesh *m = r->m;
	struct accessor a = {.count = n_vertices};
	bool is_indexed = json_object_get(primitive, "indices") != NULL;
	if (is_indexed) {
		if (!open_accessor(r, get_integer(primitive, "indices", INT32_MAX, -1), &a))
			return false;
		if (a.components != 1 || a.component_type == F32)
			return fail(r, "indices must be single unsigned integers");
	}
	if (a.count % 3 || a.count / 3 > MAX_FACES - m->n_faces)
		return fail(r, "the indices are no triangles, or too many");
	int32_t *faces = grow(m->faces, m->n_faces + a.count / 3);
	if (!faces)
		return mesh_no_memory(m, r->err);
	m->faces = faces;
	for (int64_t i = 0; i < a.count; i++) {
		int64_t index = is_indexed ? read_index(&a, i) : i;
		if (index >= n_vertices)
			return fail(r, "an index is beyond the last vertex");
		m->faces[3 * m->n_faces + i] = (int32_t)(first + index);
	}
	m->n_faces += a.count / 3;
	return true;
}

/* An attribute goes for all when one primitive lacks it. */
static bool read_attribute(const struct reader *r, const json_t *attributes, const char *name, float **values,
	int64_t count, bool (*read)(const struct reader *r, const struct accessor *a, float *out))
{
	struct accessor a;
	int64_t first = r->m->n_vertices;
	if (!json_object_get(attributes, name) || (first && !*values)) {
		free(*values);
		*values = NULL;
		return true;
	}
	if (!open_accessor(r, get_integer(attributes, name, INT32_MAX, -1), &a))
		return false;
	if (a.count != count)
		return fail(r, "the attributes of a primitive differ in length");
	float *grown = grow(*values, first + count);
	if (!grown)
		return mesh_no_memory(r->m, r->err);
	*values = grown;
	return read(r, &a, grown + 3 * first);
}

static bool read_primitive(const struct reader *r, const json_t *primitive)
{
	struct trellis_mesh *m = r->m;
	const json_t *attributes = json_object_get(primitive, "attributes");
	struct accessor position;
	if (get_integer(primitive, "mode", 4, 4) != 4)
		return fail(r, "a primitive is not made of triangles");
	if (json_object_size(json_object_get(primitive, "extensions")))
		return fail(r, "a primitive needs an extension (compressed?)");
	if (!open_accessor(r, get_integer(attributes, "POSITION", INT32_MAX, -1), &position))
		return false;
	if (position.count > MAX_VERTICES - m->n_vertices)
		return fail(r, "there are too many vertices");
	if (!read_attribute(r, attributes, "POSITION", &m->vertices, position.count, read_vectors) ||
		!read_attribute(r, attributes, "NORMAL", &m->normals, position.count, read_vectors) ||
		!read_attribute(r, attributes, "COLOR_0", &m->colors, position.count, read_colors) ||
		!read_faces(r, primitive, m->n_vertices, position.count))
		return false;
	m->n_vertices += position.count;
	return true;
}

static bool check_nodes(const struct reader *r)
{
	static const char *const transforms[] = {"matrix", "translation", "rotation", "scale", "skin"};
	const json_t *nodes = json_object_get(r->root, "nodes");
	for (size_t i = 0; i < json_array_size(nodes); i++)
		for (size_t k = 0; k < sizeof transforms / sizeof *transforms; k++)
			if (json_object_get(json_array_get(nodes, i), transforms[k]))
				return error_set(r->err, "%s: node %zu has a %s, which is not supported", r->name, i,
					transforms[k]);
	return true;
}

static void read_extras(const struct reader *r)
{
	const json_t *extras = json_object_get(json_object_get(r->root, "asset"), "extras");
	const char *model = json_string_value(json_object_get(extras, "model"));
	const char *cutout = json_string_value(json_object_get(extras, "cutout"));
	snprintf(r->m->model, sizeof r->m->model, "%s", model ? model : "");
	snprintf(r->m->cutout, sizeof r->m->cutout, "%s", cutout ? cutout : "");
	const json_t *seed = json_object_get(extras, "seed"); /* see json_seed in glb.c */
	r->m->seed =
		json_is_string(seed) ? strtoull(json_string_value(seed), NULL, 10) : (uint64_t)json_integer_value(seed);
}

static bool read_meshes(const struct reader *r)
{
	const json_t *mesh, *primitive;
	size_t i, k;
	if (!check_nodes(r))
		return false;
	json_array_foreach(json_object_get(r->root, "meshes"), i, mesh)
	{
		json_array_foreach(json_object_get(mesh, "primitives"), k, primitive)
		{
			if (!read_primitive(r, primitive))
				return false;
		}
	}
	read_extras(r);
	return r->m->n_faces > 0 || fail(r, "there is no mesh in it");
}

static uint32_t u32_at(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Header of 12 bytes, JSON chunk, binary chunk. */
static bool open_chunks(struct reader *r, const uint8_t *bytes, size_t size)
{
	if (size < 20 || memcmp(bytes, "glTF", 4) != 0)
		return fail(r, "not a binary glTF file");
	if (u32_at(bytes + 4) != 2)
		return fail(r, "not version 2 of binary glTF");
	if (u32_at(bytes + 8) != size)
		return error_set(
			r->err, "%s: %zu bytes, but its header says %u (truncated?)", r->name, size, u32_at(bytes + 8));
	size_t json_size = u32_at(bytes + 12);
	if (memcmp(bytes + 16, "JSON", 4) != 0 || json_size > size - 20 || json_size > MAX_JSON_BYTES)
		return fail(r, "the JSON chunk is missing, truncated or too long");
	json_error_t error;
	r->root = json_loadb((const char *)bytes + 20, json_size, JSON_REJECT_DUPLICATES, &error);
	if (!r->root)
		return error_set(r->err, "%s: JSON line %d: %s", r->name, error.line, error.text);
	size_t at = 20 + json_size;
	if (size - at < 8 || memcmp(bytes + at + 4, "BIN\0", 4) != 0 || u32_at(bytes + at) > size - at - 8)
		return fail(r, "the binary chunk is missing or truncated");
	r->bin = bytes + at + 8;
	r->bin_size = u32_at(bytes + at);
	return true;
}

bool glb_read(struct trellis_mesh *m, const void *bytes, size_t size, const char *name, struct error *err)
{
	struct trellis_mesh mesh = {0};
	struct reader r = {.name = name, .err = err, .m = &mesh};
	bool ok = open_chunks(&r, bytes, size) && read_meshes(&r);
	json_decref(r.root);
	if (!ok) {
		trellis_mesh_finish(&mesh);
		return false;
	}
	*m = mesh;
	return true;
}

static bool read_file(struct buffer *b, int fd, const char *path, struct error *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return error_set(err, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE_BYTES)
		return error_set(err, "%s: not a regular file of at most 1 GiB", path);
	uint8_t *at = buffer_extend(b, (size_t)st.st_size);
	if (!at)
		return buffer_ok(b, path, err);
	ssize_t n = file_read(fd, at, (size_t)st.st_size);
	return n == st.st_size || error_set(err, "%s: %s", path, n < 0 ? strerror(errno) : "the file became shorter");
}

bool glb_load(struct trellis_mesh *m, const char *path, struct error *err)
{
	struct buffer bytes = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not wait for its writer */
	if (fd < 0)
		return error_set(err, "%s: %s", path, strerror(errno));
	bool ok = read_file(&bytes, fd, path, err) && glb_read(m, bytes.data, bytes.size, path, err);
	close(fd);
	buffer_finish(&bytes);
	return ok;
}
