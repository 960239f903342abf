/* cpu_onednn.h - matrix products and dense convolutions through oneDNN, 2.6 or 3.x. The only file that includes its
 * headers is cpu_onednn.c. Used by cpu_product.c. Everything is f32. */
#ifndef TRELLIS_CPU_ONEDNN_H
#define TRELLIS_CPU_ONEDNN_H

#include "backend.h"

struct onednn;	      /* engine, stream and the primitives made so far; one thread at a time */
struct onednn_weight; /* a weight in the layout that oneDNN chose */

/* "2.6.3": the library that is loaded. */
void onednn_version(char *text, size_t size);

struct onednn *onednn_create(int threads, struct error *err);
void onednn_destroy(struct onednn *o); /* NULL is fine */

/* Takes plain [out, in] (kind WEIGHT_LINEAR) or [out, in, 3, 3, 3] (WEIGHT_CONV3), malloc'd, also when it fails. */
struct onednn_weight *onednn_weight_create(
	struct onednn *o, enum weight_kind kind, int64_t out, int64_t in, float *plain, struct error *err);
void onednn_weight_destroy(struct onednn_weight *w); /* NULL is fine */

/* y[n, out] = x[n, in] w^T + bias; bias [out] or NULL. Views may be strided. */
bool onednn_linear(struct onednn *o, struct tensor y, struct tensor x, struct onednn_weight *w, const float *bias,
	struct error *err);
/* 3x3x3 with zero padding 1 on a cube of resolution^3 rows. x and y have no gaps between rows. The weight settles on
 * the layout of the first resolution that it meets. */
bool onednn_conv3d(struct onednn *o, struct tensor y, struct tensor x, struct onednn_weight *w, int64_t resolution,
	const float *bias, struct error *err);

#endif
