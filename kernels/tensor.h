/* tensor.h - views of device memory and the words that ops and kernels share. Plain enough for C and CUDA C alike. */
#ifndef TRELLIS_TENSOR_H
#define TRELLIS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I32 };

/* A two-dimensional view of device memory: element (r, c) lies at data[r * stride + c]. Columns are contiguous.
 * Volumes are stored channels last: a row is a voxel, (x * R + y) * R + z. Views do not own. data is NULL in the
 * view "none" (TENSOR_NONE) and after a failed allocation (the backend is then in error). */
struct tensor {
	void *data;
	enum dtype dtype;
	int64_t rows, cols, stride;
};

#define TENSOR_NONE ((struct tensor){0})

/* How a parameter is used, which decides how a backend stores it. Shapes are those of the checkpoint. */
enum weight_kind {
	WEIGHT_VECTOR,	   /* any shape, read as one row; always kept in f32 */
	WEIGHT_LINEAR,	   /* [out, in] */
	WEIGHT_LINEAR_F32, /* the same, kept and computed in f32: the small layers at a network's edges */
	WEIGHT_CONV3,	   /* dense 3x3x3 convolution: [out, in, x, y, z] */
	WEIGHT_SPARSE3,	   /* submanifold 3x3x3 convolution: [out, x, y, z, in] */
	WEIGHT_SPARSE3_UP, /* the same, used by op_sparse_conv_up: merged into eight 2x2x2 kernels */
};

/* Columns of a neighbour table: the rows that the 27 taps meet, or -1; then the order, see op_neighbours. */
enum { NEIGHBOUR_ORDER = 27, NEIGHBOUR_COLS = 28 };

enum activation { ACT_NONE, ACT_SILU, ACT_GELU_TANH, ACT_GELU_ERF };

#endif
