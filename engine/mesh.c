/* mesh.c - from the extracted surface to the mesh that people get.
 * Called by the pipeline after op_extract; the steps are in mesh_clean.c, mesh_gaps.c and mesh_simplify.c.
 *
 * The extraction counts corners that no active voxel covers as outside, which puts a second shell behind the surface:
 * the faces marked is_inner. Without them the triangles halve, and where the structure lacks a voxel a gap opens. */
#include "mesh.h"
#include "mesh_clean.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void trellis_mesh_finish(struct trellis_mesh *mesh)
{
	free(mesh->vertices);
	free(mesh->normals);
	free(mesh->colors);
	free(mesh->attrs);
	free(mesh->faces);
	free(mesh->gaussians);
	*mesh = (struct trellis_mesh){0};
}

bool mesh_no_memory(const struct trellis_mesh *m, struct error *err)
{
	return error_set(err, "mesh: no memory for %lld vertices and %lld triangles", (long long)m->n_vertices,
		(long long)m->n_faces);
}

void mesh_face_cross(const struct trellis_mesh *m, int64_t face, double cross[3])
{
	const int32_t *f = m->faces + 3 * face;
	const float *a = m->vertices + 3 * (int64_t)f[0], *b = m->vertices + 3 * (int64_t)f[1],
		    *c = m->vertices + 3 * (int64_t)f[2];
	double u[3], v[3];
	for (int i = 0; i < 3; i++) {
		u[i] = (double)b[i] - a[i];
		v[i] = (double)c[i] - a[i];
	}
	for (int i = 0; i < 3; i++)
		cross[i] = u[(i + 1) % 3] * v[(i + 2) % 3] - u[(i + 2) % 3] * v[(i + 1) % 3];
}

bool mesh_compute_normals(struct trellis_mesh *m, struct error *err)
{
	float *normals = calloc((size_t)m->n_vertices * 3 + 1, sizeof *normals);
	if (!normals)
		return mesh_no_memory(m, err);
	for (int64_t f = 0; f < m->n_faces; f++) {
		double cross[3];
		mesh_face_cross(m, f, cross);
		for (int corner = 0; corner < 3; corner++)
			for (int i = 0; i < 3; i++)
				normals[3 * (int64_t)m->faces[3 * f + corner] + i] += (float)cross[i];
	}
	for (int64_t v = 0; v < m->n_vertices; v++) {
		float *n = normals + 3 * v;
		double length = sqrt((double)n[0] * n[0] + (double)n[1] * n[1] + (double)n[2] * n[2]);
		for (int i = 0; i < 3; i++)
			n[i] = length > 0 ? (float)(n[i] / length) : i == 2; /* faces that cancel: any unit vector */
	}
	free(m->normals);
	m->normals = normals;
	return true;
}

static bool check_surface(const struct surface *s, bool is_raw, struct error *err)
{
	if (s->n_faces == 0)
		return error_set(err, "the mesh is empty: the decoded surface has no faces");
	for (int64_t i = 0; i < 3 * s->n_vertices && !is_raw; i++)
		if (!isfinite(s->vertices[i]))
			return error_set(err, "the mesh is broken: vertex %lld is not finite", (long long)(i / 3));
	for (int64_t i = 0; s->attrs && i < 6 * s->n_vertices && !is_raw; i++)
		if (!isfinite(s->attrs[i]))
			return error_set(
				err, "the mesh is broken: the colour of vertex %lld is not finite", (long long)(i / 6));
	return true;
}

static bool copy_surface(
	struct trellis_mesh *m, const struct surface *s, bool is_raw, bool with_inner, struct error *err)
{
	size_t n = (size_t)s->n_vertices;
	m->n_vertices = s->n_vertices;
	m->vertices = malloc(n * 3 * sizeof *m->vertices);
	m->colors = s->attrs ? malloc(n * 3 * sizeof *m->colors) : NULL;
	m->attrs = s->attrs && is_raw ? malloc(n * 6 * sizeof *m->attrs) : NULL;
	m->faces = malloc((size_t)s->n_faces * 3 * sizeof *m->faces);
	if (!m->vertices || (s->attrs && !m->colors) || (s->attrs && is_raw && !m->attrs) || !m->faces)
		return mesh_no_memory(m, err);
	memcpy(m->vertices, s->vertices, n * 3 * sizeof *m->vertices);
	if (m->attrs)
		memcpy(m->attrs, s->attrs, n * 6 * sizeof *m->attrs);
	for (size_t i = 0; m->colors && i < 3 * n; i++) {
		float c = s->attrs[i / 3 * 6 + i % 3];
		m->colors[i] = c > 0 ? (c < 1 ? c : 1) : 0;
	}
	for (int64_t f = 0; f < s->n_faces; f++)
		if (with_inner || !s->is_inner[f])
			memcpy(m->faces + 3 * m->n_faces++, s->faces + 3 * f, 3 * sizeof *m->faces);
	return true;
}

/* A structure so thin that the surface never shows itself would leave nothing but the shell behind it. */
static bool check_rest(const struct trellis_mesh *m, struct error *err)
{
	return m->n_faces > 0 ||
	       error_set(err, "the mesh is empty: nothing is left of the decoded surface after cleaning");
}

bool mesh_from_surface(
	struct trellis_mesh *out, const struct surface *s, const struct trellis_params *params, struct error *err)
{
	bool is_raw = params->raw_mesh, with_inner = is_raw || params->keep_inner_shell;
	struct trellis_mesh m = {.seed = params->seed};
	bool ok = check_surface(s, is_raw, err) && copy_surface(&m, s, is_raw, with_inner, err);
	if (ok && !is_raw)
		ok = mesh_compact(&m, err) && mesh_weld(&m, err) && mesh_drop_specks(&m, err) &&
		     (with_inner || mesh_close_gaps(&m, err)) && mesh_compact(&m, err) && check_rest(&m, err) &&
		     (params->simplify <= 0 || mesh_simplify(&m, params->simplify, err)) &&
		     (m.normals || mesh_compute_normals(&m, err));
	if (!ok) {
		trellis_mesh_finish(&m);
		return false;
	}
	*out = m;
	return true;
}
