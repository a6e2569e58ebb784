"""Pictures of single images for a report: which ones to show, and how to lay a map of reasons and the lesion over one.

What is chosen and drawn is a function of the predictions and pixels alone.
"""

import io

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from busi.data.layout import CLASSES
from busi.reporting.viewing import blend, fit

WRONG, UNCERTAIN = 6, 3  # images shown at most; of the right ones the surest of each class

_SIDE = 320  # pixels of the longer side, twice what a report shows it at
_OPACITY = 0.7  # of the map at its peak; it fades with the map, so that tissue shows where nothing speaks
_QUALITY = 82  # of JPEG


def choose(predictions: pd.DataFrame) -> dict[str, list[int]]:
    """Positions of the images to show: `right`, the surest of each class; `wrong`, the surest first; `uncertain`.

    The least certain are those whose two largest probabilities are closest. No image is in two of them.

    Args:
        predictions: one row an image: path, label, predicted, and a probability a class.
    """
    table = predictions.reset_index(drop=True)
    probabilities = np.sort(table[list(CLASSES)].to_numpy(), axis=1)
    table = table.assign(sure=probabilities[:, -1], gap=probabilities[:, -1] - probabilities[:, -2])
    is_right = table["label"] == table["predicted"]
    surest = table.sort_values(["sure", "path"], ascending=[False, True])
    right = surest[is_right[surest.index]].drop_duplicates("label").sort_values("label").index.tolist()
    wrong = surest[~is_right[surest.index]].index.tolist()[:WRONG]
    rest = table.drop(index=[*right, *wrong]).sort_values(["gap", "path"])
    return {"right": right, "wrong": wrong, "uncertain": rest.index.tolist()[:UNCERTAIN]}


def picture(gray: np.ndarray) -> bytes:
    """An image, uint8 (H, W), as a small JPEG file."""
    return _jpeg(fit(gray, _SIDE))


def overlay(gray: np.ndarray, heat: np.ndarray, lesion: np.ndarray | None) -> bytes:
    """The same with a map laid over it, and the outline of the lesion.

    Args:
        gray: uint8 (H, W).
        heat: float (h, w) of any size, 0 to 1; it is stretched over the image.
        lesion: bool (H, W), or None.
    """
    small = fit(gray, _SIDE)
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
