/* matting_color.c - models of colour for matting. Used by matting.c.
 * Sources: B. Ottosson, "A perceptual color space for image processing" (2020) for Oklab; Orchard and Bouman, "Color
 * quantization of images" (1991) for splitting clusters along their longest axis. */
#include "matting_color.h"

#include <math.h>
#include <string.h>

void color_to_lab(float (*lab)[3], const uint8_t *rgba, int n)
{
	float linear[256];
	for (int i = 0; i < 256; i++) {
		float x = (float)i / 255;
		linear[i] = x <= 0.04045f ? x / 12.92f : powf((x + 0.055f) / 1.055f, 2.4f);
	}
	for (int i = 0; i < n; i++, rgba += 4) {
		float r = linear[rgba[0]], g = linear[rgba[1]], b = linear[rgba[2]];
		float l = cbrtf(0.4122214708f * r + 0.5363325363f * g + 0.0514459929f * b);
		float m = cbrtf(0.2119034982f * r + 0.6806995451f * g + 0.1073969566f * b);
		float s = cbrtf(0.0883024619f * r + 0.2817188376f * g + 0.6299787005f * b);
		lab[i][0] = 100 * (0.2104542553f * l + 0.7936177850f * m - 0.0040720468f * s);
		lab[i][1] = 100 * (1.9779984951f * l - 2.4285922050f * m + 0.4505937099f * s);
		lab[i][2] = 100 * (0.0259040371f * l + 0.7827717662f * m - 0.8086757660f * s);
	}
}

static void monomials(float f[6], const struct color_surface *s, float x, float y)
{
	x = 2 * x / s->width - 1;
	y = 2 * y / s->height - 1;
	f[0] = 1;
	f[1] = x;
	f[2] = y;
	f[3] = x * x;
	f[4] = x * y;
	f[5] = y * y;
}

void color_surface_at(float lab[3], const struct color_surface *s, float x, float y)
{
	float f[6];
	monomials(f, s, x, y);
	for (int c = 0; c < 3; c++) {
		lab[c] = 0;
		for (int k = 0; k < 6; k++)
			lab[c] += s->c[c][k] * f[k];
	}
}

/* Gauss elimination of [a | b], a [6, 6] positive definite after its ridge, b [6, 3]; the solution replaces b. */
static void solve(double a[6][6], double b[6][3])
{
	for (int k = 0; k < 6; k++) {
		for (int i = k + 1; i < 6; i++) {
			double f = a[i][k] / a[k][k];
			for (int j = k; j < 6; j++)
				a[i][j] -= f * a[k][j];
			for (int c = 0; c < 3; c++)
				b[i][c] -= f * b[k][c];
		}
	}
	for (int k = 5; k >= 0; k--) {
		for (int c = 0; c < 3; c++) {
			for (int j = k + 1; j < 6; j++)
				b[k][c] -= a[k][j] * b[j][c];
			b[k][c] /= a[k][k];
		}
	}
}

static float distance_to_surface(const struct color_surface *s, const float lab[3], int x, int y)
{
	float at[3];
	color_surface_at(at, s, (float)x, (float)y);
	float a = lab[0] - at[0], b = lab[1] - at[1], c = lab[2] - at[2];
	return sqrtf(a * a + b * b + c * c);
}

/* The median distance of masked pixels from the surface, to within 1/8. */
static float median_distance(
	const struct color_surface *s, const float (*lab)[3], const uint8_t *mask, int width, int height)
{
	int histogram[1024] = {0}, total = 0, seen = 0, bin = 0;
	for (int i = 0; i < width * height; i++) {
		if (!mask[i])
			continue;
		float d = distance_to_surface(s, lab[i], i % width, i / width) * 8;
		histogram[d < 1023 ? (int)d : 1023]++;
		total++;
	}
	while (bin < 1023 && (seen += histogram[bin]) * 2 < total)
		bin++;
	return (float)(bin + 1) / 8;
}

/* Weighted least squares, the weights from the distance to the previous fit (Geman-McClure): from a loose scale, at
 * which everything counts, down to the spread of the majority. */
void color_surface_fit(struct color_surface *s, const float (*lab)[3], const uint8_t *mask, int width, int height)
{
	*s = (struct color_surface){.width = (float)width, .height = (float)height, .spread = 50};
	for (int round = 0; round < 12; round++) {
		double a[6][6] = {{0}}, b[6][3] = {{0}};
		for (int i = 0; i < width * height; i++) {
			if (!mask[i])
				continue;
			float f[6], ratio = 0;
			monomials(f, s, (float)(i % width), (float)(i / width));
			if (round > 0)
				ratio = distance_to_surface(s, lab[i], i % width, i / width) / (2 * s->spread);
			float weight = 1 / ((1 + ratio * ratio) * (1 + ratio * ratio));
			for (int j = 0; j < 6; j++) {
				for (int k = 0; k < 6; k++)
					a[j][k] += weight * f[j] * f[k];
				for (int c = 0; c < 3; c++)
					b[j][c] += weight * f[j] * lab[i][c];
			}
		}
		double ridge = 1e-3 * a[0][0] + 1e-9; /* a short border leaves some terms open */
		for (int k = 0; k < 6; k++)
			a[k][k] += k ? ridge : 1e-9;
		solve(a, b);
		for (int c = 0; c < 3; c++)
			for (int k = 0; k < 6; k++)
				s->c[c][k] = (float)b[k][c];
		s->spread = median_distance(s, lab, mask, width, height);
	}
}

/* One cluster while fitting: its moments. */
struct cluster {
	double n, sum[3], products[6];
};

static const int product_of[6][2] = {{0, 0}, {0, 1}, {0, 2}, {1, 1}, {1, 2}, {2, 2}};

