/* pipeline.h - what the programs of this project see of struct trellis beyond the public interface. */
#ifndef TRELLIS_PIPELINE_H
#define TRELLIS_PIPELINE_H

#include "device.h"
#include "model.h"
#include "run.h"
#include "trellis.h"

/* The intermediates of a job in torch's layouts, all malloc'd. */
struct pipeline_record {
	float *cond; /* [tokens, channels] */
	int64_t tokens, cond_channels;
	float *ss_noise, *z_s; /* [structure_channels, resolution, resolution, resolution] */
	int64_t structure_channels, resolution;
	int32_t *coords;	  /* [n, 4] batch, x, y, z */
	float *slat_noise, *slat; /* [n, latent_channels] */
	int64_t n, latent_channels;
	struct surface surface; /* exactly as extracted */
};

void pipeline_record_finish(struct pipeline_record *r);
/* Fill *r in the next jobs (each replaces the last); NULL: stop. Borrowed. */
void trellis_record(struct trellis *t, struct pipeline_record *r);

/* trellis_create on a model that is open: its files are not opened again. Takes the model, also on failure. */
struct trellis *trellis_create_on(struct model *m, const struct trellis_options *o, struct error *err);

/* Takes the model, which model_open has checked, also on failure. m NULL: NULL, and err is left as it is. */
struct trellis *trellis_assemble(struct model *m, const struct device_wish *wish, struct error *err);

#endif
