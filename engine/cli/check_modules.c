/* check_modules.c - `trellis check`: one network at a time, with its intermediates, and the samplers. */
#include "check_cases.h"
#include "flow.h"
#include "stages.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a module's case has at hand. */
struct module_case {
	struct check *k;
	const struct checkpoint *checkpoint;
	const char *base; /* DIRECTORY/NAME */
	struct safetensors *io;
	struct golden golden;
	struct run run;
};

/* coords [n, 4] of the file without the batch column, in lexicographic order and inside the grid; malloc'd. */
static int32_t *input_coords(const struct module_case *m, int64_t *n, struct error *err)
{
	int64_t dim[2] = {0, 4};
	float *four = check_input(m->io, "in.coords", 2, dim, err);
	int32_t *three = four ? malloc((size_t)dim[0] * 3 * sizeof *three) : NULL;
	int resolution = m->checkpoint->config.resolution;

	if (four && !three)
		error_set(err, "out of memory for %lld voxels", (long long)dim[0]);
	for (int64_t i = 0; three && i < dim[0]; i++) {
		int64_t order = i == 0;
		for (int k = 0; k < 3; k++) {
			float at = four[4 * i + 1 + k];
			three[3 * i + k] = at >= 0 && at < (float)resolution ? (int32_t)at : -1;
			if (i && !order)
				order = three[3 * i + k] - three[3 * i - 3 + k];
		}
		if (order > 0 && three[3 * i] >= 0 && three[3 * i + 1] >= 0 && three[3 * i + 2] >= 0)
			continue;
		error_set(err, "%s: row %lld of in.coords %s", safetensors_path(m->io), (long long)i,
			order > 0 ? "lies outside the grid" : "is not in lexicographic order");
		free(three);
		three = NULL;
	}
	free(four);
	*n = dim[0];
	return three;
}

/* in.cond [1, tokens, channels] on the device, in scratch. */
static struct tensor input_condition(
	struct run *run, const struct safetensors *io, const struct checkpoint *c, struct error *err)
{
	int64_t dim[3] = {1, 0, c->config.cond_channels};
	float *host = check_input(io, "in.cond", 3, dim, err);
	struct tensor x = TENSOR_NONE;

	if (host) {
		x = scratch_new_as(run->b, DTYPE_F32, dim[1], dim[2]);
		op_upload(run->b, x, host);
	}
	free(host);
	return x;
}

static bool run_structure_flow(struct module_case *m, struct error *err)
{
	const struct model_config *c = &m->checkpoint->config;
	int64_t side = c->resolution, dim[5] = {1, c->in_channels, side, side, side};
	float *x = check_input(m->io, "in.x", 5, dim, err);
	float *t = x ? check_input(m->io, "in.t", 1, (int64_t[]){1}, err) : NULL;
	struct tensor condition = t ? input_condition(&m->run, m->io, m->checkpoint, err) : TENSOR_NONE;
	struct structure_flow *f = condition.data ? structure_flow_create(&m->run, m->checkpoint, err) : NULL;
	int64_t count = c->out_channels * side * side * side;
	float *v = malloc((size_t)count * sizeof *v);
	bool ok = f && v && structure_flow_forward(&m->run, f, x, t[0], condition, v, err);

	if (ok)
		golden_flat(&m->golden, "out", v, count);
	structure_flow_destroy(f);
	free(v);
	free(x);
	free(t);
	return ok;
}

/* The occupied voxels of logits [side^3], lexicographic, [n, 3] in room for all. */
static int64_t occupied(int32_t *coords, const float *logits, int64_t side)
{
	int64_t n = 0;
	for (int64_t i = 0; i < side * side * side; i++)
		if (logits[i] > 0) {
			coords[3 * n] = (int32_t)(i / (side * side));
			coords[3 * n + 1] = (int32_t)(i / side % side);
			coords[3 * n++ + 2] = (int32_t)(i % side);
		}
	return n;
}

