/* check_files.c - `trellis check`: encoders, whole pipelines, FlexiCubes, pictures and random numbers. */
#include "check_cases.h"
#include "flexicubes.h"
#include "pipeline.h"
#include "prepare_image.h"
#include "resize.h"
#include "rng.h"
#include "cli/sha256.h"
#include "stages.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- DINOv2 ---- */

/* One picture size: tensors under "HxW.". */
static bool run_encoder(struct check *k, struct safetensors *io, const struct checkpoint *c, const char *label,
	const char *size, struct error *err)
{
	char name[96], prefix[64];
	int64_t dim[4] = {1, c->config.in_channels};
	struct golden g;
	struct run run;
	size_t mark = scratch_mark(k->b);
	bool ok = false;

	snprintf(prefix, sizeof prefix, "%s.", size);
	snprintf(name, sizeof name, "%s.in.image", size);
	float *pixels = check_input(io, name, 4, dim, err), *tokens = NULL;
	if (!pixels)
		return false;
	int height = (int)dim[2], width = (int)dim[3], patch = c->config.patch_size;
	if (dim[2] % patch || dim[3] % patch || dim[2] > 4096 || dim[3] > 4096) {
		free(pixels);
		return error_set(err, "%s: %s: %lld x %lld pixels are no patches of %d", safetensors_path(io), name,
			(long long)dim[2], (long long)dim[3], patch);
	}
	if (!golden_open(&g, k->c, io, label, prefix, "", err)) {
		free(pixels);
		return false;
	}
	struct tap_sink taps = golden_taps(&g);
	run_init(&run, k->b, NULL, NULL);
	run.taps = &taps;
	struct image_encoder *e = image_encoder_create(&run, c, err);
	if (e) {
		int64_t n = image_encoder_tokens(c, height, width), channels = c->config.model_channels;
		struct tensor out = scratch_new_as(k->b, DTYPE_F32, n, channels);
		normalise_pixels(pixels, (int64_t)height * width);
		image_encoder_forward(&run, e, out, pixels, height, width);
		tokens = malloc((size_t)(n * channels) * sizeof *tokens);
		if (tokens)
			op_download(k->b, tokens, out);
		ok = backend_finish(k->b, err) && tokens;
		if (ok)
			golden_matrix(&g, "tokens", tokens, n, channels);
	}
	image_encoder_destroy(e);
	run_finish(&run);
	scratch_release(k->b, mark);
	golden_close(&g);
	free(tokens);
	free(pixels);
	return ok;
}

static void run_sizes(struct check *k, struct safetensors *io, const struct checkpoint *c, const char *label)
{
	struct error err = {0};

	for (int i = 0; i < safetensors_count(io); i++) {
		const char *name = safetensors_at(io, i)->name, *tail = strstr(name, ".in.image");
		char size[32];
		if (!tail || tail[9] || (size_t)(tail - name) >= sizeof size)
			continue;
		snprintf(size, sizeof size, "%.*s", (int)(tail - name), name);
		if (!run_encoder(k, io, c, label, size, &err))
			compare_error(k->c, label, err.text);
	}
}

void check_encoder(struct check *k, const char *directory)
{
	struct checkpoint c = {0};
	struct error err = {0};
	char path[4096], label[160];

	check_label(k, label, sizeof label, directory);
	snprintf(path, sizeof path, "%s/io.safetensors", directory);
	struct safetensors *io = safetensors_open(path, &err);
	bool ok = io && checkpoint_open_encoder(&c, directory, &err);
	if (ok)
		run_sizes(k, io, &c, label);
	snprintf(path, sizeof path, "%s/hub.safetensors", directory);
	if (ok && path_exists("%s", path)) { /* the same weights under torch.hub's names */
		struct safetensors *own = c.tensors;
		c.tensors = safetensors_open(path, &err);
		c.hub_names = true;
		snprintf(label + strlen(label), sizeof label - strlen(label), " (hub)");
		if (c.tensors)
			run_sizes(k, io, &c, label);
		ok = c.tensors != NULL;
		safetensors_close(c.tensors);
		c.tensors = own;
	}
	if (!ok)
		compare_error(k->c, label, err.text);
	checkpoint_finish(&c);
	safetensors_close(io);
}

/* ---- a whole pipeline ---- */

