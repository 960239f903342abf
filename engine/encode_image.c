/* encode_image.c - DINOv2 with registers: a normalised picture to the tokens that condition both flows.
 * First stage of the network, after prepare_image.c.
 * Source: DINOv2 (arXiv 2304.07193) with registers (arXiv 2309.16588); trellis/pipelines/trellis_image_to_3d.py
 * encode_image. Reads Hugging Face names (Dinov2WithRegistersModel) and torch.hub names. */
#include "layers.h"
#include "stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct encoder_block {
	struct linear norm1, norm2;
	struct linear qkv, out;	      /* [3 C, C], [C, C] */
	struct linear fc1, fc2;	      /* [M, C], [C, M] */
	struct tensor scale1, scale2; /* LayerScale, f32 [1, C] */
};

struct image_encoder {
	struct weight_set set;
	const struct model_config *config;
	struct linear patches;		/* [C, 3 p p] */
	float *position;		/* [1 + M * M, C] on the host: class, then the grid */
	struct tensor own_position;	/* the same on the device, f32: of pictures of the model's own size */
	float *class_token, *registers; /* [C], [registers, C] */
	struct encoder_block *blocks;
};

/* Parameter names of the two layouts. */
struct names {
	const char *class_token, *position, *registers, *patches, *norm1, *norm2, *out, *fc1, *fc2, *scale1, *scale2;
	const char *qkv[3]; /* qkv[1] NULL: fused */
};

static const struct names huggingface = {
	.class_token = "embeddings.cls_token",
	.position = "embeddings.position_embeddings",
	.registers = "embeddings.register_tokens",
	.patches = "embeddings.patch_embeddings.projection",
	.norm1 = "encoder.layer.%d.norm1",
	.norm2 = "encoder.layer.%d.norm2",
	.qkv = {"encoder.layer.%d.attention.attention.query", "encoder.layer.%d.attention.attention.key",
		"encoder.layer.%d.attention.attention.value"},
	.out = "encoder.layer.%d.attention.output.dense",
	.fc1 = "encoder.layer.%d.mlp.fc1",
	.fc2 = "encoder.layer.%d.mlp.fc2",
	.scale1 = "encoder.layer.%d.layer_scale1.lambda1",
	.scale2 = "encoder.layer.%d.layer_scale2.lambda1",
};

static const struct names torch_hub = {
	.class_token = "cls_token",
	.position = "pos_embed",
	.registers = "register_tokens",
	.patches = "patch_embed.proj",
	.norm1 = "blocks.%d.norm1",
	.norm2 = "blocks.%d.norm2",
	.qkv = {"blocks.%d.attn.qkv", NULL, NULL},
	.out = "blocks.%d.attn.proj",
	.fc1 = "blocks.%d.mlp.fc1",
	.fc2 = "blocks.%d.mlp.fc2",
	.scale1 = "blocks.%d.ls1.gamma",
	.scale2 = "blocks.%d.ls2.gamma",
};

/* A name of the tables above with the block's number filled in. */
struct name {
	char text[96];
};

static struct name numbered(const char *pattern, int index)
{
	struct name n;
	const char *at = pattern;
	size_t used = 0;

	while (*at && used + 12 < sizeof n.text) {
		if (at[0] == '%' && at[1] == 'd') {
			used += (size_t)snprintf(n.text + used, sizeof n.text - used, "%d", index);
			at += 2;
		} else {
			n.text[used++] = *at++;
		}
	}
	n.text[used] = '\0';
	return n;
}

static void bind_encoder_block(
	struct binder *b, struct encoder_block *block, const struct names *names, const struct model_config *c, int i)
{
	int64_t channels = c->model_channels;
	struct name part[3];
	const char *list[3];

