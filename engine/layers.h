/* layers.h - layers that several stages share. Sources: trellis/modules/transformer, modules/sparse/transformer. */
#ifndef TRELLIS_LAYERS_H
#define TRELLIS_LAYERS_H

#include "run.h"
#include "weights.h"

/* y = x W^T + b. */
void linear_forward(struct run *run, struct tensor y, struct tensor x, const struct linear *l);
/* y = residual + gate * act(x W^T + b). With taps, `name` (unless NULL) receives act(x W^T + b). */
void linear_into(struct run *run, struct tensor y, struct tensor x, const struct linear *l, enum activation act,
	struct tensor gate, struct tensor residual, const char *name);
/* LayerNorm without parameters. */
void layer_norm(struct run *run, struct tensor y, struct tensor x, float eps);
/* y = x, converting. */
void copy_tensor(struct run *run, struct tensor y, struct tensor x);

/* y [n, channels] f32: for x, y, z the sines, then the cosines of p / 10000^(i / d), d = channels / 6; zeros up to
 * channels. coords [n, 3] on the host. Source: AbsolutePositionEmbedder. */
bool position_embedding(struct run *run, struct tensor y, const int32_t *coords, struct error *err);

/* Self-attention with an output projection: the tensors of to_qkv, q/k_rms_norm, to_out. */
struct self_attention {
	struct linear to_qkv;		  /* [3 C, C]: [3][head][d] */
	struct weight *q_gamma, *k_gamma; /* [heads, d], NULL without qk_rms_norm */
	struct linear to_out;		  /* [C, C] */
	int heads;
};

void bind_self_attention(
	struct binder *b, struct self_attention *a, int64_t channels, int heads, bool qk_rms_norm, const char *prefix);
/* x = x + gate * out(attention(h)).  h is the normalised x; rows attend to the rows of their own of `parts` equal
 * parts, or (parts 1) of their window. */
void self_attention_forward(struct run *run, struct tensor x, struct tensor h, const struct self_attention *a,
	struct tensor gate, int64_t parts, const struct windows *windows, const char *name);

/* Linear, GELU (tanh), Linear. */
struct mlp {
	struct linear in, out; /* [M, C], [C, M] */
};

void bind_mlp(struct binder *b, struct mlp *m, int64_t channels, int64_t hidden, const char *prefix);
/* x = x + gate * mlp(h). */
void mlp_forward(struct run *run, struct tensor x, struct tensor h, const struct mlp *m, struct tensor gate);

#endif
