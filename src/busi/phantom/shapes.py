"""Closed outlines, their filled masks and their soft borders, in integer arithmetic.

Outlines have coordinates in 1/16 pixel; masks are uint8 arrays of 0 and 255.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from busi.phantom.random_fields import between


def closed_outline(
    rng: np.random.Generator,
    shape: str,
    margin: str,
    centre: tuple[float, float],
    half: tuple[float, float],
    angle: float,
) -> np.ndarray:
    """A closed outline around `centre`: int64 (points, 2), x and y in 1/16 pixel."""
    points = int(rng.integers(7, 12)) if margin == "angular" else 144
    waves = range(2, 7) if shape == "irregular" else range(2, 4)
    strength = 0.19 if shape == "irregular" else 0.035
    harmonics = [(k, strength * between(rng, 0.4, 1.0) * (2 / k) ** 0.5, between(rng, 0.0, 2 * math.pi)) for k in waves]
    lobes, lobe_phase = int(rng.integers(4, 8)), between(rng, 0.0, math.pi)
    lobe = between(rng, 0.13, 0.22) if margin == "microlobulated" else 0.0
    outline = []
    for point in range(points):
        theta = 2 * math.pi * point / points
        radius = 1.0 + sum(a * math.cos(k * theta + phase) for k, a, phase in harmonics)
        # unevenly spaced and of uneven height
        bump = abs(math.sin(lobes * theta + lobe_phase + 1.3 * math.sin(theta + 2 * lobe_phase)))
        radius += lobe * (bump - 0.6) * (1.0 + 0.5 * math.sin(2 * theta + lobe_phase))
        if margin == "angular":
            theta += between(rng, -0.25, 0.25)
            radius *= between(rng, 0.72, 1.25)
        x, y = half[0] * radius * math.cos(theta), half[1] * radius * math.sin(theta)
        cos, sin = math.cos(angle), math.sin(angle)
        outline.append((round(16 * (centre[0] + x * cos - y * sin)), round(16 * (centre[1] + x * sin + y * cos))))
    return np.array(outline, np.int64)


def spicules(rng: np.random.Generator, core: np.ndarray, centre: tuple[float, float]) -> list[np.ndarray]:
    """Thin spikes that stand on the outline and point away from the centre."""
    spikes = []
    count = int(rng.integers(7, 14))
    middle = np.array([round(16 * c) for c in centre], np.int64)
    for spike in range(count):
        at = (spike * len(core) // count + int(rng.integers(0, 12))) % len(core)
        breadth = max(1, round(len(core) * between(rng, 0.016, 0.045)))
        reach = round(256 * between(rng, 1.25, 1.85))
        tip = middle + ((core[at] - middle) * reach >> 8)
        inner = [middle + ((core[(at + side) % len(core)] - middle) * 230 >> 8) for side in (-breadth, breadth)]
        spikes.append(np.array([inner[0], tip, inner[1]], np.int64))
    return spikes


def fill(polygons: Sequence[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Fill polygons given in 1/16 pixel; uint8 (rows, columns) of 0 and 255, in integer arithmetic throughout."""
    filled = np.zeros((rows, columns), bool)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        down = (start[:, 1] <= end[:, 1])[:, None]
        start, end = np.where(down, start, end), np.where(down, end, start)
        # an edge crosses the centres (16 r + 8) of the rows from `first` up to, not including, `last`
        first = np.clip((start[:, 1] + 7) // 16, 0, rows)
        last = np.clip((end[:, 1] + 7) // 16, 0, rows)
        edge = np.repeat(np.arange(len(polygon)), last - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
        dx, dy = (end - start)[edge].T
        x = start[edge, 0] * dy + dx * (16 * row + 8 - start[edge, 1])
        column = np.clip(-((8 * dy - x) // (16 * dy)), 0, columns)
        crossings = np.zeros((rows, columns + 1), np.uint8)
        np.add.at(crossings, (row, column), 1)
        filled |= (np.cumsum(crossings, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :-1]
    return filled.astype(np.uint8) * 255


def blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """A 0-255 mask smoothed by Pillow's fixed-point Gaussian; int32."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))).astype(np.int32)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a mask's filled part, the last two exclusive."""
    ys, xs = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1
