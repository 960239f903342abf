/* voxels.c - active voxels on the host: halving, neighbour tables, attention windows. See voxels.h. */
#include "voxels.h"

#include <stdlib.h>
#include <string.h>

bool voxels_init(struct voxels *v, const int32_t *coords, int64_t n, struct error *err)
{
	*v = (struct voxels){.n = n, .coords = malloc((size_t)n * 3 * sizeof *coords + 1)};
	if (!v->coords)
		return error_set(err, "out of memory for %lld voxels", (long long)n);
	memcpy(v->coords, coords, (size_t)n * 3 * sizeof *coords);
	return true;
}

void voxels_finish(struct voxels *v)
{
	free(v->coords);
	*v = (struct voxels){0};
}

void voxels_connect(struct run *run, struct voxels *v)
{
	struct backend *b = run->b;

	v->neighbours = scratch_new_as(b, DTYPE_I32, v->n, NEIGHBOUR_COLS);
	size_t mark = scratch_mark(b);
	struct tensor coords = scratch_new_as(b, DTYPE_I32, v->n, 3);
	op_upload_i32(b, coords, v->coords);
	op_neighbours(b, v->neighbours, coords);
	scratch_release(b, mark);
}

/* The cell of a voxel along an axis, in a grid of cells of `size` voxels that begins `shift` before the voxels'. */
static inline int32_t cell_of(int32_t c, int size, int shift)
{
	return (int32_t)((uint32_t)(c + shift) / (uint32_t)size);
}

static bool same_cell(const int32_t *a, const int32_t *b, int size, int shift)
{
	for (int axis = 0; axis < 3; axis++)
		if (cell_of(a[axis], size, shift) != cell_of(b[axis], size, shift))
			return false;
	return true;
}

/* Rows in the lexicographic order of their cells, those of a cell in their own; malloc'd, NULL when out of memory. A counting
 * sort for each axis, the last one first: there are few cells along an axis. */
static int32_t *sort_by_cell(const int32_t *coords, int64_t n, int size, int shift)
{
	int32_t cells = 1, *order = malloc((size_t)n * sizeof *order + 1),
		*sorted = malloc((size_t)n * sizeof *sorted + 1);

	for (int64_t i = 0; i < 3 * n; i++)
		if (cell_of(coords[i], size, shift) >= cells)
			cells = cell_of(coords[i], size, shift) + 1;
	int64_t *start = malloc(((size_t)cells + 1) * sizeof *start);
	if (!order || !sorted || !start) {
		free(order);
		free(sorted);
		free(start);
		return NULL;
	}
	for (int64_t i = 0; i < n; i++)
		order[i] = (int32_t)i;
	for (int axis = 2; axis >= 0; axis--) {
		memset(start, 0, ((size_t)cells + 1) * sizeof *start);
		for (int64_t i = 0; i < n; i++)
			start[cell_of(coords[3 * i + axis], size, shift) + 1]++;
		for (int32_t c = 0; c < cells; c++)
			start[c + 1] += start[c];
		for (int64_t i = 0; i < n; i++)
			sorted[start[cell_of(coords[3 * order[i] + axis], size, shift)]++] = order[i];
		int32_t *other = order;
		order = sorted;
		sorted = other;
	}
	free(sorted);
	free(start);
	return order;
}

bool voxels_coarsen(struct run *run, struct voxels *coarse, struct voxels *fine, int32_t **parent, struct error *err)
{
	int32_t *order = sort_by_cell(fine->coords, fine->n, 2, 0);
	int32_t *index = malloc((size_t)fine->n * sizeof *index + 1);
	int64_t n = 0;

	*coarse = (struct voxels){.coords = malloc((size_t)fine->n * 3 * sizeof(int32_t) + 1)};
	if (!order || !index || !coarse->coords) {
		free(order);
		free(index);
		voxels_finish(coarse);
		return error_set(err, "out of memory for %lld voxels", (long long)fine->n);
	}
	for (int64_t i = 0; i < fine->n; i++) {
		const int32_t *at = fine->coords + 3 * order[i];
		if (i == 0 || !same_cell(at, fine->coords + 3 * order[i - 1], 2, 0)) {
			for (int axis = 0; axis < 3; axis++)
				coarse->coords[3 * n + axis] = at[axis] / 2;
			n++;
		}
		index[order[i]] = (int32_t)(n - 1);
	}
	coarse->n = n;
	fine->parent = scratch_new_as(run->b, DTYPE_I32, fine->n, 1);
	op_upload_i32(run->b, fine->parent, index);
	free(order);
	if (parent)
		*parent = index;
	else
		free(index);
	return true;
}

/* The rank of each voxel's window, and the windows' sizes. */
static void tap_windows(
	struct run *run, const int32_t *order, const int32_t *offset, int64_t n, int64_t count, int shift)
{
	int32_t *rank = malloc((size_t)n * sizeof *rank + 1), *size = malloc((size_t)count * sizeof *size + 1);

	for (int64_t w = 0; rank && size && w < count; w++) {
		size[w] = offset[w + 1] - offset[w];
		for (int32_t i = offset[w]; i < offset[w + 1]; i++)
			rank[order[i]] = (int32_t)w;
	}
	if (rank && size) {
		tap_integers(run, rank, n, 1, "window_of_voxel.shift%d", shift);
		tap_integers(run, size, count, 1, "window_sizes.shift%d", shift);
	}
	free(rank);
	free(size);
}

bool voxels_windows(
	struct run *run, const int32_t *coords, int64_t n, int size, int shift, struct windows *w, struct error *err)
{
	int32_t *order = sort_by_cell(coords, n, size, shift), *offset = malloc(((size_t)n + 1) * sizeof *offset);
	bool ok = order && offset;

	*w = (struct windows){0};
	if (!ok)
		error_set(err, "out of memory for %lld voxels", (long long)n);
	for (int64_t i = 0; ok && i < n; i++)
		if (i == 0 || !same_cell(coords + 3 * order[i], coords + 3 * order[i - 1], size, shift))
			offset[w->count++] = (int32_t)i;
	if (ok) {
		offset[w->count] = (int32_t)n;
		for (int64_t i = 0; i < w->count; i++)
			if (offset[i + 1] - offset[i] > w->longest)
				w->longest = offset[i + 1] - offset[i];
		w->order = scratch_new_as(run->b, DTYPE_I32, n, 1);
		w->offset = scratch_new_as(run->b, DTYPE_I32, w->count + 1, 1);
		op_upload_i32(run->b, w->order, order);
		op_upload_i32(run->b, w->offset, offset);
		if (tapping(run))
			tap_windows(run, order, offset, n, w->count, shift);
	}
	free(order);
	free(offset);
	return ok;
}
