"""Held-out evaluation of an exported model.

    python3 evaluate.py MODEL_DIR OUT_DIR [--n 160] [--ae CHECKPOINT_DIR] [--sweep 1]

Occupancy IoU of the structure, Chamfer and F-score of the generated meshes against exact ground truth, the error of their
colours; the auto-encoders as ceiling and three floors; the same objects photographed by another renderer; contact sheets.
Everything is measured on objects that no training saw; --sweep tunes the samplers on yet other objects first.
"""
import argparse
import os

import numpy as np
import torch
from PIL import Image

import data
import mesh
import model as M
import objects
import pipeline as P
import train as T
from latents import slat_input

K = 10000                                                # points a side


def gt_mesh(pool, i):
    """Mesh of the exact SDF through the same extractor."""
    dev = pool.device
    idx = torch.tensor([i], device=dev)
    co = pool.coords(idx)
    s = slat_input(pool.objs.corners(idx, co))[1]
    fine = M.Vox(co[:, 0], co[:, 1:], 1, 64).child().child()
    v, f, _ = mesh.extract(s[:, T.corner_index(dev)].reshape(-1, 8) - mesh.BIAS, fine.xyz)
    return v, f, pool.objs.points(idx, v[None])[0][:, 1:]


def compare(m, g):
    """Chamfer, F@0.02, F@0.01, colour error (L1 at the nearest generated point, from the ground truth side), open edges."""
    torch.manual_seed(0)
    pa, ca = mesh.sample_surface(*m[:2], K, col=m[2][:, :3] if m[2] is not None else None)
    pb, cb = mesh.sample_surface(*g[:2], K, col=g[2])
    d1, _ = mesh.nn_dist(pa, pb)
    d2, j = mesh.nn_dist(pb, pa)
    fs = []
    for t in (.02, .01):
        p, r = (d1 < t).float().mean(), (d2 < t).float().mean()
        fs.append((2 * p * r / (p + r + 1e-9)).item())
    col = (cb - ca[j]).abs().mean().item() if ca is not None else float('nan')
    return [((d1.mean() + d2.mean()) / 2).item(), *fs, col, mesh.open_edges(m[1])]


def row(r):
    r = np.asarray(r)
    m = r.mean(0)
    return (f'chamfer {m[0]:.4f} (median {np.median(r[:, 0]):.4f}) F@.02 {m[1]:.4f} (median {np.median(r[:, 1]):.4f}) F@.01 {m[2]:.4f} '
            f'colour L1 {m[3]:.4f} open edges {m[4] * 100:.2f} %')


def occ_iou(a, b):
    return ((a & b).sum() / (a | b).sum().clamp_min(1)).item()


class Set:
    """Held-out objects with one picture each, their true occupancy and meshes."""

    def __init__(self, pl, first, n, seed, meshes=True):
        self.pl, self.n, self.dev = pl, n, pl.dev
        self.pool = data.Pool(range(first, first + n), pl.dev, views=1, aux=0, seed=seed, log=lambda *a: None)
        self.occ = data.unpack_bits(self.pool.occ).bool()
        self.mesh = [gt_mesh(self.pool, i) for i in range(n)] if meshes else None
        g = torch.Generator(device=pl.dev).manual_seed(3)
        self.noise = torch.randn(n, 8, 16, 16, 16, device=pl.dev, generator=g)
        self.look(self.pool.img)

    @torch.no_grad()
    def look(self, img):
        self.img = img
        with T.amp():
            self.cond = self.pl.cond(data.to_input(img))

    @torch.no_grad()
    def structure(self, **over):
        with T.amp():
            s = self.pl.structure(self.cond, self.noise, **over) > 0
        self.empty = int((s.flatten(1).sum(1) == 0).sum())
        s[s.flatten(1).sum(1) == 0, 31:33, 31:33, 31:33] = True
        return s

    def iou(self, s):
        return np.array([occ_iou(s[i], self.occ[i]) for i in range(self.n)])

    @torch.no_grad()
    def meshes(self, s, latents=None, **over):
        """Meshes of structures s [n,64,64,64]; latents(idx, coords, vox) instead of sampled ones."""
        out = []
        torch.manual_seed(1)
        for i in range(0, self.n, 8):
            idx = list(range(i, min(i + 8, self.n)))
            co = s[idx].nonzero()
            vox = M.Vox(co[:, 0], co[:, 1:], len(idx), 64)
            with T.amp():
                z = self.pl.slat(self.cond[idx], vox, torch.randn(vox.n, 8, device=self.dev), **over) if latents is None else latents(idx, co, vox)
                out += self.pl.decode(z, vox)
        return out

    def score(self, ms):
        return np.array([compare(m, g) for m, g in zip(ms, self.mesh)])


