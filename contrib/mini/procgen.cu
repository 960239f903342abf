// trellis-mini: procedural object kernels.  One source, two builds:
//   nvcc -O3 -arch=sm_90 --shared -Xcompiler -fPIC procgen.cu -o libprocgen_cuda.so
//   g++  -O3 -x c++ -fopenmp -shared -fPIC procgen.cu -o libprocgen_cpu.so
// An object is a list of up to MAXP primitives, PRIM floats each:
//   0 type   0 ellipsoid(rx,ry,rz)  1 box(hx,hy,hz,round)  2 frustum(r1,r2,h/2,round) along z
//            3 round cone(r1,r2,h) from z=0 to z=h   4 torus(R,rx,rz) in xy
//            5 torus arc(R,r,half angle) centred on +y  6 gable prism(half width,height,half depth)
//   1 op     0 union 1 smooth union 2 subtract 3 smooth subtract 4 intersect 5 paint (colour only)
//   2 k      smooth radius       4..9 parameters      10..12 colour (subtract: <0 keeps the old one)
//   13..15 position  16..24 rotation (world -> local, rows)
//   25 mirror flags (1: x, 2: y)  26 n-fold rotational repeat about z (0/1: none)
#include <math.h>
#include <stdint.h>
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD static inline
#endif
#define PRIM 28
#define MAXP 20
#define VIEW 48
#define AUX 13

HD float mn(float a, float b) { return a < b ? a : b; }
HD float mx(float a, float b) { return a > b ? a : b; }
HD float cl(float a, float lo, float hi) { return mn(mx(a, lo), hi); }
HD float l2(float a, float b) { return sqrtf(a * a + b * b); }
HD float l3(float a, float b, float c) { return sqrtf(a * a + b * b + c * c); }

HD float shape_sdf(const float *q, float wx, float wy, float wz)
{
    int flags = (int)q[25];
    if (flags & 1) wx = fabsf(wx);
    if (flags & 2) wy = fabsf(wy);
    int rep = (int)q[26];
    if (rep > 1) {
        float sec = 6.2831853f / rep, a = atan2f(wy, wx), r = l2(wx, wy);
        a -= sec * floorf(a / sec + 0.5f);
        wx = r * cosf(a); wy = r * sinf(a);
    }
    wx -= q[13]; wy -= q[14]; wz -= q[15];
    float x = q[16] * wx + q[17] * wy + q[18] * wz;
    float y = q[19] * wx + q[20] * wy + q[21] * wz;
    float z = q[22] * wx + q[23] * wy + q[24] * wz;
    const float *p = q + 4;
    switch ((int)q[0]) {
    case 0: {
        float k0 = l3(x / p[0], y / p[1], z / p[2]);
        float k1 = l3(x / (p[0] * p[0]), y / (p[1] * p[1]), z / (p[2] * p[2]));
        if (k1 < 1e-8f) return -mn(p[0], mn(p[1], p[2]));
        return k0 * (k0 - 1.f) / k1;
    }
    case 1: {
        float r = p[3];
        float a = fabsf(x) - p[0] + r, b = fabsf(y) - p[1] + r, c = fabsf(z) - p[2] + r;
        return l3(mx(a, 0), mx(b, 0), mx(c, 0)) + mn(mx(a, mx(b, c)), 0) - r;
    }
    case 2: {
        float r = p[3], r1 = mx(p[0] - r, 0), r2 = mx(p[1] - r, 0), h = p[2] - r;
        float qx = l2(x, y);
        float cax = qx - mn(qx, z < 0 ? r1 : r2), cay = fabsf(z) - h;
        float k2x = r2 - r1, k2y = 2 * h;
        float t = cl(((r2 - qx) * k2x + (h - z) * k2y) / (k2x * k2x + k2y * k2y), 0, 1);
        float cbx = qx - r2 + k2x * t, cby = z - h + k2y * t;
        float s = (cbx < 0 && cay < 0) ? -1.f : 1.f;
        return s * sqrtf(mn(cax * cax + cay * cay, cbx * cbx + cby * cby)) - r;
    }
    case 3: {
        float r1 = p[0], r2 = p[1], h = p[2];
        float b = (r1 - r2) / h, a = sqrtf(mx(1.f - b * b, 0.f));
        float qx = l2(x, y), k = -b * qx + a * z;
        if (k < 0) return l2(qx, z) - r1;
        if (k > a * h) return l2(qx, z - h) - r2;
        return qx * a + z * b - r1;
    }
    case 4: {
        float dx = l2(x, y) - p[0];
        if (p[1] == p[2]) return l2(dx, z) - p[1];
        float k0 = l2(dx / p[1], z / p[2]), k1 = l2(dx / (p[1] * p[1]), z / (p[2] * p[2]));
        return k1 < 1e-8f ? -mn(p[1], p[2]) : k0 * (k0 - 1.f) / k1;
    }
    case 5: {
        float s = sinf(p[2]), c = cosf(p[2]);
        x = fabsf(x);
        float k = (c * x > s * y) ? (x * s + y * c) : l2(x, y);
        return sqrtf(mx(x * x + y * y + z * z + p[0] * p[0] - 2.f * p[0] * k, 0.f)) - p[1];
    }
    default: {
        // isosceles triangle in xz: apex (0, h), base z = 0, extruded along y
        float w = p[0], h = p[1];
        float px = fabsf(x), py = h - z;               // tip at origin, base at py = h
        float t = cl((px * w + py * h) / (w * w + h * h), 0, 1);
        float ax = px - w * t, ay = py - h * t;
        float u = cl(px / w, 0, 1);
        float bx = px - w * u, by = py - h;
        float s1 = (px * h - py * w), s2 = (py - h);
        float d = sqrtf(mn(ax * ax + ay * ay, bx * bx + by * by));
        d = (mx(s1, s2) < 0) ? -d : d;
        float e = fabsf(y) - p[2];
        return mn(mx(d, e), 0) + l2(mx(d, 0), mx(e, 0)) - p[3];
    }
    }
}

