"""The categories of trellis-mini's data set: one generator each, `name(o, r)`, which adds primitives to the object `o` with
random numbers from `r`.  z is up and the front faces -y.  `csg` is random geometry without a meaning.
"""
import math

from shapes import EYE, anycol, dark, green, handle, hsv, jit, metal, rot_axis, rot_xyz, wood


def mug(o, r):
    R, h, c = r.uniform(.3, .45), r.uniform(.35, .55), anycol(r)
    inner = c if r.random() < .5 else jit(r, (.9, .88, .85))
    taper = r.uniform(.85, 1.15)
    o.cyl((0, 0, 0), R, h, c, r2=R * taper, rnd=.04)
    w = r.uniform(.035, .06)
    hr = h * r.uniform(.5, .7)
    side = r.choice([1, 1, 1, -1])
    o.arc((side * R * (1 + taper) / 2 * .94, 0, r.uniform(-.05, .05)), hr, r.uniform(.04, .07), r.uniform(80, 100),
          c if r.random() < .8 else anycol(r), R=handle(side), op='s', k=.03)
    o.cyl((0, 0, .12), R - w, h, inner, r2=R * taper - w, rnd=.03, op='-')
    if r.random() < .4:
        z = r.uniform(-.5, .3) * h
        o.cyl((0, 0, z), R * 1.3, h * r.uniform(.1, .3), anycol(r), rnd=0, op='paint')
        o.cyl((0, 0, .12), R - w * .8, h, inner, r2=R * taper - w * .8, rnd=.03, op='paint')


def chair(o, r):
    w, d, h = r.uniform(.3, .42), r.uniform(.3, .4), r.uniform(.35, .55)
    t, leg = r.uniform(.03, .06), r.uniform(.025, .05)
    c = wood(r) if r.random() < .5 else anycol(r)
    c2 = c if r.random() < .5 else anycol(r)
    o.box((0, 0, 0), (w, d, t), c2, rnd=.02)
    if r.random() < .75:
        if r.random() < .5:
            o.cyl((w - leg * 1.2, d - leg * 1.2, -h / 2), leg * r.uniform(.6, 1), h / 2, c, r2=leg, mir=3)
        else:
            o.box((w - leg, d - leg, -h / 2), (leg, leg, h / 2), c, rnd=.01, mir=3)
    else:
        o.cyl((0, 0, -h / 2), leg * 1.3, h / 2, metal(r))
        o.box((w * .45, 0, -h), (w * .5, leg, leg), metal(r), rep=r.choice([4, 5]))
    bh, kind = r.uniform(.4, .7), r.random()
    if kind < .5:
        o.box((0, d - t, bh / 2), (w * r.uniform(.85, 1), t * .8, bh / 2), c2, rnd=.03)
    else:
        o.box((w - leg, d - leg, bh / 2), (leg, leg, bh / 2), c, rnd=.01, mir=1)
        n = r.randint(1, 3)
        for i in range(n):
            o.box((0, d - leg, bh * (i + 1) / n - .07), (w - leg, leg * .7, .06), c2, rnd=.01)
    if r.random() < .3:
        o.box((w - leg * .8, 0, .2), (leg, d, .025), c, mir=1)
        o.box((w - leg * .8, -d + leg, .1), (leg * .8, leg * .8, .1), c, mir=1)


def table(o, r):
    h, c = r.uniform(.3, .5), wood(r) if r.random() < .6 else anycol(r)
    c2 = c if r.random() < .6 else anycol(r)
    t = r.uniform(.025, .06)
    if r.random() < .6:
        w, d = r.uniform(.45, .8), r.uniform(.35, .5)
        o.box((0, 0, h), (w, d, t), c, rnd=.015)
        l = r.uniform(.03, .06)
        o.box((w - l * 1.3, d - l * 1.3, h / 2), (l, l, h / 2), c2, rnd=.01, mir=3)
        if r.random() < .3:
            o.box((0, 0, h * .3), (w - l, d - l, t * .7), c2)
    else:
        R = r.uniform(.45, .65)
        o.cyl((0, 0, h), R, t, c)
        if r.random() < .5:
            o.cyl((0, 0, h / 2), r.uniform(.04, .09), h / 2, c2)
            o.cyl((0, 0, .02), R * r.uniform(.45, .7), .03, c2, r2=R * .3)
        else:
            o.cap((R * .75, 0, .03), (R * .5, 0, h), .04, c2, rep=r.choice([3, 4]))


def stool(o, r):
    h, R = r.uniform(.5, .8), r.uniform(.25, .38)
    c, c2 = anycol(r), wood(r) if r.random() < .5 else metal(r)
    o.cyl((0, 0, h), R, r.uniform(.04, .09), c, rnd=.03)
    n = r.choice([3, 4, 4])
    s = r.uniform(1., 1.4)
    o.cap((R * .75 * s, 0, .03), (R * .65, 0, h), r.uniform(.025, .045), c2, rep=n)
    if r.random() < .6:
        o.tor((0, 0, h * .35), R * (.66 + .1 * s), .02, c2)