static void compare_preprocessed(struct check *k, const char *directory, const char *label,
	const struct trellis_image *image, int size, struct error *err)
{
	char path[4096];
	struct trellis_image wanted;
	float *pixels;
	uint8_t *rgb;
	const char *cutout;

	snprintf(path, sizeof path, "%s/preprocessed.png", directory);
	if (!path_exists("%s", path))
		return;
	if (!trellis_image_load(&wanted, path, err)) {
		compare_error(k->c, label, err->text);
		return;
	}
	if (wanted.width != size || wanted.height != size || !prepare_image(&pixels, &rgb, image, size, &cutout, err)) {
		compare_error(k->c, label, "the picture cannot be prepared at the size of preprocessed.png");
	} else {
		for (int64_t i = 0; i < (int64_t)size * size * 3; i++) /* drop the alpha of what we read, in place */
			wanted.rgba[i] = wanted.rgba[i / 3 * 4 + i % 3];
		compare_bytes(k->c, label, "preprocessed", rgb, wanted.rgba, (int64_t)size * size * 3);
		free(pixels);
		free(rgb);
	}
	trellis_image_finish(&wanted);
}

static void compare_record(struct golden *g, const struct pipeline_record *r)
{
	int64_t volume = r->structure_channels * r->resolution * r->resolution * r->resolution;

	golden_matrix(g, "cond", r->cond, r->tokens, r->cond_channels);
	golden_flat(g, "ss_noise", r->ss_noise, volume);
	golden_flat(g, "z_s", r->z_s, volume);
	golden_integers(g, "coords", r->coords, r->n, 4);
	golden_matrix(g, "slat_noise", r->slat_noise, r->n, r->latent_channels);
	golden_matrix(g, "slat", r->slat, r->n, r->latent_channels);
}

static void compare_pipeline(struct check *k, struct trellis *t, const char *directory, const char *label,
	bool gaussians, int size, struct error *err)
{
	char path[4096];
	struct golden g;
	struct pipeline_record record = {0};
	struct trellis_params params = trellis_params_default();
	struct trellis_image image = {0};
	struct trellis_latent latent = {0};
	struct trellis_mesh mesh = {0};

	snprintf(path, sizeof path, "%s/io.safetensors", directory);
	struct safetensors *io = safetensors_open(path, err), *surface = NULL;
	const struct st_tensor *seed = io ? safetensors_find(io, "seed") : NULL;
	snprintf(path, sizeof path, "%s/input.png", directory);
	bool ok = io && trellis_image_load(&image, path, err);
	if (ok && seed && seed->dtype == ST_I64)
		memcpy(&params.seed, seed->data, 8);
	params.raw_mesh = true;
	params.want_gaussians = gaussians;
	if (ok)
		compare_preprocessed(k, directory, label, &image, size, err);
	trellis_record(t, &record);
	ok = ok && trellis_generate(t, &image, 1, &params, NULL, NULL, &latent, err) &&
	     trellis_decode(t, &latent, &params, NULL, NULL, &mesh, err);
	if (ok && golden_open(&g, k->c, io, label, "", "", err)) {
		compare_record(&g, &record);
		golden_close(&g);
	}
	snprintf(path, sizeof path, "%s/mesh.safetensors", directory);
	if (ok && path_exists("%s", path)) {
		surface = safetensors_open(path, err);
		ok = surface && golden_open(&g, k->c, surface, label, "", "", err);
		if (ok) {
			check_surface(&g, &record.surface);
			golden_close(&g);
		}
	}
	snprintf(path, sizeof path, "%s/expect.ply", directory);
	if (ok && path_exists("%s", path))
		check_ply(k, path, label, mesh.gaussians, mesh.n_gaussians);
	if (!ok)
		compare_error(k->c, label, err->text);
	trellis_record(t, NULL);
	pipeline_record_finish(&record);
	trellis_mesh_finish(&mesh);
	trellis_latent_finish(&latent);
	trellis_image_finish(&image);
	safetensors_close(surface);
	safetensors_close(io);
}

