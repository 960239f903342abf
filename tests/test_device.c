/* test_device.c - devices that work, that are not there, and that are broken in each way, by the plugin of fake_plugin.c. */
#include "device.h"

#include "fake_plugin.h"

#include <fcntl.h>

/* cuda refuses with the sentence; auto takes the CPU and notes it; and one sentence has no line breaks. */
static void expect_refusal(const char *sentence)
{
	struct device d;
	struct error err = {""};
	cr_expect(!device_open(&d, &(struct device_wish){.name = "cuda", .threads = 1, .probe_s = 1}, &err),
		"cuda was taken; wanted: %s", sentence);
	cr_expect(strstr(err.text, sentence), "wanted \"%s\", got \"%s\"", sentence, err.text);
	cr_expect(!strchr(err.text, '\n'));
	cr_assert(device_open(&d, &(struct device_wish){.threads = 1, .probe_s = 1}, &err), "%s", err.text);
	cr_expect_str_eq(d.info.name, "cpu");
	cr_expect_str_eq(d.info.dtype, "f32");
	cr_expect_eq(d.info.ordinal, -1);
	cr_expect(strstr(d.info.note, sentence), "wanted \"%s\", noted \"%s\"", sentence, d.info.note);
	device_close(&d);
	forget_plan();
}

static void expect_device(const struct device_wish *wish, const char *name, const char *dtype, const char *note)
{
	struct device d;
	struct error err = {""};
	cr_assert(device_open(&d, wish, &err), "%s", err.text);
	cr_expect_str_eq(d.info.name, name);
	cr_expect_str_eq(d.info.dtype, dtype);
	cr_expect(*note ? strstr(d.info.note, note) != NULL : !d.info.note[0], "noted \"%s\"", d.info.note);
	cr_expect_gt(d.info.memory_bytes, 0);
	device_close(&d);
}

Test(device, works)
{
	struct device d;
	struct error err = {""};
	plan("devices=2");
	expect_device(&(struct device_wish){0}, "cuda:0 Fake", "f16", "");
	expect_device(&(struct device_wish){.name = "cuda"}, "cuda:0 Fake", "f16", "");
	expect_device(&(struct device_wish){.name = "cuda:1", .dtype = "bf16"}, "cuda:1 Fake", "bf16", "");
	expect_device(&(struct device_wish){.name = "cuda", .dtype = "f32"}, "cuda:0 Fake", "f32", "");
	cr_assert(device_open(&d, &(struct device_wish){.name = "cuda:1"}, &err));
	cr_expect_eq(d.info.ordinal, 1);
	cr_expect_eq(d.info.count, 2);
	cr_expect_gt(device_free_bytes(&d), 0);
	device_close(&d);
	forget_plan();
}

Test(device, the_first_that_works)
{
	plan("devices=3 only=0 create=out_of_memory:_0_of_24_GB_free");
	expect_device(&(struct device_wish){0}, "cuda:1 Fake", "f16", "cuda:0: out of memory: 0 of 24 GB free");
	struct device d;
	struct error err = {""};
	cr_expect(!device_open(&d, &(struct device_wish){.name = "cuda:0"}, &err));
	cr_expect_str_eq(err.text, "cuda:0: out of memory: 0 of 24 GB free");
	cr_expect(!device_open(&d, &(struct device_wish){.name = "cuda:3"}, &err));
	cr_expect_str_eq(err.text, "cuda:3: there is no such device, 3 are there");
	forget_plan();
}

Test(device, cpu_and_reference)
{
	struct device d;
	struct error err = {""};
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("absent"), 1);
	expect_device(&(struct device_wish){.name = "cpu", .threads = 1}, "cpu", "f32", "");
	expect_device(&(struct device_wish){.name = "reference"}, "reference", "f32", "");
	expect_device(&(struct device_wish){.dtype = "bf16"}, "cpu", "f32", "the CPU computes in f32");
	cr_expect(!device_open(&d, &(struct device_wish){.name = "cpu", .dtype = "f16"}, &err));
	cr_expect_str_eq(err.text, "dtype f16: the CPU computes in f32");
	cr_expect(!device_open(&d, &(struct device_wish){.dtype = "f64"}, &err));
	cr_expect_str_eq(err.text, "dtype 'f64' is unknown: f32, f16 and bf16 are there");
	static const char *const unknown[] = {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1"};
	for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
		cr_expect(!device_open(&d, &(struct device_wish){.name = unknown[i]}, &err));
		cr_expect(strstr(err.text, "is unknown: auto, cpu, cuda and cuda:N are there"), "%s", err.text);
	}
}

Test(device, plugin_absent)
{
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("absent"), 1);
	expect_refusal("cuda: the plugin is not installed: no /");
}

