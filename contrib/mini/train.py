"""Training stages of trellis-mini.  Every stage runs for a wall-clock budget and checkpoints (EMA, fp16) to --out.

    ssvae    occupancy 64^3 <-> 16^3 x 8 latents
    slatvae  active voxels <-> 8-channel latents <-> mesh decoder, supervised by the SDF and colours at the 256^3 corners
    ssflow   sparse-structure flow together with the image encoder, which also has dense targets of its own
    slatflow structured-latent flow conditioned on the frozen encoder

    python3 train.py ssvae:200,slatvae:340,ssflow:1200,slatflow:600 --out ck

A stage is NAME:SECONDS or NAME:@SECOND (until then, counted from the start of the program), and optionally :FROM-TO, the
part of its learning-rate schedule that this call covers: with --state a later call goes on exactly where this one stopped.
Stages read what they depend on from --inp (and from --out when an earlier stage of the same call wrote it).
"""
import argparse
import contextlib
import math
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import data
import model as M
import objects
from latents import LatentPool, SDF_SCALE, slat_input
from optim import Trainer

SIG = 1e-5
BIAS = -1.0 / 256         # added to the sdf channel by the extractor
A = None
T0 = time.time()


def log(*a):
    s = f'[{time.time() - T0:6.1f}] ' + ' '.join(str(x) for x in a)
    print(s, flush=True)
    if A and A.out:
        with open(os.path.join(A.out, 'log.txt'), 'a') as f:
            f.write(s + '\n')


def cuda():
    return torch.device(A.device).type == 'cuda'


def amp():
    return torch.autocast('cuda', torch.bfloat16) if cuda() else contextlib.nullcontext()


def save(name, mods):
    sd = {f'{k}.{n}': (v.half() if v.is_floating_point() else v).cpu() for k, m in mods.items() for n, v in m.state_dict().items()}
    p = os.path.join(A.out, name + '.pt')
    torch.save(sd, p + '.tmp')
    os.replace(p + '.tmp', p)


def load(name, mods, need=True):
    """Load NAME.pt from --out or --inp into the modules; a module the file does not have keeps its start."""
    p = next((p for p in (os.path.join(d or '.', name + '.pt') for d in (A.out, A.inp)) if os.path.exists(p)), None)
    if p is None:
        assert not need, f'{name}.pt not found'
        return False
    sd = torch.load(p, map_location='cpu')
    for k, m in mods.items():
        part = {n[len(k) + 1:]: (v.float() if v.is_floating_point() else v) for n, v in sd.items() if n.startswith(k + '.')}
        assert part or not need, f'{p} has no {k}: train it first (README.md, "Train a better one")'
        if part:
            m.load_state_dict(part)
    log('loaded', p)
    return True


def state_file(name):
    return os.path.join(A.state, name + '.state') if A.state else ''


def trainer(name, mods, lr, secs, span, **kw):
    tr = Trainer(mods, lr, secs, A.device, span=span, muon=A.muon, max_steps=A.steps, **kw)
    p = state_file(name)
    if span[0] > 0 and os.path.exists(p):
        tr.load_state(p, A.device)
        log(f'{name}: went on from step {tr.step_n}')
    return tr


def checkpoint(tr, name, files, every=60):
    """Once a minute write the EMA weights; files {file: [modules]}."""
    if time.time() - tr.tsave > every:
        tr.tsave = time.time()
        for f, ms in files.items():
            save(f, {m: tr.shadow[m] for m in ms})


def finish(tr, name, files):
    for f, ms in files.items():
        save(f, {m: tr.shadow[m] for m in ms})
    if A.state:
        os.makedirs(A.state, exist_ok=True)
        tr.save_state(state_file(name))
    log(f'{name} done: {tr.step_n} steps')


def compiled(blocks):
    """Compile the repeated blocks of a network one by one: one compilation serves all of them.  Shapes never change."""
    if A.compile and cuda():
        for b in blocks:
            b.compile(dynamic=False)


