/* model_tensors.c - which tensors a checkpoint of each class has, and whether a file has them.
 * Used by model.c when a model is opened and by `trellis inspect`; weights are bound by the stages themselves.
 * Source: the official modules in trellis/models/ and trellis/modules/; DINOv2: Hugging Face's and torch.hub's names.
 */
#include "model_tensors.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct list {
	model_tensor_fn fn;
	void *user;
};

/* "[64, 3, 14, 14]" */
static const char *format_shape(char *out, size_t size, int ndim, const int64_t *dim)
{
	size_t n = (size_t)snprintf(out, size, "[");
	for (int i = 0; i < ndim && n < size; i++)
		n += (size_t)snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long)dim[i]);
	if (n < size)
		snprintf(out + n, size - n, "]");
	return out;
}

#define DIMS(...)                                                                                                      \
	sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (const int64_t[])                                    \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}

__attribute__((format(printf, 4, 5))) static void put(
	const struct list *l, int ndim, const int64_t *dim, const char *format, ...)
{
	char name[256];
	va_list args;
	va_start(args, format);
	vsnprintf(name, sizeof name, format, args);
	va_end(args);
	l->fn(l->user, name, ndim, dim, true);
}

/* weight [channels], bias [channels] */
static void put_norm(const struct list *l, const char *base, int channels)
{
	put(l, DIMS(channels), "%s.weight", base);
	put(l, DIMS(channels), "%s.bias", base);
}

/* weight [out, in], bias [out] */
static void put_linear(const struct list *l, const char *base, int out, int in)
{
	put(l, DIMS(out, in), "%s.weight", base);
	put(l, DIMS(out), "%s.bias", base);
}

/* weight [out, in, k, k, k], bias [out] */
static void put_conv(const struct list *l, const char *base, int out, int in)
{
	put(l, DIMS(out, in, 3, 3, 3), "%s.weight", base);
	put(l, DIMS(out), "%s.bias", base);
}

/* weight [out, k, k, k, in], bias [out] */
static void put_sparse_conv(const struct list *l, const char *base, int out, int in, int kernel)
{
	put(l, DIMS(out, kernel, kernel, kernel, in), "%s.conv.weight", base);
	put(l, DIMS(out), "%s.conv.bias", base);
}

/* The names of a submodule: base.rest. Valid until the end of the block. */
#define SUB(base, rest) sub((char[200]){0}, 200, base, rest)

static const char *sub(char *out, size_t size, const char *base, const char *rest)
{
	snprintf(out, size, "%s%s", base, rest);
	return out;
}

static void put_head_norms(const struct list *l, const char *base, const struct model_config *g)
{
	put(l, DIMS(g->num_heads, g->model_channels / g->num_heads), "%s.q_rms_norm.gamma", base);
	put(l, DIMS(g->num_heads, g->model_channels / g->num_heads), "%s.k_rms_norm.gamma", base);
}

static void put_mlp(const struct list *l, const char *base, const struct model_config *g)
{
	put_linear(l, SUB(base, ".mlp.mlp.0"), g->mlp_channels, g->model_channels);
	put_linear(l, SUB(base, ".mlp.mlp.2"), g->model_channels, g->mlp_channels);
}

/* Modulated blocks with cross attention: both flows. */
static void put_flow_torso(const struct list *l, const struct model_config *g)
{
	int c = g->model_channels;
	put_linear(l, "t_embedder.mlp.0", c, 256);
	put_linear(l, "t_embedder.mlp.2", c, c);
	if (g->share_mod)
		put_linear(l, "adaLN_modulation.1", 6 * c, c);
	for (int i = 0; i < g->num_blocks; i++) {
		char base[64];
		snprintf(base, sizeof base, "blocks.%d", i);
		put_norm(l, SUB(base, ".norm2"), c);
		put_linear(l, SUB(base, ".self_attn.to_qkv"), 3 * c, c);
		if (g->qk_rms_norm)
			put_head_norms(l, SUB(base, ".self_attn"), g);
		put_linear(l, SUB(base, ".self_attn.to_out"), c, c);
		put_linear(l, SUB(base, ".cross_attn.to_q"), c, c);
		put_linear(l, SUB(base, ".cross_attn.to_kv"), 2 * c, g->cond_channels);
		if (g->qk_rms_norm_cross)
			put_head_norms(l, SUB(base, ".cross_attn"), g);
		put_linear(l, SUB(base, ".cross_attn.to_out"), c, c);
		put_mlp(l, base, g);
		if (!g->share_mod)
			put_linear(l, SUB(base, ".adaLN_modulation.1"), 6 * c, c);
	}
}