/* in.z [1, channels, r, r, r] as rows of channels; malloc'd. */
static float *input_volume(const struct module_case *m, int64_t *r, struct error *err)
{
	enum { MOST = 256 }; /* of the finer grid: what fits in memory */
	int64_t dim[5] = {1, m->checkpoint->config.latent_channels};
	float *z = check_input(m->io, "in.z", 5, dim, err), *rows;

	*r = dim[2];
	if (z && (dim[3] != *r || dim[4] != *r || *r * structure_decoder_scale(m->checkpoint) > MOST)) {
		error_set(err, "%s: in.z is no cube of at most %d voxels a side", safetensors_path(m->io),
			MOST / structure_decoder_scale(m->checkpoint));
		free(z);
		return NULL;
	}
	int64_t voxels = *r * *r * *r, count = voxels * dim[1];
	rows = z ? malloc((size_t)count * sizeof *rows) : NULL;
	if (z && !rows)
		error_set(err, "out of memory for in.z");
	for (int64_t i = 0; rows && i < count; i++)
		rows[i % voxels * dim[1] + i / voxels] = z[i];
	free(z);
	return rows;
}

static bool run_structure_decoder(struct module_case *m, struct error *err)
{
	int64_t r = 0;
	float *rows = input_volume(m, &r, err);
	struct structure_decoder *d = rows ? structure_decoder_create(&m->run, m->checkpoint, err) : NULL;
	struct backend *b = m->run.b;
	int64_t side = r * structure_decoder_scale(m->checkpoint), voxels = side * side * side;
	float *logits = malloc((size_t)voxels * sizeof *logits + 1);
	int32_t *coords = malloc((size_t)voxels * 3 * sizeof *coords + 1);
	bool ok = d && ((logits && coords) || error_set(err, "out of memory for %lld voxels", (long long)voxels));

	if (ok) {
		struct tensor in = scratch_new_as(b, DTYPE_F32, r * r * r, m->checkpoint->config.latent_channels);
		struct tensor out = scratch_new_as(b, DTYPE_F32, voxels, 1);
		op_upload(b, in, rows);
		structure_decoder_forward(&m->run, d, out, in, r);
		op_download(b, logits, out);
		ok = backend_finish(b, err);
	}
	if (ok) {
		golden_matrix(&m->golden, "logits", logits, voxels, 1);
		golden_voxels(&m->golden, "coords", coords, occupied(coords, logits, side));
	}
	structure_decoder_destroy(d);
	free(rows);
	free(logits);
	free(coords);
	return ok;
}

/* in.feats [n, channels]; malloc'd. */
static float *input_feats(const struct module_case *m, int64_t n, int channels, struct error *err)
{
	return check_input(m->io, "in.feats", 2, (int64_t[]){n, channels}, err);
}

static bool run_latent_flow(struct module_case *m, struct error *err)
{
	int64_t n = 0, channels = m->checkpoint->config.out_channels;
	int32_t *coords = input_coords(m, &n, err);
	float *x = coords ? input_feats(m, n, m->checkpoint->config.in_channels, err) : NULL;
	float *t = x ? check_input(m->io, "in.t", 1, (int64_t[]){1}, err) : NULL;
	float *v = malloc((size_t)(n * channels) * sizeof *v + 1);
	struct tensor condition = t ? input_condition(&m->run, m->io, m->checkpoint, err) : TENSOR_NONE;
	struct latent_flow *f = condition.data ? latent_flow_create(&m->run, m->checkpoint, err) : NULL;
	bool ok = f && v && latent_flow_forward(&m->run, f, coords, n, x, t[0], condition, v, err);

	if (ok)
		golden_matrix(&m->golden, "out", v, n, channels);
	latent_flow_destroy(f);
	free(coords);
	free(x);
	free(t);
	free(v);
	return ok;
}

/* NAME.mesh.safetensors, when it is there. */
static bool compare_mesh(struct module_case *m, const struct surface *s, struct error *err)
{
	char path[4200], label[200];
	struct golden g;

	snprintf(path, sizeof path, "%s.mesh.safetensors", m->base);
	if (!path_exists("%s", path))
		return true;
	struct safetensors *f = safetensors_open(path, err);
	if (!f)
		return false;
	snprintf(label, sizeof label, "%s.mesh", m->golden.label);
	if (golden_open(&g, m->k->c, f, label, "", "", err)) {
		check_surface(&g, s);
		golden_close(&g);
	}
	safetensors_close(f);
	return true;
}