def fast(f):
    return torch.compile(f, dynamic=False) if A.compile and cuda() else f


def recalibrate(enc, run, n=20):
    """Batch-norm statistics of the EMA weights."""
    enc.bn.reset_running_stats()
    enc.bn.momentum = None
    enc.bn.train()
    with torch.no_grad(), amp():
        for _ in range(n):
            run()
    enc.bn.eval()
    enc.bn.momentum = .02


# ------------------------------------------------------------------ structure auto-encoder
def occ_batch(pool, idx):
    return data.unpack_bits(pool.occ[idx])[:, None].float()


@torch.no_grad()
def iou(logit, occ):
    p, g = logit > 0, occ > .5
    return ((p & g).flatten(1).sum(1) / (p | g).flatten(1).sum(1).clamp_min(1)).mean().item()


def ssvae(pool, val, secs, span):
    dev = A.device
    enc, dec = M.SparseStructureEncoder().to(dev), M.SparseStructureDecoder().to(dev)
    load('ssvae', {'enc': enc, 'dec': dec}, need=False)
    dec.requires_grad_(not A.encoders)
    if cuda():
        enc, dec = enc.to(memory_format=torch.channels_last_3d), dec.to(memory_format=torch.channels_last_3d)
    tr = trainer('ssvae', {'enc': enc, 'dec': dec}, 1.5e-3, secs, span, warm=50, ema=.998)
    for b in (enc.blocks, dec.middle_block, [m for m in dec.blocks if isinstance(m, M.ResBlock3d)]):
        compiled(b)
    bs, n = A.bs_ssvae, len(pool.objs)
    while not tr.done():
        occ = occ_batch(pool, torch.randint(n, (bs,), device=dev))
        # the decoder is convolutional: train it on 10^3 crops of the 16^3 latent, loss away from the cut faces
        o3 = torch.randint(0, 7, (3,)).tolist()
        sl = [slice(v, v + 10) for v in o3]
        inn = [slice(0 if v == 0 else 4, 40 if v == 6 else 36) for v in o3]
        tgt = occ[:, :, 4 * o3[0]:4 * o3[0] + 40, 4 * o3[1]:4 * o3[1] + 40, 4 * o3[2]:4 * o3[2] + 40][:, :, inn[0], inn[1], inn[2]]
        with amp():
            z = enc(occ)
            sig = torch.rand(bs, 1, 1, 1, 1, device=dev) * A.noise
            z = z + torch.randn_like(z) * sig
            o = dec(z[:, :, sl[0], sl[1], sl[2]].contiguous(memory_format=torch.channels_last_3d))[:, :, inn[0], inn[1], inn[2]].float()
        p = torch.sigmoid(o)
        bce = F.binary_cross_entropy_with_logits(o, tgt) * 10
        dice = 1 - (2 * (p * tgt).flatten(1).sum(1) + 1) / ((p + tgt).flatten(1).sum(1) + 1)
        tr.step(bce + dice.mean())
        if tr.step_n % A.every == 0:
            log(f'ssvae {tr.step_n} bce {bce.item():.4f} dice {dice.mean().item():.4f} iou {iou(o, tgt):.4f}')
        checkpoint(tr, 'ssvae', {'ssvae': ['enc', 'dec']})
    e, d = tr.shadow['enc'], tr.shadow['dec']
    recalibrate(e, lambda: e(occ_batch(pool, torch.randint(n, (bs,), device=dev))))
    finish(tr, 'ssvae', {'ssvae': ['enc', 'dec']})
    with torch.no_grad(), amp():
        occ = occ_batch(val, torch.arange(min(128, len(val.objs)), device=dev))
        z = e(occ)
        log(f'  val iou {iou(d(z), occ):.4f}; noise .2 {iou(d(z + .2 * torch.randn_like(z)), occ):.4f}; '
            f'noise .4 {iou(d(z + .4 * torch.randn_like(z)), occ):.4f}; latent std {z.std().item():.3f}')


