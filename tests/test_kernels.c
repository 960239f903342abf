/* test_kernels.c - every op of a backend against the plain C oracle, on shapes that are awkward for tiles: one
 * row, odd columns, gaps between rows, odd head sizes, windows of one row, voxels without neighbours; at every
 * instruction set of the machine and with one and three threads. Outputs are poisoned before each op.
 *
 * Limits are relative to the largest element. A float sum of k products of unit noise is off by about 6e-8 sqrt(k), the
 * result is about sqrt(k) / 3: 1e-6 leaves room for k up to some thousands and catches any missing term. */
#include "kernels.h"

static const double SUM_LIMIT = 1e-6;
/* A few roundings and an e^x good to 1.5e-7. */
static const double POINT_LIMIT = 5e-7;

/* ---- products ---- */

/* The epilogues that the network uses, and all parts together. */
enum { EPILOGUES = 7 };

struct epilogue_parts {
	struct weight *bias;
	struct tensor gate, residual;
};

static struct epilogue epilogue_of(int kind, const struct epilogue_parts *p)
{
	static const enum activation acts[EPILOGUES] = {
		ACT_NONE, ACT_NONE, ACT_GELU_TANH, ACT_NONE, ACT_GELU_ERF, ACT_SILU, ACT_NONE};
	return (struct epilogue){.bias = kind > 0 ? p->bias : NULL,
		.act = acts[kind],
		.gate = kind == 3 || kind == 5 ? p->gate : TENSOR_NONE,
		.residual = kind >= 3 ? p->residual : TENSOR_NONE};
}

static struct epilogue_parts parts_of(struct backend *b, int64_t rows, int64_t out, int64_t gap)
{
	return (struct epilogue_parts){
		weight_noise(b, WEIGHT_VECTOR, out, 1, 3), place_row(b, out, 4), place_noise(b, rows, out, gap, 5)};
}

static void check_linear_shape(
	struct backend *b[2], int64_t n, int64_t in, int64_t out, int64_t gap, int first, int last)
{
	char what[80];
	struct tensor y[2];
	for (int kind = first; kind <= last; kind++)
		for (int in_place = 0; in_place < (kind >= 3 ? 2 : 1); in_place++) {
			for (int i = 0; i < 2; i++) {
				struct tensor x = place_noise(b[i], n, in, gap, 1);
				struct weight *w = weight_noise(b[i], WEIGHT_LINEAR, out, in, 2);
				struct epilogue_parts parts = parts_of(b[i], n, out, gap);
				struct epilogue e = epilogue_of(kind, &parts);
				y[i] = in_place ? parts.residual : room(b[i], n, out, gap);
				op_linear(b[i], y[i], x, w, kind ? &e : NULL);
				weight_destroy(b[i], w);
				weight_destroy(b[i], parts.bias);
			}
			snprintf(what, sizeof what, "linear %lldx%lldx%lld epilogue %d", (long long)n, (long long)in,
				(long long)out, kind);
			expect_close(b, y[1], y[0], SUM_LIMIT, what);
			for (int i = 0; i < 2; i++)
				scratch_release(b[i], 0);
		}
}

static void check_linear(struct backend *b[2])
{
	static const int64_t shapes[][4] = {{1, 1, 1, 0}, {1, 256, 96, 0}, {7, 13, 5, 3}, {33, 40, 101, 2},
		{130, 64, 192, 64}, {300, 17, 33, 0}, {5, 300, 1, 1}};
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		check_linear_shape(b, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], 0, EPILOGUES - 1);
}

Test(kernels, linear)
{
	for_each_backend(check_linear);
}

/* The fast kernel takes heads of 64 and as many tiles of 128 x 256 as an H100 has multiprocessors: the last shape, which only
 * a plugin sees. */
