/* cuda_extract.c - op_extract of the CUDA backend: memory for each step of extract*.cu, and the result to the host.
 * How much is needed is known step by step, so the host waits three times for a few counts. */
#include "cuda.h"
#include "extract.h"

#include <pthread.h>
#include <stdlib.h>

/* count numbers of 32 bits on the device; NULL: the backend has failed. */
static void *take(struct backend *b, int64_t count)
{
	return scratch_new_as(b, DTYPE_I32, count, 1).data;
}

static struct bitmap take_bitmap(struct backend *b, int64_t words)
{
	/* Words beside the first and the last may be read; what they hold lies outside of the grid and is masked. */
	enum { GUARD = 32 };
	uint32_t *bits = take(b, words + 2 * GUARD);
	return (struct bitmap){bits ? bits + GUARD : NULL, take(b, words)};
}

/* Half a millisecond's work, written once. */
static struct fc_tables tables;

static void derive_tables(void)
{
	fc_tables_init(&tables);
}

static void extraction_begin(struct backend *b, struct extraction *x, int64_t resolution)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct fc_case *cases = take(b, sizeof tables.cases / (sizeof(int32_t)));
	int64_t row = (resolution + 3 + 31) / 32 * 32, slab = row * (resolution + 3);

	x->grid = (struct extract_grid){.resolution = (int32_t)resolution,
		.row = (int32_t)row,
		.slab = (int32_t)slab,
		.sdf_bias = (float)(-1.0 / (double)resolution),
		.reach = (float)((1.0 - 1e-8) / (2.0 * (double)resolution)),
		.words = slab / 32 * (resolution + 3)};
	x->totals = take(b, sizeof *x->totals / sizeof(uint32_t));
	x->tile_sums = take(b, launch_extract_room(2 * x->grid.words));
	x->active = take_bitmap(b, x->grid.words);
	x->touched = take_bitmap(b, x->grid.words);
	x->used = take_bitmap(b, x->grid.words);
	x->cubes = take_bitmap(b, x->grid.words);
	x->inside = take_bitmap(b, x->grid.words).bits;
	x->quads_before = take(b, 2 * x->grid.words);
	x->row_of = take(b, x->n);
	if (!backend_ok(b))
		return;
	pthread_once(&once, derive_tables);
	cuda_upload_bytes(b, cases, tables.cases, sizeof tables.cases);
	x->cases = cases;
}

static bool read_totals(struct backend *b, const struct extraction *x, struct extract_totals *t)
{
	if (backend_ok(b))
		cuda_download_bytes(b, t, x->totals, sizeof *t);
	return backend_ok(b);
}

static bool cubes_are_good(struct backend *b, const struct extraction *x, const struct extract_totals *t)
{
	int32_t c[3];
	if (t->bad_row != UINT32_MAX) {
		cuda_download_bytes(b, c, x->coords + t->bad_row * x->coords_stride, sizeof c);
		backend_fail(b, "mesh extraction: cube (%d, %d, %d) lies outside of the grid of %d", c[0], c[1], c[2],
			x->grid.resolution);
	} else if (t->twice != UINT32_MAX) {
		int32_t key = (int32_t)t->twice;
		backend_fail(b, "mesh extraction: cube (%d, %d, %d) is listed twice", key / x->grid.slab - 1,
			key % x->grid.slab / x->grid.row - 1, key % x->grid.row - 1);
	}
	return backend_ok(b);
}

/* From cubes to the numbers of everything else in *t. */
static bool find_surface(struct backend *b, struct extraction *x, struct extract_totals *t)
{
	const struct launch *l = cuda_launch(b);

	if (!cuda_check(b, launch_extract_touched(l, x), "mesh extraction, corners") || !read_totals(b, x, t) ||
		!cubes_are_good(b, x, t))
		return false;
	x->touched_keys = take(b, t->n_touched);
	if (!backend_ok(b) || !cuda_check(b, launch_extract_inside(l, x, t->n_touched), "mesh extraction, surface") ||
		!read_totals(b, x, t))
		return false;
	x->used_keys = take(b, t->n_used);
	x->corners = take(b, (int64_t)t->n_used * CORNER_WIDTH);
	x->cube_keys = take(b, t->n_cubes);
	x->duals_before = take(b, (int64_t)t->n_cubes * FC_MAX_DUALS);
	x->numbered = take(b, (int64_t)t->n_cubes * (int64_t)(sizeof *x->numbered / sizeof(int32_t)));
	x->quads = take(b, t->n_quads);
	x->tile_sums = take(b, launch_extract_room((int64_t)t->n_cubes * FC_MAX_DUALS));
	return backend_ok(b) && cuda_check(b, launch_extract_list(l, x), "mesh extraction, lists") &&
	       cuda_check(b, launch_extract_classify(l, x, t->n_cubes, t->n_used), "mesh extraction, cases") &&
	       read_totals(b, x, t);
}

static void *host_copy(struct backend *b, const void *device, size_t bytes)
{
	void *host = malloc(bytes ? bytes : 1);
	if (!host)
		backend_fail(b, "mesh extraction: no memory for %zu bytes of the mesh", bytes);
	else if (bytes)
		cuda_download_bytes(b, host, device, bytes);
	return host;
}

static void write_surface(struct backend *b, struct surface *out, struct extraction *x, const struct extract_totals *t)
{
	size_t n_vertices = t->n_vertices, n_faces = 2 * (size_t)t->n_quads;

	x->vertices = take(b, 3 * (int64_t)n_vertices);
	x->attrs = x->has_color ? take(b, 6 * (int64_t)n_vertices) : NULL;
	x->faces = take(b, 3 * (int64_t)n_faces);
	x->is_inner = take(b, (int64_t)(n_faces / 4 + 1));
	if (!backend_ok(b) || !cuda_check(b, launch_extract_surface(cuda_launch(b), x, t->n_cubes, t->n_quads),
				      "mesh extraction, vertices and faces"))
		return;
	struct surface s = {
		.n_vertices = (int64_t)n_vertices,
		.n_faces = (int64_t)n_faces,
		.vertices = host_copy(b, x->vertices, 3 * n_vertices * sizeof(float)),
		.attrs = x->has_color ? host_copy(b, x->attrs, 6 * n_vertices * sizeof(float)) : NULL,
		.faces = host_copy(b, x->faces, 3 * n_faces * sizeof(int32_t)),
		.is_inner = host_copy(b, x->is_inner, n_faces),
	};
	if (backend_ok(b))
		*out = s;
	else
		surface_finish(&s);
}

void cuda_extract(struct backend *b, struct surface *s, struct tensor features, struct tensor coords,
	int64_t resolution, bool has_color)
{
	size_t mark = scratch_mark(b);
	struct extract_totals totals;
	struct extraction x = {
		.n = features.rows,
		.coords = coords.data,
		.coords_stride = coords.stride,
		.features = features.data,
		.stride = features.stride,
		.has_color = has_color,
	};

	/* 2^24 cubes have under 2^27 corners: eight numbers for each fit 32 bits. */
	if (x.n > INT64_C(1) << 24 || resolution > EXTRACT_MAX_RESOLUTION) {
		backend_fail(b, "mesh extraction: %lld cubes at resolution %lld are too many", (long long)x.n,
			(long long)resolution);
		return;
	}
	extraction_begin(b, &x, resolution);
	if (backend_ok(b) && find_surface(b, &x, &totals))
		write_surface(b, s, &x, &totals);
	scratch_release(b, mark);
}
