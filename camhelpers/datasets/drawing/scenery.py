"""What is behind the objects: skies, hills, meadows and seas, and the small things in them."""
# fmt: off

import numpy as np

from .shapes import (  # isort: skip
    CREAM, INK, PALETTE, Shape, ellipse, flat, limb, mix, noise, rgb, rounded, scallops, smoothstep, spline, stroke,
    turned,
)

# Sky above, sky at the horizon, far hills, near ground.
_THEMES = np.array([
    [(126, 184, 222), (226, 238, 236), (148, 184, 172), (134, 172, 104)],
    [(158, 200, 226), (250, 236, 210), (184, 190, 160), (196, 184, 112)],
    [(236, 172, 140), (252, 226, 186), (190, 142, 150), (176, 146, 118)],
    [(134, 144, 192), (244, 206, 196), (150, 144, 178), (128, 146, 128)],
    [(150, 206, 214), (236, 244, 232), (120, 178, 190), (124, 186, 156)],
    [(178, 206, 224), (244, 244, 246), (196, 210, 222), (232, 236, 240)],
    [(212, 220, 196), (250, 244, 220), (186, 178, 132), (212, 172, 110)],
    [(196, 178, 216), (246, 226, 226), (176, 166, 200), (160, 186, 140)],
    [(116, 146, 186), (206, 218, 222), (122, 154, 166), (116, 156, 128)],
    [(246, 212, 160), (252, 240, 214), (214, 176, 130), (186, 150, 116)],
], np.float32) / 255


