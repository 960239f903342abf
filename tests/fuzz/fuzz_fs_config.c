/* fuzz_fs_config.c - any bytes as a config file: refused with one line and nothing changed, or options that are in
 * range and that come back the same when rendered and read again. */
#include "config.h"
#include "seeds.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char text[] =
		"# comment\nseed = 3\nsteps = 12,13\nguidance = default\nformats = glb,gaussian.ply\n"
		"simplify = 0.5 # half\npreview = off\n";
	seeds_write(seeds_corpus(*argc, *argv), "config", text, sizeof text - 1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct job_options options = config_defaults(), before = options, again = config_defaults();
	struct error err = {0};
	char text[CONFIG_TEXT_MAX], line[CONFIG_TEXT_MAX], line_again[CONFIG_TEXT_MAX];
	if (!config_parse(&options, (const char *)data, size, &err)) {
		if (memcmp(&options, &before, sizeof options) != 0 || !err.text[0] || strchr(err.text, '\n'))
			abort();
		return 0;
	}
	if (!job_options_check(&options, &err))
		abort();
	size_t len = config_render(&options, text, sizeof text);
	if (len >= sizeof text - 1 || !config_parse(&again, text, len, &err))
		abort();
	config_line(&options, " ", line, sizeof line);
	config_line(&again, " ", line_again, sizeof line_again);
	if (strcmp(line, line_again) != 0)
		abort();
	return 0;
}
