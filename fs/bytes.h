/* bytes.h - a growing byte buffer to encode records into, and a checked reader to decode them.
 * Little-endian fixed-width fields; strings and blocks with a u32 length. Running out of memory latches `failed`,
 * reading past the end latches `failed`: callers look once, at the end. */
#ifndef BYTES_H
#define BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
	uint8_t *data;
	size_t len, cap;
	bool failed;
};

static inline void *bytes_extend(struct bytes *b, size_t len)
{
	if (b->failed)
		return NULL;
	if (b->cap - b->len < len) {
		size_t cap = b->cap * 2 > b->len + len ? b->cap * 2 : b->len + len + 256;
		uint8_t *data = realloc(b->data, cap);
		if (!data) {
			b->failed = true;
			return NULL;
		}
		b->data = data;
		b->cap = cap;
	}
	b->len += len;
	return b->data + b->len - len;
}

static inline void bytes_put(struct bytes *b, const void *data, size_t len)
{
	void *at = len ? bytes_extend(b, len) : NULL;
	if (at)
		memcpy(at, data, len);
}

static inline void bytes_put_u8(struct bytes *b, uint8_t v)
{
	bytes_put(b, &v, 1);
}

static inline void bytes_put_u32(struct bytes *b, uint32_t v)
{
	uint8_t le[4] = {v, v >> 8, v >> 16, v >> 24};
	bytes_put(b, le, sizeof le);
}

static inline void bytes_put_u64(struct bytes *b, uint64_t v)
{
	bytes_put_u32(b, (uint32_t)v);
	bytes_put_u32(b, (uint32_t)(v >> 32));
}

static inline void bytes_put_block(struct bytes *b, const void *data, uint32_t len)
{
	bytes_put_u32(b, len);
	bytes_put(b, data, len);
}

static inline void bytes_put_string(struct bytes *b, const char *s)
{
	bytes_put_block(b, s ? s : "", s ? strlen(s) : 0);
}

static inline void bytes_finish(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

struct reader {
	const uint8_t *data;
	size_t len, at;
	bool failed;
};

static inline const uint8_t *reader_take(struct reader *r, size_t len)
{
	if (r->failed || r->len - r->at < len) {
		r->failed = true;
		return NULL;
	}
	r->at += len;
	return r->data + r->at - len;
}

static inline uint8_t reader_u8(struct reader *r)
{
	const uint8_t *p = reader_take(r, 1);
	return p ? *p : 0;
}

static inline uint32_t reader_u32(struct reader *r)
{
	const uint8_t *p = reader_take(r, 4);
	return p ? p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

static inline uint64_t reader_u64(struct reader *r)
{
	uint64_t low = reader_u32(r);
	return low | (uint64_t)reader_u32(r) << 32;
}

static inline const uint8_t *reader_block(struct reader *r, uint32_t *len)
{
	*len = reader_u32(r);
	return reader_take(r, *len);
}

/* A new NUL-terminated copy; NULL (and failed) when it is too short, too long, contains a NUL, or memory is out. */
static inline char *reader_string(struct reader *r, size_t max)
{
	uint32_t len;
	const uint8_t *p = reader_block(r, &len);
	char *s = p && len <= max && !memchr(p, 0, len) ? strndup((const char *)p, len) : NULL;
	if (!s)
		r->failed = true;
	return s;
}

#endif
