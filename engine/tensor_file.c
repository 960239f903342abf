/* tensor_file.c - a mapped file with named tensors in it: mapping, the table of names, conversion to f32 and i32.
 * Under safetensors.c and torch_state.c, which read the two formats. */
#include "tensor_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
	const char *name;
	size_t size;
} dtypes[] = {
	[ST_F64] = {"F64", 8},
	[ST_F32] = {"F32", 4},
	[ST_F16] = {"F16", 2},
	[ST_BF16] = {"BF16", 2},
	[ST_I64] = {"I64", 8},
	[ST_I32] = {"I32", 4},
	[ST_U8] = {"U8", 1},
	[ST_BOOL] = {"BOOL", 1},
};

const char *st_dtype_name(enum st_dtype dtype)
{
	return dtypes[dtype].name;
}

size_t st_dtype_size(enum st_dtype dtype)
{
	return dtypes[dtype].size;
}

struct safetensors *tensor_file_borrow(const void *bytes, size_t size, const char *name, struct error *err)
{
	struct safetensors *f = calloc(1, sizeof *f);
	if (!f || !(f->path = strdup(name))) {
		free(f);
		error_set(err, "%s: out of memory", name);
		return NULL;
	}
	f->bytes = bytes;
	f->size = size;
	return f;
}

int tensor_file_open(const char *path, size_t *size, struct error *err)
{
	struct stat st;
	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		bool dangling = errno == ENOENT && lstat(path, &st) == 0;
		error_set(err, "%s: %s", path, dangling ? "is a link to a file that is not there" : strerror(errno));
		return -1;
	}
	if (fstat(fd, &st) != 0)
		error_set(err, "%s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		error_set(err, "%s: not a regular file", path);
	else {
		*size = (size_t)st.st_size;
		return fd;
	}
	close(fd);
	return -1;
}

struct safetensors *tensor_file_map(const char *path, struct error *err)
{
	struct safetensors *f = NULL;
	size_t size;
	int fd = tensor_file_open(path, &size, err);
	if (fd < 0)
		return NULL;
	if (size == 0) {
		error_set(err, "%s: the file is empty", path);
	} else {
		void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (bytes == MAP_FAILED)
			error_set(err, "%s: cannot map the file: %s", path, strerror(errno));
		else if (!(f = tensor_file_borrow(bytes, size, path, err)))
			munmap(bytes, size);
		else
			f->mapped = true;
	}
	close(fd);
	return f;
}

void safetensors_close(struct safetensors *f)
{
	if (!f)
		return;
	for (int i = 0; i < f->count; i++)
		free((char *)f->tensors[i].name);
	free(f->tensors);
	free(f->slots);
	if (f->mapped)
		munmap((void *)f->bytes, f->size);
	free(f->path);
	free(f);
}

const char *safetensors_path(const struct safetensors *f)
{
	return f->path;
}

int safetensors_count(const struct safetensors *f)
{
	return f->count;
}

const struct st_tensor *safetensors_at(const struct safetensors *f, int index)
{
	assert(index >= 0 && index < f->count);
	return &f->tensors[index];
}

/* FNV-1a */
static uint64_t hash_name(const char *name)
{
	uint64_t h = 0xcbf29ce484222325;
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3;
	return h;
}

/* The slot that holds name, or the free one where it belongs. n_slots > 0. */
static size_t find_slot(const struct safetensors *f, const char *name)
{
	size_t i = hash_name(name) & (f->n_slots - 1);
	while (f->slots[i] && strcmp(f->tensors[f->slots[i] - 1].name, name) != 0)
		i = (i + 1) & (f->n_slots - 1);
	return i;
}

const struct st_tensor *safetensors_find(const struct safetensors *f, const char *name)
{
	int index = f->n_slots ? f->slots[find_slot(f, name)] : 0;
	return index ? &f->tensors[index - 1] : NULL;
}

static bool grow(struct safetensors *f)
{
	int capacity = f->capacity ? 2 * f->capacity : 64;
	struct st_tensor *tensors = realloc(f->tensors, (size_t)capacity * sizeof *tensors);
	if (!tensors)
		return false;
	f->tensors = tensors;
	int *slots = calloc((size_t)capacity * 4, sizeof *slots);
	if (!slots)
		return false;
	free(f->slots);
	f->slots = slots;
	f->n_slots = (size_t)capacity * 4;
	f->capacity = capacity;
	for (int i = 0; i < f->count; i++)
		f->slots[find_slot(f, f->tensors[i].name)] = i + 1;
	return true;
}

static bool is_usable_name(const char *name)
{
	size_t n = 0;
	for (; name[n]; n++) {
		if ((uint8_t)name[n] < 0x20 || name[n] == 0x7f)
			return false;
	}
	return n > 0 && n <= 512;
}

