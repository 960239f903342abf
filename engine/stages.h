/* stages.h - the stages of the network, one file each. Every stage has create (binds its checkpoint's tensors on the
 * device, every shape checked), destroy (NULL is fine) and a forward function that latches errors in the backend.
 * The flows also have prepare: what depends on the sampler's steps and not on the picture, which sample does by itself
 * where it was not done before.
 * Volumes are channels last: row (x * R + y) * R + z. */
#ifndef TRELLIS_STAGES_H
#define TRELLIS_STAGES_H

#include "model.h"
#include "run.h"

/* encode_image.c: DINOv2 with registers. */
struct image_encoder;
struct image_encoder *image_encoder_create(struct run *run, const struct checkpoint *c, struct error *err);
void image_encoder_destroy(struct image_encoder *e);
int64_t image_encoder_tokens(const struct checkpoint *c, int height, int width);
double image_encoder_work(const struct checkpoint *c);
/* pixels [3, height, width] f32, normalised, multiples of the patch size -> tokens f32 [1 + registers + patches, C]:
 * class, registers, patches row by row; before the final norm, through a LayerNorm without parameters. */
void image_encoder_forward(struct run *run, const struct image_encoder *e, struct tensor tokens, const float *pixels,
	int height, int width);

/* sample_structure.c: the dense flow transformer. */
struct structure_flow;
struct structure_flow *structure_flow_create(struct run *run, const struct checkpoint *c, struct error *err);
void structure_flow_destroy(struct structure_flow *f);
bool structure_flow_prepare(
	struct run *run, struct structure_flow *f, const struct sampler_config *s, struct error *err);
double structure_flow_work(const struct checkpoint *c, const struct sampler_config *s, int64_t tokens);
/* noise [channels, R, R, R] (torch's order) -> z [R^3, channels] f32, sampled under condition [tokens, cond_channels].
 */
bool structure_flow_sample(struct run *run, struct structure_flow *f, const struct sampler_config *s,
	const float *noise, struct tensor condition, struct tensor z, struct error *err);
/* One evaluation, for checks: x and v [channels, R, R, R] on the host, t as the model receives it. condition none:
 * zero. */
bool structure_flow_forward(struct run *run, struct structure_flow *f, const float *x, float t, struct tensor condition,
	float *v, struct error *err);

/* Tokens in patch order [(R / p)^3, channels p^3] to a volume [channels, R, R, R]. */
void structure_flow_volume(const struct model_config *c, float *volume, const float *tokens);

/* decode_structure.c: latent to occupancy. */
struct structure_decoder;
struct structure_decoder *structure_decoder_create(struct run *run, const struct checkpoint *c, struct error *err);
void structure_decoder_destroy(struct structure_decoder *d);
double structure_decoder_work(const struct checkpoint *c, int resolution);
/* How much finer the occupancy grid is than the latent: 4 for three levels. */
int structure_decoder_scale(const struct checkpoint *c);
/* z [R^3, latent] -> logits f32 [(scale R)^3, out_channels]. */
void structure_decoder_forward(
	struct run *run, const struct structure_decoder *d, struct tensor logits, struct tensor z, int64_t resolution);

/* sample_latent.c: the sparse flow transformer. coords [n, 3] on the host, lexicographic. */
struct latent_flow;
struct latent_flow *latent_flow_create(struct run *run, const struct checkpoint *c, struct error *err);
void latent_flow_destroy(struct latent_flow *f);
bool latent_flow_prepare(struct run *run, struct latent_flow *f, const struct sampler_config *s, struct error *err);
double latent_flow_work(const struct checkpoint *c, const struct sampler_config *s, double n, int64_t tokens);
/* feats [n, channels]: noise in, latent out (before mean and std). */
bool latent_flow_sample(struct run *run, struct latent_flow *f, const struct sampler_config *s, const int32_t *coords,
	int64_t n, struct tensor condition, float *feats, struct error *err);
bool latent_flow_forward(struct run *run, struct latent_flow *f, const int32_t *coords, int64_t n, const float *x,
	float t, struct tensor condition, float *v, struct error *err);

/* decode_mesh.c: latent to the features of the 4x grid, then FlexiCubes. */
struct mesh_decoder;
struct mesh_decoder *mesh_decoder_create(struct run *run, const struct checkpoint *c, struct error *err);
void mesh_decoder_destroy(struct mesh_decoder *d);
double mesh_decoder_work(const struct checkpoint *c, double n);
/* latent [n, channels] on the host -> the surface. features: NULL or receives f32 [64 n, 53 | 101] before the sdf bias.
 */
bool mesh_decoder_forward(struct run *run, const struct mesh_decoder *d, const int32_t *coords, int64_t n,
	const float *latent, struct surface *surface, float *features, struct error *err);

/* decode_gaussians.c */
struct gaussian_decoder;
struct gaussian_decoder *gaussian_decoder_create(struct run *run, const struct checkpoint *c, struct error *err);
void gaussian_decoder_destroy(struct gaussian_decoder *d);
/* Parameters as the official Gaussian class holds them, [n * K, ...] voxel-major; malloc'd together, one free. */
struct gaussians {
	int64_t n;
	float *xyz, *features_dc, *scaling, *rotation, *opacity; /* 3, 3, 3, 4, 1: _xyz, _features_dc, ... */
};
bool gaussian_decoder_forward(struct run *run, const struct gaussian_decoder *d, const int32_t *coords, int64_t n,
	const float *latent, struct gaussians *g, struct error *err);
void gaussians_finish(struct gaussians *g);
/* get_xyz, get_scaling, get_rotation, get_opacity of the official class: g's parameters activated, in place. */
void gaussians_activate(struct gaussians *g, const struct model_config *c);
/* The 14 columns of the official .ply, [n, 14] malloc'd: x y z, f_dc, opacity, scale, rot. g as the decoder gives it.
 */
float *gaussians_to_ply(const struct gaussians *g, const struct model_config *c);

#endif
