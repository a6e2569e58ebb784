"""The manifest: one row an image, with all that later stages need to know of it without opening the file again.

`build_manifest` reads a folder in BUSI's layout (`busi.layout`). Masks are attached to their image and never become
rows. Whatever is not as it should be becomes a `Problem` that names the file; nothing stops at the first one.
`audit_table` sets both out as one table for the validation suite.

Every figure is a quotient of integer sums rounded to six digits, so it is the same on every processor.
"""

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageChops
from tqdm import tqdm

from busi.data import duplicates, layout
from busi.data.images import printable, read_image, to_gray
from busi.data.process_pool import process_pool

COLUMNS = (
    "path", "label", "sha256", "width", "height", "mode", "format", "mask_count", "lesion_fraction", "mean", "std",
    "saturated", "annotated", "duplicate_group", "label_conflict",
)  # fmt: skip

SATURATED = 250  # gray level from which a pixel counts as saturated

# What can be wrong with files and folders, each a column of `audit_table`. A mask of another size than its image is
# left out of lesion_fraction; it is a "further" one when another mask of the image fits. (BUSI has one of these.)
PROBLEMS = (
    "unknown_folder", "nested_folder", "other_file", "unreadable_image", "unreadable_mask", "mask_without_image",
    "mask_size", "further_mask_size",
)  # fmt: skip

AUDIT_COLUMNS = (
    *COLUMNS, *PROBLEMS, "name_label", "lesion_mask", "normal_mask", "copy_flagged", "images", "found", "expected",
)  # fmt: skip

_DIGITS = 6
_CHUNK = 8
_WORTH_A_POOL = 64  # images; below, starting processes takes longer than reading


class Problem(NamedTuple):
    """Something wrong with one file or folder: `path` relative to the data folder, `kind` one of `PROBLEMS`."""

    path: str
    kind: str
    reason: str


