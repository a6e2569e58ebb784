"""Reading a data set somebody else packed: zips and folders in BUSI's layout, copied into a fresh folder.

A source is untrusted. It may hold `benign/ malignant/ normal/` directly or below folders that hold nothing else
(`Dataset_BUSI_with_GT/`), images with or without masks, and the `dataset.json` of an exported set. Only names,
kinds and sizes are judged here; whether an image decodes is the validate stage's business.

Nothing is written by a path that the source chose: files are copied one by one, under a name that was taken apart
and checked, and what counts against a limit is the bytes that really come out.
"""

import io
import json
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from busi.data.layout import CLASSES, DATASET_FILE, label_of_name, parse_name

PROBLEMS_SHOWN = 20
JUNK = {".ds_store", "thumbs.db", "desktop.ini"}
# Notes that people keep beside images, no images themselves; anything else that is no image is refused
NOTES = (".txt", ".md")
JUNK_FOLDER = "__MACOSX"

_CHUNK = 1 << 20
# 100,000 members of about 300 bytes each; zipfile reads the whole directory of a zip into memory at once
_LONGEST_READ = 32 << 20
_LONGEST_DESCRIPTION = 4 << 20
_ENTRY = b"PK\x01\x02"  # how each entry of a zip's directory begins
_ENCRYPTED = 0x1 | 0x40
_UTF8_NAME = 0x800
_DESCRIPTION = {"name": str, "synthetic": bool, "source": str, "licence": str}
_DESCRIPTION_OPTIONAL = {"counts": dict, "masks": int, "planted": dict}


class Limits(NamedTuple):
    """What a source may cost: bytes in all, bytes a file, how far it expands, members.

    `ratio` holds for a file of more than `expanded_bytes`, and for all together from `expanded_total` on.
    """

    total_bytes: int = 4 << 30
    file_bytes: int = 200 << 20
    ratio: int = 200
    expanded_bytes: int = 1 << 20
    expanded_total: int = 64 << 20
    members: int = 100_000


LIMITS = Limits()


class Arrangement(NamedTuple):
    """A listing taken apart. `files` maps `benign/benign (1).png` to the path by which the source knows it."""

    files: dict[str, str]
    counts: dict[str, int]
    masks: int
    description: str | None
    ignored: tuple[str, ...]
    problems: tuple[str, ...]


class Collected(NamedTuple):
    """What `collect` copied: images a class, masks, bytes, junk left behind, the source's own `dataset.json`."""

    counts: dict[str, int]
    masks: int
    size: int
    ignored: tuple[str, ...]
    description: dict | None


class _Member(NamedTuple):
    path: str
    size: int
    packed: int | None
    open: Callable[[], BinaryIO]


def collect(source: Path, folder: Path, limits: Limits = LIMITS) -> Collected:
    """Check a zip or folder in BUSI's layout and copy its images and masks to `folder/<class>/<name>`.

    Args:
        source: a zip file or a folder; it is only read.
        folder: a path that does not exist yet. After an error it may hold a part; the caller removes it.
        limits: what the source may cost.

    Raises:
        ValueError: the source is not a zip, is damaged or hostile, or is not in BUSI's layout. All problems that
            can be seen together are listed, up to `PROBLEMS_SHOWN`, each with the member's name and the reason.
        OSError: `source` is missing or `folder` cannot be written.
    """
    with ExitStack() as stack:
        if source.is_dir():
            members, folders, problems = _list_folder(source, limits)
        else:
            file = stack.enter_context(_BoundedFile(io.FileIO(source), limits.members))
            archive = stack.enter_context(_open_zip(file, source.name))
            members, folders, problems = _list_zip(archive, limits)
        problems += _sum_faults(members, source, limits)
        arranged = arrange([member.path for member in members] + folders)
        _refuse(source, [*problems, *arranged.problems])

        by_path = {member.path: member for member in members}
        description = None
        if arranged.description is not None:
            small = limits._replace(file_bytes=min(limits.file_bytes, _LONGEST_DESCRIPTION))
            try:
                description = read_description(b"".join(_chunks(by_path[arranged.description], small)))
            except ValueError as error:
                raise ValueError(f"{source.name!r} can't be taken: {error}") from error
        folder.mkdir()
        for label in CLASSES:
            (folder / label).mkdir()
        files = {target: by_path[path] for target, path in arranged.files.items()}
        size = _copy(source, files, folder, limits)
    return Collected(arranged.counts, arranged.masks, size, arranged.ignored, description)


