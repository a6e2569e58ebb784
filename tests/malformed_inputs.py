"""Files that nobody should trust: seeded mutations of images, zips, folders and requests, for every reader of them.

`images`, `archives`, `folders` and `requests` give as many cases as asked for; the same seed gives the same bytes, so
that a case that failed is known by its seed and number. A mutation keeps the checksums right where a reader looks at
them first (PNG's chunks, the zip's members), or nothing behind that check would ever be reached. The heavy cases, those
that cost a careless reader gigabytes or minutes, come first.
"""

import base64
import functools
import io
import json
import random
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from busi.data.images import FORMATS, MAX_PIXELS
from busi.data.layout import CLASSES, IMAGE_SUFFIXES
from tests.bad_images import bomb, encoded, in_mode, pixels

EVIL = "evil-busi.png"  # what no archive may ever write
# Sizes, counts and offsets that overflow something
EDGES = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG = b"\x89PNG\r\n\x1a\n"

BAD_NAMES = (
    f"../{EVIL}", f"../../../../{EVIL}", f"benign/../../{EVIL}", f"/{EVIL}", f"//{EVIL}", f"C:/{EVIL}", f"C:{EVIL}",
    f"..\\{EVIL}", f"benign\\..\\..\\{EVIL}", f"benign/\\{EVIL}", f"\\\\server\\{EVIL}", f"__MACOSX/../../{EVIL}",
    "benign/a\0.png", "a\0/../b.png", "benign/a\nb.png", "benign/a\rb.png", "benign/\x1b[2J.png", "\0",
    "benign/\u202egnp.exe", "benign/\u2028.png", "benign/\udcff.png", "benign/\u0041\u030a.png", "benign/\u00c5.png",
    "benign/BENIGN (1).png", "Benign/benign (1).png", "benign/benign (1).PNG", "benign/benign (1).jpg", "benign/.png",
    "benign/benign (1)_mask.PNG", "benign/benign (1)_MASK.png", "benign/benign (1)_mask_0.png", "normal/benign (2).png",
    "benign/con.png", "benign/ .png", "benign/a.png/", "benign/a.png/b.png", "benign//a.png", "./benign/./a.png",
    "benign/..", "..", ".", "/", "", "benign", "benign/", "benign/" + "x" * 300 + ".png", "x/" * 400 + "a.png",
    "benign/a_mask_" + "9" * 200 + ".png", "dataset.json", "dataset.json/", "benign/dataset.json",
    f"benign/._{EVIL}", "benign/*?.png", "benign/$(touch x);.png",
)  # fmt: skip


class Case(NamedTuple):
    """One malformed file: what was done to it, the name it comes under, its bytes."""

    what: str
    name: str
    content: bytes


def images(seed: int, count: int, heavy: bool = True) -> Iterator[Case]:
    """Malformed image files, `count` of them, the heavy ones among them unless they are left out."""
    made = 0
    for what, content in heavy_images() if heavy else ():
        if made == count:
            return
        yield Case(what, f"{what}.png", content)
        made += 1
    for number in range(made, count):
        rng = random.Random(f"image {seed} {number}")
        base, content = rng.choice(good_images())
        done = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mutate = rng.choice(_IMAGE_MUTATIONS)
            content = mutate(rng, content)
            done.append(mutate.__name__.strip("_"))
        suffix = rng.choice((*IMAGE_SUFFIXES, ".PNG", ".Jpeg"))
        yield Case(f"{base}: {', '.join(done)}", f"case {number}{suffix}", content)


def archives(seed: int, count: int, heavy: bool = True) -> Iterator[Case]:
    """Malformed zips, `count` of them; all that can be taken from one is in BUSI's layout."""
    made = 0
    for what, content in heavy_archives() if heavy else ():
        if made == count:
            return
        yield Case(what, f"{what}.zip", content)
        made += 1
    for number in range(made, count):
        rng = random.Random(f"archive {seed} {number}")
        mutate = rng.choice(_ARCHIVE_MUTATIONS)
        yield Case(mutate.__name__.strip("_"), f"set {number}.zip", mutate(rng))