static void check_linear_qkv(struct backend *b[2])
{
	static const int64_t shapes[][4] = {
		{1, 64, 768, 4}, {130, 64, 768, 4}, {33, 192, 384, 2}, {40, 24, 96, 2}, {5600, 192, 768, 4}};
	size_t count = sizeof shapes / sizeof *shapes - (test_plugin() ? 0 : 1);
	struct tensor y[2], qk[2];
	for (size_t s = 0; s < count; s++)
		for (int gap = 0; gap <= 32; gap += 32)
			for (int has_bias = gap == 0; has_bias < 2; has_bias++) {
				int64_t n = shapes[s][0], in = shapes[s][1], out = shapes[s][2];
				for (int i = 0; i < 2; i++) {
					struct tensor x = place_noise(b[i], n, in, gap, 1);
					struct weight *w = weight_noise(b[i], WEIGHT_LINEAR, out, in, 2);
					struct weight *bias = weight_noise(b[i], WEIGHT_VECTOR, out, 1, 3);
					struct weight *q_gamma = weight_noise(b[i], WEIGHT_VECTOR, out / 3, 1, 4);
					struct weight *k_gamma = weight_noise(b[i], WEIGHT_VECTOR, out / 3, 1, 5);
					y[i] = room(b[i], n, out, gap);
					op_linear_qkv(b[i], y[i], x, w, has_bias ? bias : NULL, q_gamma, k_gamma,
						(int)shapes[s][3]);
					qk[i] = room(b[i], n, out / 3 * 2, 0);
					op_combine(
						b[i], qk[i], 1, tensor_columns(y[i], 0, out / 3 * 2), 0, TENSOR_NONE);
					weight_destroy(b[i], w);
					weight_destroy(b[i], bias);
					weight_destroy(b[i], q_gamma);
					weight_destroy(b[i], k_gamma);
				}
				/* q and k are about 1, v is as large as its sums; a sum and then a norm. */
				expect_close(b, qk[1], qk[0], 2 * SUM_LIMIT, "linear_qkv, q and k");
				expect_close(b, y[1], y[0], SUM_LIMIT, "linear_qkv");
				for (int i = 0; i < 2; i++)
					scratch_release(b[i], 0);
			}
}

Test(kernels, linear_qkv)
{
	for_each_backend(check_linear_qkv);
}

/* More rows than one block of the epilogue: the blocks must meet. */
static void check_linear_blocks(struct backend *b[2])
{
	check_linear_shape(b, 2001, 2, 3000, 0, 3, 3);
}

Test(kernels, linear_in_blocks)
{
	for_each_backend(check_linear_blocks);
}

/* Three layers of one input stacked, one of them of another type in the file: the same as one layer. */
static void check_linear_stacked(struct backend *b[2])
{
	enum { EACH = 40, OUT = 3 * EACH, IN = 72 };
	struct weight *weight[2], *bias[2];
	struct tensor y[2];
	float *values = noise(OUT * IN, 5);
	uint16_t *middle = malloc(sizeof *middle * EACH * IN);
	cr_assert(middle);
	for (int i = 0; i < OUT * IN; i++)
		values[i] = roundf(8 * values[i]); /* which every type holds */
	for (int i = 0; i < EACH * IN; i++) {
		uint32_t bits;
		memcpy(&bits, &values[EACH * IN + i], sizeof bits);
		middle[i] = (uint16_t)(bits >> 16);
	}
	const struct numbers parts[] = {{values, DTYPE_F32}, {middle, DTYPE_BF16}, {values + 2 * EACH * IN, DTYPE_F32}};
	const struct numbers rows[] = {{values, DTYPE_F32}, {middle, DTYPE_BF16}, {values + 2 * EACH, DTYPE_F32}};
	float whole[OUT];
	for (int i = 0; i < OUT; i++)
		whole[i] = i / EACH == 1 ? values[EACH * IN + i - EACH] : values[i];
	for (int i = 0; i < 2; i++) {
		weight[i] = i ? weight_create_stacked(b[i], WEIGHT_LINEAR, OUT, IN, parts, 3)
			      : weight_create(b[i], WEIGHT_LINEAR, OUT, IN, DTYPE_F32, values);
		bias[i] = i ? weight_create_stacked(b[i], WEIGHT_VECTOR, OUT, 1, rows, 3)
			    : weight_create(b[i], WEIGHT_VECTOR, OUT, 1, DTYPE_F32, whole);
		cr_assert(weight[i] && bias[i], "%s", b[i]->error.text);
		y[i] = room(b[i], 33, OUT, 0);
		op_linear(b[i], y[i], place_noise(b[i], 33, IN, 0, 7), weight[i], &(struct epilogue){.bias = bias[i]});
	}
	expect_close(b, y[1], y[0], SUM_LIMIT, "stacked");
	for (int i = 0; i < 2; i++) {
		weight_destroy(b[i], weight[i]);
		weight_destroy(b[i], bias[i]);
		scratch_release(b[i], 0);
	}
	free(values);
	free(middle);
}

