"""What the app and the report show of one image: the box of its scan, the heat map, the track record of a probability.

Images are gray levels, uint8 (height, width), as `images.to_gray` gives them. A box is (left, top, right, bottom) in
pixels, the last two exclusive.
"""

import io
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from busi.data.layout import CLASSES
from busi.evaluation.resampling import wilson_share

Box = tuple[int, int, int, int]

# Viridis (van der Walt and Smith 2015): even steps of brightness, so its order shows in gray and to the colour-blind
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

BANDS = (0.0, 0.6, 0.8, 0.9, 1.0)  # of the largest probability; narrower bands would hold too few test images
CONFIDENCE = 0.95  # of the app's intervals, which belong to no run and so to no parameter

_BLACK = 4  # gray levels up to this count as black; JPEG leaves such noise on black margins
_EMPTY = 0.01  # a row or column with at most this share of lit pixels is empty
_GAP = 0.006  # of the image's side; a longer stretch of empty lines separates the scan from text beside it
_WORTH = 0.02  # of the image's side; narrower margins stay
_LEAST = 0.1  # of the image's area; a smaller box is not taken for a scan


class TrackRecord(NamedTuple):
    """How often the model was right on the `n` test images whose largest probability lay in one band.

    The band is `above` (exclusive) to `up_to`. `right` of the n images were classified right. `low` to `high` is the
    Wilson interval of that share at `CONFIDENCE`; 0 to 1 where n is 0.
    """

    above: float
    up_to: float
    right: int
    n: int
    low: float
    high: float


def whole(gray: np.ndarray) -> Box:
    """The box of the whole image."""
    return 0, 0, gray.shape[1], gray.shape[0]


def scan_box(gray: np.ndarray) -> Box:
    """Propose the box of the scan, without black margins and without text that a black gap separates from it.

    Keeps the longest stretch of lines without a gap, of rows and columns in turn, until nothing changes. Gives the
    whole image where every margin is below 2 % of its side, and where the box would be too small for a scan.
    """
    height, width = gray.shape
    lit = gray > _BLACK
    left, top, right, bottom = before = whole(gray)
    while True:
        start, end = _longest(lit[top:bottom, left:right].mean(axis=1), max(2, _GAP * height))
        top, bottom = top + start, top + end
        start, end = _longest(lit[top:bottom, left:right].mean(axis=0), max(2, _GAP * width))
        left, right = left + start, left + end
        if (left, top, right, bottom) == before:
            break
        before = left, top, right, bottom
    removed = max(left / width, 1 - right / width, top / height, 1 - bottom / height)
    remaining = (right - left) * (bottom - top) / (width * height)
    return before if removed >= _WORTH and remaining >= _LEAST else whole(gray)


def png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (height, width) or (height, width, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def shrink(gray: np.ndarray, side: int) -> np.ndarray:
    """The image reduced until no side is longer than `side`; a smaller one as it is."""
    image = Image.fromarray(gray)
    image.thumbnail((side, side))
    return np.asarray(image)


def outlined(gray: np.ndarray, box: Box, side: int) -> np.ndarray:
    """The image as by `shrink`, with the box drawn and everything outside it dimmed; uint8 (height, width, 3)."""
    full_height, full_width = gray.shape
    gray = shrink(gray, side)
    across, down = gray.shape[1] / full_width, gray.shape[0] / full_height
    left, top, right, bottom = (round(at * scale) for at, scale in zip(box, (across, down) * 2, strict=True))
    found = np.repeat((gray // 3)[:, :, np.newaxis], 3, axis=2)
    line = max(2, max(gray.shape) // 150)
    found[max(0, top - line) : bottom + line, max(0, left - line) : right + line] = RAMP[-1]
    found[top:bottom, left:right] = gray[top:bottom, left:right, np.newaxis]
    return found


def blend(gray: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """The image under its heat map, uint8 (height, width, 3). A hotter pixel covers more of the image.

    Args:
        gray: the image.
        heat: float32 of the same shape, 0 to 1; other values are clipped.
        opacity: 0 to 1, of the hottest pixel.
    """
    heat = np.clip(heat, 0, 1)
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(heat, stops, [colour[i] for colour in RAMP]) for i in range(3)], axis=-1)
    cover = (opacity * heat)[:, :, np.newaxis]
    return np.rint(gray[:, :, np.newaxis] * (1 - cover) + colours * cover).astype(np.uint8)


def track_record(predictions: pd.DataFrame, probability: float) -> TrackRecord:
    """How often the model was right on the test images whose largest probability lay in the same band.

    Args:
        predictions: the content of `predictions.csv`: `label`, `predicted` and a probability a class.
        probability: the largest one of the image in question, 0 to 1.
    """
    upper = min(int(np.searchsorted(BANDS, probability)), len(BANDS) - 1)
    above, up_to = BANDS[max(upper, 1) - 1], BANDS[max(upper, 1)]
    largest = predictions[list(CLASSES)].max(axis=1)
    alike = predictions[(largest > above) & ((largest <= up_to) | (up_to == BANDS[-1]))]
    right, n = int((alike["label"] == alike["predicted"]).sum()), len(alike)
    low, high = wilson_share(right, n, CONFIDENCE)[1:3] if n else (0.0, 1.0)
    return TrackRecord(above, up_to, right, n, low, high)


def _longest(share_lit: np.ndarray, gap: float) -> tuple[int, int]:
    """Start and end of the longest stretch of lines without a `gap` of empty ones; all lines where all are empty."""
    lit = np.flatnonzero(share_lit > _EMPTY)
    if not len(lit):
        return 0, len(share_lit)
    parts = np.split(lit, np.flatnonzero(np.diff(lit) > gap) + 1)
    longest = max(parts, key=lambda part: part[-1] - part[0])
    return int(longest[0]), int(longest[-1]) + 1
