/* checkpoint.c - one network of a model: its description {"name": class, "args": {...}} and its tensors.
 * model.c decides which checkpoint plays which role; encoder_config.c reads the image encoder's.
 * Source: the constructors in the official trellis/models/: argument names, defaults and what they refuse. */
#include "json_fields.h"
#include "loader.h"
#include "text.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum arg_kind {
	ARG_INT,
	ARG_DOUBLE,
	ARG_BOOL,
	ARG_OTHER, /* known, and either without meaning for inference or read by the class's finish function */
};

#define REQUIRED NAN

struct arg {
	const char *name;
	enum arg_kind kind;
	size_t offset;	 /* in struct model_config */
	double fallback; /* the official default, or REQUIRED */
	int lo, hi;
};

#define FIELD(field) offsetof(struct model_config, field)
#define CHANNELS 1, 65536
#define COUNT 1, 512
#define END                                                                                                            \
	{                                                                                                              \
		NULL, ARG_OTHER, 0, 0, 0, 0                                                                            \
	}

/* Checks and derives what a table cannot say. args is a JSON object. */
typedef bool finish_fn(struct model_config *g, const json_t *args, const char *file, struct error *err);

static const struct arg structure_flow_args[] = {
	{"resolution", ARG_INT, FIELD(resolution), REQUIRED, 1, 512},
	{"in_channels", ARG_INT, FIELD(in_channels), REQUIRED, CHANNELS},
	{"model_channels", ARG_INT, FIELD(model_channels), REQUIRED, CHANNELS},
	{"cond_channels", ARG_INT, FIELD(cond_channels), REQUIRED, CHANNELS},
	{"out_channels", ARG_INT, FIELD(out_channels), REQUIRED, CHANNELS},
	{"num_blocks", ARG_INT, FIELD(num_blocks), REQUIRED, COUNT},
	{"num_heads", ARG_OTHER, 0, 0, 0, 0},
	{"num_head_channels", ARG_OTHER, 0, 0, 0, 0},
	{"mlp_ratio", ARG_DOUBLE, FIELD(mlp_ratio), 4, 0, 64},
	{"patch_size", ARG_INT, FIELD(patch_size), 2, 1, 64},
	{"pe_mode", ARG_OTHER, 0, 0, 0, 0},
	{"use_fp16", ARG_OTHER, 0, 0, 0, 0},
	{"use_checkpoint", ARG_OTHER, 0, 0, 0, 0},
	{"share_mod", ARG_BOOL, FIELD(share_mod), 0, 0, 0},
	{"qk_rms_norm", ARG_BOOL, FIELD(qk_rms_norm), 0, 0, 0},
	{"qk_rms_norm_cross", ARG_BOOL, FIELD(qk_rms_norm_cross), 0, 0, 0},
	END,
};

static const struct arg structure_decoder_args[] = {
	{"out_channels", ARG_INT, FIELD(out_channels), REQUIRED, CHANNELS},
	{"latent_channels", ARG_INT, FIELD(latent_channels), REQUIRED, CHANNELS},
	{"num_res_blocks", ARG_INT, FIELD(num_res_blocks), REQUIRED, 0, 64},
	{"channels", ARG_OTHER, 0, 0, 0, 0},
	{"num_res_blocks_middle", ARG_INT, FIELD(num_res_blocks_middle), 2, 0, 64},
	{"norm_type", ARG_OTHER, 0, 0, 0, 0},
	{"use_fp16", ARG_OTHER, 0, 0, 0, 0},
	END,
};

