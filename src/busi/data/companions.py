"""Files that come along with a data set and are no part of it: one table of what is skipped and what is refused.

What systems and tools leave behind and documents are skipped and counted; an unfinished download and a packed file are
refused, because images may be missing with them.
"""

import re

from busi.data.layout import DATASET_FILE

# Folders by lower-case name: nothing in them is read
_FOLDERS = frozenset(
    [
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        ".fseventsd",
        ".spotlight-v100",
        ".trashes",
        ".temporaryitems",
        ".documentrevisions-v100",
        ".ipynb_checkpoints",
        ".git",
        ".dvc",
        ".idea",
        ".vscode",
        "__pycache__",
        "lost+found",
    ]
) | {"system volume information"}
_FILES = re.compile(
    r"\.ds_store|icon\r|(eh)?thumbs\.db(:.*)?|desktop\.ini|\.directory|\.localized|\.gitignore|\.gitkeep|\.gitattributes"
    r"|\.dvcignore|\.git|\._.*|\.nfs.*|\.~lock.*|~\$.*|.*\.dvc|.*:?zone\.identifier|readme|licen[cs]e",
    re.DOTALL | re.IGNORECASE,
)
_DOCUMENTS = (".txt", ".md", ".rst", ".pdf", ".csv", ".tsv", ".xls", ".xlsx", ".doc", ".docx", ".json", ".html", ".bib")
_UNFINISHED = (".part", ".crdownload", ".partial", ".download")
_PACKED = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".iso")
# First bytes of a file that is read neither as a set nor as an image, where they stand, and what it is
_PACKED_MAGIC = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x1f\x8b", "packed by gzip (.gz or .tar.gz)"),
    (0, b"\xfd7zXZ\x00", "packed by xz"),
    (0, b"BZh", "packed by bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (257, b"ustar", "a tar archive"),
    (0x8001, b"CD001", "an ISO disk image"),
)
_OTHER_MAGIC = (
    (0, b"PK\x03\x04", "a zip (or a document of an office program)"),
    (8, b"WEBP", "a WebP image"),
    (0, b"GIF8", "a GIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (128, b"DICM", "a DICOM file"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the file itself (`git lfs pull` fetches it)"),
    (0, b"<!DOCTYPE", "a web page, as servers send in place of a file"),
    (0, b"<!doctype", "a web page, as servers send in place of a file"),
    (0, b"<html", "a web page, as servers send in place of a file"),
)
MAGIC_BYTES = 0x8006


def is_skipped(path: str) -> bool:
    """Whether a member belongs to a system or a tool or is a document; `path` ends with `/` for a folder.

    A folder is skipped only by the table of folders: one that is called `readme` may hold images.
    """
    parts = path.removesuffix("/").split("/")
    if any(part.lower() in _FOLDERS for part in parts):
        return True
    name = parts[-1].lower()
    return (
        not path.endswith("/") and name != DATASET_FILE and (bool(_FILES.fullmatch(name)) or name.endswith(_DOCUMENTS))
    )


def refusal(path: str) -> str | None:
    """Why a member of this name stops the reading of a set, or None; `path` ends with `/` for a folder."""
    if path.lower().endswith(_UNFINISHED):
        return "an unfinished download; finish or remove it"
    if path.lower().endswith(_PACKED):
        return "a packed file inside; unpack it and give the folder, or remove it"
    return None


def packed_as(head: bytes) -> str | None:
    """What a file is by its first `MAGIC_BYTES` bytes, if it is packed in a way that is not read."""
    return _kind(head, _PACKED_MAGIC)


def content_kind(head: bytes) -> str | None:
    """What a file is by its first `MAGIC_BYTES` bytes, if that is known; a suffix may say anything."""
    return _kind(head, _PACKED_MAGIC + _OTHER_MAGIC)


def _kind(head: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((kind for at, magic, kind in table if head[at : at + len(magic)] == magic), None)
