"""The data set: `make(seed)` is object number `seed`.

Deterministic and pure Python, so training and held-out objects differ by seed range only (900 000 000 and up are held out).
An object is a list of up to MAXP primitives of PRIM floats; procgen.cu says what they mean, shapes.py builds them,
categories.py draws them.
"""
import random
import struct

from categories import CATS, NAMES, TRAIN_WEIGHTS, WEIGHTS
from shapes import MAXP, PRIM, Obj

__all__ = ['MAXP', 'NAMES', 'PRIM', 'TRAIN_WEIGHTS', 'WEIGHTS', 'make']


def make(seed, cat=None, weights=None):
    """-> (category index, packed rows as bytes, number of primitives).  cat: this category; weights: other category frequencies."""
    r = random.Random(seed * 7919 + 13)
    for _ in range(20):
        ci = r.choices(range(len(CATS)), weights or WEIGHTS)[0] if cat is None else cat
        o = Obj(r)
        CATS[ci](o, r)
        if o.p:
            break
    sym = [0, 0]
    for q in o.p:
        if int(q[25]) & 1 or q[26] > 1:
            sym[0] = 1
        if int(q[25]) & 2 or q[26] > 1:
            sym[1] = 1
    for i in range(2):
        if sym[i]:                      # keep the symmetry plane at the origin
            m = max(abs(o.lo[i]), abs(o.hi[i]))
            o.lo[i], o.hi[i] = -m, m
    rows = o.pack()
    flat = [float(v) for q in rows for v in q] + [0.] * (PRIM * (MAXP - len(rows)))
    return ci, struct.pack('<%df' % len(flat), *flat), len(rows)
