"""BUSI's layout on disk: the classes in order, the pattern of file names and the published counts.

All code takes these from here. A value that belongs to one class only, such as its descriptors in
`busi.phantom.lesion`, names the class itself.

A data set is a folder with one folder a class. `benign (1).png` is an image; `benign (1)_mask.png`,
`benign (1)_mask_1.png`, ... are the lesion masks of that image. `dataset.json` beside the class folders
describes the set.
"""

import re
from typing import NamedTuple

CLASSES = ("benign", "malignant", "normal")
MALIGNANT = CLASSES.index("malignant")

# Al-Dhabyani et al., Data in Brief 28 (2020) 104863
PUBLISHED_COUNTS = {"benign": 437, "malignant": 210, "normal": 133}

DATASET_FILE = "dataset.json"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

# A registered model: the column of image files in its input, and the files it consists of
IMAGE_COLUMN = "image"
MODEL_FILE = "model.keras"
OOD_DETECTOR_FILE = "novelty.npz"  # registered versions have it under this name

_MASK = re.compile(r"^(?P<stem>.+)_mask(?:_(?P<number>[1-9][0-9]*))?$", re.DOTALL)  # a name may hold a newline


class FileName(NamedTuple):
    """A file name taken apart: `stem` names the image; `mask` is None for the image itself, else 0, 1, 2, ..."""

    stem: str
    suffix: str
    mask: int | None


def parse_name(name: str) -> FileName | None:
    """Take a bare file name apart; None when its suffix is not one of an image.

    >>> parse_name("benign (4)_mask_1.png")
    FileName(stem='benign (4)', suffix='.png', mask=1)
    """
    stem, dot, suffix = name.rpartition(".")
    suffix = (dot + suffix).lower()
    if not stem or suffix not in IMAGE_SUFFIXES:
        return None
    found = _MASK.match(stem)
    if found is None:
        return FileName(stem, suffix, None)
    return FileName(found["stem"], suffix, int(found["number"] or 0))


def image_name(label: str, number: int) -> str:
    """BUSI's name of an image: `benign (1).png`."""
    return f"{label} ({number}).png"


def mask_name(label: str, number: int, mask: int) -> str:
    """BUSI's name of a mask: `benign (1)_mask.png` for mask 0, `benign (1)_mask_1.png` for mask 1."""
    return f"{label} ({number})_mask{f'_{mask}' if mask else ''}.png"


def label_of_name(stem: str) -> str | None:
    """The class a BUSI image stem starts with (`benign (4)` gives `benign`), or None for names of another form."""
    label = stem.partition(" (")[0]
    return label if label in CLASSES else None
