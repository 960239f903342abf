/* pipeline.c - image in, mesh out: the stages in the order of the paper's figure.
 * Implements the public interface (trellis.h) but for images and files.
 * Source: trellis/pipelines/trellis_image_to_3d.py.
 *
 * Its networks are networks.c's. When memory runs out all the same, everything is given back and the job done once more,
 * with one network at a time on the device from then on. */
#include "pipeline.h"

#include "mesh.h"
#include "networks.h"
#include "prepare_image.h"
#include "probe.h"
#include "rng.h"
#include "stages.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_MAX_VOXELS = 60000, EVERY_JOB = (1 << ROLE_GAUSSIAN_DECODER) - 1 /* the networks of every job */ };

struct trellis {
	struct model *model;
	struct device device;
	struct backend *backend; /* the device's */
	struct networks *networks;
	struct pipeline_record *record;
};

struct trellis_params trellis_params_default(void)
{
	return (struct trellis_params){.seed = 42, .structure_guidance = -1, .latent_guidance = -1};
}

void trellis_latent_finish(struct trellis_latent *latent)
{
	free(latent->coords);
	free(latent->feats);
	*latent = (struct trellis_latent){0};
}

void pipeline_record_finish(struct pipeline_record *r)
{
	free(r->cond);
	free(r->ss_noise);
	free(r->z_s);
	free(r->coords);
	free(r->slat_noise);
	free(r->slat);
	surface_finish(&r->surface);
	*r = (struct pipeline_record){0};
}

void trellis_record(struct trellis *t, struct pipeline_record *r)
{
	t->record = r;
}

struct trellis *trellis_assemble(struct model *m, const struct device_wish *wish, struct error *err)
{
	struct trellis *t = m ? calloc(1, sizeof *t) : NULL;

	if (m && !t)
		error_set(err, "out of memory");
	if (!t || !device_open(&t->device, wish, err)) {
		model_close(m);
		free(t);
		return NULL;
	}
	t->model = m;
	t->backend = t->device.backend;
	t->networks = networks_create(m, t->backend, device_free_bytes(&t->device));
	if (!t->networks) {
		error_set(err, "out of memory");
		trellis_destroy(t);
		return NULL;
	}
	return t;
}

struct trellis *trellis_create_on(struct model *m, const struct trellis_options *o, struct error *err)
{
	const struct device_wish wish = {o->device, o->dtype, o->threads, o->probe_s};
	struct trellis *t = trellis_assemble(m, &wish, err);
	if (t && o->low_memory)
		networks_let_leave(t->networks);
	return t;
}

struct trellis *trellis_create(const struct trellis_options *o, struct error *err)
{
	return trellis_create_on(model_open(o->model, err), o, err);
}

/* After a failure: whether it was for want of memory and some could be given back, so that another try is worth it. */
static bool free_memory(struct trellis *t)
{
	if (t->backend->fault != FAULT_MEMORY || !networks_shrink(t->networks))
		return false;
	t->backend->fault = FAULT_NONE;
	return backend_finish(t->backend, NULL);
}

void trellis_destroy(struct trellis *t)
{
	if (!t)
		return;
	networks_destroy(t->networks);
	device_close(&t->device);
	model_close(t->model);
	free(t);
}

const char *trellis_model_name(const struct trellis *t)
{
	return t->model->name;
}

const char *trellis_model_note(const struct trellis *t)
{
	return t->model->note;
}

const struct trellis_device *trellis_device(const struct trellis *t)
{
	return &t->device.info;
}

bool trellis_device_failed(struct trellis *t, struct error *err)
{
	if (t->backend->fault == FAULT_MEMORY || t->backend->fault == FAULT_DEVICE)
		return true;
	/* A job that came to nothing may have been computed wrong. */
	return t->device.plugin && !probe_backend(t->backend, err);
}

/* How far loading is. */
struct load {
	struct run *run;
	double done, total; /* numbers */
	int percent;	    /* last told */
};

static void note_loaded(void *user, int64_t numbers)
{
	struct load *l = user;
	l->done += (double)numbers;
	int percent = l->done < l->total ? (int)(100 * l->done / l->total) : 100;
	if (percent == l->percent)
		return;
	l->percent = percent;
	l->run->work_done = l->done;
	run_stage(l->run, TRELLIS_LOAD, percent, 100);
}

