"""Random numbers, curves and fields that come out the same on every processor.

Every value that a pixel depends on is drawn as an integer, or rounded before a pixel sees it; Pillow resizes 8-bit
images in fixed point.
"""

import numpy as np
from PIL import Image


def generator_for(seed: int, *name: str | int) -> np.random.Generator:
    """A generator of its own for each name, so that no draw depends on what was drawn elsewhere."""
    words = [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in name]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from `low` to `high`."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, chances: dict):
    """One of the keys, by its chance; the chances add up to one."""
    left = rng.random()
    for value, chance in chances.items():
        left -= chance
        if left < 0:
            return value
    return value


def curve(rng: np.random.Generator, columns: int, cells: int, amplitude: float) -> np.ndarray:
    """A smooth random curve over the columns, within about -amplitude/2 to amplitude/2 rows; int32 (columns,)."""
    knots = rng.integers(0, 256, (1, cells + 3), np.uint8)
    # begin between knots, so that curves don't all have their crests in the same columns
    start = int(rng.integers(16)) / 16
    box = (start, 0, start + cells + 2, 1)
    line = np.asarray(Image.fromarray(knots).resize((columns, 1), Image.Resampling.BICUBIC, box))[0].astype(np.int32)
    return (line - 128) * round(256 * amplitude) >> 16


def smooth_field(rng: np.random.Generator, rows: int, columns: int, cell_rows: int, cell_columns: int) -> np.ndarray:
    """A smooth random field with cells of about the given size; int32 (rows, columns), 0-255."""
    knots = rng.integers(0, 256, (rows // cell_rows + 2, columns // cell_columns + 2), np.uint8)
    return np.asarray(Image.fromarray(knots).resize((columns, rows), Image.Resampling.BICUBIC)).astype(np.int32)


def threads(field: np.ndarray, half_width: int, height: int) -> np.ndarray:
    """Bright threads along the middle contour of a 0-255 field."""
    return np.clip(half_width - abs(field - 128), 0, None) * height // half_width
