/* extract.c - ops of backends whose memory the host can read: the surface (hands the views to FlexiCubes, which wants
 * rows without gaps) and the coordinates of a subdivision. */
#include "backend_impl.h"
#include "flexicubes.h"

void extract_on_host(struct backend *b, struct surface *s, struct tensor features, struct tensor coords,
	int64_t resolution, bool has_color)
{
	struct error err;
	size_t mark = scratch_mark(b);
	if (features.rows > 0 && features.stride != features.cols) {
		struct tensor dense = scratch_new_as(b, DTYPE_F32, features.rows, features.cols);
		if (dense.data)
			b->ops->download(b, dense.data, features);
		features = dense;
	}
	if (coords.rows > 0 && coords.stride != coords.cols) {
		struct tensor dense = scratch_new_as(b, DTYPE_I32, coords.rows, coords.cols);
		if (dense.data)
			b->ops->download_i32(b, dense.data, coords);
		coords = dense;
	}
	if (backend_ok(b) &&
		!flexicubes_from_features(s, features.data, coords.data, features.rows, resolution, has_color, &err))
		backend_fail(b, "%s", err.text);
	scratch_release(b, mark);
}

void coords_up_on_host(struct backend *b, struct tensor children, struct tensor parents)
{
	(void)b;
	for (int64_t r = 0; r < children.rows; r++) {
		const int32_t *from = (const int32_t *)parents.data + r / 8 * parents.stride;
		int32_t *to = (int32_t *)children.data + r * children.stride;
		for (int axis = 0; axis < 3; axis++)
			to[axis] = 2 * from[axis] + (int32_t)(r >> (2 - axis) & 1);
	}
}