def mushroom(o, r):
    c = r.choice([(.8, .12, .1), (.75, .45, .2), (.85, .7, .5), (.5, .3, .6)])
    c, st = jit(r, c, .1), jit(r, (.9, .86, .76))
    h, R = r.uniform(.3, .6), r.uniform(.3, .5)
    o.cap((0, 0, 0), (0, 0, h), r.uniform(.09, .17), st, r2=r.uniform(.07, .12))
    ch = R * r.uniform(.5, 1.)
    o.ell((0, 0, h), (R, R, ch), c)
    o.box((0, 0, h - 1 - .04), (1, 1, 1), jit(r, (.85, .8, .7)), rnd=0, op='-')
    o.cap((0, 0, 0), (0, 0, h), r.uniform(.09, .15), st, r2=r.uniform(.07, .12))
    if r.random() < .7:
        n = r.randint(4, 7)
        z = h + ch * r.uniform(.35, .6)
        rr = R * math.sqrt(max(.1, 1 - ((z - h) / ch) ** 2))
        o.ell((rr, 0, z), r.uniform(.05, .09), (.95, .93, .88), op='paint', rep=n)
        o.ell((0, 0, h + ch), r.uniform(.06, .12), (.95, .93, .88), op='paint')


def lamp(o, r):
    h, c, sc = r.uniform(.5, .9), anycol(r), jit(r, r.choice([(.95, .9, .75), (.9, .5, .3), (.4, .6, .8), (.9, .9, .9)]))
    o.cyl((0, 0, .03), r.uniform(.18, .3), .035, c, rnd=.02)
    if r.random() < .5:
        o.cyl((0, 0, h / 2), r.uniform(.02, .04), h / 2, c)
    else:
        b = r.uniform(.12, .22)
        o.ell((0, 0, b + .05), (b, b, b * r.uniform(.9, 1.5)), c, op='s', k=.05)
        o.cyl((0, 0, h / 2), .03, h / 2, metal(r))
    R = r.uniform(.25, .42)
    sh = r.uniform(.13, .25)
    o.cyl((0, 0, h + sh * .6), R, sh, sc, r2=R * r.uniform(.4, .9), rnd=.01)


def bottle(o, r):
    R, h = r.uniform(.17, .28), r.uniform(.3, .55)
    c = r.choice([jit(r, (.1, .4, .15)), jit(r, (.45, .25, .1)), anycol(r), anycol(r)])
    o.cyl((0, 0, h), R, h, c, rnd=.05)
    sh = r.uniform(.12, .3)
    nr = R * r.uniform(.25, .45)
    o.cyl((0, 0, 2 * h + sh / 2 - .03), R * .95, sh / 2 + .02, c, r2=nr, rnd=.02, op='s', k=.06)
    nh = r.uniform(.08, .25)
    o.cyl((0, 0, 2 * h + sh + nh / 2), nr, nh / 2 + .05, c)
    o.cyl((0, 0, 2 * h + sh + nh), nr * 1.2, .05, anycol(r), rnd=.01)
    if r.random() < .7:
        o.cyl((0, 0, h * r.uniform(.8, 1.1)), R * 1.4, h * r.uniform(.3, .5), anycol(r), rnd=0, op='paint')


def vase(o, r):
    c = anycol(r)
    R, h, b = r.uniform(.25, .4), r.uniform(.3, .5), r.uniform(.12, .22)
    o.ell((0, 0, h), (R, R, h), c)
    nr = R * r.uniform(.35, .6)
    nh = r.uniform(.1, .3)
    o.cyl((0, 0, 2 * h - .03), nr, nh, c, r2=nr * r.uniform(.8, 1.5), op='s', k=.1)
    o.cyl((0, 0, .05), b, .05, c, op='s', k=.06)
    o.cyl((0, 0, 2 * h + .12), nr * .75, nh + .1, dark(c), r2=nr * r.uniform(.7, .9), op='-')
    if r.random() < .6:
        o.cyl((0, 0, h * r.uniform(.7, 1.3)), 2, r.uniform(.03, .12), anycol(r), rnd=0, op='paint')
    if r.random() < .3:
        o.arc((R * .8, 0, h * 1.5), h * .45, .04, 95, c, R=handle(1.), mir=1)


def snowman(o, r):
    w = jit(r, (.93, .94, .97), .03)
    a, b, c = r.uniform(.36, .44), r.uniform(.27, .33), r.uniform(.19, .25)
    z1, z2 = a + b * .8, a + b * 1.6 + c * .8
    o.ell((0, 0, 0), a, w)
    o.ell((0, 0, z1), b, w, op='s', k=.03)
    o.ell((0, 0, z2), c, w, op='s', k=.03)
    o.cap((0, -c * .9, z2), (0, -c - .2, z2 - .02), .05, (.95, .45, .1), r2=.015)
    for z, y in ((z1 + .1, b * .93), (z1 - .06, b * .97)):
        o.ell((0, -y, z), .035, (.08, .08, .08))
    o.ell((.08, -c * .88, z2 + .07), .032, (.08, .08, .08), mir=1)
    if r.random() < .7:
        hc = r.choice([(.1, .1, .12), anycol(r)])
        o.cyl((0, 0, z2 + c * .85), c * 1.25, .025, hc)
        o.cyl((0, 0, z2 + c * .85 + .14), c * .75, .15, hc)
    if r.random() < .6:
        o.tor((0, 0, z2 - c * .85), c * .85, .055, anycol(r))
    if r.random() < .6:
        o.cap((b * .85, 0, z1 + .05), (b + .28, 0, z1 + r.uniform(.1, .3)), .025, (.35, .22, .12), mir=1)


