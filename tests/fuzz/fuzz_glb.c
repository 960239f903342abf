/* fuzz_glb.c - the GLB reader on hostile bytes; what it accepts can be written again. */
#include "glb_read.h"
#include "writers.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct trellis_mesh m;
	struct error err = {""};
	if (!glb_read(&m, data, size, "fuzz", &err)) {
		if (!err.text[0])
			abort();
		return 0;
	}
	struct buffer out = {0};
	if (!mesh_format_bytes(&out, &m, MESH_GLB, &err))
		abort();
	buffer_finish(&out);
	trellis_mesh_finish(&m);
	return 0;
}
