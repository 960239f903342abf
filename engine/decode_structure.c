/* decode_structure.c - the sparse structure decoder: occupancy latent [R^3, 8] to logits on a grid 4 times finer.
 * Follows sample_structure.c; voxels with a positive logit are active and go to sample_latent.c.
 * Source: trellis/models/sparse_structure_vae.py (SparseStructureDecoder), TRELLIS sec. 3.3.
 *
 * conv -> middle res blocks -> [res blocks, up] ... res blocks -> norm, SiLU, conv. All convolutions 3x3x3.
 * The residual blocks always use LayerNorm over channels: the official norm_type reaches only the last norm. */
#include "layers.h"
#include "stages.h"

#include <stdlib.h>

struct res_block3d {
	struct linear norm1, norm2, conv1, conv2;
};

struct structure_decoder {
	struct weight_set set;
	const struct model_config *config;
	struct linear input_layer, out_norm, out_conv;
	struct res_block3d *middle, *blocks; /* blocks: num_res_blocks a level */
	struct linear up[8];		     /* [8 next, channels] convolutions, one between levels */
};

static void bind_res_block3d(struct binder *b, struct res_block3d *r, int64_t channels, const char *prefix, int index)
{
	r->norm1 = bind_norm(b, channels, "%s.%d.norm1", prefix, index);
	r->norm2 = bind_norm(b, channels, "%s.%d.norm2", prefix, index);
	r->conv1 = bind_linear(b, WEIGHT_CONV3, channels, channels, "%s.%d.conv1", prefix, index);
	r->conv2 = bind_linear(b, WEIGHT_CONV3, channels, channels, "%s.%d.conv2", prefix, index);
}

struct structure_decoder *structure_decoder_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct structure_decoder *d = stage_new(sizeof *d, err);
	int index = 0;

	if (!d)
		return NULL;
	struct binder b = binder_begin(&d->set, run->b, c, err);
	d->config = config;
	d->middle = calloc((size_t)config->num_res_blocks_middle + 1, sizeof *d->middle);
	d->blocks = calloc((size_t)(config->num_res_blocks * config->n_channels) + 1, sizeof *d->blocks);
	if (!d->middle || !d->blocks) {
		error_set(err, "out of memory");
		goto fail;
	}
	d->input_layer = bind_linear(&b, WEIGHT_CONV3, config->channels[0], config->latent_channels, "input_layer");
	for (int i = 0; i < config->num_res_blocks_middle; i++)
		bind_res_block3d(&b, &d->middle[i], config->channels[0], "middle_block", i);
	for (int level = 0; level < config->n_channels; level++) {
		int64_t channels = config->channels[level];
		for (int i = 0; i < config->num_res_blocks; i++)
			bind_res_block3d(
				&b, &d->blocks[level * config->num_res_blocks + i], channels, "blocks", index++);
		if (level + 1 < config->n_channels)
			d->up[level] = bind_linear(
				&b, WEIGHT_CONV3, 8 * config->channels[level + 1], channels, "blocks.%d.conv", index++);
	}
	d->out_norm = bind_norm(&b, config->channels[config->n_channels - 1], "out_layer.0");
	d->out_conv = bind_linear(
		&b, WEIGHT_CONV3, config->out_channels, config->channels[config->n_channels - 1], "out_layer.2");
	if (binder_ok(&b))
		return d;
fail:
	structure_decoder_destroy(d);
	return NULL;
}

void structure_decoder_destroy(struct structure_decoder *d)
{
	if (!d)
		return;
	weight_set_finish(&d->set);
	free(d->middle);
	free(d->blocks);
	free(d);
}

static void conv(
	struct run *run, struct tensor y, struct tensor x, const struct linear *l, int64_t r, struct tensor residual)
{
	op_conv3d(run->b, y, x, l->weight, r, &(struct epilogue){.bias = l->bias, .residual = residual});
}

