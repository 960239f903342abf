/* fuzz_glb.c - the GLB reader on hostile bytes; what it accepts can be drawn and written again.
 * Input that does not begin like a GLB is a JSON text, a zero byte and a binary chunk: the headers are put around it,
 * so that the fuzzer need not guess lengths. */
#include "glb_read.h"
#include "mesh.h"
#include "preview.h"
#include "seeds.h"
#include "writers.h"

#include <stdlib.h>
#include <string.h>

static float corners[] = {-0.5f, -0.25f, 0.125f, 0.3f, -0.25f, 0.125f, -0.5f, 0.35f, 0.125f, -0.5f, -0.25f, 0.325f};
static float colors[] = {1, 0.5f, 0, 0, 1, 0, 0, 0, 1, 0.2f, 0.2f, 0.2f};
static int32_t faces[] = {0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct trellis_mesh m = {.n_vertices = 4, .n_faces = 4, .vertices = corners, .colors = colors, .faces = faces};
	struct buffer whole = {0}, parts = {0};
	struct error err;
	uint32_t json_size;
	if (!mesh_compute_normals(&m, &err) || !mesh_format_bytes(&whole, &m, MESH_GLB, &err))
		abort();
	memcpy(&json_size, whole.data + 12, sizeof json_size);
	buffer_append(&parts, whole.data + 20, json_size);
	buffer_append(&parts, "", 1);
	buffer_append(&parts, whole.data + 28 + json_size, whole.size - 28 - json_size);
	seeds_write(seeds_corpus(*argc, *argv), "whole", whole.data, whole.size);
	seeds_write(seeds_corpus(*argc, *argv), "parts", parts.data, parts.size);
	buffer_finish(&parts);
	buffer_finish(&whole);
	free(m.normals);
	return 0;
}

static void append_chunk(struct buffer *out, const char type[4], const uint8_t *bytes, size_t size)
{
	uint32_t length = (uint32_t)size;
	buffer_append(out, &length, sizeof length);
	buffer_append(out, type, 4);
	buffer_append(out, bytes, size);
}

static void wrap(struct buffer *out, const uint8_t *data, size_t size)
{
	const uint8_t *zero = memchr(data, 0, size);
	size_t json_size = zero ? (size_t)(zero - data) : size, bin_size = zero ? size - json_size - 1 : 0;
	const uint32_t header[2] = {2, (uint32_t)(12 + 8 + json_size + 8 + bin_size)};
	buffer_append(out, "glTF", 4);
	buffer_append(out, header, sizeof header);
	append_chunk(out, "JSON", data, json_size);
	append_chunk(out, "BIN\0", zero ? zero + 1 : data, bin_size);
}

static void use(const struct trellis_mesh *m)
{
	enum { SIZE = 16 };
	uint8_t rgb[SIZE * SIZE * 3];
	struct error err = {""};
	struct buffer out = {0};
	if (!mesh_format_bytes(&out, m, MESH_GLB, &err))
		abort();
	buffer_finish(&out);
	struct preview *p = m->n_vertices < 64 ? preview_create(m, &err) : NULL;
	if (p && !preview_draw(p, rgb, SIZE, SIZE, SIZE, 30, 18, &err))
		abort();
	preview_destroy(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct trellis_mesh m;
	struct error err = {""};
	struct buffer bytes = {0};
	if (size >= 4 && memcmp(data, "glTF", 4) == 0)
		buffer_append(&bytes, data, size);
	else if (size)
		wrap(&bytes, data, size);
	bool ok = glb_read(&m, bytes.data, bytes.size, "fuzz", &err);
	if (ok) {
		use(&m);
		trellis_mesh_finish(&m);
	} else if (!err.text[0]) {
		abort();
	}
	buffer_finish(&bytes);
	return 0;
}
