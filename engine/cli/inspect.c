/* inspect.c - `trellis inspect`: what a model consists of and what is wrong with it. */
#include "commands.h"
#include "model.h"
#include "model_tensors.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: trellis inspect [--tensors] [MODEL]\n"
	"\n"
	"Lists the networks of a model: the role each plays in pipeline.json, its class, sizes, number of parameters,\n"
	"dtypes and file, then the sampler settings, then every fault: files that are missing or truncated, networks\n"
	"that do not fit together, tensors that are missing, misshapen or not expected. Reads headers only, so it "
	"takes\n"
	"no time and no memory, whatever the size of the model.\n"
	"\n"
	"MODEL is a directory or a hub id; without it, $TRELLIS_MODEL_PATH or the model that comes with the program.\n"
	"\n"
	"Options:\n"
	"  -t, --tensors  list every tensor with its dtype and shape\n"
	"  -h, --help     print this text\n"
	"\n"
	"Exit status: 0 when nothing is wrong, 1 when something is, 2 for wrong usage.\n";

#define MAX_FAULTS_SHOWN 40

struct faults {
	int n;
	struct {
		enum model_role role;
		char text[900];
	} shown[MAX_FAULTS_SHOWN];
};

static void collect_fault(void *user, enum model_role role, const char *what)
{
	struct faults *f = user;
	if (f->n < MAX_FAULTS_SHOWN) {
		f->shown[f->n].role = role;
		snprintf(f->shown[f->n].text, sizeof f->shown[f->n].text, "%s", what);
	}
	f->n++;
}

/* "F16 550.21 MB, F32 10.42 MB" */
static void print_dtypes(const struct checkpoint *c)
{
	double bytes[ST_BOOL + 1] = {0};
	const char *separator = "";
	for (int i = 0; i < safetensors_count(c->tensors); i++) {
		const struct st_tensor *t = safetensors_at(c->tensors, i);
		bytes[t->dtype] += (double)t->count * (double)st_dtype_size(t->dtype);
	}
	for (int i = 0; i <= ST_BOOL; i++) {
		if (bytes[i] == 0)
			continue;
		printf("%s%s %.2f MB", separator, st_dtype_name((enum st_dtype)i), bytes[i] / 1e6);
		separator = ", ";
	}
}

static void print_list(const char *label, const int *values, int n)
{
	printf(", %s", label);
	for (int i = 0; i < n; i++)
		printf("%s%d", i ? "-" : " ", values[i]);
}

/* The sizes that tell one configuration from another. */
static void print_sizes(const struct checkpoint *c)
{
	const struct model_config *g = &c->config;
	if (c->role == ROLE_STRUCTURE_DECODER) {
		printf("latent %d", g->latent_channels);
		print_list("channels", g->channels, g->n_channels);
		printf(", %d+%d residual blocks%s", g->num_res_blocks, g->num_res_blocks_middle,
			g->group_norm ? ", group norm" : "");
		return;
	}
	printf("%d x %d channels, %d heads, mlp %d", g->num_blocks, g->model_channels, g->num_heads, g->mlp_channels);
	switch (c->role) {
	case ROLE_ENCODER:
		printf(", image %d, patch %d, %d registers%s", g->image_size, g->patch_size, g->num_registers,
			c->hub_names ? ", torch.hub" : "");
		break;
	case ROLE_STRUCTURE_FLOW:
	case ROLE_LATENT_FLOW:
		printf(", grid %d, latent %d, condition %d, patch %d", g->resolution, g->in_channels, g->cond_channels,
			g->patch_size);
		if (g->n_io_block_channels)
			print_list("io", g->io_block_channels, g->n_io_block_channels);
		printf("%s%s%s", g->share_mod ? ", shared modulation" : "", g->qk_rms_norm ? ", qk norm" : "",
			g->qk_rms_norm_cross ? ", cross qk norm" : "");
		break;
	default:
		printf(", grid %d, latent %d, ", g->resolution, g->latent_channels);
		if (g->full_attention)
			printf("full attention");
		else
			printf("windows %d", g->window_size);
		if (c->role == ROLE_MESH_DECODER)
			printf("%s", g->use_color ? ", colour" : ", no colour");
		else
			printf(", %d Gaussians a voxel", g->num_gaussians);
	}
}

