/* flow.c - integrate a flow from noise (t = 1) to data (t = 0) by Euler steps.
 * Used by sample_structure.c and sample_latent.c.
 * Source: TRELLIS (arXiv 2412.01506) sec. 3; trellis/pipelines/samplers/flow_euler.py. Semantics: MODEL.md "Sampler".
 */
#include "flow.h"

#include <stdlib.h>

void flow_times(double *t, int steps, double rescale_t)
{
	for (int i = 0; i <= steps; i++) {
		double u = i == steps ? 0 : 1 + i * (-1.0 / steps); /* as numpy.linspace computes it */
		t[i] = rescale_t * u / (1 + (rescale_t - 1) * u);
	}
}

bool flow_guided_at(const struct sampler_config *s, double t)
{
	return s->guided && s->guidance != 0 && s->interval[0] <= t && t <= s->interval[1];
}

float *flow_model_times(const struct sampler_config *s)
{
	double *t = malloc(((size_t)s->steps + 1) * sizeof *t);
	float *out = malloc(((size_t)s->steps + 1) * sizeof *out);

	if (t && out) {
		flow_times(t, s->steps, s->rescale_t);
		for (int i = 0; i < s->steps; i++)
			out[i] = (float)(1000 * t[i]);
	} else {
		free(out);
		out = NULL;
	}
	free(t);
	return out;
}

void flow_sample(struct run *run, const struct sampler_config *s, struct tensor x, flow_velocity_fn velocity,
	void *flow, enum trellis_stage stage)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);
	struct tensor v = scratch_new_as(b, DTYPE_F32, x.rows, x.cols);
	struct tensor v_free = scratch_new_as(b, DTYPE_F32, x.rows, x.cols); /* of the zero condition */
	double *t = malloc(((size_t)s->steps + 1) * sizeof *t);

	if (!t) {
		backend_fail(b, "out of memory");
		return;
	}
	flow_times(t, s->steps, s->rescale_t);
	for (int i = 0; i < s->steps && backend_ok(b); i++) {
		run_stage(run, stage, i, s->steps);
		bool guided = flow_guided_at(s, t[i]);
		velocity(run, flow, v, guided ? v_free : TENSOR_NONE, x, i);
		if (guided)
			op_combine(b, v, (float)(1 + s->guidance), v, (float)-s->guidance, v_free);
		if (tapping(run) && i == s->steps - 1) {
			op_combine(b, v_free, (float)(1 - s->sigma_min), x,
				(float)-(s->sigma_min + (1 - s->sigma_min) * t[i]), v);
			tap(run, v_free, "x_0_last");
		}
		op_combine(b, x, 1, x, (float)-(t[i] - t[i + 1]), v);
		tap(run, x, "x_t");
	}
	free(t);
	scratch_release(b, mark);
}
