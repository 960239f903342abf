/* safetensors.c - read .safetensors: 8 bytes of little-endian header length, a JSON object, the data.
 * Source: the format's description at github.com/huggingface/safetensors. As there, the tensors must cover the data
 * without holes or overlaps, so one pass in order of their offsets checks every byte of the file. */
#include "tensor_file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The released checkpoints have headers under 200 KB; parsed JSON costs up to eighty times its text. */
#define MAX_HEADER_BYTES ((uint64_t)1 << 20)

struct extent {
	uint64_t begin, end; /* within the data */
	const char *name;
};

static bool parse_dtype(enum st_dtype *dtype, const char *name)
{
	for (int i = ST_F64; i <= ST_BOOL; i++) {
		if (strcmp(name, st_dtype_name((enum st_dtype)i)) == 0) {
			*dtype = (enum st_dtype)i;
			return true;
		}
	}
	return false;
}

/* One entry of the header: {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}. */
static bool read_entry(struct safetensors *f, struct extent *extent, const uint8_t *data, uint64_t data_size,
	const char *name, const json_t *entry, struct error *err)
{
	const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
	const char *dtype_text = json_string_value(json_object_get(entry, "dtype"));
	enum st_dtype dtype;
	int64_t dim[ST_MAX_DIMS];
	size_t ndim = json_array_size(shape);

	if (!dtype_text || !json_is_array(shape) || json_array_size(offsets) != 2)
		return error_set(err, "%s: tensor %.200s lacks dtype, shape or data_offsets", f->path, name);
	if (!parse_dtype(&dtype, dtype_text))
		return error_set(err, "%s: tensor %.200s has the unknown dtype \"%.40s\"", f->path, name, dtype_text);
	if (ndim > ST_MAX_DIMS)
		return error_set(err, "%s: tensor %.200s has %zu dimensions, at most %d are possible", f->path, name,
			ndim, ST_MAX_DIMS);
	for (size_t i = 0; i < ndim; i++) {
		const json_t *d = json_array_get(shape, i);
		dim[i] = json_is_integer(d) ? json_integer_value(d) : -1;
	}
	struct st_tensor *t = tensor_file_add(f, name, dtype, (int)ndim, dim, err);
	if (!t)
		return false;

	const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
	if (!json_is_integer(first) || !json_is_integer(last) || json_integer_value(first) < 0 ||
		json_integer_value(last) < json_integer_value(first))
		return error_set(err, "%s: tensor %s has impossible data_offsets", f->path, t->name);
	*extent = (struct extent){(uint64_t)json_integer_value(first), (uint64_t)json_integer_value(last), t->name};
	uint64_t want = (uint64_t)t->count * st_dtype_size(dtype);
	if (extent->end - extent->begin != want)
		return error_set(err, "%s: tensor %s has %llu bytes of data, its shape needs %llu", f->path, t->name,
			(unsigned long long)(extent->end - extent->begin), (unsigned long long)want);
	if (extent->end > data_size)
		return error_set(err, "%s: truncated: tensor %s ends at byte %llu of the data, the file has %llu",
			f->path, t->name, (unsigned long long)extent->end, (unsigned long long)data_size);
	t->data = data + extent->begin;
	return true;
}

static int compare_extents(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;
	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return (x->end > y->end) - (x->end < y->end);
}

static bool check_extents(
	const struct safetensors *f, struct extent *extents, size_t n, uint64_t data_size, struct error *err)
{
	uint64_t at = 0;
	if (n)
		qsort(extents, n, sizeof *extents, compare_extents);
	for (size_t i = 0; i < n; i++) {
		if (extents[i].begin < at)
			return error_set(
				err, "%s: tensors %s and %s overlap", f->path, extents[i - 1].name, extents[i].name);
		if (extents[i].begin > at)
			return error_set(err, "%s: a hole of %llu bytes before tensor %s", f->path,
				(unsigned long long)(extents[i].begin - at), extents[i].name);
		at = extents[i].end;
	}
	if (at != data_size)
		return error_set(
			err, "%s: %llu bytes after the last tensor", f->path, (unsigned long long)(data_size - at));
	return true;
}

static bool read_header(struct safetensors *f, const json_t *header, uint64_t header_size, struct error *err)
{
	const uint8_t *data = f->bytes + 8 + header_size;
	uint64_t data_size = f->size - 8 - header_size;
	size_t n = 0;
	const char *name;
	json_t *entry;
	struct extent *extents = malloc((json_object_size(header) + 1) * sizeof *extents);
	if (!extents)
		return error_set(err, "%s: out of memory", f->path);

	bool ok = true;
	json_object_foreach((json_t *)header, name, entry)
	{
		if (strcmp(name, "__metadata__") == 0)
			continue;
		ok = read_entry(f, &extents[n++], data, data_size, name, entry, err);
		if (!ok)
			break;
	}
	ok = ok && check_extents(f, extents, n, data_size, err);
	free(extents);
	return ok;
}

static bool read_file(struct safetensors *f, struct error *err)
{
	static const char lfs[] = "version https://git-lfs";
	uint64_t header_size = 0;

	if (f->size >= sizeof lfs && memcmp(f->bytes, lfs, sizeof lfs - 1) == 0)
		return error_set(err, "%s: a Git LFS pointer, not the file itself (git lfs pull fetches it)", f->path);
	if (f->size < 8)
		return error_set(err, "%s: not a safetensors file: %zu bytes", f->path, f->size);
	for (int i = 7; i >= 0; i--)
		header_size = header_size << 8 | f->bytes[i];
	if (header_size > MAX_HEADER_BYTES)
		return error_set(err, "%s: not a safetensors file: a header of %llu bytes (at most %llu are accepted)",
			f->path, (unsigned long long)header_size, (unsigned long long)MAX_HEADER_BYTES);
	if (header_size > f->size - 8)
		return error_set(err, "%s: truncated: a header of %llu bytes in a file of %zu", f->path,
			(unsigned long long)header_size, f->size);

	json_error_t bad;
	json_t *header = json_loadb((const char *)f->bytes + 8, (size_t)header_size, JSON_REJECT_DUPLICATES, &bad);
	if (!header)
		return error_set(err, "%s: bad header: %s", f->path, bad.text);
	bool ok = json_is_object(header) ? read_header(f, header, header_size, err)
					 : error_set(err, "%s: bad header: not a JSON object", f->path);
	json_decref(header);
	return ok;
}

static struct safetensors *finish_open(struct safetensors *f, struct error *err)
{
	if (f && !read_file(f, err)) {
		safetensors_close(f);
		return NULL;
	}
	return f;
}

struct safetensors *safetensors_open(const char *path, struct error *err)
{
	return finish_open(tensor_file_map(path, err), err);
}

struct safetensors *safetensors_from_memory(const void *bytes, size_t size, const char *name, struct error *err)
{
	return finish_open(tensor_file_borrow(bytes, size, name, err), err);
}