static bool run_mesh_decoder(struct module_case *m, struct error *err)
{
	int64_t n = 0, width = m->checkpoint->config.use_color ? 101 : 53;
	int32_t *coords = input_coords(m, &n, err);
	float *feats = coords ? input_feats(m, n, m->checkpoint->config.latent_channels, err) : NULL;
	float *features = malloc((size_t)(64 * n * width) * sizeof *features + 1);
	struct mesh_decoder *d = feats ? mesh_decoder_create(&m->run, m->checkpoint, err) : NULL;
	struct surface s = {0};
	bool ok = d && features && mesh_decoder_forward(&m->run, d, coords, n, feats, &s, features, err);

	if (ok) {
		golden_matrix(&m->golden, "feats", features, 64 * n, width);
		ok = compare_mesh(m, &s, err);
	}
	surface_finish(&s);
	mesh_decoder_destroy(d);
	free(features);
	free(feats);
	free(coords);
	return ok;
}

static void compare_gaussians(struct module_case *m, struct gaussians *g)
{
	const struct model_config *c = &m->checkpoint->config;
	char path[4200];
	float *ply;

	golden_matrix(&m->golden, "_xyz", g->xyz, g->n, 3);
	golden_matrix(&m->golden, "_features_dc", g->features_dc, g->n, 3);
	golden_matrix(&m->golden, "_scaling", g->scaling, g->n, 3);
	golden_matrix(&m->golden, "_rotation", g->rotation, g->n, 4);
	golden_matrix(&m->golden, "_opacity", g->opacity, g->n, 1);
	snprintf(path, sizeof path, "%s.ply", m->base);
	ply = gaussians_to_ply(g, c);
	if (ply && path_exists("%s", path))
		check_ply(m->k, path, m->golden.label, ply, g->n);
	free(ply);
	gaussians_activate(g, c);
	golden_matrix(&m->golden, "get_xyz", g->xyz, g->n, 3);
	golden_matrix(&m->golden, "get_scaling", g->scaling, g->n, 3);
	golden_matrix(&m->golden, "get_rotation", g->rotation, g->n, 4);
	golden_matrix(&m->golden, "get_opacity", g->opacity, g->n, 1);
}

static bool run_gaussian_decoder(struct module_case *m, struct error *err)
{
	int64_t n = 0;
	int32_t *coords = input_coords(m, &n, err);
	float *feats = coords ? input_feats(m, n, m->checkpoint->config.latent_channels, err) : NULL;
	struct gaussian_decoder *d = feats ? gaussian_decoder_create(&m->run, m->checkpoint, err) : NULL;
	struct gaussians g = {0};
	bool ok = d && gaussian_decoder_forward(&m->run, d, coords, n, feats, &g, err);

	if (ok)
		compare_gaussians(m, &g);
	gaussians_finish(&g);
	gaussian_decoder_destroy(d);
	free(feats);
	free(coords);
	return ok;
}

static bool run_module(struct module_case *m, struct error *err)
{
	switch (m->checkpoint->role) {
	case ROLE_STRUCTURE_FLOW:
		return run_structure_flow(m, err);
	case ROLE_STRUCTURE_DECODER:
		return run_structure_decoder(m, err);
	case ROLE_LATENT_FLOW:
		return run_latent_flow(m, err);
	case ROLE_MESH_DECODER:
		return run_mesh_decoder(m, err);
	case ROLE_GAUSSIAN_DECODER:
		return run_gaussian_decoder(m, err);
	default:
		return error_set(err, "class %s has no case", m->checkpoint->class_name);
	}
}

static void check_module(struct check *k, const char *directory, const char *name)
{
	char base[4096], path[4200];
	struct checkpoint checkpoint = {0};
	struct module_case m = {.k = k, .checkpoint = &checkpoint, .base = base};
	struct error err = {0};

	snprintf(base, sizeof base, "%s/%s", directory, name);
	snprintf(path, sizeof path, "%s.io.safetensors", base);
	if (!path_exists("%s", path))
		return;
	char label[160];
	check_label(k, label, sizeof label, path);
	m.io = safetensors_open(path, &err);
	snprintf(path, sizeof path, "%s/ckpts/%s", directory, name);
	if (m.io && checkpoint_open(&checkpoint, path, &err) &&
		golden_open(&m.golden, k->c, m.io, label, "", "", &err)) {
		struct tap_sink taps = golden_taps(&m.golden);
		size_t mark = scratch_mark(k->b);
		run_init(&m.run, k->b, NULL, NULL);
		m.run.taps = &taps;
		bool ok = run_module(&m, &err);
		ok = backend_finish(k->b, ok ? &err : NULL) && ok;
		if (!ok)
			compare_error(k->c, label, err.text);
		run_finish(&m.run);
		scratch_release(k->b, mark);
		golden_close(&m.golden);
	} else {
		compare_error(k->c, label, err.text);
	}
	checkpoint_finish(&checkpoint);
	safetensors_close(m.io);
}

