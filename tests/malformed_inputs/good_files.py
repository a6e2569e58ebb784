"""What is mutated: one image of each format, and a data set in BUSI's layout."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from busi.data.layout import CLASSES
from tests.bad_images import encoded, in_mode, pixels


class Case(NamedTuple):
    """One malformed file: what was done to it, the name it comes under, its bytes."""

    what: str
    name: str
    content: bytes


@functools.cache
def good_images() -> tuple[tuple[str, bytes], ...]:
    """Whole images of every format and pixel type that is read, each small."""
    gray = pixels(1)
    picture = Image.fromarray(gray)
    exif = picture.getexif()
    exif.update({0x010E: "a lesion", 0x0112: 6, 0x8769: {0x9003: "2020:01:01 00:00:00"}})
    made = [(f"PNG {mode}", in_mode(mode, gray)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    made.append(("PNG with EXIF and a text", encoded(picture, exif=exif, dpi=(72, 72))))
    made.append(("PNG keyed", encoded(gray, transparency=200)))
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            kind = "JPEG progressive" if progressive else "JPEG"
            options = {"quality": 90, "progressive": progressive, "exif": exif}
            made.append((f"{kind} {mode}", encoded(picture.convert(mode), "JPEG", **options)))
    made += [(f"BMP {mode}", encoded(picture.convert(mode), "BMP")) for mode in ("1", "L", "P", "RGB", "RGBA")]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made.append((f"TIFF {compression}", encoded(picture.convert("RGB"), "TIFF", compression=compression)))
    made.append(("TIFF I;16", encoded(gray.astype(np.uint16) * 257, "TIFF")))
    frames = [Image.fromarray(np.roll(gray, n, 0)) for n in range(3)]
    made.append(("TIFF of frames", encoded(picture, "TIFF", save_all=True, append_images=frames)))
    made.append(("PNG of frames", encoded(picture, save_all=True, append_images=frames)))
    return tuple(made)


@functools.cache
def good_set() -> tuple[tuple[str, bytes], ...]:
    """Two images a class and their masks."""
    return tuple(
        (f"{label}/{label} ({n}){mask}.png", encoded(pixels(10 * row + n, 24, 20)))
        for row, label in enumerate(CLASSES)
        for n in (1, 2)
        for mask in ("", "_mask")
    )


def write_set(folder: Path) -> None:
    for name, content in good_set():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
