/* compare.h - compare results with the tensors of a golden file, within the gates of one table.
 * Used by check.c and check_cases.c. Formats and names: the README of the reference data. */
#ifndef TRELLIS_COMPARE_H
#define TRELLIS_COMPARE_H

#include "run.h"
#include "safetensors.h"

struct comparison {
	int compared, expected, failed; /* tensors */
	int taps_left;			/* intermediates in the files that no stage of ours produces */
	bool quiet;			/* print failures only */
	/* The wider gates of half precision: 1 for f16, 8 for bf16, whose rounding is so many times coarser; 0 for f32. */
	int half;
};

/* A file of expectations: "expect.NAME" must be compared, "tap.NAME" may be, others are inputs. */
struct golden {
	struct comparison *comparison;
	struct safetensors *file;
	char label[160]; /* for messages: "modules/ss_flow_a" */
	char prefix[64]; /* "70x70." or "" */
	char infix[32];	 /* "a." after "expect." or "" */
	bool *seen;	 /* [tensors of file] */
};

/* file is borrowed. Counts the expectations under prefix and infix. */
bool golden_open(struct golden *g, struct comparison *c, struct safetensors *file, const char *label,
	const char *prefix, const char *infix, struct error *err);
/* What was expected and never compared has failed. */
void golden_close(struct golden *g);

/* Compare a matrix, or a volume [R^3, C] when the file has [1, C, X, Y, Z]; the file may hold a subsample (NAME.sK,
 * .rK, .xK). No such name in the file: nothing happens. */
void golden_matrix(struct golden *g, const char *name, const float *values, int64_t rows, int64_t cols);
/* Compare number by number in the file's own order. */
void golden_flat(struct golden *g, const char *name, const float *values, int64_t count);
void golden_integers(struct golden *g, const char *name, const int32_t *values, int64_t rows, int64_t cols);
/* The same for [n, 3] voxels in lexicographic order: in half precision a few may be missing or too many. */
void golden_voxels(struct golden *g, const char *name, const int32_t *values, int64_t n);
/* The tensor of this name, to be judged by the caller: each found gets one verdict, which is printed with the text. */
const struct st_tensor *golden_find(struct golden *g, const char *name);
__attribute__((format(printf, 4, 5))) void golden_verdict(
	struct golden *g, const char *name, bool ok, const char *format, ...);
/* A sink that hands every tap to golden_matrix and golden_integers. */
struct tap_sink golden_taps(struct golden *g);

/* Verdicts on data that is not in a safetensors file; they count as one expected tensor each. */
void compare_floats(struct comparison *c, const char *label, const char *name, const float *got, const float *wanted,
	int64_t rows, int64_t cols);
void compare_bytes(
	struct comparison *c, const char *label, const char *name, const void *got, const void *wanted, int64_t count);
/* A case that could not be run at all: one expected, one failed. */
void compare_error(struct comparison *c, const char *label, const char *why);

#endif
