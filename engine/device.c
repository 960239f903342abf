/* device.c - find, probe and choose the device. See device.h.
 *
 * CUDA comes as a plugin (kernels/plugin.h), looked for in absolute places only: beside the program (build tree), in
 * ../lib/trellis from there, and in PREFIX/lib/trellis; never in the working directory or by a bare name.
 * TRELLIS_PLUGIN_DIR names another absolute directory, for tests; a process with raised privileges ignores it.
 *
 * A driver may hang in any call. Everything up to the end of the probe therefore runs on a thread of its own with a time
 * limit; one that does not come back is left behind and its device counts as refused. */
#include "device.h"

#include "plugin.h"
#include "probe.h"
#include "threads.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#define PLUGIN_FILE "trellis-cuda.so"

/* ---- the plugin ---- */

/* Also when it is in memory already and can't be seen any more. */
static bool is_there(const char *path)
{
	void *loaded = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (loaded)
		dlclose(loaded);
	return loaded || access(path, F_OK) == 0;
}

bool device_find_plugin(char *path, struct error *err)
{
	static const char *const places[] = {"", "/../lib/trellis"};
	const char *named = getauxval(AT_SECURE) ? NULL : getenv("TRELLIS_PLUGIN_DIR");
	char program[PATH_MAX];

	if (named && *named == '/') {
		snprintf(path, PATH_MAX, "%s/" PLUGIN_FILE, named);
		return is_there(path) || error_set(err, "the plugin is not installed: no %.900s", path);
	}
	ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
	const char *slash = n > 0 ? memrchr(program, '/', (size_t)n) : NULL;
	for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
		if (snprintf(path, PATH_MAX, "%.*s%s/" PLUGIN_FILE, (int)(slash - program), program, places[i]) <
				PATH_MAX &&
			is_there(path))
			return true;
	}
	snprintf(path, PATH_MAX, "%s", TRELLISFS_PREFIX "/lib/trellis/" PLUGIN_FILE);
	return is_there(path) || error_set(err, "the plugin is not installed: no %s", path);
}

void device_load_plugin(void)
{
	char path[PATH_MAX];
	struct error ignored;
	if (device_find_plugin(path, &ignored))
		dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never closed; whoever needs it says why it can't be */
}

static const struct trellis_plugin *load_plugin(const char *path, struct error *err)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		const char *why = dlerror();
		error_set(err, "%s%.900s", strstr(why, "libcublas") == why ? "cuBLAS is missing: " : "", why);
		return NULL;
	}
	trellis_plugin_fn entry;
	*(void **)&entry = dlsym(library, TRELLIS_PLUGIN_SYMBOL);
	const struct trellis_plugin *plugin = entry ? entry() : NULL;
	if (!plugin)
		error_set(err, "%.900s is not a plugin of this program", path);
	else if (plugin->abi != TRELLIS_PLUGIN_ABI || plugin->backend_size != sizeof(struct backend) ||
		 plugin->ops_size != sizeof(struct backend_ops))
		error_set(err, "%.900s belongs to another version of this program (interface %d, wanted %d)", path,
			plugin->abi, TRELLIS_PLUGIN_ABI);
	else
		return plugin;
	return NULL; /* stays loaded: what a library of unknown kind has begun cannot be undone */
}

/* ---- attempts with a time limit ---- */

/* What one thread tries. Whoever finds the other gone frees it. */
struct attempt {
	void (*run)(struct attempt *a);
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done, abandoned; /* lock */
	/* in */
	const struct trellis_plugin *plugin;
	int ordinal;
	enum dtype act;
	/* out */
	int count;
	struct plugin_device about;
	struct backend *backend;
	struct error error;
};

static void attempt_free(struct attempt *a)
{
	pthread_cond_destroy(&a->done_cond);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static void *attempt_thread(void *user)
{
	struct attempt *a = user;
	a->run(a);
	pthread_mutex_lock(&a->lock);
	a->done = true;
	bool abandoned = a->abandoned;
	pthread_cond_signal(&a->done_cond);
	pthread_mutex_unlock(&a->lock);
	if (abandoned) {
		backend_destroy(a->backend);
		attempt_free(a);
	}
	return NULL;
}

static struct attempt *attempt_new(void (*run)(struct attempt *a))
{
	struct attempt *a = calloc(1, sizeof *a);
	pthread_condattr_t monotonic;
	if (!a)
		return NULL;
	a->run = run;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&a->done_cond, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&a->lock, NULL);
	return a;
}