Test(kernels, linear_stacked)
{
	for_each_backend(check_linear_stacked);
}

static void check_conv3d(struct backend *b[2])
{
	static const int64_t shapes[][4] = {
		{1, 3, 2, 0}, {3, 1, 1, 0}, {4, 8, 32, 0}, {5, 32, 1, 3}, {4, 17, 33, 1}, {8, 16, 8, 0}};
	struct tensor y[2];
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
		for (int kind = 0; kind < EPILOGUES; kind++) {
			int64_t r = shapes[s][0], n = r * r * r, in = shapes[s][1], out = shapes[s][2],
				gap = shapes[s][3];
			for (int i = 0; i < 2; i++) {
				struct tensor x = place_noise(b[i], n, in, gap, 1);
				struct weight *w = weight_noise(b[i], WEIGHT_CONV3, out, in, 2);
				struct epilogue_parts parts = parts_of(b[i], n, out, gap);
				struct epilogue e = epilogue_of(kind, &parts);
				y[i] = kind >= 4 ? parts.residual : room(b[i], n, out, gap);
				op_conv3d(b[i], y[i], x, w, r, kind ? &e : NULL);
				weight_destroy(b[i], w);
				weight_destroy(b[i], parts.bias);
			}
			expect_close(b, y[1], y[0], SUM_LIMIT, "conv3d");
			for (int i = 0; i < 2; i++)
				scratch_release(b[i], 0);
		}
}

Test(kernels, conv3d)
{
	for_each_backend(check_conv3d);
}

/* One weight at two resolutions: it must not depend on the one it met first. */
static void check_conv3d_twice(struct backend *b[2])
{
	struct weight *w[2];
	struct tensor y[2];
	for (int i = 0; i < 2; i++)
		w[i] = weight_noise(b[i], WEIGHT_CONV3, 16, 16, 2);
	for (int64_t r = 6; r > 2; r -= 3) {
		for (int i = 0; i < 2; i++) {
			y[i] = room(b[i], r * r * r, 16, 0);
			op_conv3d(b[i], y[i], place_noise(b[i], r * r * r, 16, 0, 1), w[i], r, NULL);
		}
		expect_close(b, y[1], y[0], SUM_LIMIT, "conv3d at another resolution");
	}
	for (int i = 0; i < 2; i++)
		weight_destroy(b[i], w[i]);
}

Test(kernels, conv3d_at_two_resolutions)
{
	for_each_backend(check_conv3d_twice);
}

/* ---- sparse ---- */

/* About a third of a cube of side r, in scrambled order; returns how many. coords has room for r^3 rows. */
static int64_t some_voxels(int32_t (*coords)[3], int r, uint32_t seed)
{
	int64_t n = 0;
	uint32_t state = seed;
	for (int i = 0; i < r * r * r; i++)
		if (noise_next(&state) > 0.3f) {
			int32_t c[3] = {i / (r * r), i / r % r, i % r};
			int64_t at = n ? (int64_t)((state >> 8) % (uint32_t)(n + 1)) : 0;
			memcpy(coords[n], coords[at], sizeof c);
			memcpy(coords[at], c, sizeof c);
			n++;
		}
	return n;
}

/* The same neighbours, and an order that is a permutation. */
static void expect_same_table(struct backend *b[2], struct tensor table[2], const char *what)
{
	int32_t *values[2];
	for (int i = 0; i < 2; i++) {
		values[i] = malloc((size_t)table[i].rows * NEIGHBOUR_COLS * sizeof **values);
		op_download_i32(b[i], values[i], table[i]);
	}
	for (int64_t r = 0; r < table[0].rows; r++)
		cr_assert_arr_eq(values[1] + NEIGHBOUR_COLS * r, values[0] + NEIGHBOUR_COLS * r, 27 * sizeof(int32_t),
			"%s: row %lld", what, (long long)r);
	bool *taken = calloc((size_t)table[0].rows, sizeof *taken);
	for (int64_t i = 0; i < table[0].rows; i++) {
		int32_t r = values[1][NEIGHBOUR_COLS * i + NEIGHBOUR_ORDER];
		cr_assert(r >= 0 && r < table[0].rows && !taken[r], "%s: row %d at place %lld of the order", what, r,
			(long long)i);
		taken[r] = true;
	}
	free(taken);
	free(values[0]);
	free(values[1]);
}

