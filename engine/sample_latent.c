/* sample_latent.c - the structured latent flow: noise on the active voxels to their latents, under an image condition.
 * Residual convolution blocks pack the voxels into the half resolution (or less), a transformer runs there, and
 * blocks with skips unpack them again. Second of the two flows; decode_mesh.c follows.
 * Source: trellis/models/structured_latent_flow.py, TRELLIS sec. 3.3. */
#include "flow.h"
#include "flow_blocks.h"
#include "stages.h"
#include "voxels.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LEVELS = 8, MAX_BLOCKS = 64 };

/* SparseResBlock3d. The skip is a Linear where the channels differ, else the identity. */
struct res_block {
	char name[32]; /* "input_blocks.0" */
	char tap[32];  /* "input_blocks0" */
	int64_t in, out;
	bool down, up;
	int level; /* of its output; 0 is the finest */
	struct linear norm1, conv1, conv2, skip;
};

struct latent_flow {
	struct weight_set set;
	struct flow_trunk trunk;
	struct linear input_layer, out_layer;
	struct res_block *in_blocks, *out_blocks;
	int n_in, n_out, n_levels;	   /* levels beyond the finest */
	struct flow_modulation modulation; /* of the last run: the next one's steps are mostly the same */
	struct tensor *scale_shift;	   /* f32 [steps, 2 out] for each in_block, then each out_block; part of it */
	/* of the run at hand */
	struct voxels level[MAX_LEVELS + 1];
	struct tensor position; /* f32 [n of the coarsest level, C] */
	struct flow_context context;
};

static void bind_res_block(struct binder *b, struct res_block *r)
{
	r->norm1 = bind_norm(b, r->in, "%s.norm1", r->name);
	r->conv1 = bind_linear(b, WEIGHT_SPARSE3, r->out, r->in, "%s.conv1.conv", r->name);
	r->conv2 = bind_linear(b, WEIGHT_SPARSE3, r->out, r->out, "%s.conv2.conv", r->name);
	if (r->in != r->out)
		r->skip = bind_linear(b, WEIGHT_LINEAR, r->out, r->in, "%s.skip_connection", r->name);
}

static struct res_block *add_block(struct res_block *r, const char *list, int index, int64_t in, int64_t out, int level)
{
	*r = (struct res_block){.in = in, .out = out, .level = level};
	snprintf(r->name, sizeof r->name, "%s.%d", list, index);
	snprintf(r->tap, sizeof r->tap, "%s%d", list, index);
	return r;
}

/* The order and channels of the official constructor. */
static bool lay_out_blocks(struct latent_flow *f)
{
	const struct model_config *c = f->trunk.config;
	int levels = c->n_io_block_channels, each = c->num_io_res_blocks;
	int twice = c->use_skip_connection ? 2 : 1;

	f->n_levels = levels;
	f->in_blocks = calloc((size_t)(levels * each) + 1, sizeof *f->in_blocks);
	f->out_blocks = calloc((size_t)(levels * each) + 1, sizeof *f->out_blocks);
	if (!f->in_blocks || !f->out_blocks)
		return false;
	for (int level = 0; level < levels; level++) {
		int64_t here = c->io_block_channels[level];
		int64_t next = level + 1 < levels ? c->io_block_channels[level + 1] : c->model_channels;
		for (int i = 0; i < each - 1; i++, f->n_in++)
			add_block(&f->in_blocks[f->n_in], "input_blocks", f->n_in, here, here, level);
		add_block(&f->in_blocks[f->n_in], "input_blocks", f->n_in, here, next, level + 1)->down = true;
		f->n_in++;
	}
	for (int level = levels - 1; level >= 0; level--) {
		int64_t here = c->io_block_channels[level];
		int64_t last = level + 1 < levels ? c->io_block_channels[level + 1] : c->model_channels;
		add_block(&f->out_blocks[f->n_out], "out_blocks", f->n_out, last * twice, here, level)->up = true;
		f->n_out++;
		for (int i = 0; i < each - 1; i++, f->n_out++)
			add_block(&f->out_blocks[f->n_out], "out_blocks", f->n_out, here * twice, here, level);
	}
	return true;
}

