/* test_pipeline.c - the public interface on the small reference pipeline: repeatable, cancellable, and every way a job
 * can fail says why and leaves the engine usable. Equality with the official code: scripts/check.sh. */
#include "trellis.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const model = "tests/golden/e2e";

static struct trellis *open_model(void)
{
	struct error err;
	struct trellis *t = trellis_create(&(struct trellis_options){.model = model, .threads = 1}, &err);
	cr_assert_not_null(t, "%s", err.text);
	return t;
}

static struct trellis_image load_input(void)
{
	struct error err;
	struct trellis_image image;
	cr_assert(trellis_image_load(&image, "tests/golden/e2e/input.png", &err), "%s", err.text);
	return image;
}

/* Two steps instead of five: enough to go through everything. */
static struct trellis_params quick_params(void)
{
	struct trellis_params p = trellis_params_default();
	p.structure_steps = p.latent_steps = 2;
	return p;
}

struct seen {
	double fraction;
	bool backwards;
	enum trellis_stage last, cancel_at;
	int calls;
};

static bool watch(const struct trellis_progress *p, void *user)
{
	struct seen *s = user;
	s->backwards = s->backwards || p->stage < s->last;
	s->last = p->stage;
	s->fraction = p->fraction;
	s->calls++;
	return p->stage != s->cancel_at;
}

Test(pipeline, same_seed_same_latent_other_seed_another)
{
	struct error err;
	struct trellis *t = open_model();
	struct trellis_image image = load_input();
	struct trellis_params p = quick_params();
	struct trellis_latent a, b, c;
	struct seen s = {.cancel_at = (enum trellis_stage) - 1};

	cr_assert(trellis_generate(t, &image, 1, &p, watch, &s, &a, &err), "%s", err.text);
	cr_assert(trellis_generate(t, &image, 1, &p, NULL, NULL, &b, &err), "%s", err.text);
	p.seed++;
	cr_assert(trellis_generate(t, &image, 1, &p, NULL, NULL, &c, &err), "%s", err.text);
	cr_expect_eq(a.n, b.n);
	cr_expect_arr_eq(a.coords, b.coords, (size_t)a.n * 3 * sizeof *a.coords);
	cr_expect_arr_eq(a.feats, b.feats, (size_t)(a.n * a.channels) * sizeof *a.feats, "not bit-identical");
	cr_expect(c.n != a.n || memcmp(a.feats, c.feats, (size_t)(a.n * a.channels) * sizeof *a.feats));
	cr_expect(!s.backwards && s.last == TRELLIS_LATENT && s.calls >= 6);
	cr_expect(s.fraction > 0 && s.fraction <= 1);
	cr_expect_str_eq(a.cutout, "alpha");
	trellis_latent_finish(&a);
	trellis_latent_finish(&b);
	trellis_latent_finish(&c);
	trellis_image_finish(&image);
	trellis_destroy(t);
}

Test(pipeline, a_cancelled_job_leaves_the_engine_usable)
{
	struct error err;
	struct trellis *t = open_model();
	struct trellis_image image = load_input();
	struct trellis_params p = quick_params();
	struct trellis_latent latent = {0};

	for (int stage = TRELLIS_ENCODE; stage <= TRELLIS_LATENT; stage++) {
		struct seen s = {.cancel_at = (enum trellis_stage)stage};
		err.text[0] = '\0';
		cr_expect(!trellis_generate(t, &image, 1, &p, watch, &s, &latent, &err), "stage %d", stage);
		cr_expect(err.text[0], "stage %d gives no reason", stage);
		cr_expect_eq((int)s.last, stage, "it went on to stage %d", (int)s.last);
		cr_expect_null(latent.coords, "an output of a failed job");
	}
	cr_expect(trellis_generate(t, &image, 1, &p, NULL, NULL, &latent, &err), "%s", err.text);
	trellis_latent_finish(&latent);
	trellis_image_finish(&image);
	trellis_destroy(t);
}

/* The job must fail with an error that has these words. */
static void expect_failure(struct trellis *t, const struct trellis_image *image, const struct trellis_params *p,
	int views, const char *words)
{
	struct error err = {0};
	struct trellis_latent latent;
	cr_expect(!trellis_generate(t, image, views, p, NULL, NULL, &latent, &err), "wanted: %s", words);
	cr_expect_not_null(strstr(err.text, words), "'%s' does not say '%s'", err.text, words);
}

Test(pipeline, what_cannot_work_says_why)
{
	struct trellis *t = open_model();
	struct trellis_image image = load_input();
	struct trellis_params p = quick_params();

	p.max_voxels = 10;
	expect_failure(t, &image, &p, 1, "more than the limit of 10");
	p = quick_params();
	p.latent_steps = 100000;
	expect_failure(t, &image, &p, 1, "steps");
	p = quick_params();
	expect_failure(t, &image, &p, 2, "one picture");
	for (int i = 0; i < image.width * image.height; i++)
		image.rgba[4 * i + 3] = 0;
	image.has_alpha = true;
	expect_failure(t, &image, &p, 1, "alpha");
	trellis_image_finish(&image);
	trellis_destroy(t);
}

Test(pipeline, decoding_again_needs_no_flows)
{
	struct error err;
	struct trellis *t = open_model();
	struct trellis_image image = load_input();
	struct trellis_params p = quick_params();
	struct trellis_latent latent;
	struct trellis_mesh raw, clean, few, wrong;

	cr_assert(trellis_generate(t, &image, 1, &p, NULL, NULL, &latent, &err), "%s", err.text);
	cr_assert(trellis_decode(t, &latent, &p, NULL, NULL, &clean, &err), "%s", err.text);
	p.simplify = 0.25f;
	p.want_gaussians = true;
	cr_assert(trellis_decode(t, &latent, &p, NULL, NULL, &few, &err), "%s", err.text);
	p.raw_mesh = true;
	cr_assert(trellis_decode(t, &latent, &p, NULL, NULL, &raw, &err), "%s", err.text);
	cr_expect_lt(clean.n_faces, raw.n_faces, "the inner shell is still there");
	cr_expect_lt(few.n_faces, clean.n_faces / 2);
	cr_expect_gt(few.n_gaussians, 0);
	cr_expect_str_eq(clean.model, "e2e");
	latent.channels++;
	cr_expect(!trellis_decode(t, &latent, &p, NULL, NULL, &wrong, &err), "a latent of another shape was taken");
	latent.channels--;
	float number = latent.feats[3 * latent.channels];
	latent.feats[3 * latent.channels] = NAN;
	cr_expect(!trellis_decode(t, &latent, &p, NULL, NULL, &wrong, &err));
	cr_expect_str_eq(err.text, "voxel 3 of the latent is not finite");
	latent.feats[3 * latent.channels] = number;
	trellis_mesh_finish(&raw);
	trellis_mesh_finish(&clean);
	trellis_mesh_finish(&few);
	trellis_latent_finish(&latent);
	trellis_image_finish(&image);
	trellis_destroy(t);
}
