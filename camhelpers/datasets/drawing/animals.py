"""Five animals: lists of shapes, painted in order, so that what comes later is in front."""
# A table of points fills its lines, which the formatter would pull apart.
# fmt: off

import numpy as np

from .shapes import (  # isort: skip
    CREAM, GLASS, INK, Coat, Colour, Curve, Shape, ellipse, flat, limb, mix, rgb, rounded, spline, stroke, symmetric,
    tilted, turned,
)


def eye(part: str, x: float, y: float, r: float, iris: Colour, slit: float) -> list[Shape]:
    """An eye with iris, pupil and a glint."""
    return [Shape(part, ellipse(x, y, r, r * 1.08), iris, relief=0.3),
            flat(part, ellipse(x, y, r * slit, r * 0.85), INK),
            flat(part, ellipse(x - r * 0.25, y - r * 0.35, r * 0.28), CREAM)]


def cat(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A sitting cat that looks at the reader."""
    u = rng.uniform
    fat, wide, high, ear = u(0.88, 1.12), u(0.94, 1.1), u(0.92, 1.08), u(0.9, 1.15)
    pink = mix(rgb(0.93, 0.62, 0.62), coat.main, 0.15)
    sock = coat.pale if u() < 0.5 else coat.main
    x, y, curl = 0.62 * u(0.9, 1.15), 0.84, u(-0.1, 0.2)
    tail = [(0.3, y), (x, y - 0.02), (x + 0.22, y - 0.2), (x + 0.25, y - 0.45), (x + 0.14, curl),
            (x + 0.2, curl - 0.28)]
    back = [(0, -0.3), (0.3, -0.12), (0.46, 0.3), (0.56, 0.72), (0.42, 0.93), (0, 0.95)]
    bib = [(0, -0.1), (0.2, 0.1), (0.16, 0.42), (0, 0.55)]
    shapes = [Shape("tail", limb(tail, 0.2, 0.13), coat.main, True),
              Shape("body", spline(symmetric(back) * (fat, 1)), coat.main, True),
              Shape("body", spline(symmetric(bib)), coat.pale, outline=False)]
    for side in (-1, 1):
        shapes += [Shape("legs", ellipse(side * 0.42 * fat, 0.72, 0.2, 0.25, side * -14), coat.main, True),
                   Shape("legs", ellipse(side * 0.44 * fat, 0.93, 0.2, 0.09), sock)]
    for side in (-1, 1):
        leg = [(side * 0.14, 0.3), (side * 0.15, 0.6), (side * 0.15, 0.9)]
        shapes += [Shape("legs", limb(leg, 0.22, 0.19), coat.main, True),
                   Shape("legs", ellipse(side * 0.16, 0.94, 0.15, 0.09), sock)]
    head: list[Shape] = []
    outer = np.array([(-0.47, -0.5), (-0.47 * ear, -1.02 * ear), (-0.08, -0.78)])
    inner = np.array([(-0.38, -0.6), (-0.41 * ear, -0.9 * ear), (-0.18, -0.74)])
    for side in (1, -1):
        head += [Shape("ears", rounded(outer * (side, 1), 0.07), coat.main, True),
                 Shape("ears", rounded(inner * (side, 1), 0.05), pink, outline=False)]
    face = spline(symmetric([(0, -0.85), (0.3, -0.79), (0.49, -0.52), (0.5, -0.3), (0.3, -0.1), (0, -0.04)]))
    head.append(Shape("head", face, coat.main, True))
    iris = (rgb(0.98, 0.86, 0.42), rgb(0.66, 0.85, 0.55), GLASS)[rng.integers(3)]
    for side in (-1, 1):
        head += eye("face", side * 0.2, -0.46, u(0.085, 0.1), iris, u(0.4, 0.65))
    for side in (-1, 1):
        head.append(Shape("face", ellipse(side * 0.075, -0.24, 0.11, 0.085), coat.pale, outline=False, relief=0.4))
        for lift in (-0.05, 0.03):
            whisker = [(side * 0.17, -0.25), (side * 0.38, -0.26 + lift), (side * 0.58, -0.22 + 2.2 * lift)]
            head.append(stroke("face", whisker, INK, 0.022, 0.01))
        head.append(stroke("face", [(0, -0.26), (side * 0.03, -0.19), (side * 0.1, -0.18)], INK, 0.022))
    nose = rounded([(-0.065, -0.33), (0.065, -0.33), (0, -0.25)], 0.03)
    head.append(Shape("face", nose, mix(pink, INK, 0.15), relief=0.3))
    head = [s._replace(points=s.points * (wide, 1) * 1.04) for s in head]
    shapes += tilted(head, u(-12, 12), (0, -0.15))
    return [s._replace(points=s.points * (1, high)) for s in shapes]


def dog(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A standing dog, seen from the side."""
    u = rng.uniform
    long, tall, deep, nose = u(0.86, 1.12), u(0.85, 1.15), u(0.9, 1.12), u(0.85, 1.15)
    far, patch = mix(coat.main, INK, 0.28), mix(coat.main, coat.second, u(0.3, 0.9))
    paw = coat.pale if u() < 0.5 else coat.main
    wag, step, foot, front, hind = u(-0.2, 0.2), u(-0.1, 0.1), 0.4 + 0.48 * tall, -0.4 * long, 0.52 * long
    tail = [(hind, -0.1), (hind + 0.25, -0.28), (hind + 0.32 + wag, -0.62)]
    shapes = [Shape("tail", limb(tail, 0.17, 0.07), coat.main, True)]
    for x, shift in ((front + 0.13, step), (hind - 0.15, -step)):
        leg = [(x, 0.1), (x + shift * 0.5, 0.45), (x + shift, foot - 0.05)]
        shapes += [Shape("legs", limb(leg, 0.24, 0.15), far),
                   Shape("legs", ellipse(x + shift - 0.04, foot - 0.05, 0.12, 0.075), mix(paw, INK, 0.25))]
    chest = [(front - 0.02, 0.05), (front - 0.12, -0.25), (front - 0.2, -0.5)]
    body = np.array([(-0.48, -0.26), (-0.1, -0.24), (0.35, -0.27), (0.62, -0.16), (0.68, 0.1), (0.55, 0.28),
                     (0.2, 0.24), (-0.2, 0.34 * deep), (-0.5, 0.3), (-0.62, 0.05)])
    shapes += [Shape("body", limb(chest, 0.52, 0.34), coat.main, True),
               Shape("body", spline(body * (long, 1)), coat.main, True)]
    for x, shift, root, knee in ((front, -step, 0.27, 0.0), (hind, step, 0.34, 0.07)):
        leg = [(x, 0.08), (x + knee - shift * 0.5, 0.45), (x - shift, foot)]
        shapes += [Shape("legs", limb(leg, root, 0.16), coat.main, True),
                   Shape("legs", ellipse(x - shift - 0.05, foot + 0.01, 0.135, 0.08), paw),
                   Shape("legs", ellipse(x, 0.09, root * 0.5, 0.15), coat.main, True, False, 0.0)]  # hides the seam
    x = front - 0.2
    tip = x - 0.2 - 0.26 * nose
    collar = [(front - 0.32, -0.24), (front - 0.12, -0.16), (front + 0.1, -0.25)]
    snout = [(x - 0.12, -0.6), (tip + 0.03, -0.54), (tip - 0.03, -0.42), (tip + 0.08, -0.33), (x - 0.1, -0.3),
             (x - 0.04, -0.45)]
    head = [Shape("collar", limb(collar, 0.1), coat.third),
            Shape("head", ellipse(x, -0.55, 0.31, 0.28, -8), coat.main, True), Shape("snout", spline(snout), coat.pale),
            stroke("snout", [(tip + 0.03, -0.39), (tip + 0.18, -0.375), (x - 0.1, -0.41)], INK, 0.022),
            Shape("snout", ellipse(tip, -0.52, 0.075, 0.06, 15), INK, relief=0.8),
            *eye("eye", x - 0.09, -0.63, 0.062, mix(coat.third, CREAM, 0.75), 0.8)]
    drop, swing = u(0.3, 0.52), u(-0.06, 0.1)
    ear = [(x + 0.04, -0.8), (x + 0.24, -0.76), (x + 0.32 + swing, -0.5), (x + 0.26 + swing, -0.72 + drop),
           (x + 0.12 + swing, -0.68 + drop), (x + 0.06, -0.55)]
    head.append(Shape("ears", spline(ear), mix(patch, INK, 0.12), True))
    return shapes + tilted(head, u(-10, 12), (front - 0.1, -0.2))


def bird(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A small bird on its feet, seen from the side, its wing at rest or raised."""
    u = rng.uniform
    plump, long, lean, horn = u(0.88, 1.15), u(0.8, 1.15), u(-10, 14), mix(rgb(0.95, 0.66, 0.25), coat.third, 0.25)
    legs, trunk = [], []
    for x in (-0.02, 0.16):
        legs.append(Shape("legs", limb([(x, 0.4), (x + 0.02, 0.62), (x - 0.03, 0.86)], 0.055, 0.045), horn, relief=0.4))
        for toe in (-0.15, -0.05, 0.1):
            legs.append(Shape("legs", limb([(x - 0.03, 0.85), (x - 0.03 + toe, 0.9)], 0.045, 0.03), horn, relief=0.3))
    end = 0.62 + 0.42 * long
    for spread, shade in ((0.17, 0.3), (0.0, 0.15), (-0.14, 0.0)):
        feather = [(0.35, 0.1), (end - 0.12, 0.16 + spread), (end, 0.26 + spread * 1.3),
                   (end - 0.08, 0.33 + spread * 1.2), (0.4, 0.32)]
        trunk.append(Shape("tail", spline(feather), mix(coat.second, INK, shade)))
    body = [(-0.62, -0.2), (-0.35, -0.42), (0.05, -0.3), (0.42, 0.02), (0.56, 0.25), (0.3, 0.44 * plump),
            (-0.1, 0.5 * plump), (-0.48, 0.36 * plump), (-0.66, 0.08)]
    belly = [(-0.58, 0.0), (-0.38, -0.02), (-0.15, 0.22), (0.2, 0.38 * plump), (-0.1, 0.44 * plump),
             (-0.42, 0.3 * plump)]
    trunk += [Shape("body", spline(body), coat.main, True),
              Shape("body", spline(belly), coat.pale, outline=False, relief=0.5),
              Shape("beak", rounded([(-0.7, -0.5), (-0.98 * u(0.95, 1.1), -0.36), (-0.7, -0.28)], 0.05), horn),
              stroke("beak", [(-0.92, -0.365), (-0.74, -0.38)], INK, 0.02)]
    if u() < 0.4:
        crest = [(-0.5, -0.62), (-0.4, -0.88), (-0.3, -0.72), (-0.2, -0.8), (-0.27, -0.52)]
        trunk.append(Shape("head", rounded(crest, 0.06), coat.second))
    trunk += [Shape("head", ellipse(-0.5, -0.4, 0.29, 0.27), coat.main, True),
              Shape("body", ellipse(-0.42, -0.22, 0.2, 0.16, 30), coat.main, True, False, 0.0),  # hides the seam
              flat("head", ellipse(-0.5, -0.27, 0.1, 0.065), mix(coat.main, rgb(0.95, 0.5, 0.45), 0.55)),
              *eye("eye", -0.58, -0.44, 0.075, CREAM, 0.75)]
    wing = [(-0.3, -0.1), (0.0, -0.22), (0.4, -0.02), (0.78, 0.26), (0.45, 0.34), (0.05, 0.36), (-0.24, 0.2)]
    feathers = [[(-0.05, 0.27), (0.3, 0.24), (0.55, 0.22)], [(-0.1, 0.17), (0.22, 0.13), (0.45, 0.11)],
                [(-0.1, 0.06), (0.12, 0.0), (0.3, 0.0)]]
    raised = u() < 0.45
    lift, pivot, stretch = (u(-88, -62), (-0.12, 0.05), (1.2, 1.1)) if raised else (u(-8, 6), (-0.2, 0.0), (1.0, 1.0))
    wing, *feathers = (turned((np.array(c) - pivot) * stretch + pivot, lift, pivot) for c in (wing, *feathers))
    trunk.append(Shape("wing", spline(wing), mix(coat.second, coat.main, 0.2), True))
    trunk += [stroke("wing", feather, mix(coat.second, INK, 0.55), 0.03, 0.015) for feather in feathers]
    return legs + tilted(trunk, lean, (0.05, 0.3))


def fish(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A fish, seen from the side."""
    u = rng.uniform
    deep, fork, sail, fin = u(0.82, 1.25), u(0.85, 1.2), u(0.85, 1.35), mix(coat.second, CREAM, 0.1)
    ray, scale = mix(fin, INK, 0.4), mix(coat.main, INK, 0.45)
    tail = [(0.48, -0.06), (0.72, -0.3 * fork), (1.0, -0.46 * fork), (0.92, -0.14), (0.86, 0), (0.92, 0.16),
            (1.0, 0.46 * fork), (0.72, 0.3 * fork), (0.48, 0.08)]
    top = [(-0.35, -0.36 * deep), (-0.22, -0.62 * sail * deep**0.5), (0.1, -0.6 * sail), (0.32, -0.46), (0.42, -0.2)]
    belly = [(-0.2, 0.34 * deep), (-0.05, 0.62 * deep), (0.12, 0.6 * deep), (0.16, 0.3 * deep)]
    aft = [(0.24, 0.24 * deep), (0.34, 0.46 * deep), (0.48, 0.42 * deep), (0.46, 0.14 * deep)]
    shapes = [Shape("tail", spline(tail), fin)]
    for k in (-2, -1, 0, 1, 2):
        spine = [(0.58, 0.04 * k), (0.75, 0.11 * k * fork), (0.88, 0.17 * k * fork)]
        shapes.append(stroke("tail", spine, ray, 0.025, 0.015))
    shapes += [Shape("fins", spline(curve), fin) for curve in (top, belly, aft)]
    for x in (-0.2, -0.08, 0.04, 0.16):
        shapes.append(stroke("fins", [(x, -0.3), (x + 0.06, -0.5 * sail)], ray, 0.025, 0.015))
    body = np.array([(-0.86, 0.02), (-0.66, -0.24 * deep), (-0.3, -0.42 * deep), (0.1, -0.36 * deep),
                     (0.4, -0.15 * deep), (0.58, -0.07), (0.58, 0.09), (0.4, 0.17 * deep), (0.1, 0.36 * deep),
                     (-0.3, 0.42 * deep), (-0.66, 0.26 * deep)])
    pale = np.array([(-0.72, 0.16), (-0.3, 0.2), (0.15, 0.17), (0.42, 0.08), (0.1, 0.31), (-0.3, 0.38)]) * (1, deep)
    shapes += [Shape("body", spline(body), coat.main, True),
               Shape("body", spline(pale), coat.pale, outline=False, relief=0.3)]
    for i, x in enumerate((-0.14, 0.03, 0.2, 0.36)):
        for y in (-0.13, 0.03) if i % 2 else (-0.2, -0.05, 0.1):
            y *= deep * (1 - 0.4 * max(x, 0))
            shapes.append(stroke("body", [(x, y - 0.06), (x + 0.05, y), (x, y + 0.06)], scale, 0.02))
    flap = [(-0.22, 0.02), (-0.02, -0.04), (0.14, 0.1), (0.04, 0.22), (-0.12, 0.16)]
    return [*shapes, stroke("body", [(-0.36, -0.26 * deep), (-0.28, 0), (-0.36, 0.26 * deep)], scale, 0.03),
            stroke("body", [(-0.84, 0.08), (-0.76, 0.1), (-0.7, 0.06)], scale, 0.03),
            Shape("fins", spline(turned(flap, u(-15, 30), (-0.2, 0.05))), fin),
            *eye("eye", -0.56, -0.08 * deep, u(0.09, 0.12), CREAM, 0.6)]


def butterfly(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A butterfly with open wings, seen from above."""
    u = rng.uniform
    span, droop, swallow, rings = u(0.85, 1.1), u(-0.12, 0.1), u(0, 0.22), u(0.07, 0.11)
    fore = np.array([(0.03, -0.1), (0.25, -0.6), (0.62, -0.86), (0.92, -0.82), (0.93, -0.5), (0.72, -0.12),
                     (0.35, 0.04), (0.04, 0.06)])
    hind = np.array([(0.03, 0.0), (0.4, 0.0), (0.72, 0.14), (0.76, 0.42), (0.58, 0.64),
                     (0.42 + swallow / 3, 0.72 + swallow), (0.24, 0.6), (0.08, 0.3)])
    rim, dark = mix(coat.second, INK, 0.45), mix(coat.second, INK, 0.7)

    def lay(side: int, points: Curve) -> Curve:  # one wing, spread and drooping, on the right (1) or left (-1)
        return (points * (span, 1) + np.stack([0 * points[:, 0], droop * points[:, 0]], 1)) * (side, 1)

    shapes: list[Shape] = []
    for side in (1, -1):
        field = spline((hind - (0.1, 0.12)) * 0.74 + (0.1, 0.13))
        dots = [ellipse(x, y, 0.045) for x, y in ((0.66, 0.3), (0.6, 0.48), (0.44, 0.6))]
        shapes += [Shape("hindwings", lay(side, spline(hind)), rim),
                   Shape("hindwings", lay(side, field), coat.third, True, False),
                   *(flat("hindwings", lay(side, dot), coat.pale) for dot in dots),
                   Shape("hindwings", lay(side, ellipse(0.38, 0.32, rings)), coat.pale, relief=0),
                   flat("hindwings", lay(side, ellipse(0.38, 0.32, rings * 0.5)), rim)]
    for side in (1, -1):
        field = spline((fore - (0.1, -0.1)) * 0.78 + (0.11, -0.12))
        dots = [ellipse(x, y, 0.045) for x, y in ((0.8, -0.7), (0.84, -0.52), (0.77, -0.33))]
        veins = [limb([(0.1, -0.1), (0.35, y * 0.6), (0.68, y)], 0.03, 0.015) for y in (-0.62, -0.4, -0.2)]
        shapes += [Shape("forewings", lay(side, spline(fore)), rim),
                   Shape("forewings", lay(side, field), coat.main, True, False),
                   *(flat("forewings", lay(side, vein), rim) for vein in veins),
                   *(flat("forewings", lay(side, dot), coat.pale) for dot in dots)]
    for side in (-1, 1):
        tip = (side * u(0.24, 0.34), u(-0.84, -0.7))
        shapes += [stroke("antennae", [(side * 0.03, -0.32), (side * 0.12, -0.58), tip], dark, 0.035, 0.025),
                   Shape("antennae", ellipse(*tip, 0.045), dark, outline=False)]
    return [*shapes, Shape("body", limb([(0, -0.22), (0, 0.1), (0, 0.52)], 0.17, 0.07), dark, relief=1.4),
            *(stroke("body", [(-0.05, y), (0.05, y)], coat.pale, 0.025) for y in (0.05, 0.18, 0.3)),
            Shape("body", ellipse(0, -0.29, 0.1), dark, relief=1.4)]
