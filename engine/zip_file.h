/* zip_file.h - the table of contents of a zip archive whose entries are stored uncompressed. Private to torch_state.c.
 */
#ifndef TRELLIS_ZIP_FILE_H
#define TRELLIS_ZIP_FILE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

struct zip_entry {
	const char *name; /* in the archive, not terminated */
	size_t name_size;
	const uint8_t *data;
	uint64_t size;
};

struct zip_file {
	struct zip_entry *entries; /* sorted by name */
	size_t count;
};

/* bytes are borrowed; name is used in errors. Refuses compressed and encrypted entries and ranges outside the file. */
bool zip_file_open(struct zip_file *zip, const uint8_t *bytes, uint64_t size, const char *name, struct error *err);
void zip_file_close(struct zip_file *zip);
const struct zip_entry *zip_file_find(const struct zip_file *zip, const char *name); /* NULL: none */

#endif
