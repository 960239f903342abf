/* extract.cu - dual vertices and faces of the surface whose cubes, corners and quads extract_lists.cu found.
 * Mirrors ../flexicubes.c: a thread a corner, a cube, a quad, each in float32 in the official order. */
#include "extract.cuh"

#define WEIGHT_SCALE 0.99f
#define OUTSIDE_SDF 1.0f

/* The two corners of an edge: fc_edge_corners. */
static __constant__ uint8_t edge_corners[FC_EDGES][2] = {
	{0, 1}, {1, 5}, {4, 5}, {0, 4}, {2, 3}, {3, 7}, {6, 7}, {2, 6}, {2, 0}, {3, 1}, {7, 5}, {6, 4}};

static __device__ __forceinline__ float multiply_add(float a, float b, float c)
{
	return __fadd_rn(__fmul_rn(a, b), c);
}

static __device__ __forceinline__ float sigmoid(float v)
{
	return __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-v)));
}

/* The CPU's to the last bit but for one argument in some thousands: a product of gammas chooses a diagonal. */
static __device__ float sigmoid_exact(float v)
{
	return __fdiv_rn(1.0f, __fadd_rn(1.0f, (float)exp(-(double)v)));
}

static __device__ float grid_position(const struct extract_grid &g, int32_t i, float deform)
{
	float start = __fadd_rn(__fdiv_rn((float)i, (float)g.resolution), -0.5f);
	return multiply_add(g.reach, tanhf(deform), start);
}

/* --- corners --- */

/* The means of the raw deformation and colour, in the official order; the loads of a touching cube go out together. */
static __device__ __forceinline__ void touch_means(
	const struct extraction &x, const int32_t touch[8], float deform[3], float color[N_COLORS])
{
	int count = 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (touch[i] != NO_TOUCH) {
			const float *row = x.features + (touch[i] >> 3) * x.stride;
			int k = touch[i] & 7;
#pragma unroll
			for (int a = 0; a < 3; a++)
				deform[a] = __fadd_rn(deform[a], row[DEFORM + 3 * k + a]);
			if (x.has_color)
#pragma unroll
				for (int c = 0; c < N_COLORS; c++)
					color[c] = __fadd_rn(color[c], row[COLOR + N_COLORS * k + c]);
			count++;
		}
#pragma unroll
	for (int a = 0; a < 3; a++)
		deform[a] = __fdiv_rn(deform[a], (float)count);
#pragma unroll
	for (int c = 0; c < N_COLORS; c++)
		color[c] = __fdiv_rn(color[c], (float)count);
}

static __global__ void place_corners(struct extraction x, int64_t n_used)
{
	int64_t i = thread_index();
	int32_t touch[8], xyz[3];
	float deform[3] = {0}, color[N_COLORS] = {0};
	if (i >= n_used)
		return;
	int32_t key = x.used_keys[i];
	float *corner = x.corners + i * CORNER_WIDTH;
	find_touch(x, key, touch);
	key_to_xyz(x.grid, key, xyz);
	touch_means(x, touch, deform, color);
#pragma unroll
	for (int a = 0; a < 3; a++)
		corner[a] = grid_position(x.grid, xyz[a], deform[a]);
#pragma unroll
	for (int c = 0; c < N_COLORS; c++)
		corner[3 + c] = sigmoid(color[c]);
	corner[CORNER_SDF] = touch_sdf(x, touch);
}

/* --- cubes --- */

static __device__ uint32_t plain_case(const struct extraction &x, int32_t key)
{
	uint32_t id = 0;
#pragma unroll
	for (int k = 0; k < 8; k++)
		id |= (uint32_t)has(x.inside, key + corner_offset(x.grid, k)) << k;
	return id;
}

/* Two ambiguous cubes across the ambiguous face of one of them turn that one into its complement. */
static __device__ uint32_t resolved_case(const struct extraction &x, int32_t key)
{
	uint32_t id = plain_case(x, key);
	int ambiguous = x.cases[id].ambiguous;
	if (!ambiguous)
		return id;
	int axis = abs(ambiguous) - 1, step = axis == 0 ? x.grid.slab : axis == 1 ? x.grid.row : 1;
	int32_t other = key + (ambiguous > 0 ? step : -step);
	return has(x.cubes.bits, other) && x.cases[plain_case(x, other)].ambiguous ? 255 - id : id;
}