void check_pipeline(struct check *k, const char *directory)
{
	char label[160];
	struct error err = {0};
	struct model *m = model_open(directory, &err);
	bool gaussians = m && m->roles[ROLE_GAUSSIAN_DECODER];
	int size = m && m->roles[ROLE_ENCODER] ? m->roles[ROLE_ENCODER]->config.image_size : 518;

	check_label(k, label, sizeof label, directory);
	struct trellis *t = trellis_assemble(m, &k->wish, &err);
	if (t)
		compare_pipeline(k, t, directory, label, gaussians, size, &err);
	else
		compare_error(k->c, label, err.text);
	trellis_destroy(t);
}

/* The 17 columns of the official file, grouped; ours are the same without the normals. */
void check_ply(struct check *k, const char *path, const char *label, const float *rows, int64_t n)
{
	static const struct {
		const char *name;
		int official, own, width;
	} groups[] = {{"ply.xyz", 0, 0, 3}, {"ply.f_dc", 6, 3, 3}, {"ply.opacity", 9, 6, 1}, {"ply.scale", 10, 7, 3},
		{"ply.rot", 13, 10, 4}};
	FILE *f = fopen(path, "rb");
	char line[256];
	long long count = -1;
	float *official = NULL;

	while (f && fgets(line, sizeof line, f) && strcmp(line, "end_header\n"))
		sscanf(line, "element vertex %lld", &count);
	if (count == n)
		official = malloc((size_t)n * 17 * sizeof *official + 1);
	if (!official || fread(official, 17 * sizeof *official, (size_t)n, f) != (size_t)n) {
		compare_error(k->c, label, "the .ply has another number of Gaussians");
	} else {
		for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
			int width = groups[i].width;
			float *a = malloc((size_t)(n * width) * sizeof *a + 1),
			      *b = malloc((size_t)(n * width) * sizeof *b + 1);
			for (int64_t j = 0; a && b && j < n * width; j++) {
				a[j] = rows[j / width * 14 + groups[i].own + j % width];
				b[j] = official[j / width * 17 + groups[i].official + j % width];
			}
			if (a && b)
				compare_floats(k->c, label, groups[i].name, a, b, n, width);
			free(a);
			free(b);
		}
	}
	free(official);
	if (f)
		fclose(f);
}

/* ---- FlexiCubes ---- */

/* in.sdf, in.deform, in.weights, in.colors (may be absent) and in.resolution, which is returned; 0: err. */
static int64_t read_grid(float *in[5], const struct safetensors *f, struct error *err)
{
	in[4] = check_input(f, "in.resolution", 1, (int64_t[]){1}, err);
	if (!in[4])
		return 0;
	if (!(in[4][0] >= 1 && in[4][0] <= 512)) {
		error_set(err, "%s: in.resolution is %g, wanted 1 to 512", safetensors_path(f), (double)in[4][0]);
		return 0;
	}
	int64_t r = (int64_t)in[4][0], corners = (r + 1) * (r + 1) * (r + 1);
	bool has_color = safetensors_find(f, "in.colors");
	bool ok = (in[0] = check_input(f, "in.sdf", 1, (int64_t[]){corners}, err)) &&
		  (in[1] = check_input(f, "in.deform", 2, (int64_t[]){corners, 3}, err)) &&
		  (in[2] = check_input(f, "in.weights", 2, (int64_t[]){r * r * r, 21}, err)) &&
		  (!has_color || (in[3] = check_input(f, "in.colors", 2, (int64_t[]){corners, 6}, err)));
	return ok ? r : 0;
}

void check_flexicubes(struct check *k, const char *path)
{
	char label[160];
	struct error err = {0};
	struct golden g;
	struct surface s = {0};
	float *in[5] = {0}, *positions = NULL;
	int32_t *cases = NULL;
	int64_t n_cases = 0;
	struct safetensors *f = safetensors_open(path, &err);
	bool ok = f != NULL;
	int half = k->c->half;

	k->c->half = 0; /* done in f32 wherever */
	check_label(k, label, sizeof label, path);
	int64_t r = ok ? read_grid(in, f, &err) : 0;
	ok = r > 0;
	if (ok) {
		positions = malloc((size_t)((r + 1) * (r + 1) * (r + 1)) * 3 * sizeof *positions);
		ok = positions &&
		     flexicubes_from_grid(&s, in[0], in[1], in[2], in[3], r, positions, &cases, &n_cases, &err) &&
		     golden_open(&g, k->c, f, label, "", "", &err);
		if (ok) {
			golden_matrix(&g, "positions", positions, (r + 1) * (r + 1) * (r + 1), 3);
			golden_integers(&g, "case_ids", cases, n_cases, 1);
			check_surface(&g, &s);
			golden_close(&g);
		}
	}
	if (!ok)
		compare_error(k->c, label, err.text);
	for (int i = 0; i < 5; i++)
		free(in[i]);
	free(positions);
	free(cases);
	k->c->half = half;
	surface_finish(&s);
	safetensors_close(f);
}

