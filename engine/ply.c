/* ply.c - binary PLY of a mesh, and of the Gaussians as the official save_ply writes them. See writers.h. */
#include "writers.h"

#include <string.h>

static void append_count(struct buffer *out, const char *element, int64_t count)
{
	buffer_text(out, "element ");
	buffer_text(out, element);
	buffer_text(out, " ");
	buffer_integer(out, count);
	buffer_text(out, "\n");
}

static void append_vertices(struct buffer *out, const struct trellis_mesh *m)
{
	for (int64_t v = 0; v < m->n_vertices; v++) {
		buffer_append(out, m->vertices + 3 * v, 3 * sizeof *m->vertices);
		if (m->normals)
			buffer_append(out, m->normals + 3 * v, 3 * sizeof *m->normals);
		if (m->colors) {
			uint8_t rgb[3];
			for (int i = 0; i < 3; i++)
				rgb[i] = color_to_byte(m->colors[3 * v + i]);
			buffer_append(out, rgb, sizeof rgb);
		}
	}
}

static void append_faces(struct buffer *out, const struct trellis_mesh *m)
{
	for (int64_t f = 0; f < m->n_faces; f++) {
		uint8_t face[1 + 3 * sizeof(int32_t)] = {3};
		memcpy(face + 1, m->faces + 3 * f, 3 * sizeof(int32_t));
		buffer_append(out, face, sizeof face);
	}
}

void ply_append(struct buffer *out, const struct trellis_mesh *m)
{
	buffer_text(out, "ply\nformat binary_little_endian 1.0\ncomment trellisfs " TRELLISFS_VERSION "\n");
	append_count(out, "vertex", m->n_vertices);
	buffer_text(out, "property float x\nproperty float y\nproperty float z\n");
	if (m->normals)
		buffer_text(out, "property float nx\nproperty float ny\nproperty float nz\n");
	if (m->colors)
		buffer_text(out, "property uchar red\nproperty uchar green\nproperty uchar blue\n");
	append_count(out, "face", m->n_faces);
	buffer_text(out, "property list uchar int vertex_indices\nend_header\n");
	append_vertices(out, m);
	append_faces(out, m);
}

/* xyz, normals that are all 0, f_dc 3, opacity, scale 3, rot 4. */
void ply_append_gaussians(struct buffer *out, const struct trellis_mesh *m)
{
	static const char *const properties[] = {"x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2",
		"opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"};
	enum { COLUMNS = sizeof properties / sizeof *properties, STORED = COLUMNS - 3 };
	buffer_text(out, "ply\nformat binary_little_endian 1.0\n");
	append_count(out, "vertex", m->n_gaussians);
	for (int i = 0; i < COLUMNS; i++) {
		buffer_text(out, "property float ");
		buffer_text(out, properties[i]);
		buffer_text(out, "\n");
	}
	buffer_text(out, "end_header\n");
	for (int64_t g = 0; g < m->n_gaussians; g++) {
		const float *from = m->gaussians + STORED * g;
		float row[COLUMNS] = {from[0], from[1], from[2]};
		memcpy(row + 6, from + 3, (STORED - 3) * sizeof *row);
		buffer_append(out, row, sizeof row);
	}
}
