/* check_cases.h - the kinds of cases that `trellis check` runs. Each prints its comparisons and counts them in c; what
 * cannot be run is a failed comparison. */
#ifndef TRELLIS_CHECK_CASES_H
#define TRELLIS_CHECK_CASES_H

#include "compare.h"
#include "device.h"

#include <sys/types.h>

struct check {
	struct comparison *c;
	struct backend *b; /* of the wish */
	struct device_wish wish;
	const char *root; /* the directory being checked: labels are relative to it */
	dev_t filesystem; /* of root, which is not left: /proc has links to everything */
};

/* ckpts/NAME.json with NAME.io.safetensors, NAME.mesh.safetensors, NAME.ply; sampler*.io.safetensors. */
void check_modules(struct check *k, const char *directory);
/* A DINOv2 directory with io.safetensors and maybe hub.safetensors. */
void check_encoder(struct check *k, const char *directory);
/* A complete pipeline with input.png, io.safetensors, mesh.safetensors, expect.ply, preprocessed.png. */
void check_pipeline(struct check *k, const char *directory);
/* NAME.io.safetensors of FlexiCubes alone. */
void check_flexicubes(struct check *k, const char *path);
/* Pictures NAME.png with NAME.expect.png, and lanczos.safetensors. */
void check_images(struct check *k, const char *directory);
/* rng.safetensors and rng.json. */
void check_random(struct check *k, const char *directory);

/* The part of a path below the checked directory, without .io.safetensors. */
void check_label(const struct check *k, char *label, size_t size, const char *path);
/* Tensor `name` of f as malloc'd floats, all finite, of ndim dimensions: dim[i] says what is wanted, or 0, which takes what is
 * there (1 at least) and gets it. NULL and err when it is missing or another. What a case computes with comes through here. */
float *check_input(const struct safetensors *f, const char *name, int ndim, int64_t *dim, struct error *err);
bool path_exists(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Compare the columns of an official Gaussian .ply with ours, rows [n, 14]. */
void check_ply(struct check *k, const char *path, const char *label, const float *rows, int64_t n);
/* FlexiCubes' result against NAME.mesh.safetensors or the expectations of g. */
void check_surface(struct golden *g, const struct surface *s);

#endif
