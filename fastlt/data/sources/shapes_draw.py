"""Draws photograph-like images of shapes with NumPy and Pillow, in a few milliseconds each.

An image consists of a textured background, clutter, a drop shadow, the object (a silhouette filled with a surface
pattern), sometimes something in front of it, uneven light, and the effects of a camera: slight blur, sensor noise and
JPEG compression.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Field = np.ndarray  # float32 [H, W]
Point = tuple[float, float]  # x, y in pixels
SIDES = (64, 112)  # shortest and longest side of a picture, pixels

# A silhouette is a function of object coordinates (about -1..1, y down). It is negative inside, and near the outline it
# is roughly the distance to it. No silhouette is the mirror image of another, so flips keep the class.


def _triangle(x: Field, y: Field) -> Field:
    return np.maximum(y - 0.37, math.sqrt(0.75) * np.abs(x) - 0.5 * y - 0.595)


def _star(x: Field, y: Field) -> Field:
    wedge = 2 * math.pi / 5
    angle = np.abs((np.arctan2(x, y) + wedge / 2) % wedge - wedge / 2)  # maps every arm to one half of the first
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    (ax, ay), (bx, by) = (1.0, 0.0), (0.42 * math.cos(wedge / 2), 0.42 * math.sin(wedge / 2))
    length = math.hypot(bx - ax, by - ay)
    return ((px - ax) * (ay - by) + (py - ay) * (bx - ax)) / -length


def _cross(x: Field, y: Field) -> Field:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 0.92, ay - 0.3), np.maximum(ax - 0.3, ay - 0.92))


def _crescent(x: Field, y: Field) -> Field:
    return np.maximum(np.hypot(x + 0.1, y) - 0.92, 0.72 - np.hypot(x - 0.42, y))


def _heart(x: Field, y: Field) -> Field:
    ax = np.abs(x)
    lobes = np.hypot(ax - 0.42, y + 0.3) - 0.5
    return np.minimum(lobes, np.maximum((ax + (y - 0.93) * 0.93) * 0.73, -0.33 - y))


def _flower(x: Field, y: Field) -> Field:
    return (np.hypot(x, y) - 0.68 - 0.27 * np.cos(5 * np.arctan2(y, x))) * 0.6


def _hourglass(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(y) - 0.9, (np.abs(x) - 0.8 * np.abs(y) - 0.08) * 0.78)


def _arrow(x: Field, y: Field) -> Field:
    ay = np.abs(y)
    head = np.maximum(-x, (x - 0.95 + ay * 1.1) * 0.67)
    return np.minimum(head, np.maximum(np.maximum(x - 0.1, -0.95 - x), ay - 0.27))


SILHOUETTES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.82,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.74,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.68) - 0.25,
    "crescent": _crescent,
    "heart": _heart,
    "flower": _flower,
    "hourglass": _hourglass,
    "arrow": _arrow,
    "bar": lambda x, y: np.maximum(np.abs(x) - 0.98, np.abs(y) - 0.3),
}


def _wave(t: Field) -> Field:
    """Returns a soft square wave of period 1 between 0 and 1."""
    return np.clip(0.5 + 1.5 * np.sin(2 * math.pi * t), 0, 1)


# A surface pattern is the share of the second colour, 0..1, as a function of object coordinates.
PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "plain": lambda x, _: np.zeros_like(x),
    "striped": lambda x, _: _wave(x * 1.9),
    "dotted": lambda x, y: np.clip(2.5 * (np.cos(2 * math.pi * 1.7 * x) + np.cos(2 * math.pi * 1.7 * y) - 0.35), 0, 1),
}

# Grass, moss, earth, sand, stone, wood, sky, water, snow, brick: mean colours, 0..1.
_GROUNDS = np.array(
    [
        [0.36, 0.48, 0.22], [0.27, 0.36, 0.24], [0.40, 0.30, 0.22], [0.74, 0.65, 0.49], [0.52, 0.51, 0.50],
        [0.55, 0.39, 0.25], [0.58, 0.71, 0.84], [0.22, 0.40, 0.50], [0.86, 0.87, 0.89], [0.56, 0.30, 0.24],
    ],
    dtype=np.float32,
)  # fmt: skip


def _texture(rng: np.random.Generator, height: int, width: int) -> Field:
    """Returns noise of several octaves, about -1..1: the sum of random grids from coarse to fine, enlarged."""
    total = np.zeros((height, width), np.float32)
    roughness = rng.uniform(0.45, 0.8)
    stretch = rng.uniform(0.5, 2.0)  # grain along one axis, as in wood or water
    for octave in range(5):
        rows, columns = max(2, round(2 ** (octave + 1) * stretch)), max(2, round(2 ** (octave + 1) / stretch))
        grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
        total += roughness**octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return total / 2


def _frame(x: Field, y: Field, center: Point, radius: float, angle: float, squeeze: float) -> tuple[Field, Field]:
    """Converts pixel coordinates to object coordinates."""
    dx, dy = (x - center[0]) / radius, (y - center[1]) / radius
    c, s = math.cos(angle), math.sin(angle)
    return (c * dx + s * dy) / squeeze, (c * dy - s * dx) * squeeze


def _paint(image: np.ndarray, cover: Field, colour: np.ndarray) -> None:
    image += cover[..., None] * (colour - image)


def _clutter(rng: np.random.Generator, image: np.ndarray, x: Field, y: Field, size: float, center: Point) -> None:
    """Paints one blob or stick in a single soft colour."""
    u, v = _frame(x, y, center, size, rng.uniform(0, math.pi), math.sqrt(rng.uniform(1, 4)))
    cover = np.clip(0.5 - (np.hypot(u, v) - 1) * size, 0, 1)
    colour = _GROUNDS[rng.integers(len(_GROUNDS))] * np.float32(rng.uniform(0.5, 1.2))
    _paint(image, cover * np.float32(rng.uniform(0.7, 1)), colour + 0.1 * u[..., None])


def _colours(rng: np.random.Generator, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws two surface colours, float32 [3], that differ from each other; the first also differs from the ground."""
    while True:
        first, second = rng.uniform(0.05, 0.95, (2, 3)).astype(np.float32)
        if np.abs(first - ground).sum() > 0.7 and np.abs(first - second).sum() > 0.9:
            return first, second