/* ---- pictures ---- */

static void check_picture(struct check *k, const char *directory, const char *name)
{
	char path[4096], label[160];
	struct trellis_image image = {0}, wanted = {0};
	struct error err = {0};
	const char *cutout;
	float *pixels = NULL;
	uint8_t *rgb = NULL;

	snprintf(path, sizeof path, "%s/%s.expect.png", directory, name);
	bool ok = trellis_image_load(&wanted, path, &err);
	snprintf(path, sizeof path, "%s/%s.png", directory, name);
	check_label(k, label, sizeof label, path);
	ok = ok && trellis_image_load(&image, path, &err) && wanted.width == wanted.height &&
	     prepare_image(&pixels, &rgb, &image, wanted.width, &cutout, &err);
	if (ok) {
		int64_t count = (int64_t)wanted.width * wanted.height * 3;
		for (int64_t i = 0; i < count; i++)
			wanted.rgba[i] = wanted.rgba[i / 3 * 4 + i % 3];
		compare_bytes(k->c, label, "preprocessed", rgb, wanted.rgba, count);
	} else {
		compare_error(k->c, label, err.text[0] ? err.text : "the expected picture is not square");
	}
	free(pixels);
	free(rgb);
	trellis_image_finish(&image);
	trellis_image_finish(&wanted);
}

static bool is_picture(const struct st_tensor *t)
{
	return t->ndim == 3 && t->dim[0] >= 1 && t->dim[0] <= 16384 && t->dim[1] >= 1 && t->dim[1] <= 16384 &&
	       (t->dim[2] == 3 || t->dim[2] == 4);
}

/* MODE.WxH.to.WxH.in and .expect, U8 [H, W, channels]. */
static void check_resampling(struct check *k, struct safetensors *f, const struct st_tensor *in, const char *label)
{
	char name[128];
	size_t stem = strlen(in->name) - 3;
	struct trellis_image image = {.height = (int)in->dim[0], .width = (int)in->dim[1]};
	struct error err = {0};
	uint8_t *out = NULL;
	int64_t channels = in->dim[2], pixels = in->dim[0] * in->dim[1];

	snprintf(name, sizeof name, "%.*s.expect", (int)stem, in->name);
	const struct st_tensor *wanted = safetensors_find(f, name);
	image.rgba = malloc((size_t)pixels * 4);
	if (!wanted || wanted->dtype != ST_U8 || !is_picture(in) || !is_picture(wanted) || wanted->dim[2] != channels ||
		!image.rgba) {
		compare_error(k->c, label, "a resampling case is not complete");
		free(image.rgba);
		return;
	}
	for (int64_t i = 0; i < pixels * 4; i++)
		image.rgba[i] = i % 4 < channels ? ((const uint8_t *)in->data)[i / 4 * channels + i % 4] : 255;
	image.has_alpha = channels == 4;
	if (resize_lanczos(&out, (int)wanted->dim[1], (int)wanted->dim[0], &image,
		    &(struct resize_box){0, 0, image.width, image.height}, &err)) {
		for (int64_t i = 0; i < wanted->count; i++)
			out[i] = out[i / channels * 4 + i % channels];
		compare_bytes(k->c, label, name, out, wanted->data, wanted->count);
	} else {
		compare_error(k->c, label, err.text);
	}
	free(out);
	free(image.rgba);
}

