/* generate.c - `trellis generate`: pictures to meshes from the command line. */
#include "commands.h"
#include "pipeline.h"
#include "preview.h"
#include "writers.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
	"usage: trellis generate [OPTION]... IMAGE... -o OUT\n"
	"\n"
	"Turns each picture (PNG or JPEG) of one object into a mesh. A picture with an alpha channel is cut out by "
	"it;\n"
	"from any other the background is removed first. OUT is a file (one picture, its extension names the format)\n"
	"or a directory, where IMAGE.png becomes IMAGE.glb: pictures of the same name are refused. The same seed gives "
	"the\n"
	"same mesh.\n"
	"\n"
	"Options:\n"
	"  -o, --output OUT      file or directory (default: this directory)\n"
	"  -m, --model MODEL     directory or hub id (default: $TRELLIS_MODEL_PATH, else the embedded model)\n"
	"  -f, --format LIST     glb, obj, ply, stl, gaussian.ply, separated by commas (default: glb)\n"
	"  -s, --seed N          random seed (default 42)\n"
	"      --steps S[,L]     sampling steps of the structure and of the latent (default: as the model says)\n"
	"      --cfg S[,L]       guidance strength of the structure and of the latent (default: as the model says)\n"
	"      --simplify R      keep this share of the triangles (below 1) or about so many (1 and above);\n"
	"                        0, the default, keeps all\n"
	"      --keep-shell      keep the inner shell that the official extraction puts behind the surface\n"
	"      --no-preview      write no IMAGE.preview.png beside the mesh\n"
	"  -d, --device NAME     auto (default: CUDA where it works, else cpu), cpu, cuda or cuda:N\n"
	"      --dtype TYPE      f16 (default), bf16 or f32 on CUDA; the CPU computes in f32\n"
	"      --memory HOW      auto (default), or low: weights leave the device when their stage is over\n"
	"  -t, --threads N       processor threads (default: all)\n"
	"      --taps FILE       also write the run's intermediates as safetensors: cond, ss_noise, z_s, coords,\n"
	"                        slat_noise, slat, vertices, faces, vertex_attrs (one picture)\n"
	"  -q, --quiet           no progress\n"
	"  -h, --help            print this text\n"
	"\n"
	"Exit status: 0 when every picture became a mesh, 1 when one did not (the others still do), 2 for wrong "
	"usage.\n";

struct settings {
	struct trellis_options options;
	struct trellis_params params;
	const char *output, *taps;
	bool formats[MESH_FORMATS], format_given, preview, quiet;
	bool to_file; /* output is a file */
};

/* Progress on a terminal: one line that is drawn again. Otherwise a line a stage. */
struct meter {
	const char *name;
	bool terminal, quiet, drawn;
	enum trellis_stage stage;
	bool any;
};

static void print_time(char *out, size_t size, double seconds)
{
	if (seconds < 0)
		snprintf(out, size, "--");
	else if (seconds < 100)
		snprintf(out, size, "%.0f s", seconds);
	else if (seconds < 5400)
		snprintf(out, size, "%.0f min", seconds / 60);
	else
		snprintf(out, size, "%.1f h", seconds / 3600);
}

static bool show_progress(const struct trellis_progress *p, void *user)
{
	struct meter *m = user;
	char eta[32], bar[25];
	int filled = (int)(p->fraction * (sizeof bar - 1));

	if (m->quiet || (!m->terminal && m->any && p->stage == m->stage))
		return true;
	m->any = true;
	m->stage = p->stage;
	if (!m->terminal) {
		printf("%s: %s\n", m->name, trellis_stage_name(p->stage));
		return true;
	}
	for (size_t i = 0; i < sizeof bar - 1; i++)
		bar[i] = (int)i < filled ? '#' : '.';
	bar[sizeof bar - 1] = '\0';
	print_time(eta, sizeof eta, p->eta_s);
	printf("\r\033[K%s [%s] %3.0f %%  %s", m->name, bar, 100 * p->fraction, trellis_stage_name(p->stage));
	if (p->steps > 1)
		printf(" %d/%d", p->step + 1, p->steps);
	printf("  %s left", eta);
	fflush(stdout);
	m->drawn = true;
	return true;
}