def rocket(o, r):
    R, h = r.uniform(.16, .24), r.uniform(.4, .65)
    c, c2 = jit(r, (.9, .9, .92)) if r.random() < .6 else anycol(r), anycol(r)
    o.cyl((0, 0, h), R, h, c, r2=R * r.uniform(.8, 1), rnd=.02)
    nh = r.uniform(.3, .55)
    o.ell((0, 0, 2 * h - .02), (R * .93, R * .93, nh), c2)
    o.cyl((0, 0, -.06), R * .6, .1, metal(r), r2=R * .4)
    n = r.choice([3, 4, 4])
    fl = r.uniform(.15, .28)
    o.box((R + fl * .4, 0, .16), (fl, .025, .16), c2, R=rot_xyz(0, r.uniform(20, 45), 0), rnd=.015, rep=n)
    o.ell((0, -R, h * 1.4), R * .45, metal(r), op='paint')
    o.ell((0, -R, h * 1.4), R * .32, (.15, .3, .5), op='paint')
    if r.random() < .5:
        o.cyl((0, 0, h * r.uniform(.4, .9)), 1, .05, c2, rnd=0, op='paint')


def house(o, r):
    w, d, h = r.uniform(.35, .55), r.uniform(.3, .55), r.uniform(.22, .4)
    c = jit(r, r.choice([(.9, .85, .7), (.75, .35, .25), (.85, .85, .88), (.6, .7, .8), (.9, .75, .45)]))
    rc = jit(r, r.choice([(.6, .2, .15), (.3, .3, .35), (.45, .28, .18), (.2, .35, .3)]))
    o.box((0, 0, h), (w, d, h), c, rnd=.005)
    rh = r.uniform(.22, .45)
    if r.random() < .6:
        o.gable((0, 0, 2 * h - .005), w + .07, rh, d + .06, rc)
    else:
        o.gable((0, 0, 2 * h - .005), d + .07, rh, w + .06, rc, R=rot_xyz(0, 0, 90))
    if r.random() < .6:
        x = w * r.uniform(.4, .7) * r.choice([-1, 1])
        o.box((x, d * .3, 2 * h + rh * .6), (.06, .06, rh * .5), jit(r, (.55, .3, .25)))
    dc = anycol(r)
    dx = r.uniform(-.4, .4) * w
    o.box((dx, -d, h * .45), (.09, .03, h * .48), dc, rnd=.01)
    win = jit(r, (.35, .55, .7), .08)
    for s in (-1, 1):
        x = s * w * .66
        if abs(x - dx) > .2:
            o.box((x, -d, h * 1.15), (.09, .03, .09), win, op='paint', rnd=0)
    o.box((w, 0, h * 1.15), (.03, d * .35, .09), win, op='paint', mir=1, rnd=0)


def pine(o, r):
    g, h = green(r), r.uniform(.12, .25)
    o.cyl((0, 0, h / 2), r.uniform(.05, .09), h / 2 + .05, wood(r))
    n = r.randint(1, 4)
    R, z, ht = r.uniform(.3, .45), h, r.uniform(.35, .5)
    for i in range(n):
        o.cyl((0, 0, z + ht / 2), R, ht / 2, jit(r, g, .03), r2=.02 if i == n - 1 else R * .3, rnd=.01)
        z += ht * .6
        R *= .78
    if r.random() < .25:
        o.ell((0, 0, z + ht * .4), .07, (.95, .8, .2))


def tree(o, r):
    h, g = r.uniform(.35, .6), green(r) if r.random() < .75 else jit(r, r.choice([(.85, .45, .15), (.9, .55, .65), (.8, .25, .15)]))
    o.cap((0, 0, 0), (0, 0, h), r.uniform(.07, .11), wood(r), r2=.05)
    R = r.uniform(.25, .4)
    o.ell((0, 0, h + R * .7), (R, R, R * r.uniform(.8, 1.3)), g)
    for i in range(r.randint(0, 4)):
        a = r.uniform(0, 6.28)
        q = R * r.uniform(.5, .75)
        o.ell((math.cos(a) * R * .75, math.sin(a) * R * .75, h + R * r.uniform(.3, .9)), q, jit(r, g, .04), op='s', k=.04)


def car(o, r):
    l, w, h = r.uniform(.55, .75), r.uniform(.26, .33), r.uniform(.1, .15)
    c = anycol(r)
    wr = r.uniform(.11, .15)
    o.box((0, 0, wr + h), (l, w, h), c, rnd=.06)
    cl, cz = l * r.uniform(.45, .62), r.uniform(.1, .15)
    cx = r.uniform(-.12, .05) * 1.
    top = wr + 2 * h + cz - .03
    o.box((cx, 0, top), (cl, w * .88, cz), c, rnd=.07)
    gl = jit(r, (.15, .2, .28), .05)
    o.box((cx, 0, top + .01), (cl * .85, 1, cz * .55), gl, rnd=.02, op='paint')
    o.box((cx, 0, top + .01), (2, w * .7, cz * .55), gl, rnd=.02, op='paint')
    for s in (-1, 1):
        o.cyl((s * l * .6, w - .03, wr), wr, .05, (.08, .08, .09), R=rot_xyz(90, 0, 0), rnd=.02, mir=2)
    o.cyl((l * .6, 0, wr), wr * .5, 2, metal(r), R=rot_xyz(90, 0, 0), rnd=0, op='paint', mir=1)
    o.ell((l * .98, w * .65, wr + h * 1.2), .045, (.95, .9, .6), mir=2, op='paint')
    o.ell((-l * .98, w * .65, wr + h * 1.2), .045, (.8, .1, .1), mir=2, op='paint')


