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

/* A voxel's or window's sort key with the row that it came from. */
struct keyed {
	uint64_t key;
	int32_t row;
};

static int compare_keyed(const void *a, const void *b)
{
	const struct keyed *x = a, *y = b;
	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return (x->row > y->row) - (x->row < y->row);
}

/* Rows sorted by the coordinates (c + shift) / size, lexicographic; malloc'd. */
static struct keyed *sort_by_cell(const int32_t *coords, int64_t n, int size, int shift)
{
	struct keyed *k = malloc((size_t)n * sizeof *k + 1);

	for (int64_t i = 0; k && i < n; i++) {
		uint64_t x = (uint64_t)((coords[3 * i] + shift) / size);
		uint64_t y = (uint64_t)((coords[3 * i + 1] + shift) / size);
		uint64_t z = (uint64_t)((coords[3 * i + 2] + shift) / size);
		k[i] = (struct keyed){.key = x << 42 | y << 21 | z, .row = (int32_t)i};
	}
	if (k)
		qsort(k, (size_t)n, sizeof *k, compare_keyed);
	return k;
}

bool voxels_coarsen(struct run *run, struct voxels *coarse, struct voxels *fine, int32_t **parent, struct error *err)
{
	struct keyed *sorted = sort_by_cell(fine->coords, fine->n, 2, 0);
	int32_t *index = malloc((size_t)fine->n * sizeof *index + 1);
	int64_t n = 0;

	*coarse = (struct voxels){.coords = malloc((size_t)fine->n * 3 * sizeof(int32_t) + 1)};
	if (!sorted || !index || !coarse->coords) {
		free(sorted);
		free(index);
		voxels_finish(coarse);
		return error_set(err, "out of memory for %lld voxels", (long long)fine->n);
	}
	for (int64_t i = 0; i < fine->n; i++) {
		if (i == 0 || sorted[i].key != sorted[i - 1].key) {
			for (int axis = 0; axis < 3; axis++)
				coarse->coords[3 * n + axis] = fine->coords[3 * sorted[i].row + axis] / 2;
			n++;
		}
		index[sorted[i].row] = (int32_t)(n - 1);
	}
	coarse->n = n;
	fine->parent = scratch_new_as(run->b, DTYPE_I32, fine->n, 1);
	op_upload_i32(run->b, fine->parent, index);
	free(sorted);
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
	struct keyed *sorted = sort_by_cell(coords, n, size, shift);
	int32_t *order = malloc((size_t)n * sizeof *order + 1), *offset = malloc(((size_t)n + 1) * sizeof *offset);
	bool ok = sorted && order && offset;

	*w = (struct windows){0};
	if (!ok)
		error_set(err, "out of memory for %lld voxels", (long long)n);
	for (int64_t i = 0; ok && i < n; i++) {
		order[i] = sorted[i].row;
		if (i == 0 || sorted[i].key != sorted[i - 1].key)
			offset[w->count++] = (int32_t)i;
	}
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
	free(sorted);
	free(order);
	free(offset);
	return ok;
}
