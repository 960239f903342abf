/* glb.c - binary glTF 2.0: one mesh, one rough material, vertex colours. See writers.h.
 * Source: glTF 2.0 specification, sec. 3.6 (accessors), 3.9 (materials), 4.4 (GLB).
 *
 * Facts that cost others their colours: a material without metallicFactor is metal; COLOR_0 is linear; a bound that is
 * not the exact float32 of the data is an error. */
#include "writers.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

enum { BYTE_ALIGNMENT = 4, U16 = 5123, U32 = 5125, F32 = 5126, VERTEX_DATA = 34962, INDEX_DATA = 34963 };

struct writer {
	const struct trellis_mesh *m;
	struct buffer bin;
	json_t *views, *accessors, *attributes;
};

/* What was appended since offset is the view of the next accessor. */
static void end_view(struct writer *w, size_t offset, int target)
{
	static const uint8_t zeros[BYTE_ALIGNMENT];
	size_t size = w->bin.size - offset;
	buffer_append(&w->bin, zeros, -size & (BYTE_ALIGNMENT - 1));
	json_array_append_new(w->views, json_pack("{s:i, s:I, s:I, s:i}", "buffer", 0, "byteOffset", (json_int_t)offset,
						"byteLength", (json_int_t)size, "target", target));
}

static void add_accessor(
	struct writer *w, const char *attribute, int component_type, const char *type, int64_t count, json_t *more)
{
	json_t *accessor = json_pack("{s:i, s:i, s:I, s:s}", "bufferView", (int)json_array_size(w->views) - 1,
		"componentType", component_type, "count", (json_int_t)count, "type", type);
	if (attribute)
		json_object_set_new(w->attributes, attribute, json_integer((json_int_t)json_array_size(w->accessors)));
	json_object_update(accessor, more);
	json_decref(more);
	json_array_append_new(w->accessors, accessor);
}

/* Positions and normals, turned from z up to y up. The bounds are of positions. */
static void add_vectors(struct writer *w, const char *attribute, const float *values, bool with_bounds)
{
	float low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
	size_t offset = w->bin.size;
	for (int64_t v = 0; v < w->m->n_vertices; v++) {
		const float *p = values + 3 * v, turned[3] = {p[0], p[2], -p[1]};
		for (int i = 0; i < 3; i++) {
			low[i] = fminf(low[i], turned[i]);
			high[i] = fmaxf(high[i], turned[i]);
		}
		buffer_append(&w->bin, turned, sizeof turned);
	}
	end_view(w, offset, VERTEX_DATA);
	add_accessor(w, attribute, F32, "VEC3", w->m->n_vertices,
		with_bounds ? json_pack("{s:[fff], s:[fff]}", "min", low[0], low[1], low[2], "max", high[0], high[1],
				      high[2])
			    : json_object());
}

/* 16 bits keep dark colours apart that 8 linear bits would merge; the fourth component keeps the stride at 8. */
static void add_colors(struct writer *w)
{
	size_t offset = w->bin.size;
	for (int64_t v = 0; v < w->m->n_vertices; v++) {
		uint16_t rgba[4] = {0, 0, 0, UINT16_MAX};
		for (int i = 0; i < 3; i++) {
			float srgb = fminf(fmaxf(w->m->colors[3 * v + i], 0), 1);
			rgba[i] = (uint16_t)lrintf(color_to_linear(srgb) * UINT16_MAX);
		}
		buffer_append(&w->bin, rgba, sizeof rgba);
	}
	end_view(w, offset, VERTEX_DATA);
	add_accessor(w, "COLOR_0", U16, "VEC4", w->m->n_vertices, json_pack("{s:b}", "normalized", 1));
}

/* The largest index of a width is reserved. */
static void add_indices(struct writer *w)
{
	size_t offset = w->bin.size;
	bool is_short = w->m->n_vertices <= UINT16_MAX;
	for (int64_t i = 0; i < 3 * w->m->n_faces; i++) {
		uint16_t index = (uint16_t)w->m->faces[i];
		if (is_short)
			buffer_append(&w->bin, &index, sizeof index);
		else
			buffer_append(&w->bin, &w->m->faces[i], sizeof *w->m->faces);
	}
	end_view(w, offset, INDEX_DATA);
	add_accessor(w, NULL, is_short ? U16 : U32, "SCALAR", 3 * w->m->n_faces, json_object());
}

