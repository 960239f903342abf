/* model_tensors.h - which tensors a checkpoint of each class has: names and shapes, derived from its config.
 * The official classes load strictly, so a checkpoint has exactly these. */
#ifndef TRELLIS_MODEL_TENSORS_H
#define TRELLIS_MODEL_TENSORS_H

#include "model.h"

/* required is false for what training left behind and inference never reads (mask_token). */
typedef void (*model_tensor_fn)(void *user, const char *name, int ndim, const int64_t *dim, bool required);
void model_tensors_list(const struct checkpoint *c, model_tensor_fn fn, void *user);

/* How many trained numbers c->tensors holds: buffers that can be computed (pos_emb, offset_perturbation) do not count.
 */
int64_t model_tensors_parameters(const struct checkpoint *c);

/* Compare c->tensors with the list; tells every missing, misshapen and unexpected tensor, one line each. */
typedef void (*model_tensor_fault_fn)(void *user, const struct checkpoint *c, const char *what);
void model_tensors_check(const struct checkpoint *c, model_tensor_fault_fn fault, void *user);

#endif