def studio(objs, views, res=224):
    """The same views as another renderer would show them: three soft area lights, an environment, filmic tone curve,
    box-filtered from four times the pixels."""
    g = torch.Generator().manual_seed(9)
    n, dev = views.shape[0], views.device
    unit = torch.nn.functional.normalize
    out_, right = -views[:, 9:12], views[:, 3:6]
    up = views[:, 6:9]
    lin = None
    for side, above, power, tint in ((-.8, .9, .55, (1., .97, .9)), (1.1, .4, .25, (.85, .92, 1.)), (.3, 1.2, .2, (1., 1., 1.)), (0, 0, 0, None)):
        for k in range(6 if tint else 1):
            v = views.clone()
            d = out_ * .8 + right * side + up * above + torch.randn(1, 3, generator=g).to(dev) * .22
            if tint and side == .3:
                d = d - out_ * 1.2                                                # from behind and above
            v[:, 15:18] = unit(d, dim=1)
            v[:, 18:21] = torch.tensor(tint or (0., 0., 0.), device=dev) * power / 6 * 2.2
            v[:, 21:24] = 0. if tint else .38
            v[:, 24], v[:, 25], v[:, 26], v[:, 27], v[:, 31] = .03 if tint else 0., 24., 1., .9, 0. if tint else .25
            v[:, 32:38], v[:, 41], v[:, 42] = 0., .25, 40.
            im = torch.cat([objs.render(c, 2 * res)[0] for c in v.split(64)]).float() / 255
            x = im[..., :3] ** 2.2
            lin = x if lin is None else lin + x
    c = lin
    c = (c * (2.51 * c + .03) / (c * (2.43 * c + .59) + .14)).clamp(0, 1) ** (1 / 2.2)     # Narkowicz's filmic curve
    a = im[..., 3:]
    c = (c * a).reshape(n, res, 2, res, 2, 3).mean((2, 4))
    a = a.reshape(n, res, 2, res, 2, 1).mean((2, 4))
    return (torch.cat([c / a.clamp_min(1e-3), a], -1).clamp(0, 1) * 255 + .5).byte()


def lens_views(pool, fov=39.6):
    """The views of a pool taken again with a 50 mm lens."""
    ang = pool.ang.cpu()
    v = data.random_views(torch.arange(len(pool.objs)), torch.Generator().manual_seed(11))[0]
    w = data.camera(ang[:, 0], ang[:, 1], torch.full((len(ang),), fov))[0]
    v[:, :15], v[:, 29:31] = w[:, :15], w[:, 29:31]
    return data.frame(pool.objs, v.to(pool.device))


