/* doctor.c - `trellis doctor`: the checklist that a person goes through before trusting an installation.
 * Each line is a fact that was tried out here and now, not one that was read somewhere. */
#include "commands.h"
#include "device.h"
#include "model.h"
#include "model_tensors.h"
#include "probe.h"
#include "run.h"
#include "trellis.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <jpeglib.h>
#include <limits.h>
#include <meshoptimizer.h>
#include <png.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char help[] =
	"usage: trellis doctor [--full] [--model MODEL]\n"
	"\n"
	"Checks this installation and prints one line for each thing:\n"
	"\n"
	"  version    the program and the compiler that built it\n"
	"  system     kernel and processor\n"
	"  libraries  versions of what is linked\n"
	"  memory     what is free, and what the model needs\n"
	"  device     what can compute: a matrix product, a norm and an attention are run and compared with the\n"
	"             plain C oracle; a device that only claims to work fails\n"
	"  fuse       whether a filesystem can be mounted here\n"
	"  state      the state directories in the default place, and whether one has been damaged\n"
	"  model      found, complete, every tensor of the right shape\n"
	"  job        (--full) the model is loaded and turns a picture into a mesh\n"
	"\n"
	"Each line begins with ok, warn (works, with a limit that is named) or FAIL (nothing can be made until it is "
	"mended).\n"
	"\n"
	"Options:\n"
	"  -f, --full         also run one job with the model's own settings: seconds with the model that comes with\n"
	"                     the program, many minutes with a large one on a CPU\n"
	"  -m, --model MODEL  a directory or a hub id; else $TRELLIS_MODEL_PATH or the model that comes with the "
	"program\n"
	"  -h, --help         print this text\n"
	"\n"
	"Exit status: 0 when nothing failed, 1 when something essential did, 2 for wrong usage.\n";

enum verdict { OK, WARN, FAIL };

struct report {
	int failures;
};

__attribute__((format(printf, 4, 5))) static void say(
	struct report *r, enum verdict verdict, const char *what, const char *format, ...)
{
	static const char *const words[] = {"ok", "warn", "FAIL"};
	va_list args;
	printf("%-4s  %-10s ", words[verdict], what);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	r->failures += verdict == FAIL;
}

static void check_version(struct report *r)
{
	struct utsname system;
	say(r, OK, "version",
		"trellis %s, built by "
#ifdef __clang__
		"clang " __clang_version__,
#else
		"gcc " __VERSION__,
#endif
		TRELLISFS_VERSION);
	if (uname(&system) == 0)
		say(r, OK, "system", "%s %s, %s", system.sysname, system.release, system.machine);
}

/* The value of the first line of a /proc file that begins with key; "" when there is none. */
static void read_proc(char *out, size_t size, const char *path, const char *key)
{
	char line[1024];
	FILE *f = fopen(path, "re");
	out[0] = '\0';
	while (f && fgets(line, sizeof line, f)) {
		if (strncmp(line, key, strlen(key)) != 0)
			continue;
		const char *value = line + strlen(key);
		value += strspn(value, " \t:");
		snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
		break;
	}
	if (f)
		fclose(f);
}

static const char *describe_instructions(void)
{
#ifdef __x86_64__
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
		return "AVX-512";
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return "AVX2";
	return "no AVX2: slow";
#else
	return "baseline instructions";
#endif
}