struct latent_flow *latent_flow_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct latent_flow *f = stage_new(sizeof *f, err);
	int64_t io = config->n_io_block_channels ? config->io_block_channels[0] : config->model_channels;

	if (!f)
		return NULL;
	struct binder b = binder_begin(&f->set, run->b, c, err);
	f->trunk = (struct flow_trunk){.checkpoint = c, .config = config};
	if (config->n_io_block_channels > MAX_LEVELS ||
		config->n_io_block_channels * config->num_io_res_blocks > MAX_BLOCKS || !lay_out_blocks(f)) {
		error_set(err, "%s: cannot lay out %d x %d input blocks", c->name, config->n_io_block_channels,
			config->num_io_res_blocks);
		goto fail;
	}
	f->input_layer = bind_linear(&b, WEIGHT_LINEAR_F32, io, config->in_channels, "input_layer");
	for (int i = 0; i < f->n_in; i++)
		bind_res_block(&b, &f->in_blocks[i]);
	for (int i = 0; i < f->n_out; i++)
		bind_res_block(&b, &f->out_blocks[i]);
	f->out_layer = bind_linear(&b, WEIGHT_LINEAR, config->out_channels, io, "out_layer");
	flow_trunk_bind(run, &b, &f->trunk);
	if (binder_ok(&b))
		return f;
fail:
	latent_flow_destroy(f);
	return NULL;
}

void latent_flow_destroy(struct latent_flow *f)
{
	if (!f)
		return;
	flow_modulation_finish(&f->modulation, f->set.backend);
	free(f->scale_shift);
	flow_trunk_finish(&f->trunk);
	weight_set_finish(&f->set);
	free(f->in_blocks);
	free(f->out_blocks);
	free(f);
}

/* conv(h) + skip(x) into y; the skip is at hand when `direct` is set, else it runs here. */
static void close_block(struct run *run, const struct res_block *r, struct tensor y, struct tensor h, struct tensor x,
	bool direct, struct tensor neighbours)
{
	struct backend *b = run->b;
	struct epilogue e = {.bias = r->conv2.bias, .residual = x};

	if (tapping(run)) {
		size_t mark = scratch_mark(b);
		struct tensor plain = scratch_new(b, y.rows, y.cols);
		op_sparse_conv(b, plain, h, r->conv2.weight, neighbours, &(struct epilogue){.bias = r->conv2.bias});
		tap(run, plain, "%s.conv2", r->tap);
		scratch_release(b, mark);
	}
	if (r->skip.weight && !direct) {
		linear_forward(run, y, x, &r->skip);
		e.residual = y;
	}
	op_sparse_conv(b, y, h, r->conv2.weight, neighbours, &e);
}

/* Floating-point operations over n output voxels. */
static double res_block_work(const struct res_block *r, double n)
{
	return 2 * 27 * n * (double)r->out * (double)(r->in + r->out);
}

/* y = conv2(SiLU(LN(conv1(SiLU(LN_affine(x)))) * (1 + scale) + shift)) + skip(x), x halved or doubled first.
 * Norm, SiLU and skip work row by row, so before doubling they run on the coarse rows: the same numbers, fewer. */
static void res_block_forward(struct run *run, const struct latent_flow *f, const struct res_block *r, struct tensor y,
	struct tensor x, struct tensor scale_shift)
{
	struct backend *b = run->b;
	const struct voxels *v = &f->level[r->level];
	size_t mark = scratch_mark(b);
	struct norm norm1 = {.eps = 1e-6f, .weight = r->norm1.weight, .bias = r->norm1.bias, .act = ACT_SILU};
	/* scale comes first here, in the transformer blocks shift does */
	struct norm norm2 = {.eps = 1e-6f,
		.scale = tensor_columns(scale_shift, 0, r->out),
		.shift = tensor_columns(scale_shift, r->out, r->out),
		.act = ACT_SILU};
	bool direct = false;

	if (r->down) {
		struct tensor halved = scratch_new(b, v->n, r->in);
		op_downsample(b, halved, x, f->level[r->level - 1].parent);
		tap(run, halved, "%s.down_feats", r->tap);
		x = halved;
	}
	struct tensor h = scratch_new(b, x.rows, r->in);
	struct tensor g = scratch_new(b, v->n, r->out);
	op_layer_norm(b, h, x, &norm1);
	if (r->up) {
		struct tensor doubled = scratch_new(b, v->n, r->in);
		struct tensor skipped = scratch_new(b, v->n, r->out);
		op_gather_rows(b, doubled, h, v->parent);
		h = doubled;
		if (r->skip.weight) {
			struct tensor coarse = scratch_new(b, x.rows, r->out);
			linear_forward(run, coarse, x, &r->skip);
			x = coarse;
		}
		op_gather_rows(b, skipped, x, v->parent);
		x = skipped;
		direct = true;
	}
	op_sparse_conv(b, g, h, r->conv1.weight, v->neighbours, &(struct epilogue){.bias = r->conv1.bias});
	tap(run, g, "%s.conv1", r->tap);
	op_layer_norm(b, g, g, &norm2);
	close_block(run, r, y, g, x, direct, v->neighbours);
	tap(run, y, "%s", r->tap);
	scratch_release(b, mark);
	run_worked(run, res_block_work(r, (double)v->n));
}