/* Collects the sampler's states as volumes. */
struct states {
	const struct model_config *config;
	float *x, *x_0; /* [steps, C, R, R, R], [C, R, R, R] */
	int steps, taken;
	int64_t count;
};

static void take_state(void *user, struct backend *b, const char *name, struct tensor x)
{
	struct states *s = user;
	float *tokens;

	if (strcmp(name, "x_t") && strcmp(name, "x_0_last"))
		return;
	tokens = malloc((size_t)s->count * sizeof *tokens);
	if (!tokens || x.rows * x.cols != s->count || s->taken >= s->steps)
		backend_fail(b, "the sampler's states do not fit");
	op_download(b, tokens, x);
	if (backend_ok(b))
		structure_flow_volume(s->config, strcmp(name, "x_t") ? s->x_0 : s->x + s->count * s->taken++, tokens);
	free(tokens);
}

static void take_nothing(void *user, const char *name, const int32_t *values, int64_t rows, int64_t cols)
{
	(void)user, (void)name, (void)values, (void)rows, (void)cols;
}

/* One run: param.X = steps, rescale_t, strength, lo, hi. */
static bool run_sampler(struct check *k, struct safetensors *io, const struct checkpoint *checkpoint, const char *label,
	const char *name, const double p[5], struct error *err)
{
	if (!(p[0] >= 1 && p[0] <= 1000 && p[1] >= 1e-6 && p[1] <= 1e6 && fabs(p[2]) <= 1e6))
		return error_set(err, "%s: param.%s: %g steps, rescale_t %g and strength %g cannot be",
			safetensors_path(io), name, p[0], p[1], p[2]);
	const struct model_config *c = &checkpoint->config;
	struct sampler_config sampler = {.steps = (int)p[0],
		.rescale_t = p[1],
		.guidance = p[2],
		.interval = {p[3], p[4]},
		.guided = true,
		.sigma_min = 1e-5};
	struct states s = {.config = c, .steps = sampler.steps};
	struct tap_sink taps = {.tensor = take_state, .integers = take_nothing, .user = &s};
	int64_t r = c->resolution, dim[5] = {1, c->in_channels, r, r, r};
	char infix[32];
	struct golden g;
	struct run run;
	size_t mark = scratch_mark(k->b);

	float *noise = check_input(io, "in.noise", 5, dim, err);
	snprintf(infix, sizeof infix, "%s.", name);
	if (!noise || !golden_open(&g, k->c, io, label, "", infix, err)) {
		free(noise);
		return false;
	}
	run_init(&run, k->b, NULL, NULL);
	struct tensor condition = input_condition(&run, io, checkpoint, err);
	struct structure_flow *f = condition.data ? structure_flow_create(&run, checkpoint, err) : NULL;
	bool ok = f != NULL;
	run.taps = &taps;
	if (f) {
		s.count = c->in_channels * r * r * r;
		s.x = malloc((size_t)(s.count * s.steps) * sizeof *s.x);
		s.x_0 = malloc((size_t)s.count * sizeof *s.x_0);
		struct tensor z = scratch_new_as(k->b, DTYPE_F32, r * r * r, c->in_channels);
		ok = s.x && s.x_0 && structure_flow_sample(&run, f, &sampler, noise, condition, z, err);
		if (ok) {
			golden_flat(&g, "x_t", s.x, s.count * s.steps);
			golden_flat(&g, "x_0_last", s.x_0, s.count);
		}
	}
	run_finish(&run);
	scratch_release(k->b, mark);
	golden_close(&g);
	structure_flow_destroy(f);
	free(s.x);
	free(s.x_0);
	free(noise);
	return ok;
}

