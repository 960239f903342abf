/* seeds.h - let a fuzzer write its first inputs into its corpus before libFuzzer reads it.
 * Call from LLVMFuzzerInitialize. The corpus is the first argument that is no option. */
#ifndef TRELLIS_FUZZ_SEEDS_H
#define TRELLIS_FUZZ_SEEDS_H

#include <stdint.h>
#include <stdio.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline const char *seeds_corpus(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-')
			return argv[i];
	}
	return NULL;
}

static inline void seeds_write(const char *corpus, const char *name, const void *bytes, size_t size)
{
	char path[1024];
	if (!corpus)
		return;
	snprintf(path, sizeof path, "%s/%s", corpus, name);
	FILE *f = fopen(path, "w");
	if (!f)
		return;
	fwrite(bytes, 1, size, f);
	fclose(f);
}

#endif
