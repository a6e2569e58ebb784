"""Images as files and as pixels: the one way in which every stage and the served model read an image.

Files are untrusted: only four formats are tried, the size in the header is checked before a pixel is decoded, and
an image that is not whole is refused. Everything here is integer or fixed-point arithmetic, so the same file gives
the same pixels on every processor.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")

# Below the count at which Pillow itself warns, so that no accepted image makes it warn.
MAX_PIXELS = 80_000_000

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BIT)

_EXPECTED = f"expected one whole image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format"

# What Pillow's decoders raise on hostile or damaged bytes. (Its warnings are raised where warnings are made errors.)
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError,
    Warning, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def read_image(source: Path | str | bytes, name: str | None = None) -> Image.Image:
    """Read and fully decode one image file.

    Args:
        source: path of the file, or its bytes.
        name: what errors call the image; by default the path, or "image" for bytes.

    Returns:
        The image as stored: one of `MODES`, `format` one of `FORMATS`, at most `MAX_PIXELS` pixels, EXIF
        orientation not applied.

    Raises:
        ValueError: `NAME: reason; expected ...` for a file that cannot be read, is empty, truncated, damaged, too
            large, of another format or pixel type, or holds several frames.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), printable(name or "image"))
    name = printable(name or str(source))
    try:
        with Path(source).open("rb") as file:
            return _decode(file, name)
    except OSError as error:
        raise ValueError(f"{name}: cannot be opened ({error.strerror}); {_EXPECTED}") from error


def to_gray(image: Image.Image) -> np.ndarray:
    """Gray levels of an image: uint8 of shape (H, W).

    Colour becomes luma (ITU-R BT.601, Pillow's fixed-point weights, exact for gray pixels), transparency is
    composited on black, 16 bits become 8 by v / 257 rounded (0 to 0 and 65535 to 255).

    Raises:
        ValueError: the pixel type is none of `MODES`.
    """
    if image.mode not in MODES:
        raise ValueError(f"pixel type {image.mode}; expected one of {', '.join(MODES)}")
    if image.mode in SIXTEEN_BIT:
        return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return np.array(image.convert("L"))


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """The deterministic preprocessing of an image for the network: uint8 of shape (size, size, 3), values 0-255.

    To gray, resized to a square without regard to its aspect (antialiased bilinear), the gray repeated three times.

    Raises:
        ValueError: `size` is below 1, or the pixel type is none of `MODES`.
    """
    if size < 1:
        raise ValueError(f"size {size}; expected at least 1 pixel")
    gray = Image.fromarray(to_gray(image)).resize((size, size), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(gray)[:, :, np.newaxis], 3, axis=2)


def printable(name: str) -> str:
    """A file name fit for one line of a message: as it is, or escaped when it holds a newline or the like."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _decode(file: BinaryIO, name: str) -> Image.Image:
    if not file.read(1):
        raise ValueError(f"{name}: the file is empty; {_EXPECTED}")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image, or damaged at its start; {_EXPECTED}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: {str(error).rstrip('.')}; expected at most {MAX_PIXELS:,} pixels") from error
    except _DECODER_ERRORS as error:
        raise ValueError(f"{name}: damaged header ({error}); {_EXPECTED}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width} x {height} pixels; expected at most {MAX_PIXELS:,}")
    if image.mode not in MODES:
        raise ValueError(f"{name}: pixel type {image.mode}; expected one of {', '.join(MODES)}")
    try:
        frames = getattr(image, "n_frames", 1)
        image.load()
    except _DECODER_ERRORS as error:
        raise ValueError(f"{name}: truncated or damaged ({error}); {_EXPECTED}") from error
    if frames != 1:
        raise ValueError(f"{name}: {frames} frames; {_EXPECTED}")
    return image
