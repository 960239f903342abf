/* tiny_model.h - write a complete model directory of zeros, a few megabytes, for tests of the loader.
 * The tensors are those that model_tensors.h lists, so a test can take one away, reshape it or add one. */
#ifndef TRELLIS_TEST_TINY_MODEL_H
#define TRELLIS_TEST_TINY_MODEL_H

#include "model.h"
#include "model_tensors.h"
#include "tiny_json.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What to do to one tensor while writing. */
struct tiny_change {
	const char *tensor; /* NULL: nothing */
	enum { TINY_DROP, TINY_RESHAPE, TINY_INTEGER } what;
	const char *extra; /* a tensor more */
};

struct tiny_writer {
	struct safetensors_writer *w;
	const struct tiny_change *change;
};

static inline void tiny_write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	cr_assert(f, "%s", path);
	cr_assert_geq(fputs(text, f), 0);
	cr_assert_eq(fclose(f), 0);
}

static const float tiny_zeros[1 << 19];

static inline void tiny_add(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	struct tiny_writer *t = user;
	bool changed = t->change && t->change->tensor && strcmp(name, t->change->tensor) == 0;
	int64_t shape[ST_MAX_DIMS], count = 1;
	if (!required || (changed && t->change->what == TINY_DROP))
		return;
	for (int i = 0; i < ndim; i++)
		count *= shape[i] = dim[i] + (i == 0 && changed && t->change->what == TINY_RESHAPE);
	cr_assert_leq(count, 1 << 19);
	safetensors_writer_add(
		t->w, name, changed && t->change->what == TINY_INTEGER ? ST_I32 : ST_F32, ndim, shape, tiny_zeros);
}

/* The tensors of a described checkpoint. */
static inline void tiny_write_tensors(const char *path, const struct checkpoint *c, const struct tiny_change *change)
{
	struct error err = {""};
	struct tiny_writer t = {safetensors_writer_create(), change};
	model_tensors_list(c, tiny_add, &t);
	if (change && change->extra)
		safetensors_writer_add(t.w, change->extra, ST_F32, 1, (int64_t[]){1}, tiny_zeros);
	cr_assert(safetensors_writer_save(t.w, path, &err), "%s", err.text);
	safetensors_writer_destroy(t.w);
}

/* dir/name.json and dir/name.safetensors */
static inline void tiny_write_checkpoint(
	const char *dir, const char *name, const char *json, const struct tiny_change *change)
{
	struct error err = {""};
	struct checkpoint c = {0};
	char path[512];
	snprintf(path, sizeof path, "%s/%s.json", dir, name);
	tiny_write_text(path, json);
	cr_assert(checkpoint_parse(&c, json, strlen(json), path, &err), "%s", err.text);
	snprintf(path, sizeof path, "%s/%s.safetensors", dir, name);
	tiny_write_tensors(path, &c, change);
	checkpoint_finish(&c);
}

/* dir/config.json and dir/model.safetensors; makes dir */
static inline void tiny_write_encoder(const char *dir)
{
	struct error err = {""};
	struct checkpoint c = {0};
	char path[512];
	mkdir(dir, 0700);
	snprintf(path, sizeof path, "%s/config.json", dir);
	tiny_write_text(path, tiny_encoder);
	cr_assert(checkpoint_parse_encoder(&c, tiny_encoder, strlen(tiny_encoder), path, &err), "%s", err.text);
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	tiny_write_tensors(path, &c, NULL);
	checkpoint_finish(&c);
}

/* Everything but the encoder; makes dir */
static inline void tiny_write_model(const char *dir)
{
	char path[512];
	mkdir(dir, 0700);
	snprintf(path, sizeof path, "%s/pipeline.json", dir);
	tiny_write_text(path, tiny_pipeline);
	snprintf(path, sizeof path, "%s/ckpts", dir);
	mkdir(path, 0700);
	tiny_write_checkpoint(path, "ss_flow", tiny_ss_flow, NULL);
	tiny_write_checkpoint(path, "ss_dec", tiny_ss_dec, NULL);
	tiny_write_checkpoint(path, "slat_flow", tiny_slat_flow, NULL);
	tiny_write_checkpoint(path, "slat_dec_mesh", tiny_slat_dec_mesh, NULL);
	tiny_write_checkpoint(path, "slat_dec_gs", tiny_slat_dec_gs, NULL);
}

#endif
