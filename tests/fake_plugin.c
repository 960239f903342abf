/* fake_plugin.c - stands in for trellis-cuda.so where there is no GPU: the CPU backend behind the plugin's interface, which
 * works or fails as the file named by TRELLIS_FAKE_PLUGIN says. The file has words separated by white space, read when the
 * plugin is loaded:
 *
 *   devices=N        so many devices (1); 0: none
 *   abi=N            another interface
 *   count=TEXT       no device can be used, because (here and below _ stands for a space)
 *   describe=TEXT    the device can't, because
 *   create=TEXT      nor made a backend, because
 *   bytes=N          allocations beyond so much in all fail; half of it counts as free at the start
 *   free=N           so much is said to be free, whatever is
 *   FAULT=N          at the N-th op after the probe: see faults below
 *   more=1           and at all ops after it
 *   load=FAULT       the fault at the first weight of a model
 *   ahead=FAULT      the fault at the first weight that is loaded ahead, by a helper
 *   helper=0         there is no helper
 *   meet=N           the first op after the probe and the N-th weight loaded ahead wait for each other; else both fail
 *   probe=FAULT      the fault in the probe
 *   only=N           of device N alone; else of all
 *   tokens=DIR       a fault happens only if a file of DIR can be removed: so many times in all, over all processes
 *   vanish=1         once the tokens are used up there is no device any more
 *   slow=MS          each op takes so long
 *   slow-load=MS     so does each weight
 *
 * Products, norms and attention are rounded to the dtype asked for; products are what is counted as ops, those of a helper
 * excepted: which op is the N-th does not depend on how fast it is. */
#include "backend_impl.h"
#include "plugin.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { KIND_NONE, KIND_MEMORY, KIND_STICKY, KIND_WRONG, KIND_HANG, KIND_CRASH, KIND_CALL, KIND_COUNT };
static const char *const faults[KIND_COUNT] = {"none", /* */
	"memory",				       /* out of memory, and well again afterwards */
	"sticky",				       /* every call fails from then on */
	"wrong",				       /* results are wrong from then on */
	"hang",					       /* never comes back */
	"crash",				       /* the process dies of a signal */
	"call"};				       /* one call fails */

/* What the probe itself does: so many of the counted ops. */
enum { PROBE_OPS = 1 };

static struct {
	int devices, abi, slow_ms, slow_load_ms, only, more, vanish, helper, meet;
	char count[200], describe[200], create[200], tokens[300];
	long at[KIND_COUNT]; /* 0: never */
	enum kind load, ahead, probe;
	size_t memory, free;
	atomic_size_t used;
} plan;

static struct {
	struct backend_ops ops, helper_ops;
	const struct backend_ops *cpu;
	atomic_bool lost, wrong;
	int ordinal;
	enum dtype dtype;
	atomic_long n;	   /* ops so far */
	atomic_int helped; /* weights loaded ahead */
} fake;

static void copy_text(char *out, size_t size, const char *text)
{
	snprintf(out, size, "%s", text);
	for (char *p = out; *p; p++)
		*p = *p == '_' ? ' ' : *p;
}

static enum kind kind_named(const char *name)
{
	for (int i = 0; i < KIND_COUNT; i++)
		if (!strcmp(faults[i], name))
			return (enum kind)i;
	return KIND_NONE;
}

