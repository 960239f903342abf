"""Data for trellis-mini: native kernels (procgen.cu), views, pictures, voxels, all as torch tensors on one device.

A `Pool` holds everything that training reads.  Pictures have random cameras and lights; `augment` is the second half of
the domain randomisation and runs anew each time a picture is used."""
import ctypes
import math
import multiprocessing as mp
import os
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F

import objects
from objects import MAXP, PRIM

VIEW, AUX = 48, 13
HERE = os.path.dirname(os.path.abspath(__file__))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Native:
    """procgen.cu compiled for the device of the tensors that it is given."""
    _libs = {}

    @classmethod
    def lib(cls, device):
        kind = torch.device(device).type
        if kind not in cls._libs:
            build = os.environ.get('MINI_BUILD', os.path.join(HERE, 'build'))
            os.makedirs(build, exist_ok=True)
            so, src = os.path.join(build, f'libprocgen_{kind}.so'), os.path.join(HERE, 'procgen.cu')
            if not os.path.exists(so) or os.path.getmtime(so) < os.path.getmtime(src):
                tmp = f'{so}.{os.getpid()}'
                cmd = (['nvcc', '-O3', '-arch=native', '--use_fast_math', '--shared', '-Xcompiler', '-fPIC'] if kind == 'cuda'
                       else ['g++', '-O3', '-march=native', '-x', 'c++', '-fopenmp', '-shared', '-fPIC'])
                subprocess.check_call(cmd + [src, '-o', tmp])
                os.replace(tmp, so)
            cls._libs[kind] = ctypes.CDLL(so)
        return cls._libs[kind]


def _p(t):
    return ctypes.c_void_p(0 if t is None else t.data_ptr())


def _call(name, dev, *args):
    st = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream if dev.type == 'cuda' else 0)
    rc = getattr(Native.lib(dev), name)(*args, st)
    assert rc == 0, f'{name}: error {rc}'


def L(n):
    return ctypes.c_long(n)


def _make_range(a):
    out = [objects.make(s, c, w) for s, c, w in a]
    return b''.join(o[1] for o in out), [o[0] for o in out], [o[2] for o in out]


class Objects:
    """A batch of procedural objects: prims [N,MAXP,PRIM], count [N], category [N]."""

    def __init__(self, seeds, device, cats=None, workers=None, weights=None):
        seeds = list(seeds)
        cats = [None] * len(seeds) if cats is None else list(cats)
        jobs = [(s, c, weights) for s, c in zip(seeds, cats)]
        workers = workers if workers is not None else min(16, os.cpu_count() or 1)
        if workers > 1 and len(jobs) > 2000:
            ch = [jobs[i::workers * 4] for i in range(workers * 4)]
            with mp.get_context('fork').Pool(workers) as pool:
                res = pool.map(_make_range, ch)
            order = np.argsort(np.concatenate([np.arange(i, len(jobs), workers * 4) for i in range(workers * 4)]))
        else:
            res, order = [_make_range(jobs)], None
        buf = np.frombuffer(bytearray(b''.join(r[0] for r in res)), np.float32).reshape(-1, MAXP, PRIM)
        cat, cnt = np.concatenate([r[1] for r in res]), np.concatenate([r[2] for r in res])
        if order is not None:
            buf, cat, cnt = buf[order], cat[order], cnt[order]
        self.device = torch.device(device)
        self.prims = torch.from_numpy(np.ascontiguousarray(buf)).to(device)
        self.count = torch.from_numpy(cnt.astype(np.int32)).to(device)
        self.cat = torch.from_numpy(cat.astype(np.int64))

    def __len__(self):
        return self.prims.shape[0]

    def occupancy(self, chunk=4096):
        """[N, 32768] uint8, one bit per voxel of 64^3 (z fastest)."""
        out = torch.empty(len(self), 32768, dtype=torch.uint8, device=self.device)
        for i in range(0, len(self), chunk):
            n = min(chunk, len(self) - i)
            _call('pg_occ', self.device, _p(self.prims[i:]), _p(self.count[i:]), L(n), _p(out[i:]))
        return out

    def corners(self, oid, coords):
        """coords [M,4] int32 (index into oid, x, y, z) -> [M,125,7]: sdf, rgb, normal on the 5^3 corners of each voxel."""
        coords, oid = coords.contiguous(), oid.int().contiguous()
        out = torch.empty(coords.shape[0], 125, 7, device=self.device)
        _call('pg_corners', self.device, _p(self.prims), _p(self.count), _p(oid), _p(coords), L(coords.shape[0]), _p(out))
        return out

    def points(self, oid, pts):
        """pts [B,K,3] of objects oid [B] -> [B,K,4] sdf + colour."""
        out = torch.empty(pts.shape[0], pts.shape[1], 4, device=self.device)
        pts, oid = pts.contiguous(), oid.int().contiguous()
        _call('pg_points', self.device, _p(self.prims), _p(self.count), _p(oid), _p(pts), L(pts.shape[0]), L(pts.shape[1]), _p(out))
        return out

    def bounds(self, views):
        views = views.contiguous()
        out = torch.empty(views.shape[0], 4, device=self.device)
        _call('pg_bbox', self.device, _p(self.prims), _p(self.count), _p(views), L(views.shape[0]), _p(out))
        return out

    def render(self, views, res, aux=False, image=True):
        """Straight-alpha uint8 pictures [V,res,res,4] and, with aux, [V,res,res,13]: position, normal, albedo, mask, exit position."""
        n, views = views.shape[0], views.contiguous()
        img = torch.empty(n, res, res, 4, dtype=torch.uint8, device=self.device) if image else None
        ax = torch.empty(n, res, res, AUX, device=self.device) if aux else None
        _call('pg_render', self.device, _p(self.prims), _p(self.count), _p(views), L(n), ctypes.c_int(res), _p(img), _p(ax))
        return img, ax


