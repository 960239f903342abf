/* weights.c - put a checkpoint's tensors on a device, bound to named fields, every name and shape checked.
 * Sits between model.c (files) and the stages (encode_image.c, sample_structure.c, ...). */
#include "weights.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STACKED = 3 };

void weight_set_init(struct weight_set *set, struct backend *b)
{
	*set = (struct weight_set){.backend = b};
}

void weight_set_finish(struct weight_set *set)
{
	for (int i = 0; i < set->n_weights; i++)
		weight_destroy(set->backend, set->weights[i]);
	for (int i = 0; i < set->n_buffers; i++)
		set->backend->ops->free(set->backend, set->buffers[i]);
	free(set->weights);
	free(set->buffers);
	*set = (struct weight_set){0};
}

static bool grow(void *array, int used, int *room, size_t size)
{
	if (used < *room)
		return true;
	int more = *room ? 2 * *room : 64;
	void *p = realloc(*(void **)array, (size_t)more * size);
	if (!p)
		return false;
	*(void **)array = p;
	*room = more;
	return true;
}

struct binder binder_begin(
	struct weight_set *set, struct backend *backend, const struct checkpoint *checkpoint, struct error *err)
{
	weight_set_init(set, backend);
	return (struct binder){.backend = backend, .checkpoint = checkpoint, .set = set, .err = err};
}

void *stage_new(size_t size, struct error *err)
{
	void *stage = calloc(1, size);
	if (!stage)
		error_set(err, "out of memory");
	return stage;
}

void stage_hand_over(void *stage, struct backend *b)
{
	struct weight_set *set = stage;
	set->backend = b;
}

bool binder_ok(struct binder *b)
{
	if (!b->failed && !backend_ok(b->backend))
		b->failed = !backend_finish(b->backend, b->err);
	return !b->failed;
}

__attribute__((format(printf, 2, 3))) static void bind_fail(struct binder *b, const char *format, ...)
{
	va_list args;
	if (b->failed)
		return;
	b->failed = true;
	if (!b->err)
		return;
	va_start(args, format);
	vsnprintf(b->err->text, sizeof b->err->text, format, args);
	va_end(args);
}

static void format_dims(char *out, size_t size, int ndim, const int64_t *dims)
{
	size_t used = (size_t)snprintf(out, size, "[");
	for (int i = 0; i < ndim && used < size; i++)
		used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, i ? ", " : "", dims[i]);
	if (used < size)
		snprintf(out + used, size - used, "]");
}

static bool shape_equals(const struct st_tensor *t, int ndim, const int64_t *dims)
{
	if (t->ndim != ndim)
		return false;
	for (int i = 0; i < ndim; i++)
		if (t->dim[i] != dims[i])
			return false;
	return true;
}

/* The tensor `name` of exactly this shape, or NULL with the binder failed. */
static const struct st_tensor *find(struct binder *b, const char *name, int ndim, const int64_t *dims)
{
	const struct st_tensor *t;
	char wanted[96], got[96];

	if (b->failed)
		return NULL;
	t = safetensors_find(b->checkpoint->tensors, name);
	format_dims(wanted, sizeof wanted, ndim, dims);
	if (!t) {
		bind_fail(b, "%s: tensor '%s' %s is missing", safetensors_path(b->checkpoint->tensors), name, wanted);
		return NULL;
	}
	if (!shape_equals(t, ndim, dims)) {
		format_dims(got, sizeof got, t->ndim, t->dim);
		bind_fail(b, "%s: tensor '%s' has shape %s, wanted %s", safetensors_path(b->checkpoint->tensors), name,
			got, wanted);
		return NULL;
	}
	if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16) {
		bind_fail(b, "%s: tensor '%s' is %s, wanted F16, BF16 or F32", safetensors_path(b->checkpoint->tensors),
			name, st_dtype_name(t->dtype));
		return NULL;
	}
	return t;
}

