/* backend.c - the part that all backends share: sticky errors, cancellation, tensor views, and the op_* functions,
 * which check their preconditions before they go through the vtable. */
#include "backend_impl.h"

#include <assert.h>
#include <stdlib.h>

size_t dtype_size(enum dtype dtype)
{
	return dtype == DTYPE_F16 || dtype == DTYPE_BF16 ? 2 : 4;
}

const char *dtype_name(enum dtype dtype)
{
	static const char *const names[] = {"F32", "F16", "BF16", "I32"};
	return names[dtype];
}

struct tensor tensor_columns(struct tensor x, int64_t first, int64_t cols)
{
	assert(first >= 0 && cols >= 0 && first + cols <= x.cols);
	if (x.data)
		x.data = (char *)x.data + (size_t)first * dtype_size(x.dtype);
	x.cols = cols;
	return x;
}

struct tensor tensor_rows(struct tensor x, int64_t first, int64_t rows)
{
	assert(first >= 0 && rows >= 0 && first + rows <= x.rows);
	if (x.data)
		x.data = (char *)x.data + (size_t)(first * x.stride) * dtype_size(x.dtype);
	x.rows = rows;
	return x;
}

void surface_finish(struct surface *s)
{
	free(s->vertices);
	free(s->attrs);
	free(s->faces);
	free(s->is_inner);
	*s = (struct surface){0};
}

/* ---- life and errors ---- */

void backend_init(struct backend *b, const struct backend_ops *ops, enum dtype act)
{
	*b = (struct backend){.ops = ops, .act = act, .threads = 1};
}

void backend_destroy(struct backend *b)
{
	if (b)
		b->ops->destroy(b);
}

bool backend_ok(struct backend *b)
{
	if (!b->failed && b->cancel && atomic_load_explicit(b->cancel, memory_order_relaxed)) {
		backend_fail(b, "cancelled");
		b->cancelled = true;
	}
	return !b->failed;
}

static void fail(struct backend *b, enum fault fault, const char *format, va_list args)
{
	if (b->failed)
		return;
	vsnprintf(b->error.text, sizeof b->error.text, format, args);
	error_one_line(b->error.text);
	b->fault = fault;
	b->failed = true;
}

void backend_fail(struct backend *b, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fail(b, FAULT_OP, format, args);
	va_end(args);
}

void backend_fail_as(struct backend *b, enum fault fault, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fail(b, fault, format, args);
	va_end(args);
}

bool backend_finish(struct backend *b, struct error *err)
{
	b->ops->sync(b);
	bool ok = backend_ok(b) || error_set(err, "%s", b->error.text);
	b->failed = b->cancelled = false;
	b->error.text[0] = '\0';
	return ok;
}

/* ---- weights ---- */

int64_t weight_count(enum weight_kind kind, int64_t out, int64_t in)
{
	return out * in * (kind == WEIGHT_VECTOR || kind == WEIGHT_LINEAR || kind == WEIGHT_LINEAR_F32 ? 1 : 27);
}

struct weight *weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, enum dtype dtype, const void *host)
{
	assert(out > 0 && in > 0 && host && dtype != DTYPE_I32 && (kind != WEIGHT_VECTOR || in == 1));
	if (kind == WEIGHT_LINEAR_F32 && b->act == DTYPE_F32)
		kind = WEIGHT_LINEAR; /* all are */
	return backend_ok(b) ? b->ops->weight_create(b, kind, out, in, &(struct numbers){host, dtype}, 1) : NULL;
}

struct weight *weight_create_stacked(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	assert(count > 0 && out > 0 && in > 0 && out % count == 0);
	assert(kind == WEIGHT_LINEAR || (kind == WEIGHT_VECTOR && in == 1));
	return backend_ok(b) ? b->ops->weight_create(b, kind, out, in, parts, count) : NULL;
}

void weight_destroy(struct backend *b, struct weight *w)
{
	if (w)
		b->ops->weight_destroy(b, w);
}

/* ---- preconditions ---- */

static bool is_float(struct tensor x)
{
	return x.data && x.dtype != DTYPE_I32 && x.cols > 0 && x.stride >= x.cols;
}

static bool is_index(struct tensor x, int64_t rows, int64_t cols)
{
	return x.data && x.dtype == DTYPE_I32 && x.rows == rows && x.cols == cols && x.stride >= cols;
}

static bool same_shape(struct tensor a, struct tensor b)
{
	return a.rows == b.rows && a.cols == b.cols;
}

static bool is_vector(const struct weight *w, int64_t n)
{
	return w && w->kind == WEIGHT_VECTOR && w->out == n;
}

/* none, or f32 [1, cols] */
static bool is_row_or_none(struct tensor x, int64_t cols)
{
	return !x.data || (x.dtype == DTYPE_F32 && x.rows == 1 && x.cols == cols);
}