def unpack_bits(bits):
    """[B,32768] uint8 -> [B,64,64,64] uint8 0/1."""
    sh = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> sh) & 1).reshape(-1, 64, 64, 64)


def camera(yaw, pitch, fov, roll=None):
    """Tensors of degrees -> view rows [V, VIEW] with the whole unit-cube object in frame.  yaw 0 looks at the front (-y)."""
    n = yaw.shape[0]
    v = torch.zeros(n, VIEW)
    ya, pi, fo = [torch.deg2rad(a) for a in (yaw, pitch, fov)]
    dist = 0.60 / torch.sin(fo / 2) + 0.2
    out = torch.stack([torch.sin(ya) * torch.cos(pi), -torch.cos(ya) * torch.cos(pi), torch.sin(pi)], 1)
    fwd = -out
    right = torch.stack([torch.cos(ya), torch.sin(ya), torch.zeros(n)], 1)
    up = torch.cross(right, fwd, dim=1)
    if roll is not None:
        a = torch.deg2rad(roll)[:, None]
        right, up = right * torch.cos(a) + up * torch.sin(a), up * torch.cos(a) - right * torch.sin(a)
    v[:, 0:3], v[:, 3:6], v[:, 6:9], v[:, 9:12] = out * dist[:, None], right, up, fwd
    v[:, 14] = 0.72 / (dist - 0.5)
    v[:, 29], v[:, 30] = (dist - 0.9).clamp_min(0.05), dist + 0.9
    return v, right, up, out


def random_views(oid, gen, yaw_max=60., pitch=(0., 40.), rich=False):
    """Views of objects oid [V] with random camera and light -> rows [V, VIEW], (yaw, pitch) [V,2].

    rich: half of the pictures also get what other renderers do: a fill light, coloured surroundings, rims, soft or hard
    shadows, a weak key light.  The held-out set is drawn without it."""
    n = oid.shape[0]
    u = lambda a, b: torch.rand(n, generator=gen) * (b - a) + a
    yaw, pit = u(-yaw_max, yaw_max), u(*pitch)
    v, right, up, out = camera(yaw, pit, u(15., 55.), u(-3., 3.))
    # light: somewhere in the hemisphere around the camera, mostly from above
    l = out + right * u(-1.3, 1.3)[:, None] + torch.tensor([[0., 0., 1.]]) * u(-.1, 1.5)[:, None]
    v[:, 15:18] = F.normalize(l, dim=1)
    inten, amb = u(.5, 1.1), u(.25, .75)
    tint = 1 + (torch.rand(n, 3, generator=gen) - .5) * .12
    v[:, 18:21], v[:, 21:24] = inten[:, None] * tint, amb[:, None] * (2 - tint)
    v[:, 24] = torch.where(torch.rand(n, generator=gen) < .5, u(0., .35), torch.zeros(n))
    v[:, 25] = u(8., 60.)
    v[:, 26] = torch.where(torch.rand(n, generator=gen) < .5, u(.3, .9), torch.zeros(n))
    v[:, 27] = torch.where(torch.rand(n, generator=gen) < .7, u(.2, .7), torch.zeros(n))
    v[:, 28] = oid.float().cpu()
    v[:, 40], v[:, 41], v[:, 42] = 1., .3, 10.
    if rich:
        relight(v, gen, right, out)
    return v, torch.stack([yaw, pit], 1)