static void print_tensors(const struct checkpoint *c)
{
	for (int i = 0; i < safetensors_count(c->tensors); i++) {
		const struct st_tensor *t = safetensors_at(c->tensors, i);
		printf("    %-4s [", st_dtype_name(t->dtype));
		for (int d = 0; d < t->ndim; d++)
			printf("%s%lld", d ? ", " : "", (long long)t->dim[d]);
		printf("] %s\n", t->name);
	}
}

static void print_role(const struct model *m, enum model_role role, bool tensors)
{
	const struct checkpoint *c = m->roles[role];
	if (!c) {
		printf("%s: absent%s%s\n", model_role_name(role), m->absent[role] ? ": " : "",
			m->absent[role] ? m->absent[role] : "");
		return;
	}
	printf("%s: %s\n  ", model_role_name(role), c->class_name);
	print_sizes(c);
	printf("\n  %.2f million parameters in %d tensors, ", (double)model_tensors_parameters(c) / 1e6,
		safetensors_count(c->tensors));
	print_dtypes(c);
	printf("\n  %s\n", safetensors_path(c->tensors));
	if (tensors)
		print_tensors(c);
}

static void print_sampler(const char *name, const struct sampler_config *s)
{
	printf("%s: %d steps, rescale %g, ", name, s->steps, s->rescale_t);
	if (s->guided)
		printf("guidance %g for t in [%g, %g]\n", s->guidance, s->interval[0], s->interval[1]);
	else
		printf("no guidance\n");
}

static void print_model(const struct model *m, bool tensors)
{
	int64_t total = 0;
	printf("model: %s\n  %s\n", m->name, m->path);
	for (int i = 0; i < ROLE_COUNT; i++) {
		print_role(m, (enum model_role)i, tensors);
		total += m->roles[i] ? model_tensors_parameters(m->roles[i]) : 0;
	}
	print_sampler("structure sampler", &m->structure_sampler);
	print_sampler("latent sampler", &m->latent_sampler);
	printf("latent normalisation: %d channels\n", m->n_latent_norm);
	printf("in all: %.2f million parameters\n", (double)total / 1e6);
	if (*m->note)
		printf("note: %s\n", m->note);
}

static int inspect(const char *argv0, const char *path, bool tensors)
{
	struct error err;
	struct faults *faults = calloc(1, sizeof *faults);
	if (!faults) {
		error_set(&err, "out of memory");
		return cli_fail(argv0, &err);
	}
	struct model *m = model_open_reporting(path, collect_fault, faults, &err);
	int n = faults->n;
	if (m) {
		print_model(m, tensors);
		for (int i = 0; i < n && i < MAX_FAULTS_SHOWN; i++)
			printf("fault: %s: %s\n", model_role_name(faults->shown[i].role), faults->shown[i].text);
		if (n > MAX_FAULTS_SHOWN)
			printf("fault: and %d more\n", n - MAX_FAULTS_SHOWN);
		if (n)
			printf("%d fault%s\n", n, n == 1 ? "" : "s");
		else
			printf("nothing is wrong\n");
	}
	model_close(m);
	free(faults);
	if (!m)
		return cli_fail(argv0, &err);
	return n ? 1 : 0;
}

int command_inspect(int argc, char **argv)
{
	static const struct option options[] = {
		{"tensors", no_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	bool tensors = false;
	int option;
	while ((option = getopt_long(argc, argv, "th", options, NULL)) != -1) {
		switch (option) {
		case 't':
			tensors = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (argc - optind > 1)
		return cli_usage(argv[0], "one model at a time");
	return inspect(argv[0], argv[optind], tensors);
}