static void check_sparse(struct backend *b[2])
{
	static const int64_t shapes[][4] = {
		{1, 8, 5, 0}, {4, 1, 1, 1}, {6, 17, 33, 3}, {9, 40, 64, 0}, {9, 300, 16, 0}};
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
		int r = (int)shapes[s][0];
		int64_t in = shapes[s][1], out = shapes[s][2], gap = shapes[s][3];
		int32_t(*coords)[3] = calloc((size_t)(r * r * r), sizeof *coords);
		int64_t n = r == 1 ? 1 : some_voxels(coords, r, 7);
		struct tensor table[2], table_up[2], y[2], up[2];
		for (int kind = 0; kind < EPILOGUES; kind++) {
			for (int i = 0; i < 2; i++) {
				table[i] = scratch_new_as(b[i], DTYPE_I32, n, NEIGHBOUR_COLS);
				table_up[i] = scratch_new_as(b[i], DTYPE_I32, 8 * n, NEIGHBOUR_COLS);
				op_neighbours(b[i], table[i], place_i32(b[i], *coords, n, 3));
				op_neighbours_up(b[i], table_up[i], table[i]);
				struct tensor x = place_noise(b[i], n, in, gap, 1);
				struct weight *w = weight_noise(b[i], WEIGHT_SPARSE3, out, in, 2);
				struct weight *w_up = weight_noise(b[i], WEIGHT_SPARSE3_UP, out, in, 2);
				struct epilogue_parts parts = parts_of(b[i], n, out, gap),
						      parts_up = parts_of(b[i], 8 * n, out, gap);
				struct epilogue e = epilogue_of(kind, &parts), e_up = epilogue_of(kind, &parts_up);
				y[i] = kind >= 4 ? parts.residual : room(b[i], n, out, gap);
				up[i] = kind >= 4 ? parts_up.residual : room(b[i], 8 * n, out, gap);
				op_sparse_conv(b[i], y[i], x, w, table[i], kind ? &e : NULL);
				op_sparse_conv_up(b[i], up[i], x, w_up, table[i], kind ? &e_up : NULL);
				weight_destroy(b[i], w);
				weight_destroy(b[i], w_up);
				weight_destroy(b[i], parts.bias);
				weight_destroy(b[i], parts_up.bias);
			}
			expect_same_table(b, table, "neighbours");
			expect_same_table(b, table_up, "neighbours_up");
			expect_close(b, y[1], y[0], SUM_LIMIT, "sparse_conv");
			expect_close(b, up[1], up[0], SUM_LIMIT, "sparse_conv_up");
			for (int i = 0; i < 2; i++)
				scratch_release(b[i], 0);
		}
		free(coords);
	}
}

Test(kernels, sparse_conv)
{
	for_each_backend(check_sparse);
}

/* A table without any neighbour, not even the voxel itself: the epilogue of zero. */
static void check_sparse_empty(struct backend *b[2])
{
	struct tensor y[2];
	int32_t none[3][NEIGHBOUR_COLS];
	memset(none, -1, sizeof none);
	for (int r = 0; r < 3; r++)
		none[r][NEIGHBOUR_ORDER] = r;
	for (int i = 0; i < 2; i++) {
		struct weight *w = weight_noise(b[i], WEIGHT_SPARSE3, 5, 4, 2),
			      *bias = weight_noise(b[i], WEIGHT_VECTOR, 5, 1, 3);
		y[i] = room(b[i], 3, 5, 0);
		op_sparse_conv(b[i], y[i], place_noise(b[i], 3, 4, 0, 1), w, place_i32(b[i], *none, 3, NEIGHBOUR_COLS),
			&(struct epilogue){.bias = bias});
		weight_destroy(b[i], w);
		weight_destroy(b[i], bias);
	}
	expect_close(b, y[1], y[0], 0, "sparse_conv without neighbours");
}

Test(kernels, sparse_conv_without_neighbours)
{
	for_each_backend(check_sparse_empty);
}

/* Coordinates at the ends of the allowed range. */
static void check_neighbours_far(struct backend *b[2])
{
	static const int32_t coords[][3] = {{0, 0, 0}, {(1 << 20) - 1, (1 << 20) - 1, (1 << 20) - 1},
		{(1 << 20) - 1, (1 << 20) - 2, 0}, {0, 0, 1}, {1, 1, 1}};
	struct tensor table[2];
	for (int i = 0; i < 2; i++) {
		table[i] = scratch_new_as(b[i], DTYPE_I32, 5, NEIGHBOUR_COLS);
		op_neighbours(b[i], table[i], place_i32(b[i], *coords, 5, 3));
	}
	expect_same_table(b, table, "neighbours");
}