/* A model's name comes from a directory: bytes that are not UTF-8 become '?'. */
static json_t *json_text(const char *text)
{
	json_t *string = json_string(text);
	if (string)
		return string;
	char copy[64];
	size_t n = 0;
	for (; text[n] && n + 1 < sizeof copy; n++)
		copy[n] = text[n];
	for (size_t i = 0; i < n; i++)
		copy[i] = (unsigned char)copy[i] < 0x80 ? copy[i] : '?';
	return json_stringn(copy, n);
}

/* A number, or its digits where jansson has no such numbers. */
static json_t *json_seed(uint64_t seed)
{
	char digits[24];
	snprintf(digits, sizeof digits, "%" PRIu64, seed);
	return seed <= INT64_MAX ? json_integer((json_int_t)seed) : json_string(digits);
}

static json_t *describe(struct writer *w)
{
	const struct trellis_mesh *m = w->m;
	int indices = (int)json_array_size(w->accessors) - 1;
	json_t *extras = json_pack("{s:o, s:s, s:o}", "model", json_text(m->model), "version", TRELLISFS_VERSION,
		"seed", json_seed(m->seed));
	if (m->cutout[0])
		json_object_set_new(extras, "cutout", json_text(m->cutout));
	json_t *material = json_pack("{s:s, s:b, s:{s:[ffff], s:f, s:f}}", "name", "surface", "doubleSided", 0,
		"pbrMetallicRoughness", "baseColorFactor", 1.0, 1.0, 1.0, 1.0, "metallicFactor", 0.0, "roughnessFactor",
		1.0);
	return json_pack("{s:{s:s, s:s, s:o}, s:i, s:[{s:[i]}], s:[{s:s, s:i}], s:[o],"
			 " s:[{s:s, s:[{s:O, s:i, s:i, s:i}]}], s:O, s:O, s:[{s:I}]}",
		"asset", "version", "2.0", "generator", "trellisfs " TRELLISFS_VERSION, "extras", extras, "scene", 0,
		"scenes", "nodes", 0, "nodes", "name", "object", "mesh", 0, "materials", material, "meshes", "name",
		"object", "primitives", "attributes", w->attributes, "indices", indices, "material", 0, "mode", 4,
		"accessors", w->accessors, "bufferViews", w->views, "buffers", "byteLength", (json_int_t)w->bin.size);
}

static void append_u32(struct buffer *out, size_t value)
{
	uint32_t number = (uint32_t)value;
	buffer_append(out, &number, sizeof number);
}

/* Header, JSON chunk padded with spaces, binary chunk (padded already). */
static void append_chunks(struct buffer *out, const char *json, const struct buffer *bin)
{
	size_t length = strlen(json), padding = -length & (BYTE_ALIGNMENT - 1);
	buffer_append(out, "glTF", 4);
	append_u32(out, 2);
	append_u32(out, 12 + 8 + length + padding + 8 + bin->size);
	append_u32(out, length + padding);
	buffer_append(out, "JSON", 4);
	buffer_append(out, json, length);
	buffer_append(out, "   ", padding);
	append_u32(out, bin->size);
	buffer_append(out, "BIN\0", 4);
	buffer_append(out, bin->data, bin->size);
}

bool glb_append(struct buffer *out, const struct trellis_mesh *m, struct error *err)
{
	struct writer w = {.m = m, .views = json_array(), .accessors = json_array(), .attributes = json_object()};
	add_vectors(&w, "POSITION", m->vertices, true);
	if (m->normals)
		add_vectors(&w, "NORMAL", m->normals, false);
	if (m->colors)
		add_colors(&w);
	add_indices(&w);

	json_t *root = describe(&w);
	char *json = root ? json_dumps(root, JSON_COMPACT) : NULL;
	bool ok = json && buffer_ok(&w.bin, "glb", err);
	if (!json)
		error_set(err, "glb: out of memory");
	else if (ok && w.bin.size > INT32_MAX)
		ok = error_set(err, "glb: %zu bytes are more than the format can hold; simplify the mesh", w.bin.size);
	if (ok)
		append_chunks(out, json, &w.bin);
	free(json);
	json_decref(root);
	json_decref(w.attributes);
	json_decref(w.accessors);
	json_decref(w.views);
	buffer_finish(&w.bin);
	return ok;
}
