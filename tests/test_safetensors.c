/* test_safetensors.c - the safetensors reader against its writer and against files that lie. */
#include "safetensors.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
	char path[64];
};

static struct scratch make_scratch(void)
{
	struct scratch s = {"/tmp/test_safetensors.XXXXXX"};
	cr_assert(mkdtemp(s.path));
	return s;
}

/* Bytes of a file with this header and n zero bytes of data. */
static unsigned char *build(const char *header, size_t n, size_t *size)
{
	size_t length = strlen(header);
	unsigned char *bytes = calloc(1, 8 + length + n);
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(length >> (8 * i));
	memcpy(bytes + 8, header, length);
	*size = 8 + length + n;
	return bytes;
}

static void expect_refused(const char *header, size_t n, const char *wanted)
{
	struct error err = {""};
	size_t size;
	unsigned char *bytes = build(header, n, &size);
	struct safetensors *f = safetensors_from_memory(bytes, size, "bad.safetensors", &err);
	cr_expect(!f, "accepted: %s", header);
	cr_expect(strstr(err.text, wanted), "%.100s: wanted \"%s\", got \"%s\"", header, wanted, err.text);
	cr_expect(strstr(err.text, "bad.safetensors") == err.text, "the file is not named: %s", err.text);
	cr_expect(!strchr(err.text, '\n'), "more than one line: %s", err.text);
	safetensors_close(f);
	free(bytes);
}

Test(safetensors, writes_what_it_reads)
{
	struct scratch dir = make_scratch();
	char path[128];
	struct error err;
	const float f32[] = {1.5f, -2.25f, 3e-20f, 0, INFINITY, -0.0f};
	const uint16_t f16[] = {0x3c00, 0xc000, 0x0001};
	const uint16_t bf16[] = {0x3f80, 0xc000};
	const double f64[] = {0.1};
	const int64_t i64[] = {1LL << 40, -7};
	const int32_t i32[] = {-5, 6};
	const uint8_t u8[] = {0, 255, 7};

	snprintf(path, sizeof path, "%s/a.safetensors", dir.path);
	struct safetensors_writer *w = safetensors_writer_create();
	safetensors_writer_add(w, "u8", ST_U8, 1, (int64_t[]){3}, u8);
	safetensors_writer_add(w, "f32", ST_F32, 2, (int64_t[]){2, 3}, f32);
	safetensors_writer_add(w, "f16", ST_F16, 1, (int64_t[]){3}, f16);
	safetensors_writer_add(w, "bf16", ST_BF16, 1, (int64_t[]){2}, bf16);
	safetensors_writer_add(w, "f64", ST_F64, 0, NULL, f64);
	safetensors_writer_add(w, "i64", ST_I64, 1, (int64_t[]){2}, i64);
	safetensors_writer_add(w, "i32", ST_I32, 1, (int64_t[]){2}, i32);
	safetensors_writer_add(w, "empty", ST_F32, 2, (int64_t[]){0, 4}, NULL);
	cr_assert(safetensors_writer_save(w, path, &err), "%s", err.text);
	safetensors_writer_destroy(w);

	struct safetensors *f = safetensors_open(path, &err);
	cr_assert(f, "%s", err.text);
	cr_expect_eq(safetensors_count(f), 8);
	cr_expect_str_eq(safetensors_path(f), path);
	cr_expect_str_eq(safetensors_at(f, 1)->name, "f32");
	cr_expect_null(safetensors_find(f, "f3"));

	const struct st_tensor *t = safetensors_find(f, "f32");
	cr_assert(t && t->ndim == 2 && t->dim[0] == 2 && t->dim[1] == 3 && t->count == 6 && t->dtype == ST_F32);
	float out[8];
	int32_t ints[8];
	st_read_f32(out, t);
	cr_expect_arr_eq(out, f32, sizeof f32);
	safetensors_release(f, t);
	st_read_f32(out, t);
	cr_expect_arr_eq(out, f32, sizeof f32, "a released tensor must still read");
	st_read_i32(ints, t);
	cr_expect(ints[0] == 1 && ints[1] == -2 && ints[4] == INT32_MAX);
	st_read_f32(out, safetensors_find(f, "f16"));
	cr_expect(out[0] == 1 && out[1] == -2 && out[2] == 0x1p-24f);
	st_read_f32(out, safetensors_find(f, "bf16"));
	cr_expect(out[0] == 1 && out[1] == -2);
	st_read_f32(out, safetensors_find(f, "f64"));
	cr_expect(out[0] == 0.1f);
	st_read_i32(ints, safetensors_find(f, "i64"));
	cr_expect(ints[0] == INT32_MAX && ints[1] == -7);
	st_read_i32(ints, safetensors_find(f, "u8"));
	cr_expect(ints[0] == 0 && ints[1] == 255 && ints[2] == 7);
	cr_expect_eq(safetensors_find(f, "empty")->count, 0);
	safetensors_close(f);
	unlink(path);
	cr_expect_eq(rmdir(dir.path), 0, "the writer left something behind");
}

