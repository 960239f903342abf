/* cuda.h - what the C files of the CUDA backend share: cuda.c (life, memory, transfers, rows, norms, vtable),
 * cuda_weight.c (weights), cuda_product.c (matrix products, convolutions), cuda_extract.c (the surface).
 * A backend does everything in order on its one stream: nothing here waits except downloads, sync and the reuse of a
 * staging buffer. A helper (backend_ops.helper) is another one with its own stream: what it uploads runs beside kernels. */
#ifndef TRELLIS_CUDA_H
#define TRELLIS_CUDA_H

#include "../backend_impl.h"
#include "launch.h"

#include <cublasLt.h>

enum { STAGING_SLOTS = 4, MAX_PLANS = 256 };
#define STAGING_BYTES ((size_t)8 << 20)
#define CUDA_WORKSPACE_BYTES ((size_t)32 << 20) /* of cuBLASLt: what its kernels for Hopper ask for */

/* Pinned host memory that uploads pass through. */
struct staging {
	char *data;	  /* NULL until first used */
	cudaEvent_t free; /* recorded behind the last copy out of it */
};

/* What tells one matrix product from another; compared byte for byte. */
struct plan_key {
	int64_t n, in, out, x_stride, y_stride, c_stride; /* c: the residual, else y again */
	uint32_t x_alignment, y_alignment, c_alignment;	  /* bytes */
	enum dtype y_type;
	enum activation act;
	bool exact, has_bias; /* exact: all f32 */
};

/* A product that was met before, with the algorithm chosen for it. */
struct plan {
	struct plan_key key;
	cublasLtMatmulDesc_t operation;
	cublasLtMatrixLayout_t w, x, y, c;
	cublasLtMatmulAlgo_t algorithm;
};

/* y = residual + gate * sums + row of a product just made, not computed yet: a layer norm of y, which mostly comes next,
 * takes it along in its own pass. Whatever else comes first has it done before (cuda_launch), so nobody sees the difference. */
struct pending {
	bool is_set;
	struct tensor y, sums;
	struct fused fused;
};

struct cuda {
	struct backend base;
	int ordinal;
	struct launch launch;
	cublasLtHandle_t blas;
	void *workspace;
	struct pending pending;
	void *sums; /* of the pending product; grows */
	size_t sums_bytes;
	struct staging staging[STAGING_SLOTS];
	int next_staging;
	struct plan plans[MAX_PLANS];
	int n_plans;
};

struct cuda_weight {
	struct weight base;
	/* vector: f32 [out]; linear: [out, in] of the activations' dtype, or f32 (WEIGHT_LINEAR_F32); else packed. */
	void *data;
	void *half; /* vector: the same in the activations' dtype, unless that is f32 */
};

/* Every entry of the vtable comes through here, from whichever thread: the runtime's current device is a thread's. */
static inline struct cuda *cuda_of(struct backend *b)
{
	static __thread int current = -1;
	struct cuda *c = (struct cuda *)b;
	if (current != c->ordinal && cudaSetDevice(c->ordinal) == cudaSuccess)
		current = c->ordinal;
	return c;
}

/* Compute what is pending. */
void cuda_settle(struct backend *b);

/* For kernels that read or write tensors: what came before is enqueued when this returns. */
static inline const struct launch *cuda_launch(struct backend *b)
{
	cuda_settle(b);
	return &cuda_of(b)->launch;
}

/* The numbers of a vector on the device, or NULL. */
static inline const float *cuda_vector(const struct weight *w)
{
	return w ? ((const struct cuda_weight *)w)->data : NULL;
}

/* What a failed call means for the next one. */
enum fault cuda_fault(cudaError_t e);
/* True if e is success; else latches "what: the driver's words" with its kind. */
bool cuda_check(struct backend *b, cudaError_t e, const char *what);

void *cuda_alloc(struct backend *b, size_t bytes);
void cuda_free(struct backend *b, void *p);
/* Host memory, any alignment, to the device, through pinned memory; the host's may be reused at once. */
void cuda_upload_bytes(struct backend *b, void *device, const void *host, size_t bytes);
/* Waits. */
void cuda_download_bytes(struct backend *b, void *host, const void *device, size_t bytes);
/* x itself if it has this dtype (and, if asked, no gaps between rows), else a converted copy in scratch. */
struct tensor cuda_as(struct backend *b, struct tensor x, enum dtype dtype, bool dense);

struct weight *cuda_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count);
void cuda_weight_destroy(struct backend *b, struct weight *w);

struct backend *cuda_helper(struct backend *b, struct error *err);

void cuda_product_finish(struct cuda *c);
void cuda_linear(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e);
void cuda_linear_qkv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	const struct weight *bias, const struct weight *q_gamma, const struct weight *k_gamma, int heads);
void cuda_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e);
void cuda_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);
void cuda_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);

void cuda_extract(struct backend *b, struct surface *s, struct tensor features, struct tensor coords,
	int64_t resolution, bool has_color);

#endif