def arrange(paths: Iterable[str]) -> Arrangement:
    """Find BUSI's layout in a listing; pure, nothing is opened.

    Args:
        paths: every member as the source names it, `/` between its parts, folders with a `/` at the end.

    Returns:
        The images and masks by the place they belong in, sorted, and every problem as "'member': reason".
        `files` is only to be used when there are no problems.
    """
    problems: list[str] = []
    ignored: list[str] = []
    kept: dict[tuple[str, ...], str] = {}
    for path in sorted(paths):
        parts = tuple(part for part in path.removesuffix("/").split("/") if part != ".")
        if reason := _path_fault(path, parts):
            problems.append(f"{path!r}: {reason}")
        elif _is_junk(parts):
            ignored.append(path)
        elif parts in kept:
            problems.append(f"{path!r}: appears twice")
        else:
            kept[parts] = path
    depth = _wrapping(kept)
    description = None
    unknown: dict[str, None] = {}
    nested: dict[str, None] = {}
    flat: list[tuple[str, str, str]] = []
    for parts, path in kept.items():
        match parts[depth:]:
            case ():
                pass
            case (name,) if path.endswith("/"):
                if name not in CLASSES:
                    unknown[name] = None
            case (name,) if name == DATASET_FILE:
                description = path
            case (_,):
                problems.append(f"{path!r}: lies outside the class folders; remove it")
            case (label, *_) if label not in CLASSES:
                unknown[label] = None
            case (label, name) if not path.endswith("/"):
                flat.append((label, name, path))
            case (label, name, *_):
                nested[f"{label}/{name}"] = None
    problems += [f"{name!r}: unknown class folder; expected {', '.join(CLASSES)}" for name in unknown]
    problems += [f"{name!r}: a folder inside a class folder; move its files up or remove it" for name in nested]
    files, counts, masks, faults = _pair(flat)
    return Arrangement(files, counts, masks, description, tuple(ignored), (*problems, *faults))


def read_description(content: bytes) -> dict:
    """Read the `dataset.json` of an exported set: name, synthetic, source, licence and, for a phantom, planted.

    Counts in it are dropped, because the caller counts again. A set cannot turn from synthetic to real here:
    `synthetic` must be stated, and a set named phantom or with planted defects must state it as true.

    Raises:
        ValueError: not JSON, a key is missing, unknown or of another type, or the set contradicts itself.
    """
    where = f"{DATASET_FILE} of the source"
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8")  # it can be written again
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON in UTF-8: {error}\n  mend it or remove it") from error
    value = value if isinstance(value, dict) else {}
    known = _DESCRIPTION | _DESCRIPTION_OPTIONAL
    faults = [f"{key}: missing" for key in _DESCRIPTION if key not in value]
    for key, entry in value.items():
        if key not in known:
            faults.append(f"{key!r}: unknown key")
        elif not isinstance(entry, known[key]):
            faults.append(f"{key}: received {entry!r:.60}, expected {known[key].__name__}")
        elif isinstance(entry, str) and (reason := name_fault(entry, longest=1000)):
            faults.append(f"{key}: {reason}")
    if not faults and not value["synthetic"] and ("planted" in value or value["name"] == "phantom"):
        faults.append("synthetic: false, but the set is named phantom or lists planted defects; expected true")
    if faults:
        raise ValueError("\n  ".join([f"{where} is not valid", *faults]))
    return {key: entry for key, entry in value.items() if key not in ("counts", "masks")}


def name_fault(name: str, longest: int = 255) -> str | None:
    """Say why a name can't be a file's on every system, or None. `longest` is in bytes of UTF-8."""
    if not name:
        return "an empty name"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in name):
        return "a control character (newline, NUL, invisible mark) in its name; rename it"
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return f"its name has {length} bytes; at most {longest} are taken" if length > longest else None


def _path_fault(path: str, parts: tuple[str, ...]) -> str | None:
    if "\\" in path:
        return "a backslash in its path"
    if path.startswith("/"):
        return "an absolute path"
    if re.match(r"[A-Za-z]:", path):
        return "a drive letter in its path"
    if ".." in parts:
        return "its path leads out of the archive (..)"
    return next((reason for part in parts if (reason := name_fault(part))), None)


def _is_junk(parts: tuple[str, ...]) -> bool:
    # macOS keeps attributes of `x` in `._x` on disks that cannot hold them
    return JUNK_FOLDER in parts or any(
        name.lower() in JUNK or name.startswith("._") or name.lower().endswith(NOTES) for name in parts[-1:]
    )


