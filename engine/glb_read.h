/* glb_read.h - read a binary glTF file into a mesh: what glb.c writes, and other files of plain triangles. */
#ifndef TRELLIS_GLB_READ_H
#define TRELLIS_GLB_READ_H

#include "trellis.h"

/* Positions, normals (when every primitive has them), COLOR_0 (the same) and triangles of all meshes, turned z up;
 * model, seed and cutout from asset.extras. Refused by name: node transforms, external buffers, compressed, sparse or
 * non-triangle primitives. Hostile bytes are refused before they cost memory. name is used in errors. */
bool glb_read(struct trellis_mesh *m, const void *bytes, size_t size, const char *name, struct error *err);
/* The same from a file of at most 1 GiB. */
bool glb_load(struct trellis_mesh *m, const char *path, struct error *err);

#endif
