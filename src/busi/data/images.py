"""Images as files and as pixels: the one way in which every stage and the served model read an image.

Files are untrusted: only four formats are tried, the size in the header is checked before a pixel is decoded, what a
file may cost to read is bounded, and an image that is not whole is refused. Everything here is integer or fixed-point
arithmetic, so the same file gives the same pixels on every processor.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from busi.data.companions import MAGIC_BYTES, content_kind

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")

# Three times a 4K screen, and far below the count at which Pillow itself warns
MAX_PIXELS = 25_000_000
MAX_BYTES = 200 << 20

# How much Pillow may read of a file. Malformed files ask for more: a million empty chunks, tags that share their bytes
MAX_READS = 200_000
MAX_REREAD = 4  # times the file's size
MAX_SCANS = 100  # of a progressive JPEG; decoding each goes over all pixels. Encoders make about ten

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BIT)

_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"  # how a JPEG starts, and how each of its scans does

_EXPECTED = f"expected one whole image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format"

# Pillow warns of unusual metadata in intact images; a user of the data set can't do anything about it
warnings.filterwarnings("ignore", module=r"PIL\.")

# What Pillow's decoders raise on malformed bytes. (Its warnings are raised where warnings are made errors.)
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, EOFError, ArithmeticError, RuntimeError,
    MemoryError, AssertionError, Warning, struct.error, zlib.error, Image.DecompressionBombError,
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
    name = printable(name or ("image" if isinstance(source, bytes) else str(source)))
    content = source if isinstance(source, bytes) else _content(Path(source), name)
    if not content:
        raise ValueError(f"{name}: the file is empty; {_EXPECTED}")
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name}: {len(content):,} bytes; expected at most {MAX_BYTES:,}")
    if content.startswith(_JPEG) and (scans := content.count(_SCAN)) > MAX_SCANS:
        raise ValueError(f"{name}: {scans:,} scans; expected at most {MAX_SCANS}")
    return _decode(_Bounded(content), name)


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


class _Bounded(io.BytesIO):
    """A file in memory that raises ValueError after too many reads, or when too many bytes were read in all."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._reads = MAX_READS
        self._bytes = MAX_REREAD * len(content) + (1 << 20)

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self._reads -= 1
        self._bytes -= len(piece)
        if self._reads < 0 or self._bytes < 0:
            raise ValueError("its parts are too many, or say that they lie one on the other")
        return piece


def _content(path: Path, name: str) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError(f"{name}: neither a file nor a link to one; {_EXPECTED}")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise ValueError(f"{name}: cannot be opened ({getattr(error, 'strerror', error)}); {_EXPECTED}") from error


def _decode(file: _Bounded, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        found = content_kind(bytes(file.getbuffer()[:MAGIC_BYTES])) or "not an image, or damaged at its start"
        raise ValueError(f"{name}: {found}; {_EXPECTED}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: {str(error).rstrip('.')}; expected at most {MAX_PIXELS:,} pixels") from error
    except _DECODER_ERRORS as error:
        raise ValueError(f"{name}: damaged header ({_reason(error)}); {_EXPECTED}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width} x {height} pixels; expected at most {MAX_PIXELS:,}")
    if image.mode not in MODES:
        raise ValueError(f"{name}: pixel type {image.mode}; expected one of {', '.join(MODES)}")
    try:
        image.load()
        is_several = getattr(image, "is_animated", False)  # not n_frames, for which Pillow goes through all of them
    except _DECODER_ERRORS as error:
        raise ValueError(f"{name}: truncated or damaged ({_reason(error)}); {_EXPECTED}") from error
    if is_several:
        raise ValueError(f"{name}: several frames; {_EXPECTED}")
    return image


def _reason(error: Exception) -> str:
    return printable(str(error) or type(error).__name__)