Test(kernels, neighbours_at_the_ends_of_the_range)
{
	for_each_backend(check_neighbours_far);
}

/* ---- normalisation ---- */

static void check_norms(struct backend *b[2])
{
	/* rows, cols, groups, heads, gap */
	static const int64_t shapes[][5] = {{1, 1, 1, 1, 0}, {3, 96, 32, 6, 0}, {700, 64, 32, 4, 5}, {33, 39, 3, 3, 1},
		{5, 1030, 5, 2, 0}, {2, 40, 1, 1, 0}};
	struct tensor layer[2], group[2], rms[2], in_place[2];
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
		for (int kind = 0; kind < 4; kind++) {
			int64_t n = shapes[s][0], cols = shapes[s][1], gap = shapes[s][4];
			for (int i = 0; i < 2; i++) {
				struct weight *w = weight_noise(b[i], WEIGHT_VECTOR, cols, 1, 2),
					      *bias = weight_noise(b[i], WEIGHT_VECTOR, cols, 1, 3);
				struct norm norm = {.eps = 1e-6f, .act = kind == 3 ? ACT_SILU : ACT_NONE};
				if (kind & 1) {
					norm.weight = w;
					norm.bias = bias;
				}
				if (kind & 2) {
					norm.scale = place_row(b[i], cols, 4);
					norm.shift = place_row(b[i], cols, 5);
				}
				/* Far from zero, so that a variance as E x^2 - (E x)^2 would show. */
				struct tensor x = place_noise_sized(b[i], n, cols, gap, 1, 1, 30);
				layer[i] = room(b[i], n, cols, gap);
				group[i] = room(b[i], n, cols, gap);
				rms[i] = place_noise(b[i], n, cols, gap, 6);
				in_place[i] = place_noise(b[i], n, cols, gap, 7);
				op_layer_norm(b[i], layer[i], x, &norm);
				op_group_norm(b[i], group[i], x, (int)shapes[s][2], &norm);
				op_rms_norm_heads(b[i], rms[i], w, (int)shapes[s][3]);
				op_group_norm(b[i], in_place[i], in_place[i], (int)shapes[s][2], &norm);
				op_layer_norm(b[i], in_place[i], in_place[i], &norm);
				weight_destroy(b[i], w);
				weight_destroy(b[i], bias);
			}
			/* A mean of 30 in float is off by 1e-6 to 2e-6, the spread is 0.58, and some of these outputs
			 * are no larger than it. E x^2 - (E x)^2 in float would be off by 2e-4. */
			expect_close(b, layer[1], layer[0], 1e-5, "layer_norm");
			expect_close(b, group[1], group[0], 1e-5, "group_norm");
			expect_close(b, rms[1], rms[0], POINT_LIMIT, "rms_norm_heads");
			if (cols > 1)
				expect_close(b, in_place[1], in_place[0], 1e-5, "group_norm and layer_norm in place");
			for (int i = 0; i < 2; i++)
				scratch_release(b[i], 0);
		}
}

Test(kernels, norms)
{
	for_each_backend(check_norms);
}

/* A gated product into x, then a norm of its first rows, a row added to the others and their norm: on CUDA the product ends
 * in the norms' passes. `other` comes in between and has to find x done. */
