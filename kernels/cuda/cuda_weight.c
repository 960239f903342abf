/* cuda_weight.c - parameters on the device. What a file holds in the right type goes straight there; everything else
 * goes up as it is and is converted or packed by a kernel, so that the host never touches a number. */
#include "cuda.h"

#include <stdlib.h>

/* data of `type` from the checkpoint's numbers on the device */
static bool convert(struct backend *b, struct cuda_weight *w, void *data, enum dtype type, void *raw, enum dtype from)
{
	enum weight_kind kind = w->base.kind;
	int64_t out = w->base.out, in = w->base.in;
	if (kind == WEIGHT_CONV3 || kind == WEIGHT_SPARSE3 || kind == WEIGHT_SPARSE3_UP)
		return cuda_check(
			b, launch_pack(cuda_launch(b), kind, out, in, data, type, raw, from), "packing a weight");
	struct tensor x = {.data = raw, .dtype = from, .rows = out, .cols = in, .stride = in}, y = x;
	y.data = data;
	y.dtype = type;
	return cuda_check(b, launch_combine(cuda_launch(b), y, 1, x, 0, TENSOR_NONE), "converting a weight");
}

static bool fill(struct backend *b, struct cuda_weight *w, enum dtype from, const void *host)
{
	enum weight_kind kind = w->base.kind;
	int64_t out = w->base.out, in = w->base.in, count = weight_count(kind, out, in);
	bool is_plain = kind == WEIGHT_VECTOR || kind == WEIGHT_LINEAR || kind == WEIGHT_LINEAR_F32;
	enum dtype type = kind == WEIGHT_VECTOR || kind == WEIGHT_LINEAR_F32 ? DTYPE_F32 : b->act;
	size_t raw_bytes = (size_t)count * dtype_size(from);
	int64_t stored = is_plain ? count : launch_pack_count(kind, out, in);

	w->data = cuda_alloc(b, (size_t)stored * dtype_size(type));
	if (!w->data)
		return false;
	if (is_plain && type == from) {
		cuda_upload_bytes(b, w->data, host, raw_bytes);
	} else {
		void *raw = cuda_alloc(b, raw_bytes);
		if (!raw)
			return false;
		cuda_upload_bytes(b, raw, host, raw_bytes);
		if (!b->failed)
			convert(b, w, w->data, type, raw, from);
		cuda_free(b, raw);
	}
	if (kind == WEIGHT_VECTOR && b->act != DTYPE_F32 && !b->failed) {
		w->half = cuda_alloc(b, (size_t)count * dtype_size(b->act));
		if (w->half)
			convert(b, w, w->half, b->act, w->data, DTYPE_F32);
	}
	return !b->failed;
}

struct weight *cuda_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, enum dtype dtype, const void *host)
{
	struct cuda_weight *w = malloc(sizeof *w);
	if (!w) {
		backend_fail(b, "out of memory");
		return NULL;
	}
	*w = (struct cuda_weight){.base = {.kind = kind, .out = out, .in = in}};
	if (fill(b, w, dtype, host))
		return &w->base;
	cuda_weight_destroy(b, &w->base);
	return NULL;
}

void cuda_weight_destroy(struct backend *b, struct weight *base)
{
	struct cuda_weight *w = (struct cuda_weight *)base;
	cuda_free(b, w->data);
	cuda_free(b, w->half);
	free(w);
}
