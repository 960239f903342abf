/* large_compare.c - CUDA against the CPU at TRELLIS-image-large's size: every stage of the network once, on random weights.
 * A line a stage: the errors of f32 and of f16, and whether a second run in f16, on a device opened anew, gives the same
 * bits. A stage has the same input everywhere, so that errors do not add up from stage to stage. Exit status 0: all within
 * the gates; 1: not; 77: there is no CUDA device. Run by tests/gpu/check.sh. */
#include "device.h"
#include "random_checkpoint.h"
#include "rng.h"
#include "stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { F16, F16_AGAIN, F32, CPU, PASSES };
enum { IMAGE = 518, TOKENS = 1374, WIDTH = 1024, CHANNELS = 8, SIDE = 16, GRID = 64, FEATURES = 101, STAGES = 6 };
static const double SHELL_RADIUS = 23.033; /* 10,040 voxels */

static const struct device_wish wishes[PASSES] = {{.name = "cuda", .dtype = "f16"}, {.name = "cuda", .dtype = "f16"},
	{.name = "cuda", .dtype = "f32"}, {.name = "cpu"}};

/* Two steps of Euler, the first guided. */
static const struct sampler_config two_steps = {
	.steps = 2, .rescale_t = 1, .guidance = 5, .interval = {0.6, 1}, .guided = true};

struct result {
	float *values; /* of the surface: vertices, then attributes */
	int64_t count;
	int32_t *faces; /* [n_faces, 3]; of the surface alone */
	int64_t n_faces;
};

/* A stage on a device. */
struct job {
	struct run run;
	struct random_checkpoint weights;
	struct result *out;
	struct error err;
	/* inputs, of all stages and devices */
	float *numbers;	       /* [TOKENS, WIDTH] normal: each stage takes from the front what it needs */
	float *condition;      /* [TOKENS, WIDTH] normal, as the encoder's last norm leaves it */
	const float *features; /* [64 n, FEATURES]: the mesh decoder's of the first pass */
	int32_t *coords;       /* [n, 3], a shell */
	int64_t n;
};

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	printf("large_compare: %s\n", what);
	exit(1);
}

static void *room(size_t bytes)
{
	void *p = malloc(bytes);
	must(p, "out of memory");
	return p;
}

/* ---- stages ---- */

static struct tensor upload(struct job *j, const float *host, int64_t rows, int64_t cols)
{
	struct tensor x = scratch_new_as(j->run.b, DTYPE_F32, rows, cols);
	op_upload(j->run.b, x, host);
	return x;
}

static float *values(struct job *j, int64_t count)
{
	j->out->count = count;
	return j->out->values = room((size_t)count * sizeof(float));
}

static void encode_image(struct job *j)
{
	struct image_encoder *e = image_encoder_create(&j->run, &j->weights.checkpoint, &j->err);
	must(e, j->err.text);
	struct tensor tokens = scratch_new_as(j->run.b, DTYPE_F32, TOKENS, WIDTH);
	image_encoder_forward(&j->run, e, tokens, j->numbers, IMAGE, IMAGE);
	op_download(j->run.b, values(j, TOKENS * WIDTH), tokens);
	image_encoder_destroy(e);
}

static void sample_structure(struct job *j)
{
	struct structure_flow *f = structure_flow_create(&j->run, &j->weights.checkpoint, &j->err);
	must(f, j->err.text);
	struct tensor condition = upload(j, j->condition, TOKENS, WIDTH);
	struct tensor z = scratch_new_as(j->run.b, DTYPE_F32, SIDE * SIDE * SIDE, CHANNELS);
	must(structure_flow_sample(&j->run, f, &two_steps, j->numbers, condition, z, &j->err), j->err.text);
	op_download(j->run.b, values(j, z.rows * z.cols), z);
	structure_flow_destroy(f);
}

