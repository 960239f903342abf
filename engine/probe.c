/* probe.c - let a device compute and compare it with the oracle.
 * Used by `trellis doctor` and wherever a device is chosen. A few milliseconds. */
#include "probe.h"

#include "run.h"

#include <math.h>
#include <stdlib.h>

enum {
	ROWS = 80,
	IN = 96,
	OUT = 192, /* also q, k and v of HEADS heads of 32, side by side */
	HEADS = 2,
	RESULT = OUT / 3
};

/* Numbers in -1..1 that look random and are the same everywhere. */
static void fill(float *out, int64_t n, uint32_t seed)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t h = ((uint32_t)i + seed * 0x9e3779b9u) * 0x85ebca6bu;
		h = (h ^ h >> 13) * 0xc2b2ae35u;
		out[i] = (float)(int32_t)(h ^ h >> 16) * 0x1p-31f;
	}
}

/* attention(layer_norm(x w^T + bias)): a product, a norm and a kernel with exponentials. out [ROWS, RESULT] */
static bool compute(struct backend *b, float *out, struct error *err)
{
	static const float zeros[OUT];
	float x[ROWS * IN], w[OUT * IN];
	fill(x, ROWS * IN, 1);
	fill(w, OUT * IN, 2);
	size_t mark = scratch_mark(b);
	struct weight *weight = weight_create(b, WEIGHT_LINEAR, OUT, IN, DTYPE_F32, w);
	struct weight *bias = weight_create(b, WEIGHT_VECTOR, OUT, 1, DTYPE_F32, zeros);
	struct tensor in = scratch_new(b, ROWS, IN), hidden = scratch_new(b, ROWS, OUT),
		      y = scratch_new(b, ROWS, RESULT);
	op_upload(b, in, x);
	op_linear(b, hidden, in, weight, &(struct epilogue){.bias = bias});
	op_layer_norm(b, hidden, hidden, &(struct norm){.eps = 1e-6f});
	op_attention(b, y, tensor_columns(hidden, 0, RESULT), tensor_columns(hidden, RESULT, RESULT),
		tensor_columns(hidden, 2 * RESULT, RESULT), HEADS, NULL);
	op_download(b, out, y);
	bool ok = backend_finish(b, err);
	weight_destroy(b, weight);
	weight_destroy(b, bias);
	scratch_release(b, mark);
	return ok;
}

bool probe_backend(struct backend *b, struct error *err)
{
	float wanted[ROWS * RESULT], found[ROWS * RESULT];
	struct backend *oracle = backend_reference_create(err);
	bool ok = oracle && compute(oracle, wanted, err);
	backend_destroy(oracle);
	if (!ok || !compute(b, found, err))
		return false;
	double difference = 0, size = 0;
	for (int i = 0; i < ROWS * RESULT; i++) {
		difference += pow((double)found[i] - (double)wanted[i], 2);
		size += pow((double)wanted[i], 2);
	}
	/* Rounding of one product and a softmax: 1e-6 in f32, 1e-3 in half precision. A NaN fails too. */
	double limit = b->act == DTYPE_F32 ? 1e-5 : 1e-2, ratio = sqrt(difference / size);
	return ratio <= limit ||
	       error_set(err,
		       "%s computes wrong results: they differ from the oracle's by %.2g of their size (at most %g)",
		       b->ops->name, ratio, limit);
}

double probe_product_rate(struct backend *b, int n)
{
	float *values = malloc((size_t)n * (size_t)n * sizeof *values);
	double best = 0;
	if (!values)
		return 0;
	fill(values, (int64_t)n * n, 3);
	size_t mark = scratch_mark(b);
	struct weight *weight = weight_create(b, WEIGHT_LINEAR, n, n, DTYPE_F32, values);
	struct tensor x = scratch_new(b, n, n), y = scratch_new(b, n, n);
	op_upload(b, x, values);
	for (int i = 0; i < 20 && backend_ok(b); i++) {
		double start = clock_s();
		op_linear(b, y, x, weight, NULL);
		b->ops->sync(b);
		double rate = 2.0 * n * n * n / (clock_s() - start);
		best = rate > best ? rate : best;
	}
	weight_destroy(b, weight);
	scratch_release(b, mark);
	free(values);
	return backend_finish(b, NULL) ? best : 0;
}
