/* tensor_file.h - what safetensors.c and torch_state.c share: a mapped file and the named tensors in it.
 * Private to the readers; everybody else sees the opaque struct safetensors of safetensors.h. */
#ifndef TRELLIS_TENSOR_FILE_H
#define TRELLIS_TENSOR_FILE_H

#include "safetensors.h"

struct safetensors {
	char *path;	      /* or the name given to safetensors_from_memory */
	const uint8_t *bytes; /* the whole file */
	size_t size;
	bool mapped; /* bytes are ours to unmap */
	struct st_tensor *tensors;
	int count, capacity;
	int *slots;	/* open addressing, tensor index + 1, 0: free */
	size_t n_slots; /* power of two, more than twice count */
};

/* Open a regular file for reading; *size in bytes. -1 and err otherwise: missing, a dangling link, no file. */
int tensor_file_open(const char *path, size_t *size, struct error *err);
/* Map a regular file; no tensors yet. */
struct safetensors *tensor_file_map(const char *path, struct error *err);
struct safetensors *tensor_file_borrow(const void *bytes, size_t size, const char *name, struct error *err);

/* Append a tensor (name is copied) and return it for the caller to check its place in the file and set data.
 * dim is checked: 0..ST_MAX_DIMS of them, none negative, and the product of the shape and of the dtype's size fits 62
 * bits. NULL: a duplicate or unusable name, a bad shape or no memory. The pointer holds until the next call. */
struct st_tensor *tensor_file_add(
	struct safetensors *f, const char *name, enum st_dtype dtype, int ndim, const int64_t *dim, struct error *err);

#endif
