"""Structured latents of a pool, and padded batches of them.

The latent flow works on a different number of voxels each step.  Left like that every step has new shapes: nothing can be
compiled for good and every table costs a sort and a wait for the device.  So the voxels of all objects, their parents on
the 32^3 grid and their latents are kept flat, and a batch is filled with objects up to a fixed number of voxels; the rest is
padding, spread over a few dummy objects so that attention over it stays cheap."""
import numpy as np
import torch
import torch.nn.functional as F

import model as M

SDF_SCALE = 32.0          # stored sdf = signed distance * 32, clamped to +-1 (the extractor's outside value is 1)
LONGEST = 4096            # tokens of one object: limit of the variable-length attention
DUMMIES = 4


def slat_input(c7):
    """[N,125,7] corner samples -> encoder input [N,875], and the sdf target [N,125]."""
    s = (c7[..., :1] * SDF_SCALE).clamp(-1, 1)
    return torch.cat([s, c7[..., 1:4] * 2 - 1, c7[..., 4:7]], -1).flatten(1), s[..., 0]


class LatentPool:
    """Latents [sum nf, 8], voxels and parents of the first n objects of a pool."""

    @torch.no_grad()
    def __init__(self, pool, enc, n, amp, budget=400_000):
        nv = pool.nvox[:n].tolist()
        parts, counts, i = [], [], 0
        while i < n:
            j, s = i, 0
            while j < n and (s + nv[j] <= budget or j == i):
                s += nv[j]
                j += 1
            idx = torch.arange(i, j, device=pool.device)
            co = pool.coords(idx)
            vox = M.Vox(co[:, 0], co[:, 1:], j - i, 64)
            with amp():
                z = enc(slat_input(pool.objs.corners(idx.int(), co))[0], vox).half()
            lo, inv, cnt = vox.down()
            nc = torch.bincount(lo.b, minlength=j - i)
            first = F.pad(nc.cumsum(0), (1, 0))[:-1]
            parts.append((z, vox.xyz.byte(), (inv - first[vox.b]).short(), lo.xyz.byte(), cnt.byte()))
            counts.append(nc)
            i = j
        self.lat, self.xyz, self.parent, self.cxyz, self.ccnt = (torch.cat(p) for p in zip(*parts))
        self.n, self.device = n, pool.device
        self.nf, self.nc = np.array(nv), torch.cat(counts).cpu().numpy()
        self.off_f, self.off_c = (np.concatenate([[0], np.cumsum(a)]) for a in (self.nf, self.nc))

    def pick(self, rng, fine, coarse, slots):
        """Random objects that fit `fine` voxels and `coarse` parents (one less: the padding needs a row)."""
        ids = rng.integers(0, self.n, slots)
        k = min((np.cumsum(self.nf[ids]) <= fine).sum(), (np.cumsum(self.nc[ids]) < coarse).sum())
        return ids[:k]

    def _rows(self, first, count):
        """Rows first[i] .. first[i] + count[i] for all i, as one index, and the i of each."""
        d, total = self.device, int(count.sum())
        t = torch.from_numpy(np.stack([first - np.cumsum(count) + count, count])).to(d)
        i = torch.repeat_interleave(torch.arange(len(count), device=d), t[1], output_size=total)
        return t[0][i] + torch.arange(total, device=d), i

    @torch.no_grad()
    def batch(self, ids, fine, coarse, slots):
        """-> Vox of `fine` rows and slots + DUMMIES objects (unused ones empty), and the latents [N,8] of the N real rows."""
        d, nb = self.device, slots + DUMMIES
        rows, b = self._rows(self.off_f[ids], self.nf[ids])
        crows, cb = self._rows(self.off_c[ids], self.nc[ids])
        N, C = len(rows), len(crows)

        def padded(x, n, value):
            return F.pad(x, (0, 0) * (x.ndim - 1) + (0, n - len(x)), value=value)
        xyz, cxyz = self.xyz[rows].long(), self.cxyz[crows].long()
        cfirst = torch.from_numpy(np.cumsum(self.nc[ids]) - self.nc[ids]).to(d)
        inv = padded(self.parent[rows].long() + cfirst[b], fine, coarse - 1)      # padding voxels hang below the last row
        cnt = padded(self.ccnt[crows].long(), coarse, 1)
        lens = np.zeros(nb, np.int64)
        lens[:len(ids)] = self.nc[ids]
        pad = np.diff(np.linspace(0, coarse - C, DUMMIES + 1).astype(np.int64))
        lens[slots:] = pad
        assert lens.max() <= LONGEST
        cu = torch.from_numpy(np.concatenate([[0], np.cumsum(lens)]).astype(np.int32)).to(d)
        dummy = torch.repeat_interleave(torch.arange(slots, nb, device=d), torch.from_numpy(pad).to(d), output_size=coarse - C)
        lo = M.Vox(torch.cat([cb, dummy]), padded(cxyz, coarse, 0), nb, 32,
                   {'n': padded(M._neigh(cxyz, cb, 32, slots, coarse), coarse, coarse), 's': (cu, LONGEST)})
        vox = M.Vox(padded(b, fine, nb - 1), padded(xyz, fine, 0), nb, 64,
                    {'n': padded(M._neigh(xyz, b, 64, slots, fine), fine, fine), 'd': (lo, inv, cnt)})
        return vox, self.lat[rows].float()
