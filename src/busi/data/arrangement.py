"""Where each file of an untrusted listing belongs in BUSI's layout, and what is wrong with its name.

Pure: names go in, nothing is opened.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from busi.data.companions import is_skipped, refusal
from busi.data.layout import CLASSES, DATASET_FILE, label_of_name, parse_name


class Arrangement(NamedTuple):
    """A listing taken apart. `files` maps `benign/benign (1).png` to the path by which the source knows it."""

    files: dict[str, str]
    counts: dict[str, int]
    masks: int
    description: str | None
    ignored: tuple[str, ...]
    problems: tuple[str, ...]


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
        parts = _parts(path)
        if reason := _leads_out(path, parts):
            problems.append(f"{path!r}: {reason}")
        elif is_skipped(path):
            ignored.append(path)
        elif reason := next(filter(None, map(name_fault, parts)), None) or refusal(path):
            problems.append(f"{path!r}: {reason}")
        elif parts in kept:
            problems.append(f"{path!r}: appears twice")
        else:
            kept[parts] = path
    _drop_emptied(kept, ignored)
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
    if unknown and not any(set(parts[depth : depth + 1]) & set(CLASSES) for parts in kept):
        names = ", ".join(repr(name) for name in list(unknown)[:5]) + ", ..." * (len(unknown) > 5)
        problems.append(f"none of the folders {', '.join(CLASSES)} is in it, but {names}; sort the images by class")
    else:
        problems += [f"{name!r}: unknown class folder; expected {', '.join(CLASSES)}" for name in unknown]
    problems += [f"{name!r}: a folder inside a class folder; move its files up or remove it" for name in nested]
    files, counts, masks, faults = _pair(flat)
    if not problems:  # else they say why there is none
        faults += [f"{label!r}: no image of this class" for label in CLASSES if not counts[label]]
    return Arrangement(files, counts, masks, description, tuple(ignored), (*problems, *faults))


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


def _leads_out(path: str, parts: tuple[str, ...]) -> str | None:
    if "\\" in path:
        return "a backslash in its path"
    if path.startswith("/"):
        return "an absolute path"
    if re.match(r"[A-Za-z]:", path):
        return "a drive letter in its path"
    if ".." in parts:
        return "its path leads out of the archive (..)"
    return None


def _drop_emptied(kept: dict[tuple[str, ...], str], ignored: Iterable[str]) -> None:
    """Drop the folders that hold nothing but skipped files; a zip need not even list them."""
    with_file = {above for parts, path in kept.items() if not path.endswith("/") for above in _above(parts)}
    with_skipped = {above for path in ignored for above in _above(_parts(path))}
    for parts in (with_skipped - with_file) & kept.keys():
        del kept[parts]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.removesuffix("/").split("/") if part != ".")


def _above(parts: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (parts[:end] for end in range(1, len(parts)))


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
            problems.append(f"{path!r}: not an image by its suffix; remove it, or save it as PNG")
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
    return files, counts, len(masks), problems
