"""Building blocks of the procedural objects: an object under construction (`Obj`), rotations and colours.

Rows are laid out as procgen.cu reads them.  Coordinates: z up, the front of an object faces -y, x to the right.
"""
import colorsys
import math

PRIM, MAXP = 28, 20
EYE = (1., 0., 0., 0., 1., 0., 0., 0., 1.)


def rot_xyz(rx=0., ry=0., rz=0.):
    """World -> local rotation (rows) of a primitive turned by rx, then ry, then rz degrees."""
    a, b, c = (math.radians(v) for v in (rx, ry, rz))
    ca, sa, cb, sb, cc, sc = math.cos(a), math.sin(a), math.cos(b), math.sin(b), math.cos(c), math.sin(c)
    # local -> world M = Rz Ry Rx; rows of the inverse are the columns of M
    m = (cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa,
         sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa,
         -sb, cb * sa, cb * ca)
    return (m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8])


def rot_axis(d):
    """World -> local rotation whose local z axis is the direction d."""
    n = math.sqrt(sum(v * v for v in d)) or 1.
    z = [v / n for v in d]
    h = (0., 0., 1.) if abs(z[2]) < .9 else (1., 0., 0.)
    x = [h[1] * z[2] - h[2] * z[1], h[2] * z[0] - h[0] * z[2], h[0] * z[1] - h[1] * z[0]]
    n = math.sqrt(sum(v * v for v in x))
    x = [v / n for v in x]
    y = [z[1] * x[2] - z[2] * x[1], z[2] * x[0] - z[0] * x[2], z[0] * x[1] - z[1] * x[0]]
    return (*x, *y, *z)


def handle(side):
    """Rotation for an arc in the vertical xz plane bulging towards side * x."""
    return (0., 0., 1., side, 0., 0., 0., side, 0.)