def _wrapping(kept: Iterable[tuple[str, ...]]) -> int:
    """Number of outer folders that hold one folder and nothing else, down to the class folders."""
    depth = 0
    while True:
        tops = {parts[depth] for parts in kept if len(parts) > depth}
        if len(tops) != 1 or tops & set(CLASSES) or all(len(parts) < depth + 3 for parts in kept):
            return depth
        depth += 1


def _pair(flat: list[tuple[str, str, str]]) -> tuple[dict[str, str], dict[str, int], int, list[str]]:
    """Tell images from masks in (label, name, path) rows; gives files, images a class, number of masks, problems."""
    problems: list[str] = []
    files: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    stems: set[tuple[str, str]] = set()
    masks: list[tuple[str, str, str]] = []
    counts = dict.fromkeys(CLASSES, 0)
    for label, name, path in sorted(flat):
        parsed = parse_name(name)
        if parsed is None:
            problems.append(f"{path!r}: not an image by its suffix; remove it")
            continue
        # One image on a disk that ignores case, or writes umlauts in the other Unicode form
        key = (label, unicodedata.normalize("NFC", parsed.stem).casefold(), parsed.mask)
        if key in seen:
            same = "a name that differs only by case" if seen[key].lower() == path.lower() else "the same stem"
            problems.append(f"{path!r}: has {same} as {seen[key]!r}; keep one")
            continue
        seen[key] = path
        files[f"{label}/{name}"] = path
        if parsed.mask is not None:
            masks.append((label, parsed.stem, path))
            continue
        stems.add((label, parsed.stem))
        counts[label] += 1
        named = label_of_name(parsed.stem)
        if named not in (None, label):
            problems.append(f"{path!r}: named {named} but lies in {label}/")
        if "_mask" in parsed.stem.casefold():
            problems.append(f"{path!r}: looks like a mask; masks are called STEM_mask.png, STEM_mask_1.png, ...")
    for label, stem, path in masks:
        if (label, stem) not in stems:
            problems.append(f"{path!r}: a mask without its image {stem!r}")
    problems += [f"{label!r}: no image of this class" for label in CLASSES if not counts[label]]
    return files, counts, len(masks), problems


def _refuse(source: Path, problems: list[str]) -> None:
    if not problems:
        return
    shown = problems[:PROBLEMS_SHOWN]
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more")
    raise ValueError(
        "\n  ".join(
            [
                f"{source.name!r} can't be taken: {len(problems)} problem{'s' * (len(problems) > 1)}",
                *shown,
                f"expected {', '.join(f'{label}/' for label in CLASSES)} with images and, optionally, their masks",
            ]
        )
    )


def _sum_faults(members: list[_Member], source: Path, limits: Limits) -> list[str]:
    """What is wrong with all members together, each of which may be well within its own limits."""
    size = sum(member.size for member in members)
    if size > limits.total_bytes:
        return [f"its files come to {size:,} bytes; at most {limits.total_bytes:,} are taken"]
    there = source.stat().st_size
    if sum(member.packed or 0 for member in members) > there:
        return ["its members lie one on the other; that is a zip bomb"]
    if size > limits.expanded_total and size > limits.ratio * there and not source.is_dir():
        return [_bomb(there, size)]
    return []


def _list_folder(root: Path, limits: Limits) -> tuple[list[_Member], list[str], list[str]]:
    """Members, folders and problems of a folder; links are named as problems and never followed."""
    members: list[_Member] = []
    folders: list[str] = []
    problems: list[str] = []
    waiting = [root]
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            path = entry.relative_to(root).as_posix()
            if len(members) + len(folders) + len(problems) >= limits.members:
                raise ValueError(
                    f"{root.name!r} can't be taken: more than {limits.members:,} files; expected one data set"
                )
            status = entry.lstat()
            if stat.S_ISLNK(status.st_mode):
                problems.append(f"{path!r}: a symbolic link; put the file itself there")
            elif stat.S_ISDIR(status.st_mode):
                folders.append(f"{path}/")
                if entry.name != JUNK_FOLDER:
                    waiting.append(entry)
            elif not stat.S_ISREG(status.st_mode):
                problems.append(f"{path!r}: neither a file nor a folder")
            else:
                members.append(_Member(path, status.st_size, None, lambda entry=entry: entry.open("rb")))
                if status.st_size > limits.file_bytes:
                    problems.append(f"{path!r}: {_too_big(status.st_size, limits)}")
    return members, folders, problems


