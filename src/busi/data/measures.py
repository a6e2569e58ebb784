"""The measures of one image: size, gray levels, saturation, lesion fraction, burnt-in marks.

Every figure is a quotient of integer sums rounded to six digits, so it is the same on every processor.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from busi.data.duplicates import fingerprint
from busi.data.images import to_gray
from busi.data.listing import ImageFiles, Problem
from busi.data.masks import lesion_union, try_read

SATURATED = 250  # gray level from which a pixel counts as saturated
COLOURED, COLOURED_PIXELS = 48, 20  # signs of burnt-in marks, in gray levels and pixels: see `looks_annotated`
BRIGHT, CONTRAST, STROKE_PIXELS = 220, 100, 6
_DIGITS = 6


def measure_image(folder: Path, image: ImageFiles) -> tuple[dict | None, np.ndarray | None, list[Problem]]:
    """Row, fingerprint and problems of one image; row and fingerprint are None when it cannot be read."""
    path = f"{image.label}/{image.name}"
    problems = []
    picture, reason = try_read(folder / path)
    if picture is None:
        problems.append(Problem(path, "unreadable_image", reason))
    union, wrong = lesion_union(folder, image, picture and picture.size)
    problems += wrong
    if picture is None:
        return None, None, problems

    gray = to_gray(picture)
    count = gray.size
    histogram = Image.fromarray(gray).histogram()
    total = sum(level * pixels for level, pixels in enumerate(histogram))
    squares = sum(level * level * pixels for level, pixels in enumerate(histogram))
    with (folder / path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    row = {
        "path": path,
        "label": image.label,
        "sha256": sha256,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "format": picture.format,
        "mask_count": len(image.masks),
        "lesion_fraction": math.nan if union is None else round(int(np.count_nonzero(union)) / count, _DIGITS),
        "mean": round(total / count, _DIGITS),
        "std": round(math.sqrt(count * squares - total * total) / count, _DIGITS),
        "saturated": round(sum(histogram[SATURATED:]) / count, _DIGITS),
        "annotated": looks_annotated(picture, gray),
    }
    return row, fingerprint(gray), problems


def looks_annotated(image: Image.Image, gray: np.ndarray) -> bool:
    """Whether burnt-in marks (calipers, text, arrows, boxes) are likely; a hint, not a finding.

    Either of two signs suffices: at least `COLOURED_PIXELS` pixels whose channels differ by `COLOURED` or more (tissue
    is gray), or at least `STROKE_PIXELS` pixels of bright vertical strokes: `BRIGHT` or more, and above the pixels
    three columns to the left and to the right by more than `CONTRAST` (bright tissue lies in layers and fades slowly).
    The numbers were chosen on 149 native BUSI images, where they find all 22 that show marks and one that does not.

    Args:
        image: as read.
        gray: its gray levels, uint8 of shape (H, W).
    """
    if image.mode not in ("1", "L", "LA") and not image.mode.startswith("I"):
        # By way of RGBA, since Pillow warns of a palette with transparency that is to become RGB
        opaque = image.convert("RGBA") if image.mode in ("P", "PA") else image
        red, green, blue = opaque.convert("RGB").split()
        spread = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
        if sum(spread.histogram()[COLOURED:]) >= COLOURED_PIXELS:
            return True
    if gray.shape[1] < 7:
        return False
    centre, left, right = gray[:, 3:-3], gray[:, :-6], gray[:, 6:]
    limit = centre - np.uint8(CONTRAST)  # wraps below `CONTRAST`, where `centre >= BRIGHT` is false anyway
    return int(np.count_nonzero((centre >= BRIGHT) & (left < limit) & (right < limit))) >= STROKE_PIXELS
