/* test_kernels_oracle.c - the plain C oracle against numbers worked out by hand and against other ways of saying the
 * same thing: a submanifold convolution is a dense one at the active voxels, the merged convolution is the plain one on
 * the subdivision, windows are attention one by one. What the other tests compare with must itself be right. */
#include "kernels.h"

#define BOTH ((struct backend *[2]){b, b})

static struct backend *b;

static void setup(void)
{
	struct error err;
	b = backend_reference_create(&err);
	cr_assert(b, "%s", err.text);
}

static void teardown(void)
{
	struct error err = {""};
	cr_expect(backend_finish(b, &err), "%s", err.text);
	backend_destroy(b);
}

TestSuite(oracle, .init = setup, .fini = teardown);

static struct weight *weight_of(enum weight_kind kind, int64_t out, int64_t in, const float *values)
{
	return weight_create(b, kind, out, in, DTYPE_F32, values);
}

static float at(struct tensor x, int64_t r, int64_t c)
{
	return cpu_row(x, r)[c];
}

Test(oracle, linear_by_hand)
{
	struct tensor x = place(b, (float[]){1, 2, 3, -1, 0, 2}, 2, 3, 1), y = room(b, 2, 2, 1);
	struct tensor residual = place(b, (float[]){100, 200, 300, 400}, 2, 2, 0);
	struct weight *w = weight_of(WEIGHT_LINEAR, 2, 3, (float[]){1, 0, 0, 2, -1, 4}); /* rows are outputs */
	struct weight *bias = weight_of(WEIGHT_VECTOR, 2, 1, (float[]){10, 20});
	struct epilogue e = {.bias = bias, .gate = place(b, (float[]){2, -1}, 1, 2, 0), .residual = residual};
	op_linear(b, y, x, w, NULL);
	expect_close(BOTH, y, place(b, (float[]){1, 12, -1, 6}, 2, 2, 0), 0, "linear");
	op_linear(b, y, x, w, &e); /* residual + gate * (sum + bias) */
	expect_close(BOTH, y, place(b, (float[]){122, 168, 318, 374}, 2, 2, 0), 0, "linear with epilogue");
	weight_destroy(b, w);
	weight_destroy(b, bias);
}

Test(oracle, activations_at_known_points)
{
	struct tensor x = place(b, (float[]){1, -2, 0}, 1, 3, 0), y = room(b, 1, 3, 0);
	/* 1 / (1 + e^-1); 1 / 2 (1 + tanh(sqrt(2 / pi) 1.044715)); the normal distribution at 1; the same for -2 */
	op_activate(b, y, x, ACT_SILU);
	expect_close(BOTH, y, place(b, (float[]){0.7310585786f, -0.2384058440f, 0}, 1, 3, 0), 1e-7, "silu");
	op_activate(b, y, x, ACT_GELU_TANH);
	expect_close(BOTH, y, place(b, (float[]){0.8411919906f, -0.0454023059f, 0}, 1, 3, 0), 1e-7, "gelu_tanh");
	op_activate(b, y, x, ACT_GELU_ERF);
	expect_close(BOTH, y, place(b, (float[]){0.8413447461f, -0.0455002639f, 0}, 1, 3, 0), 1e-7, "gelu_erf");
}

/* A kernel with a single one picks a neighbour: offset (kx, ky, kz) - 1 of the voxel itself. */
Test(oracle, conv3d_takes_the_neighbour_of_its_tap)
{
	enum { R = 3 };
	float volume[R * R * R];
	for (int i = 0; i < R * R * R; i++)
		volume[i] = (float)(i + 1);
	struct tensor x = place(b, volume, R * R * R, 1, 0), y = room(b, R * R * R, 1, 0);
	for (int k = 0; k < 27; k++) {
		float kernel[27] = {0};
		kernel[k] = 1;
		struct weight *w = weight_of(WEIGHT_CONV3, 1, 1, kernel);
		op_conv3d(b, y, x, w, R, NULL);
		for (int i = 0; i < R * R * R; i++) {
			int sx = i / 9 + k / 9 - 1, sy = i / 3 % 3 + k / 3 % 3 - 1, sz = i % 3 + k % 3 - 1;
			bool inside = sx >= 0 && sx < R && sy >= 0 && sy < R && sz >= 0 && sz < R;
			float want = inside ? (float)((sx * R + sy) * R + sz + 1) : 0;
			cr_expect(at(y, i, 0) == want, "tap %d voxel %d: %g, wanted %g", k, i, (double)at(y, i, 0),
				(double)want);
		}
		weight_destroy(b, w);
	}
}