# ------------------------------------------------------------------ structure flow and image encoder
def flow_t(n, dev, high):
    """Noise levels: logit-normal (1, 1) as in the release, but a share `high` lies in 0.85 to 1, where the picture and not the
    noisy latent decides what the object is and how it stands (NOTES.md, "Where the error is made")."""
    t = torch.sigmoid(torch.randn(n, device=dev) + 1)
    u = torch.rand(n, device=dev)
    top = 1 - .15 * torch.rand(n, device=dev) ** 1.3
    return torch.where(u < high, top, t)


def noised(x0, t):
    eps = torch.randn_like(x0)
    tt = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - tt) * x0 + (SIG + (1 - SIG) * tt) * eps, (1 - SIG) * eps - x0


class DenseHead(nn.Module):
    """Training only: on a 4x4 grid per patch the point that is seen, its normal and albedo, the mask and the point where the
    view ray leaves the object; the camera angles from the class token."""

    def __init__(self, d=192):
        super().__init__()
        self.px, self.an = nn.Linear(d, 16 * data.AUX), nn.Linear(d, 3)

    def forward(self, tok, aux, ang):
        """tok [B,261,192], aux [B,64,64,13] of data.warp_aux, ang [B,2] degrees -> 6 losses."""
        y = self.px(tok[:, 5:]).float().reshape(-1, 16, 16, 4, 4, data.AUX).permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, 64, data.AUX)
        m = aux[..., 9:10]
        w = m / m.sum((1, 2, 3), keepdim=True).clamp_min(1) / aux.shape[0]
        l1 = lambda i, j, s: ((y[..., i:j] - aux[..., i:j] * s).abs() * w).sum()
        msk = F.binary_cross_entropy_with_logits(y[..., 9], aux[..., 9])
        a = torch.deg2rad(ang)
        t = torch.stack([a[:, 0].sin(), a[:, 0].cos(), a[:, 1].sin()], 1)
        an = (self.an(tok[:, 0]).float() - t).abs().mean()
        return torch.stack([l1(0, 3, 2), l1(10, 13, 2), l1(3, 6, 1), l1(6, 9, 1), msk, an])


AUX_NAMES = ('pos', 'exit', 'nrm', 'alb', 'msk', 'ang')
AUX_WEIGHTS = (2., 1.5, .3, 1., .5, .3)


@torch.no_grad()
def ss_latents(pool, enc, chunk=128):
    out = []
    for i in range(0, len(pool.objs), chunk):
        with amp():
            out.append(enc(occ_batch(pool, torch.arange(i, min(i + chunk, len(pool.objs)), device=A.device))).half())
    return torch.cat(out)


@torch.no_grad()
def euler(fn, x, cond, steps, cfg, rescale, interval=(.5, 1.)):
    t = [1 - i / steps for i in range(steps + 1)]
    t = [rescale * v / (1 + (rescale - 1) * v) for v in t]
    neg = torch.zeros_like(cond)
    for a, b in zip(t[:-1], t[1:]):
        v = fn(x, a, cond)
        if cfg and interval[0] <= a <= interval[1]:
            v = (1 + cfg) * v - cfg * fn(x, a, neg)
        x = x - (a - b) * v.float()
    return x


@torch.no_grad()
def val_ss(val, vit, flow, enc, dec, cfgs, n=128, steps=12, rescale=3.0):
    """Structure IoU of samples, and the flow's error at a few noise levels."""
    n = min(n, len(val.objs))
    idx = torch.arange(n, device=A.device)
    occ, res = occ_batch(val, idx), []
    g = torch.Generator(device=A.device).manual_seed(1)
    z0 = torch.randn(n, 8, 16, 16, 16, device=A.device, generator=g)
    at = lambda t: torch.full((n,), 1000. * t, device=A.device)
    with amp():
        cond = vit(data.to_input(val.img[idx * val.nviews]))
        x0 = enc(occ).float()
        for t in (1., .97, .9, .7):
            v = flow((1 - t) * x0 + t * z0, at(t), cond).float()
            res.append(f'mse@{t} {F.mse_loss(v, z0 - x0).item():.4f}')
        for c in cfgs:
            z = euler(lambda x, t, cd: flow(x, at(t), cd), z0, cond, steps, c, rescale)
            res.append(f'cfg {c}: IoU {iou(dec(z), occ):.4f}')
    return ' '.join(res)


