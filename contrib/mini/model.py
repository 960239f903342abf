"""Modules of trellis-mini in PyTorch.

Parameter names, shapes and semantics are those of the TRELLIS release (sparse-structure flow and decoder,
structured-latent flow, mesh decoder) and of Hugging Face Dinov2WithRegistersModel, so that the exported
files load in any engine for those.  Sparse tensors are flat: features [N,C] with an index structure `Vox`.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


# ------------------------------------------------------------------ attention back ends
def sdpa(q, k, v):
    """[B,L,H,C] attention."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2) \
        if hasattr(F, 'scaled_dot_product_attention') else _naive(q, k, v)


def _naive(q, k, v):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    return (a @ v).transpose(1, 2)


def varlen(q, k, v, cq, ck, mq, mk):
    """Block-diagonal attention: q [T,H,C], cu_seqlens cq / ck (int32), longest sequences mq / mk."""
    if q.is_cuda:
        q, k, v = (t if t.dtype in (torch.bfloat16, torch.float16) else t.bfloat16() for t in (q, k, v))
        return torch.ops.aten._flash_attention_forward(q, k, v, cq, ck, mq, mk, 0.0, False, False)[0]
    out = torch.empty_like(q)
    cq, ck = cq.tolist(), ck.tolist()
    for i in range(len(cq) - 1):
        a, b, c, d = cq[i], cq[i + 1], ck[i], ck[i + 1]
        if b > a:
            out[a:b] = _naive(q[None, a:b], k[None, c:d], v[None, c:d])[0]
    return out


# ------------------------------------------------------------------ sparse structure: index tables
def _neigh(flat, batch, grid_res, nb, none=None):
    """27 neighbour indices of voxels flat [N,3] with batch [N]; `none` (the row count: a zero row) where there is none."""
    n, r = flat.shape[0], grid_res + 2
    g = torch.full((nb * r * r * r,), n if none is None else none, dtype=torch.int32, device=flat.device)
    key = ((batch * r + flat[:, 0] + 1) * r + flat[:, 1] + 1) * r + flat[:, 2] + 1
    g[key] = torch.arange(n, dtype=torch.int32, device=flat.device)
    d = torch.arange(-1, 2, device=flat.device)
    off = (d[:, None, None] * r + d[None, :, None]) * r + d[None, None, :]
    return g[key[:, None] + off.reshape(1, 27)].long()


