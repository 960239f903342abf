"""Mesh extraction, metrics and a small rasteriser for trellis-mini (torch, CPU or GPU).

`extract` follows the release's SparseFeatures2Mesh conventions (corner averaging, sdf bias, tanh deformation,
sigmoid colours, alpha / beta weights), with one dual vertex per cell.  Cells whose corner signs ask for several
dual vertices (rare here) are where it differs from FlexiCubes.
"""
import torch

BIAS, RES = -1.0 / 256, 256
CC = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
EDGES = [[0, 1], [1, 5], [4, 5], [0, 4], [2, 3], [3, 7], [6, 7], [2, 6], [2, 0], [3, 1], [7, 5], [6, 4]]


@torch.no_grad()
def extract(feats, xyz, cull=True, color=True):
    """feats [N,101] (or [N,8] sdf only), xyz [N,3] of 256^3 voxels -> vertices, faces, colours [V,6] or None.
    cull drops the inner shell: faces on grid edges that leave the covered region on the inside."""
    dev, r1 = feats.device, RES + 1
    feats, xyz = feats.float(), xyz.long()
    cc = torch.tensor(CC, device=dev)
    key = ((xyz[:, None] + cc) * torch.tensor([r1 * r1, r1, 1], device=dev)).sum(-1).reshape(-1)
    full = feats.shape[1] > 8
    att = [feats[:, :8, None] + BIAS]
    if full:
        att += [feats[:, 8:32].reshape(-1, 8, 3), feats[:, 53:101].reshape(-1, 8, 6)]
    att = torch.cat(att, -1).reshape(key.shape[0], -1)
    uk, inv, cnt = torch.unique(key, return_inverse=True, return_counts=True)
    va = torch.zeros(uk.shape[0], att.shape[1], device=dev).index_add_(0, inv, att) / cnt[:, None]
    sdf = torch.ones(r1 ** 3, device=dev)
    sdf[uk] = va[:, 0]
    slot = torch.full((r1 ** 3,), -1, dtype=torch.int32, device=dev)
    slot[uk] = torch.arange(uk.shape[0], dtype=torch.int32, device=dev)
    # candidate cells: those with a covered corner
    base = uk[:, None] - (cc * torch.tensor([r1 * r1, r1, 1], device=dev)).sum(-1)
    base = torch.unique(base.reshape(-1))
    bx = torch.stack([base // (r1 * r1), base // r1 % r1, base % r1], 1)
    base = base[(base >= 0) & (bx < RES).all(1)]
    coff = (cc * torch.tensor([r1 * r1, r1, 1], device=dev)).sum(-1)
    ck = base[:, None] + coff
    s = sdf[ck]
    occ = s < 0
    n = occ.sum(1)
    surf = (n > 0) & (n < 8)
    base, ck, s, occ = base[surf], ck[surf], s[surf], occ[surf]
    C = base.shape[0]
    if C == 0:
        return torch.zeros(0, 3, device=dev), torch.zeros(0, 3, dtype=torch.long, device=dev), None
    sl = slot[ck].long()
    pos = torch.stack([ck // (r1 * r1), ck // r1 % r1, ck % r1], -1).float() / RES - .5
    col = torch.full((C, 8, 6), .5, device=dev)
    al = torch.ones(C, 8, device=dev)
    be = torch.ones(C, 12, device=dev)
    if full:
        vp = torch.cat([va, torch.zeros(1, va.shape[1], device=dev)])[sl]
        pos = pos + (1 - 1e-8) / (RES * 2) * torch.tanh(vp[..., 1:4])
        col = torch.sigmoid(vp[..., 4:10])
        r = RES
        cell = (xyz[:, 0] * r1 + xyz[:, 1]) * r1 + xyz[:, 2]
        cs = torch.full((r1 ** 3,), feats.shape[0], dtype=torch.int32, device=dev)
        cs[cell] = torch.arange(feats.shape[0], dtype=torch.int32, device=dev)
        w = torch.cat([feats[:, 32:53], torch.zeros(1, 21, device=dev)])[cs[base].long()]
        be, al = torch.tanh(w[:, :12]) * .99 + 1, torch.tanh(w[:, 12:20]) * .99 + 1
    e = torch.tensor(EDGES, device=dev)
    cross = occ[:, e[:, 0]] != occ[:, e[:, 1]]
    if cull:
        cov = sl >= 0
        ce = cross & cov[:, e[:, 0]] & cov[:, e[:, 1]]
        cross = torch.where(ce.any(1, keepdim=True), ce, cross)
    a, b = (s * al)[:, e[:, 0]], (s * al)[:, e[:, 1]]
    t = torch.where(cross, a / (a - b + 1e-20), torch.zeros_like(a))[..., None]
    w = (cross * be)[..., None]
    V = ((pos[:, e[:, 0]] * (1 - t) + pos[:, e[:, 1]] * t) * w).sum(1) / w.sum(1)
    K = ((col[:, e[:, 0]] * (1 - t) + col[:, e[:, 1]] * t) * w).sum(1) / w.sum(1)
    cid = torch.full((r1 ** 3,), -1, dtype=torch.int32, device=dev)
    cid[base] = torch.arange(C, dtype=torch.int32, device=dev)
    faces = []
    for ax in range(3):                          # grid edges along ax and the four cells around them
        c0, c1 = 0, (1, 2, 4)[ax]
        m = occ[:, c0] != occ[:, c1]
        if cull:
            m = m & (sl[:, c0] >= 0) & (sl[:, c1] >= 0)
        b0, ins = base[m], occ[m, c0]
        d = [(r1 * r1, r1, 1)[(ax + 1) % 3], (r1 * r1, r1, 1)[(ax + 2) % 3]]
        q = torch.stack([b0, b0 - d[0], b0 - d[0] - d[1], b0 - d[1]], 1)
        ok = (q >= 0).all(1)
        q = cid[q.clamp_min(0)].long()
        ok &= (q >= 0).all(1)
        q, ins = q[ok], ins[ok]
        q = torch.where(ins[:, None], q, q.flip(1))
        faces += [q[:, [0, 1, 2]], q[:, [0, 2, 3]]]
    F_ = torch.cat(faces)
    used = torch.zeros(C, dtype=torch.bool, device=dev)
    used[F_.reshape(-1)] = True
    remap = used.cumsum(0) - 1
    return V[used], remap[F_], (K[used] if full else None)


def face_areas(v, f):
    n = torch.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]], dim=1)
    return n, n.norm(dim=1) / 2


def open_edges(f):
    """Share of the edges that belong to one face only: 0 for a closed mesh."""
    if f.shape[0] == 0:
        return 1.
    e = torch.sort(torch.cat([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]), 1)[0]
    n = torch.unique(e[:, 0] * (int(f.max()) + 1) + e[:, 1], return_counts=True)[1]
    return (n == 1).float().mean().item()


def sample_surface(v, f, n, gen=None, col=None):
    if f.shape[0] == 0:
        return torch.zeros(n, 3, device=v.device), torch.zeros(n, 3, device=v.device)
    ar = face_areas(v, f)[1].clamp_min(1e-12)
    c = ar.double().cumsum(0)
    i = torch.searchsorted(c, torch.rand(n, device=v.device, dtype=torch.double) * c[-1]).clamp_max(f.shape[0] - 1)
    u, w = torch.rand(n, 1, device=v.device).sqrt(), torch.rand(n, 1, device=v.device)
    k = torch.cat([1 - u, u * (1 - w), u * w], 1)
    p = (v[f[i]] * k[..., None]).sum(1)
    return p, None if col is None else (col[f[i]] * k[..., None]).sum(1)


def nn_dist(a, b, chunk=2500):
    d, j = zip(*[torch.cdist(x, b).min(1) for x in a.split(chunk)])
    return torch.cat(d), torch.cat(j)


def shape_metrics(pa, pb, tau=.02):
    """Chamfer (mean of both directed mean distances) and F-score."""
    d1, j1 = nn_dist(pa, pb)
    d2, _ = nn_dist(pb, pa)
    p, r = (d1 < tau).float().mean(), (d2 < tau).float().mean()
    return ((d1.mean() + d2.mean()) / 2).item(), (2 * p * r / (p + r + 1e-9)).item(), j1


def render(v, f, col, yaw, pitch=20., res=256, extent=.62):
    """Orthographic picture [res,res,3] of a dense mesh by splatting vertices and face points (front -y, z up)."""
    import math
    dev = v.device
    if f.shape[0] == 0:
        return torch.ones(res, res, 3, device=dev)
    ss = res * 2
    y, p = math.radians(yaw), math.radians(pitch)
    right = torch.tensor([math.cos(y), math.sin(y), 0.], device=dev)
    out = torch.tensor([math.sin(y) * math.cos(p), -math.cos(y) * math.cos(p), math.sin(p)], device=dev)
    up = torch.cross(out, right, dim=0)
    n, _ = face_areas(v, f)
    n = n / (n.norm(dim=1, keepdim=True) + 1e-12)
    vn = torch.zeros_like(v)
    for k in range(3):
        vn.index_add_(0, f[:, k], n)
    vn = vn / (vn.norm(dim=1, keepdim=True) + 1e-12)
    w = torch.tensor([[1 / 3] * 3, [.5, .5, 0], [0, .5, .5], [.5, 0, .5], [.8, .1, .1], [.1, .8, .1], [.1, .1, .8]], device=dev)
    P = torch.cat([v] + [(v[f] * k[:, None]).sum(1) for k in w])
    N = torch.cat([vn] + [(vn[f] * k[:, None]).sum(1) for k in w])
    K = torch.cat([col] + [(col[f] * k[:, None]).sum(1) for k in w])
    N = N / (N.norm(dim=1, keepdim=True) + 1e-12)
    x, yy, z = P @ right, P @ up, P @ out
    px = ((x / extent * .5 + .5) * ss).long()
    py = ((.5 - yy / extent * .5) * ss).long()
    ok = (px >= 0) & (px < ss) & (py >= 0) & (py < ss)
    idx = (py * ss + px)[ok]
    zz = z[ok]
    zb = torch.full((ss * ss,), -9., device=dev).scatter_reduce_(0, idx, zz, 'amax')
    win = zz >= zb[idx] - 2e-3
    L = right * -.4 + up * .6 + out * .7
    L = L / L.norm()
    sh = (.45 + .65 * (N[ok] @ L).clamp_min(0))[:, None]
    c = ((K[ok].clamp(0, 1) ** 2.2) * sh).clamp(0, 1) ** (1 / 2.2)
    im = torch.zeros(ss * ss, 4, device=dev)
    im.index_add_(0, idx[win], torch.cat([c, torch.ones_like(sh)], 1)[win])
    im = torch.where(im[:, 3:] > 0, im[:, :3] / im[:, 3:].clamp_min(1), torch.ones(1, 3, device=dev))
    im = im.reshape(ss, ss, 3)
    return im.reshape(res, 2, res, 2, 3).mean((1, 3))


def write_ply(path, v, f, col):
    import numpy as np
    v, f = v.cpu().numpy().astype('<f4'), f.cpu().numpy().astype('<i4')
    c = (col.cpu().numpy().clip(0, 1) * 255).astype('u1')
    a = np.zeros(len(v), dtype=[('p', '<f4', 3), ('c', 'u1', 3)])
    a['p'], a['c'] = v, c[:, :3]
    b = np.zeros(len(f), dtype=[('n', 'u1'), ('i', '<i4', 3)])
    b['n'], b['i'] = 3, f
    with open(path, 'wb') as o:
        o.write((f'ply\nformat binary_little_endian 1.0\nelement vertex {len(v)}\nproperty float x\nproperty float y\nproperty float z\n'
                 f'property uchar red\nproperty uchar green\nproperty uchar blue\nelement face {len(f)}\n'
                 f'property list uchar int vertex_indices\nend_header\n').encode())
        o.write(a.tobytes()), o.write(b.tobytes())
