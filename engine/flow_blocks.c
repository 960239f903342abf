/* flow_blocks.c - time embedding, modulations, cross-attention context and the transformer block of both flow models.
 * Used by sample_structure.c and sample_latent.c. Source: trellis/modules/transformer/modulated.py.
 *
 * Four exact savings live here (tests/test_flow.c proves each):
 *  - the negative condition is all zeros, so keys and values are their biases, softmax is uniform and cross-attention
 *    adds one constant row a block: `no_condition`;
 *  - keys and values of the condition do not depend on the step: flow_context_init, once a job;
 *  - modulations depend on t alone: flow_modulate, all steps at once and for all jobs of the same steps; their weights
 *    are freed again;
 *  - both halves of a guided step see the same x and t, so all before the first cross-attention is done once. */
#include "flow_blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void time_embedding(float out[256], float t)
{
	for (int i = 0; i < 128; i++) {
		float frequency = expf(-logf(10000.0f) * (float)i / 128.0f);
		out[i] = cosf(t * frequency);
		out[128 + i] = sinf(t * frequency);
	}
}

static void bind_block(struct binder *b, struct flow_block *block, const struct model_config *c, int index)
{
	int64_t channels = c->model_channels;
	int64_t gamma[2] = {c->num_heads, channels / c->num_heads};
	char prefix[64];

	snprintf(prefix, sizeof prefix, "blocks.%d.self_attn", index);
	bind_self_attention(b, &block->self, channels, c->num_heads, c->qk_rms_norm, prefix);
	block->norm2 = bind_norm(b, channels, "blocks.%d.norm2", index);
	block->to_q = bind_linear(b, WEIGHT_LINEAR, channels, channels, "blocks.%d.cross_attn.to_q", index);
	block->to_kv =
		bind_linear(b, WEIGHT_LINEAR, 2 * channels, c->cond_channels, "blocks.%d.cross_attn.to_kv", index);
	if (c->qk_rms_norm_cross) {
		block->q_gamma = bind_vector(b, 2, gamma, "blocks.%d.cross_attn.q_rms_norm.gamma", index);
		block->k_gamma = bind_vector(b, 2, gamma, "blocks.%d.cross_attn.k_rms_norm.gamma", index);
	}
	block->to_out = bind_linear(b, WEIGHT_LINEAR, channels, channels, "blocks.%d.cross_attn.to_out", index);
	snprintf(prefix, sizeof prefix, "blocks.%d.mlp", index);
	bind_mlp(b, &block->mlp, channels, c->mlp_channels, prefix);
	block->no_condition = bind_buffer(b, 1, channels);
}

/* Values of a zero condition are to_kv's bias; the attention's mean of equal rows is that row. */
static void compute_no_condition(struct run *run, struct flow_block *block, int64_t cond_channels)
{
	struct backend *b = run->b;
	int64_t channels = block->no_condition.cols;
	size_t mark = scratch_mark(b);
	struct tensor zero = scratch_new(b, 1, cond_channels);
	struct tensor kv = scratch_new(b, 1, 2 * channels);
	float *nothing = calloc((size_t)cond_channels, sizeof *nothing);

	if (!nothing) {
		backend_fail(b, "out of memory");
	} else {
		op_upload(b, zero, nothing);
		linear_forward(run, kv, zero, &block->to_kv);
		linear_forward(run, block->no_condition, tensor_columns(kv, channels, channels), &block->to_out);
	}
	free(nothing);
	scratch_release(b, mark);
}

void flow_trunk_bind(struct run *run, struct binder *b, struct flow_trunk *f)
{
	const struct model_config *c = f->config;

	f->t_in = bind_linear(b, WEIGHT_LINEAR_F32, c->model_channels, 256, "t_embedder.mlp.0");
	f->t_out = bind_linear(b, WEIGHT_LINEAR_F32, c->model_channels, c->model_channels, "t_embedder.mlp.2");
	f->blocks = calloc((size_t)c->num_blocks + 1, sizeof *f->blocks);
	if (!f->blocks) {
		backend_fail(run->b, "out of memory");
		return;
	}
	for (int i = 0; i < c->num_blocks; i++)
		bind_block(b, &f->blocks[i], c, i);
	if (!binder_ok(b))
		return;
	for (int i = 0; i < c->num_blocks; i++)
		compute_no_condition(run, &f->blocks[i], c->cond_channels);
}

void flow_trunk_finish(struct flow_trunk *f)
{
	free(f->blocks);
	f->blocks = NULL;
}

/* f32 [steps, width] that lives as long as m. */
static struct tensor keep_rows(struct backend *b, struct flow_modulation *m, int64_t width)
{
	struct tensor t = {.dtype = DTYPE_F32, .rows = m->steps, .cols = width, .stride = width};
	void **kept = realloc(m->kept, (size_t)(m->n_kept + 1) * sizeof *kept);

