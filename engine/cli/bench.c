/* bench.c - `trellis bench`: how long each stage takes, as a share of the machine's own matrix product rate measured in
 * the same run. Works on a model, or on random weights of TRELLIS-image-large's shapes. */
#include "commands.h"
#include "kernel_bench.h"
#include "large.h"
#include "pipeline.h"
#include "stages.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char help[] =
	"usage: trellis bench [OPTION]...\n"
	"\n"
	"Times every stage of a model and prints ms, TFLOP/s and the share of the machine's own matrix product rate,\n"
	"which is measured in the same run: machines are noisy, so compare shares, not times. Then what a whole job\n"
	"takes by these figures, and the peak of resident memory.\n"
	"\n"
	"Options:\n"
	"  -m, --model MODEL     directory or hub id (default: $TRELLIS_MODEL_PATH, else the embedded model)\n"
	"  -r, --random large    TRELLIS-image-large's shapes with random weights, made in memory\n"
	"  -v, --voxels N        a shell of about N active voxels (default: 10000)\n"
	"  -k, --kernels[=PART]  the single operations at TRELLIS-image-large's shapes instead; PART of a name\n"
	"  -s, --stage NAME      only the stages whose name contains NAME\n"
	"  -d, --device NAME     auto (default), cpu, cuda or cuda:N\n"
	"      --dtype TYPE      f16 (default), bf16 or f32 on CUDA\n"
	"  -t, --threads N       processor threads (default: all)\n"
	"  -h, --help            print this text\n";

struct bench {
	struct device device;
	struct backend *b; /* the device's */
	struct checkpoint *roles[ROLE_COUNT];
	const char *only;
	int64_t tokens, n;
	int32_t *coords; /* [n, 3] */
	double peak;	 /* GFLOP/s of the matrix product, measured beside the stage */
	double job_s;
	bool complete; /* every stage of a job was timed */
};

/* Now, once all that was asked of the device is done: it may work on its own time. */
static double settled_s(struct backend *b)
{
	b->ops->sync(b);
	return clock_s();
}

static bool wanted(struct bench *k, const char *name)
{
	bool yes = !k->only || strstr(name, k->only);
	k->complete = k->complete && yes;
	return yes;
}

static void report(struct bench *k, const char *name, double seconds, double operations, int times)
{
	double rate = operations / seconds / 1e9;

	k->job_s += seconds * times;
	printf("%-28s %10.1f %10.3f %8.1f %%", name, seconds * 1e3, rate / 1e3, 100 * rate / k->peak);
	if (times > 1)
		printf("   x %d", times);
	printf("\n");
}

/* Measured beside every stage: a shared machine is compared with itself. */
static bool measure_peak(struct bench *k, struct error *err)
{
	k->peak = kernel_bench_peak(k->b);
	return backend_finish(k->b, err) && k->peak > 0;
}

/* A shell in the middle of the grid with about `wanted` voxels, lexicographic. */
static bool make_shell(struct bench *k, int64_t want, int side, struct error *err)
{
	double centre = side / 2.0, radius = fmin(sqrt((double)want / (4 * M_PI * 1.5)), side / 2.0 - 1);
	double half = fmax(0.75, (double)want / (8 * M_PI * radius * radius)); /* thicker once it fills the grid */

	k->coords = malloc((size_t)side * (size_t)side * (size_t)side * 3 * sizeof *k->coords);
	if (!k->coords)
		return error_set(err, "out of memory");
	for (int i = 0; i < side * side * side && k->n < 2 * want; i++) {
		int at[3] = {i / (side * side), i / side % side, i % side};
		double distance = 0;
		for (int axis = 0; axis < 3; axis++)
			distance += pow(at[axis] + 0.5 - centre, 2);
		if (fabs(sqrt(distance) - radius) <= half)
			memcpy(k->coords + 3 * k->n++, at, sizeof at);
	}
	return k->n > 0 || error_set(err, "--voxels %lld gives an empty shell", (long long)want);
}

static float *random_floats(int64_t n)
{
	float *p = malloc((size_t)n * sizeof *p);
	uint32_t state = 1;

	for (int64_t i = 0; p && i < n; i++) {
		state = state * 1664525u + 1013904223u;
		p[i] = (float)((int32_t)state >> 8) / (1 << 23);
	}
	return p;
}

static struct tensor random_condition(struct bench *k, int64_t channels)
{
	struct tensor x = scratch_new_as(k->b, DTYPE_F32, k->tokens, channels);
	float *host = random_floats(k->tokens * channels);
	if (host)
		op_upload(k->b, x, host);
	free(host);
	return x;
}

