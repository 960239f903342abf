/* cuda.c - the CUDA backend: life, memory, transfers, and the ops that are one kernel each.
 * Memory comes from the device's stream-ordered pool, which keeps what is freed: nothing is allocated from the driver
 * once a first job has run. */
#include "cuda.h"

#include <stdlib.h>
#include <string.h>

enum fault cuda_fault(cudaError_t e)
{
	cudaGetLastError(); /* what can be cleared is cleared */
	if (e == cudaErrorMemoryAllocation)
		return FAULT_MEMORY;
	/* After a fault that is the context's every call fails, this one too, which has nothing to do. */
	return cudaFree(NULL) == cudaSuccess ? FAULT_OP : FAULT_DEVICE;
}

bool cuda_check(struct backend *b, cudaError_t e, const char *what)
{
	if (e == cudaSuccess)
		return true;
	backend_fail_as(b, cuda_fault(e), "%s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
	return false;
}

/* ---- what waits ---- */

void cuda_settle(struct backend *b)
{
	struct cuda *c = cuda_of(b);
	struct pending p = c->pending;
	if (!p.is_set)
		return;
	c->pending.is_set = false;
	if (!b->failed)
		cuda_check(b, launch_finish(&c->launch, p.y, p.sums, &p.fused), "product");
}

static bool pending_is(const struct pending *p, struct tensor y)
{
	return p->is_set && p->y.data == y.data && p->y.rows == y.rows && p->y.cols == y.cols &&
	       p->y.stride == y.stride && p->y.dtype == y.dtype;
}

/* The part of what is pending whose result is x, which must be all of it or its first or last rows; the rest goes on
 * waiting. False: x is something else. */
static bool pending_take(struct cuda *c, struct tensor x, struct pending *part)
{
	struct pending *p = &c->pending, rest;
	if (!p->is_set || x.dtype != p->y.dtype || x.stride != p->y.stride || x.cols != p->y.cols)
		return false;
	int64_t bytes = x.stride * (int64_t)dtype_size(x.dtype), offset = (char *)x.data - (char *)p->y.data;
	int64_t first = offset / bytes, last = first + x.rows;
	if (offset < 0 || offset % bytes || last > p->y.rows || (first > 0 && last < p->y.rows))
		return false;
	*part = rest = *p;
	part->y = x;
	part->sums = tensor_rows(p->sums, first, x.rows);
	part->fused.residual = tensor_rows(p->fused.residual, first, x.rows);
	int64_t begin = first > 0 ? 0 : last, count = p->y.rows - x.rows;
	rest.is_set = count > 0;
	rest.y = tensor_rows(p->y, begin, count);
	rest.sums = tensor_rows(p->sums, begin, count);
	rest.fused.residual = tensor_rows(p->fused.residual, begin, count);
	*p = rest;
	return true;
}

/* ---- memory ---- */

void *cuda_alloc(struct backend *b, size_t bytes)
{
	struct cuda *c = cuda_of(b);
	void *p = NULL;
	cudaError_t e = cudaMallocAsync(&p, bytes, c->launch.stream);
	if (e == cudaErrorMemoryAllocation) { /* the pool may hold enough, in the wrong pieces */
		cudaMemPool_t pool;
		cudaGetLastError();
		cudaStreamSynchronize(c->launch.stream);
		if (cudaDeviceGetDefaultMemPool(&pool, c->ordinal) == cudaSuccess)
			cudaMemPoolTrimTo(pool, 0);
		e = cudaMallocAsync(&p, bytes, c->launch.stream);
	}
	if (e == cudaErrorMemoryAllocation) {
		size_t free = 0, total = 0;
		cudaGetLastError();
		cudaMemGetInfo(&free, &total);
		backend_fail_as(b, FAULT_MEMORY, "out of memory: %zu MB wanted, %zu of %zu MB free", bytes >> 20,
			free >> 20, total >> 20);
		return NULL;
	}
	return cuda_check(b, e, "allocating memory") ? p : NULL;
}

void cuda_free(struct backend *b, void *p)
{
	cuda_settle(b);
	if (p)
		cudaFreeAsync(p, cuda_of(b)->launch.stream); /* a fault is told by what comes next */
}

static void cuda_sync(struct backend *b)
{
	cuda_settle(b);
	if (!b->failed)
		cuda_check(b, cudaStreamSynchronize(cuda_of(b)->launch.stream), "computing");
}

/* ---- transfers ---- */

/* The next staging buffer, once the copy out of it is over. */
static char *staging_take(struct backend *b, struct staging **slot)
{
	struct cuda *c = cuda_of(b);
	struct staging *s = *slot = &c->staging[c->next_staging];
	c->next_staging = (c->next_staging + 1) % STAGING_SLOTS;
	if (!s->data) {
		if (!cuda_check(b, cudaHostAlloc((void **)&s->data, STAGING_BYTES, cudaHostAllocDefault),
			    "allocating pinned memory") ||
			!cuda_check(b, cudaEventCreateWithFlags(&s->free, cudaEventDisableTiming), "creating an event"))
			return NULL;
		return s->data;
	}
	return cuda_check(b, cudaEventSynchronize(s->free), "uploading") ? s->data : NULL;
}

/* One thread copies a mapped file at the speed of its page faults. */
static void copy_parallel(char *to, const char *from, size_t bytes, int threads)
{
	const size_t piece = (size_t)512 << 10;
	int64_t pieces = (int64_t)((bytes + piece - 1) / piece);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (pieces > 2)
	for (int64_t i = 0; i < pieces; i++) {
		size_t first = (size_t)i * piece, left = bytes - first;
		memcpy(to + first, from + first, left < piece ? left : piece);
	}
}

void cuda_upload_bytes(struct backend *b, void *device, const void *host, size_t bytes)
{
	cuda_settle(b);
	for (size_t done = 0; done < bytes && !b->failed;) {
		size_t n = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
		struct staging *slot;
		char *pinned = staging_take(b, &slot);
		if (!pinned)
			return;
		copy_parallel(pinned, (const char *)host + done, n, b->threads);
		cuda_check(b,
			cudaMemcpyAsync(
				(char *)device + done, pinned, n, cudaMemcpyHostToDevice, cuda_of(b)->launch.stream),
			"uploading");
		cuda_check(b, cudaEventRecord(slot->free, cuda_of(b)->launch.stream), "uploading");
		done += n;
	}
}

/* Two pieces are under way while a third is copied out of pinned memory. */
void cuda_download_bytes(struct backend *b, void *host, const void *device, size_t bytes)
{
	struct {
		struct staging *slot;
		size_t first, size;
	} flying[STAGING_SLOTS];
	size_t asked = 0, done = 0;
	int head = 0, count = 0;
	cudaStream_t stream = cuda_launch(b)->stream;

	while (done < bytes && !b->failed) {
		while (asked < bytes && count < STAGING_SLOTS) {
			int i = (head + count) % STAGING_SLOTS;
			size_t n = bytes - asked < STAGING_BYTES ? bytes - asked : STAGING_BYTES;
			char *pinned = staging_take(b, &flying[i].slot);
			if (!pinned)
				return;
			cuda_check(b,
				cudaMemcpyAsync(
					pinned, (const char *)device + asked, n, cudaMemcpyDeviceToHost, stream),
				"downloading");
			cuda_check(b, cudaEventRecord(flying[i].slot->free, stream), "downloading");
			flying[i].first = asked;
			flying[i].size = n;
			asked += n;
			count++;
		}
		if (!cuda_check(b, cudaEventSynchronize(flying[head].slot->free), "computing"))
			return;
		copy_parallel(
			(char *)host + flying[head].first, flying[head].slot->data, flying[head].size, b->threads);
		done += flying[head].size;
		head = (head + 1) % STAGING_SLOTS;
		count--;
	}
}

struct tensor cuda_as(struct backend *b, struct tensor x, enum dtype dtype, bool dense)
{
	if (x.dtype == dtype && (!dense || x.stride == x.cols))
		return x;
	struct tensor y = scratch_new_as(b, dtype, x.rows, x.cols);
	if (y.data)
		cuda_check(b, launch_combine(cuda_launch(b), y, 1, x, 0, TENSOR_NONE), "converting");
	return y;
}

static size_t bytes_of(struct tensor x)
{
	return (size_t)(x.rows * x.cols) * dtype_size(x.dtype);
}

static void cuda_upload(struct backend *b, struct tensor y, const float *host)
{
	size_t mark = scratch_mark(b);
	struct tensor plain = y;
	if (y.dtype != DTYPE_F32 || y.stride != y.cols)
		plain = scratch_new_as(b, DTYPE_F32, y.rows, y.cols);
	if (plain.data)
		cuda_upload_bytes(b, plain.data, host, bytes_of(plain));
	if (plain.data != y.data && !b->failed)
		cuda_check(b, launch_combine(cuda_launch(b), y, 1, plain, 0, TENSOR_NONE), "uploading");
	scratch_release(b, mark);
}

static void cuda_download(struct backend *b, float *host, struct tensor x)
{
	size_t mark = scratch_mark(b);
	struct tensor plain = cuda_as(b, x, DTYPE_F32, true);
	if (!b->failed)
		cuda_download_bytes(b, host, plain.data, bytes_of(plain));
	scratch_release(b, mark);
}

/* Integers with gaps between rows are rare and small: the driver copies them. */
static void cuda_upload_i32(struct backend *b, struct tensor y, const int32_t *host)
{
	if (y.stride == y.cols)
		cuda_upload_bytes(b, y.data, host, bytes_of(y));
	else
		cuda_check(b,
			cudaMemcpy2DAsync(y.data, (size_t)y.stride * 4, host, (size_t)y.cols * 4, (size_t)y.cols * 4,
				(size_t)y.rows, cudaMemcpyHostToDevice, cuda_launch(b)->stream),
			"uploading");
}

static void cuda_download_i32(struct backend *b, int32_t *host, struct tensor x)
{
	if (x.stride == x.cols) {
		cuda_download_bytes(b, host, x.data, bytes_of(x));
		return;
	}
	cuda_check(b,
		cudaMemcpy2DAsync(host, (size_t)x.cols * 4, x.data, (size_t)x.stride * 4, (size_t)x.cols * 4,
			(size_t)x.rows, cudaMemcpyDeviceToHost, cuda_launch(b)->stream),
		"downloading");
	cuda_sync(b);
}

/* ---- norms ---- */

static struct fused_norm fused_norm_of(const struct norm *n)
{
	return (struct fused_norm){.eps = n->eps,
		.weight = cuda_vector(n->weight),
		.bias = cuda_vector(n->bias),
		.scale = n->scale.data,
		.shift = n->shift.data,
		.act = n->act};
}

static void cuda_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	struct cuda *c = cuda_of(b);
	struct fused_norm f = fused_norm_of(n);
	struct pending p;
	if (c->pending.is_set && launch_finish_norm_fits(y, x, c->pending.sums, &c->pending.fused, &f) &&
		pending_take(c, x, &p))
		cuda_check(b, launch_finish_norm(&c->launch, y, x, p.sums, &p.fused, &f), "layer norm");
	else
		cuda_check(b, launch_layer_norm(cuda_launch(b), y, x, &f), "layer norm");
}