def ssflow(pool, val, secs, span):
    dev, bs, nf = A.device, A.bs, A.flow or A.bs
    sse, dec = M.SparseStructureEncoder().to(dev).eval(), M.SparseStructureDecoder().to(dev).eval()
    load('ssvae', {'enc': sse, 'dec': dec})
    vit, flow, head = M.ImageEncoder().to(dev), M.SparseStructureFlowModel().to(dev), DenseHead().to(dev)
    load('vit', {'vit': vit, 'head': head}, need=False)
    load('ssflow', {'flow': flow}, need=False)
    lat = ss_latents(pool, sse.to(memory_format=torch.channels_last_3d) if cuda() else sse)
    log('latents', tuple(lat.shape), 'std', lat[:2000].float().std().item())
    tr = trainer('ssflow', {'flow': flow, 'vit': vit, 'head': head}, A.lr, secs, span, ema=A.ema)
    compiled([*flow.blocks, *vit.encoder.layer, head])
    augment, warp = fast(data.augment), fast(data.warp_aux)
    n, aw = len(pool.objs), torch.tensor(AUX_WEIGHTS, device=dev) * A.aux
    sub = torch.arange(nf, device=dev) * bs // nf           # across the augmentations, which take fixed shares of the batch
    files = {'ssflow': ['flow'], 'vit': ['vit', 'head']}
    while not tr.done():
        with torch.no_grad():
            im = torch.randint(n * pool.nviews, (bs,), device=dev)
            x, th = augment(pool.img[im])
            aux = warp(pool.aux[im], th)
            t = flow_t(nf, dev, A.high)
            xt, target = noised(lat[im[sub] // pool.nviews].float(), t)
            keep = (torch.rand(nf, 1, 1, device=dev) > .1).float()
        with amp():
            tok = vit(x)
            # a fresh head's gradient must not reach a trained encoder
            dense = head(tok.detach() if tr.step_n < tr.warm else tok, aux, pool.ang[im])
            v = flow(xt, t * 1000, tok[sub] * keep)
        mse = F.mse_loss(v.float(), target)
        tr.step(mse + (dense * aw).sum())
        if tr.step_n % A.every == 0:
            log(f'ssflow {tr.step_n} mse {mse.item():.4f} ' + ' '.join(f'{k} {q:.4f}' for k, q in zip(AUX_NAMES, dense.tolist())))
        if tr.step_n % A.val_every == 0:
            s = {k: m.eval() for k, m in tr.shadow.items()}
            log('  val', val_ss(val, s['vit'], s['flow'], sse, dec, [2.]))
        checkpoint(tr, 'ssflow', files)
    finish(tr, 'ssflow', files)
    s = tr.shadow
    log('  val', val_ss(val, s['vit'], s['flow'], sse, dec, [0., 1., 2., 4.]))
    log('  train', val_ss(pool, s['vit'], s['flow'], sse, dec, [0., 2.]))


# ------------------------------------------------------------------ latent auto-encoder
_CORNER = None


def corner_index(dev):
    """[64, 8] index into the 5^3 corners of each of the 64 sub-voxels (decoder row order) and FlexiCubes corner."""
    global _CORNER
    if _CORNER is None:
        cc = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
        rows = []
        for a in range(8):                      # 128^3 child, then 256^3 child; z fastest
            for b in range(8):
                p = [2 * ((a >> (2 - i)) & 1) + ((b >> (2 - i)) & 1) for i in range(3)]
                rows.append([((p[0] + c[0]) * 5 + p[1] + c[1]) * 5 + p[2] + c[2] for c in cc])
        _CORNER = torch.tensor(rows, device=dev)
    return _CORNER


def decoder_losses(pool, idx, enc, dec, noise):
    """L1 on sdf (weighted to the surface), colour and normal; the share of wrong signs near the surface."""
    dev, ci = A.device, corner_index(A.device)
    with torch.no_grad():
        co = pool.coords(idx)
        c7 = pool.objs.corners(idx.int(), co)
        f, s = slat_input(c7)
    vox = M.Vox(co[:, 0], co[:, 1:], len(idx), 64)
    with amp():
        z = enc(f, vox)
        sig = torch.rand(len(idx), 1, device=dev)[vox.b] * noise
        y, _ = dec(z + torch.randn_like(z) * sig, vox)
    ts = s[:, ci].reshape(-1, 8)                                    # [64N, 8]
    ps = y[:, :8].float() + BIAS
    w = 1 + 4 * torch.exp(-(ts / .15) ** 2)
    l_s = ((ps - ts).abs() * w).mean()
    near = (ts.abs().amin(1) < .25).nonzero()[:, 0]
    tc = c7[:, ci, 1:].reshape(-1, 8, 6)[near]
    tc = torch.cat([tc[..., :3], tc[..., 3:] * .5 + .5], -1)
    wc = torch.exp(-(ts[near] / .2) ** 2)[..., None]
    pc = torch.sigmoid(y[near, 53:].float()).reshape(-1, 8, 6)
    e_c = (pc - tc).abs() * wc
    l_c, l_n = e_c[..., :3].sum() / wc.sum() / 3, e_c[..., 3:].sum() / wc.sum() / 3
    with torch.no_grad():
        nr = ts.abs() < .25
        sgn = ((ps < 0) != (ts < 0))[nr].float().mean()
    return l_s, l_c, l_n, sgn


def slatvae(pool, val, secs, span):
    dev = A.device
    enc, dec = M.SLatEncoder().to(dev), M.SLatMeshDecoder().to(dev)
    load('slatvae', {'enc': enc, 'dec': dec}, need=False)
    dec.requires_grad_(not A.encoders)
    tr = trainer('slatvae', {'enc': enc, 'dec': dec}, 8e-4, secs, span, warm=100, ema=.998)

    def some():
        """Random objects whose active voxels fit the budget."""
        idx = torch.randint(len(pool.objs), (64,), device=dev)
        return idx[:int((pool.nvox[idx].cumsum(0) <= A.vox_vae).sum().clamp_min(1))]
    while not tr.done():
        idx = some()
        l_s, l_c, l_n, sgn = decoder_losses(pool, idx, enc, dec, A.noise)
        tr.step(l_s * 2 + l_c + .3 * l_n)
        if tr.step_n % A.every == 0:
            log(f'slatvae {tr.step_n} objs {len(idx)} sdf {l_s.item():.4f} col {l_c.item():.4f} nrm {l_n.item():.4f} sign {sgn.item():.4f}')
        checkpoint(tr, 'slatvae', {'slatvae': ['enc', 'dec']})
    e, d = tr.shadow['enc'], tr.shadow['dec']

    def run():
        i = some()
        co = pool.coords(i)
        e(slat_input(pool.objs.corners(i.int(), co))[0], M.Vox(co[:, 0], co[:, 1:], len(i), 64))
    recalibrate(e, run)
    finish(tr, 'slatvae', {'slatvae': ['enc', 'dec']})
    with torch.no_grad():
        for nz in (0., .2, .4):
            r = [[x.item() for x in decoder_losses(val, torch.arange(i, i + 8, device=dev), e, d, 2 * nz)]
                 for i in range(0, len(val.objs) // 8 * 8, 8)[:8]]
            m = [sum(c) / len(r) for c in zip(*r)]
            log(f'  val noise {nz}: sdf {m[0]:.4f} col {m[1]:.4f} nrm {m[2]:.4f} sign {m[3]:.4f}')


# ------------------------------------------------------------------ latent flow
@torch.no_grad()
def val_slat(pool, lp, vit, flow, n, cfgs, steps=12, rescale=3.0):
    """Error of the flow at a few noise levels and of sampled latents, true structure."""
    ids = np.arange(n)
    rows, b = lp._rows(lp.off_f[ids], lp.nf[ids])
    vox, x0, res = M.Vox(b, lp.xyz[rows], n, 64), lp.lat[rows].float(), []
    at = lambda t: torch.full((n,), 1000. * t, device=A.device)
    g = torch.Generator(device=A.device).manual_seed(1)
    z0 = torch.randn(vox.n, 8, device=A.device, generator=g)
    with amp():
        cond = vit(data.to_input(pool.img[torch.arange(n, device=A.device) * pool.nviews]))
        for t in (1., .9, .7, .4):
            res.append(f'mse@{t} {F.mse_loss(flow((1 - t) * x0 + t * z0, vox, at(t), cond).float(), z0 - x0).item():.4f}')
        for c in cfgs:
            z = euler(lambda x, t, cd: flow(x, vox, at(t), cd), z0, cond, steps, c, rescale)
            res.append(f'cfg {c}: rmse {(z - x0).pow(2).mean().sqrt().item():.4f} std {z.std().item():.3f}')
    return ' '.join(res)


def slatflow(pool, val, secs, span):
    dev = A.device
    enc = M.SLatEncoder().to(dev).eval()
    load('slatvae', {'enc': enc})
    vit, flow = M.ImageEncoder().to(dev).eval().requires_grad_(False), M.SLatFlowModel().to(dev)
    load('vit', {'vit': vit})
    load('slatflow', {'flow': flow}, need=False)
    lp, vlp = (LatentPool(p, enc, min(n, len(p.objs)), amp) for p, n in ((pool, A.latents), (val, 64)))
    log('slat latents', tuple(lp.lat.shape), 'std', lp.lat[:1000000].float().std().item(), 'parents per voxel', lp.nc.sum() / lp.nf.sum())
    tr = trainer('slatflow', {'flow': flow}, A.lr_slat, secs, span, ema=A.ema)
    compiled([*vit.encoder.layer, *flow.blocks])
    if A.compile and cuda():
        M.compile_gathers()
    augment = fast(data.augment)
    fine, slots = A.vox, A.vox // 3400
    coarse, rng = A.vox * 256 // 1000, np.random.default_rng(A.seed)
    while not tr.done():
        with torch.no_grad():
            ids = lp.pick(rng, fine, coarse, slots)
            vox, x0 = lp.batch(ids, fine, coarse, slots)
            k, N = len(ids), len(x0)
            im = torch.zeros(slots, dtype=torch.long, device=dev)
            im[:k] = torch.from_numpy(ids * pool.nviews + rng.integers(0, pool.nviews, k)).to(dev)
            x, _ = augment(pool.img[im])
            t = flow_t(vox.nb, dev, A.high_slat)
            eps = torch.randn_like(x0)
            tt = t[vox.b[:N]][:, None]
            xt = F.pad((1 - tt) * x0 + (SIG + (1 - SIG) * tt) * eps, (0, 0, 0, fine - N))
            keep = (torch.rand(slots, 1, 1, device=dev) > .1).float()
            with amp():
                cond = F.pad(vit(x) * keep, (0, 0, 0, 0, 0, vox.nb - slots))
        with amp():
            v = flow(xt, vox, t * 1000, cond)
        mse = F.mse_loss(v[:N].float(), (1 - SIG) * eps - x0)
        tr.step(mse)
        if tr.step_n % A.every == 0:
            log(f'slatflow {tr.step_n} mse {mse.item():.4f} objects {k} voxels {N} of {fine}')
        checkpoint(tr, 'slatflow', {'slatflow': ['flow']})
    finish(tr, 'slatflow', {'slatflow': ['flow']})
    f = tr.shadow['flow']
    log('  val', val_slat(val, vlp, vit, f, vlp.n, [0., 1., 2., 4.]))
    log('  train', val_slat(pool, lp, vit, f, min(64, lp.n), [0., 2.]))


STAGES = {'ssvae': ssvae, 'slatvae': slatvae, 'ssflow': ssflow, 'slatflow': slatflow}


def parse_stage(s):
    """'ssflow:@540:0-0.6' -> (function, seconds as text, (0, 0.6))."""
    p = s.split(':')
    if len(p) not in (2, 3) or p[0] not in STAGES:
        raise SystemExit(f'stage {s}: expected NAME:SECONDS[:FROM-TO] with NAME one of {", ".join(STAGES)}')
    return p[0], p[1], tuple(float(v) for v in p[2].split('-')) if len(p) == 3 else (0., 1.)


def arguments():
    p = argparse.ArgumentParser(description='Train trellis-mini.', formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    a = p.add_argument
    a('stages', help='comma list of NAME:SECONDS[:FROM-TO]')
    a('--out', default='out', help='checkpoints and log'), a('--inp', default='', help='earlier checkpoints')
    a('--state', default='', help='folder for optimiser states, to go on in a later call')
    a('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a('--seed', type=int, default=1, help='new objects and new noise for each'), a('--objects', type=int, default=80000)
    a('--views', type=int, default=3, help='pictures of each object'), a('--val', type=int, default=128)
    a('--bs', type=int, default=1024, help='pictures a step'), a('--flow', type=int, default=640, help='of them with a flow loss')
    a('--vox', type=int, default=272_000, help='voxels a step of the latent flow')
    a('--latents', type=int, default=40000, help='objects of the latent flow')
    a('--bs_ssvae', type=int, default=64), a('--vox_vae', type=int, default=36000)
    a('--lr', type=float, default=6e-4), a('--lr_slat', type=float, default=6e-4)
    a('--muon', type=float, default=2., help='learning rate of Muon in units of the other; 0: AdamW only')
    a('--ema', type=float, default=.999), a('--noise', type=float, default=.5, help='largest noise on auto-encoder latents')
    a('--high', type=float, default=.6, help='share of noise levels above 0.85'), a('--high_slat', type=float, default=.5)
    a('--aux', type=float, default=.5, help='weight of the dense targets')
    a('--encoders', type=int, default=0, help='1: train only the encoders of ssvae and slatvae, against the decoders as they are')
    a('--compile', type=int, default=1), a('--steps', type=int, default=0, help='stop a stage after so many')
    a('--every', type=int, default=100), a('--val_every', type=int, default=1000)
    return p.parse_args()


def main():
    global A
    A = arguments()
    stages = [parse_stage(s) for s in A.stages.split(',')]
    if not 0 < A.seed < 900:
        raise SystemExit(f'--seed {A.seed}: wanted 1 to 899, objects from 900 000 000 on are held out')
    os.makedirs(A.out, exist_ok=True)
    torch.manual_seed(A.seed)
    if cuda():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    images = any(s[0] in ('ssflow', 'slatflow') for s in stages)
    dense = any(s[0] == 'ssflow' for s in stages)
    base = A.seed * 1_000_000
    log('start', A.stages, torch.__version__)
    pool = data.Pool(range(base, base + A.objects), A.device, views=A.views, images=images, seed=A.seed, aux=64 if dense else 0,
                     weights=objects.TRAIN_WEIGHTS, rich=True, log=log)
    val = data.Pool(range(900_000_000, 900_000_000 + A.val), A.device, views=1, images=images, seed=77, aux=0, log=log)
    for name, secs, span in stages:
        # "@s": until second s of this program, but a few steps even if the set-up took longer
        STAGES[name](pool, val, max(5., float(secs[1:]) - (time.time() - T0)) if secs[0] == '@' else float(secs), span)
        if cuda():
            log(f'peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB')
            torch.cuda.empty_cache()


if __name__ == '__main__':
    main()