	block->norm1 = bind_norm(b, channels, "%s", numbered(names->norm1, i).text);
	block->norm2 = bind_norm(b, channels, "%s", numbered(names->norm2, i).text);
	if (names->qkv[1]) {
		for (int k = 0; k < 3; k++) {
			part[k] = numbered(names->qkv[k], i);
			list[k] = part[k].text;
		}
		block->qkv = bind_stacked(b, channels, channels, list, 3);
	} else {
		block->qkv =
			bind_linear(b, WEIGHT_LINEAR, 3 * channels, channels, "%s", numbered(names->qkv[0], i).text);
	}
	block->out = bind_linear(b, WEIGHT_LINEAR, channels, channels, "%s", numbered(names->out, i).text);
	block->fc1 = bind_linear(b, WEIGHT_LINEAR, c->mlp_channels, channels, "%s", numbered(names->fc1, i).text);
	block->fc2 = bind_linear(b, WEIGHT_LINEAR, channels, c->mlp_channels, "%s", numbered(names->fc2, i).text);
	block->scale1 = bind_tensor(b, 1, channels, "%s", numbered(names->scale1, i).text);
	block->scale2 = bind_tensor(b, 1, channels, "%s", numbered(names->scale2, i).text);
}

struct image_encoder *image_encoder_create(struct run *run, const struct checkpoint *c, struct error *err)
{
	const struct model_config *config = &c->config;
	struct image_encoder *e = stage_new(sizeof *e, err);
	const struct names *names = c->hub_names ? &torch_hub : &huggingface;
	int64_t channels = config->model_channels, grid = config->image_size / config->patch_size;

	if (!e)
		return NULL;
	struct binder b = binder_begin(&e->set, run->b, c, err);
	e->config = config;
	e->blocks = calloc((size_t)config->num_blocks + 1, sizeof *e->blocks);
	if (!e->blocks) {
		error_set(err, "out of memory");
		goto fail;
	}
	e->patches = bind_patches(&b, channels, 3, config->patch_size, names->patches);
	e->position = bind_host(&b, (1 + grid * grid) * channels, "%s", names->position);
	e->own_position = bind_tensor(&b, 1 + grid * grid, channels, "%s", names->position);
	e->class_token = bind_host(&b, channels, "%s", names->class_token);
	e->registers = bind_host(&b, config->num_registers * channels, "%s", names->registers);
	for (int i = 0; i < config->num_blocks; i++)
		bind_encoder_block(&b, &e->blocks[i], names, config, i);
	if (binder_ok(&b))
		return e;
fail:
	image_encoder_destroy(e);
	return NULL;
}

void image_encoder_destroy(struct image_encoder *e)
{
	if (!e)
		return;
	weight_set_finish(&e->set);
	free(e->position);
	free(e->class_token);
	free(e->registers);
	free(e->blocks);
	free(e);
}

/* Keys' cubic kernel, a = -0.5. */
static double cubic(double x)
{
	const double a = -0.5;
	x = fabs(x);
	if (x < 1)
		return ((a + 2) * x - (a + 3)) * x * x + 1;
	return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* One output of a resampling from `in` to `out` points: taps [first, first + count) with their weights. */
static int cubic_taps(double *weights, int *first, int in, int out, int index)
{
	double scale = (double)in / out, wide = scale > 1 ? scale : 1;
	double centre = scale * (index + 0.5), support = 2 * wide, sum = 0;
	int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);

	low = low < 0 ? 0 : low;
	high = high > in ? in : high;
	for (int j = low; j < high; j++)
		sum += weights[j - low] = cubic((j - centre + 0.5) / wide);
	for (int j = low; j < high; j++)
		weights[j - low] /= sum;
	*first = low;
	return high - low;
}

/* The grid part of the table resampled to height x width: separable bicubic with antialiasing, as
 * torch.nn.functional.interpolate(mode="bicubic", antialias=True) does. out [height * width, channels]. */
