/* safetensors_write.c - write .safetensors: gather views of tensors, then the file whole or not at all.
 * The file is written beside its destination and renamed over it. Source of the format: see safetensors.c. */
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct view {
	const void *data;
	size_t size;
};

struct safetensors_writer {
	json_t *header;
	struct view *views;
	size_t count, data_size;
	bool out_of_memory; /* sticky: save reports it */
};

struct safetensors_writer *safetensors_writer_create(void)
{
	struct safetensors_writer *w = calloc(1, sizeof *w);
	if (w && !(w->header = json_object())) {
		free(w);
		return NULL;
	}
	return w;
}

void safetensors_writer_destroy(struct safetensors_writer *w)
{
	if (!w)
		return;
	json_decref(w->header);
	free(w->views);
	free(w);
}

void safetensors_writer_add(struct safetensors_writer *w, const char *name, enum st_dtype dtype, int ndim,
	const int64_t *dim, const void *data)
{
	size_t size = st_dtype_size(dtype);
	json_t *shape = json_array();
	for (int i = 0; i < ndim; i++) {
		size *= (size_t)dim[i];
		json_array_append_new(shape, json_integer(dim[i]));
	}
	json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", st_dtype_name(dtype), "shape", shape, "data_offsets",
		(json_int_t)w->data_size, (json_int_t)(w->data_size + size));
	struct view *views = realloc(w->views, (w->count + 1) * sizeof *views);
	if (views)
		w->views = views;
	if (!views || json_object_set_new(w->header, name, entry) != 0) {
		w->out_of_memory = true;
		return;
	}
	w->views[w->count++] = (struct view){data, size};
	w->data_size += size;
}

static bool write_all(int fd, const void *bytes, size_t size)
{
	for (const char *p = bytes; size;) {
		ssize_t n = write(fd, p, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		size -= (size_t)n;
	}
	return true;
}

/* The header is padded with spaces so that the data is aligned to 8 bytes, as the reference writer does. */
static bool write_file(const struct safetensors_writer *w, int fd, const char *header)
{
	size_t length = strlen(header), padded = (length + 7) & ~(size_t)7;
	uint8_t prefix[8];
	for (int i = 0; i < 8; i++)
		prefix[i] = (uint8_t)((uint64_t)padded >> (8 * i));
	bool ok = write_all(fd, prefix, sizeof prefix) && write_all(fd, header, length) &&
		  write_all(fd, "       ", padded - length);
	for (size_t i = 0; ok && i < w->count; i++)
		ok = write_all(fd, w->views[i].data, w->views[i].size);
	return ok;
}

bool safetensors_writer_save(struct safetensors_writer *w, const char *path, struct error *err)
{
	char *temporary = NULL, *header = json_dumps(w->header, JSON_COMPACT);
	if (w->out_of_memory || !header || asprintf(&temporary, "%s.%ld.part", path, (long)getpid()) < 0) {
		free(header);
		return error_set(err, "%s: out of memory", path);
	}
	bool ok = false;
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (fd < 0) {
		error_set(err, "%s: %s", path, strerror(errno));
		goto out;
	}
	ok = write_file(w, fd, header);
	ok = close(fd) == 0 && ok && rename(temporary, path) == 0;
	if (!ok) {
		error_set(err, "%s: %s", path, strerror(errno));
		unlink(temporary);
	}
out:
	free(temporary);
	free(header);
	return ok;
}