Test(safetensors, converts_every_half)
{
	static uint16_t halves[65536];
	static float out[65536];
	for (int i = 0; i < 65536; i++)
		halves[i] = (uint16_t)i;
	const struct st_tensor t = {
		.name = "h", .dtype = ST_F16, .ndim = 1, .dim = {65536}, .count = 65536, .data = halves};
	st_read_f32(out, &t);
	for (int i = 0; i < 65536; i++) {
		int exponent = i >> 10 & 31, mantissa = i & 1023;
		float want = exponent == 31  ? mantissa ? NAN : INFINITY
			     : exponent == 0 ? ldexpf((float)mantissa, -24)
					     : ldexpf((float)(1024 + mantissa), exponent - 25);
		want = i & 0x8000 ? -want : want;
		cr_assert(isnan(want) ? isnan(out[i]) : memcmp(&out[i], &want, 4) == 0, "%04x: %g, wanted %g", i,
			(double)out[i], (double)want);
	}
}

Test(safetensors, refuses_headers_that_lie)
{
#define T(name, shape, begin, end)                                                                                     \
	"\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
	expect_refused(
		"{" T("a", "[2]", "0", "8") "}", 4, "truncated: tensor a ends at byte 8 of the data, the file has 4");
	expect_refused("{" T("a", "[2]", "0", "8") "," T("b", "[2]", "4", "12") "}", 12, "a and b overlap");
	expect_refused(
		"{" T("a", "[2]", "0", "8") "," T("b", "[2]", "12", "20") "}", 20, "a hole of 4 bytes before tensor b");
	expect_refused("{" T("a", "[2]", "0", "8") "}", 9, "1 bytes after the last tensor");
	expect_refused("{" T("a", "[3]", "0", "8") "}", 8, "tensor a has 8 bytes of data, its shape needs 12");
	expect_refused("{" T("a", "[2]", "8", "0") "}", 8, "tensor a has impossible data_offsets");
	expect_refused("{" T("a", "[2]", "-8", "0") "}", 8, "tensor a has impossible data_offsets");
	expect_refused("{" T("a", "[2]", "0.0", "8") "}", 8, "tensor a has impossible data_offsets");
	expect_refused("{" T("a", "[2]", "0", "99999999999999999999") "}", 8, "bad header");
	expect_refused("{" T("a", "[4611686018427387904,4]", "0", "0") "}", 0, "tensor a has an impossible shape");
	expect_refused("{" T("a", "[2305843009213693952]", "0", "0") "}", 0, "tensor a has an impossible shape");
	expect_refused("{" T("a", "[-1]", "0", "0") "}", 0, "tensor a has an impossible shape");
	expect_refused("{" T("a", "[\"2\"]", "0", "8") "}", 8, "tensor a has an impossible shape");
	expect_refused("{" T("a", "[1,1,1,1,1,1,1]", "0", "4") "}", 4, "tensor a has 7 dimensions");
	expect_refused("{" T("a", "[1]", "0", "4") "," T("a", "[1]", "4", "8") "}", 8, "duplicate object key");
	expect_refused("{" T("a\\n", "[1]", "0", "4") "}", 4, "control characters");
	expect_refused("{" T("", "[1]", "0", "4") "}", 4, "a tensor's name is empty");
	expect_refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype \"F4\"");
	expect_refused("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "lacks dtype, shape or data_offsets");
	expect_refused("{\"a\":7}", 0, "tensor a lacks");
	expect_refused("[]", 0, "not a JSON object");
	expect_refused("{", 0, "bad header");
	expect_refused("", 0, "bad header");
#undef T
}

