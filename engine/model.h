/* model.h - a model directory: which checkpoint plays which role, with its class, sizes and tensors.
 * Laid out as on the Hugging Face hub: pipeline.json, ckpts/NAME.json ({"name": class, "args": {...}}) beside
 * ckpts/NAME.safetensors, the image encoder as a directory with config.json and model.safetensors.
 * Nothing here touches a device; weights.h puts the tensors on one. */
#ifndef TRELLIS_MODEL_H
#define TRELLIS_MODEL_H

#include "safetensors.h"

enum model_role {
	ROLE_ENCODER,		/* image_cond_model: Dinov2WithRegisters */
	ROLE_STRUCTURE_FLOW,	/* sparse_structure_flow_model: SparseStructureFlowModel */
	ROLE_STRUCTURE_DECODER, /* sparse_structure_decoder: SparseStructureDecoder */
	ROLE_LATENT_FLOW,	/* slat_flow_model: SLatFlowModel, ElasticSLatFlowModel */
	ROLE_MESH_DECODER,	/* slat_decoder_mesh: SLatMeshDecoder, Elastic... */
	ROLE_GAUSSIAN_DECODER,	/* slat_decoder_gs: SLatGaussianDecoder, Elastic... */
	ROLE_COUNT
};

const char *model_role_name(enum model_role role); /* the key in pipeline.json */

/* Sizes from the checkpoint's args (official names), one struct for all classes; what a class lacks is zero. */
struct model_config {
	int resolution;
	int in_channels, out_channels, model_channels, cond_channels, latent_channels;
	int num_blocks, num_heads;
	double mlp_ratio;
	int mlp_channels; /* int(model_channels * mlp_ratio) */
	int patch_size;	  /* latent flow: 1 << n_io_block_channels, which is what the official code then does */
	int num_io_res_blocks;
	int n_io_block_channels;
	int io_block_channels[8];
	bool use_skip_connection, share_mod, qk_rms_norm, qk_rms_norm_cross;
	bool full_attention; /* decoders: attn_mode "full"; otherwise "swin" with window_size */
	int window_size;
	/* structure decoder */
	int num_res_blocks, num_res_blocks_middle;
	int n_channels, channels[8];
	bool group_norm; /* norm_type "group" (32 groups): only the norm of out_layer; the blocks always have "layer" */
	/* mesh decoder */
	bool use_color;
	/* Gaussian decoder: representation_config */
	int num_gaussians;
	bool perturb_offset, scaling_softplus; /* scaling_activation "softplus", else "exp" */
	double voxel_size, filter_kernel_size_3d, scaling_bias, opacity_bias;
	double lr_xyz, lr_features_dc, lr_opacity, lr_scaling, lr_rotation;
	/* encoder (config.json); its width is model_channels, its patch patch_size */
	int image_size, num_registers;
	double layer_norm_eps;
	bool swiglu;
};

struct checkpoint {
	char *name;	      /* "ckpts/ss_flow_img_dit_16l8" as pipeline.json gives it, for messages */
	char *class_name;     /* "SparseStructureFlowModel" */
	enum model_role role; /* the role that this class can play */
	struct model_config config;
	struct safetensors *tensors;
	bool hub_names; /* encoder: torch.hub's tensor names (blocks.0.attn.qkv.weight), not Hugging Face's */
	char *note;	/* what was ignored in the description, "" if nothing */
};

/* Parse one {"name", "args"} description; refuses pe_mode "rope" and other things that cannot run, by name.
 * Sets class_name, role, config and note. */
bool checkpoint_parse(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err);
/* The role that a class of checkpoint can play; ROLE_COUNT: none. */
enum model_role checkpoint_class_role(const char *class_name);
/* The "name" of a description file. */
bool checkpoint_read_class(char *class_name, size_t size, const char *json_path, struct error *err);
/* Open PATH.json and PATH.safetensors. Shapes are checked against config by model_tensors.h or when they are bound. */
bool checkpoint_open(struct checkpoint *c, const char *path_without_extension, struct error *err);
/* Parse the config.json of a DINOv2 directory. */
bool checkpoint_parse_encoder(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err);
/* Open a DINOv2 directory (config.json, model.safetensors with Hugging Face names). */
bool checkpoint_open_encoder(struct checkpoint *c, const char *directory, struct error *err);
void checkpoint_finish(struct checkpoint *c); /* zeroed is fine */

struct sampler_config {
	int steps;
	double rescale_t, guidance;
	double interval[2]; /* guidance only for lo <= t <= hi */
	bool guided;	    /* FlowEulerCfgSampler and FlowEulerGuidanceIntervalSampler */
	double sigma_min;
};

#define MODEL_MAX_LATENT_CHANNELS 64

struct model {
	char *path;			      /* resolved directory */
	char *name;			      /* last component, or the hub id it was found by */
	char *note;			      /* repairs that loading made, "" if none */
	struct checkpoint *roles[ROLE_COUNT]; /* NULL: absent */
	char *absent[ROLE_COUNT];	      /* why a role is absent, one line naming what was looked for; else NULL */
	struct sampler_config structure_sampler, latent_sampler;
	int n_latent_norm;
	float latent_mean[MODEL_MAX_LATENT_CHANNELS], latent_std[MODEL_MAX_LATENT_CHANNELS];
};

/* path: a directory, a hub id ("microsoft/TRELLIS-image-large", looked up offline in the Hugging Face cache), or NULL:
 * $TRELLIS_MODEL_PATH, else the embedded model. The flows, the structure decoder and the mesh decoder must be there;
 * the others may be absent. */
struct model *model_open(const char *path, struct error *err);

/* The same for a person who wants to see all that is wrong: every fault is told, one line each, and the model is opened
 * as far as it goes. NULL only when there is no usable pipeline.json. */
typedef void (*model_fault_fn)(void *user, enum model_role role, const char *what);
struct model *model_open_reporting(const char *path, model_fault_fn fault, void *user, struct error *err);

void model_close(struct model *m); /* NULL is fine */

/* Tell of each place that model_open(path) may read, for a process that is to be confined to them. Some may not exist. */
enum model_place {
	PLACE_FILES,  /* a file, or a directory and all in it */
	PLACE_LINKED, /* and what the links in it lead to */
	PLACE_NAMES,  /* a directory, of which only the names are looked at */
};
typedef void (*model_place_fn)(void *user, const char *path, enum model_place kind);
void model_places(const char *path, model_place_fn place, void *user);

/* The role's checkpoint; when it is absent, NULL and the reason. */
const struct checkpoint *model_require(const struct model *m, enum model_role role, struct error *err);

/* Parse pipeline.json alone (fuzzing, inspect): fills the samplers and normalisation of m, and calls role for each
 * entry of "models" and for "image_cond_model". */
bool pipeline_parse(struct model *m, const char *json, size_t size, const char *file,
	bool (*role)(void *user, const char *role, const char *reference, struct error *err), void *user,
	struct error *err);

#endif