static void check_product_then_norms(struct backend *b[2])
{
	static const int64_t shapes[][3] = {{12, 64, 256}, {40, 32, 1024}, {6, 24, 40}, {7, 64, 768}, {300, 8, 1032}};
	struct tensor x[2], h[2], other[2];
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
		for (int between = 0; between < 4; between++) {
			int64_t n = shapes[s][0], in = shapes[s][1], c = shapes[s][2];
			for (int i = 0; i < 2; i++) {
				struct epilogue_parts parts = parts_of(b[i], 2 * n, c, 0);
				struct weight *w = weight_noise(b[i], WEIGHT_LINEAR, c, in, 2);
				struct norm norm = {.eps = 1e-6f, .weight = parts.bias, .bias = parts.bias};
				struct tensor row = place_row(b[i], c, 7);
				x[i] = parts.residual;
				h[i] = room(b[i], 2 * n, c, 0);
				other[i] = room(b[i], 2 * n, c, 0);
				op_linear(b[i], x[i], place_noise(b[i], 2 * n, in, 0, 1), w,
					&(struct epilogue){.bias = parts.bias, .gate = parts.gate, .residual = x[i]});
				if (between == 1)
					op_combine(b[i], other[i], 1, x[i], 0, TENSOR_NONE);
				op_layer_norm(b[i], tensor_rows(h[i], 0, n), tensor_rows(x[i], 0, n), &norm);
				if (between == 2)
					op_combine(b[i], other[i], 1, x[i], 0, TENSOR_NONE);
				op_add(b[i], tensor_rows(x[i], n, n), tensor_rows(x[i], n, n), row);
				if (between == 3)
					op_combine(b[i], other[i], 1, x[i], 0, TENSOR_NONE);
				op_layer_norm(b[i], tensor_rows(h[i], n, n), tensor_rows(x[i], n, n), &norm);
				if (between == 0)
					op_combine(b[i], other[i], 1, x[i], 0, TENSOR_NONE);
				weight_destroy(b[i], w);
				weight_destroy(b[i], parts.bias);
			}
			expect_close(b, x[1], x[0], SUM_LIMIT, "gated product, row");
			expect_close(b, other[1], other[0], SUM_LIMIT, "gated product, read in between");
			expect_close(b, h[1], h[0], 1e-5, "layer norm of a gated product");
			for (int i = 0; i < 2; i++)
				scratch_release(b[i], 0);
		}
}

Test(kernels, product_then_norms)
{
	for_each_backend(check_product_then_norms);
}

/* ---- attention ---- */

static void check_attention_shape(struct backend *b[2], int64_t n, int64_t m, int heads, int64_t d, float size)
{
	char what[80];
	struct tensor y[2];
	int64_t cols = heads * d;
	for (int i = 0; i < 2; i++) {
		/* q, k and v as columns of one matrix when they can be, as the network has them. */
		struct tensor q, k, v;
		if (n == m) {
			struct tensor all = place_noise(b[i], n, 3 * cols, 0, 1);
			q = tensor_columns(all, 0, cols);
			op_combine(b[i], q, size, q, 0, TENSOR_NONE);
			k = tensor_columns(all, cols, cols);
			v = tensor_columns(all, 2 * cols, cols);
		} else {
			q = place_noise_sized(b[i], n, cols, 2, 1, size, 0);
			k = place_noise(b[i], m, cols, 0, 2);
			v = place_noise(b[i], m, cols, 1, 3);
		}
		y[i] = room(b[i], n, cols, 3);
		op_attention(b[i], y[i], q, k, v, heads, NULL);
	}
	snprintf(what, sizeof what, "attention %lldx%lld, %d heads of %lld, q x %g", (long long)n, (long long)m, heads,
		(long long)d, (double)size);
	/* Scores of size s are off by 6e-8 s sqrt(d) or so, and e^x turns that into a relative error. */
	expect_close(b, y[1], y[0], 1e-6 + 3e-7 * (double)size, what);
	for (int i = 0; i < 2; i++)
		scratch_release(b[i], 0);
}

static void check_attention(struct backend *b[2])
{
	check_attention_shape(b, 1, 1, 1, 1, 1);
	check_attention_shape(b, 1, 300, 2, 64, 1);
	check_attention_shape(b, 70, 1, 3, 16, 1);
	check_attention_shape(b, 33, 129, 3, 13, 1);
	check_attention_shape(b, 257, 256, 2, 40, 1);
	check_attention_shape(b, 140, 140, 2, 64, 8);
	check_attention_shape(b, 40, 300, 1, 128, 40); /* one key takes nearly all: the running maximum must move */
	check_attention_shape(b, 65, 390, 6, 8, 3);
}

Test(kernels, attention)
{
	for_each_backend(check_attention);
}

static void check_windows(struct backend *b[2])
{
	enum { N = 420, WINDOWS = 6 };
	static const int32_t offset[WINDOWS + 1] = {0, 1, 2, 35, 36, 100, N};
	int32_t order[N];
	for (int32_t i = 0; i < N; i++)
		order[i] = (int32_t)((i * 101LL + 17) % N); /* 101 and 420 have no common factor: a permutation */
	for (int64_t d = 13; d <= 32; d += 19) {
		struct tensor y[2];
		for (int i = 0; i < 2; i++) {
			struct tensor all = place_noise(b[i], N, 3 * 2 * d, 0, 1);
			struct windows w = {.count = WINDOWS,
				.longest = 320,
				.order = place_i32(b[i], order, N, 1),
				.offset = place_i32(b[i], offset, WINDOWS + 1, 1)};
			y[i] = room(b[i], N, 2 * d, 1);
			op_attention(b[i], y[i], tensor_columns(all, 0, 2 * d), tensor_columns(all, 2 * d, 2 * d),
				tensor_columns(all, 4 * d, 2 * d), 2, &w);
		}
		expect_close(b, y[1], y[0], SUM_LIMIT, "attention in windows");
	}
}

