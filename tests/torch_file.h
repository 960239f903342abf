/* torch_file.h - write tensors as torch.save writes a state dict: a zip archive of stored entries and a pickle of
 * protocol 2, with a _metadata attribute as modules leave it. For tests and fuzzers of torch_state.c. */
#ifndef TRELLIS_TEST_TORCH_FILE_H
#define TRELLIS_TEST_TORCH_FILE_H

#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

struct torch_file {
	uint8_t bytes[1 << 20]; /* large enough for the tests */
	size_t size;
	uint8_t directory[1 << 16];
	size_t directory_size, entries;
};

static inline void torch_put(uint8_t *bytes, size_t *size, const void *data, size_t n)
{
	memcpy(bytes + *size, data, n);
	*size += n;
}

#define TORCH_PUT_LITERAL(bytes, size, text) torch_put(bytes, size, text, sizeof(text) - 1)

static inline void torch_put_le(uint8_t *bytes, size_t *size, uint64_t value, int n)
{
	for (int i = 0; i < n; i++)
		bytes[(*size)++] = i < 8 ? (uint8_t)(value >> (8 * i)) : 0;
}

static inline void torch_add_entry(struct torch_file *z, const char *name, const void *data, size_t n)
{
	size_t name_size = strlen(name), at = z->size;
	uint8_t *directory = z->directory;
	TORCH_PUT_LITERAL(z->bytes, &z->size, "PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0");
	torch_put_le(z->bytes, &z->size, n, 4);
	torch_put_le(z->bytes, &z->size, n, 4);
	torch_put_le(z->bytes, &z->size, name_size, 4); /* and no extra field */
	torch_put(z->bytes, &z->size, name, name_size);
	torch_put(z->bytes, &z->size, data, n);
	TORCH_PUT_LITERAL(directory, &z->directory_size, "PK\1\2\24\0\24\0\0\0\0\0\0\0\0\0\0\0\0\0");
	torch_put_le(directory, &z->directory_size, n, 4);
	torch_put_le(directory, &z->directory_size, n, 4);
	torch_put_le(directory, &z->directory_size, name_size, 4);
	torch_put_le(directory, &z->directory_size, 0, 10);
	torch_put_le(directory, &z->directory_size, at, 4);
	torch_put(directory, &z->directory_size, name, name_size);
	z->entries++;
}

/* The directory, its 64-bit record and locator as torch writes them, the end record. */
static inline void torch_finish(struct torch_file *z)
{
	uint64_t directory = z->size, end64 = z->size + z->directory_size;
	torch_put(z->bytes, &z->size, z->directory, z->directory_size);
	TORCH_PUT_LITERAL(z->bytes, &z->size, "PK\6\6");
	torch_put_le(z->bytes, &z->size, 44, 8);
	torch_put_le(z->bytes, &z->size, 45 | 45 << 16, 12);
	torch_put_le(z->bytes, &z->size, z->entries, 8);
	torch_put_le(z->bytes, &z->size, z->entries, 8);
	torch_put_le(z->bytes, &z->size, z->directory_size, 8);
	torch_put_le(z->bytes, &z->size, directory, 8);
	TORCH_PUT_LITERAL(z->bytes, &z->size, "PK\6\7");
	torch_put_le(z->bytes, &z->size, 0, 4);
	torch_put_le(z->bytes, &z->size, end64, 8);
	torch_put_le(z->bytes, &z->size, 1, 4);
	TORCH_PUT_LITERAL(z->bytes, &z->size, "PK\5\6\0\0\0\0\377\377\377\377");
	torch_put_le(z->bytes, &z->size, z->directory_size, 4);
	torch_put_le(z->bytes, &z->size, 0xffffffff, 4);
	torch_put_le(z->bytes, &z->size, 0, 2);
}

static inline void pickle_text(uint8_t *p, size_t *n, const char *text)
{
	TORCH_PUT_LITERAL(p, n, "X");
	torch_put_le(p, n, strlen(text), 4);
	torch_put(p, n, text, strlen(text));
}

static inline void pickle_tuple(uint8_t *p, size_t *n, const int64_t *values, int count)
{
	TORCH_PUT_LITERAL(p, n, "(");
	for (int i = 0; i < count; i++) {
		TORCH_PUT_LITERAL(p, n, "J");
		torch_put_le(p, n, (uint64_t)values[i], 4);
	}
	TORCH_PUT_LITERAL(p, n, "t");
}

static inline void pickle_tensor(uint8_t *p, size_t *n, const struct st_tensor *t, const char *key)
{
	int64_t stride[ST_MAX_DIMS], step = 1;
	const char *type = t->dtype == ST_F16	 ? "ctorch\nHalfStorage\n"
			   : t->dtype == ST_BF16 ? "ctorch\nBFloat16Storage\n"
						 : "ctorch\nFloatStorage\n";
	for (int i = t->ndim; i-- > 0;) {
		stride[i] = step;
		step *= t->dim[i];
	}
	TORCH_PUT_LITERAL(p, n, "ctorch._utils\n_rebuild_tensor_v2\n((");
	pickle_text(p, n, "storage");
	torch_put(p, n, type, strlen(type));
	pickle_text(p, n, key);
	pickle_text(p, n, "cpu");
	TORCH_PUT_LITERAL(p, n, "J");
	torch_put_le(p, n, (uint64_t)t->count, 4);
	TORCH_PUT_LITERAL(p, n, "tQK\0");
	pickle_tuple(p, n, t->dim, t->ndim);
	pickle_tuple(p, n, stride, t->ndim);
	TORCH_PUT_LITERAL(p, n,
		"\x89"
		"ccollections\nOrderedDict\n)RtR");
}

/* All tensors of f (F32, F16, BF16); the caller frees. */
static inline struct torch_file *torch_file_create(const struct safetensors *f)
{
	struct torch_file *z = calloc(1, sizeof *z);
	uint8_t *p = calloc(1, 1 << 18);
	size_t n = 0;
	char key[32];
	TORCH_PUT_LITERAL(p, &n, "\x80\2ccollections\nOrderedDict\n)Rq\1(");
	for (int i = 0; i < safetensors_count(f); i++) {
		snprintf(key, sizeof key, "%d", i);
		pickle_text(p, &n, safetensors_at(f, i)->name);
		pickle_tensor(p, &n, safetensors_at(f, i), key);
	}
	TORCH_PUT_LITERAL(p, &n, "u}");
	pickle_text(p, &n, "_metadata");
	TORCH_PUT_LITERAL(p, &n, "ccollections\nOrderedDict\n)R");
	pickle_text(p, &n, "");
	TORCH_PUT_LITERAL(p, &n, "}");
	pickle_text(p, &n, "version");
	TORCH_PUT_LITERAL(p, &n, "K\1sssb.");
	torch_add_entry(z, "archive/data.pkl", p, n);
	free(p);
	for (int i = 0; i < safetensors_count(f); i++) {
		const struct st_tensor *t = safetensors_at(f, i);
		snprintf(key, sizeof key, "archive/data/%d", i);
		torch_add_entry(z, key, t->data, (size_t)t->count * st_dtype_size(t->dtype));
	}
	torch_add_entry(z, "archive/byteorder", "little", 6);
	torch_finish(z);
	return z;
}

#endif
