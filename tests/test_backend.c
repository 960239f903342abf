/* test_backend.c - what all backends share: sticky errors, cancellation, scratch memory; and that the CPU backend gives
 * the same bits for any number of threads and in every run. */
#include "kernels.h"

/* Under AddressSanitizer a request that cannot be met gives NULL too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static struct backend *cpu(int threads)
{
	struct error err;
	struct backend *b = backend_cpu_create(threads, &err);
	cr_assert(b, "%s", err.text);
	return b;
}

Test(backend, first_error_sticks_and_later_ops_do_nothing)
{
	struct backend *b = cpu(1);
	struct error err = {""};
	struct tensor x = place(b, (float[]){1, 2}, 1, 2, 0), y = place(b, (float[]){3, 4}, 1, 2, 0);
	cr_expect(backend_ok(b));
	backend_fail(b, "first at %d", 1);
	backend_fail(b, "second");
	op_add(b, y, x, x);
	cr_expect(!backend_ok(b) && cpu_row(y, 0)[0] == 3, "an op ran after a failure");
	cr_expect(weight_create(b, WEIGHT_VECTOR, 2, 1, DTYPE_F32, x.data) == NULL);
	cr_expect(!backend_finish(b, &err));
	cr_expect_str_eq(err.text, "first at 1");
	op_add(b, y, x, x);
	cr_expect(backend_finish(b, &err) && cpu_row(y, 0)[0] == 2, "finish did not clear the failure");
	backend_destroy(b);
	backend_destroy(NULL);
}

Test(backend, cancellation_latches_like_an_error)
{
	struct backend *b = cpu(2);
	struct error err = {""};
	atomic_bool cancel = false;
	struct tensor x = place(b, (float[]){1, 2}, 1, 2, 0), y = place(b, (float[]){3, 4}, 1, 2, 0);
	b->cancel = &cancel;
	op_add(b, y, x, x);
	cr_expect(backend_ok(b) && cpu_row(y, 0)[0] == 2);
	atomic_store(&cancel, true);
	op_add(b, y, y, x);
	atomic_store(&cancel, false);
	cr_expect(!backend_ok(b) && b->cancelled && cpu_row(y, 0)[0] == 2, "an op ran after the cancellation");
	cr_expect(!backend_finish(b, &err) && !b->cancelled);
	cr_expect_str_eq(err.text, "cancelled");
	cr_expect(backend_finish(b, &err));
	backend_destroy(b);
}

Test(backend, scratch_is_a_stack_that_keeps_its_chunks)
{
	struct backend *b = cpu(1);
	size_t start = scratch_mark(b);
	struct tensor first = scratch_new(b, 3, 5);
	cr_expect(first.data && (uintptr_t)first.data % 64 == 0 && first.stride == 5 && first.dtype == DTYPE_F32);
	size_t mark = scratch_mark(b);
	struct tensor second = scratch_new(b, 1000, 1000), third = scratch_new_as(b, DTYPE_I32, 7, 1);
	cr_expect(third.dtype == DTYPE_I32 && (uintptr_t)third.data % 64 == 0);
	scratch_release(b, mark);
	cr_expect(scratch_new(b, 1000, 1000).data == second.data, "memory was not used again");
	/* Larger than any chunk, more than once: neighbours must not overlap. */
	struct tensor large[3];
	for (int i = 0; i < 3; i++) {
		large[i] = scratch_new(b, 3000, 4000);
		cr_assert(large[i].data, "%s", b->error.text);
		memset(large[i].data, i + 1, sizeof(float) * 3000 * 4000);
	}
	for (int i = 0; i < 3; i++)
		cr_expect(((char *)large[i].data)[0] == i + 1 && ((char *)large[i].data)[3000 * 4000 * 4 - 1] == i + 1);
	cr_expect(b->scratch_peak >= 3 * sizeof(float) * 3000 * 4000);
	scratch_release(b, mark);
	cr_expect(scratch_new(b, 5000, 6000).data, "a request above the kept chunks");
	scratch_release(b, start);
	scratch_trim(b);
	cr_expect(!b->scratch && scratch_mark(b) == start, "trim kept what nobody uses");
	backend_destroy(b);
}

Test(backend, impossible_memory_is_an_error)
{
	struct backend *b = cpu(1);
	struct error err = {""};
	struct tensor x = scratch_new(b, INT64_MAX / 8, 4);
	cr_expect(!x.data && !backend_finish(b, &err) && err.text[0], "no error for a tensor of 2^63 bytes");
	x = scratch_new(b, (int64_t)1 << 45, 1);
	cr_expect(!x.data && !backend_finish(b, &err));
	cr_expect(strstr(err.text, "memory"), "\"%s\"", err.text);
	x = scratch_new(b, 2, 2);
	cr_expect(x.data, "no memory after a failed request");
	backend_destroy(b);
}

