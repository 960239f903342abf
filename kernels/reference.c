/* reference.c - the plain C oracle: every op as its formula reads, f32 storage, sums in double, one thread.
 * Slow on purpose. The other backends are compared with it; it is itself checked by hand-made cases in the tests.
 * Formulas: backend.h. */
#include "backend_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference_weight {
	struct weight base;
	float *data; /* in the checkpoint's layout */
};

static float *at(struct tensor x, int64_t r)
{
	return (float *)x.data + r * x.stride;
}

static int32_t *at_i32(struct tensor x, int64_t r)
{
	return (int32_t *)x.data + r * x.stride;
}

static const float *numbers(const struct weight *w)
{
	return ((const struct reference_weight *)w)->data;
}

static double activated(double x, enum activation act)
{
	switch (act) {
	case ACT_NONE:
		break;
	case ACT_SILU:
		return x / (1 + exp(-x));
	case ACT_GELU_TANH:
		return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
	case ACT_GELU_ERF:
		return 0.5 * x * (1 + erf(x * M_SQRT1_2));
	}
	return x;
}

/* ---- life and memory ---- */

static void reference_destroy(struct backend *b)
{
	scratch_finish(b);
	free(b);
}

static void *reference_alloc(struct backend *b, size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!p)
		backend_fail_as(b, FAULT_MEMORY, "out of memory: %zu bytes wanted", bytes);
	return p;
}

static void reference_free(struct backend *b, void *p)
{
	(void)b;
	free(p);
}

static struct weight *reference_weight_create(
	struct backend *b, enum weight_kind kind, int64_t out, int64_t in, const struct numbers *parts, int count)
{
	int64_t n = weight_count(kind, out, in), each = n / count;
	struct reference_weight *w = malloc(sizeof *w);
	float *data = malloc((size_t)n * sizeof *data);
	if (!w || !data) {
		backend_fail_as(b, FAULT_MEMORY, "out of memory: weight of %lld numbers", (long long)n);
		free(w);
		free(data);
		return NULL;
	}
	for (int i = 0; i < count; i++)
		convert_to_f32(data + i * each, parts[i].data, parts[i].dtype, each);
	*w = (struct reference_weight){.base = {.kind = kind, .out = out, .in = in}, .data = data};
	return &w->base;
}

static void reference_weight_destroy(struct backend *b, struct weight *w)
{
	(void)b;
	free(((struct reference_weight *)w)->data);
	free(w);
}

static void reference_sync(struct backend *b)
{
	(void)b;
}

static void reference_upload(struct backend *b, struct tensor y, const float *host)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		memcpy(at(y, r), host + r * y.cols, (size_t)y.cols * sizeof *host);
}

static void reference_upload_i32(struct backend *b, struct tensor y, const int32_t *host)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		memcpy(at_i32(y, r), host + r * y.cols, (size_t)y.cols * sizeof *host);
}

static void reference_download(struct backend *b, float *host, struct tensor x)
{
	(void)b;
	for (int64_t r = 0; r < x.rows; r++)
		memcpy(host + r * x.cols, at(x, r), (size_t)x.cols * sizeof *host);
}

static void reference_download_i32(struct backend *b, int32_t *host, struct tensor x)
{
	(void)b;
	for (int64_t r = 0; r < x.rows; r++)
		memcpy(host + r * x.cols, at_i32(x, r), (size_t)x.cols * sizeof *host);
}

/* ---- products ---- */

/* y[r, o] = residual[r, o] + gate[o] * act(sum + bias[o]) */
static void store(struct tensor y, int64_t r, int64_t o, double sum, const struct epilogue *e)
{
	double value = activated(sum + (e->bias ? (double)numbers(e->bias)[o] : 0), e->act);
	if (e->gate.data)
		value *= (double)at(e->gate, 0)[o];
	if (e->residual.data)
		value += (double)at(e->residual, r)[o];
	at(y, r)[o] = (float)value;
}

static void reference_linear(
	struct backend *b, struct tensor y, struct tensor x, const struct weight *w, const struct epilogue *e)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t o = 0; o < w->out; o++) {
			const float *row = numbers(w) + o * w->in;
			double sum = 0;
			for (int64_t i = 0; i < w->in; i++)
				sum += (double)row[i] * (double)at(x, r)[i];
			store(y, r, o, sum, e);
		}
}

