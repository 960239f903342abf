/* pipeline_json.c - pipeline.json: which checkpoints, how to sample, how latents are normalised.
 * Used by model.c. Source: the official trellis/pipelines/ (from_pretrained, samplers/flow_euler.py for defaults). */
#include "json_fields.h"
#include "model.h"

#include <math.h>
#include <string.h>

static bool check_pipeline(const char *name, const char *file, struct error *err)
{
	if (strcmp(name, "TrellisImageTo3DPipeline") == 0)
		return true;
	if (strncmp(name, "Trellis2", 8) == 0)
		return error_set(err,
			"%s: %.80s is a TRELLIS.2 model, which is another network; this engine runs TRELLIS "
			"image-to-3D models (TrellisImageTo3DPipeline)",
			file, name);
	if (strcmp(name, "TrellisTextTo3DPipeline") == 0)
		return error_set(
			err, "%s: %s makes meshes from text; this engine needs an image-to-3D model", file, name);
	return error_set(err, "%s: unknown pipeline \"%.80s\", wanted TrellisImageTo3DPipeline", file, name);
}

static bool read_interval(
	double interval[2], const json_t *params, const char *file, const char *where, struct error *err)
{
	const json_t *list = json_object_get(params, "cfg_interval");
	if (!list)
		return true;
	if (json_array_size(list) != 2 || !json_is_number(json_array_get(list, 0)) ||
		!json_is_number(json_array_get(list, 1)))
		return error_set(err, "%s: %s.cfg_interval is not a pair of numbers", file, where);
	for (int i = 0; i < 2; i++)
		interval[i] = json_number_value(json_array_get(list, (size_t)i));
	return (interval[0] >= 0 && interval[0] <= interval[1] && interval[1] <= 1) ||
	       error_set(err, "%s: %s.cfg_interval is %g to %g, wanted a part of 0 to 1", file, where, interval[0],
		       interval[1]);
}

/* Others are misspelt or another pipeline's: left out they would leave a default in force. */
static bool check_params(const json_t *params, const char *file, const char *where, struct error *err)
{
	static const char *const known[] = {"steps", "rescale_t", "cfg_strength", "cfg_interval", "verbose"};
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)params, key, value)
	{
		size_t i = 0;
		while (i < sizeof known / sizeof *known && strcmp(known[i], key) != 0)
			i++;
		if (i == sizeof known / sizeof *known)
			return error_set(err, "%s: %s has an unknown parameter \"%.60s\"", file, where, key);
	}
	return true;
}

/* {"name": class, "args": {"sigma_min"}, "params": {"steps", "rescale_t", "cfg_strength", "cfg_interval"}} */
static bool read_sampler(
	struct sampler_config *s, const json_t *args, const char *key, const char *file, struct error *err)
{
	const json_t *sampler = json_object_get(args, key), *params = json_object_get(sampler, "params");
	if (!json_is_object(sampler))
		return error_set(err, "%s: args lacks \"%s\"", file, key);
	const char *class = json_fields_string(sampler, "name", file, key, err);
	if (!class)
		return false;
	/* The official defaults. */
	struct sampler_config read = {.steps = 50, .rescale_t = 1, .guidance = 3, .interval = {0, 1}, .guided = true};
	bool has_interval = strcmp(class, "FlowEulerGuidanceIntervalSampler") == 0;
	if (strcmp(class, "FlowEulerSampler") == 0)
		read.guided = false;
	else if (!has_interval && strcmp(class, "FlowEulerCfgSampler") != 0)
		return error_set(err, "%s: unknown sampler \"%.80s\" in %s", file, class, key);
	if (!check_params(params, file, key, err))
		return false;
	if (!json_fields_double(&read.sigma_min, json_object_get(sampler, "args"), "sigma_min", 0, 1, file, key, err))
		return false;
	if (json_object_get(params, "steps") && !json_fields_int(&read.steps, params, "steps", 1, 1000, file, key, err))
		return false;
	if (json_object_get(params, "rescale_t") &&
		!json_fields_double(&read.rescale_t, params, "rescale_t", 1e-6, 1e6, file, key, err))
		return false;
	if (read.guided && json_object_get(params, "cfg_strength") &&
		!json_fields_double(&read.guidance, params, "cfg_strength", 0, 1e6, file, key, err))
		return false;
	if (has_interval && !read_interval(read.interval, params, file, key, err))
		return false;
	*s = read;
	return true;
}