static bool bench_encoder(struct bench *k, struct error *err)
{
	const struct checkpoint *c = k->roles[ROLE_ENCODER];
	struct run run;
	int size = c ? c->config.image_size : 0;

	if (!c || !wanted(k, "encode image"))
		return true;
	run_init(&run, k->b, NULL, NULL);
	struct image_encoder *e = image_encoder_create(&run, c, err);
	float *pixels = random_floats(3 * (int64_t)size * size);
	bool ok = e && pixels && measure_peak(k, err);
	if (ok) {
		struct tensor out = scratch_new_as(k->b, DTYPE_F32, k->tokens, c->config.model_channels);
		image_encoder_forward(&run, e, out, pixels, size, size); /* what a first time costs is not counted */
		double start = settled_s(k->b);
		image_encoder_forward(&run, e, out, pixels, size, size);
		report(k, "encode image", settled_s(k->b) - start, image_encoder_work(c), 1);
		ok = backend_finish(k->b, err);
	}
	image_encoder_destroy(e);
	free(pixels);
	run_finish(&run);
	return ok;
}

/* When each step of a sampling run began. */
struct steps {
	struct backend *b;
	double began[4];
};

static bool note_step(const struct trellis_progress *p, void *user)
{
	struct steps *s = user;
	if (p->step < 4 && s->began[p->step] == 0)
		s->began[p->step] = settled_s(s->b);
	return true;
}

/* Two guided steps and two plain ones; the second of each is timed warm. */
static const struct sampler_config four_steps = {
	.steps = 4, .rescale_t = 1, .guidance = 5, .interval = {0.6, 1}, .guided = true};

/* Runs of the sampler; the last counts. What a first run costs on a GPU is loading kernels; on a CPU it would be
 * minutes for nothing. */
static int sampler_runs(const struct bench *k)
{
	return k->device.info.ordinal >= 0 ? 2 : 1;
}

enum { GUIDED_STEPS = 19, PLAIN_STEPS = 6 }; /* of 25 at rescale 3, interval 0.5..1 */

static double step_work(double (*work)(const struct checkpoint *, const struct sampler_config *, double, int64_t),
	const struct bench *k, const struct checkpoint *c, bool guided)
{
	struct sampler_config s = {.steps = 1, .rescale_t = 1, .guidance = 1, .interval = {0, 1}, .guided = guided};
	return work(c, &s, (double)k->n, k->tokens);
}

static void report_steps(struct bench *k, const char *name, double start, const struct steps *s, double end,
	const struct checkpoint *c, double guided_work, double plain_work)
{
	char line[64];
	snprintf(line, sizeof line, "%s: prepare", name);
	report(k, line, s->began[0] - start,
		2.0 * (double)k->tokens * c->config.cond_channels * 2 * c->config.model_channels * c->config.num_blocks,
		1);
	snprintf(line, sizeof line, "%s: guided step", name);
	report(k, line, s->began[2] - s->began[1], guided_work, GUIDED_STEPS);
	snprintf(line, sizeof line, "%s: plain step", name);
	report(k, line, end - s->began[3], plain_work, PLAIN_STEPS);
}

static double structure_step_work(const struct checkpoint *c, const struct sampler_config *s, double n, int64_t tokens)
{
	(void)n;
	return structure_flow_work(c, s, tokens);
}

static bool bench_structure_flow(struct bench *k, struct error *err)
{
	const struct checkpoint *c = k->roles[ROLE_STRUCTURE_FLOW];
	int64_t voxels = (int64_t)c->config.resolution * c->config.resolution * c->config.resolution;
	struct steps steps = {.b = k->b};
	struct run run;

	if (!wanted(k, "structure flow"))
		return true;
	run_init(&run, k->b, note_step, &steps);
	struct structure_flow *f = structure_flow_create(&run, c, err);
	float *noise = random_floats(voxels * c->config.in_channels);
	bool ok = f && noise && measure_peak(k, err);
	if (ok) {
		struct tensor condition = random_condition(k, c->config.cond_channels);
		struct tensor z = scratch_new_as(k->b, DTYPE_F32, voxels, c->config.out_channels);
		double start = 0, end = 0;
		for (int i = 0; ok && i < sampler_runs(k); i++) {
			steps = (struct steps){.b = k->b};
			start = settled_s(k->b);
			ok = structure_flow_sample(&run, f, &four_steps, noise, condition, z, err);
			end = settled_s(k->b);
		}
		if (ok)
			report_steps(k, "structure flow", start, &steps, end, c,
				step_work(structure_step_work, k, c, true),
				step_work(structure_step_work, k, c, false));
	}
	structure_flow_destroy(f);
	free(noise);
	run_finish(&run);
	return ok;
}

