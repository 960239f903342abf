/* test_flow.c - what flow_blocks.c saves changes nothing: the zero condition folded to a constant row, keys and values
 * once a job, modulations of all steps at once, both halves of a guided step together. And the Euler sampler's sums.
 * The networks themselves are compared with the official code's results by `trellis check` (scripts/check.sh).
 *
 * Tolerance: both sides compute the same sums in f32 in another order; 2e-6 is some ten roundings. */
#include "flow.h"
#include "flow_blocks.h"
#include "golden.h"
#include "stages.h"

#include <string.h>

static const double TOLERANCE = 2e-6;

struct fixture {
	struct backend *b;
	struct run run;
	struct checkpoint checkpoint;
	struct safetensors *io;
	struct tensor condition, zero; /* the case's, and zeros of its shape */
};

static void setup(struct fixture *f, const char *name)
{
	struct error err;
	char path[256];

	memset(f, 0, sizeof *f);
	f->b = backend_cpu_create(1, &err);
	cr_assert_not_null(f->b);
	run_init(&f->run, f->b, NULL, NULL);
	snprintf(path, sizeof path, "tests/golden/modules/ckpts/%s", name);
	cr_assert(checkpoint_open(&f->checkpoint, path, &err), "%s", err.text);
	snprintf(path, sizeof path, "tests/golden/modules/%s.io.safetensors", name);
	f->io = golden_open(path);
	const struct st_tensor *t = golden_find(f->io, "in.cond");
	float *host = golden_f32(f->io, "in.cond");
	f->condition = scratch_new_as(f->b, DTYPE_F32, t->dim[1], t->dim[2]);
	f->zero = scratch_new_as(f->b, DTYPE_F32, t->dim[1], t->dim[2]);
	op_upload(f->b, f->condition, host);
	memset(host, 0, (size_t)t->count * sizeof *host);
	op_upload(f->b, f->zero, host);
	free(host);
}

static void finish(struct fixture *f)
{
	run_finish(&f->run);
	checkpoint_finish(&f->checkpoint);
	safetensors_close(f->io);
	backend_destroy(f->b);
}

static double difference(const float *a, const float *b, int64_t n)
{
	double error = 0, size = 0;
	for (int64_t i = 0; i < n; i++) {
		error += pow((double)a[i] - b[i], 2);
		size += pow((double)b[i], 2);
	}
	return sqrt(error / size);
}

/* One velocity of either flow; v is malloc'd. */
struct flows {
	struct structure_flow *structure;
	struct latent_flow *latent;
	int32_t *coords;
	float *x, t;
	int64_t n, count; /* voxels, numbers of v */
};

static void flows_setup(struct flows *w, struct fixture *f)
{
	struct error err;
	const struct model_config *c = &f->checkpoint.config;

	memset(w, 0, sizeof *w);
	float *t = golden_f32(f->io, "in.t");
	w->t = t[0];
	free(t);
	if (f->checkpoint.role == ROLE_STRUCTURE_FLOW) {
		w->structure = structure_flow_create(&f->run, &f->checkpoint, &err);
		cr_assert_not_null(w->structure, "%s", err.text);
		w->x = golden_f32(f->io, "in.x");
		w->count = (int64_t)c->out_channels * c->resolution * c->resolution * c->resolution;
		return;
	}
	w->latent = latent_flow_create(&f->run, &f->checkpoint, &err);
	cr_assert_not_null(w->latent, "%s", err.text);
	w->x = golden_f32(f->io, "in.feats");
	float *four = golden_f32(f->io, "in.coords");
	w->n = golden_find(f->io, "in.coords")->dim[0];
	w->count = w->n * c->out_channels;
	w->coords = malloc((size_t)w->n * 3 * sizeof *w->coords);
	for (int64_t i = 0; i < 3 * w->n; i++)
		w->coords[i] = (int32_t)four[i / 3 * 4 + 1 + i % 3];
	free(four);
}

static void flows_finish(struct flows *w)
{
	structure_flow_destroy(w->structure);
	latent_flow_destroy(w->latent);
	free(w->coords);
	free(w->x);
}