Test(backend, empty_tensors_are_allowed)
{
	struct backend *b = cpu(1);
	struct error err = {""};
	struct tensor x = scratch_new(b, 0, 4), y = scratch_new(b, 0, 4),
		      table = scratch_new_as(b, DTYPE_I32, 0, NEIGHBOUR_COLS);
	op_add(b, y, x, x);
	op_activate(b, y, x, ACT_SILU);
	op_neighbours(b, table, scratch_new_as(b, DTYPE_I32, 0, 3));
	cr_expect(backend_finish(b, &err), "%s", err.text);
	backend_destroy(b);
}

/* The sums of products of all proportions with so many threads; malloc'd. */
static float *products(int threads, int64_t *count)
{
	static const int64_t shape[][3] = {
		{1, 1024, 6144}, {64, 4096, 32}, {700, 96, 96}, {4096, 64, 64}, {300, 1024, 1024}};
	struct backend *b = cpu(threads);
	float *all = NULL;
	*count = 0;
	for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
		int64_t rows = shape[i][0], in = shape[i][1], out = shape[i][2];
		struct weight *w = weight_noise(b, WEIGHT_LINEAR, out, in, 1);
		struct tensor y = scratch_new(b, rows, out);
		op_linear(b, y, place_noise(b, rows, in, 0, 2), w, NULL);
		all = realloc(all, (size_t)(*count + rows * out) * sizeof *all);
		op_download(b, all + *count, y);
		*count += rows * out;
		weight_destroy(b, w);
	}
	cr_assert(backend_ok(b), "%s", b->error.text);
	backend_destroy(b);
	return all;
}

/* Where they are, fewer may be taken on a busy machine (cpu_onednn.c). */
Test(backend, with_avx512_products_are_the_same_bits_for_any_number_of_threads)
{
	int64_t n;
	if (!simd_level(2))
		cr_skip_test("no AVX-512");
	float *one = products(1, &n);
	for (int threads = 2; threads <= 4; threads++) {
		float *more = products(threads, &n);
		cr_expect_arr_eq(more, one, (size_t)n * sizeof *one, "%d threads", threads);
		free(more);
	}
	free(one);
}

enum { PASS_ROWS = 700, PASS_COLS = 96, OWN = 12 * PASS_ROWS * PASS_COLS, ALL = 14 * PASS_ROWS * PASS_COLS };

/* A pass through every op whose sums could be split among threads; ALL numbers, of which oneDNN computed the last. */
static float *pass(struct backend *b)
{
	enum { N = PASS_ROWS, C = PASS_COLS, R = 9 };
	int32_t coords[N][3];
	for (int i = 0; i < N; i++) {
		coords[i][0] = i / (R * R);
		coords[i][1] = i / R % R;
		coords[i][2] = i % R;
	}
	struct tensor x = place_noise(b, N, C, 0, 1), table = scratch_new_as(b, DTYPE_I32, N, NEIGHBOUR_COLS);
	struct tensor out = place_noise(b, 14 * N, C, 0, 6);
	struct weight *linear = weight_noise(b, WEIGHT_LINEAR, C, C, 2), *conv = weight_noise(b, WEIGHT_CONV3, C, C, 3),
		      *sparse = weight_noise(b, WEIGHT_SPARSE3, C, C, 4),
		      *up = weight_noise(b, WEIGHT_SPARSE3_UP, C, C, 5);
	struct norm norm = {.eps = 1e-5f};
	op_neighbours(b, table, place_i32(b, *coords, N, 3));
	op_attention(b, tensor_rows(out, 0, N), x, x, x, 6, NULL);
	op_group_norm(b, tensor_rows(out, N, N), x, 32, &norm);
	op_layer_norm(b, tensor_rows(out, 2 * N, N), x, &norm);
	op_sparse_conv(b, tensor_rows(out, 3 * N, N), x, sparse, table, NULL);
	op_sparse_conv_up(b, tensor_rows(out, 4 * N, 8 * N), x, up, table, NULL);
	op_linear(b, tensor_rows(out, 12 * N, N), x, linear, &(struct epilogue){.act = ACT_GELU_TANH});
	op_conv3d(b, tensor_rows(out, 13 * N, 512), tensor_rows(x, 0, 512), conv, 8, NULL);
	float *result = malloc(ALL * sizeof *result);
	op_download(b, result, out);
	cr_assert(backend_ok(b), "%s", b->error.text);
	weight_destroy(b, linear);
	weight_destroy(b, conv);
	weight_destroy(b, sparse);
	weight_destroy(b, up);
	scratch_release(b, 0);
	return result;
}

/* Our own loops do not depend on the number of threads; oneDNN's may (its AVX2 products do). */
Test(backend, results_are_the_same_bits_in_every_run)
{
	struct backend *one = cpu(1);
	float *want = pass(one);
	for (int threads = 1; threads <= 4; threads++) {
		struct backend *b = cpu(threads);
		float *first = pass(b), *second = pass(b);
		cr_expect_arr_eq(first, want, OWN * sizeof *first, "%d threads against one", threads);
		cr_expect_arr_eq(second, first, ALL * sizeof *first, "%d threads, second run", threads);
		free(first);
		free(second);
		backend_destroy(b);
	}
	free(want);
	backend_destroy(one);
}