static void cuda_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n)
{
	struct fused_norm f = fused_norm_of(n);
	size_t mark = scratch_mark(b);
	struct tensor room = scratch_new_as(b, DTYPE_F32, 1, launch_group_norm_room(x, groups));
	if (room.data)
		cuda_check(b, launch_group_norm(cuda_launch(b), y, x, groups, &f, room.data), "group norm");
	scratch_release(b, mark);
}

static void cuda_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads)
{
	cuda_check(b, launch_rms_norm_heads(cuda_launch(b), x, cuda_vector(gamma), heads), "RMS norm");
}

/* ---- attention ---- */

static void attend(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	int64_t parts, const struct windows *windows)
{
	struct attention_windows w;
	size_t mark = scratch_mark(b);
	struct tensor result = y.dtype == b->act ? y : scratch_new(b, y.rows, y.cols);
	q = cuda_as(b, q, b->act, false);
	k = cuda_as(b, k, b->act, false);
	v = cuda_as(b, v, b->act, false);
	if (windows)
		w = (struct attention_windows){.order = windows->order.data,
			.offset = windows->offset.data,
			.count = windows->count,
			.longest = windows->longest};
	if (!b->failed)
		cuda_check(b, launch_attention(cuda_launch(b), result, q, k, v, heads, parts, windows ? &w : NULL),
			"attention");
	if (result.data != y.data && !b->failed)
		cuda_check(b, launch_combine(cuda_launch(b), y, 1, result, 0, TENSOR_NONE), "attention");
	scratch_release(b, mark);
}

