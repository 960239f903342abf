/* sniff.h - is this file a picture that we can read, and is all of it there? Looks at names and at the structure of the
 * file (PNG chunks, JPEG markers) and decodes nothing: decoders run in the worker only. Used by the ingest thread. */
#ifndef FS_SNIFF_H
#define FS_SNIFF_H

#include "error.h"

#include <stdint.h>

/* Limits on what is passed to a decoder. */
#define SNIFF_MAX_PIXELS 100000000u /* width x height */
#define SNIFF_MAX_BYTES (1ull << 30)
#define SNIFF_MAX_CHUNKS 100000 /* of a PNG */
#define SNIFF_MAX_SCANS 500	/* of a JPEG */

enum sniff_name {
	SNIFF_NAME_JUNK, /* dotfiles, Thumbs.db, what a transfer, a backup or an atomic save calls its files: never a job */
	SNIFF_NAME_IMAGE,	/* png jpg jpeg, any case */
	SNIFF_NAME_UNSUPPORTED, /* webp heic ... : an error that says so */
	SNIFF_NAME_OTHER,	/* the bytes decide */
};

/* name: the last component of a path. */
enum sniff_name sniff_name(const char *name);
/* Whether what is in a folder of this name is junk: a hidden one, a trash, a NAS's own, a transfer's. */
bool sniff_folder_is_junk(const char *name);

enum sniff_verdict {
	SNIFF_IGNORED, /* never a job and no error: junk name, size 0, or neither an image name nor image bytes */
	SNIFF_WHOLE,   /* a PNG or JPEG with its end: width and height are set */
	SNIFF_PADDED, /* a JPEG that ends in zeros instead of its end marker: whole, if nothing more comes; image is set */
	SNIFF_TRUNCATED, /* so far fine, but the end is missing: wait, later fail it with err */
	SNIFF_REFUSED,	 /* fail it with err: unsupported, not what the name says, broken, too large */
	SNIFF_IO_ERROR,	 /* reading failed: err says why */
};

struct sniff_image {
	const char *format; /* "PNG" or "JPEG"; static */
	uint32_t width, height;
};

/* Judge a file by its name (last component) and its bytes, read by pread in pieces of 64 KB; the file may change
 * meanwhile (the verdict then is about what was seen). image (may be NULL) is written for SNIFF_WHOLE and SNIFF_PADDED. err gets one
 * sentence without the file's name, fit for the error file: "the image is truncated: ...". An image name over a start
 * of zeros (space that a writer has reserved) is SNIFF_TRUNCATED. At most SNIFF_MAX_BYTES are read. */
enum sniff_verdict sniff_file(int fd, const char *name, struct sniff_image *image, struct error *err);

#endif