Test(kernels, attention_in_windows)
{
	for_each_backend(check_windows);
}

/* ---- rows ---- */

static void check_rows(struct backend *b[2])
{
	static const int64_t shapes[][3] = {{1, 1, 0}, {3, 7, 2}, {70, 301, 5}, {600, 33, 0}};
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
		int64_t n = shapes[s][0], cols = shapes[s][1], gap = shapes[s][2];
		struct tensor y[2][9];
		for (int i = 0; i < 2; i++) {
			/* well into the tails of the activations */
			struct tensor a = place_noise_sized(b[i], n, cols, gap, 1, 12, 0),
				      x = place_noise(b[i], n, cols, gap + 1, 2);
			for (int act = ACT_SILU; act <= ACT_GELU_ERF; act++)
				op_activate(b[i], y[i][act] = room(b[i], n, cols, gap), a, (enum activation)act);
			op_add(b[i], y[i][0] = room(b[i], n, cols, gap), a, x);
			op_add(b[i], y[i][4] = room(b[i], n, cols, gap), a, tensor_rows(x, n - 1, 1));
			op_combine(b[i], y[i][5] = room(b[i], n, cols, gap), 0.3f, a, -1.7f, x);
			op_combine(b[i], y[i][6] = room(b[i], n, cols, gap), 0.3f, a, 0, TENSOR_NONE);
			int32_t *index = malloc((size_t)n * sizeof *index);
			for (int64_t r = 0; r < n; r++)
				index[r] = (int32_t)((r * 7 + 3) % (n > 4 ? n - 4 : n));
			op_gather_rows(b[i], y[i][7] = room(b[i], n, cols, gap), x, place_i32(b[i], index, n, 1));
			op_downsample(b[i], y[i][8] = room(b[i], n, cols, gap), x, place_i32(b[i], index, n, 1));
			free(index);
		}
		static const char *const names[] = {"add", "silu", "gelu_tanh", "gelu_erf", "add a row", "combine",
			"combine with none", "gather_rows", "downsample"};
		static const double limits[] = {0, 5e-7, 5e-7, 5e-7, 0, 2e-7, 2e-7, 0, 5e-7};
		for (int i = 0; i < 9; i++)
			expect_close(b, y[1][i], y[0][i], limits[i], names[i]);
		for (int i = 0; i < 2; i++) { /* in place */
			op_activate(b[i], y[i][0], y[i][0], ACT_GELU_TANH);
			op_add(b[i], y[i][5], y[i][5], y[i][4]);
			op_combine(b[i], y[i][6], 1.25f, y[i][6], 0.5f, y[i][6]);
		}
		expect_close(b, y[1][0], y[0][0], POINT_LIMIT, "gelu_tanh in place");
		expect_close(b, y[1][5], y[0][5], POINT_LIMIT, "add in place");
		expect_close(b, y[1][6], y[0][6], POINT_LIMIT, "combine in place");
		for (int i = 0; i < 2; i++)
			scratch_release(b[i], 0);
	}
}

Test(kernels, rows)
{
	for_each_backend(check_rows);
}