static bool overlaps(struct tensor a, struct tensor b)
{
	const char *a0 = a.data, *b0 = b.data;
	const char *a1 = a0 + (size_t)((a.rows - 1) * a.stride + a.cols) * dtype_size(a.dtype);
	const char *b1 = b0 + (size_t)((b.rows - 1) * b.stride + b.cols) * dtype_size(b.dtype);
	if (!(a0 < b1 && b0 < a1))
		return false;
	/* Interleaved columns of one matrix do not overlap. */
	if (a.stride != b.stride || a.dtype != b.dtype)
		return true;
	int64_t size = (int64_t)dtype_size(a.dtype), pitch = a.stride * size;
	int64_t shift = (((b0 - a0) % pitch) + pitch) % pitch;
	return shift < a.cols * size || shift + b.cols * size > pitch;
}

static void check_product(
	struct tensor y, struct tensor x, const struct weight *w, enum weight_kind kind, const struct epilogue *e)
{
	assert(is_float(x) && is_float(y) && !overlaps(y, x));
	assert(w->kind == kind && w->in == x.cols && w->out == y.cols);
	if (e) {
		assert(!e->bias || is_vector(e->bias, y.cols));
		assert(is_row_or_none(e->gate, y.cols));
		assert(!e->residual.data || same_shape(e->residual, y));
	}
}

static void check_norm(struct tensor y, struct tensor x, const struct norm *n)
{
	assert(is_float(x) && is_float(y) && same_shape(x, y) && n->eps > 0);
	assert(!n->weight == !n->bias && !n->scale.data == !n->shift.data);
	assert(!n->weight || (is_vector(n->weight, x.cols) && is_vector(n->bias, x.cols)));
	assert(is_row_or_none(n->scale, x.cols) && is_row_or_none(n->shift, x.cols));
}

/* ---- operations ---- */

void op_upload(struct backend *b, struct tensor y, const float *host)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y));
	b->ops->upload(b, y, host);
}

void op_upload_i32(struct backend *b, struct tensor y, const int32_t *host)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_index(y, y.rows, y.cols));
	b->ops->upload_i32(b, y, host);
}

void op_download(struct backend *b, float *host, struct tensor x)
{
	if (!backend_ok(b) || x.rows == 0)
		return;
	assert(is_float(x));
	b->ops->download(b, host, x);
}

void op_download_i32(struct backend *b, int32_t *host, struct tensor x)
{
	if (!backend_ok(b) || x.rows == 0)
		return;
	assert(is_index(x, x.rows, x.cols));
	b->ops->download_i32(b, host, x);
}

static const struct epilogue no_epilogue;

void op_linear(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_product(y, x, w, w->kind == WEIGHT_LINEAR_F32 ? WEIGHT_LINEAR_F32 : WEIGHT_LINEAR, e);
	assert(y.rows == x.rows);
	b->ops->linear(b, y, x, w, e ? e : &no_epilogue);
}

void op_linear_qkv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	const struct weight *bias, const struct weight *q_gamma, const struct weight *k_gamma, int heads)
{
	const struct epilogue e = {.bias = bias};
	int64_t c = y.cols / 3;
	if (!b->ops->linear_qkv) {
		op_linear(b, y, x, w, &e);
		op_rms_norm_heads(b, tensor_columns(y, 0, c), q_gamma, heads);
		op_rms_norm_heads(b, tensor_columns(y, c, c), k_gamma, heads);
		return;
	}
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_product(y, x, w, WEIGHT_LINEAR, &e);
	assert(y.rows == x.rows && y.cols == 3 * c && heads > 0 && c % heads == 0);
	assert(is_vector(q_gamma, c) && is_vector(k_gamma, c));
	b->ops->linear_qkv(b, y, x, w, bias, q_gamma, k_gamma, heads);
}

void op_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e)
{
	if (!backend_ok(b))
		return;
	check_product(y, x, w, WEIGHT_CONV3, e);
	assert(resolution > 0 && x.rows == resolution * resolution * resolution && y.rows == x.rows);
	b->ops->conv3d(b, y, x, w, resolution, e ? e : &no_epilogue);
}

void op_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_product(y, x, w, WEIGHT_SPARSE3, e);
	assert(y.rows == x.rows && is_index(neighbours, x.rows, NEIGHBOUR_COLS));
	b->ops->sparse_conv(b, y, x, w, neighbours, e ? e : &no_epilogue);
}

void op_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_product(y, x, w, WEIGHT_SPARSE3_UP, e);
	assert(y.rows == 8 * x.rows && is_index(neighbours, x.rows, NEIGHBOUR_COLS));
	b->ops->sparse_conv_up(b, y, x, w, neighbours, e ? e : &no_epilogue);
}

void op_neighbours(struct backend *b, struct tensor table, struct tensor coords)
{
	if (!backend_ok(b) || coords.rows == 0)
		return;
	assert(is_index(coords, coords.rows, 3) && is_index(table, coords.rows, NEIGHBOUR_COLS));
	b->ops->neighbours(b, table, coords);
}

