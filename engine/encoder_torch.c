/* encoder_torch.c - the image encoder as torch.hub keeps it: one .pth file without a description.
 * Used by encoder_find.c. The sizes come from the shapes of the tensors; what shapes cannot tell is the same in all of
 * facebookresearch/dinov2's backbones: heads of 64 channels, eps 1e-6. Source: its hubconf.py and
 * vision_transformer.py. */
#include "loader.h"
#include "text.h"
#include "torch_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Dimension of a tensor of ndim dimensions; 0 and an error when there is no such tensor. */
static int get_dim(const struct safetensors *f, const char *name, int ndim, int dim, struct error *err)
{
	const struct st_tensor *t = safetensors_find(f, name);
	if (!t)
		error_set(err, "%s: tensor %s is missing: not a DINOv2 with registers", safetensors_path(f), name);
	else if (t->ndim != ndim || t->dim[dim] < 1 || t->dim[dim] > 65536)
		error_set(err, "%s: tensor %s has an impossible shape", safetensors_path(f), name);
	else
		return (int)t->dim[dim];
	return 0;
}

static int count_blocks(const struct safetensors *f)
{
	char name[64];
	int n = 0;
	do
		snprintf(name, sizeof name, "blocks.%d.norm1.weight", n++);
	while (safetensors_find(f, name));
	return n - 1;
}

static bool derive(struct model_config *g, const struct safetensors *f, struct error *err)
{
	int width = get_dim(f, "cls_token", 3, 2, err);
	int registers = width ? get_dim(f, "register_tokens", 3, 1, err) : 0;
	int tokens = registers ? get_dim(f, "pos_embed", 3, 1, err) : 0;
	int patch = tokens ? get_dim(f, "patch_embed.proj.weight", 4, 2, err) : 0;
	if (!patch)
		return false;
	bool swiglu = safetensors_find(f, "blocks.0.mlp.w12.weight") != NULL;
	int side = (int)lround(sqrt(tokens - 1));
	if (side * side != tokens - 1)
		return error_set(
			err, "%s: a position table of %d tokens is not square", safetensors_path(f), tokens - 1);
	*g = (struct model_config){
		.model_channels = width,
		.num_heads = width / 64,
		.num_blocks = count_blocks(f),
		.num_registers = registers,
		.in_channels = 3,
		.patch_size = patch,
		.image_size = side * patch,
		.layer_norm_eps = 1e-6,
		.swiglu = swiglu,
		.mlp_ratio = 4,
	};
	if (!encoder_config_derive(g, safetensors_path(f), err) || !encoder_config_runs(g, safetensors_path(f), err))
		return false;
	g->mlp_channels = get_dim(f, "blocks.0.mlp.fc1.weight", 2, 0, err);
	return g->mlp_channels != 0;
}

bool checkpoint_open_torch_encoder(struct checkpoint *c, const char *path, struct error *err)
{
	struct safetensors *f = torch_state_open(path, err);
	struct model_config config;
	if (!f || !derive(&config, f, err)) {
		safetensors_close(f);
		return false;
	}
	struct checkpoint opened = {
		.name = strdup(path),
		.class_name = strdup("Dinov2WithRegistersModel"),
		.note = strdup(""),
		.role = ROLE_ENCODER,
		.config = config,
		.tensors = f,
		.hub_names = true,
	};
	if (!opened.name || !opened.class_name || !opened.note) {
		checkpoint_finish(&opened);
		return error_set(err, "%s: out of memory", path);
	}
	*c = opened;
	return true;
}

char *encoder_torch_path(const char *torch_name)
{
	/* dinov2_vitl14_reg is kept in dinov2_vitl14_reg4_pretrain.pth */
	char *directory = hub_cache_torch_directory();
	char *path = directory ? text_format("%s/%s4_pretrain.pth", directory, torch_name) : NULL;
	free(directory);
	return path;
}
