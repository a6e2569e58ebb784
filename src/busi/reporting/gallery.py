"""Pictures of single test images for a report: the image, and the image with its heat map and the lesion's outline."""

import io
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from busi.evaluation import shown_images
from busi.reporting.viewing import blend, shrink

_SIDE = 320  # pixels of the longer side, twice what a report shows it at
_OPACITY = 0.7  # of the map at its peak; it fades with the map, so that tissue shows where the map is low
_QUALITY = 82  # of JPEG


def entries(
    predictions: pd.DataFrame,
    heat_maps: Mapping[str, np.ndarray],
    read_gray: Callable[[str], np.ndarray],
    lesion_of: Callable[[str], np.ndarray | None],
) -> dict[str, list[dict]]:
    """The pictures of the gallery, as `report.Content` holds them.

    Args:
        predictions: one row an image: path, label, predicted, and a probability a class.
        heat_maps: for each image that `shown_images.choose` chooses its map, float (h, w) in 0-1.
        read_gray: path to the image's gray levels, uint8 (H, W).
        lesion_of: path to the lesion's pixels, bool (H, W); None where the image shows no lesion.

    Returns:
        For each kind of `shown_images.choose`, rows of `predictions` with "image" and "overlay" (JPEG files),
        "outlined" (the overlay shows the lesion) and "empty" (the map has no peak).

    Raises:
        ValueError: the map of a chosen image is missing.
    """

    def entry(place: int) -> dict:
        row = predictions.iloc[place].to_dict()
        if row["path"] not in heat_maps:
            raise ValueError(f"no heat map of {row['path']}; predictions and heat maps are not of one evaluation")
        gray, heat, lesion = read_gray(row["path"]), heat_maps[row["path"]], lesion_of(row["path"])
        drawn = {"image": picture(gray), "overlay": overlay(gray, heat, lesion)}
        return row | drawn | {"outlined": lesion is not None, "empty": not heat.any()}

    return {kind: [entry(place) for place in places] for kind, places in shown_images.choose(predictions).items()}


def picture(gray: np.ndarray) -> bytes:
    """An image, uint8 (H, W), as a small JPEG file."""
    return _jpeg(shrink(gray, _SIDE))


def overlay(gray: np.ndarray, heat: np.ndarray, lesion: np.ndarray | None) -> bytes:
    """An image with a heat map laid over it, and the outline of the lesion, as a small JPEG file.

    Args:
        gray: uint8 (H, W).
        heat: float (h, w) of any size, 0 to 1; it is stretched over the image.
        lesion: bool (H, W), or None.
    """
    small = shrink(gray, _SIDE)
    size = small.shape[1], small.shape[0]
    shown = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    pixels = blend(small, shown, _OPACITY)
    if lesion is not None:
        inside = np.asarray(Image.fromarray(lesion).resize(size, Image.Resampling.NEAREST))
        line = binary_dilation(inside) & ~binary_erosion(inside, iterations=2)
        # White on black, so that it shows on any tissue
        pixels[binary_dilation(line, iterations=2)] = 0
        pixels[line] = 255
    return _jpeg(pixels)


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=_QUALITY)
    return file.getvalue()