/* x += conv2(SiLU(norm2(conv1(SiLU(norm1(x)))))) */
static void res_block3d_forward(struct run *run, const struct res_block3d *block, struct tensor x, int64_t r)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor h = scratch_new(b, x.rows, x.cols);
	struct tensor g = scratch_new(b, x.rows, x.cols);

	op_layer_norm(b, h, x,
		&(struct norm){
			.eps = 1e-5f, .weight = block->norm1.weight, .bias = block->norm1.bias, .act = ACT_SILU});
	conv(run, g, h, &block->conv1, r, TENSOR_NONE);
	op_layer_norm(b, g, g,
		&(struct norm){
			.eps = 1e-5f, .weight = block->norm2.weight, .bias = block->norm2.bias, .act = ACT_SILU});
	conv(run, x, g, &block->conv2, r, x);
	scratch_release(b, mark);
	run_worked(run, 2 * 2 * 27.0 * (double)x.rows * (double)x.cols * (double)x.cols);
}

/* y [(2 R)^3, next] = pixel_shuffle(conv(x [R^3, channels])) */
static struct tensor upsample(struct run *run, const struct linear *l, struct tensor x, int64_t r, int index)
{
	struct backend *b = run->b;
	int64_t wide = l->weight->out;
	struct tensor y = scratch_new(b, 8 * x.rows, wide / 8);
	size_t mark = scratch_mark(b);
	struct tensor h = scratch_new(b, x.rows, wide);

	conv(run, h, x, l, r, TENSOR_NONE);
	tap(run, h, "blocks%d_upconv", index);
	op_pixel_shuffle(b, y, h, r);
	tap(run, y, "blocks%d_upsample", index);
	scratch_release(b, mark);
	run_worked(run, 2 * 27.0 * (double)x.rows * (double)x.cols * (double)wide);
	return y;
}

void structure_decoder_forward(
	struct run *run, const struct structure_decoder *d, struct tensor logits, struct tensor z, int64_t resolution)
{
	const struct model_config *c = d->config;
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor x = scratch_new(b, z.rows, c->channels[0]);
	struct norm norm = {.eps = 1e-5f, .weight = d->out_norm.weight, .bias = d->out_norm.bias, .act = ACT_SILU};
	int index = 0;

	conv(run, x, z, &d->input_layer, resolution, TENSOR_NONE);
	tap(run, x, "input_layer");
	for (int i = 0; i < c->num_res_blocks_middle; i++) {
		res_block3d_forward(run, &d->middle[i], x, resolution);
		tap(run, x, "middle%d", i);
	}
	tap(run, x, "middle");
	for (int level = 0; level < c->n_channels; level++) {
		for (int i = 0; i < c->num_res_blocks; i++, index++)
			res_block3d_forward(run, &d->blocks[level * c->num_res_blocks + i], x, resolution);
		if (level + 1 < c->n_channels) {
			x = upsample(run, &d->up[level], x, resolution, index++);
			resolution *= 2;
		}
	}
	if (c->group_norm)
		op_group_norm(b, x, x, 32, &norm);
	else
		op_layer_norm(b, x, x, &norm);
	conv(run, logits, x, &d->out_conv, resolution, TENSOR_NONE);
	run_expect_finite(run, logits, model_role_name(ROLE_STRUCTURE_DECODER));
	scratch_release(b, mark);
}

int structure_decoder_scale(const struct checkpoint *c)
{
	return 1 << (c->config.n_channels - 1);
}

double structure_decoder_work(const struct checkpoint *c, int resolution)
{
	const struct model_config *config = &c->config;
	double voxels = (double)resolution * resolution * resolution;
	double work = 4 * 27.0 * voxels * config->num_res_blocks_middle * config->channels[0] * config->channels[0];

	for (int level = 0; level < config->n_channels; level++, voxels *= 8) {
		double channels = config->channels[level];
		work += 4 * 27 * voxels * config->num_res_blocks * channels * channels;
		if (level + 1 < config->n_channels)
			work += 2 * 27 * voxels * channels * 8 * config->channels[level + 1];
	}
	return work;
}
