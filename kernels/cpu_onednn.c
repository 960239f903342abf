/* cpu_onednn.c - matrix products and dense convolutions through oneDNN.
 * Making a primitive costs milliseconds, so they are kept in a ring by shape: voxel counts differ from job to job, and
 * what has not been asked for in the last RING shapes is dropped. The ring's primitives own no weights.
 * The two generations of oneDNN differ in how descriptors are made and passed; the first section hides that. */
#include "cpu_onednn.h"
#include "backend_impl.h"
#include "cpu_simd.h"
#include "threads.h"

#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- the two generations ---- */

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t layout;	      /* owned */
typedef const_dnnl_memory_desc_t layout_view; /* borrowed */

static layout_view view(const layout *l)
{
	return *l;
}

static dnnl_status_t layout_tagged(layout *l, int n, const dnnl_dims_t dims, dnnl_format_tag_t tag)
{
	return dnnl_memory_desc_create_with_tag(l, n, dims, dnnl_f32, tag);
}

static dnnl_status_t layout_strided(layout *l, int n, const dnnl_dims_t dims, const dnnl_dims_t strides)
{
	return dnnl_memory_desc_create_with_strides(l, n, dims, dnnl_f32, strides);
}

static dnnl_status_t layout_copy(layout *l, layout_view from)
{
	return dnnl_memory_desc_clone(l, from);
}

static void layout_finish(layout *l)
{
	dnnl_memory_desc_destroy(*l);
}

static dnnl_status_t describe_linear(
	dnnl_primitive_desc_t *d, dnnl_engine_t engine, layout_view x, layout_view w, layout_view bias, layout_view y)
{
	return dnnl_matmul_primitive_desc_create(d, engine, x, w, bias, y, NULL);
}

static dnnl_status_t describe_conv(dnnl_primitive_desc_t *d, dnnl_engine_t engine, layout_view x, layout_view w,
	layout_view bias, layout_view y, const dnnl_dims_t ones)
{
	const dnnl_dims_t dilation = {0, 0, 0};
	return dnnl_convolution_forward_primitive_desc_create(d, engine, dnnl_forward_inference,
		dnnl_convolution_direct, x, w, bias, y, ones, dilation, ones, ones, NULL);
}

#else

typedef dnnl_memory_desc_t layout;
typedef const dnnl_memory_desc_t *layout_view;

static layout_view view(const layout *l)
{
	return l;
}

static dnnl_status_t layout_tagged(layout *l, int n, const dnnl_dims_t dims, dnnl_format_tag_t tag)
{
	return dnnl_memory_desc_init_by_tag(l, n, dims, dnnl_f32, tag);
}

static dnnl_status_t layout_strided(layout *l, int n, const dnnl_dims_t dims, const dnnl_dims_t strides)
{
	return dnnl_memory_desc_init_by_strides(l, n, dims, dnnl_f32, strides);
}

static dnnl_status_t layout_copy(layout *l, layout_view from)
{
	*l = *from;
	return dnnl_success;
}

static void layout_finish(layout *l)
{
	(void)l;
}

static dnnl_status_t describe_linear(
	dnnl_primitive_desc_t *d, dnnl_engine_t engine, layout_view x, layout_view w, layout_view bias, layout_view y)
{
	dnnl_matmul_desc_t op;
	dnnl_status_t status = dnnl_matmul_desc_init(&op, x, w, bias, y);
	return status == dnnl_success ? dnnl_primitive_desc_create(d, &op, NULL, engine, NULL) : status;
}

static dnnl_status_t describe_conv(dnnl_primitive_desc_t *d, dnnl_engine_t engine, layout_view x, layout_view w,
	layout_view bias, layout_view y, const dnnl_dims_t ones)
{
	dnnl_convolution_desc_t op;
	dnnl_status_t status = dnnl_convolution_forward_desc_init(
		&op, dnnl_forward_inference, dnnl_convolution_direct, x, w, bias, y, ones, ones, ones);
	return status == dnnl_success ? dnnl_primitive_desc_create(d, &op, NULL, engine, NULL) : status;
}

#endif

/* ---- primitives by shape ---- */

enum { RING = 256 };
/* Rows for which a linear weight's layout is chosen; the choice hardly depends on it. */
enum { TYPICAL_ROWS = 1024 };

struct key {
	enum weight_kind kind;
	int threads; /* that it is planned for */
	bool has_bias;
	int64_t n, x_stride, y_stride; /* n: rows, or the resolution */
	int64_t out, in;
};

struct cached {
	struct key key;
	dnnl_primitive_t primitive; /* NULL: an empty place */
	layout weight;		    /* what the primitive wants */
	dnnl_memory_t x, y, bias;   /* without data; bias NULL when there is none */
};

