/* backend.h - the tensor operations the network is made of, behind one vtable.
 * The engine calls the op_* functions below and never sees how they are done; kernels/cpu.c (oneDNN and our own loops)
 * and kernels/reference.c (the plain C oracle that every other version is compared with) implement them.
 *
 * Errors are sticky: an op returns nothing; the first failure latches in the backend, later ops do nothing, and
 * backend_ok() tells once a stage. Cancellation latches the same way. A forward pass therefore has no error branches.
 * Shapes are checked by the engine when weights are loaded; here they are preconditions and asserted.
 *
 * One thread drives a backend at a time, not always the same one; only *cancel may be written by another. */
#ifndef TRELLIS_BACKEND_H
#define TRELLIS_BACKEND_H

#include "error.h"
#include "tensor.h"

#include <stdatomic.h>

size_t dtype_size(enum dtype dtype);
const char *dtype_name(enum dtype dtype);

/* Columns [first, first + cols) of x. */
struct tensor tensor_columns(struct tensor x, int64_t first, int64_t cols);
/* Rows [first, first + rows) of x. */
struct tensor tensor_rows(struct tensor x, int64_t first, int64_t rows);

/* Parameters as a file holds them: any alignment. */
struct numbers {
	const void *data;
	enum dtype dtype;
};

/* A parameter on the device. A backend's own struct starts with this one. */
struct weight {
	enum weight_kind kind;
	int64_t out, in; /* vector: out numbers, in = 1 */
};

/* What follows a matrix product: y = residual + gate * act(product + bias). */
struct epilogue {
	const struct weight *bias; /* [out] or NULL */
	enum activation act;
	struct tensor gate;	/* f32 [1, out] or none */
	struct tensor residual; /* [n, out] or none; may be y itself */
};

/* What a normalisation does after x^ = (x - mean) / sqrt(var + eps): y = act((x^ * weight + bias) * (1 + scale) + shift). */
struct norm {
	float eps;
	const struct weight *weight, *bias; /* [c], both or neither */
	struct tensor scale, shift;	    /* f32 [1, c], both or none */
	enum activation act;
};

/* Groups of rows that attend to each other only: window w holds rows order[offset[w] .. offset[w + 1]). */
struct windows {
	int64_t count, longest;
	struct tensor order;  /* I32 [n, 1], stride 1, on the device */
	struct tensor offset; /* I32 [count + 1, 1], stride 1, on the device */
};

/* A triangle mesh in host memory as FlexiCubes extracts it. attrs: RGB and encoded normal, 0..1. Freed by surface_finish. */
struct surface {
	float *vertices;   /* [n_vertices, 3] in +-0.5, z up */
	float *attrs;	   /* [n_vertices, 6], NULL when the model has no colour */
	int32_t *faces;	   /* [n_faces, 3] in the order of the official code */
	uint8_t *is_inner; /* [n_faces] 1: made only by a corner that no active voxel covers (the inner shell) */
	int64_t n_vertices, n_faces;
};

void surface_finish(struct surface *s);

struct backend;

struct backend_ops {
	const char *name;
	void (*destroy)(struct backend *b);
	/* Another backend on b's device and of its dtype, whose work runs beside b's: another thread may drive it at the same
	 * time. What one has made and waited for (sync) the other may use and free. NULL op: there is no such thing. NULL
	 * and err when it can't be had. */
	struct backend *(*helper)(struct backend *b, struct error *err);
	/* Device memory, aligned to 64 bytes at least; NULL and a latched error when there is none. */
	void *(*alloc)(struct backend *b, size_t bytes);
	void (*free)(struct backend *b, void *p);
	/* Copies and converts host data [elements of kind's shape]; NULL and a latched error on failure. More parts than one
	 * (vectors and WEIGHT_LINEAR) have out / count rows each. */
	struct weight *(*weight_create)(struct backend *b, enum weight_kind kind, int64_t out, int64_t in,
		const struct numbers *parts, int count);
	void (*weight_destroy)(struct backend *b, struct weight *w);
	/* Waits for everything asked for so far. */
	void (*sync)(struct backend *b);

	void (*upload)(struct backend *b, struct tensor y, const float *host);
	void (*upload_i32)(struct backend *b, struct tensor y, const int32_t *host);
	void (*download)(struct backend *b, float *host, struct tensor x);
	void (*download_i32)(struct backend *b, int32_t *host, struct tensor x);

	void (*linear)(
		struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e);
	/* NULL: a product, then two norms. */
	void (*linear_qkv)(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
		const struct weight *bias, const struct weight *q_gamma, const struct weight *k_gamma, int heads);
	void (*conv3d)(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
		const struct epilogue *e);
	void (*sparse_conv)(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
		struct tensor neighbours, const struct epilogue *e);
	void (*sparse_conv_up)(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
		struct tensor neighbours, const struct epilogue *e);
	void (*neighbours)(struct backend *b, struct tensor table, struct tensor coords);
	void (*neighbours_up)(struct backend *b, struct tensor table, struct tensor parents);
	void (*coords_up)(struct backend *b, struct tensor children, struct tensor parents);

