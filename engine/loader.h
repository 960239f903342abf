/* loader.h - what the files of the model loader share: checkpoint.c, encoder_config.c, encoder_find.c, hub_cache.c,
 * torch_state.c, pipeline_json.c, model.c, model_places.c. Private to them and their tests; the interface is model.h. */
#ifndef TRELLIS_LOADER_H
#define TRELLIS_LOADER_H

#include "model.h"

/* Check the encoder's sizes and fill in those that follow from others. */
bool encoder_config_derive(struct model_config *g, const char *file, struct error *err);
/* Whether encode_image.c can run it: an encoder that is found and can not is told, and not passed over. */
bool encoder_config_runs(const struct model_config *g, const char *file, struct error *err);

/* Open a description and its tensors; parse_text is checkpoint_parse or checkpoint_parse_encoder. Takes both paths (NULL: there
 * was no memory for them). */
bool checkpoint_open_files(struct checkpoint *c, char *json_path, char *tensor_path, const char *name,
	bool (*parse_text)(struct checkpoint *c, const char *json, size_t size, const char *file, struct error *err),
	struct error *err);

/* Directory, hub id or NULL to the directory with pipeline.json and the model's name, which are then m's. */
bool loader_locate(struct model *m, const char *path, struct error *err);

bool loader_is_directory(const char *path);
bool loader_is_file(const char *path); /* links are followed */
/* The last component, in fresh memory. */
char *loader_base_name(const char *path);

/* Beside the checkpoint at path (without extension) find the one whose class can play role: the only one, or the one
 * whose name has most words in common with reference and hints (words apart by _). The caller frees it. */
char *checkpoint_find_class(
	const char *path, enum model_role role, const char *reference, const char *hints, struct error *err);

/* Open the encoder that reference (image_cond_model) names, wherever it is: a directory in or beside the model, a hub
 * id, or for a torch.hub name (dinov2_vitl14_reg) any DINOv2 with registers `width` wide (0: any) in or beside the
 * model, in the Hugging Face cache or in torch.hub's. *absent is set, and true returned, when there is none anywhere;
 * false: one was found and is unusable. */
bool encoder_find(struct checkpoint *c, char **absent, const char *model_path, const char *reference, int width,
	struct error *err);

/* Open a DINOv2 with registers as torch.hub keeps it; config from the shapes, hub_names set. */
bool checkpoint_open_torch_encoder(struct checkpoint *c, const char *path, struct error *err);
/* Where torch.hub keeps the weights of dinov2_vitl14_reg and the like; the caller frees it. NULL: nowhere. */
char *encoder_torch_path(const char *torch_name);

/* "org/name" in the characters that the hub allows. */
bool hub_cache_is_id(const char *text);
/* Where the Hugging Face cache is; the caller frees it. NULL: no memory, or no home directory. */
char *hub_cache_directory(void);
/* The snapshot directory of a repository in the Hugging Face cache, found offline; the caller frees it. */
char *hub_cache_find(const char *id, struct error *err);
/* The snapshot that DIR/refs/main names, DIR being the models--org--name directory of a cache. */
char *hub_cache_snapshot(const char *directory, struct error *err);
/* The path where torch.hub keeps downloaded checkpoints; the caller frees it. NULL: no memory, or no home directory. */
char *hub_cache_torch_directory(void);

#endif
