/* cpu_product.c - matrix products and dense convolutions: oneDNN computes the sums, our own pass finishes them.
 * oneDNN's fused post-ops are left out: which of them keep its fast paths differs from release to release, while rows
 * that are finished in blocks are still in the cache. */
#include "cpu.h"

/* Sums wait to be finished in blocks of at most this many numbers (16 MB): small enough for a third-level cache, large
 * enough that threads seldom meet, which costs most on a busy machine. */
enum { BLOCK_NUMBERS = 1 << 22 };

void cpu_finish_rows(struct cpu *c, struct tensor y, struct tensor x, const struct epilogue *e, int64_t first)
{
	const float *bias = cpu_vector(e->bias);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < y.rows; r++)
		c->simd->finish(y.cols, cpu_row(y, r), cpu_row(x, r), bias, e->act, e->gate.data,
			e->residual.data ? cpu_row(e->residual, first + r) : NULL);
}

static bool is_bias_only(const struct epilogue *e)
{
	return e->act == ACT_NONE && !e->gate.data && !e->residual.data;
}

void cpu_linear(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	struct cpu *c = cpu_of(b);
	struct onednn_weight *product = ((const struct cpu_weight *)w)->product;
	struct error err;
	if (is_bias_only(e)) {
		if (!onednn_linear(c->onednn, y, x, product, cpu_vector(e->bias), &err))
			backend_fail(b, "%s", err.text);
		return;
	}
	/* Equal blocks, so that at most two shapes occur. */
	int64_t most = BLOCK_NUMBERS > y.cols ? BLOCK_NUMBERS / y.cols : 1;
	int64_t blocks = (y.rows + most - 1) / most;
	int64_t rows = (y.rows + blocks - 1) / blocks;
	size_t mark = scratch_mark(b);
	struct tensor sums = scratch_new(b, rows, y.cols);
	for (int64_t r = 0; r < y.rows && backend_ok(b); r += rows) {
		int64_t n = y.rows - r < rows ? y.rows - r : rows;
		struct tensor part = tensor_rows(sums, 0, n);
		if (!onednn_linear(c->onednn, part, tensor_rows(x, r, n), product, NULL, &err))
			backend_fail(b, "%s", err.text);
		else
			cpu_finish_rows(c, tensor_rows(y, r, n), part, e, r);
	}
	scratch_release(b, mark);
}

/* x without gaps between rows: itself or a copy in scratch. */
static struct tensor dense(struct backend *b, struct tensor x)
{
	if (x.stride == x.cols)
		return x;
	struct tensor copy = scratch_new(b, x.rows, x.cols);
	if (copy.data)
		b->ops->combine(b, copy, 1, x, 0, TENSOR_NONE);
	return copy;
}

void cpu_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e)
{
	struct cpu *c = cpu_of(b);
	struct error err;
	size_t mark = scratch_mark(b);
	struct tensor source = dense(b, x);
	/* y itself may be the residual, and then must not be overwritten by the sums. */
	bool direct = y.stride == y.cols && !e->residual.data;
	struct tensor sums = direct ? y : scratch_new(b, y.rows, y.cols);
	const float *bias = is_bias_only(e) ? cpu_vector(e->bias) : NULL;
	if (!backend_ok(b))
		goto done;
	if (!onednn_conv3d(c->onednn, sums, source, ((const struct cpu_weight *)w)->product, resolution, bias, &err))
		backend_fail(b, "%s", err.text);
	else if (!is_bias_only(e))
		cpu_finish_rows(c, y, sums, e, 0);
	else if (!direct)
		b->ops->combine(b, y, 1, sums, 0, TENSOR_NONE);
done:
	scratch_release(b, mark);
}
