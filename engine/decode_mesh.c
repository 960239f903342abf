/* decode_mesh.c - the mesh decoder: structured latent to the features of a grid 4 times finer, then FlexiCubes.
 * Follows sample_latent.c; mesh.c cleans what comes out.
 * Source: trellis/models/structured_latent_vae/decoder_mesh.py, TRELLIS sec. 3.2.
 *
 * transformer [n, C] -> subdivide to [8 n, C / 4] -> subdivide to [64 n, C / 8] -> linear [64 n, 53 | 101] */
#include "latent_transformer.h"
#include "stages.h"
#include "voxels.h"

#include <stdlib.h>

/* SparseSubdivideBlock3d: GroupNorm and SiLU on the coarse voxels, subdivide, conv, GroupNorm, SiLU, conv, + skip. */
struct subdivide_block {
	int64_t in, out;
	struct linear norm1, conv1, norm2, conv2, skip; /* skip: none when in == out */
};

struct mesh_decoder {
	struct weight_set set;
	const struct model_config *config;
	struct latent_transformer transformer;
	struct subdivide_block up[2];
	struct linear out_layer; /* [53 | 101, C / 8] */
};

static void bind_subdivide(struct binder *b, struct subdivide_block *s, int64_t in, int64_t out, int index)
{
	*s = (struct subdivide_block){.in = in, .out = out};
	s->norm1 = bind_norm(b, in, "upsample.%d.act_layers.0", index);
	s->conv1 = bind_linear(b, WEIGHT_SPARSE3_UP, out, in, "upsample.%d.out_layers.0.conv", index);
	s->norm2 = bind_norm(b, out, "upsample.%d.out_layers.1", index);
	s->conv2 = bind_linear(b, WEIGHT_SPARSE3, out, out, "upsample.%d.out_layers.3.conv", index);
	if (in != out)
		s->skip = bind_pointwise(b, out, in, "upsample.%d.skip_connection.conv", index);
}

struct mesh_decoder *mesh_decoder_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct mesh_decoder *d = stage_new(sizeof *d, err);
	int64_t channels = config->model_channels;

	if (!d)
		return NULL;
	struct binder b = binder_begin(&d->set, run->b, c, err);
	d->config = config;
	if (channels % 256 != 0) {
		error_set(err, "%s: model_channels %d: the 32 norm groups need a multiple of 256", c->name,
			config->model_channels);
		goto fail;
	}
	if (!latent_transformer_bind(&b, &d->transformer, config))
		goto fail;
	bind_subdivide(&b, &d->up[0], channels, channels / 4, 0);
	bind_subdivide(&b, &d->up[1], channels / 4, channels / 8, 1);
	d->out_layer = bind_linear(&b, WEIGHT_LINEAR, config->use_color ? 101 : 53, channels / 8, "out_layer");
	if (binder_ok(&b))
		return d;
fail:
	mesh_decoder_destroy(d);
	return NULL;
}

void mesh_decoder_destroy(struct mesh_decoder *d)
{
	if (!d)
		return;
	latent_transformer_finish(&d->transformer);
	weight_set_finish(&d->set);
	free(d);
}

/* x[n, in] -> y[8 n, out]. neighbours: of x's rows; children: of y's. The first convolution sees eight equal children,
 * so it runs at the parents (op_sparse_conv_up), and so does the skip: exact. */
static void subdivide_forward(struct run *run, const struct subdivide_block *s, struct tensor y, struct tensor x,
	struct tensor neighbours, struct tensor children, int index)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor g = scratch_new(b, y.rows, s->out);
	size_t inner = scratch_mark(b);
	struct tensor h = scratch_new(b, x.rows, s->in);

	op_group_norm(b, h, x, 32,
		&(struct norm){.eps = 1e-5f, .weight = s->norm1.weight, .bias = s->norm1.bias, .act = ACT_SILU});
	tap(run, h, "up%d_act", index);
	op_sparse_conv_up(b, g, h, s->conv1.weight, neighbours, &(struct epilogue){.bias = s->conv1.bias});
	tap(run, g, "up%d_conv0", index);
	run_worked(run, 2 * 64.0 * (double)x.rows * (double)s->in * (double)s->out);
	op_group_norm(b, g, g, 32,
		&(struct norm){.eps = 1e-5f, .weight = s->norm2.weight, .bias = s->norm2.bias, .act = ACT_SILU});
	scratch_release(b, inner);

	struct tensor at_parents = x;
	if (s->skip.weight) {
		at_parents = scratch_new(b, x.rows, s->out);
		linear_forward(run, at_parents, x, &s->skip);
	}
	op_gather_rows(b, y, at_parents, TENSOR_NONE);
	tap(run, y, "up%d_skip", index);
	op_sparse_conv(b, y, g, s->conv2.weight, children, &(struct epilogue){.bias = s->conv2.bias, .residual = y});
	tap(run, y, "up%d", index);
	run_worked(run, 2 * 27.0 * (double)y.rows * (double)s->out * (double)s->out);
	scratch_release(b, mark);
}