/* [h | skip] */
static struct tensor concatenate(struct run *run, struct tensor h, struct tensor skip)
{
	struct tensor both = scratch_new(run->b, h.rows, h.cols + skip.cols);
	copy_tensor(run, tensor_columns(both, 0, h.cols), h);
	copy_tensor(run, tensor_columns(both, h.cols, skip.cols), skip);
	return both;
}

/* From the trunk's output h to the velocity, through the output blocks and the skips of the input blocks. */
static void unpack(
	struct run *run, struct latent_flow *f, struct tensor v, struct tensor h, const struct tensor *skips, int step)
{
	struct backend *b = run->b;
	size_t mark = scratch_mark(b);

	for (int i = 0; i < f->n_out; i++) {
		const struct res_block *r = &f->out_blocks[i];
		struct tensor y = scratch_new(b, f->level[r->level].n, r->out);
		if (f->trunk.config->use_skip_connection)
			h = concatenate(run, h, skips[f->n_in - 1 - i]);
		res_block_forward(run, f, r, y, h, tensor_rows(f->scale_shift[f->n_in + i], step, 1));
		h = y;
	}
	struct tensor normed = scratch_new(b, h.rows, h.cols);
	layer_norm(run, normed, h, 1e-5f);
	linear_forward(run, v, normed, &f->out_layer);
	scratch_release(b, mark);
}

static void velocity(struct run *run, void *flow, struct tensor v, struct tensor v_free, struct tensor x, int step)
{
	struct latent_flow *f = flow;
	struct backend *b = run->b;
	bool guided = v_free.data != NULL;
	size_t mark = scratch_mark(b);
	struct tensor skips[MAX_BLOCKS];
	struct tensor h = scratch_new(b, x.rows, f->input_layer.weight->out);

	linear_forward(run, h, x, &f->input_layer);
	tap(run, h, "input_layer");
	for (int i = 0; i < f->n_in; i++) { /* the same for both conditions: x and t are */
		const struct res_block *r = &f->in_blocks[i];
		struct tensor y = scratch_new(b, f->level[r->level].n, r->out);
		res_block_forward(run, f, r, y, h, tensor_rows(f->scale_shift[i], step, 1));
		h = skips[i] = y;
	}
	struct tensor trunk = scratch_new(b, guided ? 2 * h.rows : h.rows, h.cols);
	op_add(b, tensor_rows(trunk, 0, h.rows), h, f->position);
	flow_trunk_forward(run, &f->trunk, trunk, guided, &f->modulation, step, f->context.kv ? &f->context : NULL);
	unpack(run, f, v, tensor_rows(trunk, 0, h.rows), skips, step);
	if (guided)
		unpack(run, f, v_free, tensor_rows(trunk, h.rows, h.rows), skips, step);
	scratch_release(b, mark);
}

/* Levels, neighbour tables and position embedding of these voxels. */
static bool place(struct run *run, struct latent_flow *f, const int32_t *coords, int64_t n, struct error *err)
{
	char name[48];

	if (!voxels_init(&f->level[0], coords, n, err))
		return false;
	for (int i = 0; i < f->n_levels; i++) {
		int32_t *parent = NULL;
		if (!voxels_coarsen(run, &f->level[i + 1], &f->level[i], tapping(run) ? &parent : NULL, err))
			return false;
		if (tapping(run)) {
			snprintf(name, sizeof name, "input_blocks%d", (i + 1) * f->trunk.config->num_io_res_blocks - 1);
			tap_integers(run, parent, f->level[i].n, 1, "%s.down_idx", name);
			tap_integers(run, f->level[i + 1].coords, f->level[i + 1].n, 3, "%s.down_coords", name);
			free(parent);
		}
	}
	for (int i = 0; i <= f->n_levels && f->n_levels; i++)
		voxels_connect(run, &f->level[i]);

	const struct voxels *coarsest = &f->level[f->n_levels];
	f->position = scratch_new_as(run->b, DTYPE_F32, coarsest->n, f->trunk.config->model_channels);
	if (!position_embedding(run, f->position, coarsest->coords, err))
		return false;
	tap(run, f->position, "pos_emb");
	return true;
}

