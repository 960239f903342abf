/* check.c - `trellis check`: run every case of a directory of reference data and compare. It proves a new machine, and
 * it proves changes. Cases are found by what files there are, never by name or size. */
#include "check_cases.h"
#include "commands.h"
#include "pipeline.h"

#include <dirent.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
	"usage: trellis check [--device NAME] [--dtype TYPE] [--threads N] [--quiet] DIR\n"
	"\n"
	"Runs every case found in DIR and the directories below it (links and other filesystems are left out) and "
	"compares each expected tensor: networks with\n"
	"their intermediates, samplers, image encoders, whole pipelines, FlexiCubes, pictures and random numbers.\n"
	"Prints for each tensor the relative L2 error and the worst element, beside the gate when it fails, then how\n"
	"many tensors were compared, expected and failed. What was expected and not compared has failed, and so has a\n"
	"directory without any case.\n"
	"\n"
	"Options:\n"
	"  -d, --device NAME  auto (default), cpu, cuda, cuda:N, or reference: the plain and slow C version of every\n"
	"                     operation\n"
	"      --dtype TYPE   f16 (default), bf16 or f32 on CUDA; half precision has wider gates\n"
	"  -t, --threads N    processor threads (default: all)\n"
	"  -q, --quiet        print only what fails, and the last line\n"
	"  -h, --help         print this text\n"
	"\n"
	"Exit status: 0 when everything expected was compared and passed, 1 otherwise, 2 for wrong usage.\n";