void check_images(struct check *k, const char *directory)
{
	struct dirent **entries;
	char path[4096], label[160], name[512];
	struct error err = {0};
	int n = scandir(directory, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		const char *tail = strstr(entries[i]->d_name, ".expect.png");
		if (tail) {
			snprintf(name, sizeof name, "%.*s", (int)(tail - entries[i]->d_name), entries[i]->d_name);
			check_picture(k, directory, name);
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	snprintf(path, sizeof path, "%s/lanczos.safetensors", directory);
	if (!path_exists("%s", path))
		return;
	check_label(k, label, sizeof label, path);
	struct safetensors *f = safetensors_open(path, &err);
	if (!f)
		compare_error(k->c, label, err.text);
	for (int i = 0; f && i < safetensors_count(f); i++) {
		const struct st_tensor *t = safetensors_at(f, i);
		size_t length = strlen(t->name);
		if (length > 3 && !strcmp(t->name + length - 3, ".in") && t->dtype == ST_U8 && t->ndim == 3)
			check_resampling(k, f, t, label);
	}
	safetensors_close(f);
}

/* ---- random numbers ---- */

/* The numbers of draw "ss" ([1, 8, 16, 16, 16]) and then "slat" ([n, 8]) after one seed; malloc'd. */
static float *draw(uint64_t seed, int64_t n, bool slat, int64_t *count)
{
	enum { STRUCTURE = 8 * 16 * 16 * 16 };
	struct rng rng;
	int64_t most = n * 8 > STRUCTURE ? n * 8 : STRUCTURE;
	float *out = malloc((size_t)most * sizeof *out);

	if (!out)
		return NULL;
	rng_seed(&rng, seed);
	rng_normal(&rng, out, STRUCTURE);
	*count = STRUCTURE;
	if (slat)
		rng_normal(&rng, out, *count = n * 8);
	return out;
}

/* seedS.nN.DRAW.PART: first, last or full numbers of a draw. */
static void check_draw(struct check *k, const struct st_tensor *t, const char *label)
{
	char kind[16], part[16];
	uint64_t seed;
	int64_t n, count, from;

	if (sscanf(t->name, "seed%" SCNu64 ".n%" SCNd64 ".%15[a-z].%15[a-z]", &seed, &n, kind, part) != 4 || n < 1 ||
		n > 1 << 24 || t->dtype != ST_F32) {
		compare_error(k->c, label, "a draw with an unknown name");
		return;
	}
	float *numbers = draw(seed, n, !strcmp(kind, "slat"), &count);
	bool ok = numbers && t->count <= count;
	from = ok && !strcmp(part, "last") ? count - t->count : 0;
	if (ok)
		compare_bytes(k->c, label, t->name, numbers + from, t->data, t->count * 4);
	else
		compare_error(k->c, label, "a draw of another size");
	free(numbers);
}

static void check_sums(struct check *k, const char *path, const char *label)
{
	json_t *root = json_load_file(path, 0, NULL), *entry;
	size_t i;

	if (!root)
		compare_error(k->c, label, "rng.json cannot be read");
	json_array_foreach(json_object_get(root, "draws"), i, entry)
	{
		const char *kind = json_string_value(json_object_get(entry, "draw"));
		const char *sum = json_string_value(json_object_get(entry, "sha256"));
		json_int_t seed = json_integer_value(json_object_get(entry, "seed")),
			   n = json_integer_value(json_object_get(entry, "n"));
		int64_t count;
		char hex[65], name[96];
		float *numbers = kind && sum && n > 0 && n < 1 << 24
					 ? draw((uint64_t)seed, n, !strcmp(kind, "slat"), &count)
					 : NULL;
		if (!numbers) {
			compare_error(k->c, label, "rng.json has a malformed draw");
			continue;
		}
		sha256_hex(hex, numbers, (size_t)count * 4);
		snprintf(name, sizeof name, "sha256 seed%lld.n%lld.%s", (long long)seed, (long long)n, kind);
		compare_bytes(k->c, label, name, hex, sum, strlen(sum) == 64 ? 64 : 65);
		free(numbers);
	}
	json_decref(root);
}

void check_random(struct check *k, const char *directory)
{
	char path[4096];
	struct error err = {0};

	snprintf(path, sizeof path, "%s/rng.safetensors", directory);
	if (path_exists("%s", path)) {
		struct safetensors *f = safetensors_open(path, &err);
		if (!f)
			compare_error(k->c, "rng", err.text);
		for (int i = 0; f && i < safetensors_count(f); i++)
			check_draw(k, safetensors_at(f, i), "rng");
		safetensors_close(f);
	}
	snprintf(path, sizeof path, "%s/rng.json", directory);
	if (path_exists("%s", path))
		check_sums(k, path, "rng");
}