/* Voxels of a cube whose index passes a test, as coordinates; returns how many. */
static int some_voxels(int32_t (*coords)[3], int r)
{
	int n = 0;
	for (int i = 0; i < r * r * r; i++)
		if (i * 7 % 5 < 2) {
			coords[n][0] = i / (r * r);
			coords[n][1] = i / r % r;
			coords[n++][2] = i % r;
		}
	return n;
}

Test(oracle, sparse_conv_is_the_dense_one_at_active_voxels)
{
	enum { R = 5, IN = 3, OUT = 4 };
	int32_t coords[R * R * R][3];
	int n = some_voxels(coords, R);
	struct tensor x = place_noise(b, n, IN, 0, 1), y = room(b, n, OUT, 0), want = room(b, n, OUT, 0);
	struct tensor volume = place_noise(b, R * R * R, IN, 0, 2), dense = room(b, R * R * R, OUT, 0);
	memset(volume.data, 0, sizeof(float) * R * R * R * IN);
	for (int i = 0; i < n; i++)
		memcpy(cpu_row(volume, (coords[i][0] * R + coords[i][1]) * R + coords[i][2]), cpu_row(x, i),
			IN * sizeof(float));

	float sparse_kernel[OUT * 27 * IN], dense_kernel[OUT * IN * 27];
	float *values = noise(OUT * 27 * IN, 3);
	memcpy(sparse_kernel, values, sizeof sparse_kernel);
	free(values);
	for (int o = 0; o < OUT; o++)
		for (int i = 0; i < IN; i++)
			for (int k = 0; k < 27; k++)
				dense_kernel[(o * IN + i) * 27 + k] = sparse_kernel[(o * 27 + k) * IN + i];
	struct weight *w = weight_of(WEIGHT_SPARSE3, OUT, IN, sparse_kernel);
	struct weight *w_dense = weight_of(WEIGHT_CONV3, OUT, IN, dense_kernel);
	struct tensor table = scratch_new_as(b, DTYPE_I32, n, NEIGHBOUR_COLS);
	op_neighbours(b, table, place_i32(b, *coords, n, 3));
	op_sparse_conv(b, y, x, w, table, NULL);
	op_conv3d(b, dense, volume, w_dense, R, NULL);
	for (int i = 0; i < n; i++)
		memcpy(cpu_row(want, i), cpu_row(dense, (coords[i][0] * R + coords[i][1]) * R + coords[i][2]),
			OUT * sizeof(float));
	expect_close(BOTH, y, want, 1e-7, "sparse_conv"); /* the same products in another order, in double */
	weight_destroy(b, w);
	weight_destroy(b, w_dense);
}

Test(oracle, subdivision_is_the_plain_convolution_on_children)
{
	enum { R = 4, IN = 3, OUT = 2 };
	int32_t coords[R * R * R][3], children[8 * R * R * R][3], parent[8 * R * R * R];
	int n = some_voxels(coords, R);
	for (int i = 0; i < 8 * n; i++) {
		for (int axis = 0; axis < 3; axis++)
			children[i][axis] = 2 * coords[i / 8][axis] + (i % 8 >> (2 - axis) & 1);
		parent[i] = i / 8;
	}
	struct tensor table = scratch_new_as(b, DTYPE_I32, n, NEIGHBOUR_COLS),
		      table_up = scratch_new_as(b, DTYPE_I32, 8 * n, NEIGHBOUR_COLS),
		      table_children = scratch_new_as(b, DTYPE_I32, 8 * n, NEIGHBOUR_COLS);
	op_neighbours(b, table, place_i32(b, *coords, n, 3));
	op_neighbours_up(b, table_up, table);
	op_neighbours(b, table_children, place_i32(b, *children, 8 * n, 3));
	cr_assert_arr_eq(table_up.data, table_children.data, (size_t)n * 8 * NEIGHBOUR_COLS * 4, "neighbours_up");

	struct tensor x = place_noise(b, n, IN, 0, 1), fine = room(b, 8 * n, IN, 0);
	struct tensor y = room(b, 8 * n, OUT, 0), want = room(b, 8 * n, OUT, 0);
	struct weight *w = weight_noise(b, WEIGHT_SPARSE3, OUT, IN, 2),
		      *w_up = weight_noise(b, WEIGHT_SPARSE3_UP, OUT, IN, 2);
	op_gather_rows(b, fine, x, place_i32(b, parent, 8 * n, 1));
	op_sparse_conv(b, want, fine, w, table_children, NULL);
	op_sparse_conv_up(b, y, x, w_up, table, NULL);
	expect_close(BOTH, y, want, 1e-7, "sparse_conv_up");
	weight_destroy(b, w);
	weight_destroy(b, w_up);
}