template <bool COL>
HD float obj_eval(const float *o, int n, float x, float y, float z, float *c)
{
    float d = 1e3f;
    for (int i = 0; i < n; i++) {
        const float *q = o + i * PRIM;
        int op = (int)q[1];
        if (!COL && op == 5) continue;
        float e = shape_sdf(q, x, y, z), k = q[2];
        switch (op) {
        case 0:
            if (e < d) { d = e; if (COL) { c[0] = q[10]; c[1] = q[11]; c[2] = q[12]; } }
            break;
        case 1: {
            float h = cl(0.5f + 0.5f * (d - e) / k, 0, 1);
            d = d + (e - d) * h - k * h * (1 - h);
            if (COL) {
                float s = cl(0.5f + 1.5f * (h - 0.5f), 0, 1);
                for (int j = 0; j < 3; j++) c[j] += (q[10 + j] - c[j]) * s;
            }
            break;
        }
        case 2:
            if (-e > d) { d = -e; if (COL && q[10] >= 0) { c[0] = q[10]; c[1] = q[11]; c[2] = q[12]; } }
            break;
        case 3: {
            float h = cl(0.5f - 0.5f * (d + e) / k, 0, 1);
            d = d + (-e - d) * h + k * h * (1 - h);
            if (COL && q[10] >= 0) for (int j = 0; j < 3; j++) c[j] += (q[10 + j] - c[j]) * h;
            break;
        }
        case 4:
            if (e > d) d = e;
            break;
        default:
            if (COL && e < 0) { c[0] = q[10]; c[1] = q[11]; c[2] = q[12]; }
        }
    }
    return d;
}

