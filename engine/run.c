/* run.c - progress, cancellation and taps of a job. Used by pipeline.c and every stage. */
#include "run.h"

#include <time.h>

double clock_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void run_init(struct run *run, struct backend *b, trellis_progress_fn progress, void *user)
{
	*run = (struct run){.b = b, .progress = progress, .user = user, .started_s = clock_s()};
	atomic_init(&run->cancel, false);
	b->cancel = &run->cancel;
	b->fault = FAULT_NONE;
}

void run_finish(struct run *run)
{
	run->b->cancel = NULL;
}

static void report(struct run *run)
{
	struct trellis_progress p = {.stage = run->stage, .step = run->step, .steps = run->steps, .eta_s = -1};
	double now = clock_s();

	run->reported_s = now;
	if (!run->progress)
		return;
	if (run->work_total > 0)
		p.fraction = run->work_done < run->work_total ? run->work_done / run->work_total : 1;
	if (p.fraction > 0.01)
		p.eta_s = (now - run->started_s) * (1 - p.fraction) / p.fraction;
	if (!run->progress(&p, run->user))
		atomic_store(&run->cancel, true);
}

void run_stage(struct run *run, enum trellis_stage stage, int step, int steps)
{
	run->stage = stage;
	run->step = step;
	run->steps = steps;
	threads_review(&run->threads);
	report(run);
}

void run_worked(struct run *run, double operations)
{
	run->work_done += operations;
	if (clock_s() - run->reported_s > 0.1)
		report(run);
}

void run_expect_finite(struct run *run, struct tensor x, const char *network)
{
	static const struct {
		const char *name, *advice;
	} types[] = {
		[DTYPE_F32] = {"f32", "the weights or the sampler's settings are not sound"},
		[DTYPE_F16] = {"f16", "dtype bf16 or f32 has a wider range"},
		[DTYPE_BF16] = {"bf16", "the weights or the sampler's settings may not be sound; dtype f32 tells"},
	};
	if (!op_is_finite(run->b, x))
		backend_fail(run->b, "%s: the result is not finite in %s: %s", network, types[run->b->act].name,
			types[run->b->act].advice);
}

void tap(struct run *run, struct tensor x, const char *format, ...)
{
	char name[128];
	va_list args;

	if (!run->taps || !backend_ok(run->b))
		return;
	va_start(args, format);
	vsnprintf(name, sizeof name, format, args);
	va_end(args);
	run->taps->tensor(run->taps->user, run->b, name, x);
}

void tap_integers(struct run *run, const int32_t *values, int64_t rows, int64_t cols, const char *format, ...)
{
	char name[128];
	va_list args;

	if (!run->taps || !backend_ok(run->b))
		return;
	va_start(args, format);
	vsnprintf(name, sizeof name, format, args);
	va_end(args);
	run->taps->integers(run->taps->user, name, values, rows, cols);
}

const char *trellis_stage_name(enum trellis_stage stage)
{
	static const char *const names[] = {
		[TRELLIS_LOAD] = "loading",
		[TRELLIS_PREPARE] = "preparing image",
		[TRELLIS_ENCODE] = "encoding image",
		[TRELLIS_STRUCTURE] = "sampling structure",
		[TRELLIS_VOXELS] = "decoding structure",
		[TRELLIS_LATENT] = "sampling latent",
		[TRELLIS_DECODE] = "decoding mesh",
		[TRELLIS_MESH] = "extracting mesh",
		[TRELLIS_WRITE] = "writing",
	};
	return names[stage];
}
