/* buffer.h - bytes that grow, and getting them into a file. Under the writers (glb.c, obj.c, ply.c, stl.c,
 * png_write.c). Appending never fails on its own: running out of memory latches, and buffer_ok tells once at the end.
 */
#ifndef TRELLIS_BUFFER_H
#define TRELLIS_BUFFER_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer {
	uint8_t *data;
	size_t size, capacity;
	bool out_of_memory;
};

void buffer_finish(struct buffer *b);
/* False, with a line, when memory ran out on the way. what: "chair.glb", "the picture". */
bool buffer_ok(const struct buffer *b, const char *what, struct error *err);

/* Room for size bytes at the end, uninitialised; NULL when there is none. Valid until the next call. */
void *buffer_extend(struct buffer *b, size_t size);
void buffer_append(struct buffer *b, const void *bytes, size_t size);
void buffer_text(struct buffer *b, const char *text);
/* The number with `decimals` (at most 9) digits after a point, whatever the locale. Beyond +-1e9: that limit. */
void buffer_decimal(struct buffer *b, double value, int decimals);
void buffer_integer(struct buffer *b, int64_t value);

/* The first size bytes of a regular file, or all that it has, whatever pieces the system hands out: how many; -1 and errno. */
ssize_t file_read(int fd, void *bytes, size_t size);

/* All bytes to fd, from where it stands. name is used in errors. */
bool buffer_write(const struct buffer *b, int fd, const char *name, struct error *err);
/* The file appears whole, replacing what was there, or not at all: a temporary file beside it, fsync, rename. What is
 * not a regular file (a pipe, /dev/null) is written to as it is. */
bool buffer_save(const struct buffer *b, const char *path, struct error *err);

#endif
