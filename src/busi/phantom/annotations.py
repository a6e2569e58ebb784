"""Calipers and text burnt into an image, as sonographers leave them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from busi.phantom.random_fields import between
from busi.phantom.shapes import bounding_box

TEXTS = ("LEFT BREAST", "RIGHT BREAST", "RT 12 C", "LT 3 C", "RT2", "LT", "RT", "LT UOQ", "RT 9 C", "AXILLA", "LT 6 C")


def annotate(rng: np.random.Generator, image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Burn calipers, text or both into a copy of `image`; without a lesion the calipers measure some other spot."""
    height, width = image.shape
    canvas = Image.fromarray(image)
    calipers = rng.random() < 0.6
    if calipers:
        if masks:
            y0, x0, y1, x1 = bounding_box(masks[0])
        else:
            half_x, half_y = int(between(rng, 0.04, 0.16) * width), int(between(rng, 0.03, 0.12) * height)
            x, y = int(between(rng, 0.3, 0.7) * width), int(between(rng, 0.25, 0.6) * height)
            y0, x0, y1, x1 = y - half_y, x - half_x, y + half_y, x + half_x
        tilt = int(rng.integers(-(y1 - y0) // 6 - 1, (y1 - y0) // 6 + 2))
        middle_y, middle_x = (y0 + y1) // 2, (x0 + x1) // 2
        _caliper(canvas, (x0, middle_y - tilt), (x1, middle_y + tilt), "1")
        if rng.random() < 0.6:
            _caliper(canvas, (middle_x + tilt, y0), (middle_x - tilt, y1), "2")
    if not calipers or rng.random() < 0.5:
        text = TEXTS[int(rng.integers(len(TEXTS)))]
        _text(canvas, (int(between(rng, 0.0, 0.6) * width), int(between(rng, 0.6, 0.92) * height)), text, height)
    return np.asarray(canvas)


def _caliper(canvas: Image.Image, start: tuple[int, int], end: tuple[int, int], name: str) -> None:
    """Two crosses joined by a dotted line, and the measurement's number."""
    draw = ImageDraw.Draw(canvas)
    arm = max(2, canvas.height // 90)
    for x, y in (start, end):
        draw.rectangle((x - arm, y, x + arm, y), fill=235)
        draw.rectangle((x, y - arm, x, y + arm), fill=235)
    dots = max(1, max(abs(end[0] - start[0]), abs(end[1] - start[1])) // 5)
    for dot in range(dots):
        x, y = (start[k] + (end[k] - start[k]) * dot // dots for k in (0, 1))
        draw.point((x, y), fill=215)
    _text(canvas, (start[0] - 3 * arm, start[1] - 3 * arm), name, canvas.height)


def _text(canvas: Image.Image, corner: tuple[int, int], text: str, height: int) -> None:
    # the bitmap font: an outline font's pixels depend on the version of FreeType
    font = ImageFont.load_default_imagefont()
    _, _, w, h = font.getbbox(text)
    mask = Image.new("L", (w, h))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    scaled = mask.resize((max(1, w * height // 270), max(1, h * height // 270)), Image.Resampling.BILINEAR)
    canvas.paste(225, corner, scaled)
