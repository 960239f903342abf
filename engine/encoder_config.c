/* encoder_config.c - the image encoder: a DINOv2 with registers, as a Hugging Face directory.
 * Found by encoder_find.c for model.c; run by encode_image.c.
 * Source: Hugging Face transformers, Dinov2WithRegistersConfig: keys and their defaults. */
#include "json_fields.h"
#include "loader.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

static bool read_int(int *out, const json_t *config, const char *key, int fallback, const char *file, struct error *err)
{
	*out = fallback;
	return !json_object_get(config, key) || json_fields_int(out, config, key, 0, 65536, file, "the config", err);
}

/* What this engine takes for granted: key must be absent or equal. */
static bool check_flag(const json_t *config, const char *key, bool wanted, const char *file, struct error *err)
{
	bool value = wanted;
	if (json_object_get(config, key) && !json_fields_bool(&value, config, key, file, "the config", err))
		return false;
	return value == wanted || error_set(err, "%s: %s %s is not supported", file, key, value ? "true" : "false");
}

static bool read_sizes(struct model_config *g, const json_t *config, const char *file, struct error *err)
{
	g->mlp_ratio = 4;
	g->layer_norm_eps = 1e-6;
	if (!read_int(&g->model_channels, config, "hidden_size", 768, file, err) ||
		!read_int(&g->num_blocks, config, "num_hidden_layers", 12, file, err) ||
		!read_int(&g->num_heads, config, "num_attention_heads", 12, file, err) ||
		!read_int(&g->image_size, config, "image_size", 224, file, err) ||
		!read_int(&g->patch_size, config, "patch_size", 16, file, err) ||
		!read_int(&g->in_channels, config, "num_channels", 3, file, err) ||
		!read_int(&g->num_registers, config, "num_register_tokens", 4, file, err))
		return false;
	if (json_object_get(config, "mlp_ratio") &&
		!json_fields_double(&g->mlp_ratio, config, "mlp_ratio", 0, 64, file, "the config", err))
		return false;
	if (json_object_get(config, "layer_norm_eps") &&
		!json_fields_double(&g->layer_norm_eps, config, "layer_norm_eps", 0, 1, file, "the config", err))
		return false;
	return !json_object_get(config, "use_swiglu_ffn") ||
	       json_fields_bool(&g->swiglu, config, "use_swiglu_ffn", file, "the config", err);
}

bool encoder_config_derive(struct model_config *g, const char *file, struct error *err)
{
	if (g->model_channels < 1 || g->num_blocks < 1 || g->num_blocks > 512 || g->num_heads < 1 ||
		g->model_channels % g->num_heads != 0)
		return error_set(err, "%s: %d layers of %d channels in %d heads cannot be", file, g->num_blocks,
			g->model_channels, g->num_heads);
	if (g->in_channels != 3)
		return error_set(err, "%s: num_channels is %d, wanted 3", file, g->in_channels);
	if (g->patch_size < 1 || g->image_size < g->patch_size || g->image_size > 4096 ||
		g->image_size % g->patch_size != 0) /* the official PatchEmbed asserts that */
		return error_set(
			err, "%s: image_size %d with patch_size %d cannot be", file, g->image_size, g->patch_size);
	g->mlp_channels = (int)(g->model_channels * g->mlp_ratio);
	if (g->mlp_channels < 1)
		return error_set(err, "%s: mlp_ratio %g leaves the MLP without channels", file, g->mlp_ratio);
	g->out_channels = g->model_channels;
	return true;
}

static bool parse(struct checkpoint *c, const json_t *config, const char *file, struct error *err)
{
	struct model_config g = {0};
	const char *type = json_fields_string(config, "model_type", file, "the config", err);
	if (!type)
		return false;
	if (strcmp(type, "dinov2_with_registers") != 0)
		return error_set(err, "%s: model_type is \"%.60s\", wanted \"dinov2_with_registers\"", file, type);
	const char *act = json_string_value(json_object_get(config, "hidden_act"));
	if (act && strcmp(act, "gelu") != 0)
		return error_set(err, "%s: hidden_act \"%.40s\" is not supported (only \"gelu\")", file, act);
	if (!check_flag(config, "qkv_bias", true, file, err) || !read_sizes(&g, config, file, err) ||
		!encoder_config_derive(&g, file, err))
		return false;
	char *class_name = strdup("Dinov2WithRegistersModel"), *note = strdup("");
	if (!class_name || !note) {
		free(class_name);
		free(note);
		return error_set(err, "%s: out of memory", file);
	}
	*c = (struct checkpoint){.class_name = class_name, .role = ROLE_ENCODER, .config = g, .note = note};
	return true;
}

bool checkpoint_parse_encoder(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err)
{
	json_t *config = json_fields_parse(json, size, file, err);
	bool ok = config && parse(c, config, file, err);
	json_decref(config);
	return ok;
}

bool encoder_config_runs(const struct model_config *g, const char *file, struct error *err)
{
	return !g->swiglu || error_set(err,
				     "%s: an image encoder with SwiGLU (use_swiglu_ffn, DINOv2 giant) is not "
				     "supported; the official models "
				     "have DINOv2 large",
				     file);
}

bool checkpoint_open_encoder(struct checkpoint *c, const char *directory, struct error *err)
{
	struct checkpoint opened;
	if (!checkpoint_open_files(&opened, text_format("%s/config.json", directory),
		    text_format("%s/model.safetensors", directory), directory, checkpoint_parse_encoder, err))
		return false;
	if (!encoder_config_runs(&opened.config, directory, err)) {
		checkpoint_finish(&opened);
		return false;
	}
	*c = opened;
	return true;
}