def build_manifest(folder: Path, workers: int | None = None) -> tuple[pd.DataFrame, list[Problem]]:
    """Read every image and mask below `folder` and describe each image in a row.

    Args:
        folder: holds one folder a class, as `busi.layout` says.
        workers: processes that read files; by default one a core that this process may use.

    Returns:
        The manifest, sorted by path, and the problems, sorted by path. Columns of the manifest are `COLUMNS`:
        path (POSIX, relative to `folder`), label, sha256 (hex, of the file's bytes), width and height (pixels),
        mode and format (Pillow's names), mask_count, lesion_fraction (share of pixels in the union of the masks,
        NaN without masks), mean and std (of gray, 0-255), saturated (share of pixels at `SATURATED` or above),
        annotated (burnt-in marks are likely, see `looks_annotated`), duplicate_group ("g0001", ... numbered by
        first path; every image has one), label_conflict (the group holds more than one label). An image that
        cannot be read has a problem and no row.

    Raises:
        ValueError: `folder` is not a folder, or a reading process was killed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that holds {', '.join(layout.CLASSES)}")
    images, problems = _list_images(folder)
    rows, fingerprints = [], []
    results = _map(partial(_measure, folder), images, workers or _cores())
    for row, fingerprint, found in tqdm(results, "reading images", len(images), unit="", disable=None):
        problems += found
        if row is not None:
            rows.append(row)
            fingerprints.append(fingerprint)
    table = pd.DataFrame(rows, columns=list(COLUMNS[:-2]))
    groups = _groups(table["sha256"], fingerprints)
    table["duplicate_group"] = [f"g{number:04d}" for number in pd.factorize(groups)[0] + 1]
    table["label_conflict"] = table.groupby("duplicate_group")["label"].transform("nunique") > 1
    return table.astype({"annotated": bool, "label_conflict": bool, "lesion_fraction": float}), sorted(problems)


def lesion_masks(folder: Path) -> Callable[[str], np.ndarray | None]:
    """A function from the path of an image, as in the manifest, to what `lesion_fraction` is the share of.

    That is the union of the image's masks of its own size, bool (height, width), or None where there is none.
    """
    images = {f"{image.label}/{image.name}": image for image in _list_images(folder)[0]}

    def lesion(path: str) -> np.ndarray | None:
        return _union(folder, images[path], read_image(folder / path))[0]

    return lesion


def audit_table(
    manifest: pd.DataFrame, problems: Iterable[Problem], counts: Mapping[str, int], masks: int
) -> pd.DataFrame:
    """The manifest as a table in which every defect of the data set is a value in a row that names the culprit.

    Args:
        manifest, problems: of `build_manifest`.
        counts: images a class that the data set says it has.
        masks: masks that it says it has.

    Returns:
        The rows of the manifest, then a row for each problem, then one a class ("benign/") and one for all masks.
        Beside the manifest's columns (null outside its rows, but label is an unknown folder's name in its row) there
        is a column for each of `PROBLEMS`, "ok" or the reason, and, null wherever they do not apply: name_label
        (class that a BUSI file name says); lesion_mask ("missing", "empty" or "present"; lesion classes of a set
        that has masks); normal_mask ("empty" or "present"; normals that have masks); copy_flagged (for a file whose
        very bytes occur in another class: "yes" when its group is marked as a label conflict, else "no"); images
        (files a class); found and expected (files a class, and masks).
    """
    table = manifest.copy()
    table["name_label"] = [layout.label_of_name(Path(path).stem) for path in table["path"]]
    fraction, normal = table["lesion_fraction"], table["label"] == "normal"
    without = table["mask_count"] == 0
    # Null for an image none of whose masks can be used: that is reported of the masks.
    state = pd.Series(None, table.index, dtype=object).mask(without, "missing")
    state = state.mask(fraction == 0, "empty").mask(fraction > 0, "present")
    table["lesion_mask"] = state.where(~normal & ~without.all())
    table["normal_mask"] = state.where(normal & ~without)
    copied = table.groupby("sha256")["label"].transform("nunique") > 1
    table["copy_flagged"] = pd.Series("no", table.index).mask(table["label_conflict"], "yes").where(copied)

    trouble, found = [], Counter(manifest["label"])
    mask_count: int | None = int(manifest["mask_count"].sum())
    for path, kind, reason in sorted(problems):
        label = path.partition("/")[0]
        trouble.append({"path": path, kind: reason} | ({"label": label} if kind == "unknown_folder" else {}))
        found[label] += kind == "unreadable_image"
        if kind == "mask_without_image" and mask_count is not None:
            mask_count += 1
        if kind == "unreadable_image":
            mask_count = None  # masks of images without a row are not counted, so there is nothing to compare
    totals = [
        {"path": f"{label}/", "images": found[label], "found": found[label], "expected": counts[label]}
        for label in layout.CLASSES
    ]
    totals.append({"path": "*_mask*", "found": mask_count, "expected": masks})
    blank = dict.fromkeys(AUDIT_COLUMNS) | dict.fromkeys(PROBLEMS, "ok")
    records = [blank | record for record in [*table.to_dict("records"), *trouble, *totals]]
    # As objects, so that a column with nulls keeps its integers and truth values.
    whole = pd.DataFrame(records, columns=list(AUDIT_COLUMNS), dtype=object)
    return whole.where(whole.notna(), None)


def looks_annotated(image: Image.Image, gray: np.ndarray) -> bool:
    """Whether burnt-in marks (calipers, text, arrows, boxes) are likely; a hint, not a finding.

    Two signs, either suffices: at least 20 coloured pixels (channels 48 levels apart; tissue is gray), or at least
    6 pixels of bright upright strokes (level 220 or more, and 100 levels above the pixels three columns to the left
    and to the right; bright tissue lies in layers and fades slowly). The levels were chosen on the 149 native BUSI
    images of the sample, where they find all 22 that show marks and one that does not.

    Args:
        image: as read.
        gray: its gray levels, uint8 of shape (H, W).
    """
    if image.mode not in ("1", "L", "LA") and not image.mode.startswith("I"):
        # By way of RGBA, since Pillow warns of a palette with transparency that is to become RGB
        opaque = image.convert("RGBA") if image.mode in ("P", "PA") else image
        red, green, blue = opaque.convert("RGB").split()
        spread = ImageChops.lighter(ImageChops.difference(red, green), ImageChops.difference(green, blue))
        if sum(spread.histogram()[48:]) >= 20:
            return True
    if gray.shape[1] < 7:
        return False
    centre, left, right = gray[:, 3:-3], gray[:, :-6], gray[:, 6:]
    limit = centre - np.uint8(100)  # wraps below 100, where `centre >= 220` is false anyway
    return int(np.count_nonzero((centre >= 220) & (left < limit) & (right < limit))) >= 6


class _Image(NamedTuple):
    """One image file and its mask files, by name, in one class folder."""

    label: str
    name: str
    masks: tuple[str, ...]


def _list_images(folder: Path) -> tuple[list[_Image], list[Problem]]:
    """The images below `folder`, sorted by path, and what is in it that should not be."""
    images, problems = [], []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if entry.name in layout.CLASSES:
                found, wrong = _list_class(entry)
                images += found
                problems += wrong
            else:
                reason = f"{_size(entry)}; expected only the folders {', '.join(layout.CLASSES)}"
                problems.append(Problem(f"{_text(entry.name)}/", "unknown_folder", reason))
        elif entry.name != layout.DATASET_FILE:
            problems.append(Problem(_text(entry.name), "other_file", "not part of the data set"))
    return images, problems


def _list_class(folder: Path) -> tuple[list[_Image], list[Problem]]:
    label = folder.name
    problems = []
    images: dict[str, list[str]] = defaultdict(list)
    masks: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        name = layout.parse_name(entry.name)
        path = f"{label}/{_text(entry.name)}"
        is_image = name is not None and name.mask is None
        if entry.is_dir():
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
    return [_Image(label, name, tuple(owned[name])) for name in names], problems


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


def _measure(folder: Path, image: _Image) -> tuple[dict | None, np.ndarray | None, list[Problem]]:
    """Row, fingerprint and problems of one image; row and fingerprint are None when it cannot be read."""
    path = f"{image.label}/{image.name}"
    problems = []
    picture, reason = _try_read(folder / path)
    if picture is None:
        problems.append(Problem(path, "unreadable_image", reason))
    union, wrong = _union(folder, image, picture)
    problems += wrong
    if picture is None:
        return None, None, problems

    gray = to_gray(picture)
    count = gray.size
    levels = Image.fromarray(gray).histogram()
    total = sum(level * pixels for level, pixels in enumerate(levels))
    squares = sum(level * level * pixels for level, pixels in enumerate(levels))
    with (folder / path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    row = {
        "path": path,
        "label": image.label,
        "sha256": sha256,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "format": picture.format,
        "mask_count": len(image.masks),
        "lesion_fraction": math.nan if union is None else round(int(np.count_nonzero(union)) / count, _DIGITS),
        "mean": round(total / count, _DIGITS),
        "std": round(math.sqrt(count * squares - total * total) / count, _DIGITS),
        "saturated": round(sum(levels[SATURATED:]) / count, _DIGITS),
        "annotated": looks_annotated(picture, gray),
    }
    return row, duplicates.fingerprint(gray), problems


def _union(folder: Path, image: _Image, picture: Image.Image | None) -> tuple[np.ndarray | None, list[Problem]]:
    """The union of an image's masks of its own size, bool (H, W) or None, and the problems of its masks."""
    problems, union, misfits = [], None, []
    for name in image.masks:
        mask, reason = _try_read(folder / image.label / name)
        if mask is None:
            problems.append(Problem(f"{image.label}/{name}", "unreadable_mask", reason))
        elif picture is not None and mask.size != picture.size:
            expected = f"expected {picture.width} x {picture.height} as its image"
            misfits.append((f"{image.label}/{name}", f"{mask.width} x {mask.height} pixels; {expected}"))
        elif picture is not None:
            inside = to_gray(mask) > 0
            union = inside if union is None else union | inside
    kind = "mask_size" if union is None else "further_mask_size"
    return union, problems + [Problem(mask, kind, reason) for mask, reason in misfits]


def _try_read(path: Path) -> tuple[Image.Image | None, str]:
    try:
        return read_image(path, "file"), ""
    except ValueError as error:
        return None, str(error).removeprefix("file: ")


def _groups(digests: pd.Series, fingerprints: list[np.ndarray]) -> np.ndarray:
    if not fingerprints:
        return np.zeros(0, dtype=np.int64)
    groups = np.array(duplicates.find_groups(np.stack(fingerprints)))
    # The same bytes belong together even where the search cannot compare, as in a blank image.
    first: dict[str, int] = {}
    for index, digest in enumerate(digests):
        groups[groups == groups[index]] = groups[first.setdefault(digest, index)]
    return groups


def _map(function: partial, items: list[_Image], workers: int) -> Iterator:
    if workers == 1 or len(items) < _WORTH_A_POOL:
        yield from map(function, items)
        return
    with process_pool(workers) as pool:
        try:
            yield from pool.map(function, items, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise ValueError("a process that read images was killed, most likely for want of memory") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(name: str) -> str:
    """The name with bytes that are not UTF-8 escaped, so that it can be written anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