/* t_seq.stepsS.rescaleR, t_model_f32..., cfg_on...: the schedule in doubles, exactly. */
static void check_schedule(struct check *k, struct safetensors *io, const char *label)
{
	for (int i = 0; i < safetensors_count(io); i++) {
		const struct st_tensor *t = safetensors_at(io, i);
		struct sampler_config s = {.guidance = 1, .interval = {0.5, 1}, .guided = true};
		char kind[32];
		if (sscanf(t->name, "%31[a-z_0-9].steps%d.rescale%lf", kind, &s.steps, &s.rescale_t) != 3 ||
			s.steps < 1 || s.steps > 10000)
			continue;
		double *times = malloc(((size_t)s.steps + 1) * sizeof *times);
		float *model = malloc(((size_t)s.steps + 1) * sizeof *model);
		int32_t *guided = malloc(((size_t)s.steps + 1) * sizeof *guided);
		if (!times || !model || !guided)
			continue;
		flow_times(times, s.steps, s.rescale_t);
		for (int j = 0; j <= s.steps; j++) {
			model[j] = (float)(1000 * times[j]);
			guided[j] = flow_guided_at(&s, times[j]);
		}
		if (!strcmp(kind, "t_seq") && t->dtype == ST_F64 && t->count == s.steps + 1)
			compare_bytes(k->c, label, t->name, times, t->data, t->count * 8);
		else if (!strcmp(kind, "t_model_f32") && t->dtype == ST_F32 && t->count == s.steps + 1)
			compare_bytes(k->c, label, t->name, model, t->data, t->count * 4);
		else if (!strcmp(kind, "cfg_on") && t->dtype == ST_I32 && t->count == s.steps)
			compare_bytes(k->c, label, t->name, guided, t->data, t->count * 4);
		free(times);
		free(model);
		free(guided);
	}
}

/* The structure flow whose sizes are those of the noise and the condition. */
static bool open_sampled_flow(
	const char *directory, const struct safetensors *io, struct checkpoint *out, struct error *err)
{
	const struct st_tensor *noise = safetensors_find(io, "in.noise"), *cond = safetensors_find(io, "in.cond");
	char path[4096];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof path, "%s/ckpts", directory);
	dir = noise && cond && noise->ndim == 5 && cond->ndim == 3 ? opendir(path) : NULL;
	while (dir && (entry = readdir(dir))) {
		size_t length = strlen(entry->d_name);
		char class_name[128];
		if (length < 6 || strcmp(entry->d_name + length - 5, ".json"))
			continue;
		snprintf(path, sizeof path, "%s/ckpts/%s", directory, entry->d_name);
		if (!checkpoint_read_class(class_name, sizeof class_name, path, NULL) ||
			checkpoint_class_role(class_name) != ROLE_STRUCTURE_FLOW)
			continue;
		path[strlen(path) - 5] = '\0';
		*out = (struct checkpoint){0};
		if (checkpoint_open(out, path, NULL) && out->config.in_channels == noise->dim[1] &&
			out->config.resolution == noise->dim[2] && out->config.cond_channels == cond->dim[2]) {
			closedir(dir);
			return true;
		}
		checkpoint_finish(out);
	}
	if (dir)
		closedir(dir);
	return error_set(err, "no structure flow in %s/ckpts fits in.noise and in.cond", directory);
}

static void check_sampler(struct check *k, const char *directory, const char *path)
{
	struct checkpoint checkpoint = {0};
	struct error err = {0};
	struct safetensors *io = safetensors_open(path, &err);
	char label[160];

	check_label(k, label, sizeof label, path);
	if (!io || !open_sampled_flow(directory, io, &checkpoint, &err)) {
		compare_error(k->c, label, err.text);
		safetensors_close(io);
		return;
	}
	check_schedule(k, io, label);
	for (int i = 0; i < safetensors_count(io); i++) {
		const struct st_tensor *t = safetensors_at(io, i);
		double p[5];
		if (strncmp(t->name, "param.", 6) || t->dtype != ST_F64 || t->count != 5)
			continue;
		memcpy(p, t->data, sizeof p);
		if (!run_sampler(k, io, &checkpoint, label, t->name + 6, p, &err))
			compare_error(k->c, label, err.text);
	}
	checkpoint_finish(&checkpoint);
	safetensors_close(io);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

void check_modules(struct check *k, const char *directory)
{
	struct dirent **entries;
	int n = scandir(directory, &entries, NULL, by_name);

	for (int i = 0; i < n; i++) {
		const char *name = entries[i]->d_name, *tail = strstr(name, ".io.safetensors");
		char path[4096], module[256];
		if (tail && !strncmp(name, "sampler", 7)) {
			snprintf(path, sizeof path, "%s/%s", directory, name);
			check_sampler(k, directory, path);
		} else if (tail) {
			snprintf(module, sizeof module, "%.*s", (int)(tail - name), name);
			check_module(k, directory, module);
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
}
