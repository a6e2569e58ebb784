"""Malformed image files. Checksums are right where a reader looks at them first, such as those of PNG's chunks."""

import functools
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from busi.data.images import FORMATS, MAX_PIXELS
from busi.data.layout import IMAGE_SUFFIXES
from tests.bad_images import bomb, encoded, in_mode, pixels
from tests.malformed_inputs.byte_mutations import EDGES, bits, bits_at_the_start, edge, inserted, moved, truncated
from tests.malformed_inputs.good_files import Case, good_images

PNG = b"\x89PNG\r\n\x1a\n"


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


def _spliced(rng: random.Random, content: bytes) -> bytes:
    other = rng.choice(good_images())[1]
    cut = rng.randrange(min(len(content), len(other)) + 1)
    return content[:cut] + other[cut:]


def _header_of_another(rng: random.Random, content: bytes) -> bytes:
    other = rng.choice(good_images())[1]
    length = rng.choice((2, 4, 8, 16, 33))
    return other[:length] + content[length:]


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
            chunks[at] = kind, bits(rng, data)
        case 1:
            chunks[at] = kind, edge(rng, data)
        case 2:
            chunks[at] = kind, truncated(rng, data)
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
    return edge(rng, content)


def _depth(rng: random.Random, content: bytes) -> bytes:
    """Another bit depth, colour type, compression, filter or interlacing in a PNG's header."""
    chunks = png_chunks(content)
    if not chunks or len(chunks[0][1]) != 13:
        return edge(rng, content)
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
    bits, bits_at_the_start, truncated, _spliced, _header_of_another, edge, moved, inserted, _empty_or_other,
    _chunk, _chunk, _size, _depth, _malformed_chunk, _malformed_chunk, _segment, _segment, _tag, _tag,
)  # fmt: skip


def _with_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    whole = png_chunks(in_mode("L", pixels(1)))
    return png_of([*whole[:1], *chunks, *whole[1:]])


assert set(FORMATS) == {"PNG", "JPEG", "BMP", "TIFF"}  # else the mutations above miss one