def draw(rng: np.random.Generator, silhouette: str, pattern: str) -> bytes:
    """Draws one image; returns JPEG bytes (RGB, sides within SIDES).

    The image is a pure function of the generator's state, the silhouette (a key of SILHOUETTES) and the pattern (a key
    of PATTERNS).
    """
    height, width = (int(n) for n in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    short = min(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)

    ground = _GROUNDS[rng.integers(len(_GROUNDS))] + rng.normal(0, 0.05, 3).astype(np.float32)
    tint = rng.normal(0.12, 0.05, 3).astype(np.float32)
    image = ground + _texture(rng, height, width)[..., None] * tint

    radius = short * rng.uniform(0.33, 0.47)
    slack = max(0.0, 0.45 * short - 0.9 * radius)  # keeps the object in the central square that evaluation crops
    center = (width / 2 + rng.uniform(-slack, slack), height / 2 + rng.uniform(-slack, slack))
    for _ in range(rng.integers(0, 4)):
        place = (rng.uniform(0, width), rng.uniform(0, height))
        _clutter(rng, image, x, y, short * rng.uniform(0.04, 0.16), place)

    # Objects are mostly upright, as in photographs; arbitrary angles would take longer to learn than the demo lasts.
    angle, squeeze = rng.uniform(-0.5, 0.5), math.exp(rng.normal(0, 0.06))
    light = rng.uniform(0, 2 * math.pi)
    lx, ly = math.cos(light), math.sin(light)
    outline = SILHOUETTES[silhouette]

    offset = radius * rng.uniform(0.08, 0.3)
    behind = outline(*_frame(x, y, (center[0] - lx * offset, center[1] - ly * offset), radius, angle, squeeze))
    image *= 1 - np.float32(rng.uniform(0.25, 0.6)) * np.clip(0.5 - behind * 4, 0, 1)[..., None]

    u, v = _frame(x, y, center, radius, angle, squeeze)
    inside = outline(u, v)
    first, second = _colours(rng, ground)
    phase, turn, pitch = rng.uniform(0, 1, 2).tolist(), rng.uniform(0, math.pi), rng.uniform(0.85, 1.2)
    pu = pitch * (math.cos(turn) * u + math.sin(turn) * v) + phase[0]
    pv = pitch * (math.cos(turn) * v - math.sin(turn) * u) + phase[1]
    surface = first + PATTERNS[pattern](pu, pv)[..., None] * (second - first)
    slope = ((x - center[0]) * lx + (y - center[1]) * ly) / radius
    shade = 1 + 0.25 * slope - 0.35 * np.clip(1 + inside * 5, 0, 1) + 0.06 * _texture(rng, height, width)
    _paint(image, np.clip(0.5 - inside * radius, 0, 1), surface * shade[..., None])

    if rng.random() < 0.25:  # a leaf or a twig in front of the object's rim
        turn = rng.uniform(0, 2 * math.pi)
        place = (center[0] + 0.8 * radius * math.cos(turn), center[1] + 0.8 * radius * math.sin(turn))
        _clutter(rng, image, x, y, radius * rng.uniform(0.15, 0.32), place)

    across, down = rng.uniform(-0.25, 0.25, 2).tolist()
    daylight = rng.uniform(0.75, 1.15) * (1 + across * (x / width - 0.5) + down * (y / height - 0.5))
    image *= daylight[..., None]
    picture = Image.fromarray(np.clip(image * 255, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(rng.uniform(2, 8))
    picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=int(rng.integers(85, 91)))
    return out.getvalue()