static float *velocity(struct fixture *f, struct flows *w, float t, struct tensor condition)
{
	struct error err;
	float *v = malloc((size_t)w->count * sizeof *v);
	bool ok = w->structure ? structure_flow_forward(&f->run, w->structure, w->x, t, condition, v, &err)
			       : latent_flow_forward(&f->run, w->latent, w->coords, w->n, w->x, t, condition, v, &err);
	cr_assert(ok, "%s", err.text);
	return v;
}

/* The state after sampling from x with these settings, in torch's layout. */
static float *sample(struct fixture *f, struct flows *w, const struct sampler_config *s)
{
	struct error err;
	const struct model_config *c = &f->checkpoint.config;
	float *out = malloc((size_t)w->count * sizeof *out);

	if (w->latent) {
		memcpy(out, w->x, (size_t)w->count * sizeof *out);
		cr_assert(latent_flow_sample(&f->run, w->latent, s, w->coords, w->n, f->condition, out, &err), "%s",
			err.text);
		return out;
	}
	int64_t voxels = w->count / c->out_channels;
	struct tensor z = scratch_new_as(f->b, DTYPE_F32, voxels, c->out_channels);
	float *rows = malloc((size_t)w->count * sizeof *rows);
	cr_assert(structure_flow_sample(&f->run, w->structure, s, w->x, f->condition, z, &err), "%s", err.text);
	op_download(f->b, rows, z);
	for (int64_t i = 0; i < w->count; i++)
		out[i % c->out_channels * voxels + i / c->out_channels] = rows[i];
	free(rows);
	return out;
}

static const char *const cases[] = {"ss_flow_a", "ss_flow_b", "ss_flow_c", "slat_flow_a", "slat_flow_b"};
enum { CASES = sizeof cases / sizeof *cases };

Test(flow, zero_condition_is_a_constant_row)
{
	for (int i = 0; i < CASES; i++) {
		struct fixture f;
		struct flows w;
		setup(&f, cases[i]);
		flows_setup(&w, &f);
		float *folded = velocity(&f, &w, w.t, TENSOR_NONE), *computed = velocity(&f, &w, w.t, f.zero);
		float *other = velocity(&f, &w, w.t, f.condition);
		cr_expect_lt(difference(folded, computed, w.count), TOLERANCE, "%s: %g", cases[i],
			difference(folded, computed, w.count));
		cr_expect_gt(difference(folded, other, w.count), 100 * TOLERANCE, "%s: the condition does nothing",
			cases[i]);
		free(folded);
		free(computed);
		free(other);
		flows_finish(&w);
		finish(&f);
	}
}

/* Two guided steps by hand, each velocity computed alone, against the sampler's, which computes both halves together
 * with cached keys, values and modulations. */
Test(flow, guided_steps_equal_separate_evaluations)
{
	for (int i = 0; i < CASES; i++) {
		struct fixture f;
		struct flows w;
		struct sampler_config s = {
			.steps = 2, .rescale_t = 3, .guidance = 2.5, .interval = {0, 1}, .guided = true};
		double t[3];

		setup(&f, cases[i]);
		flows_setup(&w, &f);
		float *sampled = sample(&f, &w, &s);
		flow_times(t, s.steps, s.rescale_t);
		for (int step = 0; step < s.steps; step++) {
			float *with = velocity(&f, &w, (float)(1000 * t[step]), f.condition);
			float *without = velocity(&f, &w, (float)(1000 * t[step]), f.zero);
			for (int64_t k = 0; k < w.count; k++) {
				double v = (1 + s.guidance) * with[k] - s.guidance * without[k];
				w.x[k] = (float)(w.x[k] - (t[step] - t[step + 1]) * v);
			}
			free(with);
			free(without);
		}
		cr_expect_lt(difference(sampled, w.x, w.count), 5 * TOLERANCE, "%s: %g", cases[i],
			difference(sampled, w.x, w.count)); /* guidance multiplies the rounding of both halves */
		free(sampled);
		flows_finish(&w);
		finish(&f);
	}
}