def relight(v, gen, right, out):
    """Light of other renderers for half of the view rows, in place."""
    n = v.shape[0]
    u = lambda a, b: torch.rand(n, generator=gen) * (b - a) + a
    some = lambda p, x: torch.where(torch.rand(n, generator=gen) < p, x, torch.zeros(n))
    m = v.clone()
    colour = lambda a: 1 + (torch.rand(n, 3, generator=gen) - .5) * a
    fill = out + right * u(-2., 2.)[:, None] + torch.tensor([[0., 0., 1.]]) * u(-1., 1.)[:, None]
    m[:, 32:35], m[:, 35:38] = F.normalize(fill, dim=1), some(.7, u(.1, .7))[:, None] * colour(.4)
    m[:, 18:21] *= u(.1, 1.2)[:, None] * colour(.3)
    m[:, 21:24] *= u(.5, 1.4)[:, None] * colour(.3)
    m[:, 31] = some(.4, u(.1, 1.))
    m[:, 24], m[:, 25] = some(.6, u(0., .6)), torch.exp(u(1.4, 5.))
    m[:, 38:41] = F.normalize(torch.randn(n, 3, generator=gen) * .5 + torch.tensor([[0., 0., 1.]]), dim=1)
    m[:, 41], m[:, 42] = u(0., .6), torch.exp(u(1., 4.))
    w = torch.rand(n, generator=gen) < .5
    v[w] = m[w]


def frame(objs, views, margin=1.2):
    """Crop each view to the alpha bounding box times margin (what the image preprocessing does)."""
    b = objs.bounds(views)
    w = b[:, 1] >= 0
    hs, uc, vc = views[:, 14].clone(), views[:, 12].clone(), views[:, 13].clone()
    step = hs / 48
    cu, cv = (b[:, 0] + b[:, 1] + 1) / 2, (b[:, 2] + b[:, 3] + 1) / 2
    size = torch.maximum(b[:, 1] - b[:, 0], b[:, 3] - b[:, 2]) + 1
    out = views.clone()
    out[:, 12] = torch.where(w, uc - hs + cu * step, uc)
    out[:, 13] = torch.where(w, vc + hs - cv * step, vc)
    out[:, 14] = torch.where(w, size * step / 2 * margin, hs)
    return out


def to_input(rgba):
    """uint8 straight-alpha [B,H,W,4] -> premultiplied, ImageNet-normalised [B,3,H,W]."""
    x = rgba.float() / 255
    x = (x[..., :3] * x[..., 3:]).permute(0, 3, 1, 2)
    return normalise(x)


def normalise(x):
    m, s = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - m) / s


def _blocks(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, -1, 64)


