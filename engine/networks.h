/* networks.h - the networks of a model on their device: loaded when they are needed or ahead of that, and given back.
 * Used by pipeline.c.
 *
 * They stay when the whole model leaves room for the work; else each leaves when its stage is over. Where the device
 * computes and copies at the same time (backend_ops.helper), a thread loads what a job will need in the order of its
 * stages while the earlier ones work: all of them when they stay, else as many as NETWORKS_AHEAD_BYTES hold. What goes
 * wrong there is nobody's failure: the network is loaded again when it is needed, and that tells. */
#ifndef TRELLIS_NETWORKS_H
#define TRELLIS_NETWORKS_H

#include "model.h"
#include "run.h"

/* So much may be on the device, the running stage's weights included, when another network is loaded ahead.
 * TRELLIS-image-large in half precision: the encoder and the structure flow, or all that comes behind the latter. */
#define NETWORKS_AHEAD_BYTES 1500000000.0

struct networks;

/* Both are borrowed. free_bytes: of the device, 0 when it is not known. NULL when out of memory. */
struct networks *networks_create(const struct model *m, struct backend *b, uint64_t free_bytes);
void networks_destroy(struct networks *n); /* NULL is fine */

bool networks_stay(const struct networks *n);
/* From now on they leave. */
void networks_let_leave(struct networks *n);
/* Numbers that a role's network keeps on the device; 0 when it is absent. */
double networks_numbers(const struct networks *n, enum model_role role);

/* The role's network (stages.h), loaded if it is not there yet; NULL and err when that fails. Its role is present. */
void *networks_get(struct networks *n, enum model_role role, struct run *run, struct error *err);
/* Whether networks_ahead does anything here. */
bool networks_load_ahead(const struct networks *n);
/* Begin to load those of a job: roles is a set of 1 << role. The flows are prepared for these samplers. */
void networks_ahead(struct networks *n, unsigned roles, const struct sampler_config *structure,
	const struct sampler_config *latent);
/* The role's stage is over. */
void networks_done(struct networks *n, enum model_role role);
/* The job has failed: what is being loaded ahead is given up. When this returns, nobody else uses the device. */
void networks_stop(struct networks *n);
/* After want of memory: give everything back, and have one network at a time on the device from now on. False: it was so. */
bool networks_shrink(struct networks *n);

#endif
