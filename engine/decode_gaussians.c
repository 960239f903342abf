/* decode_gaussians.c - the Gaussian decoder: structured latent to 3-D Gaussians, K a voxel, and the official .ply
 * columns. The other decoder beside decode_mesh.c; ply.c writes the file. Source:
 * trellis/models/structured_latent_vae/decoder_gs.py, trellis/representations/gaussian/gaussian_model.py. */
#include "latent_transformer.h"
#include "stages.h"

#include <math.h>
#include <stdlib.h>

struct gaussian_decoder {
	struct weight_set set;
	const struct model_config *config;
	struct latent_transformer transformer;
	struct linear out_layer; /* [14 K, C] */
	float *perturbation;	 /* [K, 3] or NULL */
};

struct gaussian_decoder *gaussian_decoder_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct gaussian_decoder *d = stage_new(sizeof *d, err);

	if (!d)
		return NULL;
	struct binder b = binder_begin(&d->set, run->b, c, err);
	d->config = config;
	if (!latent_transformer_bind(&b, &d->transformer, config))
		goto fail;
	d->out_layer = bind_linear(&b, WEIGHT_LINEAR, 14 * config->num_gaussians, config->model_channels, "out_layer");
	if (config->perturb_offset)
		d->perturbation = bind_host(&b, 3 * config->num_gaussians, "offset_perturbation");
	if (binder_ok(&b))
		return d;
fail:
	gaussian_decoder_destroy(d);
	return NULL;
}

void gaussian_decoder_destroy(struct gaussian_decoder *d)
{
	if (!d)
		return;
	latent_transformer_finish(&d->transformer);
	weight_set_finish(&d->set);
	free(d->perturbation);
	free(d);
}

static void tap_perturbation(struct run *run, const struct gaussian_decoder *d)
{
	size_t mark = scratch_mark(run->b);
	if (tapping(run) && d->perturbation) {
		struct tensor t = scratch_new_as(run->b, DTYPE_F32, d->config->num_gaussians, 3);
		op_upload(run->b, t, d->perturbation);
		tap(run, t, "offset_perturbation");
	}
	scratch_release(run->b, mark);
}

/* Raw network rows [n, 14 K] of one voxel to its K Gaussians. */
static void unpack_voxel(
	const struct gaussian_decoder *d, struct gaussians *g, int64_t voxel, const int32_t *coords, const float *row)
{
	const struct model_config *c = d->config;
	int64_t k = c->num_gaussians, first = voxel * k;
	const float *xyz = row, *color = row + 3 * k, *scaling = row + 6 * k, *rotation = row + 9 * k,
		    *opacity = row + 13 * k;
	float size = 1.0f / (float)c->resolution, voxel_size = (float)c->voxel_size;
	float lr_xyz = (float)c->lr_xyz, lr_color = (float)c->lr_features_dc, lr_scaling = (float)c->lr_scaling;

	for (int64_t i = 0; i < 3 * k; i++) {
		float offset = xyz[i] * lr_xyz + (d->perturbation ? d->perturbation[i] : 0);
		float centre = ((float)coords[3 * voxel + i % 3] + 0.5f) * size;
		g->xyz[3 * first + i] = centre + tanhf(offset) * size * 0.5f * voxel_size;
		g->features_dc[3 * first + i] = color[i] * lr_color;
		g->scaling[3 * first + i] = scaling[i] * lr_scaling;
	}
	for (int64_t i = 0; i < 4 * k; i++)
		g->rotation[4 * first + i] = rotation[i] * (float)c->lr_rotation;
	for (int64_t i = 0; i < k; i++)
		g->opacity[first + i] = opacity[i] * (float)c->lr_opacity;
}

static bool gaussians_init(struct gaussians *g, int64_t n, struct error *err)
{
	float *all = malloc((size_t)n * 14 * sizeof *all + 1);

	if (!all)
		return error_set(err, "out of memory for %lld Gaussians", (long long)n);
	*g = (struct gaussians){.n = n,
		.xyz = all,
		.features_dc = all + 3 * n,
		.scaling = all + 6 * n,
		.rotation = all + 9 * n,
		.opacity = all + 13 * n};
	return true;
}

void gaussians_finish(struct gaussians *g)
{
	free(g->xyz);
	*g = (struct gaussians){0};
}

