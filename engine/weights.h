/* weights.h - put a checkpoint's tensors on a device, bound to named fields, every name and shape checked.
 * Used by the network's stages when they are created. A binder is sticky: after the first failure it returns NULL and
 * does nothing, so that binding code is a straight list; binder_ok() tells at the end. */
#ifndef TRELLIS_WEIGHTS_H
#define TRELLIS_WEIGHTS_H

#include "backend.h"
#include "model.h"

/* Everything that a stage holds on its device; ended together. */
struct weight_set {
	struct backend *backend;
	struct weight **weights;
	void **buffers;
	int n_weights, n_buffers, weight_room, buffer_room;
};

void weight_set_init(struct weight_set *set, struct backend *b);
void weight_set_finish(struct weight_set *set);

struct linear {
	struct weight *weight; /* [out, in] */
	struct weight *bias;   /* [out] */
};

struct binder {
	struct backend *backend;
	const struct checkpoint *checkpoint; /* tensors NULL: random weights of the right shapes (benchmarks) */
	struct weight_set *set;
	struct error *err;
	bool failed;
	uint32_t random; /* state of the random weights */
};

/* Start a stage's binder over its own, empty set. */
struct binder binder_begin(
	struct weight_set *set, struct backend *backend, const struct checkpoint *checkpoint, struct error *err);
bool binder_ok(struct binder *b);

/* A zeroed stage struct, which begins with its weight_set; NULL and err when out of memory. */
void *stage_new(size_t size, struct error *err);
/* What a helper of b's device has made is b's from now on: b computes with it and frees it. The helper's work is done. */
void stage_hand_over(void *stage, struct backend *b);

/* A parameter read as one row of n numbers; its shape must be dims. */
struct weight *bind_vector(struct binder *b, int ndim, const int64_t *dims, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* NAME.weight (shape by kind) and NAME.bias. */
struct linear bind_linear(struct binder *b, enum weight_kind kind, int64_t out, int64_t in, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* A convolution over whole patches as a linear layer: NAME.weight [out, channels, size, size], NAME.bias. */
struct linear bind_patches(struct binder *b, int64_t out, int64_t channels, int64_t size, const char *name);
/* NAME.weight and NAME.bias of a normalisation over c channels. */
struct linear bind_norm(struct binder *b, int64_t c, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Linear layers of the same input stacked along their outputs: names[0..count), at most 3, out rows each. */
struct linear bind_stacked(struct binder *b, int64_t out, int64_t in, const char *const *names, int count);
/* Submanifold convolution of kernel size 1. spconv re-reads the stored [out, 1, 1, 1, in] block as a row-major
 * [in][out] matrix (its issue 450), and the released weights were trained that way. */
struct linear bind_pointwise(struct binder *b, int64_t out, int64_t in, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* A parameter as an f32 tensor [rows, cols] that ops take as data. Its element count must match. */
struct tensor bind_tensor(struct binder *b, int64_t rows, int64_t cols, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* A parameter in host memory, converted to f32; malloc'd, owned by the caller; NULL on failure. */
float *bind_host(struct binder *b, int64_t count, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* An f32 tensor that lives as long as the set, uninitialised. */
struct tensor bind_buffer(struct binder *b, int64_t rows, int64_t cols);

#endif