/* Where networks leave, have the first ones there when the next job comes: it is mostly one like the last. */
static void expect_job(struct trellis *t, const struct sampler_config *structure, const struct sampler_config *latent)
{
	if (!networks_stay(t->networks))
		networks_ahead(t->networks, 1u << ROLE_ENCODER | 1u << ROLE_STRUCTURE_FLOW, structure, latent);
}

bool trellis_load(struct trellis *t, trellis_progress_fn progress, void *user, struct error *err)
{
	struct run run;
	struct load load = {.run = &run, .percent = -1};
	/* What a job needs at once; the rest is there before it is needed, or comes now. */
	int first = networks_load_ahead(t->networks) ? ROLE_STRUCTURE_FLOW + 1 : ROLE_GAUSSIAN_DECODER;

	if (!networks_stay(t->networks)) {
		expect_job(t, &t->model->structure_sampler, &t->model->latent_sampler);
		return true;
	}
	run_init(&run, t->backend, progress, user);
	for (int role = 0; role < first; role++)
		load.total += networks_numbers(t->networks, (enum model_role)role);
	run.work_total = load.total;
	t->backend->loaded = note_loaded;
	t->backend->loaded_user = &load;
	bool ok = true;
	for (int role = 0; ok && role < first; role++)
		ok = !t->model->roles[role] || networks_get(t->networks, (enum model_role)role, &run, err);
	ok = ok && backend_finish(t->backend, err);
	t->backend->loaded = NULL;
	run_finish(&run);
	if (!ok)
		return free_memory(t);
	networks_ahead(t->networks, EVERY_JOB, &t->model->structure_sampler, &t->model->latent_sampler);
	return true;
}

/* Settings of a sampler after the caller's wishes. */
static struct sampler_config sampler(const struct sampler_config *from, int steps, float guidance)
{
	struct sampler_config s = *from;
	if (steps > 0)
		s.steps = steps;
	if (guidance >= 0)
		s.guidance = guidance;
	return s;
}

/* What one job works with. */
struct job {
	struct run run;
	const struct trellis_params *params;
	struct sampler_config structure, latent;
	int64_t tokens;
};

static bool params_check(const struct trellis_params *p, struct error *err)
{
	if (p->structure_steps < 0 || p->structure_steps > 1000 || p->latent_steps < 0 || p->latent_steps > 1000)
		return error_set(err, "steps must be in 1..1000 (0: the model's default)");
	if (!(p->structure_guidance < 1e4f && p->latent_guidance < 1e4f))
		return error_set(err, "guidance must be a number below 10000");
	if (!(p->simplify >= 0))
		return error_set(err, "simplify must be 0 (keep all), a share in 0..1 or a number of triangles");
	return true;
}

/* Floating-point operations of a job with n voxels, in all and up to the mesh decoder. */
static double job_work(const struct trellis *t, const struct job *job, double n, double *before_decode)
{
	struct checkpoint *const *roles = t->model->roles;
	double work =
		structure_decoder_work(roles[ROLE_STRUCTURE_DECODER], roles[ROLE_STRUCTURE_FLOW]->config.resolution);

	if (roles[ROLE_ENCODER])
		work += image_encoder_work(roles[ROLE_ENCODER]);
	work += structure_flow_work(roles[ROLE_STRUCTURE_FLOW], &job->structure, job->tokens);
	work += latent_flow_work(roles[ROLE_LATENT_FLOW], &job->latent, n, job->tokens);
	if (before_decode)
		*before_decode = work;
	return work + (roles[ROLE_MESH_DECODER] ? mesh_decoder_work(roles[ROLE_MESH_DECODER], n) : 0);
}

static void job_init(struct trellis *t, struct job *job, const struct trellis_params *params,
	trellis_progress_fn progress, void *user)
{
	const struct checkpoint *encoder = t->model->roles[ROLE_ENCODER];
	double side = t->model->roles[ROLE_LATENT_FLOW]->config.resolution / 64.0;

	run_init(&job->run, t->backend, progress, user);
	job->params = params;
	job->structure = sampler(&t->model->structure_sampler, params->structure_steps, params->structure_guidance);
	job->latent = sampler(&t->model->latent_sampler, params->latent_steps, params->latent_guidance);
	if (encoder)
		job->tokens = image_encoder_tokens(encoder, encoder->config.image_size, encoder->config.image_size);
	job->run.work_total = job_work(t, job, 6000 * side * side, NULL); /* until the structure is known */
}