static void cluster_add(struct cluster *k, const float lab[3])
{
	k->n++;
	for (int c = 0; c < 3; c++)
		k->sum[c] += lab[c];
	for (int p = 0; p < 6; p++)
		k->products[p] += lab[product_of[p][0]] * lab[product_of[p][1]];
}

static void cluster_moments(float mean[3], float covariance[6], const struct cluster *k)
{
	for (int c = 0; c < 3; c++)
		mean[c] = (float)(k->sum[c] / k->n);
	for (int p = 0; p < 6; p++)
		covariance[p] = (float)(k->products[p] / k->n) - mean[product_of[p][0]] * mean[product_of[p][1]];
}

/* The longest axis of a covariance by power iteration, and the variance along it. */
static float longest_axis(float axis[3], const float v[6])
{
	axis[0] = axis[1] = axis[2] = 0.57735f;
	float length = 0;
	for (int i = 0; i < 16; i++) {
		float w[3] = {v[0] * axis[0] + v[1] * axis[1] + v[2] * axis[2],
			v[1] * axis[0] + v[3] * axis[1] + v[4] * axis[2],
			v[2] * axis[0] + v[4] * axis[1] + v[5] * axis[2]};
		length = sqrtf(w[0] * w[0] + w[1] * w[1] + w[2] * w[2]);
		for (int c = 0; c < 3 && length > 0; c++)
			axis[c] = w[c] / length;
	}
	return length;
}

static int nearest(const float centres[][3], int n, const float lab[3])
{
	int best = 0;
	float best_distance = INFINITY;
	for (int k = 0; k < n; k++) {
		float a = lab[0] - centres[k][0], b = lab[1] - centres[k][1], c = lab[2] - centres[k][2];
		float distance = a * a + b * b + c * c;
		if (distance < best_distance) {
			best_distance = distance;
			best = k;
		}
	}
	return best;
}

static void gather(struct cluster *clusters, const float centres[][3], int n, const float (*lab)[3], int count)
{
	memset(clusters, 0, (size_t)n * sizeof *clusters);
	for (int i = 0; i < count; i++)
		cluster_add(&clusters[nearest(centres, n, lab[i])], lab[i]);
}

static struct color_gaussian to_gaussian(const struct cluster *k, int count, float noise)
{
	struct color_gaussian g;
	float v[6];
	cluster_moments(g.mean, v, k);
	v[0] += noise * noise;
	v[3] += noise * noise;
	v[5] += noise * noise;
	float a = v[3] * v[5] - v[4] * v[4], b = v[2] * v[4] - v[1] * v[5], c = v[1] * v[4] - v[2] * v[3];
	float determinant = v[0] * a + v[1] * b + v[2] * c;
	g.inverse[0] = a / determinant;
	g.inverse[1] = b / determinant;
	g.inverse[2] = c / determinant;
	g.inverse[3] = (v[0] * v[5] - v[2] * v[2]) / determinant;
	g.inverse[4] = (v[1] * v[2] - v[0] * v[4]) / determinant;
	g.inverse[5] = (v[0] * v[3] - v[1] * v[1]) / determinant;
	g.offset = -logf((float)k->n / (float)count) + 0.5f * logf(determinant);
	return g;
}

void color_mixture_fit(struct color_mixture *m, int n, const float (*lab)[3], int count, float noise)
{
	m->n = 0;
	if (count == 0)
		return;
	struct cluster clusters[MIXTURE_MAX];
	float centres[MIXTURE_MAX][3] = {{0}};
	int used = 1;
	gather(clusters, centres, 1, lab, count);
	while (used < n) { /* split the widest cluster in two, one deviation to each side of its mean */
		float widest = 0, from[3] = {0}, along[3] = {0};
		int split = 0;
		for (int k = 0; k < used; k++) {
			float v[6], axis[3];
			cluster_moments(centres[k], v, &clusters[k]);
			float variance = longest_axis(axis, v);
			if (variance * (float)clusters[k].n > widest) {
				widest = variance * (float)clusters[k].n;
				split = k;
				for (int c = 0; c < 3; c++) {
					from[c] = centres[k][c];
					along[c] = axis[c] * sqrtf(variance);
				}
			}
		}
		for (int c = 0; c < 3; c++) {
			centres[split][c] = from[c] - along[c];
			centres[used][c] = from[c] + along[c];
		}
		used++;
		for (int round = 0; round < 4; round++) {
			gather(clusters, centres, used, lab, count);
			for (int k = 0; k < used; k++)
				for (int c = 0; c < 3 && clusters[k].n > 0; c++)
					centres[k][c] = (float)(clusters[k].sum[c] / clusters[k].n);
		}
		for (int k = 0; k < used; k++) /* an empty one leaves; the last takes its place */
			if (clusters[k].n == 0) {
				clusters[k] = clusters[--used];
				n--;
				k--;
			}
	}
	for (int k = 0; k < used; k++)
		m->g[m->n++] = to_gaussian(&clusters[k], count, noise);
}

float color_mixture_energy(const struct color_mixture *m, const float lab[3])
{
	float best = 1000;
	for (int k = 0; k < m->n; k++) {
		const struct color_gaussian *g = &m->g[k];
		float a = lab[0] - g->mean[0], b = lab[1] - g->mean[1], c = lab[2] - g->mean[2];
		float square = a * a * g->inverse[0] + b * b * g->inverse[3] + c * c * g->inverse[5] +
			       2 * (a * b * g->inverse[1] + a * c * g->inverse[2] + b * c * g->inverse[4]);
		float energy = 0.5f * square + g->offset;
		best = energy < best ? energy : best;
	}
	return best;
}
