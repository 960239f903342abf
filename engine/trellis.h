/* trellis.h - image in, mesh out: the public interface of the engine. Narrow, and to stay narrow.
 *
 *   struct error err;
 *   struct trellis *t = trellis_create(&(struct trellis_options){.model = "path/to/model"}, &err);
 *   trellis_image_load(&image, "chair.png", &err) && trellis_generate(t, &image, 1, &params, NULL, NULL, &latent, &err)
 *           && trellis_decode(t, &latent, &params, NULL, NULL, &mesh, &err) && trellis_mesh_save(&mesh, "chair.glb",
 * &err);
 *
 * One thread uses a struct trellis at a time. Functions return false and fill in err (one line) on failure; outputs are
 * written only on success and are then owned by the caller, who ends them with the matching _finish.
 *
 * The work on the CPU is done by OpenMP's threads, which spin for a while before they sleep. On a machine that does anything
 * else besides, start the process with GOMP_SPINCOUNT=10000 or OMP_WAIT_POLICY=passive in the environment, as `trellis` does. */
#ifndef TRELLIS_H
#define TRELLIS_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

struct trellis; /* a loaded model on a device */

struct trellis_options {
	const char *model;  /* directory or hub id; NULL: $TRELLIS_MODEL_PATH, else the embedded trellis-mini */
	const char *device; /* "auto" (NULL), "cpu", "cuda", "cuda:N" */
	const char *dtype;  /* "f32", "f16", "bf16"; NULL: f16 on CUDA; the CPU has f32 only */
	int threads; /* of all work on the CPU, the process over: the last one opened counts; 0: all that there are */
	bool low_memory; /* weights leave the device when their stage is over, also where all would fit */
	int probe_s;	 /* so long a device may take to answer; 0: two minutes */
};

/* Where it runs. */
struct trellis_device {
	char name[128];	       /* "cpu", "cuda:0 NVIDIA H100 80GB HBM3" */
	char dtype[8];	       /* of the arithmetic: "f32" */
	char note[512];	       /* why a better device was refused, a sentence each; or "" */
	uint64_t memory_bytes; /* in all; 0: not known */
	int ordinal;	       /* of a CUDA device, else -1 */
	int count;	       /* CUDA devices that there are; 0 when none was looked for */
};

/* Zeroed is the model's default everywhere; use trellis_params_default() to start from. */
struct trellis_params {
	uint64_t seed;		  /* the low 32 bits count, as in torch */
	int structure_steps;	  /* 0: as pipeline.json says */
	int latent_steps;	  /* 0: as pipeline.json says */
	float structure_guidance; /* < 0: as pipeline.json says */
	float latent_guidance;	  /* < 0: as pipeline.json says */
	int max_voxels;		  /* refuse a structure with more (0: 60,000); noise can fill the grid */
	bool want_gaussians;	  /* decode the Gaussians too */
	bool keep_inner_shell;	  /* the official extraction, with the second shell behind the surface */
	bool raw_mesh;		  /* exactly the extracted mesh: no cleaning at all; implies keep_inner_shell */
	float simplify;		  /* 0: keep all; in (0, 1): share of the triangles to keep; >= 1: number to keep */
};

struct trellis_params trellis_params_default(void);

/* 8-bit RGBA, not premultiplied, rows from the top. */
struct trellis_image {
	int width, height;
	uint8_t *rgba;	/* [height, width, 4] */
	bool has_alpha; /* some pixel is not opaque: the alpha channel is then the mask, as in the official code */
};

/* Read a PNG or JPEG file, or its bytes (name is used in errors). Limits: 100 megapixels. */
bool trellis_image_load(struct trellis_image *image, const char *path, struct error *err);
bool trellis_image_decode(
	struct trellis_image *image, const void *bytes, size_t size, const char *name, struct error *err);
void trellis_image_finish(struct trellis_image *image);

/* The structured latent of a job: under 1 MB, from which every mesh or format can be made again. */
struct trellis_latent {
	int64_t n;	    /* active voxels */
	int resolution;	    /* voxels along an axis, 64 in the released model */
	int channels;	    /* 8 in the released model */
	int32_t *coords;    /* [n, 3] x, y, z */
	float *feats;	    /* [n, channels] */
	const char *cutout; /* how the background was removed: "alpha", "matting" or "uncut"; static */
};

void trellis_latent_finish(struct trellis_latent *latent);

