/* seeds.h - let a fuzzer write its first inputs into its corpus before libFuzzer reads it, and have a folder for its state.
 * Call from LLVMFuzzerInitialize. The corpus is the first argument that is no option. */
#ifndef TRELLIS_FUZZ_SEEDS_H
#define TRELLIS_FUZZ_SEEDS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

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

/* In $FUZZ_DIR, which run.sh makes in memory and removes, or in /tmp. */
static inline void seeds_make_folder(char path[256])
{
	const char *dir = getenv("FUZZ_DIR");
	snprintf(path, 256, "%.200s/trellisfs-fuzz-XXXXXX", dir ? dir : "/tmp");
	if (!mkdtemp(path))
		abort();
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
