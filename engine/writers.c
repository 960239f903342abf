/* writers.c - a mesh into a file of any format: what the formats share. See writers.h. */
#include "writers.h"

#include <math.h>
#include <string.h>
#include <strings.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the binary formats copy little-endian numbers");

static const char *const names[MESH_FORMATS] = {
	[MESH_GLB] = "glb",
	[MESH_OBJ] = "obj",
	[MESH_PLY] = "ply",
	[MESH_STL] = "stl",
	[MESH_GAUSSIAN_PLY] = "gaussian.ply",
};

const char *mesh_format_name(enum mesh_format format)
{
	return names[format];
}

bool mesh_format_from_name(enum mesh_format *format, const char *name)
{
	for (int i = 0; i < MESH_FORMATS; i++)
		if (strcasecmp(name, names[i]) == 0) {
			*format = (enum mesh_format)i;
			return true;
		}
	return false;
}

uint8_t color_to_byte(float value)
{
	return (uint8_t)lrintf(fminf(fmaxf(value, 0), 1) * 255);
}

float color_to_linear(float srgb)
{
	return srgb <= 0.04045f ? srgb / 12.92f : powf((srgb + 0.055f) / 1.055f, 2.4f);
}

float color_to_srgb(float linear)
{
	return linear <= 0.0031308f ? linear * 12.92f : 1.055f * powf(linear, 1 / 2.4f) - 0.055f;
}

static bool check_finite(const float *values, int64_t count, const char *what, struct error *err)
{
	for (int64_t i = 0; values && i < count; i++)
		if (!isfinite(values[i]))
			return error_set(err, "the mesh cannot be written: a number of its %s is not finite", what);
	return true;
}

static bool check_mesh(const struct trellis_mesh *m, struct error *err)
{
	if (m->n_faces == 0 || m->n_vertices == 0)
		return error_set(err, "the mesh cannot be written: it is empty");
	return check_finite(m->vertices, 3 * m->n_vertices, "vertices", err) &&
	       check_finite(m->normals, 3 * m->n_vertices, "normals", err) &&
	       check_finite(m->colors, 3 * m->n_vertices, "colours", err);
}

static bool check_gaussians(const struct trellis_mesh *m, struct error *err)
{
	if (m->n_gaussians == 0)
		return error_set(err, "gaussian.ply cannot be written: the job decoded no Gaussians");
	return check_finite(m->gaussians, 14 * m->n_gaussians, "Gaussians", err);
}

bool mesh_format_bytes(struct buffer *out, const struct trellis_mesh *m, enum mesh_format format, struct error *err)
{
	if (!(format == MESH_GAUSSIAN_PLY ? check_gaussians(m, err) : check_mesh(m, err)))
		return false;
	switch (format) {
	case MESH_GLB:
		if (!glb_append(out, m, err))
			return false;
		break;
	case MESH_OBJ:
		obj_append(out, m);
		break;
	case MESH_PLY:
		ply_append(out, m);
		break;
	case MESH_STL:
		stl_append(out, m);
		break;
	default:
		ply_append_gaussians(out, m);
		break;
	}
	return buffer_ok(out, names[format], err);
}

bool mesh_write(const struct trellis_mesh *m, enum mesh_format format, int fd, struct error *err)
{
	struct buffer bytes = {0};
	bool ok = mesh_format_bytes(&bytes, m, format, err) && buffer_write(&bytes, fd, names[format], err);
	buffer_finish(&bytes);
	return ok;
}

/* The longest extension counts: x.gaussian.ply holds Gaussians. */
static bool format_from_path(enum mesh_format *format, const char *path, struct error *err)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.'))
		if (mesh_format_from_name(format, dot + 1))
			return true;
	return error_set(err, "%s: wanted a name that ends in .glb, .obj, .ply, .stl or .gaussian.ply", path);
}

bool trellis_mesh_save(const struct trellis_mesh *mesh, const char *path, struct error *err)
{
	enum mesh_format format = MESH_GLB;
	struct buffer bytes = {0};
	bool ok = format_from_path(&format, path, err) && mesh_format_bytes(&bytes, mesh, format, err) &&
		  buffer_save(&bytes, path, err);
	buffer_finish(&bytes);
	return ok;
}
