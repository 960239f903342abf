/* kernel_bench.h - how long each op takes at the shapes of TRELLIS-image-large, beside the matrix product's own peak in
 * the same process. Used by `trellis bench`; figures and what was tried: kernels/NOTES.md. */
#ifndef TRELLIS_KERNEL_BENCH_H
#define TRELLIS_KERNEL_BENCH_H

#include "backend.h"

struct kernel_timing {
	const char *name;
	double ms;	      /* the best of some runs */
	double gflop_per_s;   /* 0: the op is bound by memory */
	double gbyte_per_s;   /* of what it must read and write at least */
	double peak_fraction; /* gflop_per_s / the largest product rate seen so far */
};

/* The rate of plain f32 (or the backend's) matrix products in GFLOP/s: the best of a few large shapes. 0 and a latched
 * error on failure. */
double kernel_bench_peak(struct backend *b);

/* Runs every op in turn and calls report after each; the peak is measured again beside every op, so that a machine that
 * is shared or throttles is compared with itself. voxels: the size of the shell that the sparse ops see. only: NULL, or
 * a part of the names to run. */
bool kernel_bench_run(struct backend *b, int64_t voxels, const char *only,
	void (*report)(void *user, const struct kernel_timing *timing), void *user, struct error *err);

#endif