	if (!kept) {
		backend_fail(b, "out of memory");
		return t;
	}
	m->kept = kept;
	if (backend_ok(b))
		t.data = b->ops->alloc(b, (size_t)(m->steps * width) * sizeof(float));
	if (t.data)
		m->kept[m->n_kept++] = t.data;
	return t;
}

bool flow_modulate_one(struct run *run, const struct flow_trunk *f, struct flow_modulation *m, int64_t width,
	const char *name, struct tensor *out, struct error *err)
{
	struct weight_set set;
	struct binder b = binder_begin(&set, run->b, f->checkpoint, err);
	struct linear l;

	*out = keep_rows(run->b, m, width);
	l = bind_linear(&b, WEIGHT_LINEAR, width, m->t_emb.cols, "%s", name);
	if (binder_ok(&b))
		linear_forward(run, *out, m->t_emb, &l);
	bool ok = binder_ok(&b);
	weight_set_finish(&set);
	return ok;
}

/* SiLU(t_embedder(t)): every use of the time embedding starts with that SiLU. */
static void embed_times(struct run *run, const struct flow_trunk *f, struct flow_modulation *m)
{
	struct backend *b = run->b;
	int64_t channels = f->config->model_channels;
	size_t mark = scratch_mark(b);
	struct tensor frequencies = scratch_new_as(b, DTYPE_F32, m->steps, 256);
	struct tensor hidden = scratch_new_as(b, DTYPE_F32, m->steps, channels);
	float *host = malloc((size_t)m->steps * 256 * sizeof *host);

	m->t_emb = keep_rows(b, m, channels);
	if (!host) {
		backend_fail(b, "out of memory");
		return;
	}
	for (int i = 0; i < m->steps; i++)
		time_embedding(host + (size_t)256 * i, m->t[i]);
	op_upload(b, frequencies, host);
	free(host);
	tap(run, frequencies, "t_freq");
	linear_into(run, hidden, frequencies, &f->t_in, ACT_SILU, TENSOR_NONE, TENSOR_NONE, NULL);
	linear_forward(run, m->t_emb, hidden, &f->t_out);
	tap(run, m->t_emb, "t_emb");
	op_activate(b, m->t_emb, m->t_emb, ACT_SILU);
	scratch_release(b, mark);
}

bool flow_modulation_is(const struct flow_modulation *m, const float *t, int steps)
{
	return m->t && m->steps == steps && !memcmp(m->t, t, (size_t)steps * sizeof *t);
}

bool flow_modulate(struct run *run, const struct flow_trunk *f, const float *t, int steps, struct flow_modulation *m,
	struct error *err)
{
	const struct model_config *c = f->config;
	char name[64];

	flow_modulation_finish(m, run->b);
	m->steps = steps;
	m->t = malloc((size_t)steps * sizeof *t);
	m->block = calloc((size_t)c->num_blocks + 1, sizeof *m->block);
	if (!m->t || !m->block) {
		flow_modulation_finish(m, run->b);
		return error_set(err, "out of memory");
	}
	memcpy(m->t, t, (size_t)steps * sizeof *t);
	embed_times(run, f, m);
	for (int i = 0; i < c->num_blocks; i++) {
		if (c->share_mod && i > 0) {
			m->block[i] = m->block[0];
			continue;
		}
		snprintf(name, sizeof name, "blocks.%d.adaLN_modulation.1", i);
		if (!flow_modulate_one(run, f, m, 6 * c->model_channels, c->share_mod ? "adaLN_modulation.1" : name,
			    &m->block[i], err)) {
			flow_modulation_finish(m, run->b);
			return false;
		}
	}
	if (c->num_blocks)
		tap(run, m->block[0], c->share_mod ? "shared_mod" : "block0_mod");
	return true;
}

void flow_modulation_finish(struct flow_modulation *m, struct backend *b)
{
	for (int i = 0; i < m->n_kept; i++)
		b->ops->free(b, m->kept[i]);
	free(m->kept);
	free(m->t);
	free(m->block);
	*m = (struct flow_modulation){0};
}

bool flow_context_init(
	struct run *run, const struct flow_trunk *f, struct tensor condition, struct flow_context *c, struct error *err)
{
	int64_t channels = f->config->model_channels;

	c->kv = calloc((size_t)f->config->num_blocks + 1, sizeof *c->kv);
	if (!c->kv)
		return error_set(err, "out of memory");
	for (int i = 0; i < f->config->num_blocks; i++) {
		const struct flow_block *block = &f->blocks[i];
		c->kv[i] = scratch_new(run->b, condition.rows, 2 * channels);
		linear_forward(run, c->kv[i], condition, &block->to_kv);
		if (block->k_gamma)
			op_rms_norm_heads(
				run->b, tensor_columns(c->kv[i], 0, channels), block->k_gamma, f->config->num_heads);
	}
	return true;
}

