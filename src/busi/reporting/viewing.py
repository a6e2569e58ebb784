"""What a person is shown of one image: the part that is the scan, the heat map over it, and how far to trust a
probability.

Images are gray levels, uint8 (height, width), as `images.to_gray` gives them. A box is (left, top, right, bottom) in
pixels, the last two exclusive.
"""

import io
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from busi.data.layout import CLASSES
from busi.evaluation.metrics import wilson

Box = tuple[int, int, int, int]

# Viridis (van der Walt and Smith 2015): even to the eye, also to one that takes red for green, and in print
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))

BANDS = (0.0, 0.6, 0.8, 0.9, 1.0)  # of the largest probability; narrower ones would hold too few test images
CONFIDENCE = 0.95

_BLACK = 4  # gray levels up to this are black; JPEG leaves such noise on a black margin
_EMPTY = 0.01  # a line with at most this share of lit pixels is empty
_GAP = 0.006  # of the image's side: so many empty lines part the scan from the text beside it
_WORTH = 0.02  # of the image's side: less on every side is no margin to remove
_LEAST = 0.1  # of the image's area: what would leave less is no scan


class TrackRecord(NamedTuple):
    """Of `n` test images whose largest probability lay in the band `above` to `up_to`, `right` were classified right;
    `low` to `high` is the interval of that share at `CONFIDENCE`."""

    above: float
    up_to: float
    right: int
    n: int
    low: float
    high: float


def whole(gray: np.ndarray) -> Box:
    return 0, 0, gray.shape[1], gray.shape[0]


def scan_box(gray: np.ndarray) -> Box:
    """Propose the rectangle of the scan: without black margins, and without text that a black gap parts from it.

    The longest stretch of lines without a gap is kept, of rows and columns in turn, until nothing changes. Gives the
    whole image where less than 2 % of a side would go, and where nothing would be left that could be a scan.
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


def fit(gray: np.ndarray, side: int) -> np.ndarray:
    """The image with no side longer than `side`; a smaller one as it is."""
    image = Image.fromarray(gray)
    image.thumbnail((side, side))
    return np.asarray(image)


def outlined(gray: np.ndarray, box: Box, side: int) -> np.ndarray:
    """The image, no side longer than `side`, with what lies outside the box dimmed and the box drawn; uint8
    (height, width, 3)."""
    full_height, full_width = gray.shape
    gray = fit(gray, side)
    across, down = gray.shape[1] / full_width, gray.shape[0] / full_height
    left, top, right, bottom = (round(at * scale) for at, scale in zip(box, (across, down) * 2, strict=True))
    found = np.repeat((gray // 3)[:, :, np.newaxis], 3, axis=2)
    line = max(2, max(gray.shape) // 150)
    found[max(0, top - line) : bottom + line, max(0, left - line) : right + line] = RAMP[-1]
    found[top:bottom, left:right] = gray[top:bottom, left:right, np.newaxis]
    return found


def blend(gray: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """The image under its heat map, uint8 (height, width, 3): the hotter, the less of the image shows through.

    Args:
        gray: the image.
        heat: float32 of the same shape, 0 to 1.
        opacity: 0 to 1; of the hottest pixel.
    """
    heat = np.clip(heat, 0, 1)
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(heat, stops, [colour[i] for colour in RAMP]) for i in range(3)], axis=-1)
    cover = (opacity * heat)[:, :, np.newaxis]
    return np.rint(gray[:, :, np.newaxis] * (1 - cover) + colours * cover).astype(np.uint8)


def track_record(predictions: pd.DataFrame, probability: float) -> TrackRecord:
    """How often the model was right on test images when it was about as sure as `probability`, its largest one.

    Args:
        predictions: the content of `predictions.csv`: `label`, `predicted` and a probability a class.
        probability: 0 to 1.
    """
    upper = min(int(np.searchsorted(BANDS, probability)), len(BANDS) - 1)
    above, up_to = BANDS[max(upper, 1) - 1], BANDS[max(upper, 1)]
    largest = predictions[list(CLASSES)].max(axis=1)
    alike = predictions[(largest > above) & ((largest <= up_to) | (up_to == BANDS[-1]))]
    right, n = int((alike["label"] == alike["predicted"]).sum()), len(alike)
    low, high = wilson(right, n, CONFIDENCE) if n else (0.0, 1.0)
    return TrackRecord(above, up_to, right, n, low, high)


def _longest(share_lit: np.ndarray, gap: float) -> tuple[int, int]:
    """Start and end of the longest stretch of lines that no `gap` of empty ones interrupts; all where all are empty."""
    lit = np.flatnonzero(share_lit > _EMPTY)
    if not len(lit):
        return 0, len(share_lit)
    parts = np.split(lit, np.flatnonzero(np.diff(lit) > gap) + 1)
    longest = max(parts, key=lambda part: part[-1] - part[0])
    return int(longest[0]), int(longest[-1]) + 1
