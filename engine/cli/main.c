/* main.c - the program `trellis`: find the command and run it. */
#include "commands.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
	const char *name;
	const char *summary;
	int (*run)(int argc, char **argv);
} commands[] = {
	{"bench", "time every stage beside the machine's own matrix product rate", command_bench},
	{"check", "run reference cases on a device and compare every tensor", command_check},
	{"cutout", "show a picture without its background, as generate sees it", command_cutout},
	{"doctor", "check this installation: libraries, devices, memory, FUSE, model", command_doctor},
	{"generate", "turn pictures into meshes", command_generate},
	{"inspect", "list a model's networks, sizes and tensors, and what is wrong with it", command_inspect},
	{"render", "draw a mesh as a picture or an animation", command_render},
	{"wait", "block until pictures in a mount have become meshes or errors", command_wait},
	{"worker", "run the jobs of a trellisfs daemon, which starts it", command_worker},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

static void print_help(void)
{
	printf("usage: trellis COMMAND [OPTION]... [ARGUMENT]...\n"
	       "       trellis help COMMAND\n"
	       "\n"
	       "Turns pictures into meshes with a TRELLIS image-to-3D model. No network, no Python.\n"
	       "\n"
	       "Commands:\n");
	for (size_t i = 0; i < N_COMMANDS; i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].summary);
	printf("\n"
	       "Options:\n"
	       "  -h, --help     print this text\n"
	       "  -V, --version  print the version\n"
	       "\n"
	       "A model is a directory laid out as on the Hugging Face hub (pipeline.json, ckpts/), or a hub id such "
	       "as\n"
	       "microsoft/TRELLIS-image-large that is in the Hugging Face cache. Without --model it is\n"
	       "$TRELLIS_MODEL_PATH, else the small model that comes with the program.\n"
	       "\n"
	       "Environment:\n"
	       "  TRELLIS_MODEL_PATH        the model when none is named\n"
	       "  HF_HUB_CACHE, HF_HOME     where the Hugging Face cache is (default ~/.cache/huggingface)\n"
	       "  TORCH_HOME                where torch.hub's cache is (default ~/.cache/torch)\n"
	       "\n"
	       "Exit status: 0 success, 1 something failed (one line on stderr says what), 2 wrong usage.\n");
}

bool cli_number(int *value, const char *text, int least, int most)
{
	char *end;
	errno = 0;
	long n = strtol(text, &end, 10);
	if (end == text || *end || errno || n < least || n > most)
		return false;
	*value = (int)n;
	return true;
}

int cli_fail(const char *argv0, const struct error *err)
{
	fprintf(stderr, "%s: %s\n", argv0, err->text);
	return 1;
}

int cli_usage(const char *argv0, const char *format, ...)
{
	const char *name = strchr(argv0, ' ');
	va_list args;
	va_start(args, format);
	fprintf(stderr, "%s: ", argv0);
	vfprintf(stderr, format, args);
	fprintf(stderr, " (see trellis help%s)\n", name ? name : "");
	va_end(args);
	return 2;
}

static int run_command(const struct command *command, int argc, char **argv)
{
	char name[64];
	snprintf(name, sizeof name, "trellis %s", command->name);
	argv[0] = name;
	int status = command->run(argc, argv);
	/* A full disk behind stdout must not look like success. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "%s: cannot write the output: %s\n", name, strerror(errno));
		return 1;
	}
	return status;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	if (!name)
		return cli_usage("trellis", "a command is missing");
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && argc == 2)) {
		print_help();
		return 0;
	}
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		printf("trellis %s\n", TRELLISFS_VERSION);
		return 0;
	}
	bool help = strcmp(name, "help") == 0;
	if (help)
		name = argv[2];
	const struct command *command = find_command(name);
	if (!command)
		return cli_usage("trellis", "there is no command \"%s\"", name);
	if (help)
		return run_command(command, 2, (char *[]){NULL, "--help", NULL});
	return run_command(command, argc - 1, argv + 1);
}
