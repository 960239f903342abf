/* golden_tensors.h - read one tensor of a golden .safetensors file, of which the test knows the type and the size. */
#ifndef TESTS_GOLDEN_TENSORS_H
#define TESTS_GOLDEN_TENSORS_H

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensor's bytes in a new buffer, at most 6 dims in shape; fails the test when there is none. */
static inline uint8_t *golden_read(const char *path, const char *name, int64_t shape[6])
{
	FILE *f = fopen(path, "rb");
	cr_assert_not_null(f, "%s: cannot be opened", path);
	uint64_t header_size = 0;
	cr_assert_eq(fread(&header_size, 8, 1, f), 1);
	char *header = malloc(header_size);
	cr_assert_eq(fread(header, 1, header_size, f), header_size);
	json_t *root = json_loadb(header, header_size, 0, NULL);
	json_t *tensor = json_object_get(root, name);
	cr_assert_not_null(tensor, "%s: has no %s", path, name);
	json_t *dims = json_object_get(tensor, "shape"), *offsets = json_object_get(tensor, "data_offsets");
	for (size_t i = 0; i < json_array_size(dims); i++)
		shape[i] = json_integer_value(json_array_get(dims, i));
	long begin = (long)json_integer_value(json_array_get(offsets, 0));
	size_t size = (size_t)(json_integer_value(json_array_get(offsets, 1)) - begin);
	uint8_t *bytes = malloc(size);
	cr_assert_eq(fseek(f, 8 + (long)header_size + begin, SEEK_SET), 0);
	cr_assert_eq(fread(bytes, 1, size, f), size);
	fclose(f);
	json_decref(root);
	free(header);
	return bytes;
}

#endif