def scenery(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
    """A sky with clouds over hills and a meadow or a sea: picture, main colours, height of the horizon, whether sea."""
    above, low, far, near = rng.choice(_THEMES) + rng.uniform(-0.04, 0.04, (4, 3)).astype(np.float32)
    horizon = rng.uniform(0.42, 0.66)
    rows = np.arange(size, dtype=np.float32)[:, None] / size
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    picture = above + (low - above) * np.clip(y / horizon, 0, 1) ** 1.2 + np.zeros((1, size, 1), np.float32)
    clouds = smoothstep(noise(rng, size, 2, 32, 2.2), rng.uniform(-0.2, 0.6), 2.0)[..., None] * rng.uniform(0.3, 0.85)
    picture += (np.float32(0.99) - picture) * clouds.astype(np.float32)
    if rng.random() < 0.5:
        high, across = rng.uniform((0.05, 0.05), (0.3, 0.95)).astype(np.float32)
        sun = np.hypot(rows - high, rows.T - across)
        glow = 0.45 * np.exp(-((sun / 0.18) ** 2)) + 0.5 * smoothstep(-sun, -0.075, -0.06)
        picture += (rgb(1.0, 0.96, 0.82) - picture) * glow[..., None]
    x, count = np.linspace(0, 1, size), rng.integers(1, 4)
    for i in range(count):
        waves = sum(rng.uniform(0.1, 1) / f * np.sin(2 * np.pi * (f * x + rng.random())) for f in (1, 2, 4))
        ridge = horizon - 0.05 * (count - i) + 0.035 * waves
        top = max(int(ridge.min() * size) - 1, 0)
        hill = np.clip((rows[top:] - ridge[None].astype(np.float32)) * size, 0, 1)[..., None]
        picture[top:] += (mix(mix(far, low, 0.45), far, (i + 1) / count) - picture[top:]) * hill
    sea = rng.random() < 0.25
    ridge = horizon + (0 if sea else 0.03) * np.sin(2 * np.pi * (x * rng.uniform(0.4, 1.1) + rng.random()))
    depth = np.clip((rows - ridge[None].astype(np.float32)) / 0.4, 0, 1)[..., None]
    ground = mix(near, far, 0.45) + (near - mix(near, far, 0.45)) * depth
    ground = ground * (1 + (0.035 + 0.03 * depth) * noise(rng, size, 6, 96, 6.0 if sea else 2.0)[..., None])
    if sea:
        ground = mix(ground, rgb(0.42, 0.66, 0.74), 0.6)
    else:  # light and shade go across the meadow in broad sweeps
        ground = ground * (1 + 0.045 * noise(rng, size, 2, 4, 2.0)[..., None])
    picture += (ground - picture) * np.clip((rows - ridge[None].astype(np.float32)) * size, 0, 1)[..., None]
    return picture, np.stack([mix(above, low, 0.5), far, near]), horizon, sea


def _cloud(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    puff = scallops(x, y, 1.7 * r, 0.7 * r, int(rng.integers(7, 10)), 0.22, rng.uniform(0, 6))
    return [Shape("", puff, mix(CREAM, rgb(1, 1, 1), 0.6), outline=False, relief=0.5)]


def _leaf(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    tone, way = rng.choice(PALETTE), rng.uniform(0, 360)
    blade = spline([(x - r, y), (x - 0.2 * r, y - 0.42 * r), (x + r, y), (x - 0.2 * r, y + 0.42 * r)])
    rib = limb([(x - 1.3 * r, y), (x, y + 0.05 * r), (x + 0.8 * r, y)], 0.12 * r, 0.05 * r)
    return [Shape("", turned(blade, way, (x, y)), tone, relief=0.8),
            flat("", turned(rib, way, (x, y)), mix(tone, INK, 0.45))]


def _flower(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    tone, green, n = rng.choice(PALETTE), mix(PALETTE[14], PALETTE[15], rng.random()), int(rng.integers(5, 8))
    petals = [turned(ellipse(x + 0.58 * r, y, 0.42 * r, 0.27 * r), 360 * i / n, (x, y)) for i in range(n)]
    return [stroke("", [(x, y), (x + 0.2 * r, y + r), (x, y + 2.2 * r)], green, 0.2 * r, 0.15 * r),
            *(Shape("", petal, tone, relief=0.6) for petal in petals),
            Shape("", ellipse(x, y, 0.28 * r), rgb(0.97, 0.82, 0.4), relief=0.6)]


def _grass(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    green = mix(PALETTE[14], PALETTE[rng.integers(12, 16)], rng.random())
    blades = [(rng.uniform(-1, 1), rng.uniform(0.9, 1.8)) for _ in range(6)]
    lines = [[(x + 0.3 * b * r, y), (x + 0.5 * b * r, y - 0.5 * h * r), (x + b * r, y - h * r)] for b, h in blades]
    return [stroke("", p, mix(green, INK, 0.02 * i), 0.22 * r, 0.03 * r) for i, p in enumerate(lines)]


def _stone(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    grey = mix(PALETTE[16], rng.choice(PALETTE), 0.25)
    angle, reach = np.linspace(0, 2 * np.pi, 8, endpoint=False), r * rng.uniform(0.85, 1.15, 8)
    return [Shape("", spline(np.stack([x + reach * np.cos(angle), y + 0.62 * reach * np.sin(angle)], 1)), grey)]


def _ball(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    tone = rng.choice(PALETTE)
    band = turned(ellipse(x, y, 0.75 * r, 0.22 * r), rng.uniform(0, 180), (x, y))
    return [Shape("", ellipse(x, y, 0.8 * r), tone), Shape("", band, mix(tone, CREAM, 0.6), outline=False, relief=0.3)]


def _star(rng: np.random.Generator, x: float, y: float, r: float) -> list[Shape]:
    angle = np.arange(10) * np.pi / 5
    spikes = np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(np.arange(10) % 2, r, 0.5 * r)[:, None]
    points = turned(rounded(spikes, 0.2 * r), rng.uniform(0, 72)) + np.array([x, y])
    return [Shape("", points, mix(rng.choice(PALETTE), CREAM, 0.3), relief=0.6)]


def distractors(rng: np.random.Generator, size: int, horizon: float, sea: bool) -> list[Shape]:
    """Clouds, leaves, flowers, grass, stones and balls, in pixels; none resembles a subject."""
    shapes: list[Shape] = []
    for _ in range(rng.integers(0, 3)):
        shapes += _cloud(rng, *rng.uniform((0.05, 0.05), (0.95, horizon - 0.12)) * size, rng.uniform(0.06, 0.11) * size)
    kinds = [_stone, _stone, _ball] if sea else [_flower, _flower, _grass, _grass, _stone, _ball]
    low = [(make, *rng.uniform((0.04, horizon + 0.08), (0.96, 0.97))) for make in rng.choice(kinds, rng.integers(4, 9))]
    high = rng.choice([_leaf, _leaf, _star], rng.integers(1, 5))
    air = [(make, *rng.uniform((0.04, 0.05), (0.96, 0.9))) for make in high]
    for make, x, y in sorted(low, key=lambda piece: piece[2]) + air:
        near = 0.6 + 0.7 * max(y - horizon, 0)
        shapes += make(rng, x * size, y * size, rng.uniform(0.045, 0.075) * near * size)
    return shapes