Test(oracle, norms_by_hand)
{
	/* mean 2, variance 2 / 3 */
	struct tensor y = place(b, (float[]){1, 2, 3}, 1, 3, 0);
	struct weight *w = weight_of(WEIGHT_VECTOR, 3, 1, (float[]){1, 2, 3});
	struct weight *bias = weight_of(WEIGHT_VECTOR, 3, 1, (float[]){0, 10, 0});
	struct norm norm = {.eps = 1e-12f,
		.weight = w,
		.bias = bias,
		.scale = place(b, (float[]){0, 1, -1}, 1, 3, 0),
		.shift = place(b, (float[]){0.5f, 0, 7}, 1, 3, 0)};
	op_layer_norm(b, y, y, &norm);
	expect_close(BOTH, y, place(b, (float[]){-1.2247448714f + 0.5f, 20, 7}, 1, 3, 0), 1e-7, "layer_norm");

	/* Two groups of two channels over two rows: {1, 3, 5, 7} has mean 4 and variance 5; {0, 0, 0, 4} 1 and 3. */
	struct tensor x = place(b, (float[]){1, 3, 0, 0, 5, 7, 0, 4}, 2, 4, 0), group = room(b, 2, 4, 0);
	struct norm plain = {.eps = 1e-12f};
	op_group_norm(b, group, x, 2, &plain);
	const float p = 1.3416407865f, q = 0.4472135955f, s = 0.5773502692f;
	expect_close(BOTH, group, place(b, (float[]){-p, -q, -s, -s, q, p, -s, 3 * s}, 2, 4, 0), 1e-7, "group_norm");

	/* |(3, 4)| = 5: times gamma sqrt(2) / 5; zeros stay zeros. */
	struct tensor heads = place(b, (float[]){3, 4, 0, 0}, 1, 4, 0);
	struct weight *gamma = weight_of(WEIGHT_VECTOR, 4, 1, (float[]){5, 10, 1, 1});
	op_rms_norm_heads(b, heads, gamma, 2);
	expect_close(
		BOTH, heads, place(b, (float[]){4.2426406871f, 11.313708499f, 0, 0}, 1, 4, 0), 1e-7, "rms_norm_heads");
	weight_destroy(b, w);
	weight_destroy(b, bias);
	weight_destroy(b, gamma);
}

Test(oracle, attention_by_hand)
{
	/* Two heads of one dimension. Head 0: q = 0, the mean of v. Head 1: scores ln 3 and 0, weights 3 / 4 and 1 / 4.
	 */
	struct tensor q = place(b, (float[]){0, 1.0986122887f}, 1, 2, 0), k = place(b, (float[]){5, 1, 7, 0}, 2, 2, 0);
	struct tensor v = place(b, (float[]){2, 8, 4, 16}, 2, 2, 0), y = room(b, 1, 2, 0);
	op_attention(b, y, q, k, v, 2, NULL);
	expect_close(BOTH, y, place(b, (float[]){3, 10}, 1, 2, 0), 1e-7, "attention");

	/* One head of four: the score is q . k / 2 = ln 3 against 0. */
	struct tensor q4 = place(b, (float[]){1.0986122887f, 1.0986122887f, 0, 0}, 1, 4, 0), y4 = room(b, 1, 4, 0);
	struct tensor k4 = place(b, (float[]){1, 1, 9, 9, 0, 0, 3, 3}, 2, 4, 0);
	struct tensor v4 = place(b, (float[]){4, 0, 1, 8, 0, 4, 1, 8}, 2, 4, 0);
	op_attention(b, y4, q4, k4, v4, 1, NULL);
	expect_close(BOTH, y4, place(b, (float[]){3, 1, 1, 8}, 1, 4, 0), 1e-7, "attention");
}

