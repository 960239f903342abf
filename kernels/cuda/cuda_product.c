/* cuda_product.c - matrix products by cuBLASLt, q, k and v by product_hopper.cu, and the convolutions of sparse.cu and conv3d.cu.
 * cuBLASLt adds the bias, a residual and the tanh GELU while it stores; whatever else an epilogue asks for is a pass of
 * our own over the sums. Its first heuristic is taken for every shape: the same one in every process, so that results
 * repeat bit for bit. */
#include "cuda.h"

#include <string.h>

void cuda_product_finish(struct cuda *c)
{
	for (int i = 0; i < c->n_plans; i++) {
		struct plan *p = &c->plans[i];
		cublasLtMatmulDescDestroy(p->operation);
		cublasLtMatrixLayoutDestroy(p->w);
		cublasLtMatrixLayoutDestroy(p->x);
		cublasLtMatrixLayoutDestroy(p->y);
		cublasLtMatrixLayoutDestroy(p->c);
	}
	c->n_plans = 0;
}

/* A fault of an earlier kernel shows in whatever call comes next: then the device's words are the ones to tell. */
static bool blas_check(struct cuda *c, cublasStatus_t status, const char *what)
{
	if (status == CUBLAS_STATUS_SUCCESS)
		return true;
	if (!cuda_check(&c->base, cudaFree(NULL), what))
		return false;
	backend_fail_as(&c->base, status == CUBLAS_STATUS_ALLOC_FAILED ? FAULT_MEMORY : FAULT_OP, "cuBLASLt: %s: %s",
		what, cublasLtGetStatusString(status));
	return false;
}