HD void obj_normal(const float *o, int n, float x, float y, float z, float e, float *g)
{
    float a = obj_eval<false>(o, n, x + e, y - e, z - e, 0), b = obj_eval<false>(o, n, x - e, y - e, z + e, 0);
    float c = obj_eval<false>(o, n, x - e, y + e, z - e, 0), d = obj_eval<false>(o, n, x + e, y + e, z + e, 0);
    g[0] = a - b - c + d; g[1] = -a - b + c + d; g[2] = -a + b - c + d;
    float l = 1.f / (l3(g[0], g[1], g[2]) + 1e-12f);
    g[0] *= l; g[1] *= l; g[2] *= l;
}

// ---- occupancy: voxel of the 64^3 grid active when the sdf changes sign among its 5^3 corners
HD void occ_one(const float *objs, const int *np, long id, uint8_t *out)
{
    long ob = id >> 15; int r = (int)(id & 32767);
    int x = r >> 9, y = (r >> 3) & 63, z0 = (r & 7) * 8;
    const float *o = objs + ob * MAXP * PRIM; int n = np[ob];
    const float s = 1.f / 64;
    float fx = (x + .5f) * s - .5f, fy = (y + .5f) * s - .5f;
    uint8_t bits = 0;
    float dg = obj_eval<false>(o, n, fx, fy, (z0 + 4) * s - .5f, 0);
    if (fabsf(dg) < 0.085f)
        for (int z = z0; z < z0 + 8; z++) {
            float d = obj_eval<false>(o, n, fx, fy, (z + .5f) * s - .5f, 0);
            if (fabsf(d) > 0.022f) continue;
            bool hit = false;
            for (int k = 0; k < 8 && !hit; k++) {        // the voxel's own corners decide nearly always
                float e = obj_eval<false>(o, n, (x + (k >> 2)) * s - .5f, (y + (k >> 1 & 1)) * s - .5f, (z + (k & 1)) * s - .5f, 0);
                hit = (e < 0) != (d < 0);
            }
            for (int k = 0; k < 125 && !hit; k++) {
                float e = obj_eval<false>(o, n, (x + (k / 25) * .25f) * s - .5f, (y + (k / 5 % 5) * .25f) * s - .5f,
                                          (z + (k % 5) * .25f) * s - .5f, 0);
                hit = (e < 0) != (d < 0);
            }
            if (hit) bits |= 1 << (z - z0);
        }
    out[id] = bits;
}

// ---- 125 corner samples per active voxel: (sdf, r, g, b, nx, ny, nz)
HD void corner_one(const float *objs, const int *np, const int *oid, const int *coords, long id, float *out)
{
    long v = id / 125; int k = (int)(id - v * 125);
    const int *c = coords + v * 4;
    int ob = oid[c[0]];
    const float *o = objs + (long)ob * MAXP * PRIM; int n = np[ob];
    const float s = 1.f / 64;
    float x = (c[1] + (k / 25) * .25f) * s - .5f, y = (c[2] + (k / 5 % 5) * .25f) * s - .5f, z = (c[3] + (k % 5) * .25f) * s - .5f;
    float *q = out + id * 7;
    q[1] = q[2] = q[3] = 0;
    q[0] = obj_eval<true>(o, n, x, y, z, q + 1);
    obj_normal(o, n, x, y, z, 1e-3f, q + 4);
}

// ---- sphere tracing.  view: 0 cam 3 right 6 up 9 fwd | 12 uc 13 vc 14 half size | 15 light dir 18 light rgb
//      21 ambient rgb 24 gloss 25 shininess 26 shadow 27 ao 28 object index 29 t0 30 t1 31 rim
//      32 fill light dir 35 fill rgb 38 ambient axis 41 ambient contrast 42 shadow hardness
HD float trace(const float *o, int n, const float *c, const float *d, float t0, float t1, float pix, float *cov)
{
    float t = t0, best = 1e3f;
    for (int i = 0; i < 96; i++) {
        float e = obj_eval<false>(o, n, c[0] + d[0] * t, c[1] + d[1] * t, c[2] + d[2] * t, 0);
        float r = e / (pix * t);
        if (r < best) best = r;
        if (e < 2.5e-4f) { *cov = 1; return t; }
        t += e * 0.85f;
        if (t > t1) break;
    }
    *cov = cl(0.5f - 0.5f * best, 0, 1);
    return -1;
}

