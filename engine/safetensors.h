/* safetensors.h - read and write .safetensors files (8-byte little-endian header length, JSON header, data).
 * A reader maps the file; tensors are views into the map and live as long as it. Hostile files are refused before they
 * cost memory: header longer than the file or than 1 MiB, offsets outside the file, overlapping, leaving holes or of
 * the wrong length, unknown dtypes, shapes whose product overflows, duplicate names. Errors name the file and the
 * tensor. */
#ifndef TRELLIS_SAFETENSORS_H
#define TRELLIS_SAFETENSORS_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

enum st_dtype { ST_F64, ST_F32, ST_F16, ST_BF16, ST_I64, ST_I32, ST_U8, ST_BOOL };
#define ST_MAX_DIMS 6

struct st_tensor {
	const char *name; /* owned by the file */
	enum st_dtype dtype;
	int ndim;
	int64_t dim[ST_MAX_DIMS];
	int64_t count;	  /* elements */
	const void *data; /* may be unaligned for its type: use st_read_f32 and friends, or memcpy */
};

struct safetensors;

struct safetensors *safetensors_open(const char *path, struct error *err);
/* From memory (tests, fuzzers): bytes are borrowed until close; name is used in errors. */
struct safetensors *safetensors_from_memory(const void *bytes, size_t size, const char *name, struct error *err);
void safetensors_close(struct safetensors *f); /* NULL is fine */

const char *safetensors_path(const struct safetensors *f);
int safetensors_count(const struct safetensors *f);
const struct st_tensor *safetensors_at(const struct safetensors *f, int index);		 /* in file order */
const struct st_tensor *safetensors_find(const struct safetensors *f, const char *name); /* NULL: none; hashed */
/* Let the kernel drop the pages of this tensor (after it was copied to the device). */
void safetensors_release(const struct safetensors *f, const struct st_tensor *t);

const char *st_dtype_name(enum st_dtype dtype);
size_t st_dtype_size(enum st_dtype dtype);
/* Convert to f32 / i32 (from any dtype; to i32 truncating and clamping), count elements. */
void st_read_f32(float *out, const struct st_tensor *t);
void st_read_i32(int32_t *out, const struct st_tensor *t);

/* Writing: add views (data borrowed until save; names distinct), then write to path whole or not at all. */
struct safetensors_writer;
struct safetensors_writer *safetensors_writer_create(void);
void safetensors_writer_add(struct safetensors_writer *w, const char *name, enum st_dtype dtype, int ndim,
	const int64_t *dim, const void *data);
bool safetensors_writer_save(struct safetensors_writer *w, const char *path, struct error *err);
void safetensors_writer_destroy(struct safetensors_writer *w);

#endif
