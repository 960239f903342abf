/* model_places.c - where opening a model may have to read, told before it is opened.
 * What model.c, checkpoint_find.c and encoder_find.c look at, and nothing decided: each place is told whether or not there is
 * something. Used by the worker's sandbox. */
#include "json_fields.h"
#include "loader.h"
#include "text.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

struct places {
	model_place_fn place;
	void *user;
	const struct model *model;
};

/* Takes path; NULL is fine. */
static void tell(const struct places *p, char *path, enum model_place kind)
{
	if (path)
		p->place(p->user, path, kind);
	free(path);
}

/* The two files of a checkpoint that a role names elsewhere than in the model, and those of an encoder beside it: no more,
 * because what a pipeline names is its author's choice. */
static bool tell_reference(void *user, const char *role, const char *reference, struct error *err)
{
	const struct places *p = user;
	bool absolute = reference[0] == '/';
	(void)role, (void)err;
	tell(p, text_format("%s%s%s.json", absolute ? "" : p->model->path, absolute ? "" : "/", reference),
		PLACE_FILES);
	tell(p, text_format("%s%s%s.safetensors", absolute ? "" : p->model->path, absolute ? "" : "/", reference),
		PLACE_FILES);
	tell(p, text_format("%s/../%s/config.json", p->model->path, reference), PLACE_FILES);
	tell(p, text_format("%s/../%s/model.safetensors", p->model->path, reference), PLACE_FILES);
	return true;
}

static void tell_references(const struct places *p)
{
	struct error ignored;
	struct model *scratch = calloc(1, sizeof *scratch);
	char *path = text_format("%s/pipeline.json", p->model->path);
	size_t size;
	char *text = path && scratch ? json_fields_read(path, &size, &ignored) : NULL;
	if (text)
		pipeline_parse(scratch, text, size, path, tell_reference, (void *)(uintptr_t)p, &ignored);
	free(text);
	free(path);
	model_close(scratch);
}

/* Beside the model lies what looks like an encoder. */
static void tell_encoders_beside(const struct places *p)
{
	char *parent = text_format("%s/..", p->model->path);
	DIR *directory = parent ? opendir(parent) : NULL;
	struct dirent *entry;
	while (directory && (entry = readdir(directory))) {
		char *config = text_format("%s/%s/config.json", parent, entry->d_name);
		char *tensors = text_format("%s/%s/model.safetensors", parent, entry->d_name);
		bool told = entry->d_name[0] != '.' && config && tensors && loader_is_file(tensors);
		tell(p, told ? config : NULL, PLACE_FILES);
		tell(p, told ? tensors : NULL, PLACE_FILES);
		if (!told) {
			free(config);
			free(tensors);
		}
	}
	if (directory)
		closedir(directory);
	tell(p, parent, PLACE_NAMES);
}

void model_places(const char *path, model_place_fn place, void *user)
{
	struct model model = {.note = strdup("")};
	const struct places p = {place, user, &model};
	struct error ignored;
	bool found = model.note && loader_locate(&model, path, &ignored);
	if (path && path[0] == '/')
		tell(&p, strdup(path), PLACE_FILES);
	if (found) {
		tell(&p, strdup(model.path), PLACE_LINKED);
		tell_references(&p);
		tell_encoders_beside(&p);
	}
	tell(&p, hub_cache_directory(), PLACE_FILES);
	tell(&p, hub_cache_torch_directory(), PLACE_FILES);
	free(model.path);
	free(model.name);
	free(model.note);
}
