/* large.h - the shapes of TRELLIS-image-large, for benchmarks on random weights. */
#ifndef TRELLIS_CLI_LARGE_H
#define TRELLIS_CLI_LARGE_H

#include "model.h"

/* The descriptions of TRELLIS-image-large's checkpoints (configs/ of the official repository). */
static const char *const large[ROLE_COUNT] = {
	[ROLE_ENCODER] = "{\"model_type\": \"dinov2_with_registers\", \"hidden_size\": 1024, \"num_hidden_layers\": 24,"
			 " \"num_attention_heads\": 16, \"mlp_ratio\": 4, \"image_size\": 518, \"patch_size\": 14,"
			 " \"num_register_tokens\": 4, \"layer_norm_eps\": 1e-6}",
	[ROLE_STRUCTURE_FLOW] =
		"{\"name\": \"SparseStructureFlowModel\", \"args\": {\"resolution\": 16, \"in_channels\": 8,"
		" \"out_channels\": 8, \"model_channels\": 1024, \"cond_channels\": 1024, \"num_blocks\": 24,"
		" \"num_heads\": 16, \"mlp_ratio\": 4, \"patch_size\": 1, \"qk_rms_norm\": true}}",
	[ROLE_STRUCTURE_DECODER] = "{\"name\": \"SparseStructureDecoder\", \"args\": {\"out_channels\": 1,"
				   " \"latent_channels\": 8, \"num_res_blocks\": 2, \"num_res_blocks_middle\": 2,"
				   " \"channels\": [512, 128, 32]}}",
	[ROLE_LATENT_FLOW] =
		"{\"name\": \"ElasticSLatFlowModel\", \"args\": {\"resolution\": 64, \"in_channels\": 8,"
		" \"out_channels\": 8, \"model_channels\": 1024, \"cond_channels\": 1024, \"num_blocks\": 24,"
		" \"num_heads\": 16, \"mlp_ratio\": 4, \"patch_size\": 2, \"num_io_res_blocks\": 2,"
		" \"io_block_channels\": [128], \"qk_rms_norm\": true}}",
	[ROLE_MESH_DECODER] =
		"{\"name\": \"ElasticSLatMeshDecoder\", \"args\": {\"resolution\": 64, \"model_channels\": 768,"
		" \"latent_channels\": 8, \"num_blocks\": 12, \"num_heads\": 12, \"mlp_ratio\": 4,"
		" \"attn_mode\": \"swin\", \"window_size\": 8,"
		" \"representation_config\": {\"use_color\": true}}}",
};

#endif