static void reference_conv3d(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	int64_t resolution, const struct epilogue *e)
{
	(void)b;
	int64_t n = resolution;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t o = 0; o < w->out; o++) {
			double sum = 0;
			for (int64_t k = 0; k < 27; k++) {
				int64_t sx = r / (n * n) + k / 9 - 1, sy = r / n % n + k / 3 % 3 - 1,
					sz = r % n + k % 3 - 1;
				if (sx < 0 || sx >= n || sy < 0 || sy >= n || sz < 0 || sz >= n)
					continue;
				const float *source = at(x, (sx * n + sy) * n + sz);
				for (int64_t i = 0; i < w->in; i++)
					sum += (double)numbers(w)[(o * w->in + i) * 27 + k] * (double)source[i];
			}
			store(y, r, o, sum, e);
		}
}

static void reference_sparse_conv(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t o = 0; o < w->out; o++) {
			double sum = 0;
			for (int64_t k = 0; k < 27; k++) {
				int32_t p = at_i32(neighbours, r)[k];
				const float *row = numbers(w) + (o * 27 + k) * w->in;
				for (int64_t i = 0; p >= 0 && i < w->in; i++)
					sum += (double)row[i] * (double)at(x, p)[i];
			}
			store(y, r, o, sum, e);
		}
}

/* Tap k of child c meets a parent; see subdivision_parent. Returns its column in the parents' table. */
static int64_t parent_tap(int64_t c, int64_t k)
{
	int dx = subdivision_parent((int)(c >> 2), (int)(k / 9)) + 1;
	int dy = subdivision_parent((int)(c >> 1 & 1), (int)(k / 3 % 3)) + 1;
	int dz = subdivision_parent((int)(c & 1), (int)(k % 3)) + 1;
	return (dx * 3 + dy) * 3 + dz;
}

static void reference_sparse_conv_up(struct backend *b, struct tensor y, struct tensor x, const struct weight *w,
	struct tensor neighbours, const struct epilogue *e)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t o = 0; o < w->out; o++) {
			double sum = 0;
			for (int64_t k = 0; k < 27; k++) {
				int32_t p = at_i32(neighbours, r / 8)[parent_tap(r % 8, k)];
				const float *row = numbers(w) + (o * 27 + k) * w->in;
				for (int64_t i = 0; p >= 0 && i < w->in; i++)
					sum += (double)row[i] * (double)at(x, p)[i];
			}
			store(y, r, o, sum, e);
		}
}

/* ---- neighbours ---- */

static void reference_neighbours(struct backend *b, struct tensor table, struct tensor coords)
{
	(void)b;
	for (int64_t r = 0; r < coords.rows; r++) {
		const int32_t *c = at_i32(coords, r);
		for (int64_t k = 0; k < 27; k++)
			at_i32(table, r)[k] = -1;
		at_i32(table, r)[NEIGHBOUR_ORDER] = (int32_t)r;
		for (int64_t s = 0; s < coords.rows; s++) {
			int32_t dx = at_i32(coords, s)[0] - c[0] + 1, dy = at_i32(coords, s)[1] - c[1] + 1,
				dz = at_i32(coords, s)[2] - c[2] + 1;
			if (dx >= 0 && dx < 3 && dy >= 0 && dy < 3 && dz >= 0 && dz < 3)
				at_i32(table, r)[(dx * 3 + dy) * 3 + dz] = (int32_t)s;
		}
	}
}

/* Along each axis the tap lands on fine coordinate 2 p + side + k - 1: which child of the parent it meets. */
static void reference_neighbours_up(struct backend *b, struct tensor table, struct tensor parents)
{
	(void)b;
	for (int64_t r = 0; r < table.rows; r++)
		for (int64_t k = 0; k < 27; k++) {
			int64_t c = r % 8;
			int32_t p = at_i32(parents, r / 8)[parent_tap(c, k)];
			int64_t sx = ((c >> 2) + k / 9 + 1) & 1, sy = ((c >> 1 & 1) + k / 3 % 3 + 1) & 1,
				sz = ((c & 1) + k % 3 + 1) & 1;
			at_i32(table, r)[k] = p < 0 ? -1 : (int32_t)(8 * p + (sx * 2 + sy) * 2 + sz);
			at_i32(table, r)[NEIGHBOUR_ORDER] = (int32_t)r;
		}
}

/* ---- normalisation ---- */

