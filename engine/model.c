/* model.c - open a model directory: find it, read pipeline.json, put a checkpoint of the right class behind each role.
 * pipeline_json.c, checkpoint.c and encoder_find.c read the parts; model_tensors.c knows the tensors of each class.
 * Source: the official Pipeline.from_pretrained and models.from_pretrained for where references are looked up. */
#include "json_fields.h"
#include "loader.h"
#include "model_tensors.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
	const char *name;
	bool required;
	const char *hints; /* words in the names of the released checkpoints */
} roles[ROLE_COUNT] = {
	[ROLE_ENCODER] = {"image_cond_model", false, ""},
	[ROLE_STRUCTURE_FLOW] = {"sparse_structure_flow_model", true, "ss_flow_img"},
	[ROLE_STRUCTURE_DECODER] = {"sparse_structure_decoder", true, "ss_dec"},
	[ROLE_LATENT_FLOW] = {"slat_flow_model", true, "slat_flow_img"},
	[ROLE_MESH_DECODER] = {"slat_decoder_mesh", true, "slat_dec_mesh"},
	[ROLE_GAUSSIAN_DECODER] = {"slat_decoder_gs", false, "slat_dec_gs"},
};

/* State of one opening. */
struct opening {
	struct model *model;
	char *references[ROLE_COUNT];
	model_fault_fn fault;
	void *user;
};

const char *model_role_name(enum model_role role)
{
	return roles[role].name;
}