def sweep(S, say):
    """Sampler settings on objects of their own -> the best structure and latent parameters."""
    best, par = 0, {}
    for steps in (12, 25):
        for cfg in (1., 2., 3.):
            for rt in (3., 5.):
                p = dict(steps=steps, cfg_strength=cfg, rescale_t=rt)
                u = S.iou(S.structure(**p)).mean()
                say(f'sweep structure {p}: IoU {u:.4f}')
                if steps == 12 and u > best:
                    best, par = u, p
    top, sp = 9, {}
    s = S.structure(**par)
    for steps, cfg, rt in ((12, 1., 3.), (6, 1., 3.), (6, 2., 3.), (6, 0., 3.), (25, 1., 3.), (4, 1., 5.)):
        p = dict(steps=steps, cfg_strength=cfg, rescale_t=rt)
        r = S.score(S.meshes(s, **p)).mean(0)
        say(f'sweep latent {p}: F@.02 {r[1]:.4f} F@.01 {r[2]:.4f} colour L1 {r[3]:.4f} open edges {r[4] * 100:.2f} %')
        if r[3] - .2 * r[2] < top:
            top, sp = r[3] - .2 * r[2], p
    say('best', par, sp)
    return par, sp


def ceiling(S, ae, say):
    enc, sse = M.SLatEncoder().to(S.dev).eval(), M.SparseStructureEncoder().to(S.dev).eval()
    T.A.inp = ae
    T.load('slatvae', {'enc': enc})
    T.load('ssvae', {'enc': sse})
    with torch.no_grad(), T.amp():
        lo = torch.cat([S.pl.m['sparse_structure_decoder'](sse(S.occ[i:i + 16, None].float())).float()[:, 0] for i in range(0, S.n, 16)])
    say(f'ceiling: structure auto-encoder IoU {S.iou(lo > 0).mean():.4f}')

    def lat(idx, co, vox):
        return enc(slat_input(S.pool.objs.corners(torch.tensor(idx, device=S.dev), co.int()))[0], vox)
    say('ceiling: latent auto-encoder', row(S.score(S.meshes(S.occ, lat))))


def floors(S, bank_n, say):
    dev, n = S.dev, S.n
    bank = data.Pool(range(70_000_000, 70_000_000 + bank_n), dev, views=1, aux=0, seed=6, log=lambda *a: None)
    pts = [mesh.sample_surface(*g[:2], K)[0] for g in S.mesh]
    with torch.no_grad(), T.amp():
        feat = lambda c: torch.nn.functional.normalize(torch.cat([c[:, 0], c[:, 5:].mean(1)], 1), dim=1)
        fb = torch.cat([feat(S.pl.cond(data.to_input(bank.img[i:i + 256]))) for i in range(0, bank_n, 256)])
        near = (feat(S.cond) @ fb.t()).argmax(1)
    cats = S.pool.objs.cat
    same = [np.nonzero((bank.objs.cat == c).numpy())[0] for c in cats]
    rows = {'nearest training object by encoder feature': [int(j) for j in near],
            'random training object of the true category': [int(np.random.RandomState(i).choice(c)) if len(c) else 0 for i, c in enumerate(same)]}
    for name, js in rows.items():
        u = [occ_iou(data.unpack_bits(bank.occ[j:j + 1]).bool()[0], S.occ[i]) for i, j in enumerate(js)]
        ch = np.array([mesh.shape_metrics(mesh.sample_surface(*gt_mesh(bank, j)[:2], K)[0], pts[i])[:2] for i, j in enumerate(js)]).mean(0)
        say(f'floor: {name}: IoU {np.mean(u):.4f} chamfer {ch[0]:.4f} F@.02 {ch[1]:.4f}')
    i = torch.arange(20000, device=dev).float() + .5
    ph, th = torch.acos(1 - i / 10000), np.pi * (1 + 5 ** .5) * i
    ball = torch.stack([th.cos() * ph.sin(), th.sin() * ph.sin(), ph.cos()], 1)
    ch = np.array([mesh.shape_metrics(ball * p.norm(dim=1).mean(), p)[:2] for p in pts]).mean(0)
    say(f'floor: sphere of the true mean radius: chamfer {ch[0]:.4f} F@.02 {ch[1]:.4f}')


