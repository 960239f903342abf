/* fuzz_torch_state.c - any bytes as a state dict of torch.save: refused or read to the last element. */
#include "seeds.h"
#include "torch_state.h"

#include "../torch_file.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char header[] = "{\"a.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
				     "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]}}";
	struct error err;
	uint8_t file[8 + sizeof header - 1 + 16] = {sizeof header - 1};
	memcpy(file + 8, header, sizeof header - 1);
	struct safetensors *f = safetensors_from_memory(file, sizeof file, "seed", &err);
	if (!f)
		abort();
	struct torch_file *z = torch_file_create(f);
	seeds_write(seeds_corpus(*argc, *argv), "two_tensors", z->bytes, z->size);
	free(z);
	safetensors_close(f);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err;
	struct safetensors *f = torch_state_from_memory(data, size, "fuzz", &err);
	for (int i = 0; f && i < safetensors_count(f); i++) {
		const struct st_tensor *t = safetensors_at(f, i);
		if (safetensors_find(f, t->name) != t)
			abort();
		/* The bytes are in the input, so count is small. */
		float *out = malloc((size_t)t->count * sizeof *out + 1);
		st_read_f32(out, t);
		free(out);
	}
	safetensors_close(f);
	return 0;
}
