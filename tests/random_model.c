/* random_model.c - write a model directory of TRELLIS-image-large's shapes with random weights: `random_model DIR [N]`.
 * For measuring whole jobs, loading and memory where the released weights can't be had. 3.3 GB: half precision flows
 * and decoders, an f32 encoder, as released.
 *
 * What comes out of a job is noise, but there are about N voxels (10,000) whatever the picture: the structure flow's
 * velocity is zero, so its latent is the seed's noise; the structure decoder's blocks pass that noise on and its last
 * layer compares it with a constant. The mesh decoder's subdivisions pass on what their parents have, so that the surface
 * is made of flat pieces rather than of noise. Every operation of the network still runs. */
#include "cli/large.h"
#include "model_tensors.h"
#include "random_weights.h"
#include "safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char pipeline[] =
	"{\"name\": \"TrellisImageTo3DPipeline\", \"args\": {\"models\": {"
	"\"sparse_structure_decoder\": \"ckpts/ss_dec_conv3d_16l8_fp16\","
	" \"sparse_structure_flow_model\": \"ckpts/ss_flow_img_dit_L_16l8_fp16\","
	" \"slat_decoder_mesh\": \"ckpts/slat_dec_mesh_swin8_B_64l8m256c_fp16\","
	" \"slat_flow_model\": \"ckpts/slat_flow_img_dit_L_64l8p2_fp16\"},"
	" \"sparse_structure_sampler\": {\"name\": \"FlowEulerGuidanceIntervalSampler\", \"args\": {\"sigma_min\": "
	"1e-5},"
	" \"params\": {\"steps\": 25, \"cfg_strength\": 5.0, \"cfg_interval\": [0.5, 1.0], \"rescale_t\": 3.0}},"
	" \"slat_sampler\": {\"name\": \"FlowEulerGuidanceIntervalSampler\", \"args\": {\"sigma_min\": 1e-5},"
	" \"params\": {\"steps\": 25, \"cfg_strength\": 5.0, \"cfg_interval\": [0.5, 1.0], \"rescale_t\": 3.0}},"
	" \"slat_normalization\": {\"mean\": [0, 0, 0, 0, 0, 0, 0, 0], \"std\": [1, 1, 1, 1, 1, 1, 1, 1]},"
	" \"image_cond_model\": \"dinov2_vitl14_reg\"}}";

static const struct {
	enum model_role role;
	const char *path;
} files[] = {{ROLE_STRUCTURE_FLOW, "ckpts/ss_flow_img_dit_L_16l8_fp16"},
	{ROLE_STRUCTURE_DECODER, "ckpts/ss_dec_conv3d_16l8_fp16"},
	{ROLE_LATENT_FLOW, "ckpts/slat_flow_img_dit_L_64l8p2_fp16"},
	{ROLE_MESH_DECODER, "ckpts/slat_dec_mesh_swin8_B_64l8m256c_fp16"}, {ROLE_ENCODER, "dinov2_vitl14_reg/model"}};

enum { POOL = 48 << 20 }; /* more numbers than any tensor has */

struct writer {
	struct safetensors_writer *out;
	enum model_role role;
	float threshold;
	float *pool;	  /* [POOL] */
	uint16_t *halves; /* the same, in half precision */
	void *own[64];	  /* tensors made up one by one */
	int n_own;
};

static void fail(const char *what)
{
	fprintf(stderr, "random_model: %s\n", what);
	exit(1);
}

/* Zeros that may be filled in. */
static uint16_t *own(struct writer *w, int64_t count)
{
	uint16_t *p = calloc((size_t)count, sizeof *p);
	if (!p || w->n_own == 64)
		fail("out of memory");
	w->own[w->n_own++] = p;
	return p;
}

/* The middle tap of a 3x3x3 convolution [out, in, 27]. */
static void pass(uint16_t *weight, int64_t in, int64_t to, int64_t from, float value)
{
	weight[(to * in + from) * 27 + 13] = cut_to_half(value);
}

/* The structure decoder: channel 0 carries the noise, channel 1 a constant. In the finest subdivision they go to four of
 * eight children only, so that voxels lie in sheets. NULL: random will do. */
