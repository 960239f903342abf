/* kernel_bench.c - how long each op takes at the shapes of TRELLIS-image-large. See kernel_bench.h. */
#include "kernel_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum op {
	QKV,
	LINEAR,
	CONV3D,
	SPARSE,
	SPARSE_UP,
	NEIGHBOURS,
	NEIGHBOURS_UP,
	ATTENTION,
	WINDOWS,
	LAYER_NORM,
	GROUP_NORM,
	RMS_NORM,
	ADD,
	GELU
};

/* One line of the bench. n: rows; for ATTENTION and WINDOWS in: keys and cols: heads x 64; for CONV3D n is the
 * resolution; for the sparse ops n is taken from the shell. */
struct line {
	const char *name;
	enum op op;
	int64_t n, in, out;
	enum activation act;
	bool gated; /* y = y + gate * (...) */
};

static const struct line lines[] = {
	{"linear 4096x1024x1024, gate, residual", LINEAR, 4096, 1024, 1024, ACT_NONE, true},
	{"linear 4096x1024x3072", LINEAR, 4096, 1024, 3072, ACT_NONE, false},
	{"linear 4096x1024x3072, q and k norm", QKV, 4096, 1024, 3072, ACT_NONE, false},
	{"linear 8192x1024x3072, q and k norm", QKV, 8192, 1024, 3072, ACT_NONE, false},
	{"linear 4096x1024x4096, gelu", LINEAR, 4096, 1024, 4096, ACT_GELU_TANH, false},
	{"linear 4096x4096x1024, gate, residual", LINEAR, 4096, 4096, 1024, ACT_NONE, true},
	{"linear 1374x1024x4096, gelu erf", LINEAR, 1374, 1024, 4096, ACT_GELU_ERF, false},
	{"linear 1x1024x6144", LINEAR, 1, 1024, 6144, ACT_NONE, false},
	{"attention 16 x 4096 x 4096 x 64", ATTENTION, 4096, 4096, 1024, ACT_NONE, false},
	{"attention 16 x 4096 x 1374 x 64", ATTENTION, 4096, 1374, 1024, ACT_NONE, false},
	{"attention 12 x 64 windows of 160 x 64", WINDOWS, 10240, 160, 768, ACT_NONE, false},
	{"conv3d 512 -> 512 at 16^3", CONV3D, 16, 512, 512, ACT_NONE, false},
	{"conv3d 128 -> 128 at 32^3, residual", CONV3D, 32, 128, 128, ACT_NONE, true},
	{"conv3d 32 -> 32 at 64^3", CONV3D, 64, 32, 32, ACT_NONE, false},
	{"sparse conv 128 -> 128", SPARSE, 0, 128, 128, ACT_NONE, false},
	{"sparse conv 512 -> 512", SPARSE, 0, 512, 512, ACT_NONE, false},
	{"sparse conv 1024 -> 1024", SPARSE, 0, 1024, 1024, ACT_NONE, false},
	{"sparse conv up 768 -> 192", SPARSE_UP, 0, 768, 192, ACT_NONE, false},
	{"neighbours", NEIGHBOURS, 0, 1, 1, ACT_NONE, false},
	{"neighbours up", NEIGHBOURS_UP, 0, 1, 1, ACT_NONE, false},
	{"layer norm 4096 x 1024", LAYER_NORM, 4096, 1024, 1024, ACT_NONE, false},
	{"group norm 64^3 x 32, silu", GROUP_NORM, 262144, 32, 32, ACT_SILU, false},
	{"rms norm 4096 x 16 x 64", RMS_NORM, 4096, 1024, 1024, ACT_NONE, false},
	{"add 4096 x 1024", ADD, 4096, 1024, 1024, ACT_NONE, false},
	{"gelu 4096 x 4096", GELU, 4096, 4096, 4096, ACT_GELU_TANH, false},
};

