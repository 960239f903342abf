/* fuzz_safetensors.c - any bytes as a .safetensors file: refused or read to the last element. */
#include "safetensors.h"
#include "seeds.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],"
				     "\"data_offsets\":[0,8]},"
				     "\"b\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[8,10]},"
				     "\"c\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[10,10]},"
				     "\"d\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[10,16]}}";
	uint8_t file[8 + sizeof header - 1 + 16] = {sizeof header - 1};
	file[1] = (sizeof header - 1) >> 8;
	memcpy(file + 8, header, sizeof header - 1);
	seeds_write(seeds_corpus(*argc, *argv), "four_tensors", file, sizeof file);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err;
	struct safetensors *f = safetensors_from_memory(data, size, "fuzz", &err);
	for (int i = 0; f && i < safetensors_count(f); i++) {
		const struct st_tensor *t = safetensors_at(f, i);
		if (safetensors_find(f, t->name) != t)
			abort();
		/* The bytes are in the input, so count is small. */
		void *out = malloc((size_t)t->count * sizeof(float) + 1);
		st_read_f32(out, t);
		st_read_i32(out, t);
		free(out);
	}
	safetensors_close(f);
	return 0;
}