class _BoundedFile(io.BufferedReader):
    """A file that refuses a huge read and a long directory, as either of which a zip would fill the memory."""

    def __init__(self, raw: io.RawIOBase, members: int):
        super().__init__(raw)
        self._members = members

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LONGEST_READ:
            raise ValueError(f"its directory takes {size:,} bytes; at most {_LONGEST_READ:,} are read")
        found = super().read(size)
        if found.startswith(_ENTRY) and (entries := found.count(_ENTRY)) > self._members:
            raise ValueError(f"{entries:,} files; at most {self._members:,} are taken")
        return found


def _open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} can't be taken: a member's name is not UTF-8: {error.object!r}") from error
    except _READ_ERRORS as error:
        raise ValueError(
            f"{name!r} can't be taken: not a zip, or a damaged one ({_reason(error)})\n"
            "  expected a zip or a folder with benign/, malignant/ and normal/; fetch or pack it again"
        ) from error


def _list_zip(archive: zipfile.ZipFile, limits: Limits) -> tuple[list[_Member], list[str], list[str]]:
    """Members, folders and problems of a zip by its directory; nothing is unpacked yet."""
    members: list[_Member] = []
    folders: list[str] = []
    problems: list[str] = []
    for entry in archive.infolist():
        path = _zip_name(entry)
        if reason := _zip_fault(entry, path, limits):
            problems.append(f"{path!r}: {reason}")
        if path.endswith("/"):
            folders.append(path)
        else:
            size, packed = entry.file_size, entry.compress_size
            members.append(_Member(path, size, packed, lambda entry=entry: archive.open(entry)))
    return members, folders, problems


def _zip_name(entry: zipfile.ZipInfo) -> str:
    # `filename` is cut at a NUL; and macOS writes UTF-8 names without saying so, which zipfile reads as cp437
    name = entry.orig_filename
    if not entry.flag_bits & _UTF8_NAME:
        try:
            return name.encode("cp437").decode("utf-8")
        except UnicodeError:
            return name
    return name


def _zip_fault(entry: zipfile.ZipInfo, path: str, limits: Limits) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    if kind not in (0, stat.S_IFDIR if path.endswith("/") else stat.S_IFREG):
        return "neither a file nor a folder"
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted; pack it again without a password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {entry.compress_type}; pack it again with deflate"
    if entry.file_size > limits.file_bytes:
        return _too_big(entry.file_size, limits)
    if _is_bomb(entry.file_size, entry.compress_size, limits):
        return _bomb(entry.file_size, entry.compress_size)
    return None


def _copy(source: Path, files: dict[str, _Member], folder: Path, limits: Limits) -> int:
    """Copy each member to its target and give the number of bytes; damaged members are listed together."""
    total = 0
    problems: list[str] = []
    for target, member in tqdm(files.items(), desc="copying", unit="file", delay=3, leave=False):
        with (folder / target).open("xb") as writer:
            try:
                for chunk in _chunks(member, limits):
                    total += len(chunk)
                    if total > limits.total_bytes:
                        _refuse(source, [f"its files come to more than {limits.total_bytes:,} bytes"])
                    writer.write(chunk)
            except _DamagedMember as damage:
                problems.append(str(damage))
    _refuse(source, problems)
    return total


class _DamagedMember(ValueError):
    pass


def _chunks(member: _Member, limits: Limits) -> Iterator[bytes]:
    """Read a member as it comes; bytes that really came out are held to the limits, whatever the header says."""
    size = 0
    try:
        with member.open() as reader:
            while chunk := reader.read(_CHUNK):
                size += len(chunk)
                if size > limits.file_bytes:
                    raise ValueError(_too_big(size, limits))
                if member.packed is not None and _is_bomb(size, member.packed, limits):
                    raise ValueError(_bomb(size, member.packed))
                yield chunk
    except _READ_ERRORS as error:
        raise _DamagedMember(f"{member.path!r}: {_reason(error)}") from error


# What zipfile, zlib and the file below them raise on damaged input, one and all
_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _too_big(size: int, limits: Limits) -> str:
    return f"{size:,} bytes; at most {limits.file_bytes:,} are taken"


def _is_bomb(size: int, packed: int, limits: Limits) -> bool:
    return size > limits.expanded_bytes and size > limits.ratio * packed


def _bomb(size: int, packed: int) -> str:
    return f"{packed:,} bytes unpack to {size:,} or more; that is a zip bomb"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")
