/* cpu.c - the CPU backend: life, memory, weights, transfers, and the ops that only move or combine rows.
 * The rest is in cpu_product.c, cpu_sparse.c, cpu_norm.c and cpu_attention.c; the inner loops are in cpu_simd_body.h.
 * Everything is f32; half precision weights are widened when they are loaded. */
#include "cpu.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- life and memory ---- */

static void cpu_destroy(struct backend *b)
{
	scratch_finish(b);
	onednn_destroy(cpu_of(b)->onednn);
	free(b);
}

static void *cpu_alloc(struct backend *b, size_t bytes)
{
	const size_t huge = (size_t)2 << 20;
	size_t alignment = bytes >= 2 * huge ? huge : 64;
	void *p = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
	if (!p)
		backend_fail_as(b, FAULT_MEMORY, "out of memory: %zu bytes wanted", bytes);
	else if (alignment == huge)
		madvise(p, bytes, MADV_HUGEPAGE); /* fewer TLB misses where the system grants it */
	return p;
}

static void cpu_free(struct backend *b, void *p)
{
	(void)b;
	free(p);
}

static void cpu_sync(struct backend *b)
{
	(void)b;
}

/* ---- weights ---- */

static void cpu_weight_destroy(struct backend *b, struct weight *base)
{
	struct cpu_weight *w = (struct cpu_weight *)base;
	(void)b;
	onednn_weight_destroy(w->product);
	free(w->data);
	free(w);
}

/* Fill in data or product from the checkpoint's order, taking plain. */
static bool weight_pack(struct cpu *c, struct cpu_weight *w, float *plain, struct error *err)
{
	enum weight_kind kind = w->base.kind;
	int64_t out = w->base.out, in = w->base.in;
	if (kind == WEIGHT_VECTOR) {
		w->data = plain;
		return true;
	}
	if (kind == WEIGHT_LINEAR || kind == WEIGHT_CONV3) {
		w->product = onednn_weight_create(c->onednn, kind, out, in, plain, err);
		return w->product;
	}
	w->data = cpu_sparse_pack(c, kind, out, in, plain);
	free(plain);
	return w->data ||
	       error_set(err, "out of memory: weight of %lld numbers", (long long)weight_count(kind, out, in));
}

enum { CONVERT_BLOCK = 1 << 18 };

static struct weight *cpu_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	int64_t n = weight_count(kind, out, in), each = n / count;
	struct error err;
	struct cpu_weight *w = calloc(1, sizeof *w);
	float *plain = aligned_alloc(64, ((size_t)n * sizeof *plain + 63) / 64 * 64);
	if (!w || !plain) {
		backend_fail_as(b, FAULT_MEMORY, "out of memory: weight of %lld numbers", (long long)n);
		free(plain);
		free(w);
		return NULL;
	}
	w->base = (struct weight){.kind = kind, .out = out, .in = in};
	for (int part = 0; part < count; part++) {
		const char *host = parts[part].data;
		enum dtype dtype = parts[part].dtype;
		float *to = plain + part * each;
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(cpu_of(b))) if (each > CONVERT_BLOCK)
		for (int64_t i = 0; i < each; i += CONVERT_BLOCK)
			convert_to_f32(to + i, host + (size_t)i * dtype_size(dtype), dtype,
				each - i < CONVERT_BLOCK ? each - i : CONVERT_BLOCK);
	}
	if (!weight_pack(cpu_of(b), w, plain, &err)) {
		backend_fail(b, "%s", err.text);
		cpu_weight_destroy(b, &w->base);
		return NULL;
	}
	return &w->base;
}

/* ---- transfers ---- */

/* Rows of 4-byte numbers between two strides. */
static void copy_rows(void *to, int64_t to_stride, const void *from, int64_t from_stride, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		memcpy((char *)to + r * to_stride * 4, (const char *)from + r * from_stride * 4, (size_t)cols * 4);
}

static void cpu_upload(struct backend *b, struct tensor y, const float *host)
{
	(void)b;
	copy_rows(y.data, y.stride, host, y.cols, y.rows, y.cols);
}

static void cpu_upload_i32(struct backend *b, struct tensor y, const int32_t *host)
{
	(void)b;
	copy_rows(y.data, y.stride, host, y.cols, y.rows, y.cols);
}

static void cpu_download(struct backend *b, float *host, struct tensor x)
{
	(void)b;
	copy_rows(host, x.cols, x.data, x.stride, x.rows, x.cols);
}

static void cpu_download_i32(struct backend *b, int32_t *host, struct tensor x)
{
	(void)b;
	copy_rows(host, x.cols, x.data, x.stride, x.rows, x.cols);
}

/* ---- rows ---- */

static void cpu_activate(struct backend *b, struct tensor y, struct tensor x, enum activation act)
{
	struct cpu *c = cpu_of(b);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < y.rows; r++)
		c->simd->activate(y.cols, cpu_row(y, r), cpu_row(x, r), act);
}

static void cpu_add(struct backend *b, struct tensor y, struct tensor a, struct tensor x)
{
	struct cpu *c = cpu_of(b);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < y.rows; r++) {
		float *to = cpu_row(y, r);
		const float *p = cpu_row(a, r), *q = cpu_row(x, x.rows == 1 ? 0 : r);
#pragma omp simd
		for (int64_t i = 0; i < y.cols; i++)
			to[i] = p[i] + q[i];
	}
}