def _jpeg(x, q):
    """Quantise the 8x8 cosine transform of x [B,3,H,W] with steps that grow with frequency; q [B], about 0 to 1."""
    b, c, h, w = x.shape
    k = torch.arange(8, device=x.device, dtype=torch.float32)
    D = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * .5
    D = torch.where(k[:, None] == 0, D * .5 ** .5, D)
    K = (D[:, None, :, None] * D[None, :, None, :]).reshape(64, 64)
    step = (.03 + .03 * (k[:, None] + k[None])).reshape(64) * q.clamp_min(1e-3)[:, None, None]
    f = (torch.round(_blocks(x) @ K.t() / step) * step) @ K
    return f.reshape(b, c, h // 8, w // 8, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)


def _box(x, n):
    return F.avg_pool2d(F.pad(x, (n // 2,) * 4, mode='replicate'), n, 1)


def augment(rgba):
    """uint8 straight-alpha [B,H,W,4] -> network input [B,3,H,W] and the affine map [B,2,3] that was applied.

    What other renderers, cameras and cut-outs do: shift and turn, tone curve, saturation, white balance, a wrong edge
    of the mask (eaten, or with background left), blur, noise, JPEG."""
    b = rgba.shape[0]
    dev = rgba.device
    r = lambda a, c, *s: torch.rand(b, *s, device=dev) * (c - a) + a
    r4 = lambda a, c: r(a, c, 1, 1, 1)
    some = lambda p: (r4(0, 1) < p).float()
    x = rgba.permute(0, 3, 1, 2).float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
    a, s = torch.deg2rad(r(-4, 4)), r(.94, 1.08)
    th = torch.stack([torch.stack([torch.cos(a) * s, -torch.sin(a) * s, r(-.04, .04)], 1),
                      torch.stack([torch.sin(a) * s, torch.cos(a) * s, r(-.04, .04)], 1)], 1)
    x = F.grid_sample(x, F.affine_grid(th, x.shape, align_corners=False), mode='bilinear', align_corners=False)
    alpha = x[:, 3:]
    c = x[:, :3] / alpha.clamp_min(1e-3)
    c = c.clamp(1e-4, 1) ** r4(.75, 1.3)
    c = c + (c * c * (3 - 2 * c) - c) * r4(-.4, .6) * some(.5)                    # flatter or filmic tone curve
    g = c.mean(1, keepdim=True)
    c = g + (c - g) * r4(.8, 1.2)
    c = (c * r4(.85, 1.15) * r(.95, 1.05, 3, 1, 1)).clamp(0, 1)
    wide, thin = F.max_pool2d(alpha, 3, 1, 1), -F.max_pool2d(-alpha, 3, 1, 1)
    edge = (r4(0, 1) < .15).float()
    x = c * (alpha + (thin - alpha) * edge)                                       # eaten edge
    x = x + (wide - alpha) * r(0, 1, 3, 1, 1) * r4(0, .8) * some(.2) * (1 - edge)  # background left along it
    # the dear ones on fixed shares of the batch, which is in random order anyway
    n3, n5, nj = b // 3, b // 12, b // 4
    blur, soft, coded, rest = x.split([n3, n5, nj, b - n3 - n5 - nj])
    blur = blur + (_box(blur, 3) - blur) * r4(.4, 1)[:n3]
    soft = soft + (_box(soft, 5) - soft) * r4(.3, 1)[:n5]
    coded = _jpeg(coded, r(.1, 1.2)[:nj])
    x = torch.cat([blur, soft, coded, rest]) * (wide > 0)
    x = x + torch.randn_like(x) * r4(0, .03) * some(.7) * (alpha > 0)
    return normalise(x.clamp(0, 1)), th


def warp_aux(a, th):
    """Dense targets uint8 [B,H,W,13] moved by the augmentation -> float: position, normal, albedo, mask, exit position."""
    a = a.permute(0, 3, 1, 2).float() / 255
    a = F.grid_sample(a, F.affine_grid(th, a.shape, align_corners=False), mode='nearest', align_corners=False).permute(0, 2, 3, 1)
    m = (a[..., 9:10] > .5).float()
    return torch.cat([(a[..., :3] - .5) * m, (a[..., 3:6] * 2 - 1) * m, a[..., 6:9] * m, m, (a[..., 10:] - .5) * m], -1)


class Pool:
    """Objects with their pictures and occupancy, kept on the device."""

    def __init__(self, seeds, device, views=2, res=224, aux=64, chunk=1024, images=True, seed=0, weights=None, rich=False, log=print):
        t0 = time.time()
        self.objs = Objects(seeds, device, weights=weights)
        self.device, n = torch.device(device), len(self.objs)
        t1 = time.time()
        self.occ = self.objs.occupancy()
        pc = torch.tensor([bin(i).count('1') for i in range(256)], dtype=torch.int16, device=device)
        self.nvox = torch.cat([pc[o.long()].sum(1) for o in self.occ.split(1024)]).int()
        t2 = time.time()
        self.nviews = views
        if images:
            gen = torch.Generator().manual_seed(seed)
            oid = torch.arange(n).repeat_interleave(views)
            v, ang = random_views(oid, gen, rich=rich)
            self.views, self.ang = v.to(device), ang.to(device)
            self.img = torch.empty(n * views, res, res, 4, dtype=torch.uint8, device=device)
            self.aux = torch.empty(n * views, aux, aux, AUX, dtype=torch.uint8, device=device) if aux else None
            for i in range(0, n * views, chunk):
                fv = frame(self.objs, self.views[i:i + chunk])
                self.views[i:i + chunk] = fv
                self.img[i:i + chunk] = self.objs.render(fv, res)[0]
                if aux:
                    a = self.objs.render(fv, aux, aux=True, image=False)[1]
                    a[..., :3] += .5                       # positions to 0..1
                    a[..., 10:] += .5
                    a[..., 3:6] = a[..., 3:6] * .5 + .5    # normals to 0..1
                    self.aux[i:i + chunk] = (a.clamp(0, 1) * 255 + .5).byte()
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        log(f'pool: {n} objects {t1 - t0:.1f}s, voxels {t2 - t1:.1f}s (mean {self.nvox.float().mean():.0f}, max {self.nvox.max()}), '
            f'images {time.time() - t2:.1f}s')

    def coords(self, idx, occ=None):
        """Active voxels of objects idx: int32 [M,4] (position in idx, x, y, z), sorted by object."""
        o = unpack_bits(self.occ[idx] if occ is None else occ)
        return o.nonzero().int().contiguous()
