/* png_write.h - 8-bit RGB pictures as PNG, one or an animation (APNG: browsers play it, others show the first). */
#ifndef TRELLIS_PNG_WRITE_H
#define TRELLIS_PNG_WRITE_H

#include "buffer.h"

/* frames[n_frames]: [height, width, 3] each. With several, each is shown frame_ms milliseconds, for ever around. */
bool png_append(struct buffer *out, const uint8_t *const *frames, int n_frames, int width, int height, int frame_ms,
	struct error *err);

#endif