/* False: a is gone. True: it came back in time, whatever it found. */
static bool attempt_within(struct attempt *a, int limit_s, struct error *err)
{
	struct timespec until;
	pthread_t thread;
	int failed = pthread_create(&thread, NULL, attempt_thread, a);
	if (failed) {
		attempt_free(a);
		return error_set(err, "starting a thread: %s", strerror(failed));
	}
	pthread_detach(thread);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += limit_s;
	pthread_mutex_lock(&a->lock);
	while (!a->done && failed != ETIMEDOUT)
		failed = pthread_cond_timedwait(&a->done_cond, &a->lock, &until);
	bool done = a->done;
	a->abandoned = !done;
	pthread_mutex_unlock(&a->lock);
	return done || error_set(err, "no answer within %d s", limit_s);
}

static void try_plugin(struct attempt *a)
{
	char path[PATH_MAX];
	a->plugin = device_find_plugin(path, &a->error) ? load_plugin(path, &a->error) : NULL;
	a->count = a->plugin ? a->plugin->count(&a->error) : 0;
}

static void try_device(struct attempt *a)
{
	if (!a->plugin->describe(a->ordinal, &a->about, &a->error))
		return;
	a->backend = a->plugin->create(a->ordinal, a->act, &a->error);
	if (a->backend && !probe_backend(a->backend, &a->error)) {
		backend_destroy(a->backend);
		a->backend = NULL;
	}
}

/* ---- CUDA ---- */

static bool parse_dtype(enum dtype *dtype, const char *name, enum dtype otherwise, struct error *err)
{
	static const char *const names[] = {[DTYPE_F32] = "f32", [DTYPE_F16] = "f16", [DTYPE_BF16] = "bf16"};
	*dtype = otherwise;
	if (!name)
		return true;
	for (int i = DTYPE_F32; i <= DTYPE_BF16; i++)
		if (!strcmp(name, names[i])) {
			*dtype = (enum dtype)i;
			return true;
		}
	return error_set(err, "dtype '%s' is unknown: f32, f16 and bf16 are there", name);
}

static int limit_of(const struct device_wish *wish)
{
	return wish->probe_s > 0 ? wish->probe_s : DEVICE_PROBE_S;
}

static bool open_plugin(
	const struct trellis_plugin **plugin, int *count, const struct device_wish *wish, struct error *err)
{
	struct attempt *a = attempt_new(try_plugin);
	if (!a)
		return error_set(err, "out of memory");
	if (!attempt_within(a, limit_of(wish), err))
		return false;
	*plugin = a->plugin;
	*count = a->count;
	bool ok = a->plugin && a->count > 0;
	if (!ok)
		error_set(err, "%s", a->error.text[0] ? a->error.text : "there is no device");
	attempt_free(a);
	return ok;
}

static bool open_ordinal(struct device *d, const struct trellis_plugin *plugin, int ordinal, enum dtype act,
	const struct device_wish *wish, struct error *err)
{
	struct attempt *a = attempt_new(try_device);
	if (!a)
		return error_set(err, "out of memory");
	a->plugin = plugin;
	a->ordinal = ordinal;
	a->act = act;
	if (!attempt_within(a, limit_of(wish), err))
		return false;
	*d = (struct device){.backend = a->backend, .plugin = plugin};
	if (d->backend && wish->threads > 0 && wish->threads < d->backend->threads)
		d->backend->threads = wish->threads;
	d->info.memory_bytes = a->about.memory_bytes;
	d->info.ordinal = ordinal;
	snprintf(d->info.name, sizeof d->info.name, "%s:%d %s", plugin->name, ordinal, a->about.name);
	snprintf(d->info.dtype, sizeof d->info.dtype, "%s",
		act == DTYPE_F32    ? "f32"
		: act == DTYPE_BF16 ? "bf16"
				    : "f16");
	if (!d->backend)
		error_set(err, "%s", a->error.text[0] ? a->error.text : "it was refused without a reason");
	attempt_free(a);
	return d->backend;
}

/* One more sentence, "cuda:0: why". */
static void add_reason(struct error *reasons, int ordinal, const char *why)
{
	size_t n = strlen(reasons->text);
	char device[24] = "cuda";
	if (ordinal >= 0)
		snprintf(device, sizeof device, "cuda:%d", ordinal);
	snprintf(reasons->text + n, sizeof reasons->text - n, "%s%s: %s", n ? "; " : "", device, why);
}

/* The wanted ordinal, or with -1 the first that works. False: reasons has a sentence for each that was tried. */
static bool open_cuda(
	struct device *d, const struct device_wish *wish, int wanted, enum dtype act, int *count, struct error *reasons)
{
	const struct trellis_plugin *plugin;
	struct error err = {""};
	*count = 0;
	if (!open_plugin(&plugin, count, wish, &err)) {
		add_reason(reasons, -1, err.text);
		return false;
	}
	if (wanted >= *count) {
		error_set(&err, "there is no such device, %d %s", *count, *count == 1 ? "is there" : "are there");
		add_reason(reasons, wanted, err.text);
		return false;
	}
	for (int i = wanted < 0 ? 0 : wanted; i < (wanted < 0 ? *count : wanted + 1); i++) {
		if (open_ordinal(d, plugin, i, act, wish, &err)) {
			d->info.count = *count;
			return true;
		}
		add_reason(reasons, i, err.text);
	}
	return false;
}