def folders(seed: int, count: int) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Malformed folders: what is wrong, and a function that writes the folder. Needs a system with links and pipes."""
    for number in range(count):
        rng = random.Random(f"folder {seed} {number}")
        mutate = rng.choice(_FOLDER_MUTATIONS)
        yield mutate.__name__.strip("_"), functools.partial(mutate, rng)


def requests(seed: int, count: int, heavy: bool = True) -> Iterator[Case]:
    """Bodies of malformed requests to the endpoint, `count` of them, the heavy ones among them unless left out."""
    made = 0
    for what, content in heavy_requests() if heavy else ():
        if made == count:
            return
        yield Case(what, what, content)
        made += 1
    for number in range(made, count):
        rng = random.Random(f"request {seed} {number}")
        mutate = rng.choice(_REQUEST_MUTATIONS)
        yield Case(mutate.__name__.strip("_"), f"request {number}", mutate(rng))


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
def heavy_images() -> tuple[tuple[str, bytes], ...]:
    """Files that cost little to send and would cost much to read; the largest are as large as is just accepted."""
    side = int(MAX_PIXELS**0.5)
    lines = (side, MAX_PIXELS // side)
    made = [
        ("largest PNG gray", png_of_zeros(*lines, colour=0, depth=8)),
        ("largest PNG rgba", png_of_zeros(*lines, colour=6, depth=8)),
        ("largest PNG rgba 16", png_of_zeros(*lines, colour=6, depth=16)),
        ("largest PNG gray 16", png_of_zeros(*lines, colour=0, depth=16)),
        ("one pixel too many", png_of_zeros(MAX_PIXELS + 1, 1, colour=0, depth=8)),
        ("one line", png_of_zeros(MAX_PIXELS, 1, colour=0, depth=8)),
        ("one column", png_of_zeros(1, MAX_PIXELS // 2, colour=0, depth=8)),
        ("header says 20000 x 20000", bomb()),
        ("header says 2^31 x 2^31", bomb(2**31 - 1, 2**31 - 1)),
        ("text bomb", _with_chunks([(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))])),
        ("many text bombs", _with_chunks([(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 2000)),
        ("profile bomb", _with_chunks([(b"iCCP", b"k\0\0" + zlib.compress(bytes(50_000_000)))])),
        ("a million chunks", _with_chunks([(b"prVt", b"")] * 1_000_000)),
        ("a large chunk", _with_chunks([(b"prVt", bytes(100_000_000))])),
        ("JPEG padding", b"\xff\xd8" + b"\xff" * 60_000_000),
        ("JPEG of small segments", b"\xff\xd8" + b"\xff\xe5\x00\x02" * 5_000_000),
        ("JPEG of thousands of scans", jpeg_of_scans(side, side, 20_000)),
        ("largest JPEG progressive", jpeg_of_scans(*lines, 8)),
        ("TIFF tags that share their bytes", tiff_of_tags(60_000, 4_000_000)),
        ("TIFF of 100000 frames", tiff_of_frames(100_000)),
        ("TIFF whose frames go round", tiff_of_frames(3, loop=True)),
    ]
    for mode, compression in (("RGB", "tiff_adobe_deflate"), ("L", "tiff_lzw")):
        made.append((f"largest TIFF {mode}", encoded(Image.new(mode, lines), "TIFF", compression=compression)))
    return tuple(made)


@functools.cache
def heavy_archives() -> tuple[tuple[str, bytes], ...]:
    """Zips that unpack to far more than they are, in every way that is known."""
    zeros = zlib.compress(bytes(300_000_000), 9)[2:-4]
    nested = zipped([("a.zip", zipped([("b.zip", zipped([("c.png", bytes(10_000_000))]))]))])
    overlapping = _overlapping(300)
    return (
        ("one bomb", zipped([*good_set(), ("benign/bomb.png", bytes(250_000_000))])),
        ("bombs below each limit", zipped([*good_set(), *((f"benign/{n}.png", bytes(1 << 20)) for n in range(2000))])),
        ("overlapping members", overlapping),
        ("zip in zip in zip", nested),
        ("a size that lies", _lying(zeros)),
        ("100001 members", zipped([(f"benign/{n}.png", b"") for n in range(100_001)])),
        ("700000 members in the directory", _directory_of(700_000)),
        ("a directory of one long comment", zipped(good_set()) + bytes(70_000_000)),
        ("a description of deep lists", zipped([*good_set(), ("dataset.json", _description("[" * 900 + "]" * 900))])),
        ("a description of 4 MB", zipped([*good_set(), ("dataset.json", _description('"' + "x" * 4_000_000 + '"'))])),
    )


@functools.cache
def heavy_requests() -> tuple[tuple[str, bytes], ...]:
    """Requests that are large, deep or many."""
    good = good_images()[1][1]
    largest = [content for what, content in heavy_images() if what.startswith("largest PNG")]
    return (
        ("70 MB", b" " * 70_000_000),
        ("60 MB of lists", b'{"inputs": [' + b"[]," * 20_000_000 + b"[]]}"),
        ("60 MB of one text", b'{"inputs": ["' + b"A" * 60_000_000 + b'"]}'),
        ("an image of 50 MB", request_of([bytes(50_000_000)])),
        ("four of the largest images", request_of(largest)),
        ("nested 9000 deep", b'{"inputs": ' + b"[" * 9000 + b"]" * 9000 + b"}"),
        ("nested 100000 deep", b"[" * 100_000),
        ("1000 images", request_of([good] * 1000)),
        ("4000 empty images", request_of([b""] * 4000)),
        ("a long number", b'{"inputs": [' + b"9" * 1_000_000 + b"]}"),
    )


@functools.cache
def good_set() -> tuple[tuple[str, bytes], ...]:
    """Two images a class and their masks."""
    return tuple(
        (f"{label}/{label} ({n}){mask}.png", encoded(pixels(10 * row + n, 24, 20)))
        for row, label in enumerate(CLASSES)
        for n in (1, 2)
        for mask in ("", "_mask")
    )


def zipped(members, method: int = zipfile.ZIP_DEFLATED, prepare: Callable | None = None) -> bytes:
    """A zip of (name, content) pairs whose names go in as they are, twice if they come twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            info.compress_type = method
            if prepare is not None:
                prepare(info)
            archive.writestr(info, content)
    return file.getvalue()


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG as far as they are whole; nothing of what is no PNG."""
    found, at = [], len(PNG)
    while content.startswith(PNG) and at + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        found.append((kind, content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, with the right checksums."""
    made = [
        struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return PNG + b"".join(made)


def png_of_zeros(width: int, height: int, colour: int, depth: int) -> bytes:
    """A black PNG of any size, packed line by line."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    line = bytes(1 + (width * samples * depth + 7) // 8)
    packer = zlib.compressobj(6)
    block, lines = line * max(1, 1_000_000 // len(line)), max(1, 1_000_000 // len(line))
    packed = [packer.compress(block) for _ in range(height // lines)] + [packer.compress(line * (height % lines))]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", b"".join([*packed, packer.flush()])), (b"IEND", b"")])


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A gray progressive JPEG whose last scan comes again and again."""
    small = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    start = small.index(b"\xff\xc2")
    sized = small[: start + 5] + struct.pack(">HH", height, width) + small[start + 9 :]
    last = sized.rindex(b"\xff\xda")
    tables = sized.rindex(b"\xff\xc4", 0, last)
    again = sized[tables:-2]
    return sized[:-2] + again * scans + b"\xff\xd9"


def tiff_of_tags(count: int, size: int) -> bytes:
    """A TIFF whose tags all point at the same bytes: `count` times `size` for a reader that keeps each."""
    first = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    start = 8 + 2 + 12 * (len(first) + count) + 4
    tags = [*first, *((1000 + n, 7, size, start) for n in range(count))]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + ifd + bytes(size)


def tiff_of_frames(count: int, loop: bool = False) -> bytes:
    """A TIFF of very many empty frames, or of frames of which the last leads to the first."""
    tags = [
        (256, 4, 1, 1),
        (257, 4, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 1),
    ]
    one = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    size = len(one) + 4
    links = [8 + size * (n + 1) for n in range(count)]
    links[-1] = 8 if loop else 0
    return b"II*\0" + struct.pack("<I", 8) + b"".join(one + struct.pack("<I", link) for link in links)


def request_of(files: list[bytes]) -> bytes:
    """The body of a request about these images, as it should be."""
    return json.dumps({"dataframe_records": [{"image": base64.b64encode(file).decode()} for file in files]}).encode()


# Images


def _bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 32)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _bits_at_the_start(rng: random.Random, content: bytes) -> bytes:
    return _bits(rng, content[:64]) + content[64:]