/* Also where only the numbers between the rows are not finite, and where a half type has no room for the number. */
static void check_finite(struct backend *b[2])
{
	static const int64_t shape[][3] = {{1, 1, 0}, {3, 7, 2}, {700, 101, 3}, {33, 1024, 0}, {64, 512, 8}};
	static const float bad[] = {INFINITY, -INFINITY, NAN, -NAN};
	for (size_t k = 0; k < sizeof shape / sizeof *shape; k++)
		for (int i = 0; i < 2; i++) {
			int64_t rows = shape[k][0], cols = shape[k][1], gap = shape[k][2];
			struct tensor all = scratch_new(b[i], rows, cols + gap), x = tensor_columns(all, gap / 2, cols);
			float *values = malloc((size_t)(rows * (cols + gap)) * sizeof *values), large = 1e6f,
			      half = 6e4f;
			for (int64_t j = 0; j < rows * (cols + gap); j++)
				values[j] = NAN;
			op_upload(b[i], all, values);
			free(values);
			values = noise(rows * cols, 1);
			op_upload(b[i], x, values);
			cr_expect(op_is_finite(b[i], x), "%lld x %lld", (long long)rows, (long long)cols);
			for (int place = 0; place < 3; place++) {
				int64_t at = place * (rows * cols - 1) / 2;
				struct tensor one = tensor_columns(tensor_rows(x, at / cols, 1), at % cols, 1);
				for (size_t j = 0; j < sizeof bad / sizeof *bad; j++) {
					op_upload(b[i], one, bad + j);
					cr_expect(!op_is_finite(b[i], x), "%g at %lld of %lld x %lld", (double)bad[j],
						(long long)at, (long long)rows, (long long)cols);
				}
				op_upload(b[i], one, &large);
				cr_expect_eq(op_is_finite(b[i], x), b[i]->act != DTYPE_F16);
				op_upload(b[i], one, &half);
				cr_expect(op_is_finite(b[i], x));
			}
			cr_expect(op_is_finite(b[i], tensor_rows(x, 0, 0)));
			free(values);
			scratch_release(b[i], 0);
		}
}

Test(kernels, whether_numbers_are_finite)
{
	for_each_backend(check_finite);
}

/* A device whose loops count in 32 bits must refuse what is beyond, and not leave it out. Nothing is touched: there is no such
 * memory. */
static void check_too_large(struct backend *b[2])
{
	struct error err = {""};
	struct tensor x = place_noise(b[1], 1, 8, 0, 1), y = place_noise(b[1], 1, 8, 0, 2);
	x.cols = y.cols = x.stride = y.stride = 1;
	x.rows = y.rows = (int64_t)1 << 32;
	op_activate(b[1], x, x, ACT_SILU);
	cr_expect(!backend_finish(b[1], &err), "silently nothing was done");
	op_combine(b[1], y, 1, x, 0, TENSOR_NONE);
	cr_expect(!backend_finish(b[1], &err), "silently nothing was done");
	struct weight *gamma = weight_noise(b[1], WEIGHT_VECTOR, 8, 1, 3);
	x.cols = x.stride = 8;
	op_rms_norm_heads(b[1], x, gamma, 1);
	cr_expect(!backend_finish(b[1], &err), "silently nothing was done");
	weight_destroy(b[1], gamma);
}

Test(kernels, more_rows_than_a_device_counts_are_an_error)
{
	if (!test_plugin())
		cr_skip_test("no plugin");
	for_each_backend(check_too_large);
}

static void check_subdivision(struct backend *b[2])
{
	enum { N = 37 };
	int32_t coords[N * 3], found[2][N * 24];
	struct tensor y[2];
	for (int32_t i = 0; i < N * 3; i++)
		coords[i] = i * 7919 % 1000;
	for (int i = 0; i < 2; i++) {
		struct tensor children = scratch_new_as(b[i], DTYPE_I32, 8 * N, 3);
		op_coords_up(b[i], children, place_i32(b[i], coords, N, 3));
		op_download_i32(b[i], found[i], children);
		op_gather_rows(b[i], y[i] = room(b[i], 8 * N, 21, 1), place_noise(b[i], N, 21, 2, 1), TENSOR_NONE);
	}
	cr_expect_arr_eq(found[1], found[0], sizeof found[0]);
	for (int i = 0; i < N * 24; i++)
		cr_assert_eq(found[0][i] / 2, coords[i / 24 * 3 + i % 3]);
	expect_close(b, y[1], y[0], 0, "gather without an index");
}

Test(kernels, subdivision)
{
	for_each_backend(check_subdivision);
}

static void check_pixel_shuffle(struct backend *b[2])
{
	for (int64_t r = 1; r <= 5; r += 2) {
		struct tensor y[2];
		for (int i = 0; i < 2; i++)
			op_pixel_shuffle(b[i], y[i] = room(b[i], 8 * r * r * r, 5, 2),
				place_noise(b[i], r * r * r, 40, 1, 1), r);
		expect_close(b, y[1], y[0], 0, "pixel_shuffle");
	}
}

Test(kernels, pixel_shuffle)
{
	for_each_backend(check_pixel_shuffle);
}
