/* probe.c - let a device compute and compare it with the oracle.
 * Used by `trellis doctor` and wherever a device is chosen. A few milliseconds. */
#include "probe.h"

#include "run.h"

#include <math.h>
#include <stdlib.h>

enum {
	ROWS = 80, /* also voxels of a 4 x 4 x 5 block */
	IN = 96,
	OUT = 192, /* also q, k and v of HEADS heads of 32, side by side */
	HEADS = 2,
	RESULT = OUT / 3,
	CHANNELS = 32, /* of the convolutions */
	SIDE = 4,      /* of the dense one's cube, which takes the first rows */
	CUBE = SIDE * SIDE * SIDE
};

/* Of each kind of kernel. */
struct results {
	float attention[ROWS * RESULT], sparse[ROWS * CHANNELS], dense[CUBE * CHANNELS];
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

/* The device's weights of the probe. */
struct weights {
	struct weight *product, *bias, *sparse, *dense;
};

static bool weights_create(struct backend *b, struct weights *w, struct error *err)
{
	static const float zeros[OUT];
	const int most = 27 * RESULT * CHANNELS; /* of the largest */
	float *values = malloc((size_t)most * sizeof *values);
	if (!values)
		return error_set(err, "out of memory");
	fill(values, most, 2);
	w->product = weight_create(b, WEIGHT_LINEAR, OUT, IN, DTYPE_F32, values);
	w->bias = weight_create(b, WEIGHT_VECTOR, OUT, 1, DTYPE_F32, zeros);
	w->sparse = weight_create(b, WEIGHT_SPARSE3, CHANNELS, RESULT, DTYPE_F32, values);
	w->dense = weight_create(b, WEIGHT_CONV3, CHANNELS, CHANNELS, DTYPE_F32, values);
	free(values);
	return true;
}

/* attention(layer_norm(x w^T + bias)), a sparse convolution of that, and a dense one of that. */
static void forward(struct backend *b, struct results *r, const struct weights *w)
{
	float x[ROWS * IN];
	int32_t at[ROWS * 3];
	fill(x, ROWS * IN, 1);
	for (int i = 0; i < ROWS; i++) {
		at[3 * i] = i / 16;
		at[3 * i + 1] = i / 4 % 4;
		at[3 * i + 2] = i % 4;
	}
	struct tensor in = scratch_new(b, ROWS, IN), hidden = scratch_new(b, ROWS, OUT),
		      y = scratch_new(b, ROWS, RESULT), s = scratch_new(b, ROWS, CHANNELS),
		      d = scratch_new(b, CUBE, CHANNELS), coords = scratch_new_as(b, DTYPE_I32, ROWS, 3),
		      table = scratch_new_as(b, DTYPE_I32, ROWS, NEIGHBOUR_COLS);
	op_upload(b, in, x);
	op_upload_i32(b, coords, at);
	op_linear(b, hidden, in, w->product, &(struct epilogue){.bias = w->bias});
	op_layer_norm(b, hidden, hidden, &(struct norm){.eps = 1e-6f});
	op_attention(b, y, tensor_columns(hidden, 0, RESULT), tensor_columns(hidden, RESULT, RESULT),
		tensor_columns(hidden, 2 * RESULT, RESULT), HEADS, NULL);
	op_neighbours(b, table, coords);
	op_sparse_conv(b, s, y, w->sparse, table, NULL);
	op_conv3d(b, d, tensor_rows(s, 0, CUBE), w->dense, SIDE, NULL);
	op_download(b, r->attention, y);
	op_download(b, r->sparse, s);
	op_download(b, r->dense, d);
}

static bool compute(struct backend *b, struct results *r, struct error *err)
{
	struct weights w = {0};
	size_t mark = scratch_mark(b);
	if (!weights_create(b, &w, err))
		return false;
	forward(b, r, &w);
	bool ok = backend_finish(b, err);
	weight_destroy(b, w.product);
	weight_destroy(b, w.bias);
	weight_destroy(b, w.sparse);
	weight_destroy(b, w.dense);
	scratch_release(b, mark);
	return ok;
}

/* |found - wanted| / |wanted| */
static double distance(const float *found, const float *wanted, int n)
{
	double difference = 0, size = 0;
	for (int i = 0; i < n; i++) {
		difference += pow((double)found[i] - (double)wanted[i], 2);
		size += pow((double)wanted[i], 2);
	}
	return sqrt(difference / size);
}

bool probe_backend(struct backend *b, struct error *err)
{
	struct results wanted, found;
	struct backend *oracle = backend_reference_create(err);
	bool ok = oracle && compute(oracle, &wanted, err);
	backend_destroy(oracle);
	if (!ok || !compute(b, &found, err))
		return false;
	const double ratios[] = {distance(found.attention, wanted.attention, ROWS * RESULT),
		distance(found.sparse, wanted.sparse, ROWS * CHANNELS),
		distance(found.dense, wanted.dense, CUBE * CHANNELS)};
	/* Rounding of some products and a softmax: 1e-6 in f32, 1e-3 to 5e-3 in half precision. A NaN fails too. */
	double limit = b->act == DTYPE_F32 ? 1e-5 : 2e-2;
	for (size_t i = 0; i < sizeof ratios / sizeof *ratios; i++)
		if (!(ratios[i] <= limit))
			return error_set(err,
				"%s computes wrong results: they differ from the oracle's by %.2g of their size (at "
				"most %g)",
				b->ops->name, ratios[i], limit);
	return true;
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