struct st_tensor *tensor_file_add(
	struct safetensors *f, const char *name, enum st_dtype dtype, int ndim, const int64_t *dim, struct error *err)
{
	int64_t count = 1, bytes;
	if (!is_usable_name(name)) {
		error_set(err, "%s: a tensor's name is empty, too long or has control characters", f->path);
		return NULL;
	}
	if (ndim < 0 || ndim > ST_MAX_DIMS) {
		error_set(err, "%s: tensor %s has %d dimensions, at most %d are possible", f->path, name, ndim,
			ST_MAX_DIMS);
		return NULL;
	}
	for (int i = 0; i < ndim; i++) {
		if (dim[i] < 0 || __builtin_mul_overflow(count, dim[i], &count)) {
			error_set(err, "%s: tensor %s has an impossible shape", f->path, name);
			return NULL;
		}
	}
	if (__builtin_mul_overflow(count, (int64_t)st_dtype_size(dtype), &bytes) || bytes > INT64_MAX / 2) {
		error_set(err, "%s: tensor %s has an impossible shape", f->path, name);
		return NULL;
	}
	if (safetensors_find(f, name)) {
		error_set(err, "%s: two tensors are called %s", f->path, name);
		return NULL;
	}
	char *copy = strdup(name);
	if (!copy || (f->count == f->capacity && !grow(f))) {
		free(copy);
		error_set(err, "%s: out of memory", f->path);
		return NULL;
	}
	struct st_tensor *t = &f->tensors[f->count++];
	*t = (struct st_tensor){.name = copy, .dtype = dtype, .ndim = ndim, .count = count};
	memcpy(t->dim, dim, (size_t)ndim * sizeof *dim);
	f->slots[find_slot(f, copy)] = f->count;
	return t;
}

void safetensors_release(const struct safetensors *f, const struct st_tensor *t)
{
	if (!f->mapped)
		return;
	/* Only whole pages of this tensor: its neighbours may still be wanted. */
	size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)t->count * st_dtype_size(t->dtype);
	uintptr_t begin = ((uintptr_t)t->data + page - 1) & ~(page - 1);
	uintptr_t end = ((uintptr_t)t->data + size) & ~(page - 1);
	if (begin < end)
		madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* Half to single precision. Normal numbers and infinities are a shift and a new bias; subnormals come out of one
 * subtraction: 2^-14 (1 + m / 2^10) - 2^-14. */
static float f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff, bits;
	float value;
	if (magnitude >= 0x7c00) {
		bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
	} else if (magnitude >= 0x400) {
		bits = (magnitude << 13) + ((127 - 15) << 23);
	} else {
		bits = (magnitude << 13) + ((127 - 14) << 23);
		memcpy(&value, &bits, sizeof value);
		value -= 0x1p-14f;
		memcpy(&bits, &value, sizeof bits);
	}
	bits |= sign;
	memcpy(&value, &bits, sizeof value);
	return value;
}

/* Element i of t as a T, whatever its alignment. */
#define ELEMENT(T, t, i)                                                                                               \
	({                                                                                                             \
		T element_;                                                                                            \
		memcpy(&element_, (const uint8_t *)(t)->data + (size_t)(i) * sizeof(T), sizeof(T));                    \
		element_;                                                                                              \
	})

void st_read_f32(float *out, const struct st_tensor *t)
{
	switch (t->dtype) {
	case ST_F32:
		if (t->count)
			memcpy(out, t->data, (size_t)t->count * sizeof *out);
		return;
	case ST_F16:
		for (int64_t i = 0; i < t->count; i++)
			out[i] = f16_to_f32(ELEMENT(uint16_t, t, i));
		return;
	case ST_BF16:
		for (int64_t i = 0; i < t->count; i++) {
			uint32_t bits = (uint32_t)ELEMENT(uint16_t, t, i) << 16;
			memcpy(&out[i], &bits, sizeof bits);
		}
		return;
	case ST_F64:
		for (int64_t i = 0; i < t->count; i++)
			out[i] = (float)ELEMENT(double, t, i);
		return;
	case ST_I64:
		for (int64_t i = 0; i < t->count; i++)
			out[i] = (float)ELEMENT(int64_t, t, i);
		return;
	case ST_I32:
		for (int64_t i = 0; i < t->count; i++)
			out[i] = (float)ELEMENT(int32_t, t, i);
		return;
	case ST_U8:
	case ST_BOOL:
		for (int64_t i = 0; i < t->count; i++)
			out[i] = ELEMENT(uint8_t, t, i);
		return;
	}
}

/* Truncated towards zero and clamped; NaN becomes 0. */
static int32_t clamp_i32(double value)
{
	if (!(value > INT32_MIN))
		return value <= INT32_MIN ? INT32_MIN : 0;
	return value < INT32_MAX ? (int32_t)value : INT32_MAX;
}

void st_read_i32(int32_t *out, const struct st_tensor *t)
{
	for (int64_t i = 0; i < t->count; i++) {
		int64_t wide;
		switch (t->dtype) {
		case ST_I32:
			out[i] = ELEMENT(int32_t, t, i);
			break;
		case ST_I64:
			wide = ELEMENT(int64_t, t, i);
			out[i] = wide < INT32_MIN ? INT32_MIN : wide > INT32_MAX ? INT32_MAX : (int32_t)wide;
			break;
		case ST_U8:
		case ST_BOOL:
			out[i] = ELEMENT(uint8_t, t, i);
			break;
		case ST_F64:
			out[i] = clamp_i32(ELEMENT(double, t, i));
			break;
		case ST_F32:
			out[i] = clamp_i32((double)ELEMENT(float, t, i));
			break;
		case ST_F16:
			out[i] = clamp_i32((double)f16_to_f32(ELEMENT(uint16_t, t, i)));
			break;
		case ST_BF16: {
			uint32_t bits = (uint32_t)ELEMENT(uint16_t, t, i) << 16;
			float value;
			memcpy(&value, &bits, sizeof value);
			out[i] = clamp_i32((double)value);
			break;
		}
		}
	}
}