static void decode_structure(struct job *j)
{
	struct structure_decoder *d = structure_decoder_create(&j->run, &j->weights.checkpoint, &j->err);
	must(d, j->err.text);
	struct tensor z = upload(j, j->numbers, SIDE * SIDE * SIDE, CHANNELS);
	struct tensor logits = scratch_new_as(j->run.b, DTYPE_F32, GRID * GRID * GRID, 1);
	structure_decoder_forward(&j->run, d, logits, z, SIDE);
	op_download(j->run.b, values(j, logits.rows), logits);
	structure_decoder_destroy(d);
}

static void sample_latent(struct job *j)
{
	struct latent_flow *f = latent_flow_create(&j->run, &j->weights.checkpoint, &j->err);
	must(f, j->err.text);
	struct tensor condition = upload(j, j->condition, TOKENS, WIDTH);
	float *feats = values(j, j->n * CHANNELS);
	memcpy(feats, j->numbers, (size_t)(j->n * CHANNELS) * sizeof *feats);
	must(latent_flow_sample(&j->run, f, &two_steps, j->coords, j->n, condition, feats, &j->err), j->err.text);
	latent_flow_destroy(f);
}

static void decode_mesh(struct job *j)
{
	struct surface unused = {0};
	struct mesh_decoder *d = mesh_decoder_create(&j->run, &j->weights.checkpoint, &j->err);
	must(d, j->err.text);
	float *features = values(j, 64 * j->n * FEATURES);
	must(mesh_decoder_forward(&j->run, d, j->coords, j->n, j->numbers, &unused, features, &j->err), j->err.text);
	surface_finish(&unused);
	mesh_decoder_destroy(d);
	j->features = j->features ? j->features : features;
}

static void extract_surface(struct job *j)
{
	struct backend *b = j->run.b;
	struct surface s = {0};
	struct tensor features = upload(j, j->features, 64 * j->n, FEATURES);
	struct tensor coarse = scratch_new_as(b, DTYPE_I32, j->n, 3),
		      middle = scratch_new_as(b, DTYPE_I32, 8 * j->n, 3),
		      fine = scratch_new_as(b, DTYPE_I32, 64 * j->n, 3);

	op_upload_i32(b, coarse, j->coords);
	op_coords_up(b, middle, coarse);
	op_coords_up(b, fine, middle);
	op_extract(b, &s, features, fine, 4 * GRID, true);
	must(backend_finish(b, &j->err), j->err.text);
	float *to = values(j, 9 * s.n_vertices);
	memcpy(to, s.vertices, (size_t)(3 * s.n_vertices) * sizeof *to);
	memcpy(to + 3 * s.n_vertices, s.attrs, (size_t)(6 * s.n_vertices) * sizeof *to);
	j->out->faces = s.faces;
	j->out->n_faces = s.n_faces;
	s.faces = NULL;
	surface_finish(&s);
}

/* Gates are those of the reference data (its README, "Suggested gates"): f32 1e-5 and, of the worst number, 1e-4; f16 3e-3 a
 * module, 5e-3 a sampling run. The surface is computed in f32 for any dtype; its worst vertex, on an edge whose ends both lie
 * next to zero, says nothing. */
static const struct stage {
	const char *name;
	enum model_role role; /* ROLE_COUNT: without weights */
	void (*run)(struct job *j);
	double f32, worst, f16;
} stages[STAGES] = {
	{"encode image", ROLE_ENCODER, encode_image, 1e-5, 1e-4, 3e-3},
	{"structure flow", ROLE_STRUCTURE_FLOW, sample_structure, 1e-5, 1e-4, 5e-3},
	{"structure decoder", ROLE_STRUCTURE_DECODER, decode_structure, 1e-5, 1e-4, 3e-3},
	{"latent flow", ROLE_LATENT_FLOW, sample_latent, 1e-5, 1e-4, 5e-3},
	{"mesh decoder", ROLE_MESH_DECODER, decode_mesh, 1e-5, 1e-4, 3e-3},
	{"surface", ROLE_COUNT, extract_surface, 1e-5, INFINITY, 1e-5},
};

static void run_stage_of(struct job *j, const struct stage *s, struct backend *b)
{
	run_init(&j->run, b, NULL, NULL);
	if (s->role != ROLE_COUNT)
		must(random_checkpoint_make(&j->weights, s->role, &j->err), j->err.text);
	s->run(j);
	must(backend_finish(b, &j->err), j->err.text);
	scratch_release(b, 0);
	scratch_trim(b);
	run_finish(&j->run);
	random_checkpoint_finish(&j->weights);
}

