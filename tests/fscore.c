/* fscore.c - `fscore MESH.glb TRUTH.ply`: how much of one surface lies within 0.02 and within 0.01 (in units of the cube) of
 * the other, both ways, as the harmonic mean of the two shares. Used by scripts/regression.sh.
 * The mesh is sampled at as many points as the truth has, spread by area with a fixed seed; the truth is a list of points of
 * the true surface as contrib/mini/truth.py writes it: coordinates as shorts, position * 65534, z up. */
#include "glb_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DISTANCE_MAX 0.02f

enum { CELLS = 52, POINTS_MAX = 1 << 20 }; /* cells of DISTANCE_MAX along an axis: the cube and a margin */

struct points {
	int n;
	float (*at)[3];
};

/* Uniform in [0, 1): splitmix64. */
static double draw(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static bool read_truth(struct points *p, const char *path, struct error *err)
{
	char line[256];
	int shorts = 0;
	FILE *file = fopen(path, "rb");
	if (!file)
		return error_set(err, "%s: cannot be opened", path);
	while (fgets(line, sizeof line, file) && strcmp(line, "end_header\n") != 0) {
		sscanf(line, "element vertex %d", &p->n);
		shorts += strncmp(line, "property short ", 15) == 0;
	}
	bool ok = p->n > 0 && p->n <= POINTS_MAX && shorts == 3;
	p->at = ok ? calloc((size_t)p->n, sizeof *p->at) : NULL;
	for (int i = 0; p->at && i < 3 * p->n; i++) {
		int low = getc(file), high = getc(file);
		ok &= high != EOF;
		p->at[i / 3][i % 3] = (float)(int16_t)(low | high << 8) / 65534.0f;
	}
	fclose(file);
	return (ok && p->at) || error_set(err, "%s: not a list of points as shorts", path);
}

static double face_area(const struct trellis_mesh *m, int64_t face)
{
	const float *a = m->vertices + 3 * (int64_t)m->faces[3 * face];
	const float *b = m->vertices + 3 * (int64_t)m->faces[3 * face + 1];
	const float *c = m->vertices + 3 * (int64_t)m->faces[3 * face + 2];
	double u[3], v[3];
	for (int i = 0; i < 3; i++) {
		u[i] = (double)b[i] - (double)a[i];
		v[i] = (double)c[i] - (double)a[i];
	}
	double x = u[1] * v[2] - u[2] * v[1], y = u[2] * v[0] - u[0] * v[2], z = u[0] * v[1] - u[1] * v[0];
	return sqrt(x * x + y * y + z * z) / 2;
}

/* One point at each of n equal strides along the summed area, so that the spread is even. */
static bool sample_surface(struct points *p, const struct trellis_mesh *m, int n, struct error *err)
{
	double total = 0, passed = 0;
	uint64_t state = 1;
	int64_t face = -1;
	for (int64_t f = 0; f < m->n_faces; f++)
		total += face_area(m, f);
	p->at = total > 0 ? calloc((size_t)n, sizeof *p->at) : NULL;
	if (!p->at)
		return error_set(err, "the mesh has no surface");
	for (p->n = 0; p->n < n; p->n++) {
		double target = (p->n + draw(&state)) / n * total;
		while (face < 0 || (passed < target && face < m->n_faces - 1))
			passed += face_area(m, ++face);
		double s = sqrt(draw(&state)), t = draw(&state);
		const double weights[3] = {1 - s, s * (1 - t), s * t};
		for (int corner = 0; corner < 3; corner++)
			for (int i = 0; i < 3; i++)
				p->at[p->n][i] +=
					(float)(weights[corner] *
						(double)m->vertices[3 * (int64_t)m->faces[3 * face + corner] + i]);
	}
	return true;
}

static int cell_of(float x)
{
	int cell = (int)floorf((x + 0.5f) / DISTANCE_MAX) + 1;
	return cell < 1 ? 1 : cell > CELLS - 2 ? CELLS - 2 : cell;
}

/* The share of a's points that have one of b's within distance (at most DISTANCE_MAX); -1 without memory. */
static double share_near(const struct points *a, const struct points *b, float distance)
{
	int(*first)[CELLS][CELLS] = malloc(sizeof(int[CELLS][CELLS][CELLS]));
	int *next = calloc((size_t)b->n, sizeof *next), near = 0;
	if (!first || !next) {
		free(first);
		free(next);
		return -1;
	}
	memset(first, -1, sizeof(int[CELLS][CELLS][CELLS]));
	for (int i = 0; i < b->n; i++) {
		int *head = &first[cell_of(b->at[i][0])][cell_of(b->at[i][1])][cell_of(b->at[i][2])];
		next[i] = *head;
		*head = i;
	}
	for (int i = 0; i < a->n; i++) {
		const float *p = a->at[i];
		bool found = false;
		for (int k = 0; k < 27 && !found; k++) {
			int j = first[cell_of(p[0]) + k / 9 - 1][cell_of(p[1]) + k / 3 % 3 - 1]
				     [cell_of(p[2]) + k % 3 - 1];
			for (; j >= 0 && !found; j = next[j]) {
				float x = p[0] - b->at[j][0], y = p[1] - b->at[j][1], z = p[2] - b->at[j][2];
				found = x * x + y * y + z * z < distance * distance;
			}
		}
		near += found;
	}
	free(first);
	free(next);
	return (double)near / a->n;
}

/* -1 without memory. */
static double f_score(const struct points *a, const struct points *b, float distance)
{
	double precision = share_near(a, b, distance), recall = share_near(b, a, distance);
	if (precision < 0 || recall < 0)
		return -1;
	return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

int main(int argc, char **argv)
{
	struct error err;
	struct trellis_mesh mesh = {0};
	struct points truth = {0}, made = {0};
	if (argc != 3) {
		fprintf(stderr, "usage: fscore MESH.glb TRUTH.ply\n");
		return 2;
	}
	bool ok = glb_load(&mesh, argv[1], &err) && read_truth(&truth, argv[2], &err) &&
		  sample_surface(&made, &mesh, truth.n, &err);
	if (ok) {
		double coarse = f_score(&made, &truth, 0.02f), fine = f_score(&made, &truth, 0.01f);
		ok = (coarse >= 0 && fine >= 0) || error_set(&err, "out of memory");
		if (ok)
			printf("%.4f %.4f\n", coarse, fine);
	}
	if (!ok)
		fprintf(stderr, "fscore: %s\n", err.text);
	trellis_mesh_finish(&mesh);
	free(truth.at);
	free(made.at);
	return ok ? 0 : 1;
}
