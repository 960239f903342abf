/* golden.h - tensors of tests/golden for the tests: load one as f32 or i32, compare with a gate. */
#ifndef TRELLIS_TEST_GOLDEN_H
#define TRELLIS_TEST_GOLDEN_H

#include "safetensors.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static inline struct safetensors *golden_open(const char *path)
{
	struct error err = {""};
	struct safetensors *f = safetensors_open(path, &err);
	cr_assert_not_null(f, "%s", err.text);
	return f;
}

static inline const struct st_tensor *golden_find(const struct safetensors *f, const char *name)
{
	const struct st_tensor *t = safetensors_find(f, name);
	cr_assert_not_null(t, "%s has no %s", safetensors_path(f), name);
	return t;
}

/* The caller frees. */
static inline float *golden_f32(const struct safetensors *f, const char *name)
{
	const struct st_tensor *t = golden_find(f, name);
	float *values = malloc((size_t)t->count * sizeof *values);
	cr_assert_not_null(values);
	st_read_f32(values, t);
	return values;
}

static inline int32_t *golden_i32(const struct safetensors *f, const char *name)
{
	const struct st_tensor *t = golden_find(f, name);
	int32_t *values = malloc((size_t)t->count * sizeof *values);
	cr_assert_not_null(values);
	st_read_i32(values, t);
	return values;
}

/* max |a - b| <= gate * max |b|, over all elements of the named tensor. */
static inline void golden_compare(
	const float *got, int64_t count, const struct safetensors *f, const char *name, double gate)
{
	const struct st_tensor *t = golden_find(f, name);
	cr_assert_eq(t->count, count, "%s: wanted %lld numbers, got %lld", name, (long long)t->count, (long long)count);
	float *want = golden_f32(f, name);
	double worst = 0, largest = 0;
	int64_t at = 0;
	for (int64_t i = 0; i < count; i++) {
		double difference = fabs((double)got[i] - want[i]);
		cr_assert(isfinite(got[i]), "%s[%lld] is %g", name, (long long)i, got[i]);
		largest = fmax(largest, fabs(want[i]));
		if (difference > worst) {
			worst = difference;
			at = i;
		}
	}
	cr_assert(worst <= gate * largest, "%s: max ratio %.3g at [%lld]: wanted %.9g, got %.9g", name, worst / largest,
		(long long)at, want[at], got[at]);
	free(want);
}

/* Every element equal. */
static inline void golden_equal(const int32_t *got, int64_t count, const struct safetensors *f, const char *name)
{
	const struct st_tensor *t = golden_find(f, name);
	cr_assert_eq(t->count, count, "%s: wanted %lld numbers, got %lld", name, (long long)t->count, (long long)count);
	int32_t *want = golden_i32(f, name);
	for (int64_t i = 0; i < count; i++)
		cr_assert_eq(got[i], want[i], "%s[%lld]: wanted %d, got %d", name, (long long)i, want[i], got[i]);
	free(want);
}

#endif
