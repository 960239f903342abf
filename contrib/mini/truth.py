"""Write the truth files of the regression test: three held-out objects, their picture and 10 000 points of their surface.

    python3 truth.py truth                  # pictures and points
    python3 truth.py truth --model MODEL    # and measure the model on them (CPU, seed 42)
    python3 truth.py DIR --heldout 128      # the same files for held-out objects of any kind, to measure the engine with
    python3 truth.py DIR --heldout 57 --meshes 1   # and their true meshes and views, for blender.py
"""
import argparse
import json
import os

import numpy as np
import torch
from PIL import Image

import data
import evaluate
import mesh
import objects
import pipeline as P

WHICH = (('duck', 940_000_003, 32., 18.), ('mushroom', 940_000_000, -25., 14.), ('rocket', 940_000_004, 28., 12.))
SCALE = 65534.            # int16 coordinate = position * SCALE, position in -0.5 .. 0.5


def one(seed, name=None, yaw=None, pitch=None, size=512):
    """-> straight-alpha picture [size,size,4], true mesh, name, view row.  Without a name: any kind, seen from anywhere it was trained."""
    pool = data.Pool([seed], 'cpu', views=1, aux=0, images=False, log=lambda *a: None)
    v = data.random_views(torch.zeros(1), torch.Generator().manual_seed(seed % (1000 if name else 100000)))[0]
    if name:
        pool.objs = data.Objects([seed], 'cpu', cats=[objects.NAMES.index(name)])
        pool.occ = pool.objs.occupancy()
        w = data.camera(torch.tensor([yaw]), torch.tensor([pitch]), torch.tensor([35.]))[0]
        v[:, :15], v[:, 29:31] = w[:, :15], w[:, 29:31]
    im = pool.objs.render(data.frame(pool.objs, v), 2 * size)[0][0].float()
    a = im[..., 3:].reshape(size, 2, size, 2, 1).mean((1, 3))
    c = (im[..., :3] * im[..., 3:] / 255).reshape(size, 2, size, 2, 3).mean((1, 3)) / (a / 255).clamp_min(1e-3)
    return torch.cat([c.clamp(0, 255), a], -1).round().byte().numpy(), evaluate.gt_mesh(pool, 0), \
        objects.NAMES[int(pool.objs.cat[0])], v[0]


def write_truth(base, im, g):
    Image.fromarray(im).save(base + '.png', optimize=True)
    torch.manual_seed(0)
    write_points(base + '.ply', mesh.sample_surface(*g[:2], 10000)[0])


def write_points(path, p):
    q = np.rint(p.numpy() * SCALE).astype('<i2')
    head = (f'ply\nformat binary_little_endian 1.0\ncomment coordinate = value / {SCALE:.0f}, cube -0.5..0.5, z up, front -y\n'
            f'element vertex {len(q)}\nproperty short x\nproperty short y\nproperty short z\nend_header\n')
    with open(path, 'wb') as f:
        f.write(head.encode() + q.tobytes())


def read_points(path):
    raw = open(path, 'rb').read()
    k = raw.index(b'end_header\n') + 11
    return torch.from_numpy(np.frombuffer(raw[k:], '<i2').reshape(-1, 3).astype(np.float32) / SCALE)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('out'), p.add_argument('--model', default=''), p.add_argument('--heldout', type=int, default=0)
    p.add_argument('--meshes', type=int, default=0)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for i in range(a.heldout):
        im, g, name, v = one(900_000_000 + i)
        base = os.path.join(a.out, f'{i:03d}-{name}')
        write_truth(base, im, g)
        if a.meshes:
            mesh.write_ply(base + '.mesh.ply', *g)
            with open(base + '.view.json', 'w') as f:
                json.dump({'right': v[3:6].tolist(), 'up': v[6:9].tolist(), 'forward': v[9:12].tolist()}, f)
    if a.heldout:
        return
    pl = P.Pipeline.load(a.model) if a.model else None
    for name, seed, yaw, pitch in WHICH:
        base = os.path.join(a.out, name)
        if not pl:
            write_truth(base, *one(seed, name, yaw, pitch)[:2])
            continue
        (m,), co = pl.run(P.load_image(base + '.png'), 42)
        torch.manual_seed(0)
        ch, f, _ = mesh.shape_metrics(mesh.sample_surface(*m[:2], 10000)[0], read_points(base + '.ply'))
        print(f'{name}: F@0.02 {f:.4f} chamfer {ch:.4f} ({len(co)} voxels)', flush=True)


if __name__ == '__main__':
    main()
