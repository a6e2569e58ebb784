"""One scan with its truth: anatomy, lesions and image formation put together.

A scan is made as a scanner makes it. `anatomy` gives maps of echogenicity and absorption, `lesion` changes both
according to BI-RADS descriptors, and `physics` turns them into speckle and grey levels. Scan conversion to the native
size follows: the work grid has one column for two pixels and two rows for three, as a scanner has fewer beams than the
screen has columns.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from busi.data.layout import CLASSES
from busi.phantom.anatomy import add_clutter, draw_anatomy
from busi.phantom.lesion import draw_descriptors, paint_lesion, place_lesion
from busi.phantom.physics import FAT, display, receive
from busi.phantom.random_fields import between
from busi.phantom.shapes import bounding_box

SECOND_LESION = 0.06  # chance to try for a second lesion; half the time there is room
MARGINS = 0.25  # share of scans with black margins


class Scan(NamedTuple):
    """One phantom with its truth.

    `image` is uint8 (height, width), 0-255. `masks` holds one uint8 (height, width) array of 0 and 255 a lesion, none
    for a normal scan. `descriptors` has `lesions` (their number) and, with a lesion, the keys of `DESCRIPTORS`, and
    `width_fraction` and `height_fraction`, the first lesion's size over the image's. `echogenicity`, uint8 (height,
    width), is how strongly the tissue scatters, before speckle, absorption and gain: 128 is fat, a grey level is half a
    decibel, 0 is no tissue.
    """

    image: np.ndarray
    masks: list[np.ndarray]
    descriptors: dict[str, str | int | float]
    echogenicity: np.ndarray


def render(rng: np.random.Generator, label: str, size: tuple[int, int] | None = None, varied: bool = False) -> Scan:
    """One scan without annotations.

    Args:
        rng: a PCG64 generator (`np.random.default_rng(seed)`); the scan is a function of its state.
        label: one of `layout.CLASSES`.
        size: width and height of the image in pixels, 64 or more each; None draws about 500 x 500.
        varied: as patients and scanners vary, for pretraining: a breast full of ligaments, lobules and shadows, a
            lesion that stands out more or less and may lie anywhere, other fading with depth, dynamic range and
            smoothing. The embedded data set is not varied.

    Raises:
        ValueError: for an unknown label or a size below 64 pixels.
    """
    if label not in CLASSES:
        raise ValueError(f"label: received {label!r}; expected one of {CLASSES}")
    canvas_width, canvas_height = size or (int(rng.integers(380, 701)), int(rng.integers(350, 601)))
    if min(canvas_width, canvas_height) < 64:
        raise ValueError(f"size: received {canvas_width} x {canvas_height}; expected 64 pixels a side or more")
    left, top, right, bottom = _margins(rng, canvas_width, canvas_height)
    width, height = canvas_width - left - right, canvas_height - top - bottom
    columns, rows = width // 2, height * 2 // 3

    tissue = draw_anatomy(rng, rows, columns)
    if varied:
        add_clutter(rng, tissue)
    masks = []
    descriptors: dict[str, str | int | float] = {"lesions": 0}
    if label != "normal":
        drawn = draw_descriptors(rng, label)
        for _ in range(2 if rng.random() < SECOND_LESION else 1):
            mask = place_lesion(rng, label, drawn, (height, width), masks, varied)
            if mask is None:
                break
            paint_lesion(rng, drawn, mask, tissue, varied)
            masks.append(mask)
        y0, x0, y1, x1 = bounding_box(masks[0])
        descriptors = {
            **drawn,
            "lesions": len(masks),
            "width_fraction": round((x1 - x0) / canvas_width, 4),
            "height_fraction": round((y1 - y0) / canvas_height, 4),
        }

    grey = display(rng, receive(rng, tissue), varied)
    image = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))
    scatter = Image.fromarray(np.clip(128 + (tissue.echo - FAT) // 2, 1, 255).astype(np.uint8))
    scatter = np.asarray(scatter.resize((width, height), Image.Resampling.NEAREST))
    frame = ((top, bottom), (left, right))
    return Scan(np.pad(image, frame), [np.pad(mask, frame) for mask in masks], descriptors, np.pad(scatter, frame))


def _margins(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Black margins left, top, right and bottom, in pixels: mostly none."""
    if rng.random() >= MARGINS:
        return 0, 0, 0, 0
    sides = (width, height, width, height)
    return tuple(int(side * between(rng, 0.01, 0.09)) if rng.random() < 0.4 else 0 for side in sides)
