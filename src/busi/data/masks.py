"""Lesion masks: the union of an image's masks, and the problems of masks that cannot be used."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from busi.data.images import read_image, to_gray
from busi.data.listing import ImageFiles, Problem, list_class


def lesion_masks(folder: Path, manifest: pd.DataFrame) -> Callable[[str], np.ndarray | None]:
    """A function from the path of an image to its lesion, the region whose share the manifest's `lesion_fraction` is.

    Args:
        folder: the data set. Of it, only the masks that are asked for are opened.
        manifest: has columns `path`, `width`, `height` and `mask_count`.

    Returns:
        The function. It takes a path of the manifest and gives the union of the image's masks of its own size, bool
        (height, width), or None where there is none. A path that the manifest lacks is a `KeyError`.
    """
    rows = manifest.set_index("path")

    @cache
    def files_of(label: str) -> dict[str, ImageFiles]:
        return {image.name: image for image in list_class(folder / label)[0]}

    def lesion(path: str) -> np.ndarray | None:
        row = rows.loc[path]
        if not row["mask_count"]:
            return None
        label, _, name = path.partition("/")
        return lesion_union(folder, files_of(label)[name], (int(row["width"]), int(row["height"])))[0]

    return lesion


def lesion_union(
    folder: Path, image: ImageFiles, size: tuple[int, int] | None
) -> tuple[np.ndarray | None, list[Problem]]:
    """The union of an image's masks, and what is wrong with them.

    Args:
        folder: the data set.
        image: names the mask files.
        size: width and height of the image; None for one that cannot be read, whose masks are only tried.

    Returns:
        The union of the masks of that size, bool (height, width), or None where there is none; and the problems.
    """
    problems, union, misfits = [], None, []
    for name in image.masks:
        mask, reason = try_read(folder / image.label / name)
        if mask is None:
            problems.append(Problem(f"{image.label}/{name}", "unreadable_mask", reason))
        elif size is not None and mask.size != size:
            expected = f"expected {size[0]} x {size[1]} as its image"
            misfits.append((f"{image.label}/{name}", f"{mask.width} x {mask.height} pixels; {expected}"))
        elif size is not None:
            inside = to_gray(mask) > 0
            union = inside if union is None else union | inside
    kind = "mask_size" if union is None else "further_mask_size"
    return union, problems + [Problem(mask, kind, reason) for mask, reason in misfits]


def try_read(path: Path) -> tuple[Image.Image | None, str]:
    """The image, or None and the reason why it cannot be read."""
    try:
        return read_image(path, "file"), ""
    except ValueError as error:
        return None, str(error).removeprefix("file: ")