/* What a line works on. */
struct work {
	struct tensor x, y, k, v, gate, table, parents, coords;
	struct weight *w, *bias, *gamma;
	struct windows windows;
	int64_t pairs; /* neighbours that exist, or parents that children meet */
};

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Numbers in +-1/2, cheap and without a pattern that matters. */
static float *numbers(int64_t n)
{
	float *x = malloc((size_t)n * sizeof *x);
	uint32_t state = 1;
	for (int64_t i = 0; x && i < n; i++) {
		state = state * 1664525u + 1013904223u;
		x[i] = (float)(int32_t)state * 0x1p-32f;
	}
	return x;
}

static struct tensor filled_as(struct backend *b, enum dtype dtype, int64_t rows, int64_t cols)
{
	struct tensor x = scratch_new_as(b, dtype, rows, cols);
	float *values = numbers(rows * cols);
	if (values)
		op_upload(b, x, values);
	else
		backend_fail(b, "out of memory");
	free(values);
	return x;
}

static struct tensor filled(struct backend *b, int64_t rows, int64_t cols)
{
	return filled_as(b, b->act, rows, cols);
}

static struct weight *weight_filled(struct backend *b, enum weight_kind kind, int64_t out, int64_t in)
{
	bool is_conv = kind != WEIGHT_VECTOR && kind != WEIGHT_LINEAR;
	float *values = numbers(out * in * (is_conv ? 27 : 1));
	struct weight *w = values ? weight_create(b, kind, out, in, DTYPE_F32, values) : NULL;
	if (!values)
		backend_fail(b, "out of memory");
	free(values);
	return w;
}

/* Coordinates of about n voxels on a sphere, in order; malloc'd, *count of them. */
static int32_t *shell(int64_t n, int64_t *count)
{
	double radius = sqrt((double)n / (4 * M_PI));
	int32_t side = (int32_t)(2 * radius + 3);
	int32_t *coords = malloc((size_t)(2 * n + 64) * 3 * sizeof *coords);
	*count = 0;
	for (int32_t x = 0; coords && x < side; x++)
		for (int32_t y = 0; y < side; y++)
			for (int32_t z = 0; z < side && *count < 2 * n + 64; z++) {
				double c = (side - 1) / 2.0;
				double distance = sqrt((x - c) * (x - c) + (y - c) * (y - c) + (z - c) * (z - c));
				if (fabs(distance - radius) < 0.5) {
					memcpy(coords + 3 * *count, (int32_t[3]){x, y, z}, 3 * sizeof *coords);
					++*count;
				}
			}
	return coords;
}

/* Coordinates and neighbour tables of a shell, and how many products a convolution over it needs. */
static int64_t prepare_shell(struct backend *b, struct work *k, int64_t voxels, bool up)
{
	int64_t n = 0;
	int32_t *coords = shell(voxels, &n);
	int32_t *table = malloc((size_t)(2 * voxels + 64) * NEIGHBOUR_COLS * sizeof *table);
	if (!coords || !table) {
		backend_fail(b, "out of memory");
		goto done;
	}
	k->coords = scratch_new_as(b, DTYPE_I32, n, 3);
	k->parents = scratch_new_as(b, DTYPE_I32, n, NEIGHBOUR_COLS);
	k->table = scratch_new_as(b, DTYPE_I32, 8 * n, NEIGHBOUR_COLS);
	op_upload_i32(b, k->coords, coords);
	op_neighbours(b, k->parents, k->coords);
	op_download_i32(b, table, k->parents);
	if (!backend_ok(b))
		goto done;
	for (int64_t i = 0; i < n * 27; i++) {
		/* A parent at a face, edge or corner offset is met by 4, 2 or 1 of the 8 children, itself by 8. */
		int k27 = (int)(i % 27), axes = (k27 / 9 != 1) + (k27 / 3 % 3 != 1) + (k27 % 3 != 1);
		k->pairs += table[i / 27 * NEIGHBOUR_COLS + k27] >= 0 ? (up ? 8 >> axes : 1) : 0;
	}
done:
	free(coords);
	free(table);
	return n;
}

