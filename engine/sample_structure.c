/* sample_structure.c - the sparse structure flow: noise [C, R, R, R] to the occupancy latent, under an image condition.
 * A dense transformer over the patches of a cube. First of the two flows; decode_structure.c follows.
 * Source: trellis/models/sparse_structure_flow.py, TRELLIS sec. 3.3. */
#include "flow.h"
#include "flow_blocks.h"
#include "stages.h"

#include <stdlib.h>

struct structure_flow {
	struct weight_set set;
	struct flow_trunk trunk;
	struct linear input_layer, out_layer; /* [C, in p^3], [out p^3, C] */
	struct tensor pos_emb;		      /* f32 [(R / p)^3, C] */
	struct flow_modulation modulation;    /* of the last run: the next one's steps are mostly the same */
	/* of the run at hand */
	const struct flow_context *context; /* NULL: the zero condition */
};

struct structure_flow *structure_flow_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct structure_flow *f = stage_new(sizeof *f, err);
	int64_t p3 = config->patch_size * config->patch_size * config->patch_size;
	int64_t side = config->resolution / config->patch_size;

	if (!f)
		return NULL;
	struct binder b = binder_begin(&f->set, run->b, c, err);
	f->trunk = (struct flow_trunk){.checkpoint = c, .config = config};
	f->input_layer =
		bind_linear(&b, WEIGHT_LINEAR_F32, config->model_channels, config->in_channels * p3, "input_layer");
	f->pos_emb = bind_tensor(&b, side * side * side, config->model_channels, "pos_emb");
	f->out_layer = bind_linear(&b, WEIGHT_LINEAR, config->out_channels * p3, config->model_channels, "out_layer");
	flow_trunk_bind(run, &b, &f->trunk);
	if (!binder_ok(&b)) {
		structure_flow_destroy(f);
		return NULL;
	}
	return f;
}

void structure_flow_destroy(struct structure_flow *f)
{
	if (!f)
		return;
	flow_modulation_finish(&f->modulation, f->set.backend);
	flow_trunk_finish(&f->trunk);
	weight_set_finish(&f->set);
	free(f);
}

/* Velocities at x [n, in p^3], in patch order [n, out p^3]. */
static void velocity(struct run *run, void *flow, struct tensor v, struct tensor v_free, struct tensor x, int step)
{
	struct structure_flow *f = flow;
	struct backend *b = run->b;
	bool guided = v_free.data != NULL;
	size_t mark = scratch_mark(b);
	struct tensor h = scratch_new(b, guided ? 2 * x.rows : x.rows, f->trunk.config->model_channels);

	linear_into(
		run, tensor_rows(h, 0, x.rows), x, &f->input_layer, ACT_NONE, TENSOR_NONE, f->pos_emb, "input_layer");
	flow_trunk_forward(run, &f->trunk, h, guided, &f->modulation, step, f->context);
	layer_norm(run, h, h, 1e-5f);
	linear_forward(run, v, tensor_rows(h, 0, x.rows), &f->out_layer);
	if (guided)
		linear_forward(run, v_free, tensor_rows(h, x.rows, x.rows), &f->out_layer);
	scratch_release(b, mark);
}

/* Between a volume and its patches. The channel of a patch is ((c p + px) p + py) p + pz.
 * volume element (c, x, y, z) lies at c * channel_step + ((x R + y) R + z) * voxel_step. */
static void patches(float *volume, float *tokens, int channels, int resolution, int p, int64_t channel_step,
	int64_t voxel_step, bool to_tokens)
{
	int side = resolution / p, p3 = p * p * p;
	for (int c = 0; c < channels; c++)
		for (int x = 0; x < resolution; x++)
			for (int y = 0; y < resolution; y++)
				for (int z = 0; z < resolution; z++) {
					int64_t voxel = ((int64_t)x * resolution + y) * resolution + z;
					int64_t token = ((int64_t)(x / p) * side + y / p) * side + z / p;
					int64_t k = ((c * p + x % p) * p + y % p) * p + z % p;
					float *v = volume + c * channel_step + voxel * voxel_step;
					float *t = tokens + token * channels * p3 + k;
					if (to_tokens)
						*t = *v;
					else
						*v = *t;
				}
}

static int64_t token_count(const struct model_config *c)
{
	int64_t side = c->resolution / c->patch_size;
	return side * side * side;
}

/* Upload a [C, R, R, R] volume as patches. */
static struct tensor upload_patches(struct run *run, const struct model_config *c, const float *volume)
{
	int p = c->patch_size, r = c->resolution;
	int64_t n = token_count(c), width = (int64_t)c->in_channels * p * p * p;
	struct tensor x = scratch_new_as(run->b, DTYPE_F32, n, width);
	float *tokens = malloc((size_t)(n * width) * sizeof *tokens);