static void take_word(char *word)
{
	char *value = strchr(word, '=');
	if (!value)
		return;
	*value++ = '\0';
	if (!strcmp(word, "devices"))
		plan.devices = atoi(value);
	else if (!strcmp(word, "abi"))
		plan.abi = atoi(value);
	else if (!strcmp(word, "only"))
		plan.only = atoi(value);
	else if (!strcmp(word, "more"))
		plan.more = atoi(value);
	else if (!strcmp(word, "vanish"))
		plan.vanish = atoi(value);
	else if (!strcmp(word, "slow-load"))
		plan.slow_load_ms = atoi(value);
	else if (!strcmp(word, "slow"))
		plan.slow_ms = atoi(value);
	else if (!strcmp(word, "bytes"))
		plan.memory = (size_t)atol(value);
	else if (!strcmp(word, "free"))
		plan.free = (size_t)atol(value);
	else if (!strcmp(word, "count"))
		copy_text(plan.count, sizeof plan.count, value);
	else if (!strcmp(word, "describe"))
		copy_text(plan.describe, sizeof plan.describe, value);
	else if (!strcmp(word, "create"))
		copy_text(plan.create, sizeof plan.create, value);
	else if (!strcmp(word, "tokens"))
		snprintf(plan.tokens, sizeof plan.tokens, "%s", value);
	else if (!strcmp(word, "helper"))
		plan.helper = atoi(value);
	else if (!strcmp(word, "meet"))
		plan.meet = atoi(value);
	else if (!strcmp(word, "ahead"))
		plan.ahead = kind_named(value);
	else if (!strcmp(word, "load"))
		plan.load = kind_named(value);
	else if (!strcmp(word, "probe"))
		plan.probe = kind_named(value);
	else
		plan.at[kind_named(word)] = atol(value);
}

static void read_plan(void)
{
	char text[2000] = "", *rest = text, *word;
	const char *path = getenv("TRELLIS_FAKE_PLUGIN");
	FILE *f = path ? fopen(path, "re") : NULL;
	plan.devices = plan.helper = 1;
	plan.abi = TRELLIS_PLUGIN_ABI;
	plan.only = -1;
	if (f) {
		size_t n = fread(text, 1, sizeof text - 1, f);
		text[n] = '\0';
		fclose(f);
	}
	while ((word = strsep(&rest, " \t\n")))
		take_word(word);
}

/* ---- faults ---- */

/* Find a file in the folder, and remove it if `take`. */
static bool find_token(bool take)
{
	bool found = false;
	struct dirent *entry;
	DIR *dir = *plan.tokens ? opendir(plan.tokens) : NULL;
	while (dir && !found && (entry = readdir(dir)))
		found = entry->d_name[0] != '.' && (!take || unlinkat(dirfd(dir), entry->d_name, 0) == 0);
	if (dir)
		closedir(dir);
	return found;
}

static void happen(struct backend *b, enum kind kind)
{
	if (kind == KIND_NONE || (plan.only >= 0 && plan.only != fake.ordinal) || (*plan.tokens && !find_token(true)))
		return;
	switch (kind) {
	case KIND_MEMORY:
		backend_fail_as(b, FAULT_MEMORY, "out of device memory: 1234 bytes wanted");
		break;
	case KIND_STICKY:
		fake.lost = true;
		break;
	case KIND_WRONG:
		fake.wrong = true;
		break;
	case KIND_HANG:
		for (;;)
			pause();
	case KIND_CRASH:
		abort();
	case KIND_CALL:
		backend_fail(b, "fakeLaunch failed: 719");
		break;
	default:
		break;
	}
}

/* Wait for this, but not for ever. */
static void meet(struct backend *b, bool (*is_so)(void))
{
	for (int ms = 0; !is_so(); ms++) {
		if (ms == 20000) {
			backend_fail(b, "nobody came");
			return;
		}
		usleep(1000);
	}
}

static bool an_op_is_at_work(void)
{
	return fake.n > PROBE_OPS;
}

static bool the_weight_is_there(void)
{
	return fake.helped >= plan.meet;
}

/* Before every op that is counted. False: it is not done. */
static bool begin(struct backend *b)
{
	if (plan.slow_ms)
		usleep((useconds_t)plan.slow_ms * 1000);
	fake.n++;
	if (fake.n == PROBE_OPS)
		happen(b, plan.probe);
	if (fake.n == PROBE_OPS + 1)
		meet(b, the_weight_is_there);
	for (int i = 1; i < KIND_COUNT; i++)
		if (plan.at[i] && (fake.n == plan.at[i] + PROBE_OPS || (plan.more && fake.n > plan.at[i] + PROBE_OPS)))
			happen(b, (enum kind)i);
	if (fake.lost)
		backend_fail_as(b, FAULT_DEVICE, "fakeLaunch failed: an illegal memory access was encountered");
	return !b->failed;
}