/* ---- comparison ---- */

static bool same_faces(const struct result *a, const struct result *b)
{
	return a->count == b->count && a->n_faces == b->n_faces &&
	       (!b->n_faces || !memcmp(a->faces, b->faces, (size_t)b->n_faces * 3 * sizeof *a->faces));
}

struct difference {
	double l2, worst, rms; /* ||a - b|| / ||b||, max|a - b| / max|b|, rms of b */
};

/* Not a number where a or b is none, or where they can't be compared. */
static struct difference compare(const struct result *a, const struct result *b)
{
	double error = 0, square = 0, worst = 0, largest = 0;

	if (!same_faces(a, b))
		return (struct difference){NAN, NAN, NAN};
	for (int64_t i = 0; i < b->count; i++) {
		double wanted = (double)b->values[i], d = (double)a->values[i] - wanted;
		error += d * d;
		square += wanted * wanted;
		worst = fmax(worst, fabs(d));
		largest = fmax(largest, fabs(wanted));
	}
	return (struct difference){sqrt(error / square), worst / largest, sqrt(square / (double)b->count)};
}

static bool report(const struct stage *s, struct result of[PASSES][STAGES])
{
	const struct result *again = &of[F16_AGAIN][s - stages], *first = &of[F16][s - stages],
			    *cpu = &of[CPU][s - stages];
	struct difference f32 = compare(&of[F32][s - stages], cpu), f16 = compare(first, cpu);
	bool same = same_faces(again, first) &&
		    !memcmp(again->values, first->values, (size_t)first->count * sizeof *first->values);
	bool ok = f32.l2 <= s->f32 && f32.worst <= s->worst && f16.l2 <= s->f16 && same;

	printf("%-6s %-18s f32 L2 %.1e worst %.1e, f16 L2 %.1e (gates %.0e %.0e %.0e), rms %.2g, bit-equal twice: %s\n",
		ok ? "ok" : "FAILED", s->name, f32.l2, f32.worst, f16.l2, s->f32, s->worst, s->f16, f32.rms,
		same ? "yes" : "no");
	return ok;
}

static void make_inputs(struct job *j)
{
	struct rng rng;

	j->numbers = room(2 * sizeof(float) * TOKENS * WIDTH);
	j->condition = j->numbers + (size_t)TOKENS * WIDTH;
	j->coords = room(3 * sizeof(int32_t) * GRID * GRID * GRID);
	rng_seed(&rng, 1);
	rng_normal(&rng, j->numbers, (int64_t)2 * TOKENS * WIDTH);
	for (int i = 0; i < GRID * GRID * GRID; i++) {
		int at[3] = {i / (GRID * GRID), i / GRID % GRID, i % GRID};
		double square = 0;
		for (int axis = 0; axis < 3; axis++)
			square += pow(at[axis] + 0.5 - GRID / 2.0, 2);
		if (fabs(sqrt(square) - SHELL_RADIUS) <= 0.75)
			memcpy(j->coords + 3 * j->n++, at, sizeof at);
	}
}

int main(void)
{
	static struct result of[PASSES][STAGES];
	struct job j = {0};
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	make_inputs(&j);
	for (int pass = 0; pass < PASSES; pass++) {
		struct device d;
		double start = clock_s();
		if (!device_open(&d, &wishes[pass], &j.err)) {
			printf("%s\n", j.err.text);
			return pass ? 1 : 77;
		}
		for (int i = 0; i < STAGES; i++) {
			j.out = &of[pass][i];
			run_stage_of(&j, &stages[i], d.backend);
		}
		printf("%s, %s: %.1f s\n", d.info.name, d.info.dtype, clock_s() - start);
		device_close(&d);
	}
	for (int i = 0; i < STAGES; i++)
		failed += !report(&stages[i], of);
	printf("%d stages compared at %lld voxels, %d failed\n", STAGES, (long long)j.n, failed);
	return failed != 0;
}