/* y[c] for channel c of a row whose statistics are known */
static float normalised(float x, int64_t c, double mean, double scale, const struct norm *n)
{
	double value = ((double)x - mean) * scale;
	if (n->weight)
		value = value * (double)numbers(n->weight)[c] + (double)numbers(n->bias)[c];
	if (n->scale.data)
		value = value * (1 + (double)at(n->scale, 0)[c]) + (double)at(n->shift, 0)[c];
	return (float)activated(value, n->act);
}

/* Mean and 1 / sqrt(var + eps) of columns [first, first + cols) over rows [row, row + rows). */
static void statistics(
	struct tensor x, int64_t row, int64_t rows, int64_t first, int64_t cols, float eps, double *mean, double *scale)
{
	double sum = 0, squares = 0, count = (double)(rows * cols);
	for (int64_t r = row; r < row + rows; r++)
		for (int64_t c = first; c < first + cols; c++)
			sum += (double)at(x, r)[c];
	for (int64_t r = row; r < row + rows; r++)
		for (int64_t c = first; c < first + cols; c++)
			squares += ((double)at(x, r)[c] - sum / count) * ((double)at(x, r)[c] - sum / count);
	*mean = sum / count;
	*scale = 1 / sqrt(squares / count + (double)eps);
}

static void reference_layer_norm(struct backend *b, struct tensor y, struct tensor x, const struct norm *n)
{
	(void)b;
	for (int64_t r = 0; r < x.rows; r++) {
		double mean, scale;
		statistics(x, r, 1, 0, x.cols, n->eps, &mean, &scale);
		for (int64_t c = 0; c < x.cols; c++)
			at(y, r)[c] = normalised(at(x, r)[c], c, mean, scale, n);
	}
}

static void reference_group_norm(struct backend *b, struct tensor y, struct tensor x, int groups, const struct norm *n)
{
	(void)b;
	int64_t cols = x.cols / groups;
	for (int64_t first = 0; first < x.cols; first += cols) {
		double mean, scale;
		statistics(x, 0, x.rows, first, cols, n->eps, &mean, &scale);
		for (int64_t r = 0; r < x.rows; r++)
			for (int64_t c = first; c < first + cols; c++)
				at(y, r)[c] = normalised(at(x, r)[c], c, mean, scale, n);
	}
}

static void reference_rms_norm_heads(struct backend *b, struct tensor x, const struct weight *gamma, int heads)
{
	(void)b;
	int64_t d = x.cols / heads;
	for (int64_t r = 0; r < x.rows; r++)
		for (int64_t first = 0; first < x.cols; first += d) {
			float *head = at(x, r) + first;
			double squares = 0;
			for (int64_t c = 0; c < d; c++)
				squares += (double)head[c] * (double)head[c];
			double scale = sqrt((double)d) / fmax(sqrt(squares), 1e-12);
			for (int64_t c = 0; c < d; c++)
				head[c] = (float)((double)head[c] * scale * (double)numbers(gamma)[first + c]);
		}
}

/* ---- attention ---- */

/* One query and one head over n keys; key j is row order[j], or j when there is no order. score: n numbers of room. */
static void attend(struct tensor y, struct tensor q, struct tensor k, struct tensor v, int64_t row, int64_t first,
	int64_t d, const int32_t *order, int64_t n, double *score)
{
	double largest = -INFINITY, total = 0;
	for (int64_t j = 0; j < n; j++) {
		int64_t key = order ? order[j] : j;
		score[j] = 0;
		for (int64_t c = first; c < first + d; c++)
			score[j] += (double)at(q, row)[c] * (double)at(k, key)[c];
		score[j] /= sqrt((double)d);
		largest = fmax(largest, score[j]);
	}
	for (int64_t j = 0; j < n; j++)
		total += score[j] = exp(score[j] - largest);
	for (int64_t c = first; c < first + d; c++) {
		double sum = 0;
		for (int64_t j = 0; j < n; j++)
			sum += score[j] * (double)at(v, order ? order[j] : j)[c];
		at(y, row)[c] = (float)(sum / total);
	}
}