/* image -> condition [tokens, C], in scratch. */
static bool encode(struct trellis *t, struct job *job, const struct trellis_image *image, struct tensor *condition,
	const char **cutout, struct error *err)
{
	const struct checkpoint *c = model_require(t->model, ROLE_ENCODER, err);
	int size = c ? c->config.image_size : 0;
	float *pixels;

	if (!c)
		return false;
	run_stage(&job->run, TRELLIS_PREPARE, 0, 1);
	if (!prepare_image(&pixels, NULL, image, size, cutout, err))
		return false;
	run_stage(&job->run, TRELLIS_ENCODE, 0, 1);
	struct image_encoder *encoder = networks_get(t->networks, ROLE_ENCODER, &job->run, err);
	if (encoder) {
		*condition = scratch_new_as(t->backend, DTYPE_F32, job->tokens, c->config.model_channels);
		image_encoder_forward(&job->run, encoder, *condition, pixels, size, size);
	}
	free(pixels);
	bool ok = encoder && backend_finish(t->backend, err);
	networks_done(t->networks, ROLE_ENCODER);
	if (!ok)
		return false;
	if (t->record) {
		struct pipeline_record *r = t->record;
		r->tokens = condition->rows;
		r->cond_channels = condition->cols;
		r->cond = malloc((size_t)(r->tokens * r->cond_channels) * sizeof *r->cond);
		if (r->cond)
			op_download(t->backend, r->cond, *condition);
	}
	return true;
}

/* [R^3, C] on the device to [C, R^3] on the host; malloc'd. */
static float *download_transposed(struct backend *b, struct tensor x)
{
	float *rows = malloc((size_t)(x.rows * x.cols) * sizeof *rows),
	      *out = malloc((size_t)(x.rows * x.cols) * sizeof *out);

	if (rows && out) {
		op_download(b, rows, x);
		for (int64_t r = 0; r < x.rows; r++)
			for (int64_t c = 0; c < x.cols; c++)
				out[c * x.rows + r] = rows[r * x.cols + c];
	}
	free(rows);
	return out;
}

/* condition -> occupancy latent z [R^3, channels], in scratch. */
static bool sample_structure(struct trellis *t, struct job *job, struct rng *rng, struct tensor condition,
	struct tensor *z, struct error *err)
{
	const struct checkpoint *c = t->model->roles[ROLE_STRUCTURE_FLOW];
	int64_t r = c->config.resolution, voxels = r * r * r, channels = c->config.in_channels;
	float *noise = malloc((size_t)(channels * voxels) * sizeof *noise);
	bool ok;

	run_stage(&job->run, TRELLIS_STRUCTURE, 0, job->structure.steps);
	if (!noise)
		return error_set(err, "out of memory for the structure's noise");
	rng_normal(rng, noise, channels * voxels);
	*z = scratch_new_as(t->backend, DTYPE_F32, voxels, c->config.out_channels);
	struct structure_flow *flow = networks_get(t->networks, ROLE_STRUCTURE_FLOW, &job->run, err);
	ok = flow && structure_flow_sample(&job->run, flow, &job->structure, noise, condition, *z, err);
	networks_done(t->networks, ROLE_STRUCTURE_FLOW);
	if (ok && t->record) {
		t->record->structure_channels = channels;
		t->record->resolution = r;
		t->record->z_s = download_transposed(t->backend, *z);
		t->record->ss_noise = noise;
		noise = NULL;
	}
	free(noise);
	return ok;
}