Test(oracle, windows_are_attention_one_by_one)
{
	enum { N = 9, COLS = 4 };
	static const int32_t order[N] = {4, 0, 8, 2, 6, 1, 3, 5, 7}, offset[] = {0, 1, 4, N};
	struct tensor q = place_noise(b, N, COLS, 0, 1), k = place_noise(b, N, COLS, 0, 2),
		      v = place_noise(b, N, COLS, 0, 3);
	struct tensor y = room(b, N, COLS, 0), want = room(b, N, COLS, 0);
	struct windows windows = {3, 5, place_i32(b, order, N, 1), place_i32(b, offset, 4, 1)};
	op_attention(b, y, q, k, v, 2, &windows);
	for (int w = 0; w < 3; w++) {
		int n = offset[w + 1] - offset[w];
		struct tensor part[4], index = tensor_rows(windows.order, offset[w], n);
		for (int i = 0; i < 4; i++)
			part[i] = room(b, n, COLS, 0);
		op_gather_rows(b, part[0], q, index);
		op_gather_rows(b, part[1], k, index);
		op_gather_rows(b, part[2], v, index);
		op_attention(b, part[3], part[0], part[1], part[2], 2, NULL);
		for (int i = 0; i < n; i++)
			memcpy(cpu_row(want, order[offset[w] + i]), cpu_row(part[3], i), COLS * sizeof(float));
	}
	expect_close(BOTH, y, want, 0, "attention in windows");
}

Test(oracle, rows_by_hand)
{
	struct tensor x = place(b, (float[]){1, 2, 3, 4, 5, 6}, 3, 2, 0), y = room(b, 3, 2, 0), half = room(b, 2, 2, 0);
	op_combine(b, y, 2, x, -1, place(b, (float[]){1, 1, 1, 1, 1, 0}, 3, 2, 0));
	expect_close(BOTH, y, place(b, (float[]){1, 3, 5, 7, 9, 12}, 3, 2, 0), 0, "combine");
	op_add(b, y, x, place(b, (float[]){10, 20}, 1, 2, 0));
	expect_close(BOTH, y, place(b, (float[]){11, 22, 13, 24, 15, 26}, 3, 2, 0), 0, "add");
	/* Rows 0 and 2 fall together: (1 + 5) / 3 and (2 + 6) / 3; row 1 alone is halved. */
	op_downsample(b, half, x, place_i32(b, (int32_t[]){1, 0, 1}, 3, 1));
	expect_close(BOTH, half, place(b, (float[]){1.5f, 2, 2, 8.0f / 3}, 2, 2, 0), 1e-7, "downsample");

	float volume[16];
	for (int i = 0; i < 16; i++)
		volume[i] = (float)i;
	struct tensor fine = room(b, 8, 2, 0); /* channel 8 c + child of the one voxel goes to child's channel c */
	op_pixel_shuffle(b, fine, place(b, volume, 1, 16, 0), 1);
	for (int i = 0; i < 8; i++)
		cr_expect(at(fine, i, 0) == (float)i && at(fine, i, 1) == (float)(8 + i), "pixel_shuffle: child %d", i);
}

/* Every half precision number, by the definition of the format. */
Test(oracle, half_precision_by_definition)
{
	for (uint32_t h = 0; h < 65536; h++) {
		uint16_t bits = (uint16_t)h;
		float got;
		convert_to_f32(&got, &bits, DTYPE_F16, 1);
		int exponent = h >> 10 & 31, mantissa = h & 1023;
		double want = exponent == 0   ? ldexp(mantissa, -24)
			      : exponent < 31 ? ldexp(1024 + mantissa, exponent - 25)
			      : mantissa == 0 ? INFINITY
					      : NAN;
		want = h >> 15 ? -want : want;
		cr_assert(isnan(want) ? isnan(got) : (double)got == want && !signbit(got) == !signbit(want),
			"half %04x is %g", h, (double)got);
	}
	uint16_t bf16[] = {0x3f80, 0xc049, 0x0001, 0x7f80};
	float got[4];
	convert_to_f32(got, bf16, DTYPE_BF16, 4);
	cr_expect(got[0] == 1 && got[1] == -3.140625f && got[2] == 0x1p-133f && isinf(got[3]));
}