static void reference_attention(struct backend *b, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
	int heads, const struct windows *windows)
{
	int64_t d = q.cols / heads;
	double *score = malloc((size_t)k.rows * sizeof *score);
	if (!score) {
		backend_fail_as(b, FAULT_MEMORY, "out of memory: attention over %lld keys", (long long)k.rows);
		return;
	}
	for (int64_t first = 0; first < q.cols; first += d) {
		for (int64_t r = 0; !windows && r < q.rows; r++)
			attend(y, q, k, v, r, first, d, NULL, k.rows, score);
		for (int64_t w = 0; windows && w < windows->count; w++) {
			int32_t begin = *at_i32(windows->offset, w), end = *at_i32(windows->offset, w + 1);
			const int32_t *order = (const int32_t *)windows->order.data + begin;
			for (int32_t i = 0; i < end - begin; i++)
				attend(y, q, k, v, order[i], first, d, order, end - begin, score);
		}
	}
	free(score);
}

/* ---- rows ---- */

static void reference_activate(struct backend *b, struct tensor y, struct tensor x, enum activation act)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t c = 0; c < y.cols; c++)
			at(y, r)[c] = (float)activated((double)at(x, r)[c], act);
}

static void reference_add(struct backend *b, struct tensor y, struct tensor a, struct tensor x)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t c = 0; c < y.cols; c++)
			at(y, r)[c] = at(a, r)[c] + at(x, x.rows == 1 ? 0 : r)[c];
}

static void reference_combine(struct backend *b, struct tensor y, float p, struct tensor a, float q, struct tensor x)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		for (int64_t c = 0; c < y.cols; c++) {
			float product = p * at(a, r)[c];
			at(y, r)[c] = x.data ? product + q * at(x, r)[c] : product;
		}
}

static void reference_gather_rows(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	(void)b;
	for (int64_t r = 0; r < y.rows; r++)
		memcpy(at(y, r), at(x, gathered_row(y, x, index, r)), (size_t)y.cols * sizeof(float));
}

static void reference_downsample(struct backend *b, struct tensor y, struct tensor x, struct tensor index)
{
	(void)b;
	for (int64_t c = 0; c < y.cols; c++)
		for (int64_t i = 0; i < y.rows; i++) {
			double sum = 0, count = 0;
			for (int64_t r = 0; r < x.rows; r++)
				if (*at_i32(index, r) == i) {
					sum += (double)at(x, r)[c];
					count++;
				}
			at(y, i)[c] = (float)(sum / (count + 1));
		}
}

static void reference_pixel_shuffle(struct backend *b, struct tensor y, struct tensor x, int64_t resolution)
{
	(void)b;
	int64_t n = resolution;
	for (int64_t r = 0; r < x.rows; r++)
		for (int64_t c = 0; c < x.cols; c++) {
			int64_t fx = 2 * (r / (n * n)) + (c >> 2 & 1), fy = 2 * (r / n % n) + (c >> 1 & 1),
				fz = 2 * (r % n) + (c & 1);
			at(y, (fx * 2 * n + fy) * 2 * n + fz)[c / 8] = at(x, r)[c];
		}
}

static bool reference_is_finite(struct backend *b, struct tensor x)
{
	(void)b;
	for (int64_t r = 0; r < x.rows; r++)
		for (int64_t c = 0; c < x.cols; c++)
			if (!isfinite(at(x, r)[c]))
				return false;
	return true;
}

static const struct backend_ops reference_ops = {
	.name = "reference",
	.destroy = reference_destroy,
	.alloc = reference_alloc,
	.free = reference_free,
	.weight_create = reference_weight_create,
	.weight_destroy = reference_weight_destroy,
	.sync = reference_sync,
	.upload = reference_upload,
	.upload_i32 = reference_upload_i32,
	.download = reference_download,
	.download_i32 = reference_download_i32,
	.linear = reference_linear,
	.conv3d = reference_conv3d,
	.sparse_conv = reference_sparse_conv,
	.sparse_conv_up = reference_sparse_conv_up,
	.neighbours = reference_neighbours,
	.neighbours_up = reference_neighbours_up,
	.coords_up = coords_up_on_host,
	.layer_norm = reference_layer_norm,
	.group_norm = reference_group_norm,
	.rms_norm_heads = reference_rms_norm_heads,
	.attention = reference_attention,
	.activate = reference_activate,
	.add = reference_add,
	.combine = reference_combine,
	.gather_rows = reference_gather_rows,
	.downsample = reference_downsample,
	.pixel_shuffle = reference_pixel_shuffle,
	.is_finite = reference_is_finite,
	.extract = extract_on_host,
};

struct backend *backend_reference_create(struct error *err)
{
	struct backend *b = malloc(sizeof *b);
	if (!b) {
		error_set(err, "out of memory");
		return NULL;
	}
	backend_init(b, &reference_ops, DTYPE_F32);
	return b;
}
