"""Malformed zips. Checksums of members are right, or nothing behind that check would ever be reached."""

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

from tests.malformed_inputs.byte_mutations import EDGES, bits, edge, inserted, moved, truncated
from tests.malformed_inputs.good_files import Case, good_set
from tests.malformed_inputs.image_files import images

EVIL = "evil-busi.png"  # what no archive may ever write

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


@functools.cache
def heavy_archives() -> tuple[tuple[str, bytes], ...]:
    """Zips that unpack to far more than they are, in every way that is known."""
    zeros = zlib.compress(bytes(300_000_000), 9)[2:-4]
    nested = zipped([("a.zip", zipped([("b.zip", zipped([("c.png", bytes(10_000_000))]))]))])
    many_in_one_place = overlapping(300)
    return (
        ("one bomb", zipped([*good_set(), ("benign/bomb.png", bytes(250_000_000))])),
        ("bombs below each limit", zipped([*good_set(), *((f"benign/{n}.png", bytes(1 << 20)) for n in range(2000))])),
        ("overlapping members", many_in_one_place),
        ("zip in zip in zip", nested),
        ("a size that lies", _lying(zeros)),
        ("100001 members", zipped([(f"benign/{n}.png", b"") for n in range(100_001)])),
        ("700000 members in the directory", directory_of(700_000)),
        ("a directory of one long comment", zipped(good_set()) + bytes(70_000_000)),
        ("a description of deep lists", zipped([*good_set(), ("dataset.json", description("[" * 900 + "]" * 900))])),
        ("a description of 4 MB", zipped([*good_set(), ("dataset.json", description('"' + "x" * 4_000_000 + '"'))])),
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


def _bytes_of_a_zip(rng: random.Random) -> bytes:
    content = zipped(good_set(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    for _ in range(rng.choice((1, 2, 4))):
        mutate = rng.choice((bits, truncated, edge, moved, inserted))
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
    return zipped([*good_set(), ("dataset.json", description(planted))])


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


def description(planted: str) -> bytes:
    about = {"name": "mine", "synthetic": True, "source": "here", "licence": "none"}
    return (json.dumps(about)[:-1] + f', "planted": {planted}}}').encode("latin-1")


def overlapping(copies: int) -> bytes:
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


def directory_of(count: int) -> bytes:
    entry = zipped([("b", b"")])
    entry = entry[entry.index(b"PK\x01\x02") : entry.index(b"PK\x05\x06")]
    size = len(entry) * count
    return entry * count + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, size, 0, 0)