void op_neighbours_up(struct backend *b, struct tensor table, struct tensor parents)
{
	if (!backend_ok(b) || parents.rows == 0)
		return;
	assert(is_index(parents, parents.rows, NEIGHBOUR_COLS));
	assert(is_index(table, 8 * parents.rows, NEIGHBOUR_COLS));
	b->ops->neighbours_up(b, table, parents);
}

void op_coords_up(struct backend *b, struct tensor children, struct tensor parents)
{
	if (!backend_ok(b) || parents.rows == 0)
		return;
	assert(is_index(parents, parents.rows, 3) && is_index(children, 8 * parents.rows, 3));
	b->ops->coords_up(b, children, parents);
}

void op_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_norm(y, x, n);
	b->ops->layer_norm(b, y, x, n);
}

void op_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_norm(y, x, n);
	assert(groups > 0 && x.cols % groups == 0);
	b->ops->group_norm(b, y, x, groups, n);
}

void op_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads)
{
	if (!backend_ok(b) || x.rows == 0)
		return;
	assert(is_float(x) && heads > 0 && x.cols % heads == 0 && is_vector(gamma, x.cols));
	b->ops->rms_norm_heads(b, x, gamma, heads);
}

static void check_attention(struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads)
{
	assert(is_float(y) && is_float(q) && is_float(k) && is_float(v));
	assert(same_shape(y, q) && same_shape(k, v) && q.cols == k.cols && k.rows > 0);
	assert(heads > 0 && q.cols % heads == 0);
	assert(!overlaps(y, q) && !overlaps(y, k) && !overlaps(y, v));
}

void op_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	const struct windows *windows)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_attention(y, q, k, v, heads);
	if (windows) {
		assert(q.rows == k.rows && windows->count > 0 && windows->longest > 0);
		assert(is_index(windows->order, q.rows, 1) && windows->order.stride == 1);
		assert(is_index(windows->offset, windows->count + 1, 1) && windows->offset.stride == 1);
	}
	b->ops->attention(b, y, q, k, v, heads, windows);
}

void op_attention_parts(
	struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads, int64_t parts)
{
	assert(parts > 0 && q.rows % parts == 0 && k.rows % parts == 0);
	int64_t n = q.rows / parts, m = k.rows / parts;
	if (!b->ops->attention_parts || parts == 1) {
		for (int64_t i = 0; i < parts; i++)
			op_attention(b, tensor_rows(y, i * n, n), tensor_rows(q, i * n, n), tensor_rows(k, i * m, m),
				tensor_rows(v, i * m, m), heads, NULL);
		return;
	}
	if (!backend_ok(b) || y.rows == 0)
		return;
	check_attention(y, q, k, v, heads);
	b->ops->attention_parts(b, y, q, k, v, heads, parts);
}

void op_activate(struct backend *b, struct tensor y, struct tensor x, enum activation act)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y) && is_float(x) && same_shape(y, x));
	b->ops->activate(b, y, x, act);
}

void op_add(struct backend *b, struct tensor y, struct tensor a, struct tensor x)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y) && is_float(a) && is_float(x) && same_shape(y, a));
	assert(x.cols == y.cols && (x.rows == y.rows || x.rows == 1));
	b->ops->add(b, y, a, x);
}

void op_combine(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y) && is_float(a) && same_shape(y, a));
	assert(x.data ? is_float(x) && same_shape(y, x) : q == 0);
	b->ops->combine(b, y, p, a, q, x);
}

void op_gather_rows(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y) && is_float(x) && y.cols == x.cols && !overlaps(y, x));
	assert(index.data ? is_index(index, y.rows, 1) : x.rows > 0 && y.rows % x.rows == 0);
	b->ops->gather_rows(b, y, x, index);
}

void op_downsample(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	if (!backend_ok(b) || y.rows == 0)
		return;
	assert(is_float(y) && is_float(x) && y.cols == x.cols && is_index(index, x.rows, 1) && !overlaps(y, x));
	b->ops->downsample(b, y, x, index);
}

void op_pixel_shuffle(struct backend *b, struct tensor y, struct tensor x, int64_t resolution)
{
	if (!backend_ok(b))
		return;
	assert(is_float(y) && is_float(x) && x.rows == resolution * resolution * resolution);
	assert(y.rows == 8 * x.rows && x.cols == 8 * y.cols && !overlaps(y, x));
	b->ops->pixel_shuffle(b, y, x, resolution);
}

bool op_is_finite(struct backend *b, struct tensor x)
{
	if (!backend_ok(b) || x.rows == 0)
		return true;
	assert(is_float(x));
	return b->ops->is_finite(b, x);
}

void op_extract(struct backend *b, struct surface *s, struct tensor features, struct tensor coords, int64_t resolution,
	bool has_color)
{
	if (!backend_ok(b))
		return;
	assert(features.rows == 0 || is_float(features));
	assert(features.cols == (has_color ? 101 : 53) && coords.rows == features.rows && coords.cols == 3);
	b->ops->extract(b, s, features, coords, resolution, has_color);
}