/* coords [64 n, 3] of the 4x grid on the device, grouped by original voxel. */
static struct tensor fine_coords(struct run *run, const int32_t *coords, int64_t n)
{
	struct backend *b = run->b;
	struct tensor fine = scratch_new_as(b, DTYPE_I32, 64 * n, 3);
	struct tensor middle = scratch_new_as(b, DTYPE_I32, 8 * n, 3);
	struct tensor coarse = scratch_new_as(b, DTYPE_I32, n, 3);

	op_upload_i32(b, coarse, coords);
	op_coords_up(b, middle, coarse);
	op_coords_up(b, fine, middle);
	if (tapping(run)) {
		int32_t *host = malloc((size_t)n * 192 * sizeof *host + 1);
		if (host) {
			op_download_i32(b, host, fine);
			tap_integers(run, host, 64 * n, 3, "feat_coords");
		}
		free(host);
	}
	return fine;
}

/* Features [64 n, 53 | 101] in f32. Scratch is unwound to what is returned. */
static struct tensor features_forward(struct run *run, const struct mesh_decoder *d, const int32_t *coords, int64_t n,
	const float *latent, struct error *err, bool *ok)
{
	struct backend *b = run->b;
	int64_t channels = d->config->model_channels;
	struct tensor out = scratch_new_as(b, DTYPE_F32, 64 * n, d->out_layer.weight->out);
	size_t mark = scratch_mark(b);
	struct tensor fine = scratch_new(b, 64 * n, channels / 8);
	size_t inner = scratch_mark(b);
	struct voxels voxels;

	*ok = voxels_init(&voxels, coords, n, err);
	if (!*ok)
		return out;
	struct tensor h = scratch_new(b, n, channels);
	struct tensor middle = scratch_new(b, 8 * n, channels / 4);
	struct tensor children = scratch_new_as(b, DTYPE_I32, 8 * n, NEIGHBOUR_COLS);
	struct tensor grandchildren = scratch_new_as(b, DTYPE_I32, 64 * n, NEIGHBOUR_COLS);

	*ok = latent_transformer_forward(run, &d->transformer, coords, n, latent, h, err);
	if (*ok) {
		voxels_connect(run, &voxels);
		op_neighbours_up(b, children, voxels.neighbours);
		subdivide_forward(run, &d->up[0], middle, h, voxels.neighbours, children, 0);
		op_neighbours_up(b, grandchildren, children);
		subdivide_forward(run, &d->up[1], fine, middle, children, grandchildren, 1);
		scratch_release(b, inner);
		linear_forward(run, out, fine, &d->out_layer);
		run_expect_finite(run, out, model_role_name(ROLE_MESH_DECODER));
	}
	voxels_finish(&voxels);
	scratch_release(b, mark);
	return out;
}

bool mesh_decoder_forward(struct run *run, const struct mesh_decoder *d, const int32_t *coords, int64_t n,
	const float *latent, struct surface *surface, float *features, struct error *err)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	bool ok;
	struct surface s = {0};

	run_stage(run, TRELLIS_DECODE, 0, 1);
	struct tensor out = features_forward(run, d, coords, n, latent, err, &ok);
	if (ok && features)
		op_download(b, features, out);
	if (ok) {
		run_stage(run, TRELLIS_MESH, 0, 1);
		op_extract(b, &s, out, fine_coords(run, coords, n), 4 * (int64_t)d->config->resolution,
			d->config->use_color);
	}
	scratch_release(b, mark);
	ok = ok ? backend_finish(b, err) : (backend_finish(b, NULL), false);
	if (ok)
		*surface = s;
	else
		surface_finish(&s);
	return ok;
}

double mesh_decoder_work(const struct checkpoint *c, double n)
{
	double channels = c->config.model_channels, work = latent_transformer_work(&c->config, n);

	for (int i = 0; i < 2; i++, n *= 8) {
		double in = i ? channels / 4 : channels, out = i ? channels / 8 : channels / 4;
		work += 2 * 64 * n * in * out + 2 * 27 * 8 * n * out * out;
	}
	return work;
}