static bool read_numbers(
	float *out, int *n, const json_t *normalization, const char *key, const char *file, struct error *err)
{
	const json_t *list = json_object_get(normalization, key);
	size_t size = json_array_size(list);
	if (size < 1 || size > MODEL_MAX_LATENT_CHANNELS)
		return error_set(err, "%s: slat_normalization.%s is not a list of 1 to %d numbers", file, key,
			MODEL_MAX_LATENT_CHANNELS);
	for (size_t i = 0; i < size; i++) {
		const json_t *value = json_array_get(list, i);
		if (!json_is_number(value))
			return error_set(err, "%s: slat_normalization.%s[%zu] is not a number", file, key, i);
		out[i] = (float)json_number_value(value);
		if (!isfinite(out[i]))
			return error_set(err, "%s: slat_normalization.%s[%zu] is %g, more than f32 holds", file, key, i,
				json_number_value(value));
	}
	*n = (int)size;
	return true;
}

static bool read_normalization(struct model *m, const json_t *args, const char *file, struct error *err)
{
	const json_t *normalization = json_object_get(args, "slat_normalization");
	int n_std;
	if (!read_numbers(m->latent_mean, &m->n_latent_norm, normalization, "mean", file, err) ||
		!read_numbers(m->latent_std, &n_std, normalization, "std", file, err))
		return false;
	return n_std == m->n_latent_norm ||
	       error_set(err, "%s: slat_normalization has %d means and %d deviations", file, m->n_latent_norm, n_std);
}

/* A reference becomes a path, which notes and errors name. */
static bool is_reference(const json_t *value)
{
	const char *text = json_string_value(value);
	for (; text && *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return text;
}

static bool read_roles(const json_t *args, const char *file,
	bool (*role)(void *user, const char *role, const char *reference, struct error *err), void *user,
	struct error *err)
{
	const json_t *models = json_object_get(args, "models"), *encoder = json_object_get(args, "image_cond_model");
	const char *key;
	json_t *value;
	if (!json_is_object(models))
		return error_set(err, "%s: args lacks \"models\"", file);
	json_object_foreach((json_t *)models, key, value)
	{
		if (!is_reference(value))
			return error_set(err, "%s: models.%.80s is not a string of printable characters", file, key);
		if (!role(user, key, json_string_value(value), err))
			return false;
	}
	if (encoder && !is_reference(encoder))
		return error_set(err, "%s: args.image_cond_model is not a string of printable characters", file);
	return !encoder || role(user, model_role_name(ROLE_ENCODER), json_string_value(encoder), err);
}

bool pipeline_parse(struct model *m, const char *json, size_t size, const char *file,
	bool (*role)(void *user, const char *role, const char *reference, struct error *err), void *user,
	struct error *err)
{
	json_t *pipeline = json_fields_parse(json, size, file, err);
	if (!pipeline)
		return false;
	const char *name = json_fields_string(pipeline, "name", file, "the pipeline", err);
	const json_t *args = json_object_get(pipeline, "args");
	bool ok = name && check_pipeline(name, file, err);
	if (ok && !json_is_object(args))
		ok = error_set(err, "%s: \"args\" is missing", file);
	ok = ok && read_sampler(&m->structure_sampler, args, "sparse_structure_sampler", file, err) &&
	     read_sampler(&m->latent_sampler, args, "slat_sampler", file, err) &&
	     read_normalization(m, args, file, err) && read_roles(args, file, role, user, err);
	json_decref(pipeline);
	return ok;
}