static const struct arg latent_flow_args[] = {
	{"resolution", ARG_INT, FIELD(resolution), REQUIRED, 1, 512},
	{"in_channels", ARG_INT, FIELD(in_channels), REQUIRED, CHANNELS},
	{"model_channels", ARG_INT, FIELD(model_channels), REQUIRED, CHANNELS},
	{"cond_channels", ARG_INT, FIELD(cond_channels), REQUIRED, CHANNELS},
	{"out_channels", ARG_INT, FIELD(out_channels), REQUIRED, CHANNELS},
	{"num_blocks", ARG_INT, FIELD(num_blocks), REQUIRED, COUNT},
	{"num_heads", ARG_OTHER, 0, 0, 0, 0},
	{"num_head_channels", ARG_OTHER, 0, 0, 0, 0},
	{"mlp_ratio", ARG_DOUBLE, FIELD(mlp_ratio), 4, 0, 64},
	{"patch_size", ARG_INT, FIELD(patch_size), 2, 1, 256},
	{"num_io_res_blocks", ARG_INT, FIELD(num_io_res_blocks), 2, 1, 64},
	{"io_block_channels", ARG_OTHER, 0, 0, 0, 0},
	{"pe_mode", ARG_OTHER, 0, 0, 0, 0},
	{"use_fp16", ARG_OTHER, 0, 0, 0, 0},
	{"use_checkpoint", ARG_OTHER, 0, 0, 0, 0},
	{"use_skip_connection", ARG_BOOL, FIELD(use_skip_connection), 1, 0, 0},
	{"share_mod", ARG_BOOL, FIELD(share_mod), 0, 0, 0},
	{"qk_rms_norm", ARG_BOOL, FIELD(qk_rms_norm), 0, 0, 0},
	{"qk_rms_norm_cross", ARG_BOOL, FIELD(qk_rms_norm_cross), 0, 0, 0},
	END,
};

/* Both latent decoders. */
static const struct arg latent_decoder_args[] = {
	{"resolution", ARG_INT, FIELD(resolution), REQUIRED, 1, 512},
	{"model_channels", ARG_INT, FIELD(model_channels), REQUIRED, CHANNELS},
	{"latent_channels", ARG_INT, FIELD(latent_channels), REQUIRED, CHANNELS},
	{"num_blocks", ARG_INT, FIELD(num_blocks), REQUIRED, COUNT},
	{"num_heads", ARG_OTHER, 0, 0, 0, 0},
	{"num_head_channels", ARG_OTHER, 0, 0, 0, 0},
	{"mlp_ratio", ARG_DOUBLE, FIELD(mlp_ratio), 4, 0, 64},
	{"attn_mode", ARG_OTHER, 0, 0, 0, 0},
	{"window_size", ARG_INT, FIELD(window_size), 8, 1, 512},
	{"pe_mode", ARG_OTHER, 0, 0, 0, 0},
	{"use_fp16", ARG_OTHER, 0, 0, 0, 0},
	{"use_checkpoint", ARG_OTHER, 0, 0, 0, 0},
	{"qk_rms_norm", ARG_BOOL, FIELD(qk_rms_norm), 0, 0, 0},
	{"representation_config", ARG_OTHER, 0, 0, 0, 0},
	END,
};

/* A string argument with its default. */
static const char *read_text(
	const json_t *args, const char *key, const char *fallback, const char *file, struct error *err)
{
	return json_object_get(args, key) ? json_fields_string(args, key, file, "args", err) : fallback;
}

/* A list of up to 8 channel counts. */
static bool read_channels(int out[8], int *n, const json_t *list, const char *key, const char *file, struct error *err)
{
	size_t size = json_array_size(list);
	if (!json_is_array(list) || size < 1 || size > 8)
		return error_set(err, "%s: args.%s is not a list of 1 to 8 numbers", file, key);
	for (size_t i = 0; i < size; i++) {
		const json_t *value = json_array_get(list, i);
		if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > 65536)
			return error_set(err, "%s: args.%s[%zu] is not a number of channels", file, key, i);
		out[i] = (int)json_integer_value(value);
	}
	*n = (int)size;
	return true;
}