Test(device, plugin_is_no_library)
{
	char directory[] = "/tmp/trellis-plugin-XXXXXX", path[64];
	cr_assert(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/trellis-cuda.so", directory);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	cr_assert(write(fd, "no library at all\n", 18) == 18);
	close(fd);
	setenv("TRELLIS_PLUGIN_DIR", directory, 1);
	expect_refusal("trellis-cuda.so: file too short");
	unlink(path);
	rmdir(directory);
}

Test(device, plugin_is_another_library)
{
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("none"), 1);
	expect_refusal("trellis-cuda.so is not a plugin of this program");
}

Test(device, cublas_is_missing)
{
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("missing"), 1);
	expect_refusal("cuda: cuBLAS is missing: libcublasLt.so.0: cannot open shared object file");
}

Test(device, another_interface)
{
	plan("abi=99");
	expect_refusal("belongs to another version of this program (interface 99, wanted ");
}

/* A place in the working directory, or a relative one, is never looked at. */
Test(device, never_from_the_working_directory)
{
	plan("");
	cr_assert_eq(chdir(plugin_directory("fake")), 0);
	setenv("LD_LIBRARY_PATH", plugin_directory("fake"), 1);
	setenv("TRELLIS_PLUGIN_DIR", ".", 1);
	struct device d;
	struct error err = {""};
	if (device_open(&d, &(struct device_wish){.name = "cuda"}, &err)) /* an installed one on a machine with a GPU */
		cr_expect(!strstr(d.info.name, "Fake"), "the plugin of the working directory was loaded");
	else
		cr_expect(!strstr(err.text, "tests/plugins"), "%s", err.text);
	device_close(&d);
	forget_plan();
}

/* What the driver says before anything is tried. */
Test(device, refused_by_the_driver)
{
	plan("count=no_NVIDIA_driver");
	expect_refusal("cuda: no NVIDIA driver");
}

Test(device, refused_for_an_old_driver)
{
	plan("count=the_driver_(12.2)_is_older_than_the_runtime_(12.8)");
	expect_refusal("cuda: the driver (12.2) is older than the runtime (12.8)");
}

Test(device, none_there)
{
	plan("devices=0");
	expect_refusal("cuda: no device is visible");
}

Test(device, no_code_for_it)
{
	plan("describe=no_code_for_capability_7.5");
	expect_refusal("cuda:0: no code for capability 7.5");
}

Test(device, out_of_memory_when_made)
{
	plan("create=out_of_memory");
	expect_refusal("cuda:0: out of memory");
}

Test(device, out_of_memory_in_the_probe)
{
	plan("bytes=100000");
	expect_refusal("cuda:0: out of device memory: ");
}

Test(device, wrong_result)
{
	plan("probe=wrong");
	expect_refusal("cuda:0: fake computes wrong results: they differ from the oracle's by ");
}

Test(device, sticky_error)
{
	plan("probe=sticky");
	expect_refusal("cuda:0: fakeLaunch failed: an illegal memory access was encountered");
}

Test(device, a_call_fails)
{
	plan("probe=call");
	expect_refusal("cuda:0: fakeLaunch failed: 719");
}

Test(device, hangs_in_the_probe, .timeout = 60)
{
#ifdef __SANITIZE_THREAD__
	cr_skip_test("the thread that hangs keeps hold of the fake plugin's variables");
#endif
	plan("devices=2 probe=hang only=0");
	struct device d;
	struct error err = {""};
	cr_expect(!device_open(&d, &(struct device_wish){.name = "cuda:0", .probe_s = 1}, &err));
	cr_expect_str_eq(err.text, "cuda:0: no answer within 1 s");
	cr_assert(device_open(&d, &(struct device_wish){.name = "auto", .probe_s = 1}, &err), "%s", err.text);
	cr_expect_str_eq(d.info.name, "cuda:1 Fake");
	cr_expect_str_eq(d.info.note, "cuda:0: no answer within 1 s");
	device_close(&d);
	forget_plan();
}

static void count_seen(void *user, struct device *d, int ordinal, const char *refusal)
{
	char *text = user;
	size_t n = strlen(text);
	snprintf(text + n, 500 - n, "%d %s %s;", ordinal, d->backend ? d->info.name : "-", refusal);
}

Test(device, each)
{
	char seen[500] = "";
	plan("devices=3 only=1 probe=call");
	device_each(&(struct device_wish){0}, count_seen, seen);
	cr_expect_str_eq(seen, "0 cuda:0 Fake ;1 - fakeLaunch failed: 719;2 cuda:2 Fake ;");
	setenv("TRELLIS_PLUGIN_DIR", plugin_directory("none"), 1);
	seen[0] = '\0';
	device_each(&(struct device_wish){0}, count_seen, seen);
	cr_expect(strstr(seen, "-1 - ") && strstr(seen, "is not a plugin"), "%s", seen);
	forget_plan();
}
