/* encoder_find.c - find the image encoder that a pipeline names.
 * The released pipeline says "dinov2_vitl14_reg" and lets torch.hub fetch it, so the directory of a model does not hold
 * it. Whatever an official or a Hugging Face install left on disk is used, nearest first. Used by model.c.
 * Source: torch.hub's names and files of facebookresearch/dinov2 (hubconf.py), the hub ids of their conversions. */
#include "json_fields.h"
#include "loader.h"
#include "text.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* torch.hub's register models. */
static const struct released {
	const char *torch_name;
	const char *hub_id;
	const char *directory;
} released[] = {
	{"dinov2_vits14_reg", "facebook/dinov2-with-registers-small", "dinov2-with-registers-small"},
	{"dinov2_vitb14_reg", "facebook/dinov2-with-registers-base", "dinov2-with-registers-base"},
	{"dinov2_vitl14_reg", "facebook/dinov2-with-registers-large", "dinov2-with-registers-large"},
	{"dinov2_vitg14_reg", "facebook/dinov2-with-registers-giant", "dinov2-with-registers-giant"},
};

static const struct released *find_released(const char *torch_name)
{
	for (size_t i = 0; i < sizeof released / sizeof released[0]; i++) {
		if (strcmp(released[i].torch_name, torch_name) == 0)
			return &released[i];
	}
	return NULL;
}

static bool has_file(const char *directory, const char *name)
{
	char *path = text_format("%s/%s", directory, name);
	bool has = path && loader_is_file(path);
	free(path);
	return has;
}

/* Whether directory holds an encoder of this width (0: any); files of something else, or only some, are no error. */
static bool fits(const char *directory, int width)
{
	struct checkpoint c = {0};
	struct error ignored;
	size_t size;
	char *path = text_format("%s/config.json", directory);
	char *text = path && loader_is_file(path) ? json_fields_read(path, &size, &ignored) : NULL;
	bool ok = text && checkpoint_parse_encoder(&c, text, size, path, &ignored) &&
		  (width == 0 || c.config.model_channels == width) && has_file(directory, "model.safetensors");
	checkpoint_finish(&c);
	free(text);
	free(path);
	return ok;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* The first subdirectory that fits: preferred names first, then in alphabetical order. NULL: none. */
static char *search(const char *parent, const char *const *preferred, size_t n_preferred, int width)
{
	char *found = NULL;
	for (size_t i = 0; i < n_preferred && !found; i++) {
		found = text_format("%s/%s", parent, preferred[i]);
		if (found && !fits(found, width)) {
			free(found);
			found = NULL;
		}
	}
	struct dirent **entries = NULL;
	int n = found ? 0 : scandir(parent, &entries, is_visible, compare_names);
	for (int i = 0; i < n; i++) {
		char *path = found ? NULL : text_format("%s/%s", parent, entries[i]->d_name);
		if (path && fits(path, width))
			found = path;
		else
			free(path);
		free(entries[i]);
	}
	free(entries);
	return found;
}

/* A directory named by the pipeline, inside the model or beside it. NULL: none. */
static char *find_named(const char *model_path, const char *reference)
{
	for (int beside = 0; beside < 2; beside++) {
		char *path = text_format("%s/%s%s", model_path, beside ? "../" : "", reference);
		if (path && has_file(path, "config.json"))
			return path;
		free(path);
	}
	return NULL;
}

static char *find_in_hub_cache(const char *id)
{
	struct error ignored;
	char *directory = hub_cache_find(id, &ignored);
	if (directory && has_file(directory, "model.safetensors"))
		return directory;
	free(directory);
	return NULL;
}

static char *find_released_directory(const char *model_path, const struct released *r, int width)
{
	const char *const preferred[] = {r->torch_name, r->directory, "dinov2", "image_encoder"};
	char *directory = search(model_path, preferred, 4, width);
	char *parent = directory ? NULL : text_format("%s/..", model_path);
	if (parent)
		directory = search(parent, preferred, 4, width);
	free(parent);
	return directory ? directory : find_in_hub_cache(r->hub_id);
}

bool encoder_find(struct checkpoint *c, char **absent, const char *model_path, const char *reference, int width,
	struct error *err)
{
	const struct released *r = find_released(reference);
	bool usable = reference[0] != '\0' && reference[0] != '/';
	char *directory = usable ? find_named(model_path, reference) : NULL;
	if (!directory && r)
		directory = find_released_directory(model_path, r, width);
	else if (!directory && hub_cache_is_id(reference))
		directory = find_in_hub_cache(reference);
	if (directory) {
		bool ok = checkpoint_open_encoder(c, directory, err);
		free(directory);
		return ok;
	}
	char *torch_path = r ? encoder_torch_path(r->torch_name) : NULL;
	if (torch_path && loader_is_file(torch_path)) {
		bool ok = checkpoint_open_torch_encoder(c, torch_path, err);
		free(torch_path);
		return ok;
	}
	if (r)
		*absent = text_format(
			"the image encoder %s is not in or beside %s, nor %s in the Hugging Face cache, nor %s",
			reference, model_path, r->hub_id, torch_path ? torch_path : "in torch.hub's cache");
	else
		*absent = text_format("the image encoder %s is not in or beside %s", reference, model_path);
	free(torch_path);
	return *absent || error_set(err, "%s: out of memory", model_path);
}