static void prepare_windows(struct backend *b, struct work *k, int64_t n, int64_t size)
{
	int32_t *index = malloc((size_t)(n + 1) * sizeof *index);
	if (!index) {
		backend_fail(b, "out of memory");
		return;
	}
	k->windows = (struct windows){.count = n / size,
		.longest = size,
		.order = scratch_new_as(b, DTYPE_I32, n, 1),
		.offset = scratch_new_as(b, DTYPE_I32, n / size + 1, 1)};
	for (int64_t i = 0; i < n; i++) /* neighbours in a window lie apart */
		index[i] = (int32_t)(i % size * (n / size) + i / size);
	op_upload_i32(b, k->windows.order, index);
	for (int64_t i = 0; i <= n / size; i++)
		index[i] = (int32_t)(i * size);
	op_upload_i32(b, k->windows.offset, index);
	free(index);
}

/* Everything that a line needs; *gflop and *gbyte receive its cost. */
static void prepare(
	struct backend *b, const struct line *l, int64_t voxels, struct work *k, double *gflop, double *gbyte)
{
	static const enum weight_kind kinds[] = {
		WEIGHT_LINEAR, WEIGHT_LINEAR, WEIGHT_CONV3, WEIGHT_SPARSE3, WEIGHT_SPARSE3_UP};
	bool is_sparse = l->op >= SPARSE && l->op <= NEIGHBOURS_UP, is_up = l->op == SPARSE_UP;
	int64_t n = l->op == CONV3D ? l->n * l->n * l->n : l->n;
	*k = (struct work){0};
	if (is_sparse)
		n = prepare_shell(b, k, voxels, is_up);
	bool is_attention = l->op == ATTENTION || l->op == WINDOWS;
	int64_t y_rows = is_up ? 8 * n : n, x_cols = is_attention ? l->out : l->in;
	k->x = filled(b, n, x_cols);
	k->y = filled(b, y_rows, l->out);
	k->gate = filled_as(b, DTYPE_F32, 1, l->out);
	if (l->op <= SPARSE_UP)
		k->w = weight_filled(b, kinds[l->op], l->out, l->in);
	k->bias = weight_filled(b, WEIGHT_VECTOR, l->out, 1);
	if (l->op == QKV)
		k->gamma = weight_filled(b, WEIGHT_VECTOR, l->out / 3, 1);
	k->k = filled(b, l->op == ATTENTION ? l->in : n, l->out);
	k->v = filled(b, l->op == ATTENTION ? l->in : n, l->out);
	if (l->op == WINDOWS)
		prepare_windows(b, k, n, l->in);
	double products = l->op <= LINEAR ? (double)n : l->op == CONV3D ? 27.0 * (double)n : (double)k->pairs;
	*gflop = l->op <= SPARSE_UP ? 2e-9 * products * (double)(l->in * l->out)
		 : is_attention	    ? 4e-9 * (double)(n * l->in * l->out)
				    : 0;
	*gbyte = 4e-9 * ((double)(n * x_cols) + (double)(y_rows * l->out));
	if (l->op == NEIGHBOURS)
		*gbyte = 4e-9 * (double)n * 30;
	if (l->op == NEIGHBOURS_UP)
		*gbyte = 4e-9 * (double)n * 27 * 9;
	if (k->w)
		*gbyte += 4e-9 * (double)(l->in * l->out) * (l->op <= LINEAR ? 1 : l->op == SPARSE_UP ? 64 : 27);
}