bool path_exists(const char *format, ...)
{
	char path[4096];
	struct stat st;
	va_list args;

	va_start(args, format);
	vsnprintf(path, sizeof path, format, args);
	va_end(args);
	return stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

void check_label(const struct check *k, char *label, size_t size, const char *path)
{
	size_t root = strlen(k->root);
	const char *rest = strncmp(path, k->root, root) ? path : path + root;
	const char *tail;

	while (*rest == '/')
		rest++;
	tail = strstr(rest, ".io.safetensors");
	snprintf(label, size, "%.*s", tail ? (int)(tail - rest) : (int)strlen(rest), *rest ? rest : path);
}

static bool fits(const struct st_tensor *t, int ndim, const int64_t *dim)
{
	bool ok = t->ndim == ndim;
	for (int i = 0; ok && i < ndim; i++)
		ok = dim[i] ? t->dim[i] == dim[i] : t->dim[i] > 0;
	return ok;
}

/* "[1, 3, n, n]" */
static void print_shape(char *text, size_t size, int ndim, const int64_t *dim)
{
	size_t n = (size_t)snprintf(text, size, "[");
	for (int i = 0; i < ndim && n < size; i++)
		n += (size_t)(dim[i] ? snprintf(text + n, size - n, "%s%lld", i ? ", " : "", (long long)dim[i])
				     : snprintf(text + n, size - n, "%sn", i ? ", " : ""));
	if (n < size)
		snprintf(text + n, size - n, "]");
}

float *check_input(const struct safetensors *f, const char *name, int ndim, int64_t *dim, struct error *err)
{
	const struct st_tensor *t = safetensors_find(f, name);
	char wanted[160], found[160];

	if (!t) {
		error_set(err, "%s: tensor '%s' is missing", safetensors_path(f), name);
		return NULL;
	}
	if (!fits(t, ndim, dim)) {
		print_shape(wanted, sizeof wanted, ndim, dim);
		print_shape(found, sizeof found, t->ndim, t->dim);
		error_set(err, "%s: tensor '%s' is %s, wanted %s", safetensors_path(f), name, found, wanted);
		return NULL;
	}
	float *p = malloc((size_t)t->count * sizeof *p);
	if (!p) {
		error_set(err, "out of memory for tensor '%s'", name);
		return NULL;
	}
	st_read_f32(p, t);
	for (int64_t i = 0; i < t->count; i++)
		if (!isfinite(p[i])) {
			error_set(err, "%s: number %lld of tensor '%s' is not finite", safetensors_path(f),
				(long long)i, name);
			free(p);
			return NULL;
		}
	memcpy(dim, t->dim, (size_t)ndim * sizeof *dim);
	return p;
}

/* Some file in the directory ends like this. */
static bool any_file(const char *directory, const char *ending)
{
	struct dirent *entry;
	DIR *dir = opendir(directory);
	bool found = false;

	while (dir && !found && (entry = readdir(dir))) {
		size_t length = strlen(entry->d_name), tail = strlen(ending);
		found = length > tail && !strcmp(entry->d_name + length - tail, ending);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void flexicubes_files(struct check *k, const char *directory)
{
	struct dirent **entries;
	int n = scandir(directory, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char path[4096];
		if (strstr(entries[i]->d_name, ".io.safetensors")) {
			snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
			check_flexicubes(k, path);
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
}

static void check_directory(struct check *k, const char *directory, int depth)
{
	struct dirent **entries;
	bool is_case = true;

	if (path_exists("%s/pipeline.json", directory) && path_exists("%s/io.safetensors", directory))
		check_pipeline(k, directory);
	else if (path_exists("%s/ckpts", directory))
		check_modules(k, directory);
	else if (path_exists("%s/config.json", directory) && path_exists("%s/io.safetensors", directory))
		check_encoder(k, directory);
	else if (path_exists("%s/lanczos.safetensors", directory) || any_file(directory, ".expect.png"))
		check_images(k, directory);
	else
		is_case = false;
	if (is_case)
		return;
	if (path_exists("%s/rng.safetensors", directory) || path_exists("%s/rng.json", directory))
		check_random(k, directory);
	flexicubes_files(k, directory);
	int n = depth < 4 ? scandir(directory, &entries, NULL, alphasort) : -1;
	for (int i = 0; i < n; i++) {
		char path[4096];
		struct stat st;
		snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.' && lstat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
			st.st_dev == k->filesystem)
			check_directory(k, path, depth + 1);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
}

int command_check(int argc, char **argv)
{
	static const struct option options[] = {{"device", required_argument, NULL, 'd'},
		{"dtype", required_argument, NULL, 'y'}, {"threads", required_argument, NULL, 't'},
		{"quiet", no_argument, NULL, 'q'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct comparison c = {0};
	struct check k = {.c = &c};
	struct device d;
	struct error err;
	int option;

	while ((option = getopt_long(argc, argv, "d:t:qh", options, NULL)) != -1) {
		switch (option) {
		case 'd':
			k.wish.name = optarg;
			break;
		case 'y':
			k.wish.dtype = optarg;
			break;
		case 't':
			if (!cli_number(&k.wish.threads, optarg, 1, 4096))
				return cli_usage(argv[0], "--threads %s: wanted a number from 1 to 4096", optarg);
			break;
		case 'q':
			c.quiet = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (argc - optind != 1)
		return cli_usage(argv[0], "one directory is needed");
	k.root = argv[optind];
	struct stat st;
	if (stat(k.root, &st) != 0 || !S_ISDIR(st.st_mode)) {
		error_set(&err, "%s: no such directory", k.root);
		return cli_fail(argv[0], &err);
	}
	k.filesystem = st.st_dev;
	if (!device_open(&d, &k.wish, &err))
		return cli_fail(argv[0], &err);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("device %s, %s\n", d.info.name, d.info.dtype);
	if (d.info.note[0])
		printf("note: %s\n", d.info.note);
	k.b = d.backend;
	c.half = !strcmp(d.info.dtype, "f32") ? 0 : !strcmp(d.info.dtype, "f16") ? 1 : 8;
	check_directory(&k, k.root, 0);
	device_close(&d);
	if (c.taps_left)
		printf("%d intermediates in the files are not produced here and were not compared\n", c.taps_left);
	if (!c.compared)
		printf("no case was found in %s\n", k.root);
	printf("%d tensors compared, %d expected, %d failed\n", c.compared, c.expected, c.failed);
	return c.failed || !c.compared || c.compared < c.expected;
}