Test(safetensors, refuses_deep_json)
{
	char *header = malloc(200001);
	memset(header, '[', 200000);
	header[200000] = '\0';
	expect_refused(header, 0, "maximum parsing depth");
	free(header);
}

Test(safetensors, refuses_sizes_before_allocating)
{
	struct error err = {""};
	unsigned char bytes[16] = {0};
	bytes[7] = 0x10; /* 2^60 */
	cr_expect(!safetensors_from_memory(bytes, sizeof bytes, "x", &err));
	cr_expect(strstr(err.text, "a header of 1152921504606846976 bytes"), "%s", err.text);
	memset(bytes, 0xff, 8);
	cr_expect(!safetensors_from_memory(bytes, sizeof bytes, "x", &err));
	memset(bytes, 0, 8);
	bytes[0] = 9;
	cr_expect(!safetensors_from_memory(bytes, sizeof bytes, "x", &err));
	cr_expect_str_eq(err.text, "x: truncated: a header of 9 bytes in a file of 16");
	cr_expect(!safetensors_from_memory(bytes, 7, "x", &err));
	cr_expect_str_eq(err.text, "x: not a safetensors file: 7 bytes");
}

Test(safetensors, refuses_what_is_not_a_file, .timeout = 10)
{
	struct scratch dir = make_scratch();
	struct error err;
	char path[128];
	cr_expect(!safetensors_open(dir.path, &err));
	cr_expect(strstr(err.text, "not a regular file"), "%s", err.text);

	snprintf(path, sizeof path, "%s/f", dir.path);
	cr_expect(!safetensors_open(path, &err));
	cr_expect(strstr(err.text, "No such file"), "%s", err.text);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_expect(!safetensors_open(path, &err), "opened a pipe");
	unlink(path);
	cr_assert_eq(symlink("nowhere", path), 0);
	cr_expect(!safetensors_open(path, &err));
	cr_expect(strstr(err.text, "a link to a file that is not there"), "%s", err.text);
	unlink(path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	cr_expect(!safetensors_open(path, &err));
	cr_expect(strstr(err.text, "empty"), "%s", err.text);
	FILE *file = fopen(path, "w");
	fputs("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", file);
	fclose(file);
	cr_expect(!safetensors_open(path, &err));
	cr_expect(strstr(err.text, "Git LFS pointer"), "%s", err.text);
	unlink(path);
	rmdir(dir.path);
}

Test(safetensors, a_failed_save_leaves_nothing)
{
	struct scratch dir = make_scratch();
	struct error err;
	char path[128];
	struct safetensors_writer *w = safetensors_writer_create();
	safetensors_writer_add(w, "a", ST_F32, 1, (int64_t[]){1}, &(float){1});
	snprintf(path, sizeof path, "%s/none/a.safetensors", dir.path);
	cr_expect(!safetensors_writer_save(w, path, &err));
	cr_expect(strstr(err.text, path) == err.text, "%s", err.text);
	/* A directory in the way: the rename fails after everything was written. */
	snprintf(path, sizeof path, "%s/dir", dir.path);
	mkdir(path, 0700);
	cr_expect(!safetensors_writer_save(w, path, &err));
	safetensors_writer_destroy(w);
	rmdir(path);
	cr_expect_eq(rmdir(dir.path), 0, "the writer left something behind");
}
