/* flow.h - integrate a flow from noise (t = 1) to data (t = 0) by Euler steps with classifier-free guidance. */
#ifndef TRELLIS_FLOW_H
#define TRELLIS_FLOW_H

#include "model.h"
#include "run.h"

/* t [steps + 1] from 1 to 0, t' = r t / (1 + (r - 1) t). */
void flow_times(double *t, int steps, double rescale_t);
/* Guidance applies at t (inclusive bounds, compared in double) and is not zero. */
bool flow_guided_at(const struct sampler_config *s, double t);
/* What the model receives: 1000 t as f32. malloc'd [steps]; NULL when out of memory. */
float *flow_model_times(const struct sampler_config *s);

/* v [n, c] = the flow's velocity at x and step under the condition; v_free, unless none, under the zero condition. */
typedef void (*flow_velocity_fn)(
	struct run *run, void *flow, struct tensor v, struct tensor v_free, struct tensor x, int step);

/* Integrate x [n, c] f32 in place. Taps: "x_t" after each step, "x_0_last" before the last. Errors latch in the
 * backend. */
void flow_sample(struct run *run, const struct sampler_config *s, struct tensor x, flow_velocity_fn velocity,
	void *flow, enum trellis_stage stage);

#endif
