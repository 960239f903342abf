/* scratch.c - a stack of device memory for activations: grows in chunks, keeps them between passes.
 * A mark is the height of the stack in bytes. Chunks lie one above the other: the tail of a chunk that is too short
 * for a request is skipped, so heights are comparable across chunks. */
#include "backend_impl.h"

#include <assert.h>
#include <stdlib.h>

enum { ALIGNMENT = 256 };			    /* what cudaMalloc gives; a multiple of a cache line */
static const size_t chunk_bytes = (size_t)32 << 20; /* smaller requests share a chunk of this size */

struct scratch_chunk {
	struct scratch_chunk *next; /* the one above */
	char *data;
	size_t base, size; /* covers heights [base, base + size) */
};

static void free_chunks(struct backend *b, struct scratch_chunk **link)
{
	while (*link) {
		struct scratch_chunk *chunk = *link;
		*link = chunk->next;
		b->ops->free(b, chunk->data);
		free(chunk);
	}
}

/* Put a chunk of at least size bytes at *link, with its bottom at height base. */
static bool add_chunk(struct backend *b, struct scratch_chunk **link, size_t base, size_t size)
{
	struct scratch_chunk *chunk = malloc(sizeof *chunk);
	if (!chunk) {
		backend_fail_as(b, FAULT_MEMORY, "out of memory");
		return false;
	}
	*chunk = (struct scratch_chunk){.base = base, .size = size > chunk_bytes ? size : chunk_bytes};
	chunk->data = b->ops->alloc(b, chunk->size);
	if (!chunk->data) {
		free(chunk);
		return false;
	}
	*link = chunk;
	return true;
}

/* size bytes on top of the stack, or NULL with the error latched. */
static void *push(struct backend *b, size_t size)
{
	struct scratch_chunk **link = &b->scratch;
	size_t base = 0;
	for (; *link; link = &(*link)->next) {
		struct scratch_chunk *chunk = *link;
		size_t top = b->scratch_used > chunk->base ? b->scratch_used : chunk->base;
		if (top < chunk->base + chunk->size && size <= chunk->base + chunk->size - top) {
			b->scratch_used = top + size;
			return chunk->data + (top - chunk->base);
		}
		if (chunk->base >= b->scratch_used)
			break; /* empty and too small: make room for a larger one */
		base = chunk->base + chunk->size;
	}
	free_chunks(b, link);
	if (!add_chunk(b, link, base, size))
		return NULL;
	b->scratch_used = base + size;
	return (*link)->data;
}

size_t scratch_mark(struct backend *b)
{
	return b->scratch_used;
}

void scratch_release(struct backend *b, size_t mark)
{
	assert(mark <= b->scratch_used);
	b->scratch_used = mark;
}

void scratch_trim(struct backend *b)
{
	struct scratch_chunk **link = &b->scratch;
	while (*link && (*link)->base < b->scratch_used)
		link = &(*link)->next;
	b->ops->sync(b);
	free_chunks(b, link);
}

void scratch_finish(struct backend *b)
{
	free_chunks(b, &b->scratch);
	b->scratch_used = 0;
}

struct tensor scratch_new_as(struct backend *b, enum dtype dtype, int64_t rows, int64_t cols)
{
	assert(rows >= 0 && cols > 0);
	struct tensor t = {.dtype = dtype, .rows = rows, .cols = cols, .stride = cols};
	size_t bytes;
	if (b->failed)
		return t;
	if (__builtin_mul_overflow((size_t)rows, (size_t)cols, &bytes) ||
		__builtin_mul_overflow(bytes, dtype_size(dtype), &bytes) || bytes > SIZE_MAX / 2) {
		backend_fail(b, "scratch tensor of %lld x %lld is too large", (long long)rows, (long long)cols);
		return t;
	}
	bytes = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT; /* never 0, so that data is never NULL */
	t.data = push(b, bytes);
	if (b->scratch_used > b->scratch_peak)
		b->scratch_peak = b->scratch_used;
	return t;
}

struct tensor scratch_new(struct backend *b, int64_t rows, int64_t cols)
{
	return scratch_new_as(b, b->act, rows, cols);
}
