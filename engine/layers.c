/* layers.c - layers that several stages share: linear, norms, position embedding, self-attention, MLP.
 * Sources: trellis/modules/{attention,transformer,norm}.py and their sparse counterparts. */
#include "layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void linear_forward(struct run *run, struct tensor y, struct tensor x, const struct linear *l)
{
	op_linear(run->b, y, x, l->weight, &(struct epilogue){.bias = l->bias});
}

void linear_into(struct run *run, struct tensor y, struct tensor x, const struct linear *l, enum activation act,
	struct tensor gate, struct tensor residual, const char *name)
{
	if (name && tapping(run)) { /* the fused form never holds this intermediate */
		size_t mark = scratch_mark(run->b);
		struct tensor plain = scratch_new_as(run->b, DTYPE_F32, y.rows, y.cols);
		op_linear(run->b, plain, x, l->weight, &(struct epilogue){.bias = l->bias, .act = act});
		tap(run, plain, "%s", name);
		scratch_release(run->b, mark);
	}
	op_linear(run->b, y, x, l->weight,
		&(struct epilogue){.bias = l->bias, .act = act, .gate = gate, .residual = residual});
}

void layer_norm(struct run *run, struct tensor y, struct tensor x, float eps)
{
	op_layer_norm(run->b, y, x, &(struct norm){.eps = eps});
}

void copy_tensor(struct run *run, struct tensor y, struct tensor x)
{
	op_combine(run->b, y, 1, x, 0, TENSOR_NONE);
}

bool position_embedding(struct run *run, struct tensor y, const int32_t *coords, struct error *err)
{
	struct backend *b = run->b;
	int64_t d = y.cols / 6, rest = y.cols - 6 * d, places = 1, n = y.rows;
	size_t mark = scratch_mark(b);

	for (int64_t i = 0; i < 3 * n; i++)
		places = coords[i] >= places ? coords[i] + 1 : places;
	float *wave = calloc((size_t)(places * 2 * d + rest) + 1, sizeof *wave);
	if (!wave)
		return error_set(err, "out of memory for the position embedding");
	for (int64_t i = 0; i < d; i++) {
		float frequency = 1.0f / powf(10000.0f, (float)i / (float)d);
		for (int64_t place = 0; place < places; place++) {
			wave[place * 2 * d + i] = sinf((float)place * frequency);
			wave[place * 2 * d + d + i] = cosf((float)place * frequency);
		}
	}
	struct tensor waves = scratch_new_as(b, DTYPE_F32, places, 2 * d);
	struct tensor at = scratch_new_as(b, DTYPE_I32, n, 3);
	op_upload(b, waves, wave);
	op_upload_i32(b, at, coords);
	for (int axis = 0; axis < 3; axis++)
		op_gather_rows(b, tensor_columns(y, axis * 2 * d, 2 * d), waves, tensor_columns(at, axis, 1));
	if (rest) {
		struct tensor zeros = scratch_new_as(b, DTYPE_F32, 1, rest);
		op_upload(b, zeros, wave + places * 2 * d);
		op_gather_rows(b, tensor_columns(y, 6 * d, rest), zeros, TENSOR_NONE);
	}
	free(wave);
	scratch_release(b, mark);
	return true;
}

void bind_self_attention(
	struct binder *b, struct self_attention *a, int64_t channels, int heads, bool qk_rms_norm, const char *prefix)
{
	int64_t gamma[2] = {heads, channels / heads};

	*a = (struct self_attention){.heads = heads};
	a->to_qkv = bind_linear(b, WEIGHT_LINEAR, 3 * channels, channels, "%s.to_qkv", prefix);
	if (qk_rms_norm) {
		a->q_gamma = bind_vector(b, 2, gamma, "%s.q_rms_norm.gamma", prefix);
		a->k_gamma = bind_vector(b, 2, gamma, "%s.k_rms_norm.gamma", prefix);
	}
	a->to_out = bind_linear(b, WEIGHT_LINEAR, channels, channels, "%s.to_out", prefix);
}

void self_attention_forward(struct run *run, struct tensor x, struct tensor h, const struct self_attention *a,
	struct tensor gate, int64_t parts, const struct windows *windows, const char *name)
{
	struct backend *b = run->b;
	int64_t c = x.cols;
	size_t mark = scratch_mark(b);
	struct tensor qkv = scratch_new(b, x.rows, 3 * c);
	struct tensor mixed = scratch_new(b, x.rows, c);
	struct tensor q = tensor_columns(qkv, 0, c);
	struct tensor k = tensor_columns(qkv, c, c);
	struct tensor v = tensor_columns(qkv, 2 * c, c);

	if (a->q_gamma)
		op_linear_qkv(b, qkv, h, a->to_qkv.weight, a->to_qkv.bias, a->q_gamma, a->k_gamma, a->heads);
	else
		linear_forward(run, qkv, h, &a->to_qkv);
	if (windows)
		op_attention(b, mixed, q, k, v, a->heads, windows);
	else
		op_attention_parts(b, mixed, q, k, v, a->heads, parts);
	linear_into(run, x, mixed, &a->to_out, ACT_NONE, gate, x, name);
	scratch_release(b, mark);
}

void bind_mlp(struct binder *b, struct mlp *m, int64_t channels, int64_t hidden, const char *prefix)
{
	m->in = bind_linear(b, WEIGHT_LINEAR, hidden, channels, "%s.mlp.0", prefix);
	m->out = bind_linear(b, WEIGHT_LINEAR, channels, hidden, "%s.mlp.2", prefix);
}

void mlp_forward(struct run *run, struct tensor x, struct tensor h, const struct mlp *m, struct tensor gate)
{
	size_t mark = scratch_mark(run->b);
	struct tensor hidden = scratch_new(run->b, x.rows, m->in.weight ? m->in.weight->out : 0);

	linear_into(run, hidden, h, &m->in, ACT_GELU_TANH, TENSOR_NONE, TENSOR_NONE, NULL);
	linear_into(run, x, hidden, &m->out, ACT_NONE, gate, x, NULL);
	scratch_release(run->b, mark);
}