static __global__ void classify_cubes(struct extraction x, int64_t n_cubes)
{
	int64_t i = thread_index();
	if (i >= n_cubes)
		return;
	uint32_t id = resolved_case(x, x.cube_keys[i]), n_duals = x.cases[id].n_duals;
	x.numbered[i].case_id = id;
	for (uint32_t d = 1; d <= FC_MAX_DUALS; d++)
		x.duals_before[(d - 1) * n_cubes + i] = d == n_duals ? d : 0;
}

cudaError_t launch_extract_classify(const struct launch *l, const struct extraction *x, int64_t n_cubes, int64_t n_used)
{
	if (n_cubes)
		classify_cubes<<<extract_blocks(n_cubes), EXTRACT_BLOCK, 0, l->stream>>>(*x, n_cubes);
	launch_extract_scan(l, x->duals_before, false, x->duals_before, FC_MAX_DUALS * n_cubes, x->tile_sums,
		&x->totals->n_vertices);
	if (n_used)
		place_corners<<<extract_blocks(n_used), EXTRACT_BLOCK, 0, l->stream>>>(*x, n_used);
	return cudaGetLastError();
}

/* What a corner carries: position 3, colour 6, and the sdf. */
static __device__ __forceinline__ float corner_values(const struct extraction &x, int32_t key, float value[9])
{
	int32_t at = rank_of(x.used, key), xyz[3];
	if (at >= 0) {
		const float4 *corner = (const float4 *)(x.corners + (int64_t)at * CORNER_WIDTH);
		float4 a = corner[0], b = corner[1], c = corner[2];
		value[0] = a.x, value[1] = a.y, value[2] = a.z, value[3] = a.w;
		value[4] = b.x, value[5] = b.y, value[6] = b.z, value[7] = b.w;
		value[8] = c.x;
		return c.y;
	}
	key_to_xyz(x.grid, key, xyz);
	for (int a = 0; a < 3; a++)
		value[a] = grid_position(x.grid, xyz[a], 0);
	for (int c = 0; c < N_COLORS; c++)
		value[3 + c] = 0.5f;
	return OUTSIDE_SDF;
}

/* The beta-weighted mean of the points where the cube's own alphas put the surface on its edges. weights: [21] or NULL. */
static __device__ void place_dual(
	const struct extraction &x, int32_t key, uint32_t edges, const float *weights, int64_t vertex)
{
	float sum[9] = {0}, beta_sum = 0, p[2][9], s[2];
	for (; edges; edges &= edges - 1) {
		int e = __ffs(edges) - 1;
		float beta = 1;
#pragma unroll
		for (int i = 0; i < 2; i++) {
			int corner = edge_corners[e][i];
			s[i] = corner_values(x, key + corner_offset(x.grid, corner), p[i]);
			if (weights)
				s[i] *= multiply_add(tanhf(weights[ALPHA + corner]), WEIGHT_SCALE, 1.0f);
		}
		if (weights)
			beta = multiply_add(tanhf(weights[BETA + e]), WEIGHT_SCALE, 1.0f);
		float denominator = __fsub_rn(s[1], s[0]);
#pragma unroll
		for (int k = 0; k < 9; k++) {
			float numerator = __fadd_rn(__fmul_rn(p[0][k], s[1]), __fmul_rn(p[1][k], -s[0]));
			sum[k] = multiply_add(__fdiv_rn(numerator, denominator), beta, sum[k]);
		}
		beta_sum = __fadd_rn(beta_sum, beta);
	}
#pragma unroll
	for (int k = 0; k < 3; k++)
		x.vertices[3 * vertex + k] = __fdiv_rn(sum[k], beta_sum);
	if (x.has_color)
#pragma unroll
		for (int k = 0; k < N_COLORS; k++)
			x.attrs[N_COLORS * vertex + k] = __fdiv_rn(sum[3 + k], beta_sum);
}

