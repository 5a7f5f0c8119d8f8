"""Five things: lists of shapes, painted in order, so that what comes later is in front."""
# A table of points fills its lines, which the formatter would pull apart.
# fmt: off

import numpy as np

from .shapes import (  # isort: skip
    CREAM, GLASS, INK, Coat, Shape, box, ellipse, flat, limb, mix, rgb, rounded, scallops, spline, stroke,
)


def car(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A car, seen from the side."""
    u = rng.uniform
    roof, bonnet, back, wheel = u(-0.62, -0.46), u(-0.5, -0.32), u(0.6, 0.9), u(0.19, 0.235)
    middle, seam = (bonnet + back) / 2 - 0.03, mix(coat.main, INK, 0.5)
    cabin = [(bonnet - 0.12, -0.06), (bonnet + 0.2, roof), (back - 0.28, roof), (back + 0.03, -0.06)]
    shapes = [Shape("cabin", rounded(cabin, 0.14), coat.main)]
    for pane in (
        [(bonnet + 0.03, -0.1), (bonnet + 0.25, roof + 0.09), (middle - 0.04, roof + 0.09), (middle - 0.04, -0.1)],
        [(middle + 0.05, -0.1), (middle + 0.05, roof + 0.09), (back - 0.32, roof + 0.09), (back - 0.12, -0.1)],
    ):
        x, w = pane[0][0], (pane[-1][0] - pane[0][0]) * 0.2
        streak = [(x + 2.0 * w, -0.14), (x + 2.7 * w, roof + 0.13), (x + 3.4 * w, roof + 0.13), (x + 2.7 * w, -0.14)]
        shapes += [Shape("windows", rounded(pane, 0.06), GLASS, relief=0.5),
                   flat("windows", rounded(streak, 0.01), mix(GLASS, CREAM, 0.75))]
    body = [(-0.96, 0.36), (-0.97, 0.1), (-0.88, -0.04), (bonnet - 0.1, -0.12), (0.86, -0.12), (0.96, 0.02),
            (0.97, 0.36)]
    shapes.append(Shape("body", rounded(body, 0.12), coat.main))
    if u() < 0.6:
        stripe = mix(coat.second, CREAM, 0.3)
        shapes.append(Shape("body", box(-0.95, 0.14, 0.95, 0.22, 0.02), stripe, outline=False, relief=0.3))
    shapes += [stroke("body", [(x, -0.08), (x, 0.28)], seam, 0.022) for x in (bonnet + 0.04, middle, back - 0.12)]
    shapes += [stroke("body", [(x, 0.03), (x + 0.09, 0.03)], seam, 0.04) for x in (middle - 0.13, back - 0.25)]
    rear = [(0.87, -0.02), (0.965, -0.02), (0.97, 0.12), (0.87, 0.12)]
    shapes += [Shape("body", box(-1.02, 0.29, 1.02, 0.39, 0.05), mix(coat.main, INK, 0.45), relief=0.6),
               Shape("lights", ellipse(-0.9, 0.08, 0.075, 0.095), rgb(1.0, 0.93, 0.62)),
               Shape("lights", rounded(rear, 0.03), rgb(0.88, 0.25, 0.22))]
    for x in (-0.55, 0.58):
        r, angles = wheel * 0.5, np.arange(5) * 1.2566 + u(0, 1)
        spokes = [[(x, 0.38), (x + r * np.cos(a), 0.38 + r * np.sin(a))] for a in angles]
        shapes += [Shape("wheels", ellipse(x, 0.38, wheel), mix(INK, coat.second, 0.1), relief=0.8),
                   Shape("wheels", ellipse(x, 0.38, wheel * 0.6), mix(coat.third, CREAM, 0.55), relief=0.8),
                   *(stroke("wheels", spoke, seam, 0.03) for spoke in spokes),
                   Shape("wheels", ellipse(x, 0.38, wheel * 0.18), seam, outline=False)]
    return shapes


def ship(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A sailing ship with two sails."""
    u = rng.uniform
    bow, depth, mast, boom = u(0.85, 1.0), u(0.68, 0.84), u(-0.05, 0.08), u(-0.98, -0.85)
    wood = mix(rgb(0.55, 0.38, 0.27), coat.third, 0.25)
    canvas, jib, full = mix(coat.second, CREAM, u(0.35, 0.9)), mix(coat.third, CREAM, u(0.3, 0.85)), u(0.06, 0.16)
    flag = [(mast, boom + 0.01), (mast - 0.16, boom - 0.03), (mast - 0.34, boom + 0.03), (mast - 0.3, boom + 0.13),
            (mast - 0.15, boom + 0.11), (mast, boom + 0.15)]
    rear = spline([(mast + 0.05, boom + 0.16), (mast + 0.36 + full, boom + 0.6), (mast + 0.7, 0.14)], closed=False)
    front = spline([(mast - 0.06, boom + 0.2), (mast - 0.45 - full, -0.2), (-0.86, 0.22)], closed=False)
    rear = np.concatenate([rear, [(mast + 0.3, 0.17), (mast + 0.05, 0.16)]])
    front = np.concatenate([front, [(mast - 0.4, 0.27), (mast - 0.07, 0.14)]])
    shapes = [Shape("mast", limb([(mast, 0.4), (mast, boom)], 0.07, 0.05), wood),
              Shape("mast", limb([(mast - 0.02, 0.2), (mast + 0.72, 0.22)], 0.055), wood),
              Shape("flag", spline(flag), coat.main), Shape("sails", rear, canvas, True, relief=1.3),
              Shape("sails", front, jib, relief=1.3)]
    for t in (0.36, 0.66):
        y = boom + 0.16 + (0.0 - boom) * t
        fold = [(mast + 0.07, y), (mast + 0.1 + 0.52 * t, y + 0.03)]
        shapes.append(stroke("sails", fold, mix(canvas, INK, 0.35), 0.02))
    hull = [(-bow, 0.3), (-0.5, 0.4), (0, 0.43), (0.5, 0.41), (0.86, 0.3), (0.8, 0.55), (0.62, depth),
            (0, depth + 0.05), (-0.55, depth), (-0.8, 0.56)]
    band = [(-bow + 0.06, 0.37), (-0.5, 0.46), (0, 0.49), (0.5, 0.47), (0.83, 0.37)]
    keel = [(-0.62, depth - 0.06), (0, depth - 0.01), (0.64, depth - 0.06)]
    portholes = [ellipse(x, 0.585, 0.065) for x in np.linspace(-0.45, 0.5, rng.integers(3, 5))]
    return [*shapes, Shape("hull", spline(hull, steps=6), coat.main),
            Shape("hull", limb(band, 0.055), mix(coat.second, CREAM, 0.45), outline=False, relief=0.4),
            stroke("hull", keel, mix(coat.main, INK, 0.4), 0.04),
            *(Shape("portholes", porthole, mix(GLASS, CREAM, 0.2)) for porthole in portholes)]


def house(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A house with a gable, a door and windows."""
    u = rng.uniform
    wide, eaves, ridge, hip = u(0.62, 0.8), u(-0.22, -0.05), u(-0.9, -0.68), u(0.0, 0.35)
    wall, tile = mix(coat.main, CREAM, u(0.1, 0.55)), coat.second
    line, frame = mix(tile, INK, 0.4), mix(wall, CREAM, 0.7)
    x = u(0.3, 0.46) * (1 if u() < 0.5 else -1)
    shapes = [Shape("chimney", box(x - 0.1, ridge + 0.05, x + 0.1, eaves, 0.02), mix(coat.third, INK, 0.15)),
              Shape("chimney", box(x - 0.14, ridge - 0.03, x + 0.14, ridge + 0.07, 0.03), mix(coat.third, INK, 0.3)),
              Shape("walls", box(-wide, eaves - 0.05, wide, 0.85, 0.02), wall)]
    for _ in range(7):
        x, y = u(-wide + 0.08, wide - 0.18), u(eaves + 0.12, 0.75)
        shapes.append(stroke("walls", [(x, y), (x + 0.09, y)], mix(wall, INK, 0.16), 0.035))
    roof = [(-wide - 0.2, eaves + 0.06), (-hip, ridge), (hip, ridge), (wide + 0.2, eaves + 0.06)]
    shapes += [Shape("walls", box(-wide - 0.03, 0.79, wide + 0.03, 0.88, 0.03), mix(wall, INK, 0.35)),
               Shape("roof", rounded(roof, 0.06), tile)]
    for t in (0.3, 0.52, 0.74):
        y, half = ridge + (eaves - ridge) * t, hip + (wide + 0.2 - hip) * t - 0.07
        n = max(int(half / 0.1), 2)
        waves = [(x, y + 0.05 * (i % 2)) for i, x in enumerate(np.linspace(-half, half, 2 * n + 1))]
        shapes.append(stroke("roof", waves, line, 0.024))
    door, dx = mix(coat.third, coat.main, 0.1), u(-0.25, 0.25)
    arch = [(dx - 0.15, 0.82), (dx - 0.15, 0.4), (dx - 0.1, 0.28), (dx, 0.23), (dx + 0.1, 0.28), (dx + 0.15, 0.4),
            (dx + 0.15, 0.82)]
    shapes += [Shape("door", rounded(arch, 0.05), door),
               stroke("door", [(dx, 0.3), (dx, 0.78)], mix(door, INK, 0.4), 0.02),
               Shape("door", ellipse(dx + 0.08, 0.56, 0.03), rgb(0.97, 0.82, 0.4))]
    lit, r = mix(GLASS, rgb(1.0, 0.88, 0.5), float(u() < 0.4)), min(0.15, (wide - abs(dx) - 0.15) / 2 - 0.05)
    for x in ((dx - 0.15 - wide) / 2, (dx + 0.15 + wide) / 2):
        shapes += [Shape("windows", box(x - r, 0.22, x + r, 0.52, 0.03), lit, relief=0.4),
                   stroke("windows", [(x, 0.24), (x, 0.5)], frame, 0.04),
                   stroke("windows", [(x - r + 0.02, 0.37), (x + r - 0.02, 0.37)], frame, 0.04),
                   Shape("windows", box(x - r - 0.03, 0.52, x + r + 0.03, 0.58, 0.02), frame, relief=0.5)]
    attic = (eaves + ridge) / 2 + 0.1
    return [*shapes, Shape("windows", ellipse(0, attic, 0.1), lit),
            stroke("windows", [(0, attic - 0.08), (0, attic + 0.08)], line, 0.03)]


def tree(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A tree with a round crown, or a fir."""
    u = rng.uniform
    bark, thick, sway = mix(rgb(0.5, 0.36, 0.26), coat.third, 0.3), u(0.85, 1.2), u(-0.08, 0.08)
    trunk = [(-0.1 * thick + sway, -0.1), (-0.1 * thick, 0.4), (-0.13 * thick, 0.75), (-0.28 * thick, 0.96), (0, 0.91),
             (0.28 * thick, 0.96), (0.13 * thick, 0.75), (0.1 * thick, 0.4), (0.1 * thick + sway, -0.1)]
    grain = [[(x, y), (x + 0.01, y + 0.15)] for x, y in ((-0.05, 0.6), (0.05, 0.68), (0.0, 0.42))]
    shapes = [Shape("trunk", spline(trunk), bark), *(stroke("trunk", g, mix(bark, INK, 0.45), 0.022) for g in grain)]
    leaf, fruit = coat.main, mix(coat.second, CREAM, 0.1)
    if u() < 0.3:
        for k, (y, half) in enumerate(((0.5, 0.62), (0.1, 0.5), (-0.28, 0.36))):
            half *= u(0.95, 1.1)
            hem = [(x, y + 0.07 * (i % 2)) for i, x in enumerate(np.linspace(half, -half, 9))]
            shapes.append(Shape("crown", rounded([(0, y - 0.72), *hem], 0.05), mix(leaf, CREAM, 0.09 * k), True))
        spots = [(u(-0.3, 0.3), y) for y in (0.4, 0.26, 0.42, 0.02, -0.06, -0.38)]
    else:
        for side in (-1, 1):
            branch = [(0, 0.38), (side * 0.2, 0.2), (side * 0.38, 0.02)]
            shapes.append(Shape("branches", limb(branch, 0.12, 0.07), bark))
        wide, high, bumps = u(0.62, 0.82), u(0.5, 0.62), int(rng.integers(9, 14))
        shapes.append(Shape("crown", scallops(sway, -0.38, wide, high, bumps, 0.13, u(0, 6)), leaf, True))
        for x, y, r in ((-0.34, -0.26, 0.24), (0.3, -0.18, 0.22), (-0.02, -0.56, 0.3), (0.34, -0.52, 0.2)):
            puff = scallops(sway + x * wide / 0.7 + u(-0.05, 0.05), y, r, r * 0.8, 8, 0.14, u(0, 6))
            shapes.append(Shape("crown", puff, mix(leaf, CREAM, u(0.1, 0.2)), True, False, 1.3))
        angle, reach = u(0, 6.3, 7), np.sqrt(u(0.1, 1, 7)) * 0.75
        spots = [(sway + wide * r * np.cos(a), -0.38 + high * r * np.sin(a)) for a, r in zip(angle, reach, strict=True)]
    if u() < 0.65:
        shapes += [Shape("fruit", ellipse(x, y, 0.062), fruit, relief=1.3) for x, y in spots]
    return shapes


def mushroom(rng: np.random.Generator, coat: Coat) -> list[Shape]:
    """A mushroom with a spotted cap."""
    u = rng.uniform
    wide, dome, bulge, bend, brim = u(0.78, 1.0), u(0.62, 0.88), u(0.24, 0.36), u(-0.1, 0.1), u(0.1, 0.17)
    flesh = mix(coat.pale, CREAM, 0.55)
    stem = [(-0.2, -0.1), (-0.19 + bend, 0.3), (-bulge + bend, 0.75), (-0.22 + bend, 0.94), (bend, 0.97),
            (0.22 + bend, 0.94), (bulge + bend, 0.75), (0.19 + bend, 0.3), (0.2, -0.1)]
    shapes = [Shape("stem", spline(stem), flesh, relief=1.3)]
    for x in (-0.11, 0.02, 0.13):
        shapes.append(stroke("stem", [(bend + x, 0.62), (bend + x * 1.2, 0.82)], mix(flesh, INK, 0.3), 0.02))
    hem = [(x + bend * 0.6, 0.3 + 0.07 * (i % 2)) for i, x in enumerate(np.linspace(0.3, -0.3, 7))]
    ring = rounded([(-0.18 + bend * 0.5, 0.14), (0.18 + bend * 0.5, 0.14), *hem], 0.06)
    shapes += [Shape("ring", ring, mix(flesh, CREAM, 0.4)),
               Shape("gills", ellipse(0, -0.08, wide * 0.9, brim + 0.06), mix(flesh, INK, 0.28), relief=0.5)]
    for x in np.linspace(-0.95, 0.95, 11):
        gill = [(x * wide * 0.25, -0.02), (x * wide * 0.8, -0.08 + (brim + 0.03) * np.sqrt(1 - x * x * 0.7))]
        shapes.append(stroke("gills", gill, mix(flesh, INK, 0.5), 0.02))
    t, across = np.linspace(np.pi, 2 * np.pi, 24), np.linspace(1, -1, 16)
    top = np.stack([wide * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.85, -0.06 + dome * np.sin(t)], 1)
    rim = np.stack([wide * across, -0.06 + brim * (0.25 - across**2 * 0.25) ** 0.5], 1)[1:-1]
    shapes.append(Shape("cap", np.concatenate([top, rim]), coat.main, relief=1.3))
    size = u(0.8, 1.25)
    for x, y, r in (
        (-0.1, -0.5, 0.13), (0.38, -0.34, 0.11), (-0.52, -0.22, 0.1), (0.1, -0.16, 0.09), (0.68, -0.14, 0.065),
        (0.16, -0.78, 0.075), (-0.42, -0.6, 0.07), (-0.24, -0.12, 0.05), (-0.78, -0.12, 0.045),
    ):
        x, y, r = x + u(-0.04, 0.04), y + u(-0.03, 0.03), r * size
        spot = ellipse(x * wide, -0.06 + y * dome, r * (1 - 0.35 * abs(x)), r * 0.85, 30 * x)
        shapes.append(Shape("spots", spot, mix(flesh, CREAM, 0.5), relief=0.6))
    return shapes