static int count_cores(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static void check_processor(struct report *r)
{
	char name[200];
	read_proc(name, sizeof name, "/proc/cpuinfo", "model name");
	int usable = count_cores();
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	say(r, OK, "system", "%s, %s, %d of %ld cores usable", *name ? name : "processor without a name",
		describe_instructions(), usable, online);
}

#define TEXT_OF(token) #token
#define TEXT_OF_MACRO(macro) TEXT_OF(macro)

static void check_libraries(struct report *r)
{
	say(r, OK, "libraries", "libpng %s, libjpeg-turbo %s, jansson %s, meshoptimizer %d.%d",
		png_get_libpng_ver(NULL), TEXT_OF_MACRO(LIBJPEG_TURBO_VERSION), jansson_version_str(),
		MESHOPTIMIZER_VERSION / 1000, MESHOPTIMIZER_VERSION / 10 % 100);
}

static void check_cpu(struct report *r)
{
	char text[100];
	struct error err = {""};
	struct backend *b = backend_cpu_create(0, &err);
	if (!b || !probe_backend(b, &err)) {
		say(r, FAIL, "device", "cpu: %s", err.text);
	} else {
		double rate = probe_product_rate(b, 1024);
		backend_cpu_describe(text, sizeof text);
		say(r, OK, "device", "cpu: %s; computes what the oracle computes, products at %.0f GFLOP/s in float32",
			text, rate / 1e9);
	}
	backend_destroy(b);
}

/* One CUDA device, or why there is none. Without a driver nobody expects one. */
static void say_device(void *user, struct device *d, int ordinal, const char *refusal)
{
	struct report *r = user;
	bool driver = access("/proc/driver/nvidia/version", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
	if (ordinal < 0)
		say(r, driver ? WARN : OK, "device", "cuda: %s; jobs run on the CPU", refusal);
	else if (*refusal)
		say(r, WARN, "device", "cuda:%d: %s", ordinal, refusal);
	else
		say(r, OK, "device",
			"%s, %.1f GB, %.1f GB of it free; computes what the oracle computes, products at %.1f TFLOP/s "
			"in %s",
			d->info.name, (double)d->info.memory_bytes / 1e9, (double)device_free_bytes(d) / 1e9,
			probe_product_rate(d->backend, 4096) / 1e12, d->info.dtype);
}

/* Whether some directory of $PATH has this program. */
static bool find_program(char *out, size_t size, const char *name)
{
	const char *path = getenv("PATH");
	for (const char *p = path ? path : ""; *p;) {
		size_t n = strcspn(p, ":");
		snprintf(out, size, "%.*s/%s", (int)n, p, name);
		if (access(out, X_OK) == 0)
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

static void check_fuse(struct report *r)
{
	char program[512];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		say(r, WARN, "fuse", "/dev/fuse: %s; trellisfs cannot mount here, the commands of trellis work",
			strerror(errno));
	else
		say(r, OK, "fuse", "/dev/fuse can be opened");
	if (fd >= 0)
		close(fd);
	if (find_program(program, sizeof program, "fusermount3"))
		say(r, OK, "fuse", "%s", program);
	else
		say(r, geteuid() == 0 ? OK : WARN, "fuse",
			"no fusermount3 in PATH: only root can mount (Debian package fuse3)");
}

/* $XDG_STATE_HOME/trellisfs or ~/.local/state/trellisfs, of root /var/lib/trellisfs: where trellisfs keeps a mount's state
 * (state_default_path in fs/state.c, which this program does not link). */
static bool state_base(char *path, size_t size)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int len = getuid() == 0		   ? snprintf(path, size, "/var/lib/trellisfs")
		  : xdg && xdg[0] == '/'   ? snprintf(path, size, "%s/trellisfs", xdg)
		  : home && home[0] == '/' ? snprintf(path, size, "%s/.local/state/trellisfs", home)
					   : -1;
	return len > 0 && (size_t)len < size;
}

/* `trellisfs --check` looks into one; here it is only told which there are. */
static void check_state(struct report *r)
{
	char base[PATH_MAX], path[2 * PATH_MAX];
	DIR *dir = state_base(base, sizeof base) ? opendir(base) : NULL;
	long n = 0;
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		snprintf(path, sizeof path, "%s/%s/journal", base, entry->d_name);
		if (entry->d_name[0] == '.' || access(path, F_OK) != 0)
			continue;
		n++;
		snprintf(path, sizeof path, "%s/%s/journal.damaged", base, entry->d_name);
		if (access(path, F_OK) == 0)
			say(r, WARN, "state", "%s/%s has been damaged: trellisfs --check %s/%s", base, entry->d_name,
				base, entry->d_name);
	}
	if (dir)
		closedir(dir);
	if (n)
		say(r, OK, "state", "%ld in %s; trellisfs --check DIR looks whether one is whole", n, base);
}

struct first_fault {
	int n;
	char text[900];
};

static void keep_first_fault(void *user, enum model_role role, const char *what)
{
	struct first_fault *first = user;
	(void)role;
	if (first->n++ == 0)
		snprintf(first->text, sizeof first->text, "%s", what);
}

/* largest: parameters of the model's largest network. One network at a time must fit; the engine loads and releases
 * those of a large model in turn. */
static void check_memory(struct report *r, int64_t largest)
{
	char text[64];
	read_proc(text, sizeof text, "/proc/meminfo", "MemAvailable");
	double available = strtod(text, NULL) * 1024, needed = (double)largest * sizeof(float);
	if (largest == 0)
		say(r, OK, "memory", "%.1f GB available", available / 1e9);
	else
		say(r, available > needed ? OK : WARN, "memory",
			"%.1f GB available, the weights of the model's largest network take %.2f GB in float32",
			available / 1e9, needed / 1e9);
}

/* Returns whether a job can be run with it. */
static bool check_model(struct report *r, const char *path)
{
	struct error err = {""};
	struct first_fault first = {0};
	int64_t parameters = 0, largest = 0;
	struct model *m = model_open_reporting(path, keep_first_fault, &first, &err);
	for (int i = 0; m && i < ROLE_COUNT; i++) {
		int64_t n = m->roles[i] ? model_tensors_parameters(m->roles[i]) : 0;
		parameters += n;
		largest = n > largest ? n : largest;
	}
	check_memory(r, largest);
	bool usable = m && first.n == 0;
	if (!m)
		say(r, FAIL, "model", "%s", err.text);
	else if (first.n)
		say(r, FAIL, "model", "%s%s", first.text, first.n > 1 ? " (and more: see trellis inspect)" : "");
	else
		say(r, OK, "model", "%s, %.1f million parameters, %s", m->name, (double)parameters / 1e6, m->path);
	if (m && *m->note)
		say(r, WARN, "model", "%s", m->note);
	if (usable && !model_require(m, ROLE_ENCODER, &err)) {
		say(r, FAIL, "model", "%s", err.text);
		usable = false;
	}
	if (usable && !m->roles[ROLE_GAUSSIAN_DECODER])
		say(r, OK, "model", "no Gaussian decoder: meshes only");
	model_close(m);
	return usable;
}

/* A shaded ball on a transparent ground, 128 x 128. */
static void draw_ball(uint8_t *rgba)
{
	for (int y = 0; y < 128; y++) {
		for (int x = 0; x < 128; x++, rgba += 4) {
			int dx = x - 64, dy = y - 64, inside = dx * dx + dy * dy < 50 * 50;
			rgba[0] = (uint8_t)(150 - dx);
			rgba[1] = (uint8_t)(120 - dy);
			rgba[2] = 80;
			rgba[3] = inside ? 255 : 0;
		}
	}
}

static void run_job(struct report *r, const char *path)
{
	static uint8_t rgba[128 * 128 * 4];
	struct error err = {""};
	struct trellis_latent latent = {0};
	struct trellis_mesh mesh = {0};
	struct trellis_params params = trellis_params_default();
	struct trellis_image image = {.width = 128, .height = 128, .rgba = rgba, .has_alpha = true};
	double start = clock_s();

	draw_ball(rgba);
	struct trellis *t = trellis_create(&(struct trellis_options){.model = path}, &err);
	bool ok = t && trellis_generate(t, &image, 1, &params, NULL, NULL, &latent, &err) &&
		  trellis_decode(t, &latent, &params, NULL, NULL, &mesh, &err);
	if (!ok)
		say(r, FAIL, "job", "%s", err.text);
	else if (mesh.n_faces == 0)
		say(r, FAIL, "job", "a picture of a ball became a mesh without triangles");
	else
		say(r, OK, "job", "a picture of a ball became %lld voxels and %lld triangles in %.1f s on %s",
			(long long)latent.n, (long long)mesh.n_faces, clock_s() - start, trellis_device(t)->name);
	trellis_mesh_finish(&mesh);
	trellis_latent_finish(&latent);
	trellis_destroy(t);
}

int command_doctor(int argc, char **argv)
{
	static const struct option options[] = {{"full", no_argument, NULL, 'f'},
		{"model", required_argument, NULL, 'm'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	const char *path = NULL;
	bool full = false;
	int option;
	while ((option = getopt_long(argc, argv, "fm:h", options, NULL)) != -1) {
		switch (option) {
		case 'f':
			full = true;
			break;
		case 'm':
			path = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind < argc)
		return cli_usage(argv[0], "unexpected argument \"%s\"", argv[optind]);
	struct report r = {0};
	check_version(&r);
	check_processor(&r);
	check_libraries(&r);
	check_cpu(&r);
	device_each(&(struct device_wish){0}, say_device, &r);
	check_fuse(&r);
	check_state(&r);
	if (check_model(&r, path) && full)
		run_job(&r, path);
	if (r.failures)
		printf("%d thing%s failed\n", r.failures, r.failures == 1 ? "" : "s");
	return r.failures ? 1 : 0;
}
