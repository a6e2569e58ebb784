"""The files of a data set on disk: which are images, which are masks, and what should not be there.

Only names are looked at; no file is opened.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from busi.data import layout
from busi.data.companions import is_skipped
from busi.data.images import printable

# What can be wrong with files and folders; `validation_table` has a column for each. A mask of another size than its
# image is left out of lesion_fraction; it is a "further" one when another mask of the image fits, as once in BUSI.
PROBLEMS = (
    "unknown_folder", "nested_folder", "other_file", "unreadable_image", "unreadable_mask", "mask_without_image",
    "mask_size", "further_mask_size",
)  # fmt: skip
_OF_A_TOOL = "left by a tool; nothing in it is read"


class Problem(NamedTuple):
    """Something wrong with one file or folder: `path` relative to the data folder, `kind` one of `PROBLEMS`."""

    path: str
    kind: str
    reason: str


class ImageFiles(NamedTuple):
    """One image file and its mask files, by name, in one class folder."""

    label: str
    name: str
    masks: tuple[str, ...]


def list_images(folder: Path) -> tuple[list[ImageFiles], list[Problem]]:
    """The images below `folder`, sorted by path, and what is in it that should not be."""
    images, problems = [], []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if is_skipped(f"{entry.name}/"):
                problems.append(Problem(f"{_text(entry.name)}/", "other_file", _OF_A_TOOL))
            elif entry.name in layout.CLASSES:
                found, wrong = list_class(entry)
                images += found
                problems += wrong
            else:
                reason = f"{_size(entry)}; expected only the folders {', '.join(layout.CLASSES)}"
                problems.append(Problem(f"{_text(entry.name)}/", "unknown_folder", reason))
        elif entry.name != layout.DATASET_FILE:
            problems.append(Problem(_text(entry.name), "other_file", "not part of the data set"))
    return images, problems


def list_class(folder: Path) -> tuple[list[ImageFiles], list[Problem]]:
    """The images of one class folder with their masks, sorted by name, and what is in it that should not be."""
    label = folder.name
    problems = []
    images: dict[str, list[str]] = defaultdict(list)
    masks: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        name = layout.parse_name(entry.name)
        path = f"{label}/{_text(entry.name)}"
        is_image = name is not None and name.mask is None
        if entry.is_dir() and is_skipped(f"{entry.name}/"):
            problems.append(Problem(f"{path}/", "other_file", _OF_A_TOOL))
        elif name is not None and is_skipped(entry.name):  # `._x.png` of macOS
            problems.append(Problem(path, "other_file", _OF_A_TOOL))
        elif entry.is_dir():
            reason = f"{_size(entry)}; expected no folder in a class folder"
            problems.append(Problem(f"{path}/", "nested_folder", reason))
        elif name is None:
            problems.append(Problem(path, "other_file", f"not an image ({', '.join(layout.IMAGE_SUFFIXES)})"))
        elif _text(entry.name) != entry.name:
            kind = "unreadable_image" if is_image else "unreadable_mask"
            problems.append(Problem(path, kind, "the file's name is not valid UTF-8; rename it"))
        elif not entry.is_file():
            kind = "unreadable_image" if is_image else "unreadable_mask"
            problems.append(Problem(path, kind, "not a regular file, or a broken link"))
        elif is_image:
            images[name.stem].append(entry.name)
        else:
            masks[name.stem].append((name.mask, entry.name))

    owned: dict[str, list[str]] = defaultdict(list)
    for stem, files in masks.items():
        for _, mask in sorted(files):
            owner = _owner(mask, images.get(stem, []))
            if owner is None:
                several = "several images have this name" if stem in images else "no image has this name"
                reason = f"{several}; expected one image {printable(stem)!r} in {label}/"
                problems.append(Problem(f"{label}/{mask}", "mask_without_image", reason))
            else:
                owned[owner].append(mask)
    names = sorted(name for same in images.values() for name in same)
    return [ImageFiles(label, name, tuple(owned[name])) for name in names], problems


def _size(folder: Path) -> str:
    if folder.is_symlink():
        return "a link, which may lead anywhere"
    return f"{sum(len(names) for _, _, names in os.walk(folder))} files"


def _owner(mask: str, candidates: list[str]) -> str | None:
    if len(candidates) == 1:
        return candidates[0]
    suffix = Path(mask).suffix
    same = [name for name in candidates if Path(name).suffix == suffix]
    return same[0] if len(same) == 1 else None


def _text(name: str) -> str:
    """The name with bytes that are not UTF-8 escaped, so that it can be written anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