bool loader_is_directory(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool loader_is_file(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

char *loader_base_name(const char *path)
{
	size_t end = strlen(path);
	while (end > 1 && path[end - 1] == '/')
		end--;
	size_t begin = end;
	while (begin > 0 && path[begin - 1] != '/')
		begin--;
	return strndup(path + begin, end - begin);
}

/* The last component, as the user wrote it; that of the resolved path for "." and "..". */
static char *name_of_directory(const char *path)
{
	char *name = loader_base_name(path);
	if (name && (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)) {
		char *resolved = realpath(path, NULL);
		free(name);
		name = resolved ? loader_base_name(resolved) : NULL;
		free(resolved);
	}
	return name;
}

/* Append a sentence to the model's note. */
static bool add_note(struct model *m, const char *text, struct error *err)
{
	char *note = text_format("%s%s%s", m->note, *m->note ? "; " : "", text);
	if (!note)
		return error_set(err, "%s: out of memory", m->path);
	error_one_line(note); /* names in it come from files */
	free(m->note);
	m->note = note;
	return true;
}

static const char embedded_note[] = "makes simple objects of few colours, having seen only synthetic shapes; for "
				    "photographs name TRELLIS-image-large";

/* Where the model that comes with the program lies: in the source tree or installed. NULL: nowhere. */
static char *find_embedded(void)
{
	static const char *const places[] = {
		"../share/trellisfs/mini", "../engine/mini", "../../engine/mini", "../../../engine/mini"};
	char program[4096];
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
	const char *slash = n > 0 ? memrchr(program, '/', (size_t)n) : NULL;
	for (size_t i = 0; slash && i < sizeof places / sizeof places[0]; i++) {
		char *path = text_format("%.*s/%s/pipeline.json", (int)(slash - program), program, places[i]);
		char *resolved = path ? realpath(path, NULL) : NULL;
		free(path);
		if (resolved) {
			*strrchr(resolved, '/') = '\0';
			return resolved;
		}
	}
	return loader_is_file(TRELLISFS_PREFIX "/share/trellisfs/mini/pipeline.json")
		       ? strdup(TRELLISFS_PREFIX "/share/trellisfs/mini")
		       : NULL;
}

/* Say what a directory without pipeline.json is, if it can be told. */
static void explain_no_pipeline(const char *path, struct error *err)
{
	char *config = text_format("%s/config.json", path), *ckpts = text_format("%s/ckpts", path);
	const char *what = "";
	if (config && loader_is_file(config))
		what = " (an encoder or another single network: the model is the directory with pipeline.json)";
	else if (ckpts && loader_is_directory(ckpts))
		what = " (there is ckpts/, so the download may be incomplete)";
	error_set(err, "%s: not a model: it has no pipeline.json%s", path, what);
	free(config);
	free(ckpts);
}

bool loader_locate(struct model *m, const char *path, struct error *err)
{
	const char *variable = getenv("TRELLIS_MODEL_PATH");
	if (!path && variable && *variable)
		path = variable;
	if (!path) {
		m->path = find_embedded();
		m->name = strdup("trellis-mini");
		if (!m->path)
			return error_set(err, "no model: the one that comes with the program is not installed; "
					      "name a model's directory or hub id");
		if (!add_note(m, embedded_note, err))
			return false;
	} else if (loader_is_directory(path)) {
		char *refs = text_format("%s/refs/main", path);
		bool is_cache_entry = refs && loader_is_file(refs);
		free(refs);
		m->path = is_cache_entry ? hub_cache_snapshot(path, err) : strdup(path);
		m->name = name_of_directory(path);
		if (is_cache_entry && !m->path)
			return false;
	} else if (hub_cache_is_id(path)) {
		struct error why;
		m->path = hub_cache_find(path, &why);
		m->name = strdup(path);
		if (!m->path)
			return error_set(err, "%.900s (nor is there such a directory)", why.text);
	} else {
		return error_set(err, "%s: no such directory", path);
	}
	if (!m->path || !m->name)
		return error_set(err, "out of memory");
	char *pipeline = text_format("%s/pipeline.json", m->path);
	bool found = pipeline && loader_is_file(pipeline);
	free(pipeline);
	if (!found)
		explain_no_pipeline(m->path, err);
	return found;
}

static bool collect_reference(void *user, const char *role, const char *reference, struct error *err)
{
	struct opening *o = user;
	for (int i = 0; i < ROLE_COUNT; i++) {
		if (strcmp(role, roles[i].name) == 0) {
			free(o->references[i]);
			o->references[i] = strdup(reference);
			return o->references[i] || error_set(err, "%s: out of memory", o->model->path);
		}
	}
	return true; /* slat_decoder_rf and the like: not needed for a mesh */
}

static bool has_checkpoint(const char *path)
{
	char *json = text_format("%s.json", path), *tensors = text_format("%s.safetensors", path);
	bool has = json && tensors && loader_is_file(json) && loader_is_file(tensors);
	free(json);
	free(tensors);
	return has;
}

/* org/name/ckpts/X: X in another repository of the Hugging Face cache. NULL: not there. */
static char *resolve_foreign(const char *reference)
{
	const char *first = strchr(reference, '/'), *second = first ? strchr(first + 1, '/') : NULL;
	struct error ignored;
	char *id = second ? strndup(reference, (size_t)(second - reference)) : NULL;
	char *directory = id && hub_cache_is_id(id) ? hub_cache_find(id, &ignored) : NULL;
	char *path = directory ? text_format("%s%s", directory, second) : NULL;
	free(directory);
	free(id);
	if (path && has_checkpoint(path))
		return path;
	free(path);
	return NULL;
}

/* A reference to the path of its files without extension, looked up as the official loader does: in the model, as a
 * path of its own, in another repository. When there is nothing, the path in the model. NULL: no memory. */
static char *resolve_reference(const struct model *m, const char *reference)
{
	char *inside = text_format("%s/%s", m->path, reference);
	if (!inside || has_checkpoint(inside))
		return inside;
	char *outside = reference[0] == '/' ? strdup(reference) : resolve_foreign(reference);
	if (!outside)
		return inside;
	free(inside);
	return outside;
}

/* Open the checkpoint of a role. False: *err; *wrong_class tells whether only its class was at fault. */
static bool open_checkpoint(
	struct checkpoint *c, bool *wrong_class, enum model_role role, const char *path, struct error *err)
{
	char class[128];
	char *json = text_format("%s.json", path);
	bool ok = json && checkpoint_read_class(class, sizeof class, json, err);
	*wrong_class = ok && checkpoint_class_role(class) != role;
	if (*wrong_class)
		ok = error_set(err, "%s: role %s points at a %s", json, roles[role].name, class);
	ok = ok && checkpoint_open(c, path, err);
	free(json);
	return ok;
}

/* Open a checkpoint of the right class instead of the one at path, and note it. *name becomes that of the one used. */
static bool repair_class(struct checkpoint *c, char **name, struct model *m, enum model_role role, const char *path,
	const char *reference, struct error *err)
{
	char *better = checkpoint_find_class(path, role, reference, roles[role].hints, err);
	if (!better)
		return false;
	free(*name);
	*name = loader_base_name(better);
	char *note = text_format("pipeline.json points %s at %s, which is of another class; using %s", roles[role].name,
		reference, *name ? *name : better);
	bool ok = *name && note && add_note(m, note, err) && checkpoint_open(c, better, err);
	free(note);
	free(better);
	return ok;
}

static bool load_role(struct opening *o, enum model_role role, struct error *err)
{
	struct model *m = o->model;
	const char *reference = o->references[role];
	struct checkpoint opened = {0};
	bool wrong_class = false;

	if (!reference) {
		m->absent[role] = text_format("%s/pipeline.json names no %s", m->path, roles[role].name);
		if (roles[role].required)
			return error_set(err, "%s/pipeline.json names no %s", m->path, roles[role].name);
		return true;
	}
	char *path = resolve_reference(m, reference), *name = strdup(reference);
	bool ok = path && name;
	if (ok && !roles[role].required && !has_checkpoint(path)) {
		m->absent[role] = text_format("%s.safetensors, the %s, is not there", path, roles[role].name);
		free(path);
		free(name);
		return true;
	}
	ok = ok && open_checkpoint(&opened, &wrong_class, role, path, err);
	if (wrong_class) {
		ok = repair_class(&opened, &name, m, role, path, reference, err);
		if (!ok && !roles[role].required) {
			m->absent[role] = strdup(err->text);
			free(path);
			free(name);
			return add_note(m, err->text, err);
		}
	}
	if (ok && *opened.note)
		ok = add_note(m, opened.note, err);
	free(path);
	if (!ok || !(m->roles[role] = malloc(sizeof opened))) {
		free(name);
		checkpoint_finish(&opened);
		return false;
	}
	free(opened.name);
	opened.name = name;
	*m->roles[role] = opened;
	return true;
}

static bool load_encoder(struct opening *o, struct error *err)
{
	struct model *m = o->model;
	const char *reference = o->references[ROLE_ENCODER];
	const struct checkpoint *flow = m->roles[ROLE_STRUCTURE_FLOW];
	struct checkpoint opened = {0};
	if (!reference) {
		m->absent[ROLE_ENCODER] = text_format("%s/pipeline.json names no image_cond_model", m->path);
		return true;
	}
	if (!encoder_find(
		    &opened, &m->absent[ROLE_ENCODER], m->path, reference, flow ? flow->config.cond_channels : 0, err))
		return false;
	if (m->absent[ROLE_ENCODER])
		return true;
	m->roles[ROLE_ENCODER] = malloc(sizeof opened);
	if (!m->roles[ROLE_ENCODER]) {
		checkpoint_finish(&opened);
		return error_set(err, "%s: out of memory", m->path);
	}
	*m->roles[ROLE_ENCODER] = opened;
	return true;
}

/* Two numbers of two roles that must agree; an absent role agrees. */
static void check_pair(struct opening *o, enum model_role role, const char *what, int have, const char *other, int want)
{
	if (have == want)
		return;
	char *text = text_format("%s: %s is %d, but %s is %d", o->model->roles[role]->name, what, have, other, want);
	o->fault(o->user, role, text ? text : "out of memory");
	free(text);
}

/* The roles must fit together. */
static void check_fit(struct opening *o)
{
	struct checkpoint *const *r = o->model->roles;
	const struct model_config *encoder = r[ROLE_ENCODER] ? &r[ROLE_ENCODER]->config : NULL;
	const struct model_config *ss = r[ROLE_STRUCTURE_FLOW] ? &r[ROLE_STRUCTURE_FLOW]->config : NULL;
	const struct model_config *dec = r[ROLE_STRUCTURE_DECODER] ? &r[ROLE_STRUCTURE_DECODER]->config : NULL;
	const struct model_config *slat = r[ROLE_LATENT_FLOW] ? &r[ROLE_LATENT_FLOW]->config : NULL;
	if (ss) {
		check_pair(
			o, ROLE_STRUCTURE_FLOW, "out_channels", ss->out_channels, "its in_channels", ss->in_channels);
		if (encoder)
			check_pair(o, ROLE_STRUCTURE_FLOW, "cond_channels", ss->cond_channels, "the encoder's width",
				encoder->model_channels);
	}
	if (dec) {
		check_pair(
			o, ROLE_STRUCTURE_DECODER, "out_channels", dec->out_channels, "the number of occupancies", 1);
		if (ss)
			check_pair(o, ROLE_STRUCTURE_DECODER, "latent_channels", dec->latent_channels,
				"the structure flow's in_channels", ss->in_channels);
	}
	if (slat) {
		check_pair(
			o, ROLE_LATENT_FLOW, "out_channels", slat->out_channels, "its in_channels", slat->in_channels);
		check_pair(o, ROLE_LATENT_FLOW, "out_channels", slat->out_channels, "slat_normalization's length",
			o->model->n_latent_norm);
		if (encoder)
			check_pair(o, ROLE_LATENT_FLOW, "cond_channels", slat->cond_channels, "the encoder's width",
				encoder->model_channels);
		if (ss && dec)
			check_pair(o, ROLE_LATENT_FLOW, "resolution", slat->resolution, "the decoded structure's",
				ss->resolution << (dec->n_channels - 1));
	}
	for (int i = ROLE_MESH_DECODER; slat && i <= ROLE_GAUSSIAN_DECODER; i++) {
		if (!r[i])
			continue;
		check_pair(o, (enum model_role)i, "latent_channels", r[i]->config.latent_channels,
			"the latent flow's out_channels", slat->out_channels);
		check_pair(o, (enum model_role)i, "resolution", r[i]->config.resolution, "the latent flow's",
			slat->resolution);
	}
}

static void tell_tensor_fault(void *user, const struct checkpoint *c, const char *what)
{
	const struct opening *o = user;
	o->fault(o->user, c->role, what);
}

/* Everything after pipeline.json. */
static void load_roles(struct opening *o)
{
	struct error err;
	for (int i = ROLE_STRUCTURE_FLOW; i < ROLE_COUNT; i++) {
		err.text[0] = '\0';
		if (!load_role(o, (enum model_role)i, &err))
			o->fault(o->user, (enum model_role)i, err.text[0] ? err.text : "out of memory");
	}
	if (!load_encoder(o, &err))
		o->fault(o->user, ROLE_ENCODER, err.text);
	for (int i = 0; i < ROLE_COUNT; i++) {
		if (o->model->roles[i])
			model_tensors_check(o->model->roles[i], tell_tensor_fault, o);
	}
	check_fit(o);
}

struct model *model_open_reporting(const char *path, model_fault_fn fault, void *user, struct error *err)
{
	struct opening o = {.model = calloc(1, sizeof *o.model), .fault = fault, .user = user};
	char *file = NULL, *text = NULL;
	size_t size;
	bool ok = false;

	if (!o.model || !(o.model->note = strdup(""))) {
		error_set(err, "out of memory");
		goto out;
	}
	if (!loader_locate(o.model, path, err))
		goto out;
	file = text_format("%s/pipeline.json", o.model->path);
	text = file ? json_fields_read(file, &size, err) : NULL;
	ok = text && pipeline_parse(o.model, text, size, file, collect_reference, &o, err);
	if (ok)
		load_roles(&o);
out:
	for (int i = 0; i < ROLE_COUNT; i++)
		free(o.references[i]);
	free(text);
	free(file);
	if (!ok) {
		model_close(o.model);
		return NULL;
	}
	return o.model;
}

struct first_fault {
	bool any;
	struct error *err;
};

static void keep_first_fault(void *user, enum model_role role, const char *what)
{
	struct first_fault *first = user;
	(void)role;
	if (!first->any)
		error_set(first->err, "%s", what);
	first->any = true;
}

struct model *model_open(const char *path, struct error *err)
{
	struct first_fault first = {.err = err};
	struct model *m = model_open_reporting(path, keep_first_fault, &first, err);
	if (m && first.any) {
		model_close(m);
		return NULL;
	}
	return m;
}

void model_close(struct model *m)
{
	if (!m)
		return;
	for (int i = 0; i < ROLE_COUNT; i++) {
		if (m->roles[i])
			checkpoint_finish(m->roles[i]);
		free(m->roles[i]);
		free(m->absent[i]);
	}
	free(m->path);
	free(m->name);
	free(m->note);
	free(m);
}

const struct checkpoint *model_require(const struct model *m, enum model_role role, struct error *err)
{
	if (!m->roles[role])
		error_set(err, "%s: %s", m->name, m->absent[role] ? m->absent[role] : "a network is missing");
	return m->roles[role];
}