/* What the dtype that was asked for leaves of the results, or a fault. Activations are stored in f32 all the same, so the
 * probe takes the device for one of f32 and must see none of it. */
static void round_to(struct tensor y, bool rounds)
{
	int dropped =
		fake.dtype == DTYPE_F16 ? 13 : 16; /* bits of the mantissa; to even. The range stays that of f32. */
	for (int64_t r = 0; r < y.rows && (fake.wrong || rounds); r++)
		for (int64_t c = 0; c < y.cols; c++) {
			float *x = (float *)y.data + r * y.stride + c;
			uint32_t bits;
			if (fake.wrong)
				*x += 1;
			if (!rounds)
				continue;
			memcpy(&bits, x, sizeof bits);
			bits += (1u << (dropped - 1)) - 1 + (bits >> dropped & 1);
			bits &= ~0u << dropped;
			memcpy(x, &bits, sizeof bits);
		}
}

static void end(struct tensor y)
{
	round_to(y, fake.dtype != DTYPE_F32 && fake.n > PROBE_OPS);
}

/* ---- the ops that are counted, and memory ---- */

static void fake_linear(
	struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	if (begin(b))
		fake.cpu->linear(b, y, x, w, e);
	end(y);
}

static void fake_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	fake.cpu->layer_norm(b, y, x, n);
	end(y);
}

static void fake_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, const struct windows *windows)
{
	fake.cpu->attention(b, y, q, k, v, heads, windows);
	end(y);
}

static __thread bool on_helpers_thread; /* which has asked for it */

/* Nobody but its thread drives the helper, and that thread nothing else. */
static void check_thread(const struct backend *b)
{
	if (on_helpers_thread != (b->ops == &fake.helper_ops))
		abort();
}

/* Allocations are remembered by their size in front of them. */
enum { FRONT = 64 };

static void *fake_alloc(struct backend *b, size_t bytes)
{
	check_thread(b);
	if (plan.memory && plan.used + bytes > plan.memory) {
		backend_fail_as(b, FAULT_MEMORY, "out of device memory: %zu bytes wanted", bytes);
		return NULL;
	}
	char *p = fake.cpu->alloc(b, bytes + FRONT);
	if (!p)
		return NULL;
	*(size_t *)(void *)p = bytes;
	plan.used += bytes;
	return p + FRONT;
}

static void fake_free(struct backend *b, void *p)
{
	if (!p)
		return;
	check_thread(b);
	plan.used -= *(size_t *)(void *)((char *)p - FRONT);
	fake.cpu->free(b, (char *)p - FRONT);
}

static size_t weight_bytes(const struct weight *w)
{
	return (size_t)weight_count(w->kind, w->out, w->in) * sizeof(float);
}

static struct weight *new_weight(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	size_t bytes = (size_t)weight_count(kind, out, in) * sizeof(float);
	check_thread(b);
	if (plan.memory && plan.used + bytes > plan.memory) {
		backend_fail_as(b, FAULT_MEMORY, "out of device memory: %zu bytes wanted", bytes);
		return NULL;
	}
	struct weight *w = fake.cpu->weight_create(b, kind, out, in, parts, count);
	if (w)
		plan.used += bytes;
	return w;
}

static struct weight *fake_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	if (fake.n >= PROBE_OPS)
		usleep((useconds_t)plan.slow_load_ms * 1000);
	if (fake.n >= PROBE_OPS && plan.load) {
		happen(b, plan.load);
		plan.load = KIND_NONE;
	}
	if (fake.lost)
		backend_fail_as(b, FAULT_DEVICE, "fakeMemcpy failed: an illegal memory access was encountered");
	return b->failed ? NULL : new_weight(b, kind, out, in, parts, count);
}