/* What all transformers share: heads, width of the MLP, position encoding. */
static bool finish_transformer(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	const json_t *heads = json_object_get(args, "num_heads");
	int head_channels = 64;
	if (heads && !json_is_null(heads)) {
		if (!json_fields_int(&g->num_heads, args, "num_heads", 1, 4096, file, "args", err))
			return false;
	} else {
		if (json_object_get(args, "num_head_channels") &&
			!json_fields_int(&head_channels, args, "num_head_channels", CHANNELS, file, "args", err))
			return false;
		g->num_heads = g->model_channels / head_channels;
	}
	if (g->num_heads < 1 || g->model_channels % g->num_heads != 0)
		return error_set(err, "%s: model_channels %d cannot be split into %d heads", file, g->model_channels,
			g->num_heads);
	g->mlp_channels = (int)(g->model_channels * g->mlp_ratio);
	if (g->mlp_channels < 1)
		return error_set(err, "%s: mlp_ratio %g leaves the MLP without channels", file, g->mlp_ratio);
	const char *mode = read_text(args, "pe_mode", "ape", file, err);
	if (!mode)
		return false;
	if (strcmp(mode, "ape") != 0)
		return error_set(err,
			"%s: pe_mode \"%.40s\" is not supported (only \"ape\"; \"rope\" cannot run in the official "
			"code either)",
			file, mode);
	if (g->model_channels < 6)
		return error_set(
			err, "%s: model_channels %d is too narrow for the position embedding", file, g->model_channels);
	return true;
}

static bool finish_structure_flow(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	if (g->resolution % g->patch_size != 0)
		return error_set(err, "%s: resolution %d is not a multiple of patch_size %d", file, g->resolution,
			g->patch_size);
	return finish_transformer(g, args, file, err);
}

static bool finish_latent_flow(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	const json_t *io = json_object_get(args, "io_block_channels");
	if (io && !json_is_null(io)) {
		if (!read_channels(g->io_block_channels, &g->n_io_block_channels, io, "io_block_channels", file, err))
			return false;
		if (g->patch_size != 1 << g->n_io_block_channels)
			return error_set(err, "%s: patch_size %d does not go with %d io_block_channels (wanted %d)",
				file, g->patch_size, g->n_io_block_channels, 1 << g->n_io_block_channels);
		if (g->share_mod)
			return error_set(err,
				"%s: share_mod together with io_block_channels is not supported (nor can the official "
				"code run it)",
				file);
	}
	g->patch_size = 1 << g->n_io_block_channels;
	if (g->qk_rms_norm_cross)
		return error_set(
			err, "%s: qk_rms_norm_cross is not supported here (nor can the official code run it)", file);
	return finish_transformer(g, args, file, err);
}

static bool finish_structure_decoder(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	const char *norm = read_text(args, "norm_type", "layer", file, err);
	if (!norm ||
		!read_channels(g->channels, &g->n_channels, json_object_get(args, "channels"), "channels", file, err))
		return false;
	if (strcmp(norm, "group") != 0 && strcmp(norm, "layer") != 0)
		return error_set(err, "%s: unknown norm_type \"%.40s\"", file, norm);
	g->group_norm = strcmp(norm, "group") == 0;
	if (g->group_norm && g->channels[g->n_channels - 1] % 32 != 0)
		return error_set(err, "%s: norm_type \"group\" needs a multiple of 32 channels at the end, not %d",
			file, g->channels[g->n_channels - 1]);
	return true;
}

static bool finish_latent_decoder(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	const char *mode = read_text(args, "attn_mode", "swin", file, err);
	if (!mode)
		return false;
	if (strcmp(mode, "full") != 0 && strcmp(mode, "swin") != 0)
		return error_set(
			err, "%s: attn_mode \"%.40s\" is not supported (only \"full\" and \"swin\")", file, mode);
	g->full_attention = strcmp(mode, "full") == 0;
	return finish_transformer(g, args, file, err);
}

static bool finish_mesh_decoder(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	const json_t *rep = json_object_get(args, "representation_config");
	if (!json_is_object(rep))
		return error_set(err, "%s: args lacks \"representation_config\"", file);
	if (json_object_get(rep, "use_color") &&
		!json_fields_bool(&g->use_color, rep, "use_color", file, "representation_config", err))
		return false;
	/* sdf 8, deform 24, weights 21, colour 48 */
	g->out_channels = g->use_color ? 101 : 53;
	if (g->model_channels % 256 != 0)
		return error_set(err,
			"%s: model_channels %d is not a multiple of 256 (an eighth of it is normalised in 32 groups)",
			file, g->model_channels);
	return finish_latent_decoder(g, args, file, err);
}

