/* buffer.c - bytes that grow, and getting them into a file. See buffer.h. */
#include "buffer.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void buffer_finish(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){0};
}

bool buffer_ok(const struct buffer *b, const char *what, struct error *err)
{
	return !b->out_of_memory || error_set(err, "%s: out of memory", what);
}

void *buffer_extend(struct buffer *b, size_t size)
{
	if (b->out_of_memory)
		return NULL;
	if (size > b->capacity - b->size) {
		size_t capacity = b->capacity + b->capacity / 2 + size + 4096;
		uint8_t *data = realloc(b->data, capacity);
		if (!data) {
			b->out_of_memory = true;
			return NULL;
		}
		b->data = data;
		b->capacity = capacity;
	}
	b->size += size;
	return b->data + b->size - size;
}

void buffer_append(struct buffer *b, const void *bytes, size_t size)
{
	void *room = buffer_extend(b, size);
	if (room && size)
		memcpy(room, bytes, size);
}

void buffer_text(struct buffer *b, const char *text)
{
	buffer_append(b, text, strlen(text));
}

static void append_digits(struct buffer *b, uint64_t value, int at_least)
{
	char digits[24];
	int n = 0;
	do
		digits[sizeof digits - 1 - n++] = (char)('0' + value % 10);
	while ((value /= 10) || n < at_least);
	buffer_append(b, digits + sizeof digits - n, (size_t)n);
}

void buffer_integer(struct buffer *b, int64_t value)
{
	if (value < 0)
		buffer_text(b, "-");
	append_digits(b, value < 0 ? -(uint64_t)value : (uint64_t)value, 1);
}

void buffer_decimal(struct buffer *b, double value, int decimals)
{
	uint64_t one = 1;
	for (int i = 0; i < decimals; i++)
		one *= 10;
	uint64_t scaled = (uint64_t)llround(fmin(fabs(value), 1e9) * (double)one);
	if (value < 0 && scaled)
		buffer_text(b, "-");
	append_digits(b, scaled / one, 1);
	buffer_text(b, ".");
	append_digits(b, scaled % one, decimals);
}

ssize_t file_read(int fd, void *bytes, size_t size)
{
	size_t done = 0;
	while (done < size) {
		ssize_t n = pread(fd, (char *)bytes + done, size - done, (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static bool write_all(const struct buffer *b, int fd)
{
	for (size_t done = 0; done < b->size;) {
		ssize_t n = write(fd, b->data + done, b->size - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

bool buffer_write(const struct buffer *b, int fd, const char *name, struct error *err)
{
	return buffer_ok(b, name, err) && (write_all(b, fd) || error_set(err, "%s: %s", name, strerror(errno)));
}

static bool save_through(const struct buffer *b, const char *path, struct error *err)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	bool ok = fd >= 0 && write_all(b, fd);
	if (fd >= 0 && close(fd) != 0)
		ok = false;
	return ok || error_set(err, "%s: %s", path, strerror(errno));
}

static bool save_beside(const struct buffer *b, const char *path, const char *temporary, struct error *err)
{
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (fd < 0)
		return error_set(err, "%s: %s", path, strerror(errno));
	bool ok = write_all(b, fd) && fsync(fd) == 0;
	int cause = errno;
	if (close(fd) != 0 && ok) {
		ok = false;
		cause = errno;
	}
	if (ok && rename(temporary, path) != 0) {
		ok = false;
		cause = errno;
	}
	if (!ok)
		unlink(temporary);
	return ok || error_set(err, "%s: %s", path, strerror(cause));
}

/* PATH.PID.part, of a long name its beginning only; malloc'd. */
static char *temporary_path(const char *path)
{
	const char *base = strrchr(path, '/');
	char ending[32];
	base = base ? base + 1 : path;
	size_t folder = (size_t)(base - path), length = strlen(base),
	       room = NAME_MAX - (size_t)snprintf(ending, sizeof ending, ".%ld.part", (long)getpid());
	if (length > room) {
		length = room;
		while (length > 1 && ((unsigned char)base[length] & 0xc0) == 0x80) /* whole characters */
			length--;
	}
	return text_format("%.*s%s", (int)(folder + length), path, ending);
}

bool buffer_save(const struct buffer *b, const char *path, struct error *err)
{
	struct stat st;
	if (!buffer_ok(b, path, err))
		return false;
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return save_through(b, path, err);
	char *temporary = temporary_path(path);
	if (!temporary)
		return error_set(err, "%s: out of memory", path);
	bool ok = save_beside(b, path, temporary, err);
	free(temporary);
	return ok;
}