void flow_context_finish(struct flow_context *c)
{
	free(c->kv);
	c->kv = NULL;
}

/* h = LN(x) * (1 + scale) + shift. */
static void modulated_norm(struct run *run, struct tensor h, struct tensor x, struct tensor shift, struct tensor scale)
{
	op_layer_norm(run->b, h, x, &(struct norm){.eps = 1e-6f, .scale = scale, .shift = shift});
}

/* x += crossattn(h, condition), h the affine layer norm of x; no gate. Uses h. */
static void cross_attention(struct run *run, const struct flow_block *block, struct tensor x, struct tensor h,
	struct tensor kv, const char *name)
{
	struct backend *b = run->b;
	int64_t channels = x.cols;
	size_t mark = scratch_mark(b);
	struct tensor q = scratch_new(b, x.rows, channels);
	struct tensor mixed = scratch_new(b, x.rows, channels);

	linear_forward(run, q, h, &block->to_q);
	if (block->q_gamma)
		op_rms_norm_heads(b, q, block->q_gamma, block->self.heads);
	op_attention(b, mixed, q, tensor_columns(kv, 0, channels), tensor_columns(kv, channels, channels),
		block->self.heads, NULL);
	linear_into(run, x, mixed, &block->to_out, ACT_NONE, TENSOR_NONE, x, name);
	scratch_release(b, mark);
}

void flow_trunk_forward(struct run *run, const struct flow_trunk *f, struct tensor x, bool guided,
	const struct flow_modulation *m, int step, const struct flow_context *context)
{
	struct backend *b = run->b;
	int64_t c = x.cols, n = guided ? x.rows / 2 : x.rows;
	size_t mark = scratch_mark(b);
	struct tensor hidden = scratch_new(b, x.rows, c);
	struct tensor first = tensor_rows(x, 0, n), second = guided ? tensor_rows(x, n, n) : TENSOR_NONE;
	struct tensor bare = context ? second : x; /* without a condition */
	struct tensor h_first = tensor_rows(hidden, 0, n), h_bare = tensor_rows(hidden, x.rows - bare.rows, bare.rows);
	double tokens = context ? (double)context->kv[0].rows : 0;
	double work = flow_trunk_work(f, (double)n, tokens, guided) / f->config->num_blocks;
	char name[64];

	for (int i = 0; i < f->config->num_blocks; i++) {
		const struct flow_block *block = &f->blocks[i];
		struct tensor mod = tensor_rows(m->block[i], step, 1);
		struct tensor seen = i == 0 ? first : x; /* both halves are still equal in the first self-attention */
		struct tensor h = tensor_rows(hidden, 0, seen.rows);
#define CHUNK(k) tensor_columns(mod, (k)*c, c)
		enum { SHIFT_A, SCALE_A, GATE_A, SHIFT_M, SCALE_M, GATE_M };
		modulated_norm(run, h, seen, CHUNK(SHIFT_A), CHUNK(SCALE_A));
		snprintf(name, sizeof name, "block%d_self_attn", i);
		self_attention_forward(run, seen, h, &block->self, CHUNK(GATE_A), seen.rows / n, NULL, name);
		if (guided && i == 0)
			copy_tensor(run, second, first);
		/* Both norms come right behind the product that they finish; then the half with a condition is alone. */
		if (context)
			op_layer_norm(b, h_first, first,
				&(struct norm){.eps = 1e-6f, .weight = block->norm2.weight, .bias = block->norm2.bias});
		if (bare.data) {
			op_add(b, bare, bare, block->no_condition);
			modulated_norm(run, h_bare, bare, CHUNK(SHIFT_M), CHUNK(SCALE_M));
		}
		if (context) {
			snprintf(name, sizeof name, "block%d_cross_attn", i);
			cross_attention(run, block, first, h_first, context->kv[i], name);
			modulated_norm(run, h_first, first, CHUNK(SHIFT_M), CHUNK(SCALE_M));
		}
		mlp_forward(run, x, hidden, &block->mlp, CHUNK(GATE_M));
#undef CHUNK
		tap(run, first, "block%d", i);
		run_worked(run, work);
	}
	scratch_release(b, mark);
}

double flow_trunk_work(const struct flow_trunk *f, double n, double tokens, bool guided)
{
	double c = f->config->model_channels, hidden = f->config->mlp_channels, blocks = f->config->num_blocks;
	double self = 8 * n * c * c + 4 * n * n * c, mlp = 4 * n * c * hidden;
	/* keys and values of the condition are cached; without a condition there is nothing to compute */
	double cross = tokens > 0 ? 4 * n * c * c + 4 * n * tokens * c : 0;
	return blocks * (self + mlp + cross) + (guided ? (blocks - 1) * self + blocks * mlp : 0);
}