HD void ray_dir(const float *v, float u, float w, float *d)
{
    for (int j = 0; j < 3; j++) d[j] = v[9 + j] + v[3 + j] * u + v[6 + j] * w;
    float l = 1.f / l3(d[0], d[1], d[2]);
    for (int j = 0; j < 3; j++) d[j] *= l;
}

// where the ray from far away leaves the object again: the last surface point along the view ray
HD float trace_back(const float *o, int n, const float *c, const float *d, float t0, float t1)
{
    float f[3], b[3], cov;
    for (int j = 0; j < 3; j++) { f[j] = c[j] + d[j] * t1; b[j] = -d[j]; }
    float t = trace(o, n, f, b, 1e-3f, t1 - t0, 1e-3f, &cov);
    return t < 0 ? -1.f : t1 - t;
}

// img: rgba8 straight alpha [V,res,res,4].  aux (may be null) float [V,res,res,AUX]: xyz, normal, albedo, hit, xyz of
// the point where the ray leaves the object
HD void render_one(const float *objs, const int *np, const float *views, int res, long id, uint8_t *img, float *aux)
{
    long vi = id / ((long)res * res); int r = (int)(id - vi * res * res);
    int px = r % res, py = r / res;
    const float *v = views + vi * VIEW;
    int ob = (int)v[28];
    const float *o = objs + (long)ob * MAXP * PRIM; int n = np[ob];
    float u = v[12] + v[14] * ((px + .5f) * 2 / res - 1), w = v[13] - v[14] * ((py + .5f) * 2 / res - 1);
    float d[3], cov;
    ray_dir(v, u, w, d);
    float t = trace(o, n, v, d, v[29], v[30], v[14] / res, &cov);
    float rgb[3] = {0, 0, 0}, alb[3] = {0, 0, 0}, g[3] = {0, 0, 0}, p[3] = {0, 0, 0};
    if (t < 0 && cov > 0) {      // edge pixel: shade the nearest grazing point
        float tt = v[29], bt = tt, be = 1e3f;
        for (int i = 0; i < 64 && tt < v[30]; i++) {
            float e = obj_eval<false>(o, n, v[0] + d[0] * tt, v[1] + d[1] * tt, v[2] + d[2] * tt, 0);
            if (e < be) { be = e; bt = tt; }
            tt += mx(e, 1e-3f) * 0.85f;
        }
        t = bt;
    }
    if (cov > 0) {
        for (int j = 0; j < 3; j++) p[j] = v[j] + d[j] * t;
        obj_eval<true>(o, n, p[0], p[1], p[2], alb);
        obj_normal(o, n, p[0], p[1], p[2], 5e-4f, g);
    }
    if (aux) {
        float *a = aux + id * AUX;
        float m = cov >= 1 ? 1.f : 0.f, tb = m > 0 ? trace_back(o, n, v, d, v[29], v[30]) : 0.f;
        if (tb < t) tb = t;
        for (int j = 0; j < 3; j++) {
            a[j] = p[j] * m; a[3 + j] = g[j] * m; a[6 + j] = alb[j] * m;
            a[10 + j] = (v[j] + d[j] * tb) * m;
        }
        a[9] = m;
    }
    if (!img) return;
    if (cov > 0) {
        const float *L = v + 15;
        float nl = g[0] * L[0] + g[1] * L[1] + g[2] * L[2], ao = 1, sh = 1;
        if (v[27] > 0) {
            float occ = 0;
            for (int i = 1; i <= 3; i++) {
                float h = 0.03f * i;
                occ += (h - mn(h, obj_eval<false>(o, n, p[0] + g[0] * h, p[1] + g[1] * h, p[2] + g[2] * h, 0))) / (h * (1 << i));
            }
            ao = cl(1 - v[27] * occ * 1.6f, 0, 1);
        }
        if (v[26] > 0 && nl > 0) {
            float tt = 0.02f, m = 1;
            for (int i = 0; i < 28 && tt < 1.2f; i++) {
                float e = obj_eval<false>(o, n, p[0] + g[0] * .006f + L[0] * tt, p[1] + g[1] * .006f + L[1] * tt, p[2] + g[2] * .006f + L[2] * tt, 0);
                m = mn(m, v[42] * e / tt);
                if (m < 0.01f) break;
                tt += cl(e, 0.012f, 0.15f);
            }
            sh = 1 - v[26] * (1 - cl(m, 0, 1));
        }
        float nf = mx(g[0] * v[32] + g[1] * v[33] + g[2] * v[34], 0);
        float dif = mx(nl, 0) * sh, hem = 1 - v[41] + v[41] * (g[0] * v[38] + g[1] * v[39] + g[2] * v[40]);
        float gr = 1 - cl(-(g[0] * d[0] + g[1] * d[1] + g[2] * d[2]), 0, 1), rim = v[31] * gr * gr * gr * gr;
        float hx = L[0] - d[0], hy = L[1] - d[1], hz = L[2] - d[2], hl = l3(hx, hy, hz) + 1e-9f;
        float sp = v[24] * powf(mx((g[0] * hx + g[1] * hy + g[2] * hz) / hl, 0), v[25]) * sh * (nl > 0);
        for (int j = 0; j < 3; j++) {
            // albedo is an sRGB-like colour: light it in linear space
            float lin = powf(mx(alb[j], 0), 2.2f) * (dif * v[18 + j] + nf * v[35 + j] + v[21 + j] * hem * ao) + sp + rim * v[21 + j];
            rgb[j] = powf(cl(lin, 0, 1), 1 / 2.2f);
        }
    }
    uint8_t *q = img + id * 4;
    for (int j = 0; j < 3; j++) q[j] = (uint8_t)(rgb[j] * 255 + .5f);
    q[3] = (uint8_t)(cov * 255 + .5f);
}