static void cuda_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, const struct windows *windows)
{
	attend(b, y, q, k, v, heads, 1, windows);
}

static void cuda_attention_parts(
	struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads, int64_t parts)
{
	attend(b, y, q, k, v, heads, parts, NULL);
}

/* ---- rows ---- */

static void cuda_activate(struct backend *b, struct tensor y, struct tensor x, enum activation act)
{
	cuda_check(b, launch_activate(cuda_launch(b), y, x, act), "activation");
}

static void cuda_add(struct backend *b, struct tensor y, struct tensor a, struct tensor x)
{
	struct cuda *c = cuda_of(b);
	struct pending *p = &c->pending;
	if (pending_is(p, y) && y.data == a.data && x.rows == 1 && x.dtype == DTYPE_F32 && !p->fused.row) {
		p->fused.row = x.data;
		return;
	}
	cuda_check(b, launch_add(cuda_launch(b), y, a, x), "add");
}

static void cuda_combine(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x)
{
	cuda_check(b, launch_combine(cuda_launch(b), y, p, a, q, x), "combine");
}

static void cuda_gather_rows(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	cuda_check(b, launch_gather_rows(cuda_launch(b), y, x, index), "gather");
}

static void cuda_downsample(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	size_t mark = scratch_mark(b);
	struct tensor room = scratch_new_as(b, DTYPE_I32, 1, x.rows + y.rows);
	if (room.data)
		cuda_check(b, launch_downsample(cuda_launch(b), y, x, index, room.data), "downsample");
	scratch_release(b, mark);
}