static bool bench_structure_decoder(struct bench *k, struct error *err)
{
	const struct checkpoint *c = k->roles[ROLE_STRUCTURE_DECODER];
	int r = k->roles[ROLE_STRUCTURE_FLOW]->config.resolution;
	int64_t voxels = (int64_t)r * r * r, side = (int64_t)r * structure_decoder_scale(c);
	struct run run;

	if (!wanted(k, "structure decoder"))
		return true;
	run_init(&run, k->b, NULL, NULL);
	struct structure_decoder *d = structure_decoder_create(&run, c, err);
	float *host = random_floats(voxels * c->config.latent_channels);
	bool ok = d && host && measure_peak(k, err);
	if (ok) {
		struct tensor z = scratch_new_as(k->b, DTYPE_F32, voxels, c->config.latent_channels);
		struct tensor logits = scratch_new_as(k->b, DTYPE_F32, side * side * side, 1);
		op_upload(k->b, z, host);
		structure_decoder_forward(&run, d, logits, z, r);
		double start = settled_s(k->b);
		structure_decoder_forward(&run, d, logits, z, r);
		report(k, "structure decoder", settled_s(k->b) - start, structure_decoder_work(c, r), 1);
		ok = backend_finish(k->b, err);
	}
	structure_decoder_destroy(d);
	free(host);
	run_finish(&run);
	return ok;
}

static bool bench_latent_flow(struct bench *k, struct error *err)
{
	const struct checkpoint *c = k->roles[ROLE_LATENT_FLOW];
	struct steps steps = {.b = k->b};
	struct run run;

	if (!wanted(k, "latent flow"))
		return true;
	run_init(&run, k->b, note_step, &steps);
	struct latent_flow *f = latent_flow_create(&run, c, err);
	float *feats = random_floats(k->n * c->config.in_channels);
	bool ok = f && feats && measure_peak(k, err);
	if (ok) {
		struct tensor condition = random_condition(k, c->config.cond_channels);
		double start = 0, end = 0;
		for (int i = 0; ok && i < sampler_runs(k); i++) {
			steps = (struct steps){.b = k->b};
			start = settled_s(k->b);
			ok = latent_flow_sample(&run, f, &four_steps, k->coords, k->n, condition, feats, err);
			end = settled_s(k->b);
		}
		if (ok)
			report_steps(k, "latent flow", start, &steps, end, c, step_work(latent_flow_work, k, c, true),
				step_work(latent_flow_work, k, c, false));
	}
	latent_flow_destroy(f);
	free(feats);
	run_finish(&run);
	return ok;
}

/* When the features were done and the extraction began. */
struct extraction {
	struct backend *b;
	double began_s;
};

static bool note_mesh(const struct trellis_progress *p, void *user)
{
	struct extraction *e = user;
	if (p->stage == TRELLIS_MESH)
		e->began_s = settled_s(e->b);
	return true;
}

static bool bench_mesh_decoder(struct bench *k, struct error *err)
{
	const struct checkpoint *c = k->roles[ROLE_MESH_DECODER];
	struct surface s = {0};
	struct extraction extraction = {.b = k->b};
	struct run run;

	if (!c || !wanted(k, "mesh decoder"))
		return true;
	run_init(&run, k->b, note_mesh, &extraction);
	struct mesh_decoder *d = mesh_decoder_create(&run, c, err);
	float *latent = random_floats(k->n * c->config.latent_channels);
	bool ok = d && latent && measure_peak(k, err);
	if (ok) {
		ok = mesh_decoder_forward(&run, d, k->coords, k->n, latent, &s, NULL, err);
		surface_finish(&s);
		double start = settled_s(k->b);
		ok = ok && mesh_decoder_forward(&run, d, k->coords, k->n, latent, &s, NULL, err);
		double end = settled_s(k->b), extracted_s = end - extraction.began_s;
		if (ok) {
			report(k, "mesh decoder", extraction.began_s - start, mesh_decoder_work(c, (double)k->n), 1);
			printf("%-28s %10.1f   (%lld triangles)\n", "surface extraction", extracted_s * 1e3,
				(long long)s.n_faces);
			k->job_s += extracted_s;
		}
	}
	surface_finish(&s);
	mesh_decoder_destroy(d);
	free(latent);
	run_finish(&run);
	return ok;
}