/* z -> coordinates of the voxels with a positive logit, lexicographic; malloc'd [n, 3]. */
static bool decode_structure(
	struct trellis *t, struct job *job, struct tensor z, int32_t **coords, int64_t *n, struct error *err)
{
	const struct checkpoint *c = t->model->roles[ROLE_STRUCTURE_DECODER];
	int64_t r = t->model->roles[ROLE_STRUCTURE_FLOW]->config.resolution, side = r * structure_decoder_scale(c);
	int64_t voxels = side * side * side, count = 0;
	int64_t most = job->params->max_voxels > 0 ? job->params->max_voxels : DEFAULT_MAX_VOXELS;
	float *logits = malloc((size_t)voxels * sizeof *logits);
	bool ok;

	run_stage(&job->run, TRELLIS_VOXELS, 0, 1);
	if (!logits)
		return error_set(err, "out of memory for %" PRId64 " occupancy logits", voxels);
	struct structure_decoder *decoder = networks_get(t->networks, ROLE_STRUCTURE_DECODER, &job->run, err);
	ok = decoder != NULL;
	if (ok) {
		size_t mark = scratch_mark(t->backend);
		struct tensor out = scratch_new_as(t->backend, DTYPE_F32, voxels, 1);
		structure_decoder_forward(&job->run, decoder, out, z, r);
		op_download(t->backend, logits, out);
		scratch_release(t->backend, mark);
		ok = backend_finish(t->backend, err);
	}
	networks_done(t->networks, ROLE_STRUCTURE_DECODER);
	for (int64_t i = 0; ok && i < voxels; i++)
		count += logits[i] > 0;
	if (ok && count == 0)
		ok = error_set(err, "the structure is empty: the model saw no object in this picture");
	if (ok && count > most)
		ok = error_set(err,
			"the structure has %" PRId64 " voxels, more than the limit of %" PRId64
			": the picture shows no single object",
			count, most);
	*coords = ok ? malloc((size_t)count * 3 * sizeof **coords) : NULL;
	if (ok && !*coords)
		ok = error_set(err, "out of memory for %" PRId64 " voxels", count);
	*n = 0;
	for (int64_t i = 0; ok && i < voxels; i++)
		if (logits[i] > 0) {
			int32_t *at = *coords + 3 * (*n)++;
			at[0] = (int32_t)(i / (side * side));
			at[1] = (int32_t)(i / side % side);
			at[2] = (int32_t)(i % side);
		}
	free(logits);
	return ok;
}

static float *copy_floats(const float *from, int64_t n)
{
	float *to = malloc((size_t)n * sizeof *to + 1);
	if (to)
		memcpy(to, from, (size_t)n * sizeof *to);
	return to;
}

/* Note voxels and noise, or (noise NULL) the finished latent. */
static void record_latent(struct pipeline_record *r, const struct trellis_latent *l, bool is_noise)
{
	if (!r)
		return;
	if (!is_noise) {
		r->slat = copy_floats(l->feats, l->n * l->channels);
		return;
	}
	r->n = l->n;
	r->latent_channels = l->channels;
	r->slat_noise = copy_floats(l->feats, l->n * l->channels);
	r->coords = calloc((size_t)l->n * 4 + 1, sizeof *r->coords);
	for (int64_t i = 0; r->coords && i < 3 * l->n; i++)
		r->coords[4 * (i / 3) + 1 + i % 3] = l->coords[i];
}

/* voxels -> structured latent, denormalised. latent->coords and n are set. */
static bool sample_latent(struct trellis *t, struct job *job, struct rng *rng, struct tensor condition,
	struct trellis_latent *latent, struct error *err)
{
	const struct checkpoint *c = t->model->roles[ROLE_LATENT_FLOW];
	int64_t count = latent->n * c->config.in_channels;

	job->run.work_total = job_work(t, job, (double)latent->n, NULL);
	run_stage(&job->run, TRELLIS_LATENT, 0, job->latent.steps);
	latent->channels = c->config.in_channels;
	latent->resolution = c->config.resolution;
	latent->feats = malloc((size_t)count * sizeof *latent->feats);
	if (!latent->feats)
		return error_set(err, "out of memory for the latent's noise");
	rng_normal(rng, latent->feats, count);
	record_latent(t->record, latent, true);
	struct latent_flow *flow = networks_get(t->networks, ROLE_LATENT_FLOW, &job->run, err);
	bool ok = flow && latent_flow_sample(&job->run, flow, &job->latent, latent->coords, latent->n, condition,
				  latent->feats, err);
	networks_done(t->networks, ROLE_LATENT_FLOW);
	for (int64_t i = 0; ok && i < count; i++) {
		int64_t channel = i % latent->channels;
		latent->feats[i] = latent->feats[i] * t->model->latent_std[channel] + t->model->latent_mean[channel];
		if (!isfinite(latent->feats[i]))
			ok = error_set(err,
				"slat_normalization: channel %" PRId64 " of the latent is not finite with std %g",
				channel, (double)t->model->latent_std[channel]);
	}
	if (ok)
		record_latent(t->record, latent, false);
	return ok;
}