def truck(o, r):
    c, c2, w, wr = anycol(r), anycol(r), r.uniform(.22, .28), r.uniform(.1, .13)
    cw = r.uniform(.16, .22)
    ch = r.uniform(.2, .28)
    o.box((.5, 0, wr + ch), (cw, w, ch), c, rnd=.05)
    bl, bh = r.uniform(.38, .5), r.uniform(.2, .36)
    o.box((.5 - cw - bl + .02, 0, wr + .05 + bh), (bl, w * 1.05, bh), c2, rnd=.02)
    o.box((0, 0, wr + .04), (.5, w * .8, .05), (.15, .15, .16))
    o.box((.5 + cw, 0, wr + ch * 1.4), (.1, w * .8, ch * .3), (.2, .28, .35), op='paint', rnd=0)
    o.box((.53, 0, wr + ch * 1.4), (cw * .5, 1, ch * .3), (.2, .28, .35), op='paint', rnd=0)
    for x in (.48, -.28):
        o.cyl((x, w - .03, wr), wr, .05, (.08, .08, .09), R=rot_xyz(90, 0, 0), rnd=.02, mir=2)
    if r.random() < .5:
        o.cyl((-.02, w - .03, wr), wr, .05, (.08, .08, .09), R=rot_xyz(90, 0, 0), rnd=.02, mir=2)


def hammer(o, r):
    h, c = r.uniform(.5, .75), wood(r) if r.random() < .6 else anycol(r)
    o.cap((0, 0, 0), (0, 0, h * 1.2), r.uniform(.04, .06), c, r2=.035)
    m, L, hr = metal(r), r.uniform(.18, .28), r.uniform(.07, .11)
    if r.random() < .5:
        o.cyl((0, 0, h * 1.2), hr, L, m, R=rot_axis((1, 0, 0)))
    else:
        o.box((0, 0, h * 1.2), (L, hr, hr), m, rnd=.02)
    if r.random() < .5:
        o.cyl((L * .9, 0, h * 1.2), hr * 1.25, .04, m, R=rot_axis((1, 0, 0)))
    if r.random() < .4:
        o.box((0, 0, 0), (1, 1, h * .45), anycol(r), rnd=0, op='paint')


def dumbbell(o, r):
    c, m, L = anycol(r), metal(r), r.uniform(.25, .4)
    o.cyl((0, 0, 0), r.uniform(.035, .06), L + .1, m, R=rot_axis((1, 0, 0)))
    if r.random() < .4:
        o.ell((L, 0, 0), r.uniform(.16, .24), c, mir=1)
    else:
        R = r.uniform(.17, .3)
        for i in range(r.randint(1, 3)):
            o.cyl((L + .09 * i - .05, 0, 0), R * (1 - .2 * i), .04, c if i % 2 == 0 else dark(c, .8), R=rot_axis((1, 0, 0)), mir=1)


def rings(o, r):
    n, R, t = r.randint(1, 5), r.uniform(.38, .5), r.uniform(.09, .13)
    z = 0
    if n > 1:
        o.cyl((0, 0, -t), R * 1.1, .03, wood(r))
        o.cap((0, 0, -t), (0, 0, n * t * 1.7), .06, wood(r), r2=.05)
    h0 = r.random()
    for i in range(n):
        c = hsv(h0 + i * r.uniform(.12, .25), .8, .85)
        o.tor((0, 0, z), R - t, t, c)
        z += t * 1.75
        R = max(R * .88, t * 1.8)


def donut(o, r):
    R, t = r.uniform(.3, .36), r.uniform(.13, .19)
    o.tor((0, 0, 0), R, t, jit(r, (.78, .55, .3)), rz=t * r.uniform(.75, 1))
    c = r.choice([(.9, .5, .65), (.35, .2, .12), (.95, .92, .85), anycol(r)])
    o.box((0, 0, 1 + r.uniform(-.03, .04)), (2, 2, 1), c, rnd=0, op='paint')
    if r.random() < .6:
        for i in range(3):
            o.ell((R + t * r.uniform(-.5, .5), r.uniform(-.05, .05), t * .75), .05, hsv(r.random(), .8, .95), op='paint', rep=r.randint(5, 8))


def teapot(o, r):
    c = anycol(r)
    R = r.uniform(.32, .4)
    h = R * r.uniform(.75, 1.05)
    o.ell((0, 0, 0), (R, R, h), c)
    o.cyl((0, 0, -h * .95), R * .5, .05, c, op='s', k=.03)
    s = r.choice([1, -1])
    o.cap((s * R * .75, 0, -h * .2), (s * (R + r.uniform(.18, .28)), 0, h * r.uniform(.5, .9)), .09, c, r2=.04, op='s', k=.05)
    o.arc((-s * R * .85, 0, 0), h * r.uniform(.55, .7), .045, 110, c if r.random() < .6 else wood(r), R=handle(-s), op='s', k=.02)
    lc = c if r.random() < .6 else anycol(r)
    o.ell((0, 0, h * .86), (R * .55, R * .55, .08), lc)
    o.ell((0, 0, h * .86 + .11), .055, lc)