static bool bench_stages(struct bench *k, int64_t voxels, struct error *err)
{
	struct rusage usage;
	size_t mark = scratch_mark(k->b);
	bool (*const stages[])(struct bench *, struct error *) = {
		bench_encoder, bench_structure_flow, bench_structure_decoder, bench_latent_flow, bench_mesh_decoder};
	const struct checkpoint *e = k->roles[ROLE_ENCODER];

	k->complete = true;
	k->tokens = e ? image_encoder_tokens(e, e->config.image_size, e->config.image_size) : 1374;
	if (!make_shell(k, voxels, k->roles[ROLE_LATENT_FLOW]->config.resolution, err) || !measure_peak(k, err))
		return false;
	printf("device %s, %s, matrix product %.0f GFLOP/s, %lld voxels\n", k->device.info.name, k->device.info.dtype,
		k->peak, (long long)k->n);
	if (k->device.info.note[0])
		printf("note: %s\n", k->device.info.note);
	printf("%-28s %10s %10s %10s\n", "stage", "ms", "TFLOP/s", "of product");
	for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
		if (!stages[i](k, err))
			return false;
		scratch_release(k->b, mark);
		scratch_trim(k->b);
	}
	if (k->complete)
		printf("a job of 25 + 25 steps, 19 + 19 of them guided: %.1f s by these figures\n", k->job_s);
	getrusage(RUSAGE_SELF, &usage);
	printf("peak resident memory: %.2f GB\n", (double)usage.ru_maxrss * 1024 / 1e9);
	return true;
}

static void print_kernel(void *user, const struct kernel_timing *t)
{
	(void)user;
	printf("%-36s %9.3f ms", t->name, t->ms);
	if (t->gflop_per_s > 0)
		printf("  %7.1f GFLOP/s  %5.1f %% of product", t->gflop_per_s, 100 * t->peak_fraction);
	if (t->gbyte_per_s > 0)
		printf("  %6.1f GB/s", t->gbyte_per_s);
	printf("\n");
}

static bool parse_large(struct bench *k, struct error *err)
{
	for (int role = 0; role < ROLE_COUNT; role++) {
		if (!large[role])
			continue;
		struct checkpoint *c = k->roles[role] = calloc(1, sizeof *c);
		if (!c)
			return error_set(err, "out of memory");
		if (!(role == ROLE_ENCODER
				    ? checkpoint_parse_encoder(c, large[role], strlen(large[role]), "random", err)
				    : checkpoint_parse(c, large[role], strlen(large[role]), "random", err)))
			return false;
	}
	return true;
}

struct arguments {
	const char *model, *kernels;
	struct device_wish wish;
	bool random, run_kernels;
	int voxels;
};

static bool run_bench(struct bench *k, const struct arguments *a, struct error *err)
{
	struct model *m = NULL;
	bool ok;

	if (!device_open(&k->device, &a->wish, err))
		return false;
	k->b = k->device.backend;
	if (a->run_kernels)
		return kernel_bench_run(k->b, a->voxels, a->kernels, print_kernel, NULL, err);
	if (a->random) {
		ok = parse_large(k, err) && bench_stages(k, a->voxels, err);
		for (int role = 0; role < ROLE_COUNT; role++) {
			if (k->roles[role])
				checkpoint_finish(k->roles[role]);
			free(k->roles[role]);
		}
		return ok;
	}
	m = model_open(a->model, err);
	ok = m != NULL;
	if (ok) {
		printf("model %s\n", m->name);
		memcpy(k->roles, m->roles, sizeof k->roles);
		ok = bench_stages(k, a->voxels, err);
	}
	model_close(m);
	return ok;
}

int command_bench(int argc, char **argv)
{
	static const struct option options[] = {{"model", required_argument, NULL, 'm'},
		{"random", required_argument, NULL, 'r'}, {"voxels", required_argument, NULL, 'v'},
		{"kernels", optional_argument, NULL, 'k'}, {"stage", required_argument, NULL, 's'},
		{"device", required_argument, NULL, 'd'}, {"dtype", required_argument, NULL, 'y'},
		{"threads", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct arguments a = {.voxels = 10000};
	struct bench k = {0};
	struct error err;
	int option;

	while ((option = getopt_long(argc, argv, "m:r:v:k::s:d:t:h", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			a.model = optarg;
			break;
		case 'r':
			if (strcmp(optarg, "large"))
				return cli_usage(argv[0], "--random %s: only large is there", optarg);
			a.random = true;
			break;
		case 'v':
			if (!cli_number(&a.voxels, optarg, 10, 1000000))
				return cli_usage(argv[0], "--voxels %s: wanted 10..1000000", optarg);
			break;
		case 'k':
			a.run_kernels = true;
			a.kernels = optarg;
			break;
		case 's':
			k.only = optarg;
			break;
		case 'd':
			a.wish.name = optarg;
			break;
		case 'y':
			a.wish.dtype = optarg;
			break;
		case 't':
			if (!cli_number(&a.wish.threads, optarg, 1, 4096))
				return cli_usage(argv[0], "--threads %s: wanted a number from 1 to 4096", optarg);
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2; /* getopt has said why */
		}
	}
	if (optind < argc)
		return cli_usage(argv[0], "'%s' is not an option", argv[optind]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	bool ok = run_bench(&k, &a, &err);
	device_close(&k.device);
	free(k.coords);
	return ok ? 0 : cli_fail(argv[0], &err);
}