static bool finish_gaussian_decoder(struct model_config *g, const json_t *args, const char *file, struct error *err)
{
	static const char where[] = "representation_config";
	const json_t *rep = json_object_get(args, where), *lr = json_object_get(rep, "lr");
	if (!json_is_object(rep))
		return error_set(err, "%s: args lacks \"%s\"", file, where);
	if (!json_is_object(lr))
		return error_set(err, "%s: %s lacks \"lr\"", file, where);
	const char *activation = json_fields_string(rep, "scaling_activation", file, where, err);
	if (!activation)
		return false;
	if (strcmp(activation, "softplus") != 0 && strcmp(activation, "exp") != 0)
		return error_set(err, "%s: unknown scaling_activation \"%.40s\"", file, activation);
	g->scaling_softplus = strcmp(activation, "softplus") == 0;
	const struct {
		double *out;
		const json_t *object;
		const char *key;
		double lo, hi;
	} numbers[] = {
		{&g->voxel_size, rep, "voxel_size", 1e-6, 1e6},
		{&g->filter_kernel_size_3d, rep, "3d_filter_kernel_size", 0, 1e6},
		{&g->scaling_bias, rep, "scaling_bias", 1e-12, 1e6},
		{&g->opacity_bias, rep, "opacity_bias", 1e-12, 1 - 1e-12},
		{&g->lr_xyz, lr, "_xyz", -1e6, 1e6},
		{&g->lr_features_dc, lr, "_features_dc", -1e6, 1e6},
		{&g->lr_opacity, lr, "_opacity", -1e6, 1e6},
		{&g->lr_scaling, lr, "_scaling", -1e6, 1e6},
		{&g->lr_rotation, lr, "_rotation", -1e6, 1e6},
	};
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		if (!json_fields_double(numbers[i].out, numbers[i].object, numbers[i].key, numbers[i].lo, numbers[i].hi,
			    file, numbers[i].object == lr ? "representation_config.lr" : where, err))
			return false;
	}
	if (!json_fields_int(&g->num_gaussians, rep, "num_gaussians", 1, 4096, file, where, err) ||
		!json_fields_bool(&g->perturb_offset, rep, "perturb_offset", file, where, err))
		return false;
	/* xyz 3, features_dc 3, scaling 3, rotation 4, opacity 1 */
	g->out_channels = 14 * g->num_gaussians;
	return finish_latent_decoder(g, args, file, err);
}

static const struct class
{
	const char *name;
	enum model_role role;
	const struct arg *args;
	finish_fn *finish;
} classes[] = {
	{"SparseStructureFlowModel", ROLE_STRUCTURE_FLOW, structure_flow_args, finish_structure_flow},
	{"SparseStructureDecoder", ROLE_STRUCTURE_DECODER, structure_decoder_args, finish_structure_decoder},
	{"SLatFlowModel", ROLE_LATENT_FLOW, latent_flow_args, finish_latent_flow},
	{"ElasticSLatFlowModel", ROLE_LATENT_FLOW, latent_flow_args, finish_latent_flow},
	{"SLatMeshDecoder", ROLE_MESH_DECODER, latent_decoder_args, finish_mesh_decoder},
	{"ElasticSLatMeshDecoder", ROLE_MESH_DECODER, latent_decoder_args, finish_mesh_decoder},
	{"SLatGaussianDecoder", ROLE_GAUSSIAN_DECODER, latent_decoder_args, finish_gaussian_decoder},
	{"ElasticSLatGaussianDecoder", ROLE_GAUSSIAN_DECODER, latent_decoder_args, finish_gaussian_decoder},
};

static const struct class *find_class(const char *name)
{
	for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
		if (strcmp(classes[i].name, name) == 0)
			return &classes[i];
	}
	return NULL;
}

enum model_role checkpoint_class_role(const char *class_name)
{
	const struct class *class = find_class(class_name);
	return class ? class->role : ROLE_COUNT;
}