	void (*layer_norm)(struct backend *b, struct tensor y, struct tensor x, const struct norm *n);
	void (*group_norm)(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n);
	void (*rms_norm_heads)(struct backend *b, struct tensor x, const struct weight *gamma, int heads);
	void (*attention)(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
		int heads, const struct windows *windows);
	/* NULL: part after part. */
	void (*attention_parts)(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
		int heads, int64_t parts);

	void (*activate)(struct backend *b, struct tensor y, struct tensor x, enum activation act);
	void (*add)(struct backend *b, struct tensor y, struct tensor a, struct tensor x);
	void (*combine)(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x);
	void (*gather_rows)(struct backend *b, struct tensor y, struct tensor x, struct tensor index);
	void (*downsample)(struct backend *b, struct tensor y, struct tensor x, struct tensor index);
	void (*pixel_shuffle)(struct backend *b, struct tensor y, struct tensor x, int64_t resolution);

	bool (*is_finite)(struct backend *b, struct tensor x);
	void (*extract)(struct backend *b, struct surface *s, struct tensor features, struct tensor coords,
		int64_t resolution, bool has_color);
};

struct scratch_chunk;

/* What a failure means for what comes next. */
enum fault {
	FAULT_NONE,
	FAULT_OP,     /* this op on these inputs: asking again gives the same */
	FAULT_MEMORY, /* no device memory: worth another try once some was given back */
	FAULT_DEVICE, /* the device or its context is lost: only another process can use it again */
};

/* Base of every backend. */
struct backend {
	const struct backend_ops *ops;
	enum dtype act;	    /* dtype of activations */
	struct error error; /* meaningful once failed */
	bool failed;
	enum fault fault;	   /* of the last failure; backend_finish leaves it */
	int threads;		   /* of its work on the host, at most; whoever opened it may lower it */
	const atomic_bool *cancel; /* borrowed, may be NULL */
	bool cancelled;		   /* the failure was a cancellation */
	/* Progress of loading: called by who reads parameters, with how many numbers were read. May be NULL. */
	void (*loaded)(void *user, int64_t numbers);
	void *loaded_user;
	struct scratch_chunk *scratch;	   /* see scratch.c */
	size_t scratch_used, scratch_peak; /* bytes */
};

/* The plain C oracle: slow, clear, f32 storage, double sums. */
struct backend *backend_reference_create(struct error *err);
/* oneDNN and our own vectorised loops, f32. threads 0: all that the process may use. */
struct backend *backend_cpu_create(int threads, struct error *err);
/* What it computes with on this machine: "oneDNN 2.6.3, avx2 loops". */
void backend_cpu_describe(char *text, size_t size);
/* NULL is fine. */
void backend_destroy(struct backend *b);

/* False once an op failed or the job was cancelled. */
bool backend_ok(struct backend *b);
/* Latch the first failure: FAULT_OP, or of another kind. */
__attribute__((format(printf, 2, 3))) void backend_fail(struct backend *b, const char *format, ...);
__attribute__((format(printf, 3, 4))) void backend_fail_as(
	struct backend *b, enum fault fault, const char *format, ...);
/* Report and clear what latched: true if all went well, else false with the error passed on to err. */
bool backend_finish(struct backend *b, struct error *err);

/* Scratch memory: a stack that grows in chunks and keeps them. scratch_mark, scratch_new..., scratch_release(mark).
 * scratch_trim gives the chunks above the top of the stack back to the device: between stages and after a job. */
size_t scratch_mark(struct backend *b);
void scratch_release(struct backend *b, size_t mark);
void scratch_trim(struct backend *b);
/* Uninitialised activations [rows, cols] of dtype b->act, rows contiguous. */
struct tensor scratch_new(struct backend *b, int64_t rows, int64_t cols);
/* The same with a dtype. */
struct tensor scratch_new_as(struct backend *b, enum dtype dtype, int64_t rows, int64_t cols);

struct weight *weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, enum dtype dtype, const void *host);
/* WEIGHT_VECTOR or WEIGHT_LINEAR of so many parts, one below the other, out / count rows each. */
struct weight *weight_create_stacked(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count);
void weight_destroy(struct backend *b, struct weight *w); /* NULL is fine */

/* Host data is always dense, row-major f32 (or i32) of y's shape. Downloads wait. */
void op_upload(struct backend *b, struct tensor y, const float *host);
void op_upload_i32(struct backend *b, struct tensor y, const int32_t *host);
void op_download(struct backend *b, float *host, struct tensor x);
void op_download_i32(struct backend *b, int32_t *host, struct tensor x);

/* y[n, out] = epilogue(x[n, in] w[out, in]^T).  y may not overlap x. e may be NULL. */
void op_linear(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e);