static void run(struct backend *b, const struct line *l, const struct work *k)
{
	struct epilogue e = {.bias = k->bias, .act = l->act};
	struct norm norm = {.eps = 1e-6f, .weight = k->bias, .bias = k->bias, .act = l->act};
	if (l->gated) {
		e.gate = k->gate;
		e.residual = k->y;
	}
	switch (l->op) {
	case QKV:
		op_linear_qkv(b, k->y, k->x, k->w, k->bias, k->gamma, k->gamma, (int)(l->out / 3 / 64));
		break;
	case LINEAR:
		op_linear(b, k->y, k->x, k->w, &e);
		break;
	case CONV3D:
		op_conv3d(b, k->y, k->x, k->w, l->n, &e);
		break;
	case SPARSE:
		op_sparse_conv(b, k->y, k->x, k->w, k->parents, &e);
		break;
	case SPARSE_UP:
		op_sparse_conv_up(b, k->y, k->x, k->w, k->parents, &e);
		break;
	case NEIGHBOURS:
		op_neighbours(b, k->parents, k->coords);
		break;
	case NEIGHBOURS_UP:
		op_neighbours_up(b, k->table, k->parents);
		break;
	case ATTENTION:
	case WINDOWS:
		op_attention(b, k->y, k->x, k->k, k->v, (int)(l->out / 64), l->op == WINDOWS ? &k->windows : NULL);
		break;
	case LAYER_NORM:
		op_layer_norm(b, k->y, k->x, &norm);
		break;
	case GROUP_NORM:
		op_group_norm(b, k->y, k->x, 32, &norm);
		break;
	case RMS_NORM:
		op_rms_norm_heads(b, k->y, k->bias, 16);
		break;
	case ADD:
		op_add(b, k->y, k->x, k->k);
		break;
	case GELU:
		op_activate(b, k->y, k->x, l->act);
		break;
	}
}

/* Seconds a run of `times` in a row: a device that works on its own time is waited for once. */
static double timed_s(struct backend *b, const struct line *l, const struct work *k, int times)
{
	double start = now_s();
	for (int i = 0; i < times; i++)
		run(b, l, k);
	b->ops->sync(b);
	return (now_s() - start) / times;
}

/* The best of at least three runs and a third of a second; the first, which warms up, does not count. */
static double best_s(struct backend *b, const struct line *l, const struct work *k)
{
	double start = now_s();
	timed_s(b, l, k, 1);
	double best = timed_s(b, l, k, 1);
	int times = best < 2e-3 ? (int)fmin(2e-3 / best, 1000) + 1 : 1;
	for (int i = 0; backend_ok(b) && (i < 2 || now_s() - start < 0.35); i++) {
		double t = timed_s(b, l, k, times);
		best = t < best ? t : best;
	}
	return best;
}

static double measure(struct backend *b, const struct line *l, int64_t voxels, double *gflop, double *gbyte)
{
	struct work k;
	size_t mark = scratch_mark(b);
	prepare(b, l, voxels, &k, gflop, gbyte);
	double s = best_s(b, l, &k);
	weight_destroy(b, k.w);
	weight_destroy(b, k.bias);
	weight_destroy(b, k.gamma);
	scratch_release(b, mark);
	return s;
}

double kernel_bench_peak(struct backend *b)
{
	static const struct line shapes[] = {{"", LINEAR, 2048, 1024, 1024, ACT_NONE, false},
		{"", LINEAR, 4096, 1024, 1024, ACT_NONE, false}, {"", LINEAR, 2048, 2048, 2048, ACT_NONE, false}};
	double peak = 0;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		double gflop, gbyte, s = measure(b, &shapes[i], 0, &gflop, &gbyte);
		peak = gflop / s > peak ? gflop / s : peak;
	}
	return backend_ok(b) ? peak : 0;
}

bool kernel_bench_run(struct backend *b, int64_t voxels, const char *only,
	void (*report)(void *user, const struct kernel_timing *timing), void *user, struct error *err)
{
	double peak = 0;
	for (size_t i = 0; i < sizeof lines / sizeof *lines && backend_ok(b); i++) {
		double gflop, gbyte;
		if (only && !strstr(lines[i].name, only))
			continue;
		double here = kernel_bench_peak(b), s = measure(b, &lines[i], voxels, &gflop, &gbyte);
		peak = here > peak ? here : peak;
		if (!backend_ok(b))
			break;
		struct kernel_timing t = {.name = lines[i].name,
			.ms = 1e3 * s,
			.gflop_per_s = gflop / s,
			.gbyte_per_s = gbyte / s,
			.peak_fraction = peak > 0 ? gflop / s / peak : 0};
		report(user, &t);
	}
	return backend_finish(b, err);
}