/* ---- the helper ---- */

static bool helper_may(struct backend *b)
{
	if (fake.lost)
		backend_fail_as(b, FAULT_DEVICE, "fakeLaunch failed: an illegal memory access was encountered");
	return !b->failed;
}

static void helper_linear(
	struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	if (helper_may(b))
		fake.cpu->linear(b, y, x, w, e);
	round_to(y, fake.dtype != DTYPE_F32);
}

static struct weight *helper_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	usleep((useconds_t)plan.slow_load_ms * 1000);
	if (plan.ahead) {
		happen(b, plan.ahead);
		plan.ahead = KIND_NONE;
	}
	if (++fake.helped == plan.meet)
		meet(b, an_op_is_at_work);
	return helper_may(b) ? new_weight(b, kind, out, in, parts, count) : NULL;
}

static struct backend *fake_helper(struct backend *main, struct error *err)
{
	(void)main;
	struct backend *b = backend_cpu_create(1, err);
	on_helpers_thread = true;
	if (b)
		b->ops = &fake.helper_ops;
	return b;
}

static void fake_weight_destroy(struct backend *b, struct weight *w)
{
	check_thread(b);
	plan.used -= weight_bytes(w);
	fake.cpu->weight_destroy(b, w);
}

/* ---- the plugin ---- */

static int fake_count(struct error *err)
{
	if (plan.vanish && !find_token(false))
		snprintf(plan.count, sizeof plan.count, "the device has vanished");
	if (*plan.count)
		error_set(err, "%s", plan.count);
	else if (!plan.devices)
		error_set(err, "no device is visible");
	return *plan.count ? 0 : plan.devices;
}

static bool concerns(int ordinal)
{
	return plan.only < 0 || plan.only == ordinal;
}

static bool fake_describe(int ordinal, struct plugin_device *device, struct error *err)
{
	*device = (struct plugin_device){.memory_bytes = plan.memory ? plan.memory : (uint64_t)24 << 30};
	device->free_bytes = device->memory_bytes / 2 - (plan.used < device->memory_bytes / 2 ? plan.used : 0);
	if (plan.free)
		device->free_bytes = plan.free;
	snprintf(device->name, sizeof device->name, "Fake");
	return !*plan.describe || !concerns(ordinal) || error_set(err, "%s", plan.describe);
}

static struct backend *fake_create(int ordinal, enum dtype act, struct error *err)
{
	if (*plan.create && concerns(ordinal)) {
		error_set(err, "%s", plan.create);
		return NULL;
	}
	struct backend *b = backend_cpu_create(1, err);
	if (!b)
		return NULL;
	fake.ordinal = ordinal;
	fake.dtype = act;
	fake.n = 0;
	fake.lost = fake.wrong = false;
	fake.cpu = b->ops;
	fake.ops = *b->ops;
	fake.ops.name = "fake";
	fake.ops.alloc = fake_alloc;
	fake.ops.free = fake_free;
	fake.ops.weight_create = fake_weight_create;
	fake.ops.weight_destroy = fake_weight_destroy;
	fake.ops.linear = fake_linear;
	fake.ops.layer_norm = fake_layer_norm;
	fake.ops.attention = fake_attention;
	fake.helper_ops = fake.ops;
	fake.helper_ops.weight_create = helper_weight_create;
	fake.helper_ops.linear = helper_linear;
	if (plan.helper)
		fake.ops.helper = fake_helper;
	b->ops = &fake.ops;
	return b;
}

__attribute__((visibility("default"))) const struct trellis_plugin *trellis_plugin(void);

const struct trellis_plugin *trellis_plugin(void)
{
	static struct trellis_plugin plugin = {.backend_size = sizeof(struct backend),
		.ops_size = sizeof(struct backend_ops),
		.name = "cuda",
		.count = fake_count,
		.describe = fake_describe,
		.create = fake_create};
	read_plan();
	plugin.abi = plan.abi;
	return &plugin;
}
