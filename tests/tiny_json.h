/* tiny_json.h - the descriptions of a small complete model, for tests and fuzzers of the loader. */
#ifndef TRELLIS_TEST_TINY_JSON_H
#define TRELLIS_TEST_TINY_JSON_H

static const char tiny_pipeline[] =
	"{\"name\": \"TrellisImageTo3DPipeline\", \"args\": {\"models\": {"
	"\"sparse_structure_flow_model\": \"ckpts/ss_flow\", \"sparse_structure_decoder\": \"ckpts/ss_dec\","
	"\"slat_flow_model\": \"ckpts/slat_flow\", \"slat_decoder_mesh\": \"ckpts/slat_dec_mesh\","
	"\"slat_decoder_gs\": \"ckpts/slat_dec_gs\", \"slat_decoder_rf\": \"ckpts/slat_dec_rf\"},"
	"\"sparse_structure_sampler\": {\"name\": \"FlowEulerGuidanceIntervalSampler\", \"args\": {\"sigma_min\": "
	"1e-05},"
	" \"params\": {\"steps\": 25, \"cfg_strength\": 5.0, \"cfg_interval\": [0.5, 0.95], \"rescale_t\": 3.0}},"
	"\"slat_sampler\": {\"name\": \"FlowEulerCfgSampler\", \"args\": {\"sigma_min\": 1e-05}, \"params\": {}},"
	"\"slat_normalization\": {\"mean\": [0, 0.5], \"std\": [1, 2]},"
	"\"image_cond_model\": \"dinov2_vitl14_reg\"}}";

static const char tiny_ss_flow[] =
	"{\"name\": \"SparseStructureFlowModel\", \"args\": {\"resolution\": 4, \"in_channels\": 2, "
	"\"model_channels\": 12,"
	" \"cond_channels\": 64, \"out_channels\": 2, \"num_blocks\": 1, \"num_heads\": 2, \"qk_rms_norm\": true}}";
static const char tiny_ss_dec[] =
	"{\"name\": \"SparseStructureDecoder\", \"args\": {\"out_channels\": 1, \"latent_channels\": 2,"
	" \"num_res_blocks\": 1, \"channels\": [8, 4]}}";
static const char tiny_slat_flow[] =
	"{\"name\": \"ElasticSLatFlowModel\", \"args\": {\"resolution\": 8, \"in_channels\": 2, \"model_channels\": 16,"
	" \"cond_channels\": 64, \"out_channels\": 2, \"num_blocks\": 1, \"num_heads\": 1, \"io_block_channels\": "
	"[8]}}";
static const char tiny_slat_dec_mesh[] =
	"{\"name\": \"SLatMeshDecoder\", \"args\": {\"resolution\": 8, \"model_channels\": 256, \"latent_channels\": 2,"
	" \"num_blocks\": 1, \"mlp_ratio\": 0.25, \"representation_config\": {\"use_color\": true}}}";
static const char tiny_slat_dec_gs[] =
	"{\"name\": \"SLatGaussianDecoder\", \"args\": {\"resolution\": 8, \"model_channels\": 64, "
	"\"latent_channels\": 2,"
	" \"num_blocks\": 1, \"representation_config\": {\"lr\": {\"_xyz\": 1, \"_features_dc\": 1, \"_opacity\": 1,"
	" \"_scaling\": 1, \"_rotation\": 0.1}, \"perturb_offset\": true, \"voxel_size\": 1.5, \"num_gaussians\": 4,"
	" \"2d_filter_kernel_size\": 0.1, \"3d_filter_kernel_size\": 0.0009, \"scaling_bias\": 0.004,"
	" \"opacity_bias\": 0.1, \"scaling_activation\": \"softplus\"}}}";
static const char tiny_encoder[] =
	"{\"model_type\": \"dinov2_with_registers\", \"hidden_size\": 64, \"num_hidden_layers\": 1,"
	" \"num_attention_heads\": 1, \"mlp_ratio\": 1, \"image_size\": 28, \"patch_size\": 14}";

#endif
