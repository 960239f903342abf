/* cpu.h - what the files of the CPU backend share: cpu.c (life, memory, weights, rows), cpu_product.c (linear, dense
 * convolution), cpu_sparse.c (sparse convolution, neighbour tables), cpu_norm.c, cpu_attention.c.
 * Parallel loops hand out rows, a few at a time: a thread that loses its processor keeps the others waiting for no more than
 * these. What a row holds never depends on how many threads there are. */
#ifndef TRELLIS_CPU_H
#define TRELLIS_CPU_H

#include "backend_impl.h"
#include "cpu_onednn.h"
#include "cpu_simd.h"
#include "threads.h"

struct cpu {
	struct backend base;
	const struct simd *simd;
	struct onednn *onednn;
};

struct cpu_weight {
	struct weight base;
	float *data;		       /* vector: as it is; sparse: panels, see cpu_sparse.c; else NULL */
	struct onednn_weight *product; /* linear and dense convolution; else NULL */
};

/* backend_cpu_create with inner loops of the caller's choice, for tests. */
struct backend *cpu_create_with(int threads, const struct simd *simd, struct error *err);

/* Whether a loop over a tensor's numbers is worth waking threads. */
static inline bool cpu_is_large(struct tensor x)
{
	return x.rows * x.cols >= 1 << 14;
}

/* Rows that a thread takes at a time: some microseconds' work, beside which taking them costs nothing. */
static inline int64_t cpu_chunk(struct tensor x)
{
	return x.cols < 1 << 14 ? (1 << 14) / x.cols : 1;
}

static inline struct cpu *cpu_of(struct backend *b)
{
	return (struct cpu *)b;
}

static inline float *cpu_row(struct tensor x, int64_t r)
{
	return (float *)x.data + r * x.stride;
}

static inline int32_t *cpu_row_i32(struct tensor x, int64_t r)
{
	return (int32_t *)x.data + r * x.stride;
}

/* Threads of a loop that begins now. */
static inline int cpu_threads(const struct cpu *c)
{
	return threads_of(c->base.threads);
}

/* The numbers of a vector, or NULL. */
static inline const float *cpu_vector(const struct weight *w)
{
	return w ? ((const struct cpu_weight *)w)->data : NULL;
}

/* y[r] = epilogue of the finished sums x[r], over all rows; residual rows start at row `first` of e's. */
void cpu_finish_rows(struct cpu *c, struct tensor y, struct tensor x, const struct epilogue *e, int64_t first);

void cpu_linear(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e);
void cpu_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e);

/* Plain checkpoint order to panels, NULL when there is no memory. */
float *cpu_sparse_pack(const struct cpu *c, enum weight_kind kind, int64_t out, int64_t in, const float *plain);
void cpu_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);
void cpu_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);
void cpu_neighbours(struct backend *b, struct tensor table, struct tensor coords);
void cpu_neighbours_up(struct backend *b, struct tensor table, struct tensor parents);

void cpu_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n);
void cpu_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n);
void cpu_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads);
void cpu_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	const struct windows *windows);

#endif
