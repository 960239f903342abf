/* latent_transformer.h - the transformer over active voxels that starts both latent decoders.
 * Source: trellis/models/structured_latent_vae/base.py (SparseTransformerBase). */
#ifndef TRELLIS_LATENT_TRANSFORMER_H
#define TRELLIS_LATENT_TRANSFORMER_H

#include "layers.h"

struct latent_transformer {
	const struct model_config *config;
	struct linear input_layer; /* [C, latent] */
	struct latent_block *blocks;
};

/* Allocates the blocks; latent_transformer_finish frees them. */
bool latent_transformer_bind(struct binder *b, struct latent_transformer *t, const struct model_config *config);
void latent_transformer_finish(struct latent_transformer *t);
/* latent [n, channels] on the host -> h [n, C] on the device. Blocks attend in swin windows, shifted by half a window
 * in every second block, or to everything. */
bool latent_transformer_forward(struct run *run, const struct latent_transformer *t, const int32_t *coords, int64_t n,
	const float *latent, struct tensor h, struct error *err);
double latent_transformer_work(const struct model_config *config, double n);

#endif