def robot(o, r):
    c, c2, m = anycol(r), anycol(r), metal(r)
    w, d, h = r.uniform(.2, .3), r.uniform(.14, .2), r.uniform(.22, .3)
    o.box((0, 0, 0), (w, d, h), c, rnd=.04)
    hw, hh = w * r.uniform(.65, .95), r.uniform(.13, .18)
    z = h + hh + .05
    o.cyl((0, 0, h + .03), .06, .05, m)
    o.box((0, 0, z), (hw, d * .9, hh), c2, rnd=.04)
    ey = r.choice([(.95, .9, .2), (.2, .9, .95), (.95, .2, .2), (.95, .95, .95)])
    o.ell((hw * .48, -d * .9, z + .03), .05, ey, mir=1)
    if r.random() < .6:
        o.cap((0, 0, z + hh), (0, 0, z + hh + .12), .015, m)
        o.ell((0, 0, z + hh + .13), .035, (.9, .2, .2))
    o.cap((w + .06, 0, h * .7), (w + r.uniform(.06, .14), -.02, -h * r.uniform(.3, .9)), .055, m if r.random() < .5 else c2, mir=1)
    lh = r.uniform(.14, .25)
    o.box((w * .5, 0, -h - lh), (.07, .08, lh), m, rnd=.02, mir=1)
    o.box((w * .5, -.03, -h - 2 * lh), (.09, .13, .04), c2, rnd=.02, mir=1)
    o.box((0, -d, .05), (w * .55, .02, h * .4), anycol(r), rnd=.01, op='paint')


def sword(o, r):
    L, bw = r.uniform(.6, .9), r.uniform(.04, .075)
    m, g, h = jit(r, (.75, .77, .8)), metal(r), anycol(r)
    o.box((0, 0, L / 2), (bw, .022, L / 2), m, rnd=.01)
    o.ell((0, 0, L), (bw, .022, bw * 2), m)
    gw = r.uniform(.15, .25)
    if r.random() < .5:
        o.box((0, 0, 0), (gw, .045, .03), g, rnd=.02)
    else:
        o.arc((0, 0, -gw), gw * 1.1, .032, 55, g, R=rot_xyz(90, 0, 0))
    o.cap((0, 0, -.02), (0, 0, -.24), .035, h)
    o.ell((0, 0, -.28), r.uniform(.045, .065), g)


def icecream(o, r):
    R = r.uniform(.22, .3)
    o.cyl((0, 0, -.3), .02, .32, jit(r, (.82, .6, .32)), r2=R * .9)
    cols = [(.95, .85, .7), (.95, .6, .7), (.4, .24, .15), (.65, .85, .6), (.9, .35, .4), (.6, .75, .95)]
    n, z = r.choice([1, 1, 2, 3]), R * .4
    for i in range(n):
        o.ell((0, 0, z), (R, R, R * .95), jit(r, r.choice(cols), .05))
        z += R * 1.1
        R *= .88
    if r.random() < .4:
        o.ell((0, 0, z - R * .1), .07, (.8, .08, .12))
    elif r.random() < .4:
        o.cap((R * .3, 0, z - R * .9), (R * .8, 0, z + .1), .035, (.5, .3, .15))


def apple(o, r):
    c = r.choice([(.8, .1, .1), (.45, .7, .15), (.9, .75, .2), (.95, .5, .1)])
    c = jit(r, c)
    R = .4
    o.ell((0, 0, 0), (R, R, R * r.uniform(.82, 1.05)), c)
    if r.random() < .6:
        o.ell((0, 0, R * 1.05), (.12, .12, .16), dark(c, .7), op='-s', k=.08)
    o.cap((0, 0, R * .7), (r.uniform(-.06, .06), 0, R * 1.2), .022, (.35, .22, .1))
    if r.random() < .6:
        o.ell((.1, 0, R * 1.12), (.11, .05, .025), green(r), R=rot_xyz(0, -25, 0))


def sofa(o, r):
    w, d = r.uniform(.5, .85), r.uniform(.3, .4)
    c = anycol(r)
    c2 = c if r.random() < .5 else jit(r, c, .2)
    o.box((0, 0, .12), (w, d, .12), c, rnd=.04)
    bh = r.uniform(.2, .32)
    o.box((0, d - .08, .12 + bh), (w, .1, bh), c, rnd=.06)
    aw = r.uniform(.06, .11)
    o.box((w - aw, 0, .26), (aw, d, .18), c, rnd=.06, mir=1)
    n = r.choice([1, 2, 2, 3])
    cw = (w - 2 * aw) / n
    for i in range(n):
        o.box((-w + 2 * aw + cw * (2 * i + 1) - 0, -.06, .28), (cw * .97, d * .78, .06), c2, rnd=.045)
    o.cyl((w - .08, d - .08, -.05), .03, .06, wood(r), mir=3)


def bed(o, r):
    w, d, c = r.uniform(.35, .5), r.uniform(.6, .7), wood(r)
    o.box((0, 0, 0), (w, d, .07), c, rnd=.01)
    o.box((0, 0, .11), (w * .96, d * .97, .08), (.92, .92, .9), rnd=.05)
    bc = anycol(r)
    o.box((0, -d * .3, .12), (w * 1.0, d * .68, .09), bc, rnd=.04)
    o.box((0, d, .15), (w * 1.02, .04, r.uniform(.2, .35)), c, rnd=.02)
    if r.random() < .6:
        o.box((0, -d, .05), (w * 1.02, .035, .15), c, rnd=.02)
    if r.random() < .5:
        o.box((w * .48, d * .75, .22), (w * .38, .13, .06), (.95, .95, .93), rnd=.05, mir=1)
    else:
        o.box((0, d * .75, .22), (w * .7, .14, .06), (.95, .95, .93), rnd=.05)
    o.box((w - .05, d - .05, -.12), (.04, .04, .1), c, mir=3)