static enum dtype device_dtype(enum st_dtype dtype)
{
	return dtype == ST_F16 ? DTYPE_F16 : dtype == ST_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

/* Small random numbers that keep a random network's activations finite; what they are does not matter. */
static float *random_numbers(struct binder *b, int64_t count)
{
	float *p = malloc((size_t)(count ? count : 1) * sizeof *p);
	if (!p) {
		bind_fail(b, "out of memory for %" PRId64 " random weights", count);
		return NULL;
	}
	for (int64_t i = 0; i < count; i++) {
		b->random = b->random * 1664525u + 1013904223u;
		p[i] = ((int32_t)b->random >> 8) * (0.05f / (1 << 23));
	}
	return p;
}

/* Keep w, or note the backend's failure. */
static struct weight *keep(struct binder *b, struct weight *w)
{
	struct weight_set *set = b->set;
	if (!w) {
		binder_ok(b);
		return NULL;
	}
	if (!grow(&set->weights, set->n_weights, &set->weight_room, sizeof *set->weights)) {
		weight_destroy(b->backend, w);
		bind_fail(b, "out of memory");
		return NULL;
	}
	return set->weights[set->n_weights++] = w;
}

static void tell_loaded(struct binder *b, const struct st_tensor *t)
{
	if (b->backend->loaded)
		b->backend->loaded(b->backend->loaded_user, t->count);
}

static struct weight *bind_one(struct binder *b, enum weight_kind kind, int64_t out, int64_t in, const char *name,
	int ndim, const int64_t *dims)
{
	const struct st_tensor *t;
	struct weight *w;
	int64_t count = 1;

	if (b->failed)
		return NULL;
	if (!b->checkpoint->tensors) {
		for (int i = 0; i < ndim; i++)
			count *= dims[i];
		float *numbers = random_numbers(b, count);
		if (!numbers)
			return NULL;
		w = weight_create(b->backend, kind, out, in, DTYPE_F32, numbers);
		free(numbers);
		return keep(b, w);
	}
	t = find(b, name, ndim, dims);
	if (!t)
		return NULL;
	w = weight_create(b->backend, kind, out, in, device_dtype(t->dtype), t->data);
	safetensors_release(b->checkpoint->tensors, t);
	tell_loaded(b, t);
	return keep(b, w);
}

#define FORMAT_NAME(name, format)                                                                                      \
	do {                                                                                                           \
		va_list args_;                                                                                         \
		va_start(args_, format);                                                                               \
		vsnprintf(name, sizeof name, format, args_);                                                           \
		va_end(args_);                                                                                         \
	} while (0)

struct weight *bind_vector(struct binder *b, int ndim, const int64_t *dims, const char *format, ...)
{
	char name[256];
	int64_t n = 1;
	FORMAT_NAME(name, format);
	for (int i = 0; i < ndim; i++)
		n *= dims[i];
	return bind_one(b, WEIGHT_VECTOR, n, 1, name, ndim, dims);
}

static struct linear bind_pair(struct binder *b, enum weight_kind kind, int64_t out, int64_t in, const char *name,
	int ndim, const int64_t *dims)
{
	char full[288];
	struct linear l;
	snprintf(full, sizeof full, "%s.weight", name);
	l.weight = bind_one(b, kind, out, in, full, ndim, dims);
	snprintf(full, sizeof full, "%s.bias", name);
	l.bias = bind_one(b, WEIGHT_VECTOR, out, 1, full, 1, &(int64_t){out});
	return l;
}

struct linear bind_linear(struct binder *b, enum weight_kind kind, int64_t out, int64_t in, const char *format, ...)
{
	char name[256];
	FORMAT_NAME(name, format);
	if (kind == WEIGHT_CONV3)
		return bind_pair(b, kind, out, in, name, 5, (int64_t[]){out, in, 3, 3, 3});
	if (kind == WEIGHT_SPARSE3 || kind == WEIGHT_SPARSE3_UP)
		return bind_pair(b, kind, out, in, name, 5, (int64_t[]){out, 3, 3, 3, in});
	return bind_pair(b, kind, out, in, name, 2, (int64_t[]){out, in});
}

struct linear bind_patches(struct binder *b, int64_t out, int64_t channels, int64_t size, const char *name)
{
	return bind_pair(
		b, WEIGHT_LINEAR_F32, out, channels * size * size, name, 4, (int64_t[]){out, channels, size, size});
}

struct linear bind_norm(struct binder *b, int64_t c, const char *format, ...)
{
	char name[256];
	FORMAT_NAME(name, format);
	return bind_pair(b, WEIGHT_VECTOR, c, 1, name, 1, &c);
}

/* Host f32 copy of a tensor of this shape, or random numbers; malloc'd. */
static float *host_copy(struct binder *b, const char *name, int ndim, const int64_t *dims)
{
	int64_t count = 1;
	const struct st_tensor *t;
	float *p;

	if (b->failed)
		return NULL;
	for (int i = 0; i < ndim; i++)
		count *= dims[i];
	if (!b->checkpoint->tensors)
		return random_numbers(b, count);
	t = find(b, name, ndim, dims);
	if (!t)
		return NULL;
	p = malloc((size_t)(count ? count : 1) * sizeof *p);
	if (!p) {
		bind_fail(b, "out of memory for tensor '%s'", name);
		return NULL;
	}
	st_read_f32(p, t);
	tell_loaded(b, t);
	return p;
}

/* names[0..count).what as one parameter */
static struct weight *bind_parts(struct binder *b, enum weight_kind kind, int64_t out, int64_t in,
	const char *const *names, int count, const char *what, int ndim)
{
	const struct st_tensor *tensors[MAX_STACKED];
	struct numbers parts[MAX_STACKED] = {{0}};
	const int64_t dims[] = {out, in};
	char name[288];

	assert(count <= MAX_STACKED);
	if (!b->checkpoint->tensors)
		return bind_one(b, kind, count * out, in, what, ndim, (int64_t[]){count * out, in});
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof name, "%s.%s", names[i], what);
		if (!(tensors[i] = find(b, name, ndim, dims)))
			return NULL;
		parts[i] = (struct numbers){tensors[i]->data, device_dtype(tensors[i]->dtype)};
	}
	struct weight *w = weight_create_stacked(b->backend, kind, count * out, in, parts, count);
	for (int i = 0; i < count; i++) {
		safetensors_release(b->checkpoint->tensors, tensors[i]);
		tell_loaded(b, tensors[i]);
	}
	return keep(b, w);
}

