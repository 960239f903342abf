/* zip_file.c - read the central directory of a zip archive, with the 64-bit extensions.
 * Under torch_state.c: torch.save writes such archives with every entry stored, so tensors can be used where they lie.
 * Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 (local header) to 4.3.16 (end of central directory) and 4.5.3. */
#include "zip_file.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 65536

enum {
	LOCAL_SIZE = 30,
	CENTRAL_SIZE = 46,
	END_SIZE = 22,
	LOCATOR64_SIZE = 20,
	END64_SIZE = 56,
};

static uint64_t read_le(const uint8_t *p, int bytes)
{
	uint64_t value = 0;
	while (bytes--)
		value = value << 8 | p[bytes];
	return value;
}

struct directory {
	uint64_t offset, size, count;
};

/* The record at the very end of the file, before a comment of up to 64 KiB. NULL: none. */
static const uint8_t *find_end(const uint8_t *bytes, uint64_t size)
{
	for (uint64_t back = END_SIZE; back <= size && back <= END_SIZE + 65535; back++) {
		const uint8_t *p = bytes + size - back;
		if (memcmp(p, "PK\5\6", 4) == 0 && read_le(p + 20, 2) == back - END_SIZE)
			return p;
	}
	return NULL;
}

static bool find_directory(
	struct directory *d, const uint8_t *bytes, uint64_t size, const char *name, struct error *err)
{
	const uint8_t *end = find_end(bytes, size);
	if (!end)
		return error_set(err, "%s: truncated, or not a zip archive as torch.save writes it", name);
	*d = (struct directory){read_le(end + 16, 4), read_le(end + 12, 4), read_le(end + 10, 2)};
	if (end - bytes >= LOCATOR64_SIZE && memcmp(end - LOCATOR64_SIZE, "PK\6\7", 4) == 0) {
		uint64_t at = read_le(end - LOCATOR64_SIZE + 8, 8);
		if (size < END64_SIZE || at > size - END64_SIZE || memcmp(bytes + at, "PK\6\6", 4) != 0)
			return error_set(err, "%s: the zip archive's 64-bit directory record is damaged", name);
		*d = (struct directory){
			read_le(bytes + at + 48, 8), read_le(bytes + at + 40, 8), read_le(bytes + at + 32, 8)};
	}
	if (d->offset > size || d->size > size - d->offset || d->count > MAX_ENTRIES)
		return error_set(err, "%s: the zip archive's directory is damaged", name);
	return true;
}

/* What the fields of 32 bits cannot hold is in the extra field 1, in this order, only for those that are all ones. */
static bool widen(uint64_t *const fields[], int n, const uint8_t *extra, size_t extra_size)
{
	while (extra_size >= 4) {
		size_t id = read_le(extra, 2), length = read_le(extra + 2, 2);
		if (length > extra_size - 4)
			return false;
		const uint8_t *p = extra + 4;
		for (int i = 0; id == 1 && i < n; i++) {
			if (*fields[i] != UINT32_MAX)
				continue;
			if (length < 8)
				return false;
			*fields[i] = read_le(p, 8);
			p += 8;
			length -= 8;
		}
		if (id == 1)
			return true;
		extra += 4 + length;
		extra_size -= 4 + length;
	}
	return true;
}

/* One record of the central directory. *used: its length. */
static bool read_entry(struct zip_entry *e, uint64_t *used, const uint8_t *record, uint64_t left, const uint8_t *bytes,
	uint64_t size, const char *name, struct error *err)
{
	if (left < CENTRAL_SIZE || memcmp(record, "PK\1\2", 4) != 0)
		return error_set(err, "%s: the zip archive's directory is damaged", name);
	uint64_t flags = read_le(record + 8, 2), method = read_le(record + 10, 2);
	uint64_t stored = read_le(record + 20, 4), length = read_le(record + 24, 4), offset = read_le(record + 42, 4);
	uint64_t name_size = read_le(record + 28, 2), extra_size = read_le(record + 30, 2);
	*used = CENTRAL_SIZE + name_size + extra_size + read_le(record + 32, 2);
	if (*used > left || !widen((uint64_t *const[]){&length, &stored, &offset}, 3, record + CENTRAL_SIZE + name_size,
				    (size_t)extra_size))
		return error_set(err, "%s: the zip archive's directory is damaged", name);
	if ((flags & 1) || method != 0 || stored != length)
		return error_set(
			err, "%s: the zip archive has compressed or encrypted entries, torch.save writes none", name);
	if (size < LOCAL_SIZE || offset > size - LOCAL_SIZE || memcmp(bytes + offset, "PK\3\4", 4) != 0)
		return error_set(err, "%s: the zip archive's directory points outside the file", name);
	uint64_t data = offset + LOCAL_SIZE + read_le(bytes + offset + 26, 2) + read_le(bytes + offset + 28, 2);
	if (data > size || length > size - data)
		return error_set(err, "%s: truncated: an entry of the zip archive ends outside the file", name);
	*e = (struct zip_entry){(const char *)record + CENTRAL_SIZE, (size_t)name_size, bytes + data, length};
	return true;
}

static int compare_text(const char *a, size_t a_size, const char *b, size_t b_size)
{
	int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
	return order ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_entries(const void *a, const void *b)
{
	const struct zip_entry *x = a, *y = b;
	return compare_text(x->name, x->name_size, y->name, y->name_size);
}

bool zip_file_open(struct zip_file *zip, const uint8_t *bytes, uint64_t size, const char *name, struct error *err)
{
	struct directory d;
	if (!find_directory(&d, bytes, size, name, err))
		return false;
	struct zip_entry *entries = malloc((size_t)(d.count + 1) * sizeof *entries);
	if (!entries)
		return error_set(err, "%s: out of memory", name);
	uint64_t at = 0, used;
	for (uint64_t i = 0; i < d.count; i++, at += used) {
		if (!read_entry(&entries[i], &used, bytes + d.offset + at, d.size - at, bytes, size, name, err)) {
			free(entries);
			return false;
		}
	}
	qsort(entries, (size_t)d.count, sizeof *entries, compare_entries);
	*zip = (struct zip_file){entries, (size_t)d.count};
	return true;
}

void zip_file_close(struct zip_file *zip)
{
	free(zip->entries);
	*zip = (struct zip_file){0};
}

const struct zip_entry *zip_file_find(const struct zip_file *zip, const char *name)
{
	const struct zip_entry key = {.name = name, .name_size = strlen(name)};
	return bsearch(&key, zip->entries, zip->count, sizeof key, compare_entries);
}