def plane(o, r):
    c, c2 = jit(r, (.88, .89, .92)) if r.random() < .5 else anycol(r), anycol(r)
    L, R = r.uniform(.5, .65), r.uniform(.08, .12)
    # nose towards the viewer (-y)
    o.ell((0, 0, 0), (R, L, R), c)
    ws, wc = r.uniform(.5, .7), r.uniform(.09, .14)
    sw = r.uniform(0, 28)
    o.box((ws * .5, .02 + ws * .5 * math.tan(math.radians(sw)), r.uniform(-.02, .02)), (ws * .55, wc, .022), c2, R=rot_xyz(0, 0, sw), rnd=.02, mir=1)
    o.box((.14, L * .86, .03), (.15, .06, .018), c2, rnd=.015, mir=1)
    o.box((0, L * .87, .13), (.018, .07, .13), c2, R=rot_xyz(-25, 0, 0), rnd=.015)
    o.ell((0, -L * .62, R * .6), (R * .55, .12, R * .5), (.15, .25, .35))
    if r.random() < .5:
        o.cyl((ws * .45, -.03, -.06), .05, .11, metal(r), R=rot_xyz(90, 0, 0), mir=1)
    else:
        o.box((0, -L - .01, 0), (.2, .01, .02), (.1, .1, .1))
        o.ell((0, -L, 0), .04, c2)


def boat(o, r):
    c, c2, L, w = anycol(r), wood(r), r.uniform(.5, .65), r.uniform(.18, .26)
    o.ell((0, 0, 0), (L, w, .24), c)
    o.box((0, 0, 1.), (2, 2, 1.), c2, rnd=0, op='-')
    if r.random() < .55:
        h = r.uniform(.5, .8)
        o.cyl((0, 0, h / 2), .025, h / 2 + .05, c2)
        o.gable((.02, 0, .1), L * .62, h * .85, .015, jit(r, (.93, .9, .85)) if r.random() < .6 else anycol(r))
    else:
        o.box((-.08, 0, .1), (L * .38, w * .6, .11), (.9, .9, .9), rnd=.02)
        o.box((-.05, 0, .25), (L * .2, w * .45, .08), anycol(r), rnd=.02)
        o.cyl((-L * .2, 0, .32), .05, .13, anycol(r))


def cactus(o, r):
    g, h, R = green(r), r.uniform(.55, .85), r.uniform(.1, .15)
    o.cap((0, 0, .1), (0, 0, h), R, g, r2=R * .9)
    for s in ((1, -1) if r.random() < .6 else (1,)):
        z, L, up = h * r.uniform(.35, .65), r.uniform(.2, .3), r.uniform(.12, .3)
        o.cap((0, 0, z), (s * L, 0, z), R * .55, g, op='s', k=.03)
        o.cap((s * L, 0, z), (s * L, 0, z + up), R * .55, g, op='s', k=.02)
    pc = jit(r, (.7, .38, .22)) if r.random() < .6 else anycol(r)
    if r.random() < .8:
        o.cyl((0, 0, 0), R * 1.4, .14, pc, r2=R * 1.9)
    if r.random() < .4:
        o.ell((0, 0, h + R), .06, (.95, .4, .6))


def cone_(o, r):
    c, w = jit(r, (.95, .4, .08)), (.95, .95, .93)
    if r.random() < .3:
        c = anycol(r)
    h, R = r.uniform(.35, .5), r.uniform(.2, .28)
    o.box((0, 0, 0), (R * 1.35, R * 1.35, .03), c if r.random() < .6 else (.12, .12, .12), rnd=.02)
    o.cyl((0, 0, h), R, h, c, r2=r.uniform(.03, .06), rnd=.01)
    for z in ([.9] if r.random() < .5 else [.7, 1.25]):
        o.cyl((0, 0, h * z), 1, h * .17, w, rnd=0, op='paint')


def candle(o, r):
    c, R, h = anycol(r), r.uniform(.1, .2), r.uniform(.25, .5)
    o.cyl((0, 0, h), R, h, c, rnd=.03)
    o.cyl((0, 0, 2 * h + .02), .014, .05, (.1, .1, .1))
    o.ell((0, 0, 2 * h + .14), (.05, .05, .1), (.98, .75, .2))
    if r.random() < .6:
        m = metal(r)
        o.cyl((0, 0, 0), R * r.uniform(1.6, 2.3), .03, m, rnd=.015)
        if r.random() < .5:
            o.arc((R * 2, 0, .06), .1, .025, 130, m, R=handle(1.))


def ufo(o, r):
    c = metal(r) if r.random() < .6 else anycol(r)
    R = r.uniform(.5, .6)
    o.ell((0, 0, 0), (R, R, R * r.uniform(.22, .32)), c)
    o.ell((0, 0, R * .18), R * r.uniform(.35, .48), jit(r, (.4, .8, .85)), op='u')
    o.ell((R * .85, 0, .0), .06, hsv(r.random(), .9, .95), rep=r.randint(5, 9))
    if r.random() < .5:
        o.cap((R * .45, 0, -.1), (R * .6, 0, -.35), .03, metal(r), rep=3)


def gift(o, r):
    w, d, h, c, c2 = r.uniform(.28, .45), r.uniform(.28, .45), r.uniform(.2, .45), anycol(r), anycol(r)
    o.box((0, 0, 0), (w, d, h), c, rnd=.015)
    o.box((0, 0, h), (w * 1.06, d * 1.06, .06), c if r.random() < .5 else jit(r, c, .15), rnd=.015)
    t = r.uniform(.05, .08)
    o.box((0, 0, 0), (t, 2, 2), c2, rnd=0, op='paint')
    o.box((0, 0, 0), (2, t, 2), c2, rnd=0, op='paint')
    if r.random() < .8:
        o.tor((.11, 0, h + .13), .09, .035, c2, R=rot_xyz(90, 0, 0), mir=1)
        o.ell((0, 0, h + .1), .05, c2)