/* Once. */
static bool generate(struct trellis *t, struct job *job, const struct trellis_image *image,
	struct trellis_latent *latent, struct error *err)
{
	struct trellis_latent result = {0};
	struct tensor condition, z;
	struct rng rng;
	size_t mark = scratch_mark(t->backend);
	bool ok;

	if (t->record)
		pipeline_record_finish(t->record);
	ok = encode(t, job, image, &condition, &result.cutout, err);
	rng_seed(&rng, job->params->seed); /* after the encoding, as the official pipeline does */
	ok = ok && sample_structure(t, job, &rng, condition, &z, err) &&
	     decode_structure(t, job, z, &result.coords, &result.n, err) &&
	     sample_latent(t, job, &rng, condition, &result, err);
	scratch_release(t->backend, mark);
	if (ok)
		*latent = result;
	else
		trellis_latent_finish(&result);
	return ok;
}

bool trellis_generate(struct trellis *t, const struct trellis_image *views, int n_views,
	const struct trellis_params *params, trellis_progress_fn progress, void *user, struct trellis_latent *latent,
	struct error *err)
{
	struct job job;

	if (n_views != 1)
		return error_set(err, "one picture of an object is needed, %d were given", n_views);
	if (!params_check(params, err))
		return false;
	/* trellis_decode would fail for want of it: better before the minutes than after them. */
	if (params->want_gaussians && !model_require(t->model, ROLE_GAUSSIAN_DECODER, err))
		return false;
	job_init(t, &job, params, progress, user);
	networks_ahead(t->networks, EVERY_JOB | (unsigned)params->want_gaussians << ROLE_GAUSSIAN_DECODER,
		&job.structure, &job.latent);
	bool ok = generate(t, &job, views, latent, err);
	if (!ok && free_memory(t)) {
		job.run.work_done = 0;
		ok = generate(t, &job, views, latent, err);
	}
	if (!ok)
		networks_stop(t->networks);
	run_finish(&job.run);
	return ok;
}

static bool latent_check(const struct trellis *t, const struct trellis_latent *l, struct error *err)
{
	const struct checkpoint *c = t->model->roles[ROLE_LATENT_FLOW];

	if (l->n <= 0 || l->channels != c->config.out_channels || l->resolution != c->config.resolution)
		return error_set(err, "a latent of %" PRId64 " voxels, %d channels and resolution %d does not fit %s",
			l->n, l->channels, l->resolution, t->model->name);
	for (int64_t i = 0; i < 3 * l->n; i++)
		if (l->coords[i] < 0 || l->coords[i] >= l->resolution)
			return error_set(err, "voxel %" PRId64 " of the latent lies outside the grid of %d", i / 3,
				l->resolution);
	for (int64_t i = 0; i < l->n * l->channels; i++)
		if (!isfinite(l->feats[i]))
			return error_set(err, "voxel %" PRId64 " of the latent is not finite", i / l->channels);
	return true;
}

static bool decode_surface(
	struct trellis *t, struct job *job, const struct trellis_latent *latent, struct surface *s, struct error *err)
{
	if (!model_require(t->model, ROLE_MESH_DECODER, err))
		return false;
	struct mesh_decoder *decoder = networks_get(t->networks, ROLE_MESH_DECODER, &job->run, err);
	bool ok = decoder &&
		  mesh_decoder_forward(&job->run, decoder, latent->coords, latent->n, latent->feats, s, NULL, err);
	networks_done(t->networks, ROLE_MESH_DECODER);
	return ok;
}

/* What the device leaves to the CPU. */
struct trellis_surface {
	struct surface surface;
	struct trellis_mesh mesh; /* Gaussians and description so far */
};

