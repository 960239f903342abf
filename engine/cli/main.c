/* main.c - the program `trellis`: find the command and run it. */
#include "commands.h"
#include "threads.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command {
	const char *name;
	const char *summary;
	int (*run)(int argc, char **argv);
	bool computes; /* with threads */
} commands[] = {
	{"bench", "time every stage beside the machine's own matrix product rate", command_bench, true},
	{"check", "run reference cases on a device and compare every tensor", command_check, true},
	{"cutout", "show a picture without its background, as generate sees it", command_cutout, true},
	{"doctor", "check this installation: libraries, devices, memory, FUSE, model", command_doctor, true},
	{"generate", "turn pictures into meshes", command_generate, true},
	{"inspect", "list a model's networks, sizes and tensors, and what is wrong with it", command_inspect, false},
	{"render", "draw a mesh as a picture or an animation", command_render, true},
	{"wait", "block until pictures in a mount have become meshes or errors", command_wait, false},
	{"worker", "run the jobs of a trellisfs daemon, which starts it", command_worker, true},
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
	       "  GOMP_SPINCOUNT,           how long threads wait awake for each other: shortly unless one is set\n"
	       "  OMP_WAIT_POLICY\n"
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

/* libgomp has read its environment before main: with what is missing there, start this program once more, as the same process.
 * What the user has set stands. Where that fails (no /proc, a program that was replaced), it is only slower beside other work. */
static void spin_briefly(char **argv)
{
	char program[PATH_MAX];
	if (getenv("OMP_WAIT_POLICY") || getenv(THREADS_SPIN_VARIABLE))
		return;
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
	if (n <= 0 || setenv(THREADS_SPIN_VARIABLE, THREADS_SPIN_COUNT, 1) != 0)
		return;
	program[n] = '\0';
	execv(program, argv);
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
	if (command->computes)
		spin_briefly(argv);
	return run_command(command, argc - 1, argv + 1);
}