static void cpu_combine(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x)
{
	struct cpu *c = cpu_of(b);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < y.rows; r++) {
		float *to = cpu_row(y, r);
		const float *from = cpu_row(a, r), *other = x.data ? cpu_row(x, r) : NULL;
		if (other) {
#pragma omp simd
			for (int64_t i = 0; i < y.cols; i++)
				to[i] = p * from[i] + q * other[i];
		} else {
#pragma omp simd
			for (int64_t i = 0; i < y.cols; i++)
				to[i] = p * from[i];
		}
	}
}

static void cpu_gather_rows(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	struct cpu *c = cpu_of(b);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < y.rows; r++)
		memcpy(cpu_row(y, r), cpu_row(x, gathered_row(y, x, index, r)), (size_t)y.cols * sizeof(float));
}

static void cpu_downsample(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	size_t mark = scratch_mark(b);
	struct tensor count = scratch_new(b, 1, y.rows);
	if (!backend_ok(b))
		goto done;
	float *n = count.data;
	for (int64_t i = 0; i < y.rows; i++) {
		n[i] = 1; /* the zero that the official mean starts from */
		memset(cpu_row(y, i), 0, (size_t)y.cols * sizeof(float));
	}
	for (int64_t r = 0; r < x.rows; r++) {
		int32_t i = *cpu_row_i32(index, r);
		float *to = cpu_row(y, i);
		const float *from = cpu_row(x, r);
		n[i]++;
#pragma omp simd
		for (int64_t j = 0; j < y.cols; j++)
			to[j] += from[j];
	}
	for (int64_t i = 0; i < y.rows; i++)
		for (int64_t j = 0; j < y.cols; j++)
			cpu_row(y, i)[j] /= n[i];
done:
	scratch_release(b, mark);
}

static void cpu_pixel_shuffle(struct backend *b, struct tensor y, struct tensor x, int64_t resolution)
{
	struct cpu *c = cpu_of(b);
	int64_t n = resolution;
#pragma omp parallel for schedule(dynamic, cpu_chunk(x)) num_threads(cpu_threads(c)) if (cpu_is_large(x))
	for (int64_t r = 0; r < x.rows; r++)
		for (int64_t child = 0; child < 8; child++) {
			int64_t fx = 2 * (r / (n * n)) + (child >> 2), fy = 2 * (r / n % n) + (child >> 1 & 1),
				fz = 2 * (r % n) + (child & 1);
			float *to = cpu_row(y, (fx * 2 * n + fy) * 2 * n + fz);
			const float *from = cpu_row(x, r) + child;
			for (int64_t i = 0; i < y.cols; i++)
				to[i] = from[i * 8];
		}
}

static bool cpu_is_finite(struct backend *b, struct tensor x)
{
	struct cpu *c = cpu_of(b);
	int bad = 0;
#pragma omp parallel for schedule(dynamic, cpu_chunk(x)) num_threads(cpu_threads(c))                                   \
	reduction(|                                                                                                    \
		  : bad) if (cpu_is_large(x))
	for (int64_t r = 0; r < x.rows; r++) {
		const float *row = cpu_row(x, r);
#pragma omp simd reduction(| : bad)
		for (int64_t i = 0; i < x.cols; i++)
			bad |= !(fabsf(row[i]) <= FLT_MAX);
	}
	return !bad;
}

static const struct backend_ops cpu_ops = {
	.name = "cpu",
	.destroy = cpu_destroy,
	.alloc = cpu_alloc,
	.free = cpu_free,
	.weight_create = cpu_weight_create,
	.weight_destroy = cpu_weight_destroy,
	.sync = cpu_sync,
	.upload = cpu_upload,
	.upload_i32 = cpu_upload_i32,
	.download = cpu_download,
	.download_i32 = cpu_download_i32,
	.linear = cpu_linear,
	.conv3d = cpu_conv3d,
	.sparse_conv = cpu_sparse_conv,
	.sparse_conv_up = cpu_sparse_conv_up,
	.neighbours = cpu_neighbours,
	.neighbours_up = cpu_neighbours_up,
	.coords_up = coords_up_on_host,
	.layer_norm = cpu_layer_norm,
	.group_norm = cpu_group_norm,
	.rms_norm_heads = cpu_rms_norm_heads,
	.attention = cpu_attention,
	.activate = cpu_activate,
	.add = cpu_add,
	.combine = cpu_combine,
	.gather_rows = cpu_gather_rows,
	.downsample = cpu_downsample,
	.pixel_shuffle = cpu_pixel_shuffle,
	.is_finite = cpu_is_finite,
	.extract = extract_on_host,
};

struct backend *cpu_create_with(int threads, const struct simd *simd, struct error *err)
{
	struct cpu *c = calloc(1, sizeof *c);
	if (!c) {
		error_set(err, "out of memory");
		return NULL;
	}
	backend_init(&c->base, &cpu_ops, DTYPE_F32);
	c->base.threads = threads > 0 ? threads : omp_get_max_threads();
	c->simd = simd;
	c->onednn = onednn_create(c->base.threads, err);
	if (!c->onednn) {
		free(c);
		return NULL;
	}
	return &c->base;
}

struct backend *backend_cpu_create(int threads, struct error *err)
{
	return cpu_create_with(threads, simd_best(), err);
}

void backend_cpu_describe(char *text, size_t size)
{
	char version[32];
	onednn_version(version, sizeof version);
	snprintf(text, size, "oneDNN %s, %s loops", version, simd_best()->name);
}