static void clear_progress(struct meter *m)
{
	if (m->drawn)
		printf("\r\033[K");
	m->drawn = false;
}

/* "a,b" or "a" as two numbers. */
static bool parse_pair(const char *text, double low, double high, double out[2])
{
	char *end;

	out[0] = strtod(text, &end);
	if (end == text || !(out[0] >= low && out[0] <= high))
		return false;
	out[1] = out[0];
	if (*end == ',') {
		const char *second = end + 1;
		out[1] = strtod(second, &end);
		if (end == second || !(out[1] >= low && out[1] <= high))
			return false;
	}
	return *end == '\0';
}

static bool parse_formats(struct settings *s, const char *list, struct error *err)
{
	char copy[256], *rest = copy, *name;

	if (snprintf(copy, sizeof copy, "%s", list) >= (int)sizeof copy)
		return error_set(err, "--format: the list is too long");
	memset(s->formats, 0, sizeof s->formats);
	while ((name = strsep(&rest, ","))) {
		enum mesh_format format;
		if (!mesh_format_from_name(&format, name))
			return error_set(err, "--format: '%s' is none of glb, obj, ply, stl, gaussian.ply", name);
		s->formats[format] = true;
	}
	return s->format_given = true;
}

/* The format that a file's extension names. */
static bool format_of(enum mesh_format *format, const char *path)
{
	const char *base = strrchr(path, '/'), *dot;

	base = base ? base + 1 : path;
	for (dot = strchr(base, '.'); dot; dot = strchr(dot + 1, '.'))
		if (mesh_format_from_name(format, dot + 1))
			return true;
	return false;
}