bool gaussian_decoder_forward(struct run *run, const struct gaussian_decoder *d, const int32_t *coords, int64_t n,
	const float *latent, struct gaussians *g, struct error *err)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor h = scratch_new(b, n, d->config->model_channels);
	struct tensor out = scratch_new_as(b, DTYPE_F32, n, d->out_layer.weight->out);
	float *rows = malloc((size_t)(n * out.cols) * sizeof *rows + 1);
	struct gaussians result = {0};
	bool ok = rows || error_set(err, "out of memory");

	tap_perturbation(run, d);
	ok = ok && latent_transformer_forward(run, &d->transformer, coords, n, latent, h, err);
	if (ok) {
		layer_norm(run, h, h, 1e-5f);
		linear_forward(run, out, h, &d->out_layer);
		tap(run, out, "out_layer");
		run_expect_finite(run, out, model_role_name(ROLE_GAUSSIAN_DECODER));
		op_download(b, rows, out);
	}
	scratch_release(b, mark);
	ok = ok ? backend_finish(b, err) : (backend_finish(b, NULL), false);
	ok = ok && gaussians_init(&result, n * d->config->num_gaussians, err);
	for (int64_t i = 0; ok && i < n; i++)
		unpack_voxel(d, &result, i, coords, rows + i * out.cols);
	free(rows);
	if (ok)
		*g = result;
	return ok;
}

static float softplus(float x)
{
	return x > 20 ? x : log1pf(expf(x));
}

void gaussians_activate(struct gaussians *g, const struct model_config *c)
{
	float start = (float)c->scaling_bias, seen = (float)c->opacity_bias, kernel = (float)c->filter_kernel_size_3d;
	float bias = c->scaling_softplus ? start + logf(-expm1f(-start)) : logf(start);
	float opacity_bias = logf(seen / (1 - seen));

	for (int64_t i = 0; i < 3 * g->n; i++) {
		float s = c->scaling_softplus ? softplus(g->scaling[i] + bias) : expf(g->scaling[i] + bias);
		g->xyz[i] -= 0.5f;
		g->scaling[i] = sqrtf(s * s + kernel * kernel);
	}
	for (int64_t i = 0; i < g->n; i++) {
		float *q = g->rotation + 4 * i, norm = 0;
		q[0] += 1;
		for (int k = 0; k < 4; k++)
			norm += q[k] * q[k];
		norm = fmaxf(sqrtf(norm), 1e-12f);
		for (int k = 0; k < 4; k++)
			q[k] /= norm;
		g->opacity[i] = 1 / (1 + expf(-(g->opacity[i] + opacity_bias)));
	}
}

/* The quaternion (w, x, y, z) after a quarter turn about x, (x, y, z) -> (x, -z, y). The official code goes through a
 * matrix, which leaves the sign that makes the largest component positive. */
static void turn(float out[4], const float q[4])
{
	const double half = sqrt(0.5);
	double r[4] = {half * ((double)q[0] - q[1]), half * ((double)q[1] + q[0]), half * ((double)q[2] - q[3]),
		half * ((double)q[3] + q[2])};
	int largest = 0;

	for (int k = 1; k < 4; k++)
		if (fabs(r[k]) > fabs(r[largest]))
			largest = k;
	for (int k = 0; k < 4; k++)
		out[k] = (float)(r[largest] < 0 ? -r[k] : r[k]);
}

float *gaussians_to_ply(const struct gaussians *g, const struct model_config *c)
{
	struct gaussians active;
	float *rows = malloc((size_t)g->n * 14 * sizeof *rows + 1);

	if (!rows || !gaussians_init(&active, g->n, NULL)) {
		free(rows);
		return NULL;
	}
	for (int64_t i = 0; i < 14 * g->n; i++)
		active.xyz[i] = g->xyz[i];
	gaussians_activate(&active, c);
	for (int64_t i = 0; i < g->n; i++) {
		float *row = rows + 14 * i;
		row[0] = active.xyz[3 * i];
		row[1] = -active.xyz[3 * i + 2];
		row[2] = active.xyz[3 * i + 1];
		for (int k = 0; k < 3; k++) {
			row[3 + k] = g->features_dc[3 * i + k];
			row[7 + k] = logf(active.scaling[3 * i + k]);
		}
		row[6] = logf(active.opacity[i] / (1 - active.opacity[i]));
		turn(row + 10, active.rotation + 4 * i);
	}
	gaussians_finish(&active);
	return rows;
}