static uint16_t *decoder_tensor(struct writer *w, const char *name, int ndim, const int64_t *dim, int64_t count)
{
	uint16_t *p;
	if (!strcmp(name, "input_layer.weight")) {
		pass(p = own(w, count), dim[1], 0, 0, 1);
	} else if (!strcmp(name, "input_layer.bias")) {
		(p = own(w, count))[1] = cut_to_half(w->threshold);
	} else if (!strcmp(name, "out_layer.0.weight")) {
		p = own(w, count);
		for (int64_t i = 0; i < count; i++)
			p[i] = cut_to_half(1);
	} else if (!strcmp(name, "out_layer.2.weight")) {
		p = own(w, count);
		pass(p, dim[1], 0, 0, 1);
		pass(p, dim[1], 0, 1, -1);
	} else if (ndim == 5 && ends_with(name, ".conv.weight")) {
		p = own(w, count);
		for (int64_t channel = 0; channel < 2; channel++)
			for (int64_t child = 0; child < (dim[0] > 8 * 100 ? 8 : 4); child++)
				pass(p, dim[1], 8 * channel + child, channel, 1);
	} else if (ends_with(name, ".conv2.weight") || ends_with(name, "bias")) {
		p = own(w, count);
	} else {
		return NULL;
	}
	return p;
}

static void add(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	struct writer *w = user;
	int64_t count = 1;
	uint16_t *made = NULL;
	if (!required)
		return;
	for (int i = 0; i < ndim; i++)
		count *= dim[i];
	if (count > POOL)
		fail("a tensor is larger than expected");
	if (w->role == ROLE_STRUCTURE_DECODER)
		made = decoder_tensor(w, name, ndim, dim, count);
	else if (w->role == ROLE_MESH_DECODER && strstr(name, ".out_layers.3.conv."))
		made = own(w, count);
	else if (w->role == ROLE_STRUCTURE_FLOW && !strncmp(name, "out_layer.", 10))
		made = own(w, count);
	size_t first = (size_t)rand() % (size_t)(POOL - count + 1);
	if (w->role == ROLE_ENCODER)
		safetensors_writer_add(w->out, name, ST_F32, ndim, dim, w->pool + first);
	else
		safetensors_writer_add(w->out, name, ST_F16, ndim, dim, made ? made : w->halves + first);
}

static void write_text(const char *dir, const char *name, const char *text)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f))
		fail(path);
}

static void write_checkpoint(struct writer *w, const char *dir, int i)
{
	struct checkpoint c = {0};
	struct error err;
	char name[256], path[4096];
	const char *json = large[files[i].role];
	w->role = files[i].role;
	w->out = safetensors_writer_create();
	if (!(w->role == ROLE_ENCODER ? checkpoint_parse_encoder(&c, json, strlen(json), "large", &err)
				      : checkpoint_parse(&c, json, strlen(json), "large", &err)))
		fail(err.text);
	if (w->role != ROLE_ENCODER) {
		snprintf(name, sizeof name, "%s.json", files[i].path);
		write_text(dir, name, json);
	} else {
		write_text(dir, "dinov2_vitl14_reg/config.json", json);
	}
	model_tensors_list(&c, add, w);
	snprintf(path, sizeof path, "%s/%s.safetensors", dir, files[i].path);
	if (!safetensors_writer_save(w->out, path, &err))
		fail(err.text);
	safetensors_writer_destroy(w->out);
	while (w->n_own)
		free(w->own[--w->n_own]);
	checkpoint_finish(&c);
}

int main(int argc, char **argv)
{
	struct writer w = {.pool = malloc(POOL * sizeof(float)), .halves = malloc(POOL * sizeof(uint16_t))};
	double voxels = argc > 2 ? atof(argv[2]) : 10000, low = -6, high = 6;
	char path[4096];
	uint32_t state = 1;
	if (argc < 2 || voxels <= 0 || !w.pool || !w.halves)
		fail("usage: random_model DIR [VOXELS]");
	for (int64_t i = 0; i < POOL; i++) {
		state = state * 1664525u + 1013904223u;
		w.pool[i] = (float)((int32_t)state >> 8) * (0.05f / (1 << 23));
		w.halves[i] = cut_to_half(w.pool[i]);
	}
	/* 16^3 normal numbers, each above the threshold giving 32 voxels */
	for (int i = 0; i < 60; i++) {
		w.threshold = (float)((low + high) / 2);
		if (4096 * 32 * erfc((double)w.threshold * M_SQRT1_2) / 2 > voxels)
			low = (double)w.threshold;
		else
			high = (double)w.threshold;
	}
	mkdir(argv[1], 0755);
	snprintf(path, sizeof path, "%s/ckpts", argv[1]);
	mkdir(path, 0755);
	snprintf(path, sizeof path, "%s/dinov2_vitl14_reg", argv[1]);
	mkdir(path, 0755);
	write_text(argv[1], "pipeline.json", pipeline);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		write_checkpoint(&w, argv[1], (int)i);
	free(w.pool);
	free(w.halves);
	return 0;
}
