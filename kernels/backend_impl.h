/* backend_impl.h - what the backends share with each other and the engine does not see.
 * Included by the implementations of struct backend_ops only. */
#ifndef TRELLIS_BACKEND_IMPL_H
#define TRELLIS_BACKEND_IMPL_H

#include "backend.h"

/* First thing in a constructor; there is nothing to undo. */
void backend_init(struct backend *b, const struct backend_ops *ops, enum dtype act);
/* First thing in ops->destroy, while ops->free still works: gives the scratch memory back. */
void scratch_finish(struct backend *b);

/* Numbers in a weight of this kind and shape as a checkpoint holds it. */
int64_t weight_count(enum weight_kind kind, int64_t out, int64_t in);

/* n numbers of a checkpoint's dtype (f32, f16, bf16; any alignment) as f32. */
void convert_to_f32(float *y, const void *x, enum dtype dtype, int64_t n);

/* ops->extract for backends whose memory the host can read. */
void extract_on_host(struct backend *b, struct surface *s, struct tensor features, struct tensor coords,
	int64_t resolution, bool has_color);

/* Which parent offset (-1, 0, 1) a child's tap reaches: child side d (0, 1) and tap k (0, 1, 2) along one axis. The
 * tap lands on fine coordinate 2 p + d + k - 1, whose half is p + subdivision_parent(d, k). */
static inline int subdivision_parent(int d, int k)
{
	int fine = d + k - 1; /* -1 .. 2 */
	return fine < 0 ? -1 : fine / 2;
}

/* The row of x that op_gather_rows copies to row r. */
static inline int64_t gathered_row(struct tensor y, struct tensor x, struct tensor index, int64_t r)
{
	return index.data ? ((const int32_t *)index.data)[r * index.stride] : r / (y.rows / x.rows);
}

/* ops->coords_up for backends whose memory the host can read. */
void coords_up_on_host(struct backend *b, struct tensor children, struct tensor parents);

#endif
