/* random_checkpoint.h - a checkpoint of TRELLIS-image-large's shapes with random weights, in memory, on which results can be
 * compared: activations keep their size and every part of a block counts. (The weights of `trellis bench --random` are all of
 * one size: the norms' gains near zero make every key count the same, and a block of the encoder adds next to nothing.)
 * Half precision flows and decoders, an f32 encoder, as released. Used by large_compare.c. */
#ifndef TRELLIS_TEST_RANDOM_CHECKPOINT_H
#define TRELLIS_TEST_RANDOM_CHECKPOINT_H

#include "cli/large.h"
#include "model_tensors.h"
#include "random_weights.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct random_checkpoint {
	struct checkpoint checkpoint;
	char *bytes;	     /* as a file would hold it: 8 bytes, header, data */
	size_t header, data; /* used so far */
	enum st_dtype dtype;
};

static const size_t HEADER_BYTES = 1 << 18, DATA_BYTES = (size_t)1300 << 20; /* the encoder has 1.22e9 */

/* The mean and the deviation of a tensor's numbers. Gates come out as about 0.2, since the time embedding is small. */
static float choose_mean(const char *name, int ndim, int64_t fan_in, float *deviation)
{
	*deviation = 0.1f;
	if (ends_with(name, ".weight") && ndim > 1) {
		bool queries = ends_with(name, "query.weight") || ends_with(name, "to_q.weight");
		*deviation = (queries ? 2 : 1) / sqrtf((float)fan_in); /* 2: attention to some tens of keys */
		return 0;
	}
	if (ends_with(name, ".weight")) /* of a norm */
		return 1;
	if (ends_with(name, ".gamma")) /* of q and of k, which makes 2 again */
		return 1.4f;
	if (ends_with(name, ".lambda1"))
		return 0.3f;
	if (!ends_with(name, ".bias")) /* a table: positions, class, registers */
		*deviation = 0.5f;
	return 0;
}

/* Evenly distributed, of deviation 1: the i-th number of splitmix64. */
static float random_number(uint64_t i)
{
	uint64_t z = i * 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (float)(int32_t)(z >> 32) * (1.7320508f / 2147483648.0f);
}

static void add_tensor(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	struct random_checkpoint *r = user;
	char *text = r->bytes + 8, *data = text + HEADER_BYTES + r->data;
	size_t begin = r->data;
	float deviation, mean;
	int64_t count = 1;

	if (!required)
		return;
	r->header += (size_t)sprintf(text + r->header, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":", begin ? ',' : '{', name,
		st_dtype_name(r->dtype));
	for (int i = 0; i < ndim; count *= dim[i++])
		r->header += (size_t)sprintf(text + r->header, "%c%lld", i ? ',' : '[', (long long)dim[i]);
	r->data += (size_t)count * st_dtype_size(r->dtype);
	r->header += (size_t)sprintf(text + r->header, "],\"data_offsets\":[%zu,%zu]}", begin, r->data);
	assert(r->data <= DATA_BYTES && r->header < HEADER_BYTES - 1024);
	mean = choose_mean(name, ndim, count / dim[0], &deviation);
#pragma omp parallel for
	for (int64_t i = 0; i < count; i++) {
		float x = mean + deviation * random_number(begin + (uint64_t)i);
		if (r->dtype == ST_F16)
			((uint16_t *)data)[i] = cut_to_half(x);
		else
			((float *)data)[i] = x;
	}
}

static void random_checkpoint_finish(struct random_checkpoint *r)
{
	checkpoint_finish(&r->checkpoint);
	free(r->bytes);
	*r = (struct random_checkpoint){0};
}

/* The same numbers each time. */
static bool random_checkpoint_make(struct random_checkpoint *r, enum model_role role, struct error *err)
{
	struct checkpoint *c = &r->checkpoint;
	bool is_encoder = role == ROLE_ENCODER;

	*r = (struct random_checkpoint){.dtype = is_encoder ? ST_F32 : ST_F16};
	if (!(is_encoder ? checkpoint_parse_encoder : checkpoint_parse)(
		    c, large[role], strlen(large[role]), "large", err))
		return false;
	r->bytes = malloc(8 + HEADER_BYTES + DATA_BYTES);
	if (!r->bytes)
		return error_set(err, "out of memory");
	memcpy(r->bytes, &(uint64_t){HEADER_BYTES}, 8);
	memset(r->bytes + 8, ' ', HEADER_BYTES);
	model_tensors_list(c, add_tensor, r);
	memcpy(r->bytes + 8 + r->header, "} ", 2); /* over the zero that sprintf left */
	c->tensors = safetensors_from_memory(r->bytes, 8 + HEADER_BYTES + r->data, "large", err);
	return c->tensors;
}

#endif