static __global__ void place_duals(struct extraction x, int64_t n_cubes)
{
	int64_t i = thread_index();
	if (i >= n_cubes)
		return;
	int32_t key = x.cube_keys[i], active = rank_of(x.active, key);
	const float *weights = active < 0 ? NULL : x.features + x.row_of[active] * x.stride + WEIGHTS;
	struct extract_cube cube = x.numbered[i];
	const struct fc_case *c = &x.cases[cube.case_id];
	cube.first_vertex = (int32_t)x.duals_before[(c->n_duals - 1) * n_cubes + i];
	cube.gamma = multiply_add(sigmoid_exact(weights ? weights[GAMMA] : 0), WEIGHT_SCALE, (float)((1 - 0.99) / 2));
	cube.duals = 0;
	for (int e = 0; e < FC_EDGES; e++)
		cube.duals |= (uint32_t)c->dual_of_edge[e] << (2 * e);
	x.numbered[i] = cube;
	for (int d = 0; d < c->n_duals; d++)
		place_dual(x, key, c->edges[d], weights, cube.first_vertex + d);
}

/* --- quads --- */

/* Directions of edges by rank: -y, +z, +x. Of an edge along an axis, the four cubes in the order of their keys are slots
 * 0 .. 3; place: the edge's place in the cube in each slot. */
static __constant__ uint8_t axis_of_rank[3] = {1, 2, 0};
static __constant__ uint8_t place[3][4] = {{6, 4, 2, 0}, {10, 9, 11, 8}, {5, 1, 7, 3}};
static __constant__ uint8_t outward[2][4] = {{2, 3, 1, 0}, {0, 1, 3, 2}};

static __global__ void write_quads(struct extraction x, int64_t n_quads)
{
	int64_t n = thread_index();
	if (n >= n_quads)
		return;
	int32_t first = (int32_t)(x.quads[n] / 3), axis = axis_of_rank[x.quads[n] % 3];
	int32_t step = axis == 0 ? x.grid.slab : axis == 1 ? -x.grid.row : 1;
	int32_t lower = axis == 1 ? first + step : first;
	int32_t b = axis == 0 ? x.grid.row : x.grid.slab, c = axis == 2 ? x.grid.row : 1;
	bool first_outside = !has(x.inside, first);
	int32_t quad[4];
	float gamma[4];
#pragma unroll
	for (int i = 0; i < 4; i++) {
		int slot = outward[first_outside][i];
		const struct extract_cube *cube =
			&x.numbered[rank_of(x.cubes, lower - !(slot >> 1) * b - !(slot & 1) * c)];
		quad[i] = cube->first_vertex + (int32_t)(cube->duals >> (2 * place[axis][slot]) & 3);
		gamma[i] = cube->gamma;
	}
	bool diagonal = __fmul_rn(gamma[0], gamma[2]) > __fmul_rn(gamma[1], gamma[3]);
	int32_t *face = x.faces + 6 * n;
	face[0] = quad[0], face[1] = quad[1], face[2] = diagonal ? quad[2] : quad[3];
	face[3] = diagonal ? quad[0] : quad[3], face[4] = diagonal ? quad[2] : quad[1],
	face[5] = diagonal ? quad[3] : quad[2];
	bool inner = !has(x.touched.bits, first) || !has(x.touched.bits, first + step);
	x.is_inner[2 * n] = x.is_inner[2 * n + 1] = inner;
}

cudaError_t launch_extract_surface(const struct launch *l, const struct extraction *x, int64_t n_cubes, int64_t n_quads)
{
	if (n_cubes)
		place_duals<<<extract_blocks(n_cubes), EXTRACT_BLOCK, 0, l->stream>>>(*x, n_cubes);
	if (n_quads)
		write_quads<<<extract_blocks(n_quads), EXTRACT_BLOCK, 0, l->stream>>>(*x, n_quads);
	return cudaGetLastError();
}