def _truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _spliced(rng: random.Random, content: bytes) -> bytes:
    other = rng.choice(good_images())[1]
    cut = rng.randrange(min(len(content), len(other)) + 1)
    return content[:cut] + other[cut:]


def _header_of_another(rng: random.Random, content: bytes) -> bytes:
    other = rng.choice(good_images())[1]
    length = rng.choice((2, 4, 8, 16, 33))
    return other[:length] + content[length:]


def _edge(rng: random.Random, content: bytes) -> bytes:
    form = rng.choice((">H", "<H", ">I", "<I"))
    value = struct.pack(form, rng.choice(EDGES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    at = rng.randrange(min(len(content), rng.choice((64, 512, 1 << 20))) + 1)
    return content[:at] + value + content[at + len(value) :]


def _moved(rng: random.Random, content: bytes) -> bytes:
    start, end, to = (rng.randrange(len(content) + 1) for _ in range(3))
    piece = content[start:end]
    return rng.choice((content[:start] + content[end:], content[:to] + piece + content[to:], content + piece))


def _inserted(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 4, 100))) + content[at:]


def _empty_or_other(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(
        (b"", b"\0", b"GIF89a" + content, b"%PDF-1.7\n" + content, b"PK\x03\x04" + content, b"<svg/>", bytes(1000))
    )


def _chunk(rng: random.Random, content: bytes) -> bytes:
    """One chunk of a PNG changed, removed, doubled or moved, its checksum right."""
    chunks = png_chunks(content) or png_chunks(good_images()[1][1])
    if not chunks:
        return content
    at = rng.randrange(len(chunks))
    kind, data = chunks[at]
    match rng.randrange(6):
        case 0:
            chunks[at] = kind, _bits(rng, data)
        case 1:
            chunks[at] = kind, _edge(rng, data)
        case 2:
            chunks[at] = kind, _truncated(rng, data)
        case 3:
            del chunks[at]
        case 4:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        case 5:
            rng.shuffle(chunks)
    return png_of(chunks)


def _size(rng: random.Random, content: bytes) -> bytes:
    """Other dimensions in the header, its checksum right."""
    width, height = (rng.choice((*EDGES, rng.randrange(1, 5000))) for _ in range(2))
    if chunks := png_chunks(content):
        chunks[0] = chunks[0][0], struct.pack(">II", width, height) + chunks[0][1][8:]
        return png_of(chunks)
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        if (at := content.find(marker)) >= 0:
            return content[: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + content[at + 9 :]
    if content.startswith(b"BM"):
        return content[:18] + struct.pack("<II", width, height) + content[26:]
    return _edge(rng, content)


def _depth(rng: random.Random, content: bytes) -> bytes:
    """Another bit depth, colour type, compression, filter or interlacing in a PNG's header."""
    chunks = png_chunks(content)
    if not chunks or len(chunks[0][1]) != 13:
        return _edge(rng, content)
    header = bytearray(chunks[0][1])
    header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    chunks[0] = b"IHDR", bytes(header)
    return png_of(chunks)


def _malformed_chunk(rng: random.Random, content: bytes) -> bytes:
    kind = rng.choice((
        b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"gAMA", b"pHYs", b"acTL", b"fcTL", b"fdAT",
        b"sRGB", b"cHRM", b"IHDR", b"IEND", b"prVt", b"\0\0\0\0", b"IDAT",
    ))  # fmt: skip
    packed = zlib.compress(bytes(rng.choice((10, 2_000_000))))
    data = rng.choice((
        b"", b"\0", b"k\0", b"k\0\0", b"k\0\1" + bytes(9), rng.randbytes(rng.randrange(40)), bytes(5000),
        b"k\0\0" + packed, b"k\0\1\0en\0k\0" + packed, struct.pack(">II", rng.choice(EDGES), rng.choice(EDGES)),
        struct.pack(">IIIIIHHBB", 0, 9, 9, 0, 0, 1, 1, 0, 0), exif(rng),
    ))  # fmt: skip
    chunks = png_chunks(content) or png_chunks(good_images()[rng.randrange(7)][1])
    chunks.insert(rng.randrange(len(chunks) + 1), (kind, data))
    return png_of(chunks)


def _segment(rng: random.Random, content: bytes) -> bytes:
    """A malformed segment behind the start of a JPEG."""
    marker = rng.choice((0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xDA, 0xE0, 0xE1, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))
    data = rng.choice((
        b"", rng.randbytes(rng.randrange(60)), b"Exif\0\0" + exif(rng), b"JFIF\0" + bytes(9),
        b"ICC_PROFILE\0\1\2" + bytes(99), b"MPF\0" + exif(rng), b"Adobe" + rng.randbytes(7),
        b"Photoshop 3.0\x008BIM" + rng.randbytes(30),
        struct.pack(">BHHB", 8, rng.choice(EDGES) & 0xFFFF, rng.choice(EDGES) & 0xFFFF, 3) + rng.randbytes(9),
    ))  # fmt: skip
    length = rng.choice((len(data) + 2, len(data) + 2, 0, 1, 2, 0xFFFF))
    if not content.startswith(b"\xff\xd8"):
        content = encoded(pixels(2), "JPEG")
    at = rng.choice((2, max(2, content.find(b"\xff\xda"))))
    return content[:at] + b"\xff" + bytes([marker]) + struct.pack(">H", length) + data + content[at:]


def _tag(rng: random.Random, content: bytes) -> bytes:
    """One entry of a TIFF's directory changed, or the way to the next one."""
    if not content.startswith(b"II*\0"):
        content = encoded(pixels(2), "TIFF", compression=rng.choice(("raw", "tiff_lzw", "tiff_adobe_deflate")))
    changed = bytearray(content)
    at = struct.unpack("<I", changed[4:8])[0]
    if at + 2 > len(changed):
        return bytes(changed)
    count = struct.unpack("<H", changed[at : at + 2])[0]
    entry = at + 2 + 12 * rng.randrange(count + 1)
    field, size = rng.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I")))
    value = struct.pack(size, rng.choice((*EDGES, 8, rng.randrange(300))) & (0xFFFF if size == "<H" else 0xFFFFFFFF))
    changed[entry + field : entry + field + len(value)] = value
    return bytes(changed)


def exif(rng: random.Random) -> bytes:
    """An EXIF block: random tags, offsets that lead outside, in circles, or to sizes that overflow."""
    order, mark = rng.choice((("<", b"II"), (">", b"MM")))
    tags = [
        struct.pack(
            f"{order}HHII",
            rng.choice((0x8769, 0x8825, 0xA005, 0x0112, 0x010E, 0x927C, 0x0201, 0x0202, 0xB000, 0xB001, 0xB002)),
            rng.choice((0, 1, 2, 3, 4, 5, 7, 12, 13, 99)),
            rng.choice(EDGES),
            rng.choice((8, 8, *EDGES)),
        )
        for _ in range(rng.randrange(9))
    ]
    count = rng.choice((len(tags), len(tags), 0xFFFF))
    head = struct.pack(f"{order}HIH", 42, rng.choice((8, 8, *EDGES)), count)
    return mark + head + b"".join(tags) + struct.pack(f"{order}I", rng.choice((0, 8)))


_IMAGE_MUTATIONS = (
    _bits, _bits_at_the_start, _truncated, _spliced, _header_of_another, _edge, _moved, _inserted, _empty_or_other,
    _chunk, _chunk, _size, _depth, _malformed_chunk, _malformed_chunk, _segment, _segment, _tag, _tag,
)  # fmt: skip


def _with_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    whole = png_chunks(in_mode("L", pixels(1)))
    return png_of([*whole[:1], *chunks, *whole[1:]])


# Archives


def _bytes_of_a_zip(rng: random.Random) -> bytes:
    content = zipped(good_set(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    for _ in range(rng.choice((1, 2, 4))):
        mutate = rng.choice((_bits, _truncated, _edge, _moved, _inserted))
        content = mutate(rng, content)
    return content


def _directory_of_a_zip(rng: random.Random) -> bytes:
    """One field of the directory or of the end record."""
    content = bytearray(zipped(good_set()))
    magic = rng.choice((b"PK\x01\x02", b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    starts = [at for at in range(len(content)) if content.startswith(magic, at)]
    at = rng.choice(starts) + 4 + 2 * rng.randrange(9 if magic == b"PK\x05\x06" else 21)
    value = struct.pack("<I", rng.choice(EDGES))[: rng.choice((2, 4))]
    content[at : at + len(value)] = value
    return bytes(content[: len(content)])


def _name(rng: random.Random) -> bytes:
    return zipped([*good_set(), *((rng.choice(BAD_NAMES), good_set()[0][1]) for _ in range(rng.choice((1, 1, 2))))])


def _raw_name(rng: random.Random) -> bytes:
    """A name in bytes that no text is, of the same length as that which it replaces."""
    old = b"benign/placeholder.png"
    new = rng.choice((
        b"../" + b"x" * 15 + b".png", b"/" + b"x" * 17 + b".png", b"benign/\xff\xfe\0\n" + b"x" * 7 + b".png",
        b"benign/\0../../../e.png", b"benign/" + rng.randbytes(11) + b".png",
    ))[: len(old)]  # fmt: skip
    return zipped([*good_set(), (old.decode(), b"x")]).replace(old, new.ljust(len(old), b"_"))


def _kind_of_member(rng: random.Random) -> bytes:
    """A link, a pipe or a device, with where it leads as its content."""
    kinds = (stat.S_IFLNK, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR, 0xF000)
    mode = rng.choice(kinds)

    def mark(info: zipfile.ZipInfo) -> None:
        if info.filename == "benign/link.png":
            info.external_attr = (mode | 0o777) << 16
            info.create_system = 3

    leads = rng.choice(("/etc/passwd", f"../../../{EVIL}", "benign (1).png", "."))
    return zipped([*good_set(), ("benign/link.png", leads.encode())], prepare=mark)


def _twice(rng: random.Random) -> bytes:
    name, content = rng.choice(good_set())
    return zipped([*good_set(), (rng.choice((name, f"./{name}", name.upper(), name.replace("/", "//"))), content)])


def _flags(rng: random.Random) -> bytes:
    """Encryption, methods and flags of a member, in the directory and before the member."""
    content = bytearray(zipped(good_set()))
    flag, method = rng.choice((0, 1, 8, 0x20, 0x40, 0x800, 0x2000, 0xFFFF)), rng.choice((0, 1, 6, 8, 9, 12, 14, 93, 99))
    for magic, at_flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(magic) + at_flag
        content[at : at + 4] = struct.pack("<HH", flag, method)
    return bytes(content)


def _image_in_a_zip(rng: random.Random) -> bytes:
    """A good zip with images that are none."""
    malformed = [case.content for case in images(rng.randrange(1 << 30), 3, heavy=False)]
    return zipped([*good_set(), *((f"normal/x{n}.png", content) for n, content in enumerate(malformed))])


def _description_in_a_zip(rng: random.Random) -> bytes:
    planted = rng.choice((
        '{"a": 1}', '{"\\ud800": 1}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "[" * rng.choice((50, 300, 2000)) + "]" * 50 + "}", '{"a": ' * 400 + "1" + "}" * 400,
        "[]", "NaN", "null", "\xff",
    ))  # fmt: skip
    return zipped([*good_set(), ("dataset.json", _description(planted))])


def _small_bomb(rng: random.Random) -> bytes:
    return zipped([*good_set(), ("benign/bomb.png", bytes(rng.choice((1 << 20, (1 << 20) + 1, 5 << 20))))])


def _folders_in_a_zip(rng: random.Random) -> bytes:
    outer = rng.choice(("", "set/", "a/b/c/", "benign/", "__MACOSX/", "../", "./"))
    return zipped(
        [(outer + name, content) for name, content in good_set()] + [(rng.choice(("benign/", "x/", "/", "")), b"")]
    )


_ARCHIVE_MUTATIONS = (
    _bytes_of_a_zip, _bytes_of_a_zip, _directory_of_a_zip, _directory_of_a_zip, _name, _name, _raw_name,
    _kind_of_member, _twice, _flags, _image_in_a_zip, _description_in_a_zip, _small_bomb, _folders_in_a_zip,
)  # fmt: skip


def _description(planted: str) -> bytes:
    about = {"name": "mine", "synthetic": True, "source": "here", "licence": "none"}
    return (json.dumps(about)[:-1] + f', "planted": {planted}}}').encode("latin-1")


def _overlapping(copies: int) -> bytes:
    """Members that share one packed kernel: after Fifield, A better zip bomb (WOOT 2019), in its simple form."""
    content = zipped([("benign/kernel.png", bytes(180 << 10) * 5)])
    start = content.index(b"PK\x01\x02")
    entry = content[start : content.index(b"PK\x05\x06")]
    names = [f"benign/k{n:05d}.png".encode() for n in range(copies)]
    entries = b"".join(entry.replace(b"benign/kernel.png", name) for name in names)
    return (
        content[:start]
        + entries
        + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, copies, copies, len(entries), start, 0)
    )


def _lying(packed: bytes) -> bytes:
    """300 MB of zeros behind a header that says 100 bytes."""
    content = bytearray(zipped([*good_set(), ("benign/lie.png", b"x" * 100)], zipfile.ZIP_STORED))
    at = content.index(b"x" * 100)
    for magic, method_at, size_at in ((b"PK\x03\x04", 8, 18), (b"PK\x01\x02", 10, 20)):
        record = content.rindex(magic)
        content[record + method_at : record + method_at + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        content[record + size_at : record + size_at + 4] = struct.pack("<I", len(packed))
    grown = len(packed) - 100
    end = content.rindex(b"PK\x05\x06")
    content[end + 16 : end + 20] = struct.pack("<I", struct.unpack("<I", content[end + 16 : end + 20])[0] + grown)
    return bytes(content[:at]) + packed + bytes(content[at + 100 :])


def _directory_of(count: int) -> bytes:
    entry = zipped([("b", b"")])
    entry = entry[entry.index(b"PK\x01\x02") : entry.index(b"PK\x05\x06")]
    size = len(entry) * count
    return entry * count + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, size, 0, 0)


# Requests


def _images_in_a_request(rng: random.Random) -> bytes:
    """Malformed images, in each of the forms that MLflow takes."""
    count = rng.choice((1, 1, 2, 5))
    files = [case.content for case in images(rng.randrange(1 << 30), count, heavy=False)]
    encoded = [base64.b64encode(file).decode() for file in files]
    rows = [{"image": text} for text in encoded]
    return json.dumps(
        rng.choice((
            {"dataframe_records": rows}, {"inputs": rows}, {"inputs": encoded}, {"inputs": {"image": encoded}},
            {"instances": rows}, {"dataframe_split": {"columns": ["image"], "data": [[text] for text in encoded]}},
        ))
    ).encode()  # fmt: skip


def _text_in_a_request(rng: random.Random) -> bytes:
    """What is no base64, or base64 of another kind."""
    good = base64.b64encode(good_images()[1][1]).decode()
    text = rng.choice((
        "", "=", "====", "A", "A===", good[:-1], good + "=", good[: len(good) // 2], " ".join(good), good + "\n",
        good + "\0", "\ud800", "ä" * 40, "http://127.0.0.1:9/", "file:///etc/passwd", "../" * 9, "%s" * 20, "NaN",
        "null", "data:image/png;base64," + good, good.replace("+", "-").replace("/", "_"),
    ))  # fmt: skip
    return json.dumps({"dataframe_records": [{"image": good}, {"image": text}]}).encode()


def _json(rng: random.Random, depth: int = 4) -> object:
    """Any JSON, with the words that the endpoint knows in it."""
    words = (
        "image", "dataframe_records", "dataframe_split", "inputs", "instances", "params", "columns", "data", "index",
        "predictions", "messages", "prompt", "input", "", "\0", "__class__", "0",
    )  # fmt: skip
    kind = rng.randrange(9 if depth else 7)
    if kind == 7:
        return [_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {rng.choice(words): _json(rng, depth - 1) for _ in range(rng.randrange(4))}
    numbers = (0, 1, -1, 0.5, 1e308, float("nan"), float("inf"), 2**63, 10**400)
    return (None, True, False, rng.choice(numbers), rng.choice(words), "QUJD", rng.choice(numbers))[kind]


def _any_json(rng: random.Random) -> bytes:
    """One of the forms, with anything in it."""
    form = rng.choice(("dataframe_records", "dataframe_split", "inputs", "instances", "messages", "input"))
    body = {form: _json(rng), **({rng.choice(("params", "inputs", "x")): _json(rng, 2)} if rng.random() < 0.3 else {})}
    return json.dumps(rng.choice((body, body, body, _json(rng)))).encode()


def _table_of_anything(rng: random.Random) -> bytes:
    """Rows and columns that do not fit, or are of other types."""
    good = base64.b64encode(good_images()[1][1]).decode()
    cell = rng.choice((good, _json(rng, 2)))
    return json.dumps(
        rng.choice((
            {"dataframe_records": [{"image": cell}, {"other": cell}]}, {"dataframe_records": {"image": cell}},
            {"dataframe_records": [{"image": cell, "label": cell}] * 3}, {"dataframe_records": [[cell]]},
            {"dataframe_split": {"columns": ["image", "image"], "data": [[cell, cell]]}},
            {"dataframe_split": {"columns": ["image"], "data": [[cell, cell], []]}},
            {"dataframe_split": {"columns": cell, "index": cell, "data": [[good]]}},
            {"inputs": {"image": [cell], "other": [cell, cell]}}, {"inputs": [[[cell]]]},
            {"dataframe_records": [{"image": good}], "params": cell},
        ))
    ).encode()  # fmt: skip


def _bytes_of_a_request(rng: random.Random) -> bytes:
    content = request_of([rng.choice(good_images())[1]])
    for _ in range(rng.choice((1, 2, 4))):
        content = rng.choice((_bits, _bits_at_the_start, _truncated, _edge, _moved, _inserted))(rng, content)
    return content


_REQUEST_MUTATIONS = (
    _images_in_a_request, _images_in_a_request, _images_in_a_request, _text_in_a_request, _any_json, _any_json,
    _table_of_anything, _bytes_of_a_request,
)  # fmt: skip


# Folders


def _links(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    place = rng.choice(("benign", ".", "normal"))
    leads = rng.choice(("/", "/etc/passwd", "..", "../..", "benign (1).png", "nowhere", "/dev/zero", "/proc/self/mem"))
    (folder / place / rng.choice(("link.png", "link", "link_mask.png"))).symlink_to(leads)


def _class_that_is_a_link(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    (folder / rng.choice(("other", "Benign"))).symlink_to(rng.choice(("/", "benign", "..")))


def _pipe(rng: random.Random, folder: Path) -> None:
    import os

    write_set(folder)
    os.mkfifo(folder / "benign" / rng.choice(("pipe.png", "pipe", "benign (1)_mask_1.png")))


def _names_on_disk(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    name = rng.choice(
        (
            b"\xff.png",
            b"a\nb.png",
            b"\x1b[2J.png",
            b"BENIGN (1).PNG",
            b"x" * 251 + b".png",
            b"benign (1).jpg",
            "\u202e.png".encode(),
        )
    )
    (folder / "benign").joinpath(name.decode("utf-8", "surrogateescape")).write_bytes(good_set()[0][1])


def _malformed_images_on_disk(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    for case in images(rng.randrange(1 << 30), 5, heavy=False):
        (folder / rng.choice(CLASSES) / case.name).write_bytes(case.content)


def _folders_in_a_folder(rng: random.Random, folder: Path) -> None:
    write_set(folder)
    deep = folder / "benign" / "/".join("d" * rng.choice((1, 40, 200)))
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(b"x")


_FOLDER_MUTATIONS = (
    _links,
    _class_that_is_a_link,
    _pipe,
    _names_on_disk,
    _malformed_images_on_disk,
    _folders_in_a_folder,
)


def write_set(folder: Path) -> None:
    for name, content in good_set():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


assert set(FORMATS) == {"PNG", "JPEG", "BMP", "TIFF"}  # else the mutations above miss one
