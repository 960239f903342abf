/* launch.h - the launchers of our CUDA kernels as the C side of the backend sees them (cuda.c, cuda_product.c).
 * A launcher enqueues on the stream and returns the launch's error; it never waits and never allocates.
 * Formulas and shapes: ../backend.h. Unless said, tensors are f32, f16 or bf16 in any mixture, rows may have gaps, and
 * sums are f32. */
#ifndef TRELLIS_CUDA_LAUNCH_H
#define TRELLIS_CUDA_LAUNCH_H

#include "../tensor.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a kernel runs. */
struct launch {
	cudaStream_t stream;
	int capability; /* 90 for 9.0 */
	int sm_count;
	bool force_mma; /* leave out what only one architecture has, so that the common path can be tried there */
};

/* struct epilogue with device pointers: y = residual + gate * act(sum + bias) + row. */
struct fused {
	const float *bias; /* [out] or NULL */
	enum activation act;
	const float *gate;	/* [out] or NULL */
	struct tensor residual; /* as y, or data NULL; may be y */
	const float *row;	/* [out] or NULL; only launch_finish and launch_finish_norm look at it */
};

/* struct norm with device pointers. */
struct fused_norm {
	float eps;
	const float *weight, *bias; /* [c], both or neither */
	const float *scale, *shift; /* [c], both or neither */
	enum activation act;
};

/* rows.cu */
/* A kernel that does nothing: whether there is code for this device. */
cudaError_t launch_probe(const struct launch *l);
cudaError_t launch_finish(const struct launch *l, struct tensor y, struct tensor sums, const struct fused *f);
cudaError_t launch_activate(const struct launch *l, struct tensor y, struct tensor x, enum activation act);
cudaError_t launch_add(const struct launch *l, struct tensor y, struct tensor a, struct tensor x);
cudaError_t launch_combine(const struct launch *l, struct tensor y, float p, struct tensor a, float q, struct tensor x);
cudaError_t launch_gather_rows(const struct launch *l, struct tensor y, struct tensor x, struct tensor index);
cudaError_t launch_coords_up(const struct launch *l, struct tensor children, struct tensor parents);
/* room: I32 [y.rows + x.rows]. Children are summed in the order of their rows, whatever order threads run in. */
cudaError_t launch_downsample(
	const struct launch *l, struct tensor y, struct tensor x, struct tensor index, int32_t *room);
cudaError_t launch_pixel_shuffle(const struct launch *l, struct tensor y, struct tensor x, int64_t resolution);

/* *bad (on the device, zero before) becomes 1 when a number of x is infinite or none. */
cudaError_t launch_is_finite(const struct launch *l, struct tensor x, int32_t *bad);

/* norm.cu */
cudaError_t launch_layer_norm(const struct launch *l, struct tensor y, struct tensor x, const struct fused_norm *n);
/* x = residual + gate * sums + row, and y = the layer norm of x, where _fits says so: f has just these. */
bool launch_finish_norm_fits(
	struct tensor y, struct tensor x, struct tensor sums, const struct fused *f, const struct fused_norm *n);
cudaError_t launch_finish_norm(const struct launch *l, struct tensor y, struct tensor x, struct tensor sums,
	const struct fused *f, const struct fused_norm *n);
/* partial: f32 room, launch_group_norm_room() numbers */
int64_t launch_group_norm_room(struct tensor x, int groups);
cudaError_t launch_group_norm(const struct launch *l, struct tensor y, struct tensor x, int groups,
	const struct fused_norm *n, float *partial);
cudaError_t launch_rms_norm_heads(const struct launch *l, struct tensor x, const float *gamma, int heads);

/* product_hopper.cu: op_linear_qkv where _fits says so; w [3 c, in]; y, x and w of one half type. */
bool launch_linear_qkv_fits(const struct launch *l, struct tensor y, struct tensor x, struct tensor w, int heads,
	const float *bias, const float *q_gamma, const float *k_gamma);
cudaError_t launch_linear_qkv(const struct launch *l, struct tensor y, struct tensor x, struct tensor w,
	const float *bias, const float *q_gamma, const float *k_gamma);

/* attention.cu: q, k, v, y of one dtype; rows are `parts` equal parts of q's rows that attend to the same part of k's.
 * order, offset: I32 as in struct windows, or NULL (then windows = longest = 0 and parts may be above 1). */
struct attention_windows {
	const int32_t *order, *offset;
	int64_t count, longest;
};
cudaError_t launch_attention(const struct launch *l, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, int64_t parts, const struct attention_windows *windows);

/* sparse.cu: weights of kinds CONV3, SPARSE3, SPARSE3_UP, packed on the device in a layout of the kernels' choice, of the
 * dtype that products run in, aligned to 16 bytes. x is of that dtype; y and the residual of any. */
int64_t launch_pack_count(enum weight_kind kind, int64_t out, int64_t in); /* numbers of the packed weight */
/* from: the checkpoint's order, on the device, of dtype `from_type`. */
cudaError_t launch_pack(const struct launch *l, enum weight_kind kind, int64_t out, int64_t in, void *packed,
	enum dtype packed_type, const void *from, enum dtype from_type);
/* room: f32, launch_conv_room() numbers for x's rows, where blocks that share a sum put their parts; NULL where there
 * are none, or to do without sharing: then a small grid leaves part of the chip idle. */
int64_t launch_conv_room(const struct launch *l, enum weight_kind kind, int64_t rows, int64_t out, int64_t in);
cudaError_t launch_conv3d(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	int64_t resolution, const struct fused *f, float *room);
cudaError_t launch_sparse_conv(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room);
cudaError_t launch_sparse_conv_up(const struct launch *l, struct tensor y, struct tensor x, const void *packed,
	struct tensor neighbours, const struct fused *f, float *room);

/* neighbours.cu. hash: I32 room, launch_neighbours_room(n) numbers */
int64_t launch_neighbours_room(int64_t n);
cudaError_t launch_neighbours(const struct launch *l, struct tensor table, struct tensor coords, int32_t *hash);
cudaError_t launch_neighbours_up(const struct launch *l, struct tensor table, struct tensor parents);

#ifdef __cplusplus
}
#endif

#endif