static bool read_args(
	struct model_config *g, const struct arg *table, const json_t *args, const char *file, struct error *err)
{
	for (const struct arg *a = table; a->name; a++) {
		void *out = (char *)g + a->offset;
		const json_t *value = json_object_get(args, a->name);
		bool given = value && !(json_is_null(value) && !isnan(a->fallback));
		if (a->kind == ARG_OTHER)
			continue;
		if (!given && isnan(a->fallback))
			return error_set(err, "%s: args lacks \"%s\"", file, a->name);
		if (!given && a->kind == ARG_INT)
			*(int *)out = (int)a->fallback;
		else if (!given && a->kind == ARG_DOUBLE)
			*(double *)out = a->fallback;
		else if (!given)
			*(bool *)out = a->fallback != 0;
		else if (a->kind == ARG_INT && !json_fields_int(out, args, a->name, a->lo, a->hi, file, "args", err))
			return false;
		else if (a->kind == ARG_DOUBLE &&
			 !json_fields_double(out, args, a->name, a->lo, a->hi, file, "args", err))
			return false;
		else if (a->kind == ARG_BOOL && !json_fields_bool(out, args, a->name, file, "args", err))
			return false;
	}
	return true;
}

/* "unknown argument x ignored", for the first that the class does not know; the shapes of the tensors tell whether it
 * mattered. */
static char *describe_unknown(const struct arg *table, const json_t *args, const char *file)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)args, key, value)
	{
		const struct arg *a = table;
		while (a->name && strcmp(a->name, key) != 0)
			a++;
		if (!a->name)
			return text_format("%s: unknown argument \"%.60s\" ignored", file, key);
	}
	return strdup("");
}

static bool parse(struct checkpoint *c, const json_t *description, const char *file, struct error *err)
{
	const json_t *args = json_object_get(description, "args");
	const char *name = json_fields_string(description, "name", file, "the description", err);
	if (!name)
		return false;
	const struct class *class = find_class(name);
	if (!class)
		return error_set(err, "%s: class \"%.80s\" has no part in making a mesh from an image", file, name);
	if (!json_is_object(args))
		return error_set(err, "%s: \"args\" is missing", file);
	struct model_config config = {0};
	if (!read_args(&config, class->args, args, file, err) || !class->finish(&config, args, file, err))
		return false;
	char *class_name = strdup(name), *note = describe_unknown(class->args, args, file);
	if (!class_name || !note) {
		free(class_name);
		free(note);
		return error_set(err, "%s: out of memory", file);
	}
	*c = (struct checkpoint){.class_name = class_name, .role = class->role, .config = config, .note = note};
	return true;
}

bool checkpoint_parse(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err)
{
	json_t *description = json_fields_parse(json, size, file, err);
	bool ok = description && parse(c, description, file, err);
	json_decref(description);
	return ok;
}

bool checkpoint_read_class(char *class_name, size_t size, const char *json_path, struct error *err)
{
	json_t *description = json_fields_load(json_path, err);
	const char *name =
		description ? json_fields_string(description, "name", json_path, "the description", err) : NULL;
	if (name)
		snprintf(class_name, size, "%s", name);
	json_decref(description);
	return name != NULL;
}

bool checkpoint_open_files(struct checkpoint *c, char *json_path, char *tensor_path, const char *name,
	bool (*parse_text)(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err),
	struct error *err)
{
	struct checkpoint opened = {0};
	char *text = NULL;
	size_t size;
	bool ok = false;

	if (!json_path || !tensor_path) {
		error_set(err, "%s: out of memory", name);
		goto out;
	}
	text = json_fields_read(json_path, &size, err);
	if (!text || !parse_text(&opened, text, size, json_path, err))
		goto out;
	opened.tensors = safetensors_open(tensor_path, err);
	if (!opened.tensors)
		goto out;
	opened.name = strdup(name);
	ok = opened.name || error_set(err, "%s: out of memory", name);
out:
	if (ok)
		*c = opened;
	else
		checkpoint_finish(&opened);
	free(text);
	free(tensor_path);
	free(json_path);
	return ok;
}

bool checkpoint_open(struct checkpoint *c, const char *path, struct error *err)
{
	return checkpoint_open_files(
		c, text_format("%s.json", path), text_format("%s.safetensors", path), path, checkpoint_parse, err);
}

void checkpoint_finish(struct checkpoint *c)
{
	free(c->name);
	free(c->class_name);
	free(c->note);
	safetensors_close(c->tensors);
	*c = (struct checkpoint){0};
}
