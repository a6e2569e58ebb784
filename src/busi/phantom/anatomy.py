"""A breast without lesion: skin, fat, gland, pectoral muscle and ribs, each with its echoes and its absorption.

`add_clutter` makes breasts differ more from one another, for pretraining.
"""

import numpy as np

from busi.phantom.physics import FAT, Tissue, absorb
from busi.phantom.random_fields import between, curve, smooth_field, threads
from busi.phantom.shapes import blurred, closed_outline, fill


def draw_anatomy(rng: np.random.Generator, rows: int, columns: int) -> Tissue:
    """A breast without lesion on a grid of `rows` x `columns`."""
    skin = between(rng, 0.015, 0.035)
    gland = between(rng, 0.10, 0.34)
    retro = gland + between(rng, 0.22, 0.42)
    muscle = retro + between(rng, 0.02, 0.10)
    chest = muscle + between(rng, 0.12, 0.30)
    sway = between(rng, 0.02, 0.12)
    borders = [
        round(depth * rows) + curve(rng, columns, cells, part * rows)
        for depth, cells, part in (
            (skin, 2, 0.004),
            (gland, 3, sway),
            (retro, 3, 0.06),
            (muscle, 2, 0.03),
            (chest, 2, 0.05),
        )
    ]
    depth = np.arange(rows, dtype=np.int32)[:, None]
    layer = sum((depth >= border).astype(np.uint8) for border in borders)

    def field(cell_rows: float, cell_columns: float) -> np.ndarray:
        return smooth_field(rng, rows, columns, max(2, round(cell_rows * rows)), max(2, round(cell_columns * columns)))

    # subcutaneous fat: even, with the bright threads of Cooper's ligaments around its lobules
    fat = (field(0.03, 0.05) - 128) * 16 // 128
    # gland: bright tissue with dark lobules and ducts, stretched along the skin
    grain = field(0.035, 0.09) + field(0.014, 0.04)
    contrast = int(rng.integers(12, 30))
    parenchyma = (
        int(rng.integers(4, 34)) + (grain - 256) * contrast // 128 - np.clip(200 - grain, 0, 60) * contrast // 40
    )
    # muscle: dark with bright fibres
    fibre = int(rng.integers(-54, -20)) + threads(field(0.022, 0.35), 16, 30) + (field(0.02, 0.2) - 128) * 24 // 128
    behind = int(rng.integers(-90, -44)) + (field(0.05, 0.15) - 128) * 20 // 128
    surface = 20 + field(0.006, 0.3) // 6
    echo = FAT + np.choose(layer, (surface, fat, parenchyma, fat - 8, fibre, behind)).astype(np.int32)

    # what reflects as a mirror does: ligaments, fibres, fasciae between the layers
    ligaments = threads(field(0.10, 0.45), 3, 60)
    strands = threads(field(0.04, 0.30), 4, 44)
    fibres = threads(field(0.025, 0.45), 7, 48)
    mirror = np.choose(layer, (0, ligaments, strands, ligaments, fibres, 0)).astype(np.int32)
    mirror = np.where(field(0.02, 0.05) > int(rng.integers(70, 130)), mirror, 0)
    for border, height in zip(borders, (26, 44, 30, 66, 70), strict=True):
        strength = np.clip(curve(rng, columns, 5, 2 * height) + height // 3, 0, 80)
        mirror = np.maximum(mirror, np.where(abs(depth - border) <= 1, strength, 0))
    # no reflector is even: each patch faces the beam more or less
    mirror = np.where(mirror > 0, mirror + (field(0.012, 0.03) - 150) * 50 // 128, 0)

    absorption = np.where(layer == 5, 256 * 60 // rows, 0).astype(np.int32)
    for _ in range(int(rng.integers(0, 3))):
        _lobule(rng, rows, columns, round(gland * rows), round(retro * rows), echo)
    for _ in range(int(rng.integers(0, 3))):
        _cooper_shadow(rng, rows, columns, absorption)
    if rng.random() < 0.15:
        _poor_contact(rng, rows, columns, absorption)
    if rng.random() < 0.40:
        _ribs(rng, rows, columns, max(round(muscle * rows), rows * 6 // 10), echo, absorption)

    # the layers lie tilted and bent together
    tilt = np.arange(columns) * round(between(rng, -0.09, 0.09) * rows) // columns
    bend = curve(rng, columns, 2, between(rng, 0.02, 0.12) * rows) + tilt
    source = np.clip(depth - bend + int(bend.min() + bend.max()) // 2, 0, rows - 1)
    return Tissue(*(np.take_along_axis(part, source, 0) for part in (echo, mirror, absorption)))


def add_clutter(rng: np.random.Generator, tissue: Tissue) -> None:
    """Add, in place, what a breast has besides its layers: uneven tissue, lobules, ligaments and shadows."""
    echo, mirror, absorption = tissue
    rows, columns = echo.shape
    depth = np.arange(rows, dtype=np.int32)[:, None]

    def field(cell_rows: float, cell_columns: float) -> np.ndarray:
        return smooth_field(rng, rows, columns, max(2, round(cell_rows * rows)), max(2, round(cell_columns * columns)))

    # tissue that is brighter here and darker there
    echo += (field(between(rng, 0.12, 0.4), between(rng, 0.15, 0.5)) - 128) * int(rng.integers(0, 70)) // 128
    for _ in range(int(rng.integers(0, 6))):
        _lobule(rng, rows, columns, round(0.04 * rows), round(0.8 * rows), echo)
    # ligaments and fasciae, each family of them bent and tilted in its own way and only in places
    for _ in range(int(rng.integers(1, 6))):
        course = field(between(rng, 0.025, 0.12), between(rng, 0.15, 0.8))
        lines = threads(course, int(rng.integers(3, 11)), int(rng.integers(30, 96)))
        lines = np.where(field(0.15, 0.15) > int(rng.integers(40, 150)), lines, 0)
        tilt = np.arange(columns) * round(between(rng, -0.25, 0.25) * rows) // columns
        bend = curve(rng, columns, int(rng.integers(1, 5)), between(rng, 0.03, 0.3) * rows) + tilt
        lines = np.take_along_axis(lines, (depth - bend) % rows, 0)
        echo += lines * int(rng.integers(100, 257)) // 256
        np.maximum(mirror, lines * int(rng.integers(0, 200)) // 256, out=mirror)
    # shadows, and a picture that gets darker with depth
    for _ in range(int(rng.integers(0, 6))):
        _cooper_shadow(rng, rows, columns, absorption)
    streaks = np.clip(curve(rng, columns, int(rng.integers(3, 14)), 512 * between(rng, 0.0, 90)), 0, None)
    absorption += streaks // (2 * rows)
    absorption += 256 * int(rng.integers(0, 110)) // rows


def _lobule(rng: np.random.Generator, rows: int, columns: int, top: int, bottom: int, echo: np.ndarray) -> None:
    """A fat lobule within the gland: oval, about as bright as fat, with a soft border. It resembles a lesion."""
    wide, high = between(rng, 0.04, 0.12) * columns, between(rng, 0.02, 0.06) * rows
    x, y = between(rng, 0.1, 0.9) * columns, between(rng, top, bottom)
    alpha = blurred(fill([closed_outline(rng, "oval", "circumscribed", (x, y), (wide, high), 0.0)], rows, columns), 1.5)
    level = FAT + int(rng.integers(-26, 8))
    echo += (level - echo) * alpha // 255


def _cooper_shadow(rng: np.random.Generator, rows: int, columns: int, absorption: np.ndarray) -> None:
    """The faint shadow that a ligament throws when the beam meets it at a slant."""
    x, y = between(rng, 0.0, 1.0) * columns, between(rng, 0.05, 0.45) * rows
    size = (between(rng, 0.012, 0.05) * columns, between(rng, 0.02, 0.05) * rows)
    alpha = blurred(fill([closed_outline(rng, "oval", "angular", (x, y), size, 0.0)], rows, columns), 3)
    absorb(absorption, alpha, round(between(rng, 8, 32)))


def _poor_contact(rng: np.random.Generator, rows: int, columns: int, absorption: np.ndarray) -> None:
    """One edge of the probe lost contact with the skin: dark from the top."""
    reach = between(rng, 0.04, 0.18) * columns
    x = 0 if rng.integers(2) else columns
    edge = closed_outline(rng, "oval", "circumscribed", (x, 0.06 * rows), (reach, 0.1 * rows), 0.0)
    absorb(absorption, blurred(fill([edge], rows, columns), 8), round(between(rng, 40, 130)))


def _ribs(
    rng: np.random.Generator, rows: int, columns: int, top: int, echo: np.ndarray, absorption: np.ndarray
) -> None:
    """One or two ribs: a bright surface and hardly any echo behind it."""
    for _ in range(int(rng.integers(1, 3))):
        size = (between(rng, 0.10, 0.22) * columns, between(rng, 0.05, 0.10) * rows)
        centre = (between(rng, 0.0, 1.0) * columns, between(rng, top + size[1], rows * 1.02))
        rib = fill([closed_outline(rng, "oval", "circumscribed", centre, size, 0.0)], rows, columns)
        surface = rib.copy()
        surface[3:] -= np.minimum(rib[:-3], rib[3:])
        echo += -40 * blurred(rib, 1) // 255
        echo += 80 * blurred(surface, 1) // 255
        absorb(absorption, blurred(rib, 2), round(between(rng, 60, 130)))
