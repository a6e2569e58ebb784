"""The manifest: one row an image, with the figures that later stages use in place of reading every file again.

`build_manifest` reads a folder in BUSI's layout (`layout`). Masks are attached to their image (`listing`) and never
become rows. Whatever is wrong becomes a `Problem` that names the file, and reading goes on. What the figures mean is in
`measures`; near-duplicate groups are made by `duplicates`.
"""

import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from busi.data import duplicates, layout
from busi.data.listing import ImageFiles, Problem, list_images
from busi.data.measures import measure_image
from busi.data.process_pool import process_pool

COLUMNS = (
    "path", "label", "sha256", "width", "height", "mode", "format", "mask_count", "lesion_fraction", "mean", "std",
    "saturated", "annotated", "duplicate_group", "label_conflict",
)  # fmt: skip

_CHUNK = 8  # images sent to a process at a time
_WORTH_A_POOL = 64  # images; with fewer, starting processes takes longer than reading


def build_manifest(folder: Path, workers: int | None = None) -> tuple[pd.DataFrame, list[Problem]]:
    """Read every image and mask below `folder` and describe each image in a row.

    Args:
        folder: holds one folder a class, as `layout` says.
        workers: processes that read files; by default one a core that this process may use.

    Returns:
        The manifest, sorted by path, and the problems, sorted by path. Columns of the manifest are `COLUMNS`:
        path (POSIX, relative to `folder`), label, sha256 (hex, of the file's bytes), width and height (pixels),
        mode and format (Pillow's names), mask_count, lesion_fraction (share of pixels in the union of the masks,
        NaN without masks), mean and std (of gray, 0-255), saturated (share of pixels at `measures.SATURATED` or above),
        annotated (burnt-in marks are likely, see `measures.looks_annotated`), duplicate_group ("g0001", ... numbered by
        first path; every image has one), label_conflict (the group holds more than one label). An image that
        cannot be read has a problem and no row.

    Raises:
        ValueError: `folder` is not a folder, or a reading process was killed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that holds {', '.join(layout.CLASSES)}")
    images, problems = list_images(folder)
    rows, fingerprints = [], []
    results = _map(partial(measure_image, folder), images, workers or _cores())
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


def _groups(digests: pd.Series, fingerprints: list[np.ndarray]) -> np.ndarray:
    if not fingerprints:
        return np.zeros(0, dtype=np.int64)
    groups = np.array(duplicates.find_groups(np.stack(fingerprints)))
    # The same bytes belong together even where the search cannot compare, as in a blank image.
    first: dict[str, int] = {}
    for index, digest in enumerate(digests):
        groups[groups == groups[index]] = groups[first.setdefault(digest, index)]
    return groups


def _map(function: partial, items: list[ImageFiles], workers: int) -> Iterator:
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
