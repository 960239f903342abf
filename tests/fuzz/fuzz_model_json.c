/* fuzz_model_json.c - any text as the description of a network, an encoder or a pipeline: refused or understood. */
#include "model.h"
#include "model_tensors.h"
#include "seeds.h"

#include "../tiny_json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct {
		const char *name, *text;
	} seeds[] = {
		{"pipeline", tiny_pipeline},
		{"ss_flow", tiny_ss_flow},
		{"ss_dec", tiny_ss_dec},
		{"slat_flow", tiny_slat_flow},
		{"slat_dec_mesh", tiny_slat_dec_mesh},
		{"slat_dec_gs", tiny_slat_dec_gs},
		{"encoder", tiny_encoder},
	};
	for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++)
		seeds_write(seeds_corpus(*argc, *argv), seeds[i].name, seeds[i].text, strlen(seeds[i].text));
	return 0;
}

/* A listed tensor has a name and a positive size that fits. */
static void check_tensor(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	int64_t count = 1;
	(void)user, (void)required;
	if (!*name || ndim < 1 || ndim > ST_MAX_DIMS)
		abort();
	for (int i = 0; i < ndim; i++) {
		if (dim[i] < 1 || __builtin_mul_overflow(count, dim[i], &count))
			abort();
	}
}

static bool ignore_role(void *user, const char *role, const char *reference, struct error *err)
{
	(void)user, (void)role, (void)reference, (void)err;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err;
	struct checkpoint c = {0};
	struct model m = {0};
	const char *text = (const char *)data;
	if (checkpoint_parse(&c, text, size, "fuzz", &err) || checkpoint_parse_encoder(&c, text, size, "fuzz", &err))
		model_tensors_list(&c, check_tensor, NULL);
	checkpoint_finish(&c);
	pipeline_parse(&m, text, size, "fuzz", ignore_role, NULL, &err);
	return 0;
}
