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

	v->neighbours = scratch_new_as(b, DTYPE_I32, v->n, 27);
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

bool voxels_coarsen(
	struct run *run, struct voxels *coarse, struct voxels *fine, int32_t **parent, struct error *err)
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

/* Window numbers as the official code counts them: (wx NY + wy) NZ + wz over the occupied box. */
static void tap_windows(struct run *run, const int32_t *coords, int64_t n, int size, int shift, const int32_t *lengths,
	int64_t count)
{
	int32_t most[3] = {0, 0, 0}, *window = malloc((size_t)n * sizeof *window + 1);

	for (int64_t i = 0; i < n * 3; i++)
		if ((coords[i] + shift) / size + 1 > most[i % 3])
			most[i % 3] = (coords[i] + shift) / size + 1;
	for (int64_t i = 0; window && i < n; i++)
		window[i] = ((coords[3 * i] + shift) / size * most[1] + (coords[3 * i + 1] + shift) / size) * most[2]
			    + (coords[3 * i + 2] + shift) / size;
	if (window)
		tap_integers(run, window, n, 1, "window_of_voxel.shift%d", shift);
	tap_integers(run, lengths, count, 1, "window_sizes.shift%d", shift);
	free(window);
}

bool voxels_windows(
	struct run *run, const int32_t *coords, int64_t n, int size, int shift, struct windows *w, struct error *err)
{
	struct keyed *sorted = sort_by_cell(coords, n, size, shift);
	int32_t *order = malloc((size_t)n * sizeof *order + 1), *offset = malloc(((size_t)n + 1) * sizeof *offset);
	int32_t *lengths = malloc((size_t)n * sizeof *lengths + 1);
	bool ok = sorted && order && offset && lengths;

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
		for (int64_t i = 0; i < w->count; i++) {
			lengths[i] = offset[i + 1] - offset[i];
			if (lengths[i] > w->longest)
				w->longest = lengths[i];
		}
		w->order = scratch_new_as(run->b, DTYPE_I32, n, 1);
		w->offset = scratch_new_as(run->b, DTYPE_I32, w->count + 1, 1);
		op_upload_i32(run->b, w->order, order);
		op_upload_i32(run->b, w->offset, offset);
		if (tapping(run))
			tap_windows(run, coords, n, size, shift, lengths, w->count);
	}
	free(sorted);
	free(order);
	free(offset);
	free(lengths);
	return ok;
}