static void list_structure_flow(const struct list *l, const struct model_config *g)
{
	int64_t tokens = g->resolution / g->patch_size, patch = (int64_t)g->patch_size * g->patch_size * g->patch_size;
	put(l, DIMS(tokens * tokens * tokens, g->model_channels), "pos_emb");
	put(l, DIMS(g->model_channels, g->in_channels * patch), "input_layer.weight");
	put(l, DIMS(g->model_channels), "input_layer.bias");
	put_flow_torso(l, g);
	put(l, DIMS(g->out_channels * patch, g->model_channels), "out_layer.weight");
	put(l, DIMS(g->out_channels * patch), "out_layer.bias");
}

static void put_sparse_res_block(const struct list *l, const char *base, int emb, int in, int out)
{
	put_norm(l, SUB(base, ".norm1"), in);
	put_sparse_conv(l, SUB(base, ".conv1"), out, in, 3);
	put_sparse_conv(l, SUB(base, ".conv2"), out, out, 3);
	put_linear(l, SUB(base, ".emb_layers.1"), 2 * out, emb);
	if (in != out)
		put_linear(l, SUB(base, ".skip_connection"), out, in);
}

static void list_latent_flow(const struct list *l, const struct model_config *g)
{
	const int *io = g->io_block_channels, n = g->n_io_block_channels, c = g->model_channels;
	int outer = n ? io[0] : c, widen = g->use_skip_connection ? 2 : 1, index = 0;
	char base[64];

	put_linear(l, "input_layer", outer, g->in_channels);
	for (int stage = 0; stage < n; stage++) {
		int next = stage + 1 < n ? io[stage + 1] : c;
		for (int i = 0; i < g->num_io_res_blocks; i++) {
			snprintf(base, sizeof base, "input_blocks.%d", index++);
			put_sparse_res_block(l, base, c, io[stage], i + 1 < g->num_io_res_blocks ? io[stage] : next);
		}
	}
	put_flow_torso(l, g);
	index = 0;
	for (int stage = n - 1; stage >= 0; stage--) {
		int before = stage + 1 < n ? io[stage + 1] : c;
		for (int i = 0; i < g->num_io_res_blocks; i++) {
			snprintf(base, sizeof base, "out_blocks.%d", index++);
			put_sparse_res_block(l, base, c, (i == 0 ? before : io[stage]) * widen, io[stage]);
		}
	}
	put_linear(l, "out_layer", g->out_channels, outer);
}

static void put_res_block(const struct list *l, const char *base, int channels)
{
	put_norm(l, SUB(base, ".norm1"), channels);
	put_norm(l, SUB(base, ".norm2"), channels);
	put_conv(l, SUB(base, ".conv1"), channels, channels);
	put_conv(l, SUB(base, ".conv2"), channels, channels);
}

static void list_structure_decoder(const struct list *l, const struct model_config *g)
{
	char base[64];
	int index = 0, last = g->channels[g->n_channels - 1];

	put_conv(l, "input_layer", g->channels[0], g->latent_channels);
	for (int i = 0; i < g->num_res_blocks_middle; i++) {
		snprintf(base, sizeof base, "middle_block.%d", i);
		put_res_block(l, base, g->channels[0]);
	}
	for (int level = 0; level < g->n_channels; level++) {
		for (int i = 0; i < g->num_res_blocks; i++) {
			snprintf(base, sizeof base, "blocks.%d", index++);
			put_res_block(l, base, g->channels[level]);
		}
		if (level + 1 < g->n_channels) {
			snprintf(base, sizeof base, "blocks.%d.conv", index++);
			put_conv(l, base, 8 * g->channels[level + 1], g->channels[level]);
		}
	}
	put_norm(l, "out_layer.0", last);
	put_conv(l, "out_layer.2", g->out_channels, last);
}

