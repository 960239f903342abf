/* preview.h - pictures of a mesh from a small software rasteriser: one light with soft shadows, a sky, a floor.
 * For NAME.preview.png beside each mesh and for `trellis render`. */
#ifndef TRELLIS_PREVIEW_H
#define TRELLIS_PREVIEW_H

#include "buffer.h"
#include "trellis.h"

/* The light that reaches a mesh, whatever it is seen from: compute once, draw many views. Borrows the mesh. */
struct preview;

struct preview *preview_create(const struct trellis_mesh *m, struct error *err);
void preview_destroy(struct preview *p); /* NULL is fine */

/* Draw into rgb [height, row_pixels, 3], columns 0 .. width - 1, as seen from yaw_deg around the vertical and pitch_deg
 * above the horizon; yaw 0 looks at the front (-y), 90 at +x. The object fills the frame the same from every yaw. */
bool preview_draw(const struct preview *p, uint8_t *rgb, int width, int height, int row_pixels, float yaw_deg,
	float pitch_deg, struct error *err);

/* The picture beside a mesh: front and back, 512 x 512 each, side by side, as PNG bytes. */
bool preview_append_png(struct buffer *out, const struct trellis_mesh *m, struct error *err);
/* The same to fd, from where it stands. */
bool preview_write(const struct trellis_mesh *m, int fd, struct error *err);

#endif
