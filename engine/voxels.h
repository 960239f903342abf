/* voxels.h - active voxels on the host and what the sparse layers need of them on the device.
 * Used by sample_latent.c and the decoders. Source: trellis/modules/sparse/{spatial.py,attention/windowed_attn.py}. */
#ifndef TRELLIS_VOXELS_H
#define TRELLIS_VOXELS_H

#include "run.h"

/* Voxels at one resolution; device tensors live in scratch. */
struct voxels {
	int64_t n;
	int32_t *coords;	  /* [n, 3], owned */
	struct tensor neighbours; /* I32 [n, 28]; none until voxels_connect */
	struct tensor parent;	  /* I32 [n, 1]: row in the coarser level; none at the coarsest */
};

/* Copies coords. */
bool voxels_init(struct voxels *v, const int32_t *coords, int64_t n, struct error *err);
void voxels_finish(struct voxels *v);
/* Build the neighbour table. */
void voxels_connect(struct run *run, struct voxels *v);
/* The level of half the resolution: distinct halved coordinates in lexicographic order; sets fine->parent.
 * parent: NULL or receives the index on the host, malloc'd. */
bool voxels_coarsen(struct run *run, struct voxels *coarse, struct voxels *fine, int32_t **parent, struct error *err);

/* Swin windows of `size` with the coordinates shifted by `shift`; the device part lives in scratch.
 * Taps window_of_voxel.shiftS [n] and window_sizes.shiftS [windows]. */
bool voxels_windows(
	struct run *run, const int32_t *coords, int64_t n, int size, int shift, struct windows *w, struct error *err);

#endif