static void put_latent_decoder_torso(const struct list *l, const struct model_config *g)
{
	int c = g->model_channels;
	put_linear(l, "input_layer", c, g->latent_channels);
	for (int i = 0; i < g->num_blocks; i++) {
		char base[64];
		snprintf(base, sizeof base, "blocks.%d", i);
		put_linear(l, SUB(base, ".attn.to_qkv"), 3 * c, c);
		if (g->qk_rms_norm)
			put_head_norms(l, SUB(base, ".attn"), g);
		put_linear(l, SUB(base, ".attn.to_out"), c, c);
		put_mlp(l, base, g);
	}
}

static void list_mesh_decoder(const struct list *l, const struct model_config *g)
{
	int in = g->model_channels;
	put_latent_decoder_torso(l, g);
	for (int i = 0; i < 2; i++) {
		int out = g->model_channels / (i == 0 ? 4 : 8);
		char base[64];
		snprintf(base, sizeof base, "upsample.%d", i);
		put_norm(l, SUB(base, ".act_layers.0"), in);
		put_sparse_conv(l, SUB(base, ".out_layers.0"), out, in, 3);
		put_norm(l, SUB(base, ".out_layers.1"), out);
		put_sparse_conv(l, SUB(base, ".out_layers.3"), out, out, 3);
		put_sparse_conv(l, SUB(base, ".skip_connection"), out, in, 1);
		in = out;
	}
	put_linear(l, "out_layer", g->out_channels, in);
}

static void list_gaussian_decoder(const struct list *l, const struct model_config *g)
{
	put(l, DIMS(g->num_gaussians, 3), "offset_perturbation");
	put_latent_decoder_torso(l, g);
	put_linear(l, "out_layer", g->out_channels, g->model_channels);
}

/* The two naming schemes of DINOv2. */
struct encoder_names {
	const char *cls, *positions, *registers, *mask, *patch, *block, *scale1, *scale2, *norm;
};

static const struct encoder_names hugging_face_names = {
	.cls = "embeddings.cls_token",
	.positions = "embeddings.position_embeddings",
	.registers = "embeddings.register_tokens",
	.mask = "embeddings.mask_token",
	.patch = "embeddings.patch_embeddings.projection",
	.block = "encoder.layer",
	.scale1 = ".layer_scale1.lambda1",
	.scale2 = ".layer_scale2.lambda1",
	.norm = "layernorm",
};

static const struct encoder_names torch_hub_names = {
	.cls = "cls_token",
	.positions = "pos_embed",
	.registers = "register_tokens",
	.mask = "mask_token",
	.patch = "patch_embed.proj",
	.block = "blocks",
	.scale1 = ".ls1.gamma",
	.scale2 = ".ls2.gamma",
	.norm = "norm",
};

static void put_encoder_attention(const struct list *l, const char *base, int c, bool hub_names)
{
	if (hub_names) {
		put_linear(l, SUB(base, ".attn.qkv"), 3 * c, c);
		put_linear(l, SUB(base, ".attn.proj"), c, c);
		return;
	}
	put_linear(l, SUB(base, ".attention.attention.query"), c, c);
	put_linear(l, SUB(base, ".attention.attention.key"), c, c);
	put_linear(l, SUB(base, ".attention.attention.value"), c, c);
	put_linear(l, SUB(base, ".attention.output.dense"), c, c);
}