def barrel(o, r):
    c, m, R, h = wood(r) if r.random() < .7 else anycol(r), metal(r), r.uniform(.3, .36), r.uniform(.36, .48)
    o.ell((0, 0, 0), (R, R, h * 1.9), c)
    o.box((0, 0, 0), (1, 1, h), None, rnd=0, op='&')
    o.lo, o.hi = [-R, -R, -h], [R, R, h]
    for z in (-.62, .62):
        o.cyl((0, 0, h * z), 1, .04, m, rnd=0, op='paint')
    if r.random() < .5:
        o.cyl((0, 0, h), R * .7, .05, dark(c), op='-')


def duck(o, r):
    c = jit(r, (.95, .82, .2)) if r.random() < .6 else anycol(r)
    o.ell((0, 0, 0), (.3, .4, .24), c)
    o.ell((0, -.25, .34), r.uniform(.17, .22), c, op='s', k=.08)
    o.ell((0, -.47, .32), (.09, .11, .035), (.95, .5, .1))
    o.ell((.1, -.38, .42), .032, (.05, .05, .05), mir=1)
    o.cap((0, .32, .08), (0, .48, .2), .1, c, r2=.04, op='s', k=.06)
    o.ell((.27, .03, .03), (.06, .22, .13), dark(c, .9) if r.random() < .5 else c, mir=1)


def animal(o, r):
    c = jit(r, r.choice([(.55, .35, .2), (.8, .8, .8), (.2, .18, .17), (.85, .6, .35), (.9, .6, .6), (.5, .5, .55)]))
    L, R, leg = r.uniform(.28, .42), r.uniform(.14, .2), r.uniform(.15, .3)
    # side on, looking to +x
    o.cap((-L, 0, 0), (L, 0, 0), R, c, r2=R * r.uniform(.85, 1.1))
    o.cap((L * .9, .09, -R * .4), (L * .95, .09, -R - leg), .055, c, r2=.045, mir=2)
    o.cap((-L * .9, .09, -R * .4), (-L * .95, .09, -R - leg), .06, c, r2=.045, mir=2)
    nz = r.uniform(.12, .4)
    hr = r.uniform(.12, .16)
    o.cap((L, 0, R * .2), (L + .15, 0, nz + R * .3), R * .6, c, r2=hr * .8, op='s', k=.04)
    o.ell((L + .2, 0, nz + R * .4), (hr * 1.3, hr, hr), c, op='s', k=.03)
    o.ell((L + .36, 0, nz + R * .3), (.06, .06, .05), dark(c, .6))
    o.cap((L + .14, .09, nz + R * .4 + hr * .7), (L + .1, .13, nz + R * .4 + hr + r.uniform(.03, .15)), .045, dark(c, .8), r2=.025, mir=2)
    o.ell((L + .27, hr * .82, nz + R * .55), .028, (.05, .05, .05), mir=2)
    o.cap((-L - R * .6, 0, R * .3), (-L - R - .12, 0, R * r.uniform(-.3, 1.4)), .035, c)
    if r.random() < .3:
        o.ell((-L * .2, r.uniform(-.1, .1), R * .5), R * .7, jit(r, (.9, .9, .9)), op='paint')


def flower(o, r):
    pc, h = hsv(r.random(), r.uniform(.5, .9), .95), r.uniform(.5, .8)
    o.cap((0, 0, 0), (0, 0, h), .03, green(r))
    n, L = r.randint(5, 8), r.uniform(.15, .22)
    tilt = r.uniform(0, 30)
    o.ell((L * 1., 0, h + .03), (L, L * .5, .035), pc, R=rot_xyz(0, -tilt, 0), rep=n)
    o.ell((0, 0, h + .04), (.1, .1, .06), jit(r, (.95, .8, .2)))
    if r.random() < .7:
        o.cyl((0, 0, -.05), .14, .14, jit(r, (.7, .38, .22)), r2=.2)
    if r.random() < .6:
        o.ell((.13, 0, h * .45), (.13, .05, .02), green(r), R=rot_xyz(0, -30, 0), mir=r.choice([0, 1]))


def hat(o, r):
    c, R = anycol(r), r.uniform(.26, .34)
    o.cyl((0, 0, 0), R * r.uniform(1.4, 2.), .025, c, rnd=.02)
    k = r.random()
    h = r.uniform(.15, .3)
    if k < .4:
        o.cyl((0, 0, h), R, h, c, r2=R * r.uniform(.8, 1.05), rnd=.03)
    elif k < .7:
        o.ell((0, 0, 0), (R, R, h * 1.8), c)
    else:
        o.cyl((0, 0, h * 1.6), R, h * 1.6, c, r2=.03, rnd=.02)
    o.cyl((0, 0, .07), R * 1.12, .05, anycol(r), rnd=0, op='paint')


def bench(o, r):
    L, c, m = r.uniform(.55, .8), wood(r), metal(r) if r.random() < .5 else wood(r)
    for i in range(3):
        o.box((0, -.16 + .16 * i, 0), (L, .065, .025), c, rnd=.01)
    if r.random() < .7:
        for i in range(2):
            o.box((0, .24 + .02 * i, .17 + .17 * i), (L, .02, .06), c, rnd=.01)
        o.box((L * .75, .25, .1), (.035, .025, .33), m, mir=1)
    o.box((L * .75, 0, -.17), (.04, .2, .03), m, mir=1)
    o.box((L * .75, .17, -.16), (.035, .035, .16), m, mir=3)