static bool interpolate_position(float *out, const float *grid, int side, int height, int width, int64_t channels)
{
	double *across = malloc((size_t)side * (size_t)width * (size_t)channels * sizeof *across);
	double *weights = malloc(((size_t)side + 4) * sizeof *weights);
	double *sums = malloc((size_t)channels * sizeof *sums);
	bool ok = across && weights && sums;
	int first, count;

	for (int j = 0; ok && j < width; j++) {
		count = cubic_taps(weights, &first, side, width, j);
		for (int y = 0; y < side; y++)
			for (int64_t c = 0; c < channels; c++) {
				double sum = 0;
				for (int k = 0; k < count; k++)
					sum += weights[k] *
					       (double)grid[((int64_t)y * side + first + k) * channels + c];
				across[((int64_t)y * width + j) * channels + c] = sum;
			}
	}
	for (int i = 0; ok && i < height; i++) {
		count = cubic_taps(weights, &first, side, height, i);
		for (int x = 0; x < width; x++) {
			for (int64_t c = 0; c < channels; c++)
				sums[c] = 0;
			for (int k = 0; k < count; k++)
				for (int64_t c = 0; c < channels; c++)
					sums[c] +=
						weights[k] * across[((int64_t)(first + k) * width + x) * channels + c];
			for (int64_t c = 0; c < channels; c++)
				out[((int64_t)i * width + x) * channels + c] = (float)sums[c];
		}
	}
	free(across);
	free(weights);
	free(sums);
	return ok;
}

/* Position rows for a grid of rows x cols patches, f32 [1 + rows * cols, C]: class, then the grid. May lie in scratch. */
static struct tensor position_for(struct run *run, const struct image_encoder *e, int rows, int cols)
{
	int64_t channels = e->config->model_channels;
	int side = e->config->image_size / e->config->patch_size;

	if (rows == side && cols == side)
		return e->own_position;
	struct tensor position = scratch_new_as(run->b, DTYPE_F32, 1 + (int64_t)rows * cols, channels);
	float *table = malloc((size_t)(1 + rows * cols) * (size_t)channels * sizeof *table);
	if (table && interpolate_position(table + channels, e->position + channels, side, rows, cols, channels)) {
		memcpy(table, e->position, (size_t)channels * sizeof *table);
		op_upload(run->b, position, table);
	} else {
		backend_fail(run->b, "out of memory");
	}
	free(table);
	return position;
}

/* pixels [3, height, width] to one row a patch, (channel, y, x) within it: cut [n, 3 p p]. Lines of p pixels are gathered on
 * the device. Both sides are multiples of p. */
static void cut_patches(struct run *run, struct tensor cut, const float *pixels, int height, int width, int p)
{
	struct backend *b = run->b;
	int cols = width / p;
	int64_t lines = 3 * (int64_t)height * cols;
	size_t mark = scratch_mark(b);
	struct tensor image = scratch_new_as(b, DTYPE_F32, lines, p), index = scratch_new_as(b, DTYPE_I32, lines, 1);
	struct tensor cut_lines = {.data = cut.data, .dtype = DTYPE_F32, .rows = lines, .cols = p, .stride = p};
	int32_t *from = malloc((size_t)lines * sizeof *from);

	if (from) {
		int32_t *to = from;
		for (int patch_y = 0; patch_y < height; patch_y += p)
			for (int column = 0; column < cols; column++)
				for (int channel = 0; channel < 3; channel++)
					for (int y = patch_y; y < patch_y + p; y++)
						*to++ = (channel * height + y) * cols + column;
		op_upload(b, image, pixels);
		op_upload_i32(b, index, from);
		op_gather_rows(b, cut_lines, image, index);
	} else {
		backend_fail(b, "out of memory");
	}
	free(from);
	scratch_release(b, mark);
}

/* [class + position, registers, patches + position] */
static void embed(
	struct run *run, const struct image_encoder *e, struct tensor x, const float *pixels, int height, int width)
{
	struct backend *b = run->b;
	int p = e->config->patch_size, registers = e->config->num_registers;
	int64_t channels = x.cols, n = (int64_t)(height / p) * (width / p), per = 3 * (int64_t)p * p;
	size_t mark = scratch_mark(b);
	struct tensor cut = scratch_new_as(b, DTYPE_F32, n, per);
	struct tensor position = position_for(run, e, height / p, width / p);
	float *head = malloc((size_t)(1 + registers) * (size_t)channels * sizeof *head);

