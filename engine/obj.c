/* obj.c - Wavefront OBJ: y up, normals, colours behind the positions as most programs read them. See writers.h. */
#include "writers.h"

static void append_turned(struct buffer *out, const char *tag, const float p[3], int decimals)
{
	const float turned[3] = {p[0], p[2], -p[1]};
	buffer_text(out, tag);
	for (int i = 0; i < 3; i++) {
		buffer_text(out, " ");
		buffer_decimal(out, turned[i], decimals);
	}
}

void obj_append(struct buffer *out, const struct trellis_mesh *m)
{
	buffer_text(out, "# trellisfs " TRELLISFS_VERSION "\n");
	for (int64_t v = 0; v < m->n_vertices; v++) {
		append_turned(out, "v", m->vertices + 3 * v, 6);
		for (int i = 0; m->colors && i < 3; i++) {
			buffer_text(out, " ");
			buffer_decimal(out, m->colors[3 * v + i], 4);
		}
		buffer_text(out, "\n");
	}
	for (int64_t v = 0; m->normals && v < m->n_vertices; v++) {
		append_turned(out, "vn", m->normals + 3 * v, 4);
		buffer_text(out, "\n");
	}
	for (int64_t f = 0; f < m->n_faces; f++) {
		buffer_text(out, "f");
		for (int i = 0; i < 3; i++) {
			buffer_text(out, " ");
			buffer_integer(out, m->faces[3 * f + i] + INT64_C(1));
			if (m->normals) {
				buffer_text(out, "//");
				buffer_integer(out, m->faces[3 * f + i] + INT64_C(1));
			}
		}
		buffer_text(out, "\n");
	}
}