static void list_encoder(const struct list *l, const struct model_config *g, bool hub_names)
{
	const struct encoder_names *n = hub_names ? &torch_hub_names : &hugging_face_names;
	int c = g->model_channels, side = g->image_size / g->patch_size;

	put(l, DIMS(1, 1, c), "%s", n->cls);
	put(l, DIMS(1, 1 + (int64_t)side * side, c), "%s", n->positions);
	if (g->num_registers)
		put(l, DIMS(1, g->num_registers, c), "%s", n->registers);
	l->fn(l->user, n->mask, 2, (const int64_t[]){1, c}, false);
	put(l, DIMS(c, g->in_channels, g->patch_size, g->patch_size), "%s.weight", n->patch);
	put(l, DIMS(c), "%s.bias", n->patch);
	for (int i = 0; i < g->num_blocks; i++) {
		char base[64];
		snprintf(base, sizeof base, "%s.%d", n->block, i);
		put_norm(l, SUB(base, ".norm1"), c);
		put_encoder_attention(l, base, c, hub_names);
		put(l, DIMS(c), "%s%s", base, n->scale1);
		put_norm(l, SUB(base, ".norm2"), c);
		put_linear(l, SUB(base, ".mlp.fc1"), g->mlp_channels, c);
		put_linear(l, SUB(base, ".mlp.fc2"), c, g->mlp_channels);
		put(l, DIMS(c), "%s%s", base, n->scale2);
	}
	put_norm(l, n->norm, c);
}

void model_tensors_list(const struct checkpoint *c, model_tensor_fn fn, void *user)
{
	const struct list l = {fn, user};
	switch (c->role) {
	case ROLE_ENCODER:
		list_encoder(&l, &c->config, c->hub_names);
		break;
	case ROLE_STRUCTURE_FLOW:
		list_structure_flow(&l, &c->config);
		break;
	case ROLE_STRUCTURE_DECODER:
		list_structure_decoder(&l, &c->config);
		break;
	case ROLE_LATENT_FLOW:
		list_latent_flow(&l, &c->config);
		break;
	case ROLE_MESH_DECODER:
		list_mesh_decoder(&l, &c->config);
		break;
	case ROLE_GAUSSIAN_DECODER:
		list_gaussian_decoder(&l, &c->config);
		break;
	case ROLE_COUNT:
		break;
	}
}

int64_t model_tensors_parameters(const struct checkpoint *c)
{
	int64_t n = 0;
	for (int i = 0; i < safetensors_count(c->tensors); i++) {
		const struct st_tensor *t = safetensors_at(c->tensors, i);
		if (strcmp(t->name, "pos_emb") != 0 && strcmp(t->name, "offset_perturbation") != 0)
			n += t->count;
	}
	return n;
}

struct check {
	const struct checkpoint *checkpoint;
	model_tensor_fault_fn fault;
	void *user;
	bool *expected; /* [tensors in the file] */
};

__attribute__((format(printf, 2, 3))) static void tell(const struct check *k, const char *format, ...)
{
	char text[900];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	k->fault(k->user, k->checkpoint, text);
}

static void check_tensor(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	struct check *k = user;
	const struct safetensors *f = k->checkpoint->tensors;
	const struct st_tensor *t = safetensors_find(f, name);
	char want[160], have[160];
	if (!t) {
		if (required)
			tell(k, "%s: tensor %s is missing", safetensors_path(f), name);
		return;
	}
	k->expected[t - safetensors_at(f, 0)] = true;
	if (t->ndim != ndim || memcmp(t->dim, dim, (size_t)ndim * sizeof *dim) != 0)
		tell(k, "%s: tensor %s has shape %s, wanted %s", safetensors_path(f), name,
			format_shape(have, sizeof have, t->ndim, t->dim), format_shape(want, sizeof want, ndim, dim));
	else if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16)
		tell(k, "%s: tensor %s is %s, wanted F32, F16 or BF16", safetensors_path(f), name,
			st_dtype_name(t->dtype));
}

void model_tensors_check(const struct checkpoint *c, model_tensor_fault_fn fault, void *user)
{
	int n = safetensors_count(c->tensors);
	struct check k = {c, fault, user, calloc((size_t)n + 1, sizeof *k.expected)};
	if (!k.expected) {
		tell(&k, "%s: out of memory", safetensors_path(c->tensors));
		return;
	}
	model_tensors_list(c, check_tensor, &k);
	for (int i = 0; i < n; i++) {
		if (!k.expected[i])
			tell(&k, "%s: tensor %s is not one of a %s as described", safetensors_path(c->tensors),
				safetensors_at(c->tensors, i)->name, c->class_name);
	}
	free(k.expected);
}
