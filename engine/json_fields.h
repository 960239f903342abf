/* json_fields.h - read JSON files and typed fields of their objects, with errors that name the file and the key.
 * Private to the loader. */
#ifndef TRELLIS_JSON_FIELDS_H
#define TRELLIS_JSON_FIELDS_H

#include "error.h"

#include <jansson.h>

/* Parse an object; at most 256 KiB of text, duplicate keys refused. The caller releases it with json_decref. */
json_t *json_fields_parse(const char *text, size_t size, const char *file, struct error *err);
/* Read a whole small file. The caller frees it. */
char *json_fields_read(const char *path, size_t *size, struct error *err);
/* Both. */
json_t *json_fields_load(const char *path, struct error *err);

/* The value must be there and be a number within [lo, hi]; where is the object's path in messages, such as "args". */
bool json_fields_int(int *out, const json_t *object, const char *key, int lo, int hi, const char *file,
	const char *where, struct error *err);
bool json_fields_double(double *out, const json_t *object, const char *key, double lo, double hi, const char *file,
	const char *where, struct error *err);
bool json_fields_bool(
	bool *out, const json_t *object, const char *key, const char *file, const char *where, struct error *err);
/* NULL and an error when it is not a string; borrowed from the object. */
const char *json_fields_string(
	const json_t *object, const char *key, const char *file, const char *where, struct error *err);

#endif
