/* run.h - what a stage gets besides its weights and inputs: the device, progress, and taps on intermediates. */
#ifndef TRELLIS_RUN_H
#define TRELLIS_RUN_H

#include "backend.h"
#include "threads.h"
#include "trellis.h"

/* Receives intermediates by the names of golden/README.md ("block0", "input_blocks0.conv1"...). Only checks use it. */
struct tap_sink {
	void (*tensor)(void *user, struct backend *b, const char *name, struct tensor x);
	void (*integers)(void *user, const char *name, const int32_t *values, int64_t rows, int64_t cols);
	void *user;
};

struct run {
	struct backend *b;
	const struct tap_sink *taps; /* NULL: none */

	/* Progress. Work is counted in estimated floating-point operations. */
	trellis_progress_fn progress; /* may be NULL */
	void *user;
	enum trellis_stage stage;
	int step, steps;
	double work_done, work_total; /* of the whole job */
	double started_s, reported_s; /* monotonic clock */
	struct threads_watch threads; /* whether they wait for processors: looked at between stages and steps */
	atomic_bool cancel;	      /* the backend looks at it before every op */
};

void run_init(struct run *run, struct backend *b, trellis_progress_fn progress, void *user);
/* Unhook from the backend. */
void run_finish(struct run *run);
/* A new stage or step; reported at once. Loops from here on use as many threads as the machine can give. */
void run_stage(struct run *run, enum trellis_stage stage, int step, int steps);
/* So much work was done; reported at most ten times a second. */
void run_worked(struct run *run, double operations);

/* Latch an error unless x is finite: what the network of that role gives. Half precision overflows where weights want more. */
void run_expect_finite(struct run *run, struct tensor x, const char *network);

double clock_s(void);

/* Hand x to the taps, if there are any. */
void tap(struct run *run, struct tensor x, const char *format, ...) __attribute__((format(printf, 3, 4)));
void tap_integers(struct run *run, const int32_t *values, int64_t rows, int64_t cols, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
static inline bool tapping(const struct run *run)
{
	return run->taps != NULL;
}

#endif
