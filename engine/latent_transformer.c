/* latent_transformer.c - the transformer over active voxels that starts decode_mesh.c and decode_gaussians.c.
 * Source: trellis/models/structured_latent_vae/base.py, trellis/modules/sparse/transformer/blocks.py. */
#include "latent_transformer.h"

#include "voxels.h"

#include <stdlib.h>

struct latent_block {
	struct self_attention attn;
	struct mlp mlp;
};

bool latent_transformer_bind(struct binder *b, struct latent_transformer *t, const struct model_config *config)
{
	char prefix[64];

	*t = (struct latent_transformer){.config = config};
	t->blocks = calloc((size_t)config->num_blocks + 1, sizeof *t->blocks);
	if (!t->blocks)
		return error_set(b->err, "out of memory");
	t->input_layer =
		bind_linear(b, WEIGHT_LINEAR_F32, config->model_channels, config->latent_channels, "input_layer");
	for (int i = 0; i < config->num_blocks; i++) {
		snprintf(prefix, sizeof prefix, "blocks.%d.attn", i);
		bind_self_attention(
			b, &t->blocks[i].attn, config->model_channels, config->num_heads, config->qk_rms_norm, prefix);
		snprintf(prefix, sizeof prefix, "blocks.%d.mlp", i);
		bind_mlp(b, &t->blocks[i].mlp, config->model_channels, config->mlp_channels, prefix);
	}
	return true;
}

void latent_transformer_finish(struct latent_transformer *t)
{
	free(t->blocks);
	t->blocks = NULL;
}

/* x += attn(LN(x)); x += mlp(LN(x)). */
static void block_forward(
	struct run *run, const struct latent_block *block, struct tensor x, const struct windows *windows, int index)
{
	size_t mark = scratch_mark(run->b);
	struct tensor h = scratch_new(run->b, x.rows, x.cols);
	char name[32];

	snprintf(name, sizeof name, "block%d_attn", index);
	layer_norm(run, h, x, 1e-6f);
	self_attention_forward(run, x, h, &block->attn, TENSOR_NONE, 1, windows, name);
	layer_norm(run, h, x, 1e-6f);
	mlp_forward(run, x, h, &block->mlp, TENSOR_NONE);
	tap(run, x, "block%d", index);
	scratch_release(run->b, mark);
}

/* h = input_layer(latent) + position embedding. */
static bool embed(struct run *run, const struct latent_transformer *t, const int32_t *coords, int64_t n,
	const float *latent, struct tensor h, struct error *err)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor x = scratch_new_as(b, DTYPE_F32, n, t->config->latent_channels);
	struct tensor position = scratch_new_as(b, DTYPE_F32, n, h.cols);

	op_upload(b, x, latent);
	if (!position_embedding(run, position, coords, err))
		return false;
	linear_into(run, h, x, &t->input_layer, ACT_NONE, TENSOR_NONE, position, "input_layer");
	scratch_release(b, mark);
	return true;
}

bool latent_transformer_forward(struct run *run, const struct latent_transformer *t, const int32_t *coords, int64_t n,
	const float *latent, struct tensor h, struct error *err)
{
	const struct model_config *c = t->config;
	struct windows windows[2];
	size_t mark = scratch_mark(run->b);

	if (!embed(run, t, coords, n, latent, h, err))
		return false;
	for (int i = 0; i < 2 && !c->full_attention; i++)
		if (!voxels_windows(run, coords, n, c->window_size, i * (c->window_size / 2), &windows[i], err))
			return false;
	for (int i = 0; i < c->num_blocks; i++) {
		block_forward(run, &t->blocks[i], h, c->full_attention ? NULL : &windows[i % 2], i);
		run_worked(run, latent_transformer_work(c, (double)n) / c->num_blocks);
	}
	scratch_release(run->b, mark);
	return true;
}

double latent_transformer_work(const struct model_config *c, double n)
{
	double channels = c->model_channels, seen = n;

	if (!c->full_attention) { /* a surface fills about one layer and a half of a window */
		double window = 1.5 * c->window_size * c->window_size;
		seen = window < n ? window : n;
	}
	return c->num_blocks * (2 * n * channels * (4 * channels + 2.0 * c->mlp_channels) + 4 * n * seen * channels);
}
