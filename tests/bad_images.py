"""Image files for tests: good ones, and every kind of bad one that a data set may hold."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from busi.data.layout import CLASSES, image_name, mask_name


def pixels(seed: int, width: int = 48, height: int = 40) -> np.ndarray:
    """Smooth random gray levels, uint8 (height, width), unlike those of another seed."""
    small = np.random.default_rng(seed).integers(20, 220, (5, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def in_mode(mode: str, gray: np.ndarray) -> bytes:
    """The gray image as a PNG of another pixel type."""
    picture = Image.fromarray(gray)
    match mode:
        case "I;16":
            return encoded(gray.astype(np.uint16) * 257)
        case "P":
            palette = picture.copy()
            palette.putpalette([level for level in range(256) for _ in range(3)])
            return encoded(palette)
        case _:
            return encoded(picture.convert(mode))


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A small PNG file whose header says `width` x `height`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def disc(width: int = 48, height: int = 40) -> np.ndarray:
    """A mask with a lesion in it, bool (height, width)."""
    rows, columns = np.ogrid[:height, :width]
    return (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < 64


def data_set(folder: Path, count: int = 4, masks: bool = True) -> Path:
    """Write a good data set of `count` images a class, with `dataset.json`; gives the folder."""
    for number_of_class, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for number in range(1, count + 1):
            image = encoded(pixels(100 * number_of_class + number))
            (folder / label / image_name(label, number)).write_bytes(image)
            if masks:
                mask = disc() if label != "normal" else np.zeros_like(disc())
                (folder / label / mask_name(label, number, 0)).write_bytes(encoded(mask))
    describe(folder, dict.fromkeys(CLASSES, count), 3 * count if masks else 0)
    return folder


def describe(folder: Path, counts: dict[str, int], masks: int) -> None:
    """Write `dataset.json`."""
    about = {"name": "test", "synthetic": True, "source": "test", "licence": "none", "counts": counts, "masks": masks}
    (folder / "dataset.json").write_text(json.dumps(about))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
