/* json_fields.c - read JSON files and typed fields of their objects, with errors that name the file and the key.
 * Used by whatever reads a JSON file of a model, on top of jansson. */
#include "json_fields.h"

#include "buffer.h"
#include "tensor_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Real ones have a few KB, or 100 with a list of class names; parsed JSON costs up to eighty times its text. */
#define MAX_TEXT_BYTES ((size_t)1 << 18)

json_t *json_fields_parse(const char *text, size_t size, const char *file, struct error *err)
{
	json_error_t bad;
	if (size > MAX_TEXT_BYTES) {
		error_set(err, "%s: %zu bytes, a description has at most %zu", file, size, MAX_TEXT_BYTES);
		return NULL;
	}
	json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, &bad);
	if (!object) {
		error_set(err, "%s: line %d: %s", file, bad.line, bad.text);
	} else if (!json_is_object(object)) {
		error_set(err, "%s: not a JSON object", file);
		json_decref(object);
		object = NULL;
	}
	return object;
}

char *json_fields_read(const char *path, size_t *size, struct error *err)
{
	size_t length;
	char *text = NULL;
	int fd = tensor_file_open(path, &length, err);
	if (fd < 0)
		return NULL;
	if (length > MAX_TEXT_BYTES) {
		error_set(err, "%s: %zu bytes, a description has at most %zu", path, length, MAX_TEXT_BYTES);
	} else if (!(text = malloc(length + 1))) {
		error_set(err, "%s: out of memory", path);
	} else {
		ssize_t n = file_read(fd, text, length);
		if (n < 0) {
			error_set(err, "%s: %s", path, strerror(errno));
			free(text);
			text = NULL;
		} else {
			*size = (size_t)n;
			text[n] = '\0';
		}
	}
	close(fd);
	return text;
}

json_t *json_fields_load(const char *path, struct error *err)
{
	size_t size;
	char *text = json_fields_read(path, &size, err);
	json_t *object = text ? json_fields_parse(text, size, path, err) : NULL;
	free(text);
	return object;
}

bool json_fields_double(double *out, const json_t *object, const char *key, double lo, double hi, const char *file,
	const char *where, struct error *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return error_set(err, "%s: %s lacks \"%s\"", file, where, key);
	if (!json_is_number(value))
		return error_set(err, "%s: %s.%s is not a number", file, where, key);
	double number = json_number_value(value);
	if (!(number >= lo && number <= hi))
		return error_set(err, "%s: %s.%s is %g, wanted %g to %g", file, where, key, number, lo, hi);
	*out = number;
	return true;
}

bool json_fields_int(int *out, const json_t *object, const char *key, int lo, int hi, const char *file,
	const char *where, struct error *err)
{
	double number;
	const json_t *value = json_object_get(object, key);
	if (value && !json_is_integer(value))
		return error_set(err, "%s: %s.%s is not a whole number", file, where, key);
	if (!json_fields_double(&number, object, key, lo, hi, file, where, err))
		return false;
	*out = (int)number;
	return true;
}

bool json_fields_bool(
	bool *out, const json_t *object, const char *key, const char *file, const char *where, struct error *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return error_set(err, "%s: %s lacks \"%s\"", file, where, key);
	if (!json_is_boolean(value))
		return error_set(err, "%s: %s.%s is not true or false", file, where, key);
	*out = json_is_true(value);
	return true;
}

const char *json_fields_string(
	const json_t *object, const char *key, const char *file, const char *where, struct error *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		error_set(err, "%s: %s lacks \"%s\"", file, where, key);
	else if (!json_is_string(value))
		error_set(err, "%s: %s.%s is not a string", file, where, key);
	return json_string_value(value);
}
