/* change_tensor.c - FILE NAME SHAPE VALUE: write a safetensors file anew with one tensor of another shape (1x3x70x70), full of
 * VALUE. For tests of what reads such files (scripts/check.sh). */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
	fprintf(stderr, "change_tensor: %s\n", what);
	return 1;
}

/* malloc'd, of t's dtype */
static void *filled(const struct st_tensor *t, double value, int64_t count)
{
	char *data = malloc((size_t)count * 8 + 1);
	for (int64_t i = 0; data && i < count; i++)
		if (t->dtype == ST_F64)
			((double *)data)[i] = value;
		else if (t->dtype == ST_I32)
			((int32_t *)data)[i] = (int32_t)value;
		else
			((float *)data)[i] = (float)value;
	return data;
}

int main(int argc, char **argv)
{
	struct error err = {"usage: change_tensor FILE NAME SHAPE VALUE"};
	struct safetensors *f = argc == 5 ? safetensors_open(argv[1], &err) : NULL;
	const struct st_tensor *changed = f ? safetensors_find(f, argv[2]) : NULL;
	struct safetensors_writer *w = safetensors_writer_create();
	int64_t dim[ST_MAX_DIMS], count = 1;
	int ndim = 0;
	if (!changed || (changed->dtype != ST_F64 && changed->dtype != ST_F32 && changed->dtype != ST_I32))
		return fail(f ? "there is no such tensor of numbers" : err.text);
	for (char *rest = argv[3]; *rest && ndim < ST_MAX_DIMS; rest += *rest == 'x')
		count *= dim[ndim++] = strtoll(rest, &rest, 10);
	void *data = filled(changed, strtod(argv[4], NULL), count);
	if (!w || !data)
		return fail("out of memory");
	for (int i = 0; i < safetensors_count(f); i++) {
		const struct st_tensor *t = safetensors_at(f, i);
		if (t == changed)
			safetensors_writer_add(w, t->name, t->dtype, ndim, dim, data);
		else
			safetensors_writer_add(w, t->name, t->dtype, t->ndim, t->dim, t->data);
	}
	bool ok = safetensors_writer_save(w, argv[1], &err);
	safetensors_writer_destroy(w);
	safetensors_close(f);
	free(data);
	return ok ? 0 : fail(err.text);
}