struct linear bind_stacked(struct binder *b, int64_t out, int64_t in, const char *const *names, int count)
{
	struct linear l;
	l.weight = bind_parts(b, WEIGHT_LINEAR, out, in, names, count, "weight", 2);
	l.bias = bind_parts(b, WEIGHT_VECTOR, out, 1, names, count, "bias", 1);
	return l;
}

struct linear bind_pointwise(struct binder *b, int64_t out, int64_t in, const char *format, ...)
{
	char name[256], full[288];
	struct linear l = {0};
	float *stored, *turned;
	FORMAT_NAME(name, format);

	snprintf(full, sizeof full, "%s.weight", name);
	stored = host_copy(b, full, 5, (int64_t[]){out, 1, 1, 1, in});
	turned = malloc((size_t)(out * in) * sizeof *turned);
	if (stored && turned) {
		for (int64_t o = 0; o < out; o++)
			for (int64_t i = 0; i < in; i++)
				turned[o * in + i] = stored[i * out + o];
		l.weight = keep(b, weight_create(b->backend, WEIGHT_LINEAR, out, in, DTYPE_F32, turned));
	} else {
		bind_fail(b, "out of memory for tensor '%s'", full);
	}
	free(stored);
	free(turned);
	snprintf(full, sizeof full, "%s.bias", name);
	l.bias = bind_one(b, WEIGHT_VECTOR, out, 1, full, 1, &out);
	return l;
}

struct tensor bind_buffer(struct binder *b, int64_t rows, int64_t cols)
{
	struct weight_set *set = b->set;
	struct tensor t = {.dtype = DTYPE_F32, .rows = rows, .cols = cols, .stride = cols};

	if (b->failed)
		return TENSOR_NONE;
	if (!grow(&set->buffers, set->n_buffers, &set->buffer_room, sizeof *set->buffers)) {
		bind_fail(b, "out of memory");
		return TENSOR_NONE;
	}
	t.data = b->backend->ops->alloc(b->backend, (size_t)(rows * cols) * sizeof(float));
	if (!t.data) {
		binder_ok(b);
		return TENSOR_NONE;
	}
	set->buffers[set->n_buffers++] = t.data;
	return t;
}

float *bind_host(struct binder *b, int64_t count, const char *format, ...)
{
	char name[256];
	const struct st_tensor *t;
	FORMAT_NAME(name, format);

	if (b->failed)
		return NULL;
	if (!b->checkpoint->tensors)
		return random_numbers(b, count);
	t = safetensors_find(b->checkpoint->tensors, name);
	if (t && t->count != count) {
		bind_fail(b, "%s: tensor '%s' has %" PRId64 " numbers, wanted %" PRId64,
			safetensors_path(b->checkpoint->tensors), name, t->count, count);
		return NULL;
	}
	return host_copy(b, name, t ? t->ndim : 1, t ? t->dim : &count);
}

struct tensor bind_tensor(struct binder *b, int64_t rows, int64_t cols, const char *format, ...)
{
	char name[256];
	struct tensor t = TENSOR_NONE;
	FORMAT_NAME(name, format);

	float *host = bind_host(b, rows * cols, "%s", name);
	if (host)
		t = bind_buffer(b, rows, cols);
	if (t.data)
		op_upload(b->backend, t, host);
	free(host);
	binder_ok(b);
	return t;
}