static bool modulate(struct run *run, struct latent_flow *f, const float *t, int steps, struct error *err)
{
	char name[64];

	if (!tapping(run) && flow_modulation_is(&f->modulation, t, steps))
		return true;
	flow_modulation_finish(&f->modulation, run->b);
	free(f->scale_shift);
	f->scale_shift = calloc((size_t)(f->n_in + f->n_out) + 1, sizeof *f->scale_shift);
	if (!f->scale_shift)
		return error_set(err, "out of memory");
	if (!flow_modulate(run, &f->trunk, t, steps, &f->modulation, err))
		return false;
	for (int i = 0; i < f->n_in + f->n_out; i++) {
		const struct res_block *r = i < f->n_in ? &f->in_blocks[i] : &f->out_blocks[i - f->n_in];
		snprintf(name, sizeof name, "%s.emb_layers.1", r->name);
		if (!flow_modulate_one(run, &f->trunk, &f->modulation, 2 * r->out, name, &f->scale_shift[i], err)) {
			flow_modulation_finish(&f->modulation, run->b);
			return false;
		}
	}
	return true;
}

/* Everything that one job shares between its steps. condition none: only the zero condition will be asked for. */
static bool begin(struct run *run, struct latent_flow *f, const int32_t *coords, int64_t n, struct tensor condition,
	struct error *err)
{
	return place(run, f, coords, n, err) &&
	       (!condition.data || flow_context_init(run, &f->trunk, condition, &f->context, err));
}

static void end(struct latent_flow *f)
{
	for (int i = 0; i <= MAX_LEVELS; i++)
		voxels_finish(&f->level[i]);
	flow_context_finish(&f->context);
}

bool latent_flow_prepare(struct run *run, struct latent_flow *f, const struct sampler_config *s, struct error *err)
{
	float *times = flow_model_times(s);
	bool ok = times ? modulate(run, f, times, s->steps, err) : error_set(err, "out of memory");
	free(times);
	return ok;
}

bool latent_flow_sample(struct run *run, struct latent_flow *f, const struct sampler_config *s, const int32_t *coords,
	int64_t n, struct tensor condition, float *feats, struct error *err)
{
	size_t mark = scratch_mark(run->b);
	bool ok = latent_flow_prepare(run, f, s, err) && begin(run, f, coords, n, condition, err);

	if (ok) {
		struct tensor x = scratch_new_as(run->b, DTYPE_F32, n, f->trunk.config->in_channels);
		op_upload(run->b, x, feats);
		flow_sample(run, s, x, velocity, f, TRELLIS_LATENT);
		run_expect_finite(run, x, model_role_name(ROLE_LATENT_FLOW));
		op_download(run->b, feats, x);
	}
	end(f);
	scratch_release(run->b, mark);
	return ok && backend_finish(run->b, err);
}

bool latent_flow_forward(struct run *run, struct latent_flow *f, const int32_t *coords, int64_t n, const float *x,
	float t, struct tensor condition, float *v, struct error *err)
{
	size_t mark = scratch_mark(run->b);
	bool ok = modulate(run, f, &t, 1, err) && begin(run, f, coords, n, condition, err);

	if (ok) {
		struct tensor in = scratch_new_as(run->b, DTYPE_F32, n, f->trunk.config->in_channels);
		struct tensor out = scratch_new_as(run->b, DTYPE_F32, n, f->trunk.config->out_channels);
		op_upload(run->b, in, x);
		velocity(run, f, out, TENSOR_NONE, in, 0);
		op_download(run->b, v, out);
	}
	end(f);
	scratch_release(run->b, mark);
	return ok && backend_finish(run->b, err);
}

double latent_flow_work(const struct checkpoint *c, const struct sampler_config *s, double n, int64_t tokens)
{
	struct latent_flow f = {.trunk = {.config = &c->config}};
	double t[1025], packing = 0, unpacking = 0, coarse[MAX_LEVELS + 1] = {n}, work = 0;
	int steps = s->steps < 1024 ? s->steps : 1024;

	if (c->config.n_io_block_channels <= MAX_LEVELS && lay_out_blocks(&f)) {
		for (int i = 1; i <= f.n_levels; i++)
			coarse[i] = coarse[i - 1] / 3.5; /* of a surface: between 1/4 and 1/2 */
		for (int i = 0; i < f.n_in; i++)
			packing += res_block_work(&f.in_blocks[i], coarse[f.in_blocks[i].level]);
		for (int i = 0; i < f.n_out; i++)
			unpacking += res_block_work(&f.out_blocks[i], coarse[f.out_blocks[i].level]);
	}
	flow_times(t, steps, s->rescale_t);
	for (int i = 0; i < steps; i++) {
		bool guided = flow_guided_at(s, t[i]);
		work += packing + (guided ? 2 : 1) * unpacking +
			flow_trunk_work(&f.trunk, coarse[f.n_levels], (double)tokens, guided);
	}
	free(f.in_blocks);
	free(f.out_blocks);
	return work;
}