def sheet(path, S, ms, first, count, size=160):
    """Two columns of: picture | generated front, back | truth front, back.  In order, nothing selected."""
    rows = []
    for i in range(first, min(first + count, S.n)):
        im = Image.fromarray(S.img[i].cpu().numpy()).resize((size, size), Image.LANCZOS)
        bg = Image.new('RGB', (size, size), (40, 40, 40))
        bg.paste(im, mask=im.split()[3])
        vs = [(mesh.render(m[0], m[1], m[2][:, :3], yaw, res=size).clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)
              for m in (ms[i], S.mesh[i]) for yaw in (25, 205)]
        rows.append(np.concatenate([np.asarray(bg)] + vs, 1))
    h = (len(rows) + 1) // 2
    rows += [np.zeros_like(rows[0])] * (2 * h - len(rows))
    Image.fromarray(np.concatenate([np.concatenate(rows[:h]), np.zeros((h * size, 8, 3), np.uint8), np.concatenate(rows[h:])], 1)).save(path)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('model'), p.add_argument('out')
    p.add_argument('--n', type=int, default=160), p.add_argument('--ae', default='', help='checkpoints with the encoders: ceiling')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--bank', type=int, default=8000, help='objects to retrieve from: floors; 0: none')
    p.add_argument('--sweep', type=int, default=0), p.add_argument('--sheet', type=int, default=40)
    a = p.parse_args()
    T.A = argparse.Namespace(device=a.device, out='', inp='')
    os.makedirs(a.out, exist_ok=True)
    pl, report = P.Pipeline.load(a.model, a.device), []

    def say(*x):
        report.append(' '.join(str(v) for v in x))
        T.log(report[-1])
        with open(os.path.join(a.out, 'evaluation.txt'), 'w') as f:
            f.write('\n'.join(report) + '\n')
    par, sp = sweep(Set(pl, 960_000_000, 96, 7), say) if a.sweep else ({}, {})
    S = Set(pl, 950_000_000, a.n, 5)
    say('settings', {**pl.args['sparse_structure_sampler']['params'], **par}, {**pl.args['slat_sampler']['params'], **sp})
    s = S.structure(**par)
    u = S.iou(s)
    ms = S.meshes(s, **sp)
    r = S.score(ms)
    say(f'model: IoU {u.mean():.4f} (median {np.median(u):.4f}) empty {S.empty}', row(r))
    by = {}
    for i in range(a.n):
        by.setdefault(objects.NAMES[int(S.pool.objs.cat[i])], []).append((u[i], r[i, 1], r[i, 2], r[i, 3]))
    say('by category (n, IoU, F@.02, F@.01, colour L1): ' + '; '.join(
        f'{k} {len(v)} ' + ' '.join(f'{x:.2f}' for x in np.mean(v, 0)[:3]) + f' {np.mean(v, 0)[3]:.3f}' for k, v in sorted(by.items())))
    if a.sheet:
        for k in range(0, min(a.sheet, a.n), 20):
            sheet(os.path.join(a.out, f'contact{k // 20}.png'), S, ms, k, min(20, a.sheet - k))
    say('true structure, generated latents:', row(S.score(S.meshes(S.occ, **sp))))
    views = lens_views(S.pool)
    for name, img in (('own renderer, 50 mm lens', S.pool.objs.render(views, 224)[0]), ('studio renderer, 50 mm lens', studio(S.pool.objs, views))):
        S.look(img)
        s = S.structure(**par)
        ms = S.meshes(s, **sp)
        say(f'{name}: IoU {S.iou(s).mean():.4f}', row(S.score(ms)))
    if a.sheet:
        sheet(os.path.join(a.out, 'studio.png'), S, ms, 0, min(12, a.sheet))
    S.look(S.pool.img)
    if a.ae:
        ceiling(S, a.ae, say)
    if a.bank:
        floors(S, a.bank, say)


if __name__ == '__main__':
    main()
