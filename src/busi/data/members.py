"""The members of a zip or a folder that is not trusted: listed without being opened, and read within limits.

In a folder, which is the user's own, a link to a regular file stands for that file; every other link is refused,
and each link of a zip. A member counts by the bytes that really come out, whatever the header says.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from busi.data.companions import is_skipped
from busi.data.images import MAX_BYTES

_CHUNK = 1 << 20
# 100,000 members of about 300 bytes each; zipfile reads the whole directory of a zip into memory at once
_LONGEST_READ = 32 << 20
_ENTRY = b"PK\x01\x02"  # how each entry of a zip's directory begins
_ENCRYPTED = 0x1 | 0x40
_UTF8_NAME = 0x800
# What zipfile, zlib and the file below them raise on damaged input
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


class Limits(NamedTuple):
    """What a source may cost: bytes in all, bytes a file, how far it expands, members.

    `ratio` holds for a file of more than `expanded_bytes`, and for all together from `expanded_total` on.
    """

    total_bytes: int = 4 << 30
    file_bytes: int = MAX_BYTES  # a larger image would be refused when it is read
    ratio: int = 200
    expanded_bytes: int = 1 << 20
    expanded_total: int = 64 << 20
    members: int = 100_000


LIMITS = Limits()


class Member(NamedTuple):
    """One file of a source: its path there, its size, its packed size (None in a folder), and how to open it."""

    path: str
    size: int
    packed: int | None
    open: Callable[[], BinaryIO]


class DamagedMember(ValueError):
    """A member that cannot be read whole; the text names it and the reason."""


def list_folder(root: Path, limits: Limits) -> tuple[list[Member], list[str], list[str]]:
    """Members, folders and problems of a folder; links to anything but a regular file are problems, not followed."""
    members: list[Member] = []
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
            skipped = is_skipped(f"{entry.name}/" if stat.S_ISDIR(status.st_mode) else entry.name)
            if stat.S_ISLNK(status.st_mode) and not skipped:
                try:
                    status = entry.stat()
                except OSError:
                    problems.append(f"{path!r}: a symbolic link that leads nowhere; put the file itself there")
                    continue
                if not stat.S_ISREG(status.st_mode):
                    problems.append(f"{path!r}: a symbolic link to no regular file; put the files themselves there")
                    continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(f"{path}/")
                if not skipped:
                    waiting.append(entry)
            elif not stat.S_ISREG(status.st_mode) and not skipped:
                problems.append(f"{path!r}: neither a file nor a folder")
            else:
                members.append(Member(path, status.st_size, None, lambda entry=entry: entry.open("rb")))
                if status.st_size > limits.file_bytes and not skipped:
                    problems.append(f"{path!r}: {_too_big(status.st_size, limits)}")
    return members, folders, problems


def open_zip(file: BinaryIO, name: str) -> zipfile.ZipFile:
    """Open a zip; a ValueError that names it says why it can't be read."""
    try:
        return zipfile.ZipFile(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name!r} can't be taken: a member's name is not UTF-8: {error.object!r}") from error
    except _READ_ERRORS as error:
        raise ValueError(
            f"{name!r} can't be taken: not a zip, or a damaged one ({_reason(error)})\n"
            "  expected a zip or a folder with benign/, malignant/ and normal/; fetch or pack it again"
        ) from error


def list_zip(archive: zipfile.ZipFile, limits: Limits) -> tuple[list[Member], list[str], list[str]]:
    """Members, folders and problems of a zip by its directory; nothing is unpacked yet."""
    members: list[Member] = []
    folders: list[str] = []
    problems: list[str] = []
    for entry in archive.infolist():
        path = _zip_name(entry).replace("\\", "/")  # packers on Windows write it as separator
        if reason := _zip_fault(entry, path, limits):
            problems.append(f"{path!r}: {reason}")
        if path.endswith("/"):
            folders.append(path)
        else:
            size, packed = entry.file_size, entry.compress_size
            members.append(Member(path, size, packed, lambda entry=entry: archive.open(entry)))
    return members, folders, problems


def total_faults(members: list[Member], source: Path, limits: Limits) -> list[str]:
    """What is wrong with all members together, even if each is within its own limits."""
    size = sum(member.size for member in members)
    if size > limits.total_bytes:
        return [f"its files come to {size:,} bytes; at most {limits.total_bytes:,} are taken"]
    there = source.stat().st_size
    if sum(member.packed or 0 for member in members) > there:
        return ["its members lie one on the other; that is a zip bomb"]
    if size > limits.expanded_total and size > limits.ratio * there and not source.is_dir():
        return [_bomb(there, size)]
    return []


def read_member(member: Member, limits: Limits) -> Iterator[bytes]:
    """Read a member in chunks. The limits hold for the bytes that really come out, whatever the header says."""
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
        raise DamagedMember(f"{member.path!r}: {_reason(error)}") from error


class BoundedFile(io.BufferedReader):
    """A file that refuses a huge read and a directory of too many entries: both would fill the memory."""

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


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _too_big(size: int, limits: Limits) -> str:
    return f"{size:,} bytes; at most {limits.file_bytes:,} are taken"


def _is_bomb(size: int, packed: int, limits: Limits) -> bool:
    return size > limits.expanded_bytes and size > limits.ratio * packed


def _bomb(size: int, packed: int) -> str:
    return f"{packed:,} bytes unpack to {size:,} or more; that is a zip bomb"