struct onednn {
	int threads;
	/* Fewer where threads wait for processors. Only with AVX-512: its results don't depend on their number, those of older
	 * instruction sets do, and the same job gives the same mesh whatever else runs. */
	bool follows;
	dnnl_engine_t engine;
	dnnl_stream_t stream;
	struct cached ring[RING];
	int next; /* place to be taken by the next new shape */
};

/* oneDNN plans for and runs with the caller's number of OpenMP threads: it is theirs again when a call is over. */
static int threads_enter(const struct onednn *o)
{
	int theirs = omp_get_max_threads();
	omp_set_num_threads(o->follows ? threads_of(o->threads) : o->threads);
	return theirs;
}

static void threads_leave(int theirs)
{
	omp_set_num_threads(theirs);
}

struct onednn_weight {
	enum weight_kind kind;
	bool settled; /* in the layout that oneDNN chose */
	int64_t out, in;
	layout layout;
	float *data;
	dnnl_memory_t memory;
};

static void cached_finish(struct cached *c)
{
	if (!c->primitive)
		return;
	dnnl_primitive_destroy(c->primitive);
	layout_finish(&c->weight);
	dnnl_memory_destroy(c->x);
	dnnl_memory_destroy(c->y);
	if (c->bias)
		dnnl_memory_destroy(c->bias);
	*c = (struct cached){0};
}

void onednn_version(char *text, size_t size)
{
	const dnnl_version_t *v = dnnl_version();
	snprintf(text, size, "%d.%d.%d", v->major, v->minor, v->patch);
}

struct onednn *onednn_create(int threads, struct error *err)
{
	struct onednn *o = calloc(1, sizeof *o);
	if (!o) {
		error_set(err, "out of memory");
		return NULL;
	}
	o->threads = threads;
	o->follows = simd_level(2) != NULL;
	dnnl_set_primitive_cache_capacity(0); /* its own cache holds 1,024: every job of another size would add to it */
	if (dnnl_engine_create(&o->engine, dnnl_cpu, 0) != dnnl_success)
		goto fail;
	if (dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags) != dnnl_success)
		goto fail_engine;
	return o;

fail_engine:
	dnnl_engine_destroy(o->engine);
fail:
	free(o);
	error_set(err, "oneDNN has no CPU engine on this machine");
	return NULL;
}

void onednn_destroy(struct onednn *o)
{
	if (!o)
		return;
	for (int i = 0; i < RING; i++)
		cached_finish(&o->ring[i]);
	dnnl_stream_destroy(o->stream);
	dnnl_engine_destroy(o->engine);
	free(o);
}

/* x, bias, y and weight (plain kind of dims) of a shape. */
struct layouts {
	layout x, y, bias;
	bool has_bias;
};

static dnnl_status_t layouts_init(struct layouts *l, const struct key *k)
{
	dnnl_status_t status;
	if (k->kind == WEIGHT_LINEAR) {
		status = layout_strided(&l->x, 2, (dnnl_dims_t){k->n, k->in}, (dnnl_dims_t){k->x_stride, 1});
		status = status ? status
				: layout_strided(&l->y, 2, (dnnl_dims_t){k->n, k->out}, (dnnl_dims_t){k->y_stride, 1});
		status = status ? status : layout_tagged(&l->bias, 2, (dnnl_dims_t){1, k->out}, dnnl_ab);
	} else {
		int64_t r = k->n;
		status = layout_tagged(&l->x, 5, (dnnl_dims_t){1, k->in, r, r, r}, dnnl_ndhwc);
		status = status ? status : layout_tagged(&l->y, 5, (dnnl_dims_t){1, k->out, r, r, r}, dnnl_ndhwc);
		status = status ? status : layout_tagged(&l->bias, 1, (dnnl_dims_t){k->out}, dnnl_a);
	}
	l->has_bias = k->has_bias;
	return status;
}

static void layouts_finish(struct layouts *l)
{
	layout_finish(&l->x);
	layout_finish(&l->y);
	layout_finish(&l->bias);
}

/* The plain layout of a checkpoint's weight (a linear one is used transposed), or any. */
static dnnl_status_t weight_layout(layout *l, enum weight_kind kind, int64_t out, int64_t in, bool any)
{
	if (kind == WEIGHT_LINEAR)
		return layout_tagged(l, 2, (dnnl_dims_t){in, out}, any ? dnnl_format_tag_any : dnnl_ba);
	return layout_tagged(l, 5, (dnnl_dims_t){out, in, 3, 3, 3}, any ? dnnl_format_tag_any : dnnl_oidhw);
}

