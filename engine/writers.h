/* writers.h - mesh files. glb.c obj.c ply.c stl.c each turn a mesh into the bytes of one format.
 *
 *   glb           y up: (x, y, z) -> (x, z, -y). Colours linear, 16-bit. Seed, model, version and cutout in
 * asset.extras obj           y up like glb, which viewers expect; colours behind the positions (v x y z r g b), sRGB
 *   ply           binary, z up, as the model has it; colours sRGB, 8-bit
 *   stl           binary, z up, in millimetres, standing on z = 0 with the longest side 100; no colours
 *   gaussian.ply  the Gaussians, byte for byte as the official save_ply lays them out */
#ifndef TRELLIS_WRITERS_H
#define TRELLIS_WRITERS_H

#include "buffer.h"
#include "trellis.h"

enum mesh_format { MESH_GLB, MESH_OBJ, MESH_PLY, MESH_STL, MESH_GAUSSIAN_PLY, MESH_FORMATS };

/* "glb", "obj", "ply", "stl", "gaussian.ply": also the files' extension. */
const char *mesh_format_name(enum mesh_format format);
/* False: there is no such format. */
bool mesh_format_from_name(enum mesh_format *format, const char *name);

/* Append the file's bytes to out. Fails when the mesh has nothing of this kind or a number that is not finite. */
bool mesh_format_bytes(struct buffer *out, const struct trellis_mesh *m, enum mesh_format format, struct error *err);
/* Write the file to fd, from where it stands. */
bool mesh_write(const struct trellis_mesh *m, enum mesh_format format, int fd, struct error *err);

/* The formats; out latches when memory runs out. The numbers are finite. */
bool glb_append(struct buffer *out, const struct trellis_mesh *m, struct error *err);
void obj_append(struct buffer *out, const struct trellis_mesh *m);
void ply_append(struct buffer *out, const struct trellis_mesh *m);
void ply_append_gaussians(struct buffer *out, const struct trellis_mesh *m);
void stl_append(struct buffer *out, const struct trellis_mesh *m);

/* 0..1 to 0..255. */
uint8_t color_to_byte(float value);
/* sRGB to linear and back, 0..1. */
float color_to_linear(float srgb);
float color_to_srgb(float linear);

#endif
