/* cpu_norm.c - normalisation over rows, over groups of channels, and over heads.
 * Sums run in float over at most a few hundred numbers and in double above that: the float32 gates leave no room for a
 * sum of a quarter of a million voxels in float. */
#include "cpu.h"

#include <math.h>

void cpu_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	struct cpu *c = cpu_of(b);
	const float *weight = cpu_vector(n->weight), *bias = cpu_vector(n->bias);
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < x.rows; r++) {
		float mean, scale;
		c->simd->statistics(x.cols, cpu_row(x, r), n->eps, &mean, &scale);
		c->simd->normalise(x.cols, cpu_row(y, r), cpu_row(x, r), &mean, &scale, 0, weight, bias, n->scale.data,
			n->shift.data, n->act);
	}
}

enum { GROUP_BLOCK = 256 }; /* rows whose sums are kept in float */

/* partial[block, c] = sum over the block's rows of x (mean NULL) or of (x - mean)^2. */
static void sum_columns(struct cpu *c, struct tensor partial, struct tensor x, const float *mean)
{
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(c))
	for (int64_t block = 0; block < partial.rows; block++) {
		float *sum = cpu_row(partial, block);
		int64_t begin = block * GROUP_BLOCK, end = begin + GROUP_BLOCK < x.rows ? begin + GROUP_BLOCK : x.rows;
#pragma omp simd
		for (int64_t i = 0; i < x.cols; i++)
			sum[i] = 0;
		for (int64_t r = begin; r < end; r++) {
			const float *row = cpu_row(x, r);
			if (!mean) {
#pragma omp simd
				for (int64_t i = 0; i < x.cols; i++)
					sum[i] += row[i];
			} else {
#pragma omp simd
				for (int64_t i = 0; i < x.cols; i++)
					sum[i] += (row[i] - mean[i]) * (row[i] - mean[i]);
			}
		}
	}
}

/* The sum of partial over all rows and the columns of one group. */
static double sum_group(struct tensor partial, int64_t first, int64_t cols)
{
	double sum = 0;
	for (int64_t block = 0; block < partial.rows; block++)
		for (int64_t i = first; i < first + cols; i++)
			sum += (double)cpu_row(partial, block)[i];
	return sum;
}

void cpu_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n)
{
	struct cpu *c = cpu_of(b);
	const float *weight = cpu_vector(n->weight), *bias = cpu_vector(n->bias);
	int64_t cols = x.cols / groups;
	double count = (double)(x.rows * cols);
	size_t mark = scratch_mark(b);
	struct tensor partial = scratch_new(b, (x.rows + GROUP_BLOCK - 1) / GROUP_BLOCK, x.cols);
	struct tensor statistics = scratch_new(b, 2, x.cols); /* mean and scale of each channel */
	if (!backend_ok(b))
		goto done;
	float *mean = cpu_row(statistics, 0), *scale = cpu_row(statistics, 1);
	sum_columns(c, partial, x, NULL);
	for (int64_t first = 0; first < x.cols; first += cols) {
		float value = (float)(sum_group(partial, first, cols) / count);
		for (int64_t i = first; i < first + cols; i++)
			mean[i] = value;
	}
	sum_columns(c, partial, x, mean);
	for (int64_t first = 0; first < x.cols; first += cols) {
		float value = (float)(1 / sqrt(sum_group(partial, first, cols) / count + (double)n->eps));
		for (int64_t i = first; i < first + cols; i++)
			scale[i] = value;
	}
#pragma omp parallel for schedule(dynamic, cpu_chunk(y)) num_threads(cpu_threads(c)) if (cpu_is_large(y))
	for (int64_t r = 0; r < x.rows; r++)
		c->simd->normalise(x.cols, cpu_row(y, r), cpu_row(x, r), mean, scale, 1, weight, bias, n->scale.data,
			n->shift.data, n->act);
done:
	scratch_release(b, mark);
}

void cpu_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads)
{
	struct cpu *c = cpu_of(b);
	const float *weight = cpu_vector(gamma);
	int64_t d = x.cols / heads;
#pragma omp parallel for schedule(dynamic, cpu_chunk(x)) num_threads(cpu_threads(c)) if (cpu_is_large(x))
	for (int64_t r = 0; r < x.rows; r++)
		for (int64_t first = 0; first < x.cols; first += d) {
			float *head = cpu_row(x, r) + first;
			float scale = sqrtf((float)d) / fmaxf(sqrtf(c->simd->squares(d, head)), 1e-12f);
#pragma omp simd
			for (int64_t i = 0; i < d; i++)
				head[i] = head[i] * scale * weight[first + i];
		}
}