static dnnl_status_t describe(
	dnnl_primitive_desc_t *d, struct onednn *o, const struct key *k, const struct layouts *l, layout_view weight)
{
	const dnnl_dims_t ones = {1, 1, 1};
	layout_view bias = l->has_bias ? view(&l->bias) : NULL;
	return k->kind == WEIGHT_LINEAR ? describe_linear(d, o->engine, view(&l->x), weight, bias, view(&l->y))
					: describe_conv(d, o->engine, view(&l->x), weight, bias, view(&l->y), ones);
}

/* The layout that oneDNN prefers for a weight at shape k. */
static dnnl_status_t preferred_layout(layout *preferred, struct onednn *o, const struct key *k)
{
	struct layouts l;
	layout any;
	dnnl_primitive_desc_t d;
	dnnl_status_t status = layouts_init(&l, k);
	if (status)
		return status;
	status = weight_layout(&any, k->kind, k->out, k->in, true);
	if (status)
		goto done;
	status = describe(&d, o, k, &l, view(&any));
	if (!status) {
		status = layout_copy(preferred, dnnl_primitive_desc_query_md(d, dnnl_query_weights_md, 0));
		dnnl_primitive_desc_destroy(d);
	}
	layout_finish(&any);
done:
	layouts_finish(&l);
	return status;
}

static bool same_key(const struct key *a, const struct key *b)
{
	return a->kind == b->kind && a->threads == b->threads && a->has_bias == b->has_bias && a->n == b->n &&
	       a->x_stride == b->x_stride && a->y_stride == b->y_stride && a->out == b->out && a->in == b->in;
}

/* The cached primitive of shape k for a weight laid out as w. */
static struct cached *find(struct onednn *o, const struct key *k, const struct onednn_weight *w)
{
	for (int i = 0; i < RING; i++) {
		struct cached *c = &o->ring[i];
		if (c->primitive && same_key(&c->key, k) && dnnl_memory_desc_equal(view(&c->weight), view(&w->layout)))
			return c;
	}
	return NULL;
}

static dnnl_status_t cached_init(struct cached *c, struct onednn *o, const struct key *k, layout_view weight)
{
	struct layouts l;
	dnnl_primitive_desc_t d;
	dnnl_status_t status = layouts_init(&l, k);
	if (status)
		return status;
	*c = (struct cached){.key = *k};
	status = describe(&d, o, k, &l, weight);
	if (status)
		goto done;
	status = dnnl_primitive_create(&c->primitive, d);
	dnnl_primitive_desc_destroy(d);
	if (status)
		goto done;
	status = layout_copy(&c->weight, weight);
	status = status ? status : dnnl_memory_create(&c->x, view(&l.x), o->engine, DNNL_MEMORY_NONE);
	status = status ? status : dnnl_memory_create(&c->y, view(&l.y), o->engine, DNNL_MEMORY_NONE);
	if (!status && k->has_bias)
		status = dnnl_memory_create(&c->bias, view(&l.bias), o->engine, DNNL_MEMORY_NONE);
	if (status)
		cached_finish(c);
done:
	layouts_finish(&l);
	return status;
}

/* ---- weights ---- */

/* Copy a weight into another layout. */
static dnnl_status_t weight_reorder(struct onednn *o, struct onednn_weight *w, layout_view to)
{
	dnnl_primitive_desc_t d;
	dnnl_primitive_t reorder;
	dnnl_memory_t memory;
	layout copy;
	size_t bytes = dnnl_memory_desc_get_size(to);
	float *data = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!data)
		return dnnl_out_of_memory;
	dnnl_status_t status = layout_copy(&copy, to);
	if (status)
		goto fail;
	status = dnnl_memory_create(&memory, to, o->engine, data);
	if (status)
		goto fail_copy;
	status = dnnl_reorder_primitive_desc_create(&d, view(&w->layout), o->engine, to, o->engine, NULL);
	if (status)
		goto fail_memory;
	status = dnnl_primitive_create(&reorder, d);
	dnnl_primitive_desc_destroy(d);
	if (status)
		goto fail_memory;
	dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, w->memory}, {DNNL_ARG_TO, memory}};
	status = dnnl_primitive_execute(reorder, o->stream, 2, args);
	status = status ? status : dnnl_stream_wait(o->stream);
	dnnl_primitive_destroy(reorder);
	if (status)
		goto fail_memory;
	dnnl_memory_destroy(w->memory);
	layout_finish(&w->layout);
	free(w->data);
	w->memory = memory;
	w->layout = copy;
	w->data = data;
	return dnnl_success;

fail_memory:
	dnnl_memory_destroy(memory);
fail_copy:
	layout_finish(&copy);
fail:
	free(data);
	return status;
}