void trellis_surface_destroy(struct trellis_surface *s)
{
	if (!s)
		return;
	surface_finish(&s->surface);
	trellis_mesh_finish(&s->mesh);
	free(s);
}

static bool decode_gaussians(struct trellis *t, struct job *job, const struct trellis_latent *latent,
	struct trellis_mesh *mesh, struct error *err)
{
	const struct checkpoint *c = model_require(t->model, ROLE_GAUSSIAN_DECODER, err);
	struct gaussians g;

	if (!c)
		return false;
	struct gaussian_decoder *decoder = networks_get(t->networks, ROLE_GAUSSIAN_DECODER, &job->run, err);
	bool ok = decoder &&
		  gaussian_decoder_forward(&job->run, decoder, latent->coords, latent->n, latent->feats, &g, err);
	networks_done(t->networks, ROLE_GAUSSIAN_DECODER);
	if (!ok)
		return false;
	mesh->gaussians = gaussians_to_ply(&g, &c->config);
	mesh->n_gaussians = g.n;
	gaussians_finish(&g);
	return mesh->gaussians || error_set(err, "out of memory for the Gaussians");
}

/* Once. */
static bool decode(struct trellis *t, struct job *job, const struct trellis_latent *latent,
	struct trellis_surface **out, struct error *err)
{
	struct trellis_surface *s = calloc(1, sizeof *s);

	if (!s)
		return error_set(err, "out of memory for a surface");
	job->run.work_total = job_work(t, job, (double)latent->n, &job->run.work_done);
	if (!decode_surface(t, job, latent, &s->surface, err) ||
		(job->params->want_gaussians && !decode_gaussians(t, job, latent, &s->mesh, err))) {
		trellis_surface_destroy(s);
		return false;
	}
	snprintf(s->mesh.model, sizeof s->mesh.model, "%s", t->model->name);
	snprintf(s->mesh.cutout, sizeof s->mesh.cutout, "%s", latent->cutout ? latent->cutout : "");
	*out = s;
	return true;
}

static bool decode_job(struct trellis *t, struct job *job, const struct trellis_latent *latent,
	const struct trellis_params *params, trellis_progress_fn progress, void *user, struct trellis_surface **surface,
	struct error *err)
{
	if (!params_check(params, err) || !latent_check(t, latent, err))
		return false;
	job_init(t, job, params, progress, user);
	bool ok = decode(t, job, latent, surface, err) || (free_memory(t) && decode(t, job, latent, surface, err));
	if (!ok)
		networks_stop(t->networks);
	run_finish(&job->run);
	return ok;
}

bool trellis_decode_surface(struct trellis *t, const struct trellis_latent *latent, const struct trellis_params *params,
	trellis_progress_fn progress, void *user, struct trellis_surface **surface, struct error *err)
{
	struct job job;

	bool ok = decode_job(t, &job, latent, params, progress, user, surface, err);
	if (ok)
		expect_job(t, &job.structure, &job.latent);
	return ok;
}

bool trellis_surface_mesh(
	struct trellis_surface *s, const struct trellis_params *params, struct trellis_mesh *mesh, struct error *err)
{
	struct trellis_mesh result;

	if (!mesh_from_surface(&result, &s->surface, params, err))
		return false;
	memcpy(result.model, s->mesh.model, sizeof result.model);
	memcpy(result.cutout, s->mesh.cutout, sizeof result.cutout);
	result.gaussians = s->mesh.gaussians;
	result.n_gaussians = s->mesh.n_gaussians;
	s->mesh.gaussians = NULL;
	*mesh = result;
	return true;
}

bool trellis_decode(struct trellis *t, const struct trellis_latent *latent, const struct trellis_params *params,
	trellis_progress_fn progress, void *user, struct trellis_mesh *mesh, struct error *err)
{
	struct trellis_surface *s;
	struct job job;

	if (!decode_job(t, &job, latent, params, progress, user, &s, err))
		return false;
	bool ok = trellis_surface_mesh(s, params, mesh, err);
	if (ok && t->record) {
		surface_finish(&t->record->surface);
		t->record->surface = s->surface;
		s->surface = (struct surface){0};
	}
	trellis_surface_destroy(s);
	return ok;
}