static void cuda_pixel_shuffle(struct backend *b, struct tensor y, struct tensor x, int64_t resolution)
{
	cuda_check(b, launch_pixel_shuffle(cuda_launch(b), y, x, resolution), "pixel shuffle");
}

static void cuda_neighbours(struct backend *b, struct tensor table, struct tensor coords)
{
	size_t mark = scratch_mark(b);
	struct tensor room = scratch_new_as(b, DTYPE_I32, 1, launch_neighbours_room(coords.rows));
	if (room.data)
		cuda_check(b, launch_neighbours(cuda_launch(b), table, coords, room.data), "neighbours");
	scratch_release(b, mark);
}

static void cuda_neighbours_up(struct backend *b, struct tensor table, struct tensor parents)
{
	cuda_check(b, launch_neighbours_up(cuda_launch(b), table, parents), "neighbours");
}

static void cuda_coords_up(struct backend *b, struct tensor children, struct tensor parents)
{
	cuda_check(b, launch_coords_up(cuda_launch(b), children, parents), "coordinates");
}

static bool cuda_is_finite(struct backend *b, struct tensor x)
{
	int32_t bad = 0;
	size_t mark = scratch_mark(b);
	struct tensor flag = scratch_new_as(b, DTYPE_I32, 1, 1);
	if (flag.data &&
		cuda_check(
			b, cudaMemsetAsync(flag.data, 0, sizeof bad, cuda_launch(b)->stream), "looking at numbers") &&
		cuda_check(b, launch_is_finite(cuda_launch(b), x, flag.data), "looking at numbers"))
		cuda_download_i32(b, &bad, flag);
	scratch_release(b, mark);
	return !bad;
}

/* ---- life ---- */

static void cuda_destroy(struct backend *b)
{
	struct cuda *c = cuda_of(b);
	c->pending.is_set = false;
	scratch_finish(b);
	cuda_product_finish(c);
	cuda_free(b, c->sums);
	cuda_free(b, c->workspace);
	for (int i = 0; i < STAGING_SLOTS; i++)
		if (c->staging[i].data) {
			cudaEventDestroy(c->staging[i].free);
			cudaFreeHost(c->staging[i].data);
		}
	if (c->blas)
		cublasLtDestroy(c->blas);
	if (c->launch.stream) {
		cudaStreamSynchronize(c->launch.stream);
		cudaStreamDestroy(c->launch.stream);
	}
	free(c);
}

const struct backend_ops cuda_ops = {
	.name = "cuda",
	.destroy = cuda_destroy,
	.helper = cuda_helper,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.weight_create = cuda_weight_create,
	.weight_destroy = cuda_weight_destroy,
	.sync = cuda_sync,
	.upload = cuda_upload,
	.upload_i32 = cuda_upload_i32,
	.download = cuda_download,
	.download_i32 = cuda_download_i32,
	.linear = cuda_linear,
	.linear_qkv = cuda_linear_qkv,
	.conv3d = cuda_conv3d,
	.sparse_conv = cuda_sparse_conv,
	.sparse_conv_up = cuda_sparse_conv_up,
	.neighbours = cuda_neighbours,
	.neighbours_up = cuda_neighbours_up,
	.coords_up = cuda_coords_up,
	.layer_norm = cuda_layer_norm,
	.group_norm = cuda_group_norm,
	.rms_norm_heads = cuda_rms_norm_heads,
	.attention = cuda_attention,
	.attention_parts = cuda_attention_parts,
	.activate = cuda_activate,
	.add = cuda_add,
	.combine = cuda_combine,
	.gather_rows = cuda_gather_rows,
	.downsample = cuda_downsample,
	.pixel_shuffle = cuda_pixel_shuffle,
	.is_finite = cuda_is_finite,
	.extract = cuda_extract,
};
