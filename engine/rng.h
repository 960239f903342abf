/* rng.h - normally distributed numbers equal, bit for bit, to torch's CPU generator: a seed gives the noise that the
 * official pipeline starts from. One thread uses a struct rng at a time. */
#ifndef TRELLIS_RNG_H
#define TRELLIS_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
	uint32_t state[624]; /* mt19937 */
	int next;	     /* index into state; 624: twist first */
	bool has_kept;	     /* a small draw left one number over */
	double kept;
};

/* As torch.manual_seed: the low 32 bits count, and a kept number is forgotten. */
void rng_seed(struct rng *rng, uint64_t seed);

/* out[n] as torch.randn(n). The order of draws matters: n below 16 takes another path than n of 16 and more. */
void rng_normal(struct rng *rng, float *out, int64_t n);

#endif
