/* cuda_weight.c - parameters on the device. What a file holds in the right type goes straight there; everything else
 * goes up as it is and is converted or packed by a kernel, so that the host never touches a number. */
#include "cuda.h"

#include <stdlib.h>

/* rows x cols numbers at `data`, of `type`, from those at `raw`, which are on the device too */
static bool convert(
	struct backend *b, int64_t rows, int64_t cols, void *data, enum dtype type, void *raw, enum dtype from)
{
	struct tensor x = {.data = raw, .dtype = from, .rows = rows, .cols = cols, .stride = cols}, y = x;
	y.data = data;
	y.dtype = type;
	return cuda_check(b, launch_combine(cuda_launch(b), y, 1, x, 0, TENSOR_NONE), "converting a weight");
}

/* One part of a weight to `data`: rows of a plain one, or all of a packed one. */
static bool fill_part(struct backend *b, enum weight_kind kind, bool is_plain, int64_t out, int64_t in, void *data,
	enum dtype type, const struct numbers *part)
{
	size_t bytes = (size_t)weight_count(kind, out, in) * dtype_size(part->dtype);
	if (is_plain && type == part->dtype) {
		cuda_upload_bytes(b, data, part->data, bytes);
		return !b->failed;
	}
	size_t mark = scratch_mark(b); /* not alloc and free: that would leave holes among the weights */
	void *raw = scratch_new_as(b, DTYPE_F32, 1, (int64_t)(bytes + 3) / 4).data;
	if (raw)
		cuda_upload_bytes(b, raw, part->data, bytes);
	if (!b->failed && is_plain)
		convert(b, out, in, data, type, raw, part->dtype);
	else if (!b->failed)
		cuda_check(b, launch_pack(cuda_launch(b), kind, out, in, data, type, raw, part->dtype),
			"packing a weight");
	scratch_release(b, mark);
	return !b->failed;
}

static bool fill(struct backend *b, struct cuda_weight *w, const struct numbers *parts, int count)
{
	enum weight_kind kind = w->base.kind;
	int64_t out = w->base.out, in = w->base.in, rows = out / count;
	bool is_plain = kind == WEIGHT_VECTOR || kind == WEIGHT_LINEAR || kind == WEIGHT_LINEAR_F32;
	enum dtype type = kind == WEIGHT_VECTOR || kind == WEIGHT_LINEAR_F32 ? DTYPE_F32 : b->act;
	int64_t stored = is_plain ? out * in : launch_pack_count(kind, out, in);

	w->data = cuda_alloc(b, (size_t)stored * dtype_size(type));
	if (!w->data)
		return false;
	for (int i = 0; i < count; i++)
		if (!fill_part(b, kind, is_plain, rows, in,
			    (char *)w->data + (size_t)(i * rows * in) * dtype_size(type), type, &parts[i]))
			return false;
	if (kind == WEIGHT_VECTOR && b->act != DTYPE_F32) {
		w->half = cuda_alloc(b, (size_t)out * dtype_size(b->act));
		if (w->half)
			convert(b, out, 1, w->half, b->act, w->data, DTYPE_F32);
	}
	return !b->failed;
}

struct weight *cuda_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	struct cuda_weight *w = malloc(sizeof *w);
	if (!w) {
		backend_fail(b, "out of memory");
		return NULL;
	}
	*w = (struct cuda_weight){.base = {.kind = kind, .out = out, .in = in}};
	if (fill(b, w, parts, count))
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
