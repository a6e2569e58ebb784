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
    r"\.ds_store|(eh)?thumbs\.db(:.*)?|desktop\.ini|\.directory|\.localized|\.gitignore|\.gitkeep|\.gitattributes"
    r"|\.dvcignore|\.git|\._.*|\.nfs.*|\.~lock.*|~\$.*|.*\.dvc|.*:?zone\.identifier|readme|licen[cs]e",
    re.DOTALL | re.IGNORECASE,
)
_DOCUMENTS = (".txt", ".md", ".rst", ".pdf", ".csv", ".tsv", ".xls", ".xlsx", ".doc", ".docx", ".json", ".html", ".bib")
_UNFINISHED = (".part", ".crdownload", ".partial", ".download")
_PACKED = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".iso")
# First bytes of a packed file, where they stand, and what it is
_MAGIC = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x1f\x8b", "packed by gzip (.gz or .tar.gz)"),
    (0, b"\xfd7zXZ\x00", "packed by xz"),
    (0, b"BZh", "packed by bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (257, b"ustar", "a tar archive"),
    (0x8001, b"CD001", "an ISO disk image"),
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


def refusal(name: str) -> str | None:
    """Why a file of this name stops the reading of a set, or None."""
    if name.lower().endswith(_UNFINISHED):
        return "an unfinished download; finish or remove it"
    if name.lower().endswith(_PACKED):
        return "a packed file inside; unpack it and give the folder"
    return None


def packed_as(head: bytes) -> str | None:
    """What a file is by its first `MAGIC_BYTES` bytes, if it is packed in a way that is not read."""
    return next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), None)