Test(flow, modulations_of_all_steps_equal_those_of_one)
{
	const float t[3] = {1000, 732.5f, 12.25f};

	for (int i = 0; i < CASES; i++) {
		struct fixture f;
		struct error err;
		setup(&f, cases[i]);
		struct flow_trunk trunk = {.checkpoint = &f.checkpoint, .config = &f.checkpoint.config};
		struct weight_set set;
		struct binder binder = {.backend = f.b, .checkpoint = &f.checkpoint, .set = &set, .err = &err};
		struct flow_modulation all = {0}, one = {0};
		int64_t width = 6 * f.checkpoint.config.model_channels;
		float *a = malloc((size_t)width * 3 * sizeof *a), *b = malloc((size_t)width * sizeof *b);

		weight_set_init(&set, f.b);
		flow_trunk_bind(&f.run, &binder, &trunk);
		cr_assert(binder_ok(&binder), "%s", err.text);
		cr_assert(flow_modulate(&f.run, &trunk, t, 3, &all, &err), "%s", err.text);
		for (int step = 0; step < 3; step++) {
			cr_assert(flow_modulate(&f.run, &trunk, t + step, 1, &one, &err), "%s", err.text);
			for (int block = 0; block < f.checkpoint.config.num_blocks; block++) {
				op_download(f.b, a, all.block[block]);
				op_download(f.b, b, one.block[block]);
				cr_expect_lt(difference(a + step * width, b, width), TOLERANCE);
			}
			flow_modulation_finish(&one, f.run.b);
		}
		flow_modulation_finish(&all, f.run.b);
		flow_trunk_finish(&trunk);
		weight_set_finish(&set);
		free(a);
		free(b);
		finish(&f);
	}
}

/* v = -x: every step multiplies x by 1 + (t - t'), whatever the condition; v_free = 0 shows the guidance's share. */
static void toy_velocity(struct run *run, void *flow, struct tensor v, struct tensor v_free, struct tensor x, int step)
{
	int *calls = flow;
	(void)step;
	op_combine(run->b, v, -1, x, 0, TENSOR_NONE);
	if (v_free.data)
		op_combine(run->b, v_free, 0, x, 0, TENSOR_NONE);
	calls[v_free.data != NULL]++;
}

Test(flow, euler_and_guidance_interval)
{
	struct error err;
	struct backend *b = backend_reference_create(&err);
	struct run run;
	int calls[2] = {0};
	struct sampler_config s = {.steps = 5, .rescale_t = 3, .guidance = 2, .interval = {0.5, 0.9}, .guided = true};
	double t[6], want = 1;
	float x = 1;

	run_init(&run, b, NULL, NULL);
	struct tensor state = scratch_new_as(b, DTYPE_F32, 1, 1);
	op_upload(b, state, &x);
	flow_sample(&run, &s, state, toy_velocity, calls, TRELLIS_STRUCTURE);
	op_download(b, &x, state);
	flow_times(t, 5, 3);
	for (int i = 0; i < 5; i++)
		want *= 1 + (t[i] - t[i + 1]) * (t[i] >= 0.5 && t[i] <= 0.9 ? 3 : 1);
	cr_expect_float_eq(x, want, 1e-5 * want);
	cr_expect_eq(calls[1], 2, "t = 0.818 and 0.667 are inside, not %d steps", calls[1]);
	cr_expect_eq(calls[0], 3);
	cr_expect(!flow_guided_at(&(struct sampler_config){.guided = true, .interval = {0, 1}}, 0.5),
		"guidance 0 is none");
	run_finish(&run);
	backend_destroy(b);
}

static bool cancel_at_once(const struct trellis_progress *p, void *user)
{
	(void)p, (void)user;
	return false;
}

Test(flow, cancellation_ends_the_job)
{
	struct fixture f;
	struct flows w;
	struct error err = {0};
	struct sampler_config s = {.steps = 1000, .rescale_t = 1};
	setup(&f, "slat_flow_a");
	flows_setup(&w, &f);
	run_finish(&f.run);
	run_init(&f.run, f.b, cancel_at_once, NULL);
	cr_expect(!latent_flow_sample(&f.run, w.latent, &s, w.coords, w.n, f.condition, w.x, &err));
	cr_expect(err.text[0], "the reason is missing");
	flows_finish(&w);
	finish(&f);
}