static bool is_directory(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Before minutes of work, not after: the directory that results go to must take files. */
static bool check_writable(const struct settings *s, struct error *err)
{
	char directory[4096];
	const char *slash = strrchr(s->output, '/');

	if (!s->to_file)
		snprintf(directory, sizeof directory, "%s", s->output);
	else
		snprintf(directory, sizeof directory, "%.*s", slash ? (int)(slash - s->output) + 1 : 1,
			slash ? s->output : ".");
	return access(directory, W_OK | X_OK) == 0 ||
	       error_set(err, "%s: cannot write there: %s", directory, strerror(errno));
}

/* OUT/STEM.EXTENSION, or the output file: as it was named for its format, with another ending for the preview. */
static bool output_path(const struct settings *s, char *path, size_t size, const char *image, const char *extension)
{
	const char *base = strrchr(image, '/');
	const char *dot;
	enum mesh_format named, wanted;
	int n;

	base = base ? base + 1 : image;
	dot = strrchr(base, '.');
	if (!s->to_file)
		n = snprintf(path, size, "%s/%.*s.%s", s->output,
			dot && dot > base ? (int)(dot - base) : (int)strlen(base), base, extension);
	else if (!format_of(&named, s->output) || (mesh_format_from_name(&wanted, extension) && wanted == named))
		n = snprintf(path, size, "%s", s->output);
	else
		n = snprintf(path, size, "%.*s.%s", (int)(strlen(s->output) - strlen(mesh_format_name(named)) - 1),
			s->output, extension);
	return n >= 0 && (size_t)n < size;
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Before minutes of work, not after: no file name is too long. */
static bool check_name(const struct settings *s, const char *image, const char *extension, struct error *err)
{
	char path[PATH_MAX];
	bool fits = output_path(s, path, sizeof path, image, extension);
	const char *slash = fits ? strrchr(path, '/') : NULL;

	return (fits && strlen(slash ? slash + 1 : path) <= NAME_MAX) ||
	       error_set(err, "%.900s: the name of its .%s would be too long", image, extension);
}

/* And no two pictures have the same result. */
static bool check_names(const struct settings *s, char *const *images, int n_images, struct error *err)
{
	char **paths = calloc((size_t)n_images, sizeof *paths);
	bool ok = paths != NULL;

	for (int i = 0; ok && i < n_images; i++) {
		char path[4096];
		for (int f = 0; ok && f < MESH_FORMATS; f++)
			ok = !s->formats[f] || check_name(s, images[i], mesh_format_name((enum mesh_format)f), err);
		ok = ok && (!s->preview || check_name(s, images[i], "preview.png", err));
		if (!ok)
			goto done;
		output_path(s, path, sizeof path, images[i], "");
		ok = (paths[i] = strdup(path)) != NULL;
	}
	if (!ok) {
		error_set(err, "out of memory for %d names", n_images);
		goto done;
	}
	qsort(paths, (size_t)n_images, sizeof *paths, compare_texts);
	for (int i = 1; ok && i < n_images; i++)
		if (!strcmp(paths[i - 1], paths[i]))
			ok = error_set(err,
				"two pictures have the same name: both would become %.900s*; one directory each",
				paths[i]);
done:
	for (int i = 0; paths && i < n_images; i++)
		free(paths[i]);
	free(paths);
	return ok;
}

/* "x.fbx" is a file of a kind that is not written; "run.2", "meshes" and "x.y/" are directories. */
static bool names_other_file(const char *path)
{
	const char *base = strrchr(path, '/'), *dot;

	base = base ? base + 1 : path;
	dot = strrchr(base, '.');
	return dot && dot > base && isalpha((unsigned char)dot[1]) && strlen(dot) <= 6;
}

/* Decide whether the output is a file, and make the directory otherwise. */
static bool settle_output(struct settings *s, char *const *images, int n_images, struct error *err)
{
	enum mesh_format format;

	if (!is_directory(s->output) && format_of(&format, s->output)) {
		s->to_file = true;
		if (n_images > 1)
			return error_set(
				err, "-o %s is one file for %d pictures; name a directory", s->output, n_images);
		if (s->format_given &&
			(!s->formats[format] || s->formats[MESH_GLB] + s->formats[MESH_OBJ] + s->formats[MESH_PLY] +
								s->formats[MESH_STL] + s->formats[MESH_GAUSSIAN_PLY] >
							1))
			return error_set(err, "-o %s and --format do not agree; name a directory", s->output);
		memset(s->formats, 0, sizeof s->formats);
		s->formats[format] = true;
	} else if (!is_directory(s->output) && names_other_file(s->output)) {
		return error_set(err,
			"-o %s: its extension is none of glb, obj, ply, stl, gaussian.ply (the name of a directory may "
			"end "
			"with /)",
			s->output);
	}
	if (!check_names(s, images, n_images, err))
		return false;
	if (!s->to_file && !is_directory(s->output) && mkdir(s->output, 0777) != 0)
		return error_set(err, "%s: cannot make the directory: %s", s->output, strerror(errno));
	s->params.want_gaussians = s->formats[MESH_GAUSSIAN_PLY];
	return check_writable(s, err);
}

static bool write_taps(const char *path, const struct pipeline_record *r, struct error *err)
{
	struct safetensors_writer *w = safetensors_writer_create();
	int64_t volume[5] = {1, r->structure_channels, r->resolution, r->resolution, r->resolution};
	bool ok;

	if (!w)
		return error_set(err, "out of memory");
	safetensors_writer_add(w, "cond", ST_F32, 3, (int64_t[]){1, r->tokens, r->cond_channels}, r->cond);
	safetensors_writer_add(w, "ss_noise", ST_F32, 5, volume, r->ss_noise);
	safetensors_writer_add(w, "z_s", ST_F32, 5, volume, r->z_s);
	safetensors_writer_add(w, "coords", ST_I32, 2, (int64_t[]){r->n, 4}, r->coords);
	safetensors_writer_add(w, "slat_noise", ST_F32, 2, (int64_t[]){r->n, r->latent_channels}, r->slat_noise);
	safetensors_writer_add(w, "slat", ST_F32, 2, (int64_t[]){r->n, r->latent_channels}, r->slat);
	safetensors_writer_add(w, "vertices", ST_F32, 2, (int64_t[]){r->surface.n_vertices, 3}, r->surface.vertices);
	safetensors_writer_add(w, "faces", ST_I32, 2, (int64_t[]){r->surface.n_faces, 3}, r->surface.faces);
	if (r->surface.attrs)
		safetensors_writer_add(
			w, "vertex_attrs", ST_F32, 2, (int64_t[]){r->surface.n_vertices, 6}, r->surface.attrs);
	ok = safetensors_writer_save(w, path, err);
	safetensors_writer_destroy(w);
	return ok;
}

static bool write_results(
	const struct settings *s, const char *image, const struct trellis_mesh *mesh, double seconds, struct error *err)
{
	char path[4096];
	struct buffer png = {0};

	for (int f = 0; f < MESH_FORMATS; f++) {
		if (!s->formats[f])
			continue;
		output_path(s, path, sizeof path, image, mesh_format_name((enum mesh_format)f));
		if (!trellis_mesh_save(mesh, path, err))
			return false;
		bool gaussians = f == MESH_GAUSSIAN_PLY;
		printf("%s: %lld %s in %.1f s\n", path, (long long)(gaussians ? mesh->n_gaussians : mesh->n_faces),
			gaussians ? "Gaussians" : "triangles", seconds);
	}
	if (!s->preview)
		return true;
	output_path(s, path, sizeof path, image, "preview.png");
	bool ok = preview_append_png(&png, mesh, err) && buffer_save(&png, path, err);
	buffer_finish(&png);
	return ok;
}

static bool generate_one(
	struct trellis *t, const struct settings *s, const char *path, struct meter *m, struct error *err)
{
	struct trellis_image image = {0};
	struct trellis_latent latent = {0};
	struct trellis_mesh mesh = {0};
	struct pipeline_record record = {0};
	double start = clock_s();
	bool ok;

	trellis_record(t, s->taps ? &record : NULL);
	ok = trellis_image_load(&image, path, err) &&
	     trellis_generate(t, &image, 1, &s->params, show_progress, m, &latent, err) &&
	     trellis_decode(t, &latent, &s->params, show_progress, m, &mesh, err);
	clear_progress(m);
	if (!ok && !strstr(err->text, path)) { /* the engine knows no file names */
		struct error named;
		error_set(&named, "%.300s: %.700s", path, err->text);
		*err = named;
	}
	ok = ok && write_results(s, path, &mesh, clock_s() - start, err) &&
	     (!s->taps || write_taps(s->taps, &record, err));
	trellis_record(t, NULL);
	pipeline_record_finish(&record);
	trellis_mesh_finish(&mesh);
	trellis_latent_finish(&latent);
	trellis_image_finish(&image);
	return ok;
}

enum { OPT_STEPS = 256, OPT_DTYPE, OPT_MEMORY, OPT_CFG, OPT_SIMPLIFY, OPT_SHELL, OPT_PREVIEW, OPT_TAPS };

static const struct option long_options[] = {{"output", required_argument, NULL, 'o'},
	{"model", required_argument, NULL, 'm'}, {"format", required_argument, NULL, 'f'},
	{"seed", required_argument, NULL, 's'}, {"steps", required_argument, NULL, OPT_STEPS},
	{"cfg", required_argument, NULL, OPT_CFG}, {"simplify", required_argument, NULL, OPT_SIMPLIFY},
	{"keep-shell", no_argument, NULL, OPT_SHELL}, {"no-preview", no_argument, NULL, OPT_PREVIEW},
	{"device", required_argument, NULL, 'd'}, {"dtype", required_argument, NULL, OPT_DTYPE},
	{"memory", required_argument, NULL, OPT_MEMORY}, {"threads", required_argument, NULL, 't'},
	{"taps", required_argument, NULL, OPT_TAPS}, {"quiet", no_argument, NULL, 'q'},
	{"help", no_argument, NULL, 'h'}, {0}};

/* One option; false with err when its value is wrong. */
static bool take_option(struct settings *s, int option, const char *value, struct error *err)
{
	double pair[2];
	char *end;

	switch (option) {
	case 'o':
		s->output = value;
		return true;
	case 'm':
		s->options.model = value;
		return true;
	case 'f':
		return parse_formats(s, value, err);
	case 's':
		errno = 0;
		s->params.seed = strtoull(value, &end, 10);
		return (!*end && end != value && *value != '-' && !errno) ||
		       error_set(err, "--seed %s: wanted a whole number from 0", value);
	case OPT_STEPS:
		if (!parse_pair(value, 1, 1000, pair) || pair[0] != floor(pair[0]) || pair[1] != floor(pair[1]))
			return error_set(err, "--steps %s: wanted S or S,L, whole numbers in 1..1000", value);
		s->params.structure_steps = (int)pair[0];
		s->params.latent_steps = (int)pair[1];
		return true;
	case OPT_CFG:
		if (!parse_pair(value, 0, 100, pair))
			return error_set(err, "--cfg %s: wanted S or S,L, numbers in 0..100", value);
		s->params.structure_guidance = (float)pair[0];
		s->params.latent_guidance = (float)pair[1];
		return true;
	case OPT_SIMPLIFY:
		s->params.simplify = strtof(value, &end);
		return (!*end && end != value && s->params.simplify >= 0 && isfinite(s->params.simplify)) ||
		       error_set(err, "--simplify %s: wanted 0 (all), a share below 1 or a number of triangles", value);
	case OPT_SHELL:
		return s->params.keep_inner_shell = true;
	case OPT_PREVIEW:
		s->preview = false;
		return true;
	case 'd':
		s->options.device = value;
		return true;
	case OPT_DTYPE:
		s->options.dtype = value;
		return true;
	case OPT_MEMORY:
		s->options.low_memory = !strcmp(value, "low");
		return s->options.low_memory || !strcmp(value, "auto") ||
		       error_set(err, "--memory %s: wanted auto or low", value);
	case 't':
		return cli_number(&s->options.threads, value, 1, 4096) ||
		       error_set(err, "--threads %s: wanted a number from 1 to 4096", value);
	case OPT_TAPS:
		s->taps = value;
		return true;
	default:
		return s->quiet = true;
	}
}

int command_generate(int argc, char **argv)
{
	struct settings s = {
		.output = ".", .preview = true, .params = trellis_params_default(), .formats = {[MESH_GLB] = true}};
	struct error err = {0};
	int option, failed = 0;

	while ((option = getopt_long(argc, argv, "o:m:f:s:d:t:qh", long_options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (option == '?')
			return 2; /* getopt has said why */
		if (!take_option(&s, option, optarg, &err))
			return cli_usage(argv[0], "%s", err.text);
	}
	if (optind == argc)
		return cli_usage(argv[0], "no picture was named");
	if (s.taps && argc - optind > 1)
		return cli_usage(argv[0], "--taps takes one picture, %d were named", argc - optind);
	if (!settle_output(&s, argv + optind, argc - optind, &err))
		return cli_fail(argv[0], &err);

	struct trellis *t = trellis_create(&s.options, &err);
	if (!t)
		return cli_fail(argv[0], &err);
	if (!s.quiet) {
		const struct trellis_device *d = trellis_device(t);
		printf("model: %s, device: %s, %s\n", trellis_model_name(t), d->name, d->dtype);
		if (d->note[0])
			printf("note: %s\n", d->note);
		if (trellis_model_note(t)[0])
			printf("note: %s\n", trellis_model_note(t));
	}
	for (; optind < argc; optind++) {
		struct meter m = {.name = argv[optind], .terminal = isatty(STDOUT_FILENO), .quiet = s.quiet};
		if (!generate_one(t, &s, argv[optind], &m, &err)) {
			cli_fail(argv[0], &err);
			failed++;
		}
	}
	trellis_destroy(t);
	return failed != 0;
}
