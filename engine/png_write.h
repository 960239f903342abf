/* png_write.h - 8-bit RGB pictures as PNG, one or an animation (APNG: browsers play it, others show the first). */
#ifndef TRELLIS_PNG_WRITE_H
#define TRELLIS_PNG_WRITE_H

#include "buffer.h"

/* A file that is being appended to out, which it borrows. */
struct png {
	struct buffer *out;
	int width, height, n_frames, frame_ms, done;
	uint32_t sequence;
};

/* n_frames pictures will follow, 1 at least. Several are each shown frame_ms milliseconds, for ever around. */
void png_begin(struct png *p, struct buffer *out, int width, int height, int n_frames, int frame_ms);
/* The next one, [height, width, 3]: only its compressed form is kept. The file is complete after the last. */
bool png_frame(struct png *p, const uint8_t *rgb, struct error *err);

#endif