static cudaDataType_t blas_type(enum dtype dtype)
{
	return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

/* The largest power of two up to 256 that divides an address. */
static uint32_t alignment_of(const void *p)
{
	uintptr_t bits = (uintptr_t)p | 256;
	return (uint32_t)(bits & -bits);
}

/* cuBLASLt is column-major: our y[n, out] = x[n, in] w[out, in]^T is its y = w^T x with out rows and n columns. */
static bool plan_describe(struct cuda *c, struct plan *p)
{
	enum dtype in_type = p->key.exact ? DTYPE_F32 : c->base.act;
	cublasOperation_t transpose = CUBLAS_OP_T;
	cublasLtEpilogue_t epilogue = p->key.act == ACT_GELU_TANH
					      ? (p->key.has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU)
					      : (p->key.has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
	cudaDataType_t bias_type = blas_type(p->key.y_type);
	const struct plan_key *k = &p->key;

	return blas_check(c, cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing") &&
	       blas_check(c,
		       cublasLtMatmulDescSetAttribute(
			       p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatmulDescSetAttribute(
			       p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatmulDescSetAttribute(
			       p->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatrixLayoutCreate(&p->w, blas_type(in_type), (uint64_t)k->in, (uint64_t)k->out, k->in),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatrixLayoutCreate(
			       &p->x, blas_type(in_type), (uint64_t)k->in, (uint64_t)k->n, k->x_stride),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatrixLayoutCreate(
			       &p->y, blas_type(k->y_type), (uint64_t)k->out, (uint64_t)k->n, k->y_stride),
		       "describing") &&
	       blas_check(c,
		       cublasLtMatrixLayoutCreate(
			       &p->c, blas_type(k->y_type), (uint64_t)k->out, (uint64_t)k->n, k->c_stride),
		       "describing");
}

static bool plan_choose(struct cuda *c, struct plan *p)
{
	cublasLtMatmulPreference_t preference;
	cublasLtMatmulHeuristicResult_t found;
	size_t workspace = CUDA_WORKSPACE_BYTES;
	uint32_t w_alignment = 256;
	int count = 0;

	if (!blas_check(c, cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm"))
		return false;
	cublasLtMatmulPreferenceSetAttribute(
		preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
	cublasLtMatmulPreferenceSetAttribute(
		preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w_alignment, sizeof w_alignment);
	cublasLtMatmulPreferenceSetAttribute(
		preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p->key.x_alignment, sizeof p->key.x_alignment);
	cublasLtMatmulPreferenceSetAttribute(
		preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p->key.c_alignment, sizeof p->key.c_alignment);
	cublasLtMatmulPreferenceSetAttribute(
		preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p->key.y_alignment, sizeof p->key.y_alignment);
	cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
		c->blas, p->operation, p->w, p->x, p->c, p->y, preference, 1, &found, &count);
	cublasLtMatmulPreferenceDestroy(preference);
	if (status == CUBLAS_STATUS_SUCCESS && count == 0)
		status = CUBLAS_STATUS_NOT_SUPPORTED;
	p->algorithm = found.algo;
	return blas_check(c, status, "choosing an algorithm");
}

/* The plan of this key: met before, or made now. When all places are taken, all are given up: a job's shapes are few. */
static struct plan *plan_of(struct cuda *c, const struct plan_key *key)
{
	for (int i = 0; i < c->n_plans; i++)
		if (!memcmp(&c->plans[i].key, key, sizeof *key))
			return &c->plans[i];
	if (c->n_plans == MAX_PLANS)
		cuda_product_finish(c);
	struct plan *p = &c->plans[c->n_plans];
	memset(p, 0, sizeof *p);
	p->key = *key;
	c->n_plans++; /* cuda_product_finish ends a half-made one */
	if (plan_describe(c, p) && plan_choose(c, p))
		return p;
	return NULL;
}

/* y = act(x w^T + bias) + residual, as far as one product can: y of the dtype that products run in, or f32. */
static void product(struct cuda *c, struct tensor y, struct tensor x, const struct cuda_weight *w, bool exact,
	const struct weight *bias, enum activation act, struct tensor residual)
{
	const float one = 1, beta = residual.data ? 1 : 0;
	struct tensor from = residual.data ? residual : y;
	struct plan_key key;
	memset(&key, 0, sizeof key); /* compared byte for byte */
	key.n = x.rows;
	key.in = x.cols;
	key.out = y.cols;
	key.x_stride = x.stride;
	key.y_stride = y.stride;
	key.c_stride = from.stride;
	key.y_type = y.dtype;
	key.exact = exact;
	key.has_bias = bias != NULL;
	key.act = act;
	key.x_alignment = alignment_of(x.data);
	key.y_alignment = alignment_of(y.data);
	key.c_alignment = alignment_of(from.data);
	struct plan *p = plan_of(c, &key);
	if (!p)
		return;
	if (bias) {
		const struct cuda_weight *v = (const struct cuda_weight *)bias;
		const void *data = y.dtype == DTYPE_F32 ? v->data : v->half;
		if (!blas_check(c,
			    cublasLtMatmulDescSetAttribute(
				    p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &data, sizeof data),
			    "product"))
			return;
	}
	blas_check(c,
		cublasLtMatmul(c->blas, p->operation, &one, w->data, p->w, x.data, p->x, &beta, from.data, p->c, y.data,
			p->y, &p->algorithm, c->workspace, CUDA_WORKSPACE_BYTES, c->launch.stream),
		"product");
}

static struct fused fused_of(const struct epilogue *e)
{
	return (struct fused){
		.bias = cuda_vector(e->bias), .act = e->act, .gate = e->gate.data, .residual = e->residual};
}

/* The sums are made now, what follows them waits for the next op. They lie in memory of their own, because scratch may be
 * taken by then. */
static void defer(
	struct cuda *c, struct tensor y, struct tensor x, const struct cuda_weight *w, const struct epilogue *e)
{
	struct backend *b = &c->base;
	struct tensor sums = {.dtype = b->act, .rows = y.rows, .cols = y.cols, .stride = y.cols};
	size_t bytes = (size_t)(y.rows * y.cols) * dtype_size(b->act);
	if (bytes > c->sums_bytes) {
		cuda_free(b, c->sums);
		c->sums_bytes = 0;
		c->sums = cuda_alloc(b, bytes);
		if (!c->sums)
			return;
		c->sums_bytes = bytes;
	}
	sums.data = c->sums;
	product(c, sums, x, w, false, e->bias, ACT_NONE, TENSOR_NONE);
	if (b->failed)
		return;
	c->pending = (struct pending){.is_set = true, .y = y, .sums = sums, .fused = fused_of(e)};
	c->pending.fused.bias = NULL;
}

void cuda_linear(
	struct backend *b, struct tensor y, struct tensor x, const struct weight *base, const struct epilogue *e)
{
	struct cuda *c = cuda_of(b);
	const struct cuda_weight *w = (const struct cuda_weight *)base;
	bool exact = base->kind == WEIGHT_LINEAR_F32 || b->act == DTYPE_F32;
	enum dtype type = exact ? DTYPE_F32 : b->act;
	size_t mark = scratch_mark(b);

	cuda_settle(b);
	x = cuda_as(b, x, type, false);
	bool can_act = e->act == ACT_NONE || (e->act == ACT_GELU_TANH && !exact && !e->residual.data);
	bool can_add = !e->residual.data || e->residual.dtype == y.dtype;
	bool can_store = y.dtype == type || y.dtype == DTYPE_F32;
	if (can_act && can_add && can_store && !e->gate.data) {
		if (!b->failed)
			product(c, y, x, w, exact, e->bias, e->act, e->residual);
	} else if (!exact && e->act == ACT_NONE && e->gate.data && e->residual.data) {
		defer(c, y, x, w, e);
	} else {
		struct tensor sums = scratch_new_as(b, type, y.rows, y.cols);
		struct fused rest = fused_of(e);
		rest.bias = NULL;
		if (!b->failed)
			product(c, sums, x, w, exact, e->bias, ACT_NONE, TENSOR_NONE);
		if (!b->failed)
			cuda_check(b, launch_finish(&c->launch, y, sums, &rest), "product");
	}
	scratch_release(b, mark);
}

void cuda_linear_qkv(struct backend *b, struct tensor y, struct tensor x, const struct weight *base,
	const struct weight *bias, const struct weight *q_gamma, const struct weight *k_gamma, int heads)
{
	const struct launch *l = cuda_launch(b);
	const float *gammas[2] = {cuda_vector(q_gamma), cuda_vector(k_gamma)};
	struct tensor w = {.data = ((const struct cuda_weight *)base)->data,
		.dtype = b->act,
		.rows = base->out,
		.cols = base->in,
		.stride = base->in};
	int64_t c = y.cols / 3;

	if (launch_linear_qkv_fits(l, y, x, w, heads, cuda_vector(bias), gammas[0], gammas[1])) {
		cuda_check(b, launch_linear_qkv(l, y, x, w, cuda_vector(bias), gammas[0], gammas[1]), "product");
		return;
	}
	cuda_linear(b, y, x, base, &(struct epilogue){.bias = bias});
	for (int i = 0; i < 2 && !b->failed; i++)
		cuda_check(b, launch_rms_norm_heads(l, tensor_columns(y, i * c, c), gammas[i], heads), "RMS norm");
}

/* What the three convolutions share: x in the products' type, and room for blocks that share a sum. */
struct convolution {
	size_t mark;
	struct tensor x;
	const void *packed;
	struct fused fused;
	float *room;
};

static bool convolution_begin(
	struct backend *b, struct convolution *v, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	int64_t room = launch_conv_room(cuda_launch(b), w->kind, x.rows, w->out, w->in);
	*v = (struct convolution){.mark = scratch_mark(b),
		.x = cuda_as(b, x, b->act, false),
		.packed = ((const struct cuda_weight *)w)->data,
		.fused = fused_of(e)};
	if (room > 0)
		v->room = scratch_new_as(b, DTYPE_F32, 1, room).data;
	return !b->failed;
}

void cuda_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e)
{
	struct convolution v;
	if (convolution_begin(b, &v, x, w, e))
		cuda_check(b, launch_conv3d(cuda_launch(b), y, v.x, v.packed, resolution, &v.fused, v.room),
			"convolution");
	scratch_release(b, v.mark);
}

/* launch_sparse_conv or launch_sparse_conv_up */
typedef cudaError_t (*sparse_launcher)(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room);

static void sparse(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e, sparse_launcher launcher)
{
	struct convolution v;
	if (convolution_begin(b, &v, x, w, e))
		cuda_check(b, launcher(cuda_launch(b), y, v.x, v.packed, neighbours, &v.fused, v.room),
			"sparse convolution");
	scratch_release(b, v.mark);
}

void cuda_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	sparse(b, y, x, w, neighbours, e, launch_sparse_conv);
}

void cuda_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	sparse(b, y, x, w, neighbours, e, launch_sparse_conv_up);
}