/* Give a weight the layout that suits shape k, once. */
static dnnl_status_t weight_settle(struct onednn *o, struct onednn_weight *w, const struct key *k)
{
	layout preferred;
	if (w->settled)
		return dnnl_success;
	dnnl_status_t status = preferred_layout(&preferred, o, k);
	if (status)
		return status;
	if (!dnnl_memory_desc_equal(view(&preferred), view(&w->layout)))
		status = weight_reorder(o, w, view(&preferred));
	layout_finish(&preferred);
	w->settled = !status;
	return status;
}

struct onednn_weight *onednn_weight_create(
	struct onednn *o, enum weight_kind kind, int64_t out, int64_t in, float *plain, struct error *err)
{
	struct onednn_weight *w = calloc(1, sizeof *w);
	if (!w)
		goto fail;
	*w = (struct onednn_weight){.kind = kind, .out = out, .in = in, .data = plain};
	if (weight_layout(&w->layout, kind, out, in, false))
		goto fail_weight;
	if (dnnl_memory_create(&w->memory, view(&w->layout), o->engine, w->data))
		goto fail_layout;
	struct key typical = {.kind = kind, .n = TYPICAL_ROWS, .x_stride = in, .y_stride = out, .out = out, .in = in};
	if (kind == WEIGHT_LINEAR) {
		int theirs = threads_enter(o);
		dnnl_status_t status = weight_settle(o, w, &typical);
		threads_leave(theirs);
		if (status)
			goto fail_memory;
	}
	return w;

fail_memory:
	dnnl_memory_destroy(w->memory);
fail_layout:
	layout_finish(&w->layout);
fail_weight:
	plain = w->data;
	free(w);
fail:
	free(plain);
	error_set(err, "out of memory or no oneDNN layout: weight [%lld, %lld]", (long long)out, (long long)in);
	return NULL;
}

void onednn_weight_destroy(struct onednn_weight *w)
{
	if (!w)
		return;
	dnnl_memory_destroy(w->memory);
	layout_finish(&w->layout);
	free(w->data);
	free(w);
}

/* ---- products ---- */

static dnnl_status_t execute(struct onednn *o, const struct key *k, struct tensor y, struct tensor x,
	struct onednn_weight *w, const float *bias)
{
	dnnl_status_t status = weight_settle(o, w, k);
	if (status)
		return status;
	struct cached *c = find(o, k, w);
	if (!c) {
		c = &o->ring[o->next];
		o->next = (o->next + 1) % RING;
		cached_finish(c);
		status = cached_init(c, o, k, view(&w->layout));
		if (status)
			return status;
	}
	dnnl_memory_set_data_handle(c->x, x.data);
	dnnl_memory_set_data_handle(c->y, y.data);
	if (bias)
		dnnl_memory_set_data_handle(c->bias, (void *)bias);
	dnnl_exec_arg_t args[] = {
		{DNNL_ARG_SRC, c->x}, {DNNL_ARG_WEIGHTS, w->memory}, {DNNL_ARG_DST, c->y}, {DNNL_ARG_BIAS, c->bias}};
	status = dnnl_primitive_execute(c->primitive, o->stream, bias ? 4 : 3, args);
	return status ? status : dnnl_stream_wait(o->stream);
}

static bool run(struct onednn *o, struct key *k, struct tensor y, struct tensor x, struct onednn_weight *w,
	const float *bias, struct error *err)
{
	int theirs = threads_enter(o);
	k->threads = omp_get_max_threads();
	dnnl_status_t status = execute(o, k, y, x, w, bias);
	threads_leave(theirs);
	if (!status)
		return true;
	return error_set(err, "oneDNN failed with status %d (%s of %lld -> %lld at %lld)", (int)status,
		k->kind == WEIGHT_LINEAR ? "product" : "convolution", (long long)k->in, (long long)k->out,
		(long long)k->n);
}

bool onednn_linear(struct onednn *o, struct tensor y, struct tensor x, struct onednn_weight *w, const float *bias,
	struct error *err)
{
	/* One row has no stride; said as dense, it takes the fast path. */
	int64_t x_stride = x.rows == 1 ? x.cols : x.stride, y_stride = y.rows == 1 ? y.cols : y.stride;
	struct key k = {.kind = WEIGHT_LINEAR,
		.has_bias = bias != NULL,
		.n = x.rows,
		.x_stride = x_stride,
		.y_stride = y_stride,
		.out = w->out,
		.in = w->in};
	return run(o, &k, y, x, w, bias, err);
}

bool onednn_conv3d(struct onednn *o, struct tensor y, struct tensor x, struct onednn_weight *w, int64_t resolution,
	const float *bias, struct error *err)
{
	struct key k = {.kind = WEIGHT_CONV3, .has_bias = bias != NULL, .n = resolution, .out = w->out, .in = w->in};
	return run(o, &k, y, x, w, bias, err);
}
