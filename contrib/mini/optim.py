"""Optimiser of trellis-mini: Muon for the weight matrices of the transformer blocks, AdamW for everything else, an
exponential moving average (what is kept), and one learning-rate schedule that may span several calls.

Muon (Jordan et al. 2024): momentum, then the nearest orthogonal matrix by a quintic Newton-Schulz iteration; the update is
scaled to the root mean square that AdamW's has (Liu et al. 2025), so both share one learning-rate scale.
"""
import copy
import time

import torch


@torch.no_grad()
def orthogonalise(g, steps=5):
    """Approximate U V^T of each matrix of g [N,a,b], a <= b."""
    x = g.bfloat16() if g.is_cuda else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.float()


class Muon:
    """Steps the given 2-D parameters.  Fused projections (rows a multiple of the columns) are split into square matrices."""

    def __init__(self, params, lr=1e-3, momentum=.95, wd=.01):
        self.lr, self.mu, self.wd = lr, momentum, wd
        self.groups = {}
        for name, p in params:
            m, n = p.shape
            k = m // n if '.to_' in name and m % n == 0 else 1
            a, b = sorted((m // k, n))
            self.groups.setdefault((a, b), []).append((p, k, m // k > n))
        self.buf = {}

    def _pieces(self, key, of):
        out = []
        for p, k, flip in self.groups[key]:
            t = of(p).view(k, -1, p.shape[1])
            out.append(t.transpose(1, 2) if flip else t)
        return out

    @torch.no_grad()
    def step(self):
        for key, items in self.groups.items():
            g = torch.cat(self._pieces(key, lambda p: p.grad))
            if key not in self.buf:
                self.buf[key] = torch.zeros_like(g)
            self.buf[key].lerp_(g, 1 - self.mu)
            o = orthogonalise(torch.lerp(g, self.buf[key], self.mu)) * (.2 * key[1] ** .5)
            views = self._pieces(key, lambda p: p.data)
            torch._foreach_mul_(views, 1 - self.lr * self.wd)
            torch._foreach_add_(views, list(o.split([k for _, k, _ in items])), alpha=-self.lr)

    def state_dict(self):
        return self.buf

    def load_state_dict(self, sd):
        self.buf = {k: v for k, v in sd.items()}


def _is_matrix(name, p):
    """Block weights that Muon takes; embeddings, modulations, heads, norms and convolutions stay with AdamW."""
    return p.ndim == 2 and min(p.shape) >= 128 and ('blocks.' in name or 'layer.' in name) and 'adaLN' not in name and 'emb_layers' not in name


class Trainer:
    """Optimiser + EMA + schedule over wall-clock time.

    span (a, b): this call covers the part a to b of a schedule that warms up, stays, and falls linearly to zero at 1."""

    def __init__(self, mods, lr, secs, device, span=(0., 1.), wd=.01, warm=150, hold=.2, ema=.999, betas=(.9, .98), muon=2., max_steps=0):
        self.mods, self.lr, self.secs, self.span, self.warm, self.hold, self.ema = mods, lr, secs, span, warm, hold, ema
        self.max_steps = max_steps
        named = [(f'{k}.{n}', p) for k, m in mods.items() for n, p in m.named_parameters() if p.requires_grad]
        self.ps = [p for _, p in named]
        mats = [(n, p) for n, p in named if muon and _is_matrix(n, p)]
        ids = {id(p) for _, p in mats}
        rest = [p for p in self.ps if id(p) not in ids]
        fused = {'fused': True} if torch.device(device).type == 'cuda' else {}
        self.adam = torch.optim.AdamW([{'params': [p for p in rest if p.ndim >= 2], 'weight_decay': wd},
                                       {'params': [p for p in rest if p.ndim < 2], 'weight_decay': 0.}], lr=lr, betas=betas, **fused)
        self.muon, self.muon_ratio = Muon(mats, wd=wd) if mats else None, muon
        self.shadow = {k: copy.deepcopy(m).eval().requires_grad_(False) for k, m in mods.items()}
        self.step_n, self.t0, self.tsave = 0, time.time(), time.time()

    def frac(self):
        """Progress of this call, 0 to 1."""
        f = (time.time() - self.t0) / self.secs
        return max(f, self.step_n / self.max_steps) if self.max_steps else f

    def done(self):
        return self.frac() >= 1

    def rate(self):
        f = self.span[0] + (self.span[1] - self.span[0]) * min(1., self.frac())
        return self.lr * min(1., (self.step_n + 1) / self.warm) * min(1., (1 - f) / (1 - self.hold))

    def step(self, loss):
        lr = self.rate()
        self.step_n += 1
        for g in self.adam.param_groups:
            g['lr'] = lr
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.ps, 1.0)
        self.adam.step()
        if self.muon:
            self.muon.lr = lr * self.muon_ratio
            self.muon.step()
        self.adam.zero_grad(set_to_none=True)
        for p in self.ps:
            p.grad = None
        d = min(self.ema, (1 + self.step_n) / (10 + self.step_n))
        with torch.no_grad():
            for k, m in self.mods.items():
                a, b = list(self.shadow[k].parameters()), list(m.parameters())
                torch._foreach_lerp_(a, b, 1 - d) if hasattr(torch, '_foreach_lerp_') else [x.lerp_(y, 1 - d) for x, y in zip(a, b)]
                for x, y in zip(self.shadow[k].buffers(), m.buffers()):
                    x.copy_(y)

    # ---- everything needed to go on in another process as if nothing had happened
    def save_state(self, path):
        torch.save({'mods': {k: m.state_dict() for k, m in self.mods.items()}, 'shadow': {k: m.state_dict() for k, m in self.shadow.items()},
                    'adam': self.adam.state_dict(), 'muon': self.muon.state_dict() if self.muon else None, 'step': self.step_n}, path)

    def load_state(self, path, device):
        sd = torch.load(path, map_location=device)
        for k, m in self.mods.items():
            m.load_state_dict(sd['mods'][k]), self.shadow[k].load_state_dict(sd['shadow'][k])
        self.adam.load_state_dict(sd['adam'])
        if self.muon:
            self.muon.load_state_dict(sd['muon'])
        self.step_n = sd['step']
