/* flow_blocks.h - what both flow models share: time embedding, modulations of all steps, the condition's keys and
 * values, and the modulated transformer block with cross-attention.
 * Source: trellis/modules/transformer/modulated.py, trellis/models/sparse_structure_flow.py. */
#ifndef TRELLIS_FLOW_BLOCKS_H
#define TRELLIS_FLOW_BLOCKS_H

#include "layers.h"

struct flow_block {
	struct self_attention self;
	struct linear norm2;		   /* affine, before cross-attention */
	struct linear to_q, to_kv, to_out; /* cross-attention: [C, C], [2 C, cond], [C, C] */
	struct weight *q_gamma, *k_gamma;  /* qk_rms_norm_cross */
	struct mlp mlp;
	struct tensor no_condition; /* f32 [1, C]: what cross-attention adds when the condition is all zeros */
};

struct flow_trunk {
	const struct checkpoint *checkpoint;
	const struct model_config *config;
	struct linear t_in, t_out; /* t_embedder.mlp.0 [C, 256], .2 [C, C] */
	struct flow_block *blocks;
};

/* Bind everything but the modulations; also computes no_condition. blocks are allocated here. */
void flow_trunk_bind(struct run *run, struct binder *b, struct flow_trunk *f);
void flow_trunk_finish(struct flow_trunk *f);

/* Modulations depend on t only: all steps at once, before sampling, and once for all jobs of the same steps. Start from
 * zeros, end with flow_modulation_finish. The memory is of the backend that computes it, or of one on the same device. */
struct flow_modulation {
	struct tensor t_emb;  /* f32 [steps, C], after SiLU */
	struct tensor *block; /* f32 [steps, 6 C] for each block; with share_mod all the same */
	float *t;	      /* [steps] that it was made for; NULL: none */
	int steps, n_kept;
	void **kept; /* device memory of the tensors above and of flow_modulate_one's */
};

/* Whether m holds the modulations of these times already. */
bool flow_modulation_is(const struct flow_modulation *m, const float *t, int steps);
/* t [steps] as the model receives it (1000 t, rounded to f32). The weights are bound for the while of this call.
 * False with err when a tensor is missing. */
bool flow_modulate(struct run *run, const struct flow_trunk *f, const float *t, int steps, struct flow_modulation *m,
	struct error *err);
void flow_modulation_finish(struct flow_modulation *m, struct backend *b);
/* One more modulation: Linear(m's t_emb) of NAME [width, C], as [steps, width]; lives as long as m. */
bool flow_modulate_one(struct run *run, const struct flow_trunk *f, struct flow_modulation *m, int64_t width,
	const char *name, struct tensor *out, struct error *err);

/* Cross-attention's keys and values of a condition: the same in every step, once a job. Lives in scratch. */
struct flow_context {
	struct tensor *kv; /* [tokens, 2 C] for each block */
};

bool flow_context_init(struct run *run, const struct flow_trunk *f, struct tensor condition, struct flow_context *c,
	struct error *err);
void flow_context_finish(struct flow_context *c);

/* All blocks, in place on x [n, C]. context NULL: the condition is all zeros.
 * guided: x has 2 n rows; the first n hold the input and end as the result under the condition, the last n (written
 * here) end as the result under the zero condition. Both see the same input, so they part only at the first
 * cross-attention, and every linear layer runs once over all 2 n rows. */
void flow_trunk_forward(struct run *run, const struct flow_trunk *f, struct tensor x, bool guided,
	const struct flow_modulation *m, int step, const struct flow_context *context);

/* Floating-point operations of one flow_trunk_forward over n tokens with `tokens` of condition. */
double flow_trunk_work(const struct flow_trunk *f, double n, double tokens, bool guided);

/* 256 numbers: cos(t f_i), sin(t f_i), f_i = 10000^(-i / 128). Source: TimestepEmbedder.timestep_embedding. */
void time_embedding(float out[256], float t);

#endif