/* y[n, 3 c] = x w^T + bias, then op_rms_norm_heads over the first c columns and the next c: q, k and v of self-attention.
 * The sums may be normalised before they are rounded to y's dtype. bias may be NULL. */
void op_linear_qkv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	const struct weight *bias, const struct weight *q_gamma, const struct weight *k_gamma, int heads);

/* Dense 3x3x3 cross-correlation, zero padding 1, on a cube of R^3 rows: y[R^3, out] from x[R^3, in]. */
void op_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w, int64_t resolution,
	const struct epilogue *e);

/* Submanifold 3x3x3 cross-correlation over active voxels:
 * y[p, :] = epilogue(sum over k with neighbours[p, k] >= 0 of w[:, k, :] x[neighbours[p, k], :]).
 * neighbours: I32 [n, 28] as op_neighbours writes it, k = (kx * 3 + ky) * 3 + kz. y may not overlap x. */
void op_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);

/* op_sparse_conv on the subdivision of x, computed at the parents: every parent row stands for eight equal children at
 * 2 xyz + (dx, dy, dz), child row 8 p + (dx * 2 + dy) * 2 + dz. x[n, in], neighbours[n, 28] of the parents, y[8 n, out].
 * w is of kind WEIGHT_SPARSE3_UP. Exact: the taps that meet the same parent are added when the weight is loaded. */
void op_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e);

/* table[p, k] = the row whose coordinates are coords[p] + (kx - 1, ky - 1, kz - 1), or -1.
 * table[:, 27]: a permutation of the rows, the order in which this backend's convolutions take them.
 * coords: I32 [n, 3], distinct, 0 <= c < 2^20. table: I32 [n, 28]. */
void op_neighbours(struct backend *b, struct tensor table, struct tensor coords);
/* The table of the subdivision: table[8 n, 28] from the parents' [n, 28]. */
void op_neighbours_up(struct backend *b, struct tensor table, struct tensor parents);
/* The coordinates of the subdivision: children[8 n, 3] from the parents' [n, 3], in the order of op_sparse_conv_up. */
void op_coords_up(struct backend *b, struct tensor children, struct tensor parents);

/* Over each row. y may be x. */
void op_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n);
/* Statistics over all rows times the cols / groups channels of a group, biased variance. y may be x. */
void op_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n);
/* x[r, h, :] *= gamma[h, :] * sqrt(d) / max(|x[r, h, :]|, 1e-12), in place, d = cols / heads. */
void op_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads);

/* y[i, h, :] = sum_j softmax_j(q[i, h, :] . k[j, h, :] / sqrt(d)) v[j, h, :].  q, y [n, heads * d]; k, v [m, heads * d].
 * windows NULL: all keys. Otherwise n = m and a row sees the rows of its window. y may not overlap q, k or v.
 * Blocked: no n x m matrix is ever stored. */
void op_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int heads,
	const struct windows *windows);

/* The same over `parts` equal parts of the rows, each of which sees its own rows only. */
void op_attention_parts(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, int64_t parts);

/* y = act(x). y may be x. */
void op_activate(struct backend *b, struct tensor y, struct tensor x, enum activation act);
/* y = a + x; x has y's rows, or one row that is added to each. y may be a. dtypes may differ. */
void op_add(struct backend *b, struct tensor y, struct tensor a, struct tensor x);
/* y = p a + q x, in f32. y may be a or x. Euler steps, guidance and copies (q = 0, x none). dtypes may differ. */
void op_combine(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x);
/* y[r, :] = x[index[r], :].  index: I32 [y.rows, 1]; none: every row of x y.rows / x.rows times in turn. */
void op_gather_rows(struct backend *b, struct tensor y, struct tensor x, struct tensor index);
/* y[i, :] = (sum of x[r, :] over r with index[r] = i) / (count + 1): the official mean counts the zero it starts from. */
void op_downsample(struct backend *b, struct tensor y, struct tensor x, struct tensor index);
/* Factor 2: channel c * 8 + (dx * 2 + dy) * 2 + dz of voxel (x, y, z) goes to channel c of voxel 2 xyz + (dx, dy, dz).
 * x[R^3, 8 c] -> y[(2 R)^3, c]. */
void op_pixel_shuffle(struct backend *b, struct tensor y, struct tensor x, int64_t resolution);

/* Whether no number of x is infinite or not a number. Waits. True also where something has failed before: that is told then. */
bool op_is_finite(struct backend *b, struct tensor x);

/* FlexiCubes on sparse cubes (see flexicubes.h): features [n, 53 or 101] as the mesh decoder gives them (the -1/R bias is
 * added here), coords I32 [n, 3] at `resolution`. Host result, written only on success; an empty surface is no error. */
void op_extract(struct backend *b, struct surface *s, struct tensor features, struct tensor coords, int64_t resolution,
	bool has_color);

#endif