/* z up, +-0.5. */
struct trellis_mesh {
	int64_t n_vertices, n_faces;
	float *vertices; /* [n_vertices, 3] */
	float *normals;	 /* [n_vertices, 3] unit; NULL in a raw mesh */
	float *colors;	 /* [n_vertices, 3] sRGB 0..1; NULL when the model has none */
	float *attrs;	 /* [n_vertices, 6] colour and encoded normal as extracted; only in a raw mesh, else NULL */
	int32_t *faces;	 /* [n_faces, 3] counter-clockwise from outside */
	int64_t n_gaussians;
	float *gaussians; /* [n_gaussians, 14] xyz, f_dc 3, opacity, scale 3, rot 4 as the official .ply has them; or
			     NULL */
	char model[64];	  /* for the file's metadata */
	char cutout[16];
	uint64_t seed;
};

void trellis_mesh_finish(struct trellis_mesh *mesh);

/* Write by extension: .glb .obj .ply .stl, .gaussian.ply. The file appears whole or not at all. */
bool trellis_mesh_save(const struct trellis_mesh *mesh, const char *path, struct error *err);

/* Where a job is. Return false to cancel. Called from the thread that runs the job, between ops. */
enum trellis_stage {
	TRELLIS_LOAD,
	TRELLIS_PREPARE,
	TRELLIS_ENCODE,
	TRELLIS_STRUCTURE,
	TRELLIS_VOXELS,
	TRELLIS_LATENT,
	TRELLIS_DECODE,
	TRELLIS_MESH,
	TRELLIS_WRITE
};
struct trellis_progress {
	enum trellis_stage stage;
	int step, steps; /* within the stage; step counts from 0 */
	double fraction; /* of the whole job, 0..1 */
	double eta_s;	 /* < 0: unknown */
};
typedef bool (*trellis_progress_fn)(const struct trellis_progress *progress, void *user);

const char *trellis_stage_name(enum trellis_stage stage);

/* Open a model: checks every role, class, tensor and shape, and lets the device compute; reads no weights yet (they are
 * mapped). */
struct trellis *trellis_create(const struct trellis_options *options, struct error *err);
void trellis_destroy(struct trellis *t); /* NULL is fine */

/* One line about the model (name, parameters, what it can do) and about repairs that loading made; owned by t. */
const char *trellis_model_name(const struct trellis *t);
const char *trellis_model_note(const struct trellis *t);	      /* "" when there is nothing to say */
const struct trellis_device *trellis_device(const struct trellis *t); /* owned by t */

/* Put the weights on the device now rather than in the first job. Progress is of stage TRELLIS_LOAD, fraction by bytes. When
 * memory runs out they are loaded stage by stage from then on, which is no failure. A GPU is ready for a job when it has the
 * first stages' weights: the others are loaded while the caller goes on. Where weights do not stay, this returns at once, and
 * a GPU loads the first stages' while the caller goes on. */
bool trellis_load(struct trellis *t, trellis_progress_fn progress, void *user, struct error *err);

/* After a failed call: whether the device was to blame, so that another process or another device may do it. It is lost, out
 * of memory with nothing left to give back, or computes wrong results when it is probed again (err then says so). */
bool trellis_device_failed(struct trellis *t, struct error *err);

/* Pictures of one object to its latent. n_views must be 1 for now. progress may be NULL. */
bool trellis_generate(struct trellis *t, const struct trellis_image *views, int n_views,
	const struct trellis_params *params, trellis_progress_fn progress, void *user, struct trellis_latent *latent,
	struct error *err);

/* A latent as the device decodes it, before it is made a mesh. */
struct trellis_surface;

bool trellis_decode_surface(struct trellis *t, const struct trellis_latent *latent, const struct trellis_params *params,
	trellis_progress_fn progress, void *user, struct trellis_surface **surface, struct error *err);
void trellis_surface_destroy(struct trellis_surface *surface); /* NULL is fine */

/* The rest of the work, on the CPU: on any thread, also while the model runs the next job. Once for a surface, with the params of
 * the same job. */
bool trellis_surface_mesh(struct trellis_surface *surface, const struct trellis_params *params,
	struct trellis_mesh *mesh, struct error *err);

/* A latent to its mesh, by both of these: again in another format or simplification, without the flows. */
bool trellis_decode(struct trellis *t, const struct trellis_latent *latent, const struct trellis_params *params,
	trellis_progress_fn progress, void *user, struct trellis_mesh *mesh, struct error *err);

#endif