class Vox:
    """Active voxels of a batch at one resolution: batch index b [N] (sorted), xyz [N,3], lazily built tables.
    tables: those known beforehand (latents.py makes them for padded batches of fixed size)."""

    def __init__(self, b, xyz, nb, res, tables=None):
        self.b, self.xyz, self.nb, self.res = b.long(), xyz.long(), nb, res
        self._c = tables or {}

    @property
    def n(self):
        return self.b.shape[0]

    def neigh(self):
        if 'n' not in self._c:
            self._c['n'] = _neigh(self.xyz, self.b, self.res, self.nb)
        return self._c['n']

    def seq(self):
        """cu_seqlens over objects and the longest one."""
        if 's' not in self._c:
            cnt = torch.bincount(self.b, minlength=self.nb)
            self._c['s'] = (F.pad(cnt.cumsum(0), (1, 0)).int(), int(cnt.max()))
        return self._c['s']

    def count(self):
        if 'c' not in self._c:
            self._c['c'] = torch.bincount(self.b, minlength=self.nb)
        return self._c['c']

    def onehot(self, dtype):
        """[N, objects] membership; sums per object become one GEMM instead of contended atomics."""
        k = ('o', dtype)
        if k not in self._c:
            self._c[k] = (self.b[:, None] == torch.arange(self.nb, device=self.b.device)).to(dtype)
        return self._c[k]

    def windows(self, ws, shift):
        """Permutation, its inverse, cu_seqlens and longest of the window partition."""
        k = ('w', ws, shift)
        if k not in self._c:
            m = (self.res + shift) // ws + 1
            w = (self.xyz + shift) // ws
            key = ((self.b * m + w[:, 0]) * m + w[:, 1]) * m + w[:, 2]
            srt, perm = torch.sort(key, stable=True)
            inv = torch.empty_like(perm)
            inv[perm] = torch.arange(self.n, device=perm.device)
            cnt = torch.unique_consecutive(srt, return_counts=True)[1]
            self._c[k] = (perm, inv, F.pad(cnt.cumsum(0), (1, 0)).int(), int(cnt.max()))
        return self._c[k]

    def down(self):
        """Half resolution voxels and the index of every voxel's parent."""
        if 'd' not in self._c:
            r = self.res // 2
            p = self.xyz // 2
            key = ((self.b * r + p[:, 0]) * r + p[:, 1]) * r + p[:, 2]
            u, inv, cnt = torch.unique(key, return_inverse=True, return_counts=True)
            xyz = torch.stack([u // (r * r) % r, u // r % r, u % r], 1)
            self._c['d'] = (Vox(u // (r * r * r), xyz, self.nb, r), inv, cnt)
        return self._c['d']

    def parent_neigh(self):
        """Parents of the 27 neighbours (their row count where there is none)."""
        if 'pn' not in self._c:
            lo, inv, _ = self.down()
            self._c['pn'] = torch.cat([inv, inv.new_full((1,), lo.n)])[self.neigh()]
        return self._c['pn']

    def children(self):
        """[parents, 8] rows of the children that exist (the row count where there is none)."""
        if 'ch' not in self._c:
            lo, inv, _ = self.down()
            c = torch.full((lo.n, 8), self.n, dtype=torch.long, device=inv.device)
            bit = self.xyz & 1
            c[inv, (bit[:, 0] * 2 + bit[:, 1]) * 2 + bit[:, 2]] = torch.arange(self.n, device=inv.device)
            self._c['ch'] = c
        return self._c['ch']

    def child(self):
        """All 8 children of every voxel, child order z fastest, and their neighbour table derived from the parents'."""
        if 'u' not in self._c:
            d = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], device=self.b.device)
            xyz = (self.xyz[:, None] * 2 + d).reshape(-1, 3)
            v = Vox(self.b.repeat_interleave(8), xyz, self.nb, self.res * 2)
            o = torch.tensor([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], device=self.b.device)
            t = d[:, None] + o[None]                                  # child + offset: -1..2
            pd = torch.div(t, 2, rounding_mode='floor')               # parent offset
            pi = ((pd[..., 0] + 1) * 3 + pd[..., 1] + 1) * 3 + pd[..., 2] + 1
            q = t - 2 * pd
            ci = (q[..., 0] * 2 + q[..., 1]) * 2 + q[..., 2]
            nb = self.neigh()[:, pi.reshape(-1)].reshape(self.n, 8, 27)
            nb = torch.where(nb < self.n, nb * 8 + ci, torch.full_like(nb, self.n * 8))
            v._c['n'] = nb.reshape(-1, 27)
            self._c['u'] = v
        return self._c['u']


class _Expand(torch.autograd.Function):
    """m[vox.b] with a GEMM backward."""

    @staticmethod
    def forward(ctx, m, vox):
        ctx.vox = vox
        return m.index_select(0, vox.b)

    @staticmethod
    def backward(ctx, g):
        return ctx.vox.onehot(g.dtype).t() @ g, None


def _take(x, i):
    """x[i] with a zero row where i is the row count; x [N,C]."""
    return torch.where((i < x.shape[0])[..., None], x[i.clamp_max(x.shape[0] - 1)], 0)


def _gather(x, nb):
    """[N,C] -> [N, 27 C]."""
    return _take(x, nb).flatten(1)


def _gather_sum(z, i):
    """out[n] = sum over k of z[i[n, k], k]; z [M,27,C], i [N,27] (M: nothing)."""
    m, _, c = z.shape
    return _take(z.reshape(m * 27, c), torch.where(i < m, i * 27 + torch.arange(27, device=z.device), m * 27)).sum(1)


def _gather_sum_back(g, nb, child):
    """Gradient of _gather_sum for z: g [N,C], nb [N,27] neighbours, child [M,8] rows of g below each row of z."""
    n = g.shape[0]
    i = torch.where((child < n)[..., None], nb[child.clamp_max(n - 1)].flip(-1), n)
    return _take(g, i).sum(1)


def compile_gathers():
    """PyTorch's own gather moves these short rows at a twentieth of the memory bandwidth; compiled ones do not."""
    global _gather, _gather_sum, _gather_sum_back
    torch._dynamo.config.recompile_limit = 64              # one version for each layer's shape
    _gather, _gather_sum, _gather_sum_back = (torch.compile(f, dynamic=False) for f in (_gather, _gather_sum, _gather_sum_back))


class _SubMConv(torch.autograd.Function):
    """3x3x3 submanifold convolution as gather + GEMM; w [27*Cin, Cout]."""

    @staticmethod
    def forward(ctx, x, w, nb):
        ctx.save_for_backward(x, w, nb)
        return _gather(x, nb) @ w

    @staticmethod
    def backward(ctx, g):
        x, w, nb = ctx.saved_tensors
        g = g.contiguous()
        gw = gx = None
        if ctx.needs_input_grad[1]:
            gw = _gather(x, nb).t() @ g
        if ctx.needs_input_grad[0]:
            cin, cout = x.shape[1], w.shape[1]
            # the neighbour relation is symmetric: offset k of i is j  <=>  offset 26-k of j is i
            wf = w.reshape(27, cin, cout).flip(0).transpose(1, 2).reshape(27 * cout, cin)
            gx = _gather(g, nb) @ wf
        return gx, gw, None


class _GatherSum(torch.autograd.Function):
    """Second half of a convolution done GEMM first: z [M,27,C] at the parents, i = parent of each neighbour [N,27]."""

    @staticmethod
    def forward(ctx, z, i, nb, child):
        ctx.save_for_backward(nb, child)
        return _gather_sum(z, i)

    @staticmethod
    def backward(ctx, g):
        return _gather_sum_back(g.contiguous(), *ctx.saved_tensors), None, None, None


class SubM(nn.Module):
    """Holds `weight` [Cout,3,3,3,Cin] and `bias` like spconv's SubMConv3d.

    Kernel size 1 is different there, and here: spconv re-reads the [Cout,1,1,1,Cin] block as a row-major [Cin][Cout] matrix."""

    def __init__(self, cin, cout, k=3):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cout, k, k, k, cin))
        self.bias = nn.Parameter(torch.zeros(cout))
        nn.init.kaiming_uniform_(self.weight.view(cout, -1), a=math.sqrt(5))

    def forward(self, x, vox):
        dt = torch.bfloat16 if x.is_cuda and torch.is_autocast_enabled() else self.weight.dtype
        cout = self.weight.shape[0]
        w = self.weight.to(dt).reshape(cout, -1)
        x = x.to(dt)
        if self.weight.shape[1] == 1:
            return x @ w.reshape(-1, cout) + self.bias.to(dt)
        return _SubMConv.apply(x, w.t().contiguous(), vox.neigh()) + self.bias.to(dt)

    def forward_gemm_first(self, x, vox):
        """The convolution at voxels that carry their parent's x: cheaper when Cout is far below Cin."""
        dt = torch.bfloat16 if x.is_cuda and torch.is_autocast_enabled() else self.weight.dtype
        cout, cin = self.weight.shape[0], self.weight.shape[4]
        z = x.to(dt) @ self.weight.to(dt).permute(4, 1, 2, 3, 0).reshape(cin, 27 * cout)
        return _GatherSum.apply(z.reshape(-1, 27, cout), vox.parent_neigh(), vox.neigh(), vox.children()) + self.bias.to(dt)

    def forward_subdivided(self, x, vox):
        """The convolution of the children when all 8 children of a voxel carry x: run at the parents (8 output groups)."""
        dt = torch.bfloat16 if x.is_cuda and torch.is_autocast_enabled() else self.weight.dtype
        cout, cin = self.weight.shape[0], self.weight.shape[4]
        if self.weight.shape[1] == 1:
            y = x.to(dt) @ self.weight.to(dt).reshape(cin, cout) + self.bias.to(dt)
            return y.repeat_interleave(8, 0)
        # S[p, d, k]: kernel tap k of a child of parity p reads the parent at offset d
        S = torch.zeros(2, 3, 3, device=x.device)
        for p in range(2):
            for k in range(3):
                S[p, (p + k - 1) // 2 + 1, k] = 1
        w = torch.einsum('adi,bej,cfk,oijkn->defnabco', S, S, S, self.weight.float()).reshape(27 * cin, 8 * cout)
        y = _SubMConv.apply(x.to(dt), w.to(dt).contiguous(), vox.neigh())
        return y.reshape(-1, cout) + self.bias.to(dt)


class SparseConv3d(nn.Module):
    def __init__(self, cin, cout, k=3):
        super().__init__()
        self.conv = SubM(cin, cout, k)

    def forward(self, x, vox, subdivided=False):
        return self.conv.forward_subdivided(x, vox) if subdivided else self.conv(x, vox)


def zero(m):
    for p in m.parameters():
        nn.init.zeros_(p)
    return m


# ------------------------------------------------------------------ shared transformer parts
class LN(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


def _rms(x, gamma, scale):
    return (F.normalize(x.float(), dim=-1) * gamma * scale).to(x.dtype)


def _ln_mod(x, sc, sh):
    return (F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1 + sc.float()) + sh.float()).to(x.dtype)


class RMS(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.scale, self.gamma = dim ** 0.5, nn.Parameter(torch.ones(heads, dim))

    def forward(self, x):
        return _rms(x, self.gamma, self.scale)


def ape(xyz, channels):
    """Sine / cosine embedding of integer positions [N,3]."""
    fd = channels // 3 // 2
    fr = 1.0 / (10000 ** (torch.arange(fd, dtype=torch.float32, device=xyz.device) / fd))
    a = xyz.float().reshape(-1, 1) * fr
    e = torch.cat([a.sin(), a.cos()], -1).reshape(xyz.shape[0], -1)
    return F.pad(e, (0, channels - e.shape[1]))


class TimestepEmbedder(nn.Module):
    def __init__(self, ch, freq=256):
        super().__init__()
        self.freq = freq
        self.mlp = nn.Sequential(nn.Linear(freq, ch), nn.SiLU(), nn.Linear(ch, ch))

    def forward(self, t):
        h = self.freq // 2
        f = torch.exp(-math.log(10000) * torch.arange(h, dtype=torch.float32, device=t.device) / h)
        a = t[:, None].float() * f
        return self.mlp(torch.cat([a.cos(), a.sin()], -1))


class SelfAttn(nn.Module):
    def __init__(self, ch, heads, rms):
        super().__init__()
        self.h = heads
        self.to_qkv, self.to_out = nn.Linear(ch, ch * 3), nn.Linear(ch, ch)
        self.rms = rms
        if rms:
            self.q_rms_norm, self.k_rms_norm = RMS(ch // heads, heads), RMS(ch // heads, heads)

    def forward(self, x, seq=None, perm=None):
        """x [B,L,C] (seq None) or flat [T,C] with seq = (cu_seqlens, longest); perm sorts rows into windows."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.h, -1)).unbind(-3)
        if self.rms:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        if seq is None:
            y = sdpa(q, k, v)
        elif perm is None:
            y = varlen(q, k, v, seq[0], seq[0], seq[1], seq[1])
        else:
            p, inv = perm
            y = varlen(q[p], k[p], v[p], seq[0], seq[0], seq[1], seq[1])[inv]
        return self.to_out(y.flatten(-2))


class CrossAttn(nn.Module):
    def __init__(self, ch, ctx, heads):
        super().__init__()
        self.h = heads
        self.to_q, self.to_kv, self.to_out = nn.Linear(ch, ch), nn.Linear(ctx, ch * 2), nn.Linear(ch, ch)

    def forward(self, x, ctx, seq=None):
        q = self.to_q(x).unflatten(-1, (self.h, -1))
        k, v = self.to_kv(ctx).unflatten(-1, (2, self.h, -1)).unbind(-3)
        if seq is None:
            y = sdpa(q, k, v)
        else:
            b, l = ctx.shape[:2]
            ck = torch.arange(0, b * l + 1, l, device=q.device, dtype=torch.int32)
            y = varlen(q, k.flatten(0, 1), v.flatten(0, 1), seq[0], ck, seq[1], l)
        return self.to_out(y.flatten(-2))


class FFN(nn.Module):
    def __init__(self, ch, ratio):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(ch, int(ch * ratio)), nn.GELU(approximate='tanh'), nn.Linear(int(ch * ratio), ch))

    def forward(self, x):
        return self.mlp(x)


class CrossBlock(nn.Module):
    """Modulated self attention + cross attention + feed-forward, dense or flat."""

    def __init__(self, ch, ctx, heads, ratio, rms, share):
        super().__init__()
        self.norm1 = LN(ch, elementwise_affine=False, eps=1e-6)
        self.norm2 = LN(ch, elementwise_affine=True, eps=1e-6)
        self.norm3 = LN(ch, elementwise_affine=False, eps=1e-6)
        self.self_attn, self.cross_attn, self.mlp = SelfAttn(ch, heads, rms), CrossAttn(ch, ctx, heads), FFN(ch, ratio)
        if not share:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(ch, 6 * ch))
        self.share = share

    def forward(self, x, mod, ctx, seq=None, member=None):
        """x [B,L,C], or flat [T,C] with seq = (cu_seqlens, longest) and member [T,B], one-hot."""
        m = mod if self.share else self.adaLN_modulation(mod)
        m = (m[:, None] if seq is None else member @ m.to(member.dtype)).chunk(6, -1)
        x = x + self.self_attn(_ln_mod(x, m[1], m[0]), seq) * m[2]
        x = x + self.cross_attn(self.norm2(x), ctx, seq)
        return x + self.mlp(_ln_mod(x, m[4], m[3])) * m[5]


class Block(nn.Module):
    """Plain windowed block of the latent encoder / mesh decoder."""

    def __init__(self, ch, heads, ratio, rms=False):
        super().__init__()
        self.norm1 = LN(ch, elementwise_affine=False, eps=1e-6)
        self.norm2 = LN(ch, elementwise_affine=False, eps=1e-6)
        self.attn, self.mlp = SelfAttn(ch, heads, rms), FFN(ch, ratio)

    def forward(self, x, p, inv, cu, mxl):
        x = x + self.attn(self.norm1(x), (cu, mxl), (p, inv))
        return x + self.mlp(self.norm2(x))


def init_linear(m):
    for q in m.modules():
        if isinstance(q, nn.Linear):
            nn.init.xavier_uniform_(q.weight)
            if q.bias is not None:
                nn.init.zeros_(q.bias)


# ------------------------------------------------------------------ image encoder (Dinov2WithRegisters names)
class _Attn(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.attention = nn.Module()
        self.attention.query, self.attention.key, self.attention.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.output = nn.Module()
        self.output.dense = nn.Linear(d, d)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.h, -1)) for f in (self.attention.query, self.attention.key, self.attention.value))
        return self.output.dense(sdpa(q, k, v).flatten(-2))


class _Scale(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((d,), 1.0))

    def forward(self, x):
        return x * self.lambda1


class _Layer(nn.Module):
    def __init__(self, d, h, ratio):
        super().__init__()
        self.norm1, self.norm2 = LN(d, eps=1e-6), LN(d, eps=1e-6)
        self.attention, self.layer_scale1, self.layer_scale2 = _Attn(d, h), _Scale(d), _Scale(d)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(d, d * ratio), nn.Linear(d * ratio, d)

    def forward(self, x):
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))))


class ImageEncoder(nn.Module):
    """ViT with registers; returns the tokens that condition the flows (layer norm without affine of the pre-norm tokens)."""

    def __init__(self, hidden_size=192, num_hidden_layers=6, num_attention_heads=3, mlp_ratio=4, image_size=224, patch_size=14,
                 num_register_tokens=4):
        super().__init__()
        d, n = hidden_size, (image_size // patch_size) ** 2
        self.cfg = dict(hidden_size=d, num_hidden_layers=num_hidden_layers, num_attention_heads=num_attention_heads,
                        mlp_ratio=mlp_ratio, image_size=image_size, patch_size=patch_size, num_register_tokens=num_register_tokens)
        e = self.embeddings = nn.Module()
        e.cls_token = nn.Parameter(torch.randn(1, 1, d) * .02)
        e.mask_token = nn.Parameter(torch.zeros(1, d))
        e.register_tokens = nn.Parameter(torch.randn(1, num_register_tokens, d) * .02)
        e.position_embeddings = nn.Parameter(torch.randn(1, n + 1, d) * .02)
        e.patch_embeddings = nn.Module()
        e.patch_embeddings.projection = nn.Conv2d(3, d, patch_size, patch_size)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList([_Layer(d, num_attention_heads, mlp_ratio) for _ in range(num_hidden_layers)])
        self.layernorm = LN(d, eps=1e-6)                    # part of the file format; not used for conditioning
        init_linear(self)

    def forward(self, x):
        e = self.embeddings
        w, b, s = e.patch_embeddings.projection, x.shape[0], self.cfg['patch_size']
        n = x.shape[2] // s                              # the strided convolution as one GEMM
        p = x.reshape(b, 3, n, s, n, s).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, 3 * s * s)
        p = F.linear(p, w.weight.flatten(1), w.bias)
        h = torch.cat([e.cls_token.expand(b, -1, -1).to(p.dtype), p], 1) + e.position_embeddings
        h = torch.cat([h[:, :1], e.register_tokens.expand(b, -1, -1).to(h.dtype), h[:, 1:]], 1)
        for l in self.encoder.layer:
            h = l(h)
        return F.layer_norm(h.float(), h.shape[-1:])


# ------------------------------------------------------------------ stage 1: sparse structure
def _patch(x, p):
    b, c, r = x.shape[0], x.shape[1], x.shape[2] // p
    x = x.reshape(b, c, r, p, r, p, r, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(b, r ** 3, c * p ** 3)


def _unpatch(x, c, r, p):
    b = x.shape[0]
    x = x.reshape(b, r, r, r, c, p, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(b, c, r * p, r * p, r * p)


class SparseStructureFlowModel(nn.Module):
    def __init__(self, resolution=16, in_channels=8, model_channels=192, cond_channels=192, out_channels=8, num_blocks=6,
                 num_heads=None, num_head_channels=64, mlp_ratio=4, patch_size=2, pe_mode='ape', use_fp16=False,
                 share_mod=True, qk_rms_norm=True):
        super().__init__()
        c = model_channels
        h = num_heads or c // num_head_channels
        self.cfg = dict(resolution=resolution, in_channels=in_channels, model_channels=c, cond_channels=cond_channels,
                        out_channels=out_channels, num_blocks=num_blocks, num_heads=h, mlp_ratio=mlp_ratio,
                        patch_size=patch_size, pe_mode='ape', share_mod=share_mod, qk_rms_norm=qk_rms_norm)
        self.p, self.r, self.out, self.cin = patch_size, resolution // patch_size, out_channels, in_channels
        self.t_embedder = TimestepEmbedder(c)
        self.share = share_mod
        if share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))
        r = torch.arange(self.r)
        self.register_buffer('pos_emb', ape(torch.stack(torch.meshgrid(r, r, r, indexing='ij'), -1).reshape(-1, 3), c))
        self.input_layer = nn.Linear(in_channels * patch_size ** 3, c)
        self.blocks = nn.ModuleList([CrossBlock(c, cond_channels, h, mlp_ratio, qk_rms_norm, share_mod) for _ in range(num_blocks)])
        self.out_layer = nn.Linear(c, out_channels * patch_size ** 3)
        init_linear(self)
        for q in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(q.weight, std=.02)
        for q in ([self.adaLN_modulation] if share_mod else [b.adaLN_modulation for b in self.blocks]):
            zero(q[-1])
        zero(self.out_layer)

    def forward(self, x, t, cond):
        h = self.input_layer(_patch(x, self.p)) + self.pos_emb
        e = self.t_embedder(t)
        if self.share:
            e = self.adaLN_modulation(e)
        for b in self.blocks:
            h = b(h, e, cond)
        h = self.out_layer(F.layer_norm(h.float(), h.shape[-1:]))
        return _unpatch(h, self.out, self.r, self.p)


class ChLN(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 4, 1).float()).to(x.dtype).permute(0, 4, 1, 2, 3)


class ResBlock3d(nn.Module):
    def __init__(self, c, o=None):
        super().__init__()
        o = o or c
        self.norm1, self.norm2 = ChLN(c), ChLN(o)
        self.conv1, self.conv2 = nn.Conv3d(c, o, 3, padding=1), zero(nn.Conv3d(o, o, 3, padding=1))
        self.skip_connection = nn.Conv3d(c, o, 1) if c != o else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(h))) + self.skip_connection(x)


class Up3d(nn.Module):
    def __init__(self, c, o):
        super().__init__()
        self.conv = nn.Conv3d(c, o * 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        b, c, d, h, w = x.shape
        return x.reshape(b, c // 8, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * d, 2 * h, 2 * w)


class SparseStructureDecoder(nn.Module):
    def __init__(self, out_channels=1, latent_channels=8, num_res_blocks=1, channels=(64, 32, 16), num_res_blocks_middle=1,
                 norm_type='layer', use_fp16=False):
        super().__init__()
        ch = list(channels)
        self.cfg = dict(out_channels=out_channels, latent_channels=latent_channels, num_res_blocks=num_res_blocks,
                        num_res_blocks_middle=num_res_blocks_middle, channels=ch)
        self.input_layer = nn.Conv3d(latent_channels, ch[0], 3, padding=1)
        self.middle_block = nn.Sequential(*[ResBlock3d(ch[0]) for _ in range(num_res_blocks_middle)])
        self.blocks = nn.ModuleList()
        for i, c in enumerate(ch):
            self.blocks.extend([ResBlock3d(c) for _ in range(num_res_blocks)])
            if i < len(ch) - 1:
                self.blocks.append(Up3d(c, ch[i + 1]))
        self.out_layer = nn.Sequential(ChLN(ch[-1]), nn.SiLU(), nn.Conv3d(ch[-1], out_channels, 3, padding=1))

    def forward(self, z):
        h = self.middle_block(self.input_layer(z))
        for b in self.blocks:
            h = b(h)
        return self.out_layer(h)


class SparseStructureEncoder(nn.Module):
    """Training only: 4^3 space-to-depth, then residual blocks at 16^3.  The latent is standardised by a batch norm
    without affine, so the decoder and the flow see unit variance."""

    def __init__(self, latent=8, ch=96, blocks=3):
        super().__init__()
        self.input_layer = nn.Conv3d(64, ch, 1)
        self.blocks = nn.ModuleList([ResBlock3d(ch) for _ in range(blocks)])
        self.out_layer = nn.Sequential(ChLN(ch), nn.SiLU(), nn.Conv3d(ch, latent, 3, padding=1))
        self.bn = nn.BatchNorm3d(latent, affine=False, momentum=.02)

    def forward(self, x):
        b = x.shape[0]
        h = x.reshape(b, 16, 4, 16, 4, 16, 4).permute(0, 2, 4, 6, 1, 3, 5).reshape(b, 64, 16, 16, 16)
        h = self.input_layer(h)
        for k in self.blocks:
            h = k(h)
        return self.bn(self.out_layer(h).float())


# ------------------------------------------------------------------ stage 2: structured latents
class SparseResBlock3d(nn.Module):
    def __init__(self, c, emb, o, down=False, up=False):
        super().__init__()
        self.norm1, self.norm2 = LN(c, eps=1e-6), LN(o, elementwise_affine=False, eps=1e-6)
        self.conv1, self.conv2 = SparseConv3d(c, o), zero(SparseConv3d(o, o))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * o))
        self.skip_connection = nn.Linear(c, o) if c != o else nn.Identity()
        self.down, self.up = down, up

    def forward(self, x, emb, vox, fine=None):
        if self.down:
            lo, inv, cnt = vox.down()
            # the release's mean includes the zero that the sum starts from: (sum of children) / (count + 1)
            x = torch.zeros(lo.n, x.shape[1], device=x.device, dtype=torch.float32).index_add_(0, inv, x.float())
            x = x / (cnt + 1)[:, None]
            vox = lo
        sc, sh = self.emb_layers(emb).chunk(2, -1)
        h = F.silu(self.norm1(x))
        if self.up:
            inv, vox = fine.down()[1], fine
            h = self.conv1.conv.forward_gemm_first(h, vox)
            x = self.skip_connection(x).index_select(0, inv)
        else:
            h, x = self.conv1(h, vox), self.skip_connection(x)
        h = self.norm2(h) * (1 + _Expand.apply(sc.to(h.dtype), vox)) + _Expand.apply(sh.to(h.dtype), vox)
        h = self.conv2(F.silu(h), vox)
        return h + x, vox


class SLatFlowModel(nn.Module):
    def __init__(self, resolution=64, in_channels=8, model_channels=192, cond_channels=192, out_channels=8, num_blocks=5,
                 num_heads=None, num_head_channels=64, mlp_ratio=4, patch_size=2, num_io_res_blocks=2, io_block_channels=(32,),
                 pe_mode='ape', use_fp16=False, use_skip_connection=True, share_mod=False, qk_rms_norm=True):
        super().__init__()
        assert patch_size == 2 and len(io_block_channels) == 1 and not share_mod
        c, io = model_channels, io_block_channels[0]
        h = num_heads or c // num_head_channels
        self.cfg = dict(resolution=resolution, in_channels=in_channels, model_channels=c, cond_channels=cond_channels,
                        out_channels=out_channels, num_blocks=num_blocks, num_heads=h, mlp_ratio=mlp_ratio,
                        patch_size=patch_size, num_io_res_blocks=num_io_res_blocks, io_block_channels=list(io_block_channels),
                        pe_mode='ape', qk_rms_norm=qk_rms_norm)
        self.c = c
        self.t_embedder = TimestepEmbedder(c)
        self.input_layer = nn.Linear(in_channels, io)
        n = num_io_res_blocks
        self.input_blocks = nn.ModuleList([SparseResBlock3d(io, c, io) for _ in range(n - 1)] + [SparseResBlock3d(io, c, c, down=True)])
        self.blocks = nn.ModuleList([CrossBlock(c, cond_channels, h, mlp_ratio, qk_rms_norm, False) for _ in range(num_blocks)])
        self.out_blocks = nn.ModuleList([SparseResBlock3d(2 * c, c, io, up=True)] + [SparseResBlock3d(2 * io, c, io) for _ in range(n - 1)])
        self.out_layer = nn.Linear(io, out_channels)
        init_linear(self)
        for q in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(q.weight, std=.02)
        for b in self.blocks:
            zero(b.adaLN_modulation[-1])
        zero(self.out_layer)

    def forward(self, x, vox, t, cond):
        e = self.t_embedder(t)
        h, v, skips = self.input_layer(x), vox, []
        for b in self.input_blocks:
            h, v = b(h, e, v)
            skips.append(h)
        h = h + ape(v.xyz, self.c).to(h.dtype)
        for b in self.blocks:
            h = b(h, e, cond, v.seq(), v.onehot(h.dtype))
        for b, s in zip(self.out_blocks, reversed(skips)):
            h = torch.cat([h, s.to(h.dtype)], 1)
            h, v = b(h, e, v, vox)
        return self.out_layer(F.layer_norm(h.float(), h.shape[-1:]))


class GN(nn.GroupNorm):
    """Group norm over all voxels of each object."""

    def forward(self, x, vox, per=1):
        g, c = self.num_groups, x.shape[1]
        xf = x.float()
        b, nb = vox.b, vox.nb
        cnt = (vox.count() * (c // g) * per).clamp_min(1)[:, None].float()
        # per: rows of x per voxel of vox (children), summed first
        xr = xf.reshape(b.shape[0], per, g, c // g)
        st = vox.onehot(torch.float32).t() @ torch.cat([xr.sum((1, 3)), (xr * xr).sum((1, 3))], 1) / cnt
        m, v = st[:, :g], st[:, g:] - st[:, :g] ** 2
        r = torch.rsqrt(v.clamp_min(0) + self.eps)
        sc = r.repeat_interleave(c // g, 1) * self.weight
        sh = self.bias - m.repeat_interleave(c // g, 1) * sc
        vx = vox if per == 1 else vox.child()
        return (xf * _Expand.apply(sc, vx) + _Expand.apply(sh, vx)).to(x.dtype)


class Subdivide(nn.Module):
    def __init__(self, c, o):
        super().__init__()
        self.act_layers = nn.ModuleList([GN(32, c)])
        self.out_layers = nn.ModuleList([SparseConv3d(c, o), GN(32, o), nn.SiLU(), zero(SparseConv3d(o, o))])
        self.skip_connection = SparseConv3d(c, o, 1)

    def forward(self, x, vox):
        h = F.silu(self.act_layers[0](x, vox))
        ch = vox.child()
        h = self.out_layers[0](h, vox, subdivided=True)
        h = F.silu(self.out_layers[1](h, vox, 8))
        h = self.out_layers[3](h, ch)
        return h + self.skip_connection(x, vox, subdivided=True), ch


class SLatMeshDecoder(nn.Module):
    """Flat features [64 N, 101] per 256^3 voxel: 8 sdf, 24 deform, 21 weights, 48 colour (8 corners x 6)."""

    def __init__(self, resolution=64, model_channels=256, latent_channels=8, num_blocks=2, num_heads=None, num_head_channels=64,
                 mlp_ratio=4, attn_mode='swin', window_size=8, pe_mode='ape', use_fp16=False, qk_rms_norm=False,
                 representation_config=None):
        super().__init__()
        c = model_channels
        h = num_heads or c // num_head_channels
        self.cfg = dict(resolution=resolution, model_channels=c, latent_channels=latent_channels, num_blocks=num_blocks, num_heads=h,
                        mlp_ratio=mlp_ratio, attn_mode='swin', window_size=window_size, representation_config={'use_color': True})
        self.c, self.ws = c, window_size
        self.input_layer = nn.Linear(latent_channels, c)
        self.blocks = nn.ModuleList([Block(c, h, mlp_ratio) for _ in range(num_blocks)])
        self.upsample = nn.ModuleList([Subdivide(c, c // 4), Subdivide(c // 4, c // 8)])
        self.out_layer = nn.Linear(c // 8, 101)
        init_linear(self)
        zero(self.out_layer)

    def forward(self, x, vox):
        h = self.input_layer(x) + ape(vox.xyz, self.c)
        for i, b in enumerate(self.blocks):
            h = b(h, *vox.windows(self.ws, self.ws // 2 * (i % 2)))
        v = vox
        for u in self.upsample:
            h, v = u(h, v)
        return self.out_layer(h), v


class SLatEncoder(nn.Module):
    """Training only: local sdf / colour / normal samples of each active voxel -> standardised latent."""

    def __init__(self, cin=875, c=256, latent=8, num_blocks=2, ws=8):
        super().__init__()
        self.c, self.ws = c, ws
        self.input_layer = nn.Sequential(nn.Linear(cin, c), nn.SiLU(), nn.Linear(c, c))
        self.blocks = nn.ModuleList([Block(c, c // 64, 4) for _ in range(num_blocks)])
        self.out_layer = nn.Linear(c, latent)
        self.bn = nn.BatchNorm1d(latent, affine=False, momentum=.02)
        init_linear(self)

    def forward(self, f, vox):
        h = self.input_layer(f) + ape(vox.xyz, self.c)
        for i, b in enumerate(self.blocks):
            h = b(h, *vox.windows(self.ws, self.ws // 2 * (i % 2)))
        return self.bn(self.out_layer(F.layer_norm(h.float(), h.shape[-1:])).float())