	if (head) {
		for (int64_t i = 0; i < channels; i++)
			head[i] = e->class_token[i] + e->position[i];
		for (int64_t i = 0; i < registers * channels; i++)
			head[channels + i] = e->registers[i];
		op_upload(b, tensor_rows(x, 0, 1 + registers), head);
		cut_patches(run, cut, pixels, height, width, p);
		tap(run, position, "pos_embed");
		linear_into(run, tensor_rows(x, 1 + registers, n), cut, &e->patches, ACT_NONE, TENSOR_NONE,
			tensor_rows(position, 1, n), NULL);
	} else {
		backend_fail(b, "out of memory");
	}
	free(head);
	scratch_release(b, mark);
}

/* x += ls1 * attn(LN(x)); x += ls2 * mlp(LN(x)). The MLP's GELU is the erf form here. */
static void encoder_block_forward(
	struct run *run, const struct image_encoder *e, const struct encoder_block *block, struct tensor x)
{
	struct backend *b = run->b;
	int64_t c = x.cols;
	size_t mark = scratch_mark(b);
	struct tensor h = scratch_new(b, x.rows, c);
	struct tensor wide = scratch_new(b, x.rows, block->fc1.weight->out);
	struct tensor qkv = scratch_new(b, x.rows, 3 * c);
	struct norm norm = {.eps = (float)e->config->layer_norm_eps};

	norm.weight = block->norm1.weight;
	norm.bias = block->norm1.bias;
	op_layer_norm(b, h, x, &norm);
	linear_forward(run, qkv, h, &block->qkv);
	op_attention(b, h, tensor_columns(qkv, 0, c), tensor_columns(qkv, c, c), tensor_columns(qkv, 2 * c, c),
		e->config->num_heads, NULL);
	linear_into(run, x, h, &block->out, ACT_NONE, block->scale1, x, NULL);
	norm.weight = block->norm2.weight;
	norm.bias = block->norm2.bias;
	op_layer_norm(b, h, x, &norm);
	linear_into(run, wide, h, &block->fc1, ACT_GELU_ERF, TENSOR_NONE, TENSOR_NONE, NULL);
	linear_into(run, x, wide, &block->fc2, ACT_NONE, block->scale2, x, NULL);
	scratch_release(b, mark);
}

void image_encoder_forward(struct run *run, const struct image_encoder *e, struct tensor tokens, const float *pixels,
	int height, int width)
{
	struct backend *b = run->b;
	const struct model_config *c = e->config;
	size_t mark = scratch_mark(b);
	struct tensor x = scratch_new(b, tokens.rows, tokens.cols);
	double n = (double)x.rows, wide = c->mlp_channels, channels = c->model_channels;

	embed(run, e, x, pixels, height, width);
	tap(run, x, "embed");
	for (int i = 0; i < c->num_blocks; i++) {
		encoder_block_forward(run, e, &e->blocks[i], x);
		tap(run, x, "block%d", i);
		run_worked(run, 2 * n * channels * (4 * channels + 2 * wide) + 4 * n * n * channels);
	}
	tap(run, x, "x_prenorm");
	layer_norm(run, tokens, x, 1e-5f);
	run_expect_finite(run, tokens, model_role_name(ROLE_ENCODER));
	scratch_release(b, mark);
}

int64_t image_encoder_tokens(const struct checkpoint *c, int height, int width)
{
	int p = c->config.patch_size;
	return 1 + c->config.num_registers + (int64_t)(height / p) * (width / p);
}

double image_encoder_work(const struct checkpoint *c)
{
	double n = (double)image_encoder_tokens(c, c->config.image_size, c->config.image_size);
	double channels = c->config.model_channels, wide = c->config.mlp_channels;
	return c->config.num_blocks * (2 * n * channels * (4 * channels + 2 * wide) + 4 * n * n * channels);
}