// ---- silhouette bounds of a view on a 96^2 ray grid over half size v[14]: writes umin umax vmin vmax
HD bool mask_one(const float *objs, const int *np, const float *v, int k, float *u, float *w)
{
    int ob = (int)v[28];
    const float *o = objs + (long)ob * MAXP * PRIM;
    *u = v[12] + v[14] * ((k % 96 + .5f) / 48 - 1); *w = v[13] - v[14] * ((k / 96 + .5f) / 48 - 1);
    float d[3], cov;
    ray_dir(v, *u, *w, d);
    trace(o, np[ob], v, d, v[29], v[30], v[14] / 96, &cov);
    return cov >= .5f;
}

// ---- plain sdf + colour at arbitrary points: pts [n,3] of object ob -> out [n,4]
HD void pts_one(const float *objs, const int *np, const int *oid, const float *pts, long per, long id, float *out)
{
    int ob = oid[id / per];
    float *q = out + id * 4;
    q[1] = q[2] = q[3] = 0;
    q[0] = obj_eval<true>(objs + (long)ob * MAXP * PRIM, np[ob], pts[id * 3], pts[id * 3 + 1], pts[id * 3 + 2], q + 1);
}

#ifdef __CUDACC__
#define GRID(n) (unsigned)(((n) + 127) / 128), 128, 0, (cudaStream_t)st
__global__ void k_occ(const float *o, const int *np, long n, uint8_t *out) { long i = blockIdx.x * 128L + threadIdx.x; if (i < n) occ_one(o, np, i, out); }
__global__ void k_cor(const float *o, const int *np, const int *oid, const int *c, long n, float *out) { long i = blockIdx.x * 128L + threadIdx.x; if (i < n) corner_one(o, np, oid, c, i, out); }
__global__ void k_ren(const float *o, const int *np, const float *v, int res, long n, uint8_t *img, float *aux) { long i = blockIdx.x * 128L + threadIdx.x; if (i < n) render_one(o, np, v, res, i, img, aux); }
__global__ void k_pts(const float *o, const int *np, const int *oid, const float *p, long per, long n, float *out) { long i = blockIdx.x * 128L + threadIdx.x; if (i < n) pts_one(o, np, oid, p, per, i, out); }
__global__ void k_bb(const float *o, const int *np, const float *v, float *out)
{
    __shared__ int b[4];
    if (threadIdx.x < 4) b[threadIdx.x] = (threadIdx.x & 1) ? -1 : 1000;
    __syncthreads();
    const float *vv = v + (long)blockIdx.x * VIEW;
    for (int k = threadIdx.x; k < 96 * 96; k += blockDim.x) {
        float u, w;
        if (mask_one(o, np, vv, k, &u, &w)) {
            atomicMin(&b[0], k % 96); atomicMax(&b[1], k % 96); atomicMin(&b[2], k / 96); atomicMax(&b[3], k / 96);
        }
    }
    __syncthreads();
    if (threadIdx.x < 4) out[blockIdx.x * 4 + threadIdx.x] = b[threadIdx.x];
}
extern "C" int pg_occ(const float *o, const int *np, long n, uint8_t *out, void *st) { k_occ<<<GRID(n * 32768)>>>(o, np, n * 32768, out); return cudaGetLastError(); }
extern "C" int pg_corners(const float *o, const int *np, const int *oid, const int *c, long n, float *out, void *st) { k_cor<<<GRID(n * 125)>>>(o, np, oid, c, n * 125, out); return cudaGetLastError(); }
extern "C" int pg_render(const float *o, const int *np, const float *v, long n, int res, uint8_t *img, float *aux, void *st) { long m = n * res * res; k_ren<<<GRID(m)>>>(o, np, v, res, m, img, aux); return cudaGetLastError(); }
extern "C" int pg_bbox(const float *o, const int *np, const float *v, long n, float *out, void *st) { k_bb<<<(unsigned)n, 128, 0, (cudaStream_t)st>>>(o, np, v, out); return cudaGetLastError(); }
extern "C" int pg_points(const float *o, const int *np, const int *oid, const float *p, long nobj, long per, float *out, void *st) { long m = nobj * per; k_pts<<<GRID(m)>>>(o, np, oid, p, per, m, out); return cudaGetLastError(); }
#else
#define LOOP(n, body) { long m_ = (n); _Pragma("omp parallel for schedule(dynamic,256)") for (long i = 0; i < m_; i++) { body; } }
extern "C" int pg_occ(const float *o, const int *np, long n, uint8_t *out, void *) { LOOP(n * 32768, occ_one(o, np, i, out)) return 0; }
extern "C" int pg_corners(const float *o, const int *np, const int *oid, const int *c, long n, float *out, void *) { LOOP(n * 125, corner_one(o, np, oid, c, i, out)) return 0; }
extern "C" int pg_render(const float *o, const int *np, const float *v, long n, int res, uint8_t *img, float *aux, void *) { LOOP(n * res * res, render_one(o, np, v, res, i, img, aux)) return 0; }
extern "C" int pg_bbox(const float *o, const int *np, const float *v, long n, float *out, void *)
{
    for (long a = 0; a < n; a++) {
        float *b = out + a * 4, u, w;
        b[0] = b[2] = 1000; b[1] = b[3] = -1;
        for (int k = 0; k < 96 * 96; k++)
            if (mask_one(o, np, v + a * VIEW, k, &u, &w)) {
                b[0] = mn(b[0], k % 96); b[1] = mx(b[1], k % 96); b[2] = mn(b[2], k / 96); b[3] = mx(b[3], k / 96);
            }
    }
    return 0;
}
extern "C" int pg_points(const float *o, const int *np, const int *oid, const float *p, long nobj, long per, float *out, void *) { LOOP(nobj * per, pts_one(o, np, oid, p, per, i, out)) return 0; }
#endif