void device_each(const struct device_wish *wish, device_seen_fn seen, void *user)
{
	const struct trellis_plugin *plugin;
	struct error err = {""};
	struct device d = {0};
	enum dtype act;
	int count;
	if (!parse_dtype(&act, wish->dtype, DTYPE_F16, &err) || !open_plugin(&plugin, &count, wish, &err)) {
		seen(user, &d, -1, err.text);
		return;
	}
	for (int i = 0; i < count; i++) {
		bool ok = open_ordinal(&d, plugin, i, act, wish, &err);
		seen(user, &d, i, ok ? "" : err.text);
		if (ok)
			device_close(&d);
	}
}

/* ---- the choice ---- */

static bool open_cpu(struct device *d, const struct device_wish *wish, bool reference, struct error *err)
{
	long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	*d = (struct device){.info = {.ordinal = -1, .dtype = "f32"}};
	d->backend = reference ? backend_reference_create(err) : backend_cpu_create(wish->threads, err);
	if (!d->backend)
		return false;
	snprintf(d->info.name, sizeof d->info.name, "%s", d->backend->ops->name);
	d->info.memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
	if (reference || probe_backend(d->backend, err))
		return true;
	device_close(d);
	return false;
}

/* "cuda" -1, "cuda:N" N; else false. */
static bool parse_cuda(const char *name, int *ordinal)
{
	char *end;
	*ordinal = -1;
	if (!strcmp(name, "cuda"))
		return true;
	if (strncmp(name, "cuda:", 5) || name[5] < '0' || name[5] > '9')
		return false;
	long n = strtol(name + 5, &end, 10);
	*ordinal = n > 9999 ? 9999 : (int)n;
	return !*end;
}

/* Whether anybody would miss CUDA here: there is the plugin, or a driver. Else it is nothing to speak of that the CPU is used. */
static bool expects_cuda(void)
{
	static const char *const signs[] = {"/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"};
	char path[PATH_MAX];
	struct error err;
	bool found = getenv("TRELLIS_PLUGIN_DIR") || device_find_plugin(path, &err);
	for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
		found |= access(signs[i], F_OK) == 0;
	return found;
}

static bool open_auto(struct device *d, const struct device_wish *wish, struct error *err)
{
	struct error reasons = {""};
	enum dtype act;
	int count;
	if (!parse_dtype(&act, wish->dtype, DTYPE_F16, err))
		return false;
	bool cuda = open_cuda(d, wish, -1, act, &count, &reasons);
	if (!cuda && !open_cpu(d, wish, false, err))
		return false;
	if (!cuda && !expects_cuda())
		reasons.text[0] = '\0';
	if (!cuda && wish->dtype && act != DTYPE_F32)
		add_reason(&reasons, -1, "the CPU computes in f32 instead");
	d->info.count = count;
	snprintf(d->info.note, sizeof d->info.note, "%.*s", (int)sizeof d->info.note - 1, reasons.text);
	return true;
}

bool device_open(struct device *d, const struct device_wish *wish, struct error *err)
{
	const char *name = wish->name ? wish->name : "auto";
	enum dtype act;
	int ordinal, count;

	*d = (struct device){0};
	threads_limit(wish->threads);
	if (!strcmp(name, "auto"))
		return open_auto(d, wish, err);
	if (parse_cuda(name, &ordinal)) {
		struct error reasons = {""};
		if (!parse_dtype(&act, wish->dtype, DTYPE_F16, err))
			return false;
		bool ok = open_cuda(d, wish, ordinal, act, &count, &reasons);
		if (ok)
			snprintf(d->info.note, sizeof d->info.note, "%.*s", (int)sizeof d->info.note - 1, reasons.text);
		return ok || error_set(err, "%s", reasons.text);
	}
	if (strcmp(name, "cpu") && strcmp(name, "reference"))
		return error_set(err, "device '%s' is unknown: auto, cpu, cuda and cuda:N are there", name);
	if (!parse_dtype(&act, wish->dtype, DTYPE_F32, err))
		return false;
	if (act != DTYPE_F32)
		return error_set(err, "dtype %s: the CPU computes in f32", wish->dtype);
	return open_cpu(d, wish, !strcmp(name, "reference"), err);
}

void device_close(struct device *d)
{
	backend_destroy(d->backend);
	*d = (struct device){0};
}

uint64_t device_free_bytes(const struct device *d)
{
	struct plugin_device about;
	if (!d->plugin || d->info.ordinal < 0)
		return 0;
	return d->plugin->describe(d->info.ordinal, &about, NULL) ? about.free_bytes : 0;
}