class Obj:
    def __init__(self, rng):
        self.r, self.p = rng, []
        self.lo, self.hi = [1e9] * 3, [-1e9] * 3

    def add(self, typ, par, pos, col, R=EYE, op='u', k=0., mir=0, rep=0, box=None):
        code = {'u': 0, 's': 1, '-': 2, '-s': 3, '&': 4, 'paint': 5}[op]
        par = list(par) + [0.] * (6 - len(par))
        col = (-1., -1., -1.) if col is None else col
        self.p.append([typ, code, k] + [0.] + par + list(col) + list(pos) + list(R) + [mir, rep, 0])
        if code in (0, 1) and box is not None:
            reach = [box[0], box[1]]
            if rep > 1:
                rr = max(math.hypot(x, y) for x in (box[0][0], box[1][0]) for y in (box[0][1], box[1][1]))
                reach = [[-rr, -rr, box[0][2]], [rr, rr, box[1][2]]]
            for i in range(3):
                lo, hi = reach[0][i], reach[1][i]
                if i < 2 and mir & (1 << i):
                    lo, hi = min(lo, -hi), max(hi, -lo)
                self.lo[i], self.hi[i] = min(self.lo[i], lo), max(self.hi[i], hi)
        return self

    @staticmethod
    def _aabb(pos, ext):
        return [[pos[i] - ext[i] for i in range(3)], [pos[i] + ext[i] for i in range(3)]]

    def ell(self, pos, rad, col, R=EYE, **kw):
        if not isinstance(rad, (tuple, list)):
            rad = (rad, rad, rad)
        e = [math.sqrt(sum((R[3 * j + i] * rad[j]) ** 2 for j in range(3))) for i in range(3)]
        return self.add(0, rad, pos, col, R, box=self._aabb(pos, e), **kw)

    def box(self, pos, half, col, rnd=.02, R=EYE, **kw):
        rnd = min(rnd, .95 * min(half))
        e = [sum(abs(R[3 * j + i]) * half[j] for j in range(3)) for i in range(3)]
        return self.add(1, (*half, rnd), pos, col, R, box=self._aabb(pos, e), **kw)

    def cyl(self, pos, r, h, col, r2=None, rnd=.01, R=EYE, **kw):
        """Frustum centred at pos along local z: bottom radius r, top radius r2, half height h."""
        r2 = r if r2 is None else r2
        rnd = min(rnd, .9 * h, .9 * max(r, r2))
        m = max(r, r2)
        a = R[6:9]
        e = [m * math.sqrt(max(0., 1 - a[i] ** 2)) + h * abs(a[i]) for i in range(3)]
        return self.add(2, (r, r2, h, rnd), pos, col, R, box=self._aabb(pos, e), **kw)

    def cap(self, a, b, r, col, r2=None, **kw):
        """Round cone (capsule) from a to b."""
        r2 = r if r2 is None else r2
        d = [b[i] - a[i] for i in range(3)]
        n = max(math.sqrt(sum(v * v for v in d)), abs(r - r2) * 1.05 + 1e-4)
        bb = [[min(a[i] - r, b[i] - r2) for i in range(3)], [max(a[i] + r, b[i] + r2) for i in range(3)]]
        return self.add(3, (r, r2, n), a, col, rot_axis(d), box=bb, **kw)

    def tor(self, pos, R0, r, col, rz=None, R=EYE, **kw):
        rz = r if rz is None else rz
        a = R[6:9]
        e = [R0 * math.sqrt(max(0., 1 - a[i] ** 2)) + max(r, rz) for i in range(3)]
        return self.add(4, (R0, r, rz), pos, col, R, box=self._aabb(pos, e), **kw)

    def arc(self, pos, R0, r, ang, col, R=EYE, **kw):
        """Torus arc of half angle ang (degrees) centred on local +y, in the local xy plane."""
        a = math.radians(ang)
        pts = [(R0 * math.sin(t), R0 * math.cos(t)) for t in [a * (i / 8 - 1) for i in range(17)]]
        w = [[pos[i] + R[i] * x + R[3 + i] * y for i in range(3)] for x, y in pts]
        bb = [[min(q[i] for q in w) - r for i in range(3)], [max(q[i] for q in w) + r for i in range(3)]]
        return self.add(5, (R0, r, a), pos, col, R, box=bb, **kw)

    def gable(self, pos, w, h, d, col, R=EYE, rnd=0., **kw):
        """Triangular prism: base half width w at z=0, apex height h, half depth d along y."""
        c = [[x, y, z] for x in (-w, w) for y in (-d, d) for z in (0, h)]
        q = [[pos[i] + sum(R[3 * j + i] * v[j] for j in range(3)) for i in range(3)] for v in c]
        bb = [[min(v[i] for v in q) for i in range(3)], [max(v[i] for v in q) for i in range(3)]]
        return self.add(6, (w, h, d, rnd), pos, col, R, box=bb, **kw)

    # ---- normalise: centre the bounds and scale to a bounded size (see README: keeps the voxel count bounded)
    def pack(self):
        ext = [self.hi[i] - self.lo[i] for i in range(3)]
        area = ext[0] * ext[1] + ext[1] * ext[2] + ext[2] * ext[0]
        s = min(.94 / max(ext), math.sqrt(.75 / area))
        c = [(self.hi[i] + self.lo[i]) / 2 for i in range(3)]
        rows = []
        for q in self.p[:MAXP]:
            q = list(q)
            q[2] *= s
            n = {0: 3, 1: 4, 2: 4, 3: 3, 4: 3, 5: 2, 6: 4}[q[0]]
            for i in range(4, 4 + n):
                q[i] *= s
            # the mirror / repeat planes pass through the generator's own origin: categories that use
            # them are symmetric there, so centring must not move x / y for those (checked in make)
            for i in range(3):
                q[13 + i] = (q[13 + i] - c[i]) * s
            rows.append(q)
        return rows


def hsv(h, s, v):
    return colorsys.hsv_to_rgb(h % 1., s, v)


def jit(r, c, a=.06):
    return tuple(min(.98, max(.02, v + r.uniform(-a, a))) for v in c)


def anycol(r):
    k = r.random()
    if k < .55:
        return hsv(r.random(), r.uniform(.5, .95), r.uniform(.45, .95))
    if k < .75:
        return hsv(r.random(), r.uniform(.15, .5), r.uniform(.6, .95))
    if k < .9:
        g = r.uniform(.1, .95)
        return (g, g, g)
    return wood(r)


def wood(r):
    return jit(r, r.choice([(.55, .35, .18), (.68, .47, .27), (.4, .25, .14), (.78, .6, .4), (.3, .18, .1)]), .05)


def metal(r):
    g = r.uniform(.35, .8)
    return jit(r, r.choice([(g, g, g), (g, g * .98, g * 1.02), (.8, .65, .25), (.7, .45, .3)]), .03)


def green(r):
    return hsv(r.uniform(.25, .42), r.uniform(.5, .9), r.uniform(.3, .7))


def dark(c, f=.6):
    return tuple(v * f for v in c)