def tower(o, r):
    c, R, h = jit(r, (.65, .62, .58), .1), r.uniform(.2, .3), r.uniform(.35, .6)
    o.cyl((0, 0, h), R, h, c, r2=R * r.uniform(.75, 1.), rnd=.01)
    if r.random() < .5:
        o.cyl((0, 0, 2 * h + .05), R * 1.15, .07, c)
        o.box((R, 0, 2 * h + .16), (.07, .06, .06), c, rnd=.01, rep=r.choice([5, 6, 8]))
    else:
        o.cyl((0, 0, 2 * h + .2), R * 1.2, .22, anycol(r), r2=.01)
    o.box((0, -R, .12), (.07, .12, .14), wood(r), rnd=.01, op='paint')
    o.box((0, -R, h * 1.4), (.045, .12, .07), (.15, .17, .25), rnd=.01, op='paint')
    if r.random() < .4:
        o.cyl((0, 0, h), 1, h * .14, anycol(r), rnd=0, op='paint')


def hydrant(o, r):
    c, R, h = anycol(r), r.uniform(.16, .22), r.uniform(.25, .4)
    o.cyl((0, 0, h), R, h, c, rnd=.02)
    o.ell((0, 0, 2 * h), (R, R, R * .9), c)
    o.cyl((0, 0, .03), R * 1.35, .04, c)
    o.cyl((0, 0, 2 * h - .03), R * 1.2, .03, c if r.random() < .5 else metal(r))
    c2 = c if r.random() < .5 else anycol(r)
    o.cyl((0, 0, h * 1.4), .08, R + .09, c2, R=rot_axis((1, 0, 0)))
    o.cyl((0, -R, h * 1.3), .1, .1, c2, R=rot_axis((0, 1, 0)))
    o.cyl((0, 0, 2 * h + R), .05, .05, c2)


def csg(o, r):
    n = r.randint(1, 4)
    base = anycol(r)
    for i in range(n):
        s = r.uniform(.22, .45) * (1 if i == 0 else r.uniform(.5, 1))
        p = (0, 0, 0) if i == 0 else tuple(r.uniform(-.4, .4) for _ in range(3))
        rt = EYE if r.random() < .5 else rot_xyz(r.choice([0, 90, r.uniform(0, 180)]), r.uniform(-45, 45), r.uniform(0, 180))
        c = anycol(r) if r.random() < .7 else base
        op, k = ('u', 0.) if i == 0 or r.random() < .6 else ('s', r.uniform(.03, .12))
        t = r.randint(0, 5)
        a, b = r.uniform(.5, 1.4), r.uniform(.5, 1.4)
        if t == 0:
            o.ell(p, (s * a, s * b, s), c, R=rt, op=op, k=k)
        elif t == 1:
            o.box(p, (s * a * .8, s * b * .8, s * .8), c, rnd=r.uniform(0, .5) * s, R=rt, op=op, k=k)
        elif t == 2:
            o.cyl(p, s * a * .8, s * b, c, r2=s * a * .8 * r.choice([1, 1, .05, r.uniform(.3, 1)]), rnd=r.uniform(.01, .08), R=rt, op=op, k=k)
        elif t == 3:
            q = tuple(p[j] + r.uniform(-.5, .5) for j in range(3))
            o.cap(p, q, s * .5 * a, c, r2=s * .5 * b, op=op, k=k)
        elif t == 4:
            o.tor(p, s, s * r.uniform(.2, .45), c, R=rt, op=op, k=k)
        else:
            o.gable(p, s * a, s * 1.4 * b, s * .8, c, R=rt, op=op, k=max(k, 1e-3))
    if r.random() < .3:
        q = tuple(r.uniform(-.3, .3) for _ in range(3))
        cc = anycol(r)
        if r.random() < .5:
            o.ell(q, r.uniform(.12, .25), cc, op='-')
        else:
            o.cyl(q, r.uniform(.08, .2), 1, cc, R=rot_xyz(r.choice([0, 90]), r.choice([0, 90]), 0), op='-')
    if r.random() < .3:
        o.box((0, 0, r.uniform(-.2, .2)), (2, 2, r.uniform(.04, .12)), anycol(r), rnd=0, op='paint')


CATS = [mug, chair, table, stool, mushroom, lamp, bottle, vase, snowman, rocket, house, pine, tree, car, truck, hammer,
        dumbbell, rings, donut, teapot, robot, sword, icecream, apple, sofa, bed, plane, boat, cactus, cone_, candle,
        ufo, gift, barrel, duck, animal, flower, hat, bench, tower, hydrant, csg]
NAMES = [c.__name__.strip('_') for c in CATS]
WEIGHTS = [1.0] * (len(CATS) - 1) + [6.0]
# training draws these more often: their thin and flat parts are what the model learns last
HARD = {'table': 2.5, 'chair': 2.5, 'gift': 2.5, 'house': 2.5, 'bed': 2.5, 'tree': 2., 'stool': 2., 'sofa': 2., 'rings': 1.5,
        'robot': 1.5, 'animal': 1.5, 'truck': 1.5, 'bottle': 1.5, 'lamp': 1.3, 'hammer': 1.3, 'cactus': 1.3, 'csg': 6.}
TRAIN_WEIGHTS = [HARD.get(n, 1.) for n in NAMES]
