"""Slices: parts of the test images whose accuracy is measured separately, since a good mean can hide a bad part."""

import numpy as np
import pandas as pd

TERTILES = ("small", "medium", "large")


def slices_of(images: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sort images into slices.

    Args:
        images: rows of the manifest; columns label, width, height, lesion_fraction (NaN without masks), annotated.

    Returns:
        Slicing to the name of each image's slice, an object array (n,); "" for an image that is in none:
        label: the class; annotation: "annotated" (burnt-in marks are likely) or "clean"; native_size: tertile of
        width times height; lesion_size: tertile of the masks' share of the image, for images that show a lesion. A
        slicing that would be of one slice is left out: no masks, say, or images of one size.
    """
    area = images["width"] * images["height"]
    lesion = images["lesion_fraction"].where(images["lesion_fraction"] > 0)
    slices = {
        "label": images["label"].to_numpy(dtype=object),
        "annotation": np.where(images["annotated"], "annotated", "clean").astype(object),
        "native_size": _tertiles(area.to_numpy(dtype=float)),
        "lesion_size": _tertiles(lesion.to_numpy(dtype=float)),
    }
    return {slicing: names for slicing, names in slices.items() if len(set(names) - {""}) > 1}


def ranges_of(images: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """The least and the largest value in each slice by tertile: native_size in pixels, lesion_size a share, 0 to 1.

    Args:
        images: as for `slices_of`.
    """
    values = {"native_size": images["width"] * images["height"], "lesion_size": images["lesion_fraction"]}
    slices = slices_of(images)
    return {
        slicing: {
            name: (float(found[names == name].min()), float(found[names == name].max()))
            for name in TERTILES
            if name in names
        }
        for slicing, found in values.items()
        if (names := slices.get(slicing)) is not None
    }


def _tertiles(values: np.ndarray) -> np.ndarray:
    """Names by tertile of the values that are not NaN; equal values are in one slice, so slices may differ in size."""
    names = np.full(len(values), "", dtype=object)
    known = ~np.isnan(values)
    if known.any():
        edges = np.quantile(values[known], [1 / 3, 2 / 3])
        names[known] = np.take(np.array(TERTILES, dtype=object), np.searchsorted(edges, values[known]))
    return names