	if (!tokens) {
		backend_fail(run->b, "out of memory");
		return x;
	}
	patches((float *)volume, tokens, c->in_channels, r, p, (int64_t)r * r * r, 1, true);
	op_upload(run->b, x, tokens);
	free(tokens);
	return x;
}

/* Download patches as a volume: [C, R, R, R], or channels last. */
static float *download_volume(struct run *run, const struct model_config *c, struct tensor x, bool channels_last)
{
	int p = c->patch_size, r = c->resolution;
	int64_t voxels = (int64_t)r * r * r;
	float *tokens = malloc((size_t)(x.rows * x.cols) * sizeof *tokens);
	float *volume = malloc((size_t)(x.rows * x.cols) * sizeof *volume);

	if (!tokens || !volume) {
		backend_fail(run->b, "out of memory");
	} else {
		op_download(run->b, tokens, x);
		patches(volume, tokens, c->out_channels, r, p, channels_last ? 1 : voxels,
			channels_last ? c->out_channels : 1, false);
	}
	free(tokens);
	return volume;
}

/* A check wants to see every intermediate; otherwise what is there is kept. */
static bool modulate(struct run *run, struct structure_flow *f, const float *t, int steps, struct error *err)
{
	return (!tapping(run) && flow_modulation_is(&f->modulation, t, steps)) ||
	       flow_modulate(run, &f->trunk, t, steps, &f->modulation, err);
}

bool structure_flow_prepare(
	struct run *run, struct structure_flow *f, const struct sampler_config *s, struct error *err)
{
	float *times = flow_model_times(s);
	bool ok = times ? modulate(run, f, times, s->steps, err) : error_set(err, "out of memory");
	free(times);
	return ok;
}

bool structure_flow_sample(struct run *run, struct structure_flow *f, const struct sampler_config *s,
	const float *noise, struct tensor condition, struct tensor z, struct error *err)
{
	struct flow_context context = {0};
	size_t mark = scratch_mark(run->b);
	float *volume = NULL;
	bool ok = structure_flow_prepare(run, f, s, err) && flow_context_init(run, &f->trunk, condition, &context, err);
	if (ok) {
		f->context = &context;
		struct tensor x = upload_patches(run, f->trunk.config, noise);
		flow_sample(run, s, x, velocity, f, TRELLIS_STRUCTURE);
		run_expect_finite(run, x, model_role_name(ROLE_STRUCTURE_FLOW));
		if (backend_ok(run->b))
			volume = download_volume(run, f->trunk.config, x, true);
		if (volume)
			op_upload(run->b, z, volume);
	}
	free(volume);
	flow_context_finish(&context);
	scratch_release(run->b, mark);
	return ok && backend_finish(run->b, err);
}

bool structure_flow_forward(struct run *run, struct structure_flow *f, const float *x, float t, struct tensor condition,
	float *v, struct error *err)
{
	const struct model_config *c = f->trunk.config;
	int64_t p3 = (int64_t)c->patch_size * c->patch_size * c->patch_size;
	struct flow_context context = {0};
	size_t mark = scratch_mark(run->b);
	bool ok = modulate(run, f, &t, 1, err) &&
		  (!condition.data || flow_context_init(run, &f->trunk, condition, &context, err));

	if (ok) {
		struct tensor tokens = upload_patches(run, c, x);
		struct tensor out = scratch_new_as(run->b, DTYPE_F32, tokens.rows, c->out_channels * p3);
		f->context = condition.data ? &context : NULL;
		tap(run, f->pos_emb, "pos_emb");
		velocity(run, f, out, TENSOR_NONE, tokens, 0);
		float *volume = download_volume(run, c, out, false);
		for (int64_t i = 0; volume && i < out.rows * out.cols; i++)
			v[i] = volume[i];
		free(volume);
	}
	flow_context_finish(&context);
	scratch_release(run->b, mark);
	return ok && backend_finish(run->b, err);
}

void structure_flow_volume(const struct model_config *c, float *volume, const float *tokens)
{
	int64_t voxels = (int64_t)c->resolution * c->resolution * c->resolution;
	patches(volume, (float *)tokens, c->in_channels, c->resolution, c->patch_size, voxels, 1, false);
}

double structure_flow_work(const struct checkpoint *c, const struct sampler_config *s, int64_t tokens)
{
	struct flow_trunk trunk = {.config = &c->config};
	double t[1025], work = 0, n = (double)token_count(&c->config);
	int steps = s->steps < 1024 ? s->steps : 1024;

	flow_times(t, steps, s->rescale_t);
	for (int i = 0; i < steps; i++)
		work += flow_trunk_work(&trunk, n, (double)tokens, flow_guided_at(s, t[i]));
	return work;
}
