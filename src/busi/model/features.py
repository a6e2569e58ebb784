"""The stored features: the output of the frozen prefix for every image and every augmented view, computed once.

The features are one array, `float16 (rows, ...)`, in a `.npy` file that is written and read row by row. A table,
`row,path,label,part,view`, says which row is which. View 0 is the image itself; 1, 2, ... are augmented
views, made of training images only. Memory does not grow with the number of images.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from busi.backend import keras
from busi.data.images import prepare, read_image
from busi.data.split import QUARANTINE
from busi.model.augmentation import AugmentationConfig, augment, view_generator
from busi.model.inference import predict

BATCH = 32  # views in memory at once
FLOAT16_MAX = np.finfo(np.float16).max


def feature_rows(split: pd.DataFrame, views: int) -> pd.DataFrame:
    """The rows of the feature array: every image of train, val and test once, and `views` more of each of train.

    Args:
        split: columns `path,label,part`; quarantined images get no row, as nothing may use them.

    Returns:
        Columns `row,path,label,part,view`; the views of one image are consecutive.
    """
    used = split[split.part != QUARANTINE]
    repeats = np.where(used.part == "train", 1 + views, 1)
    rows = used.loc[used.index.repeat(repeats), ["path", "label", "part"]].reset_index(drop=True)
    rows["view"] = rows.groupby("path", sort=False).cumcount()
    rows.insert(0, "row", np.arange(len(rows)))
    return rows


def write_features(
    prefix: keras.Model, folder: Path, rows: pd.DataFrame, augmentation: AugmentationConfig, seed: int, path: Path
) -> None:
    """Run `prefix` over every row's view and write float16 (rows, ...) to `path` as they come.

    Args:
        prefix: the frozen part of the model (`freezing.cut`), from pixels (n, S, S, 3) in 0-255.
        folder: where `rows.path` is relative to.
        rows: as `feature_rows` gives them.
        augmentation: how far the views may differ from their image.
        seed: of the views.

    Raises:
        ValueError: an image cannot be read, or a feature does not fit float16.
    """
    size = prefix.input_shape[1]
    done = 0
    # Appended, not mapped: on a full disk a write raises an error, but a store to a mapped page kills the process
    with path.open("wb") as file, tqdm(total=len(rows), desc="featurize", unit="view", mininterval=1) as progress:
        _write_header(file, (len(rows), *prefix.output_shape[1:]))
        for features in predict(prefix, _batches(_views(folder, rows, size, augmentation, seed))):
            if not np.abs(features).max() <= FLOAT16_MAX:  # also catches NaN
                raise ValueError(
                    f"features of {rows.path[done]} and its neighbours reach {np.abs(features).max():g}, more than "
                    f"float16 holds ({FLOAT16_MAX:g}); check featurize.weights or another featurize.boundary"
                )
            file.write(features.astype("<f2").tobytes())
            done += len(features)
            progress.update(len(features))


class Features:
    """The array of `write_features`, float16 (rows, ...), of which rows are read from the file as they are asked for.

    The file is mapped anew for each read: the pages of a lasting map would add up to the whole file in memory.
    """

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r")
        self.shape, self.dtype = array.shape, array.dtype
        self._path, self._offset = path, array.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | np.ndarray) -> np.ndarray:
        return np.array(np.memmap(self._path, self.dtype, "r", self._offset, self.shape)[rows])


def read_features(path: Path, rows: pd.DataFrame) -> Features:
    """The array of `write_features` whose table is `rows`."""
    array = Features(path)
    if len(array) != len(rows):
        raise ValueError(f"{path} has {len(array)} rows, its table {len(rows)}; re-run: dvc repro --force featurize")
    return array


def select_features(parts: list[tuple[Features, pd.DataFrame]], rows: pd.DataFrame, path: Path) -> None:
    """Write to `path` what `write_features` would for `rows`, copied from arrays that hold all of their views.

    `inference.predict` passes each view through the network by itself. So a view's features do not depend on the images
    beside it, and the bytes are equal to those of `write_features`, provided that both ran with the same number of
    threads on processors of the same kind.

    Args:
        parts: (array, its rows) as `read_features` and `feature_rows` give them, no view in two of them.
        rows: as `feature_rows` gives them.

    Raises:
        ValueError: a view of `rows` is in none of the parts.
    """
    places = {}
    for part, (_, held) in enumerate(parts):
        for row, image, view in zip(held["row"], held["path"], held["view"], strict=True):
            places[image, view] = part, row
    wanted = list(zip(rows["path"], rows["view"], strict=True))
    missing = [f"view {view} of {image}" for image, view in wanted if (image, view) not in places]
    if missing:
        raise ValueError(f"the stored features lack {len(missing)} views, the first is {missing[0]}")
    with path.open("wb") as file:
        _write_header(file, (len(rows), *parts[0][0].shape[1:]))
        for image_and_view in wanted:
            part, row = places[image_and_view]
            file.write(parts[part][0][row].tobytes())


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin a `.npy` file of float16, to which the rows are appended."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def _views(
    folder: Path, rows: pd.DataFrame, size: int, augmentation: AugmentationConfig, seed: int
) -> Iterator[np.ndarray]:
    def views_of(path: str, views: int) -> list[np.ndarray]:
        pixels = prepare(read_image(folder / path), size)
        return [pixels] + [augment(pixels, view_generator(seed, path, view), augmentation) for view in range(1, views)]

    # Decoding and resizing leave Python's lock, so threads use every core; in chunks, so that memory stays flat
    counts = rows.groupby("path", sort=False).size()
    with ThreadPoolExecutor() as pool:
        images = iter(counts.items())
        while chunk := list(islice(images, BATCH)):
            for views in pool.map(lambda item: views_of(*item), chunk):
                yield from views


def _batches(views: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while batch := list(islice(views, BATCH)):
        yield np.stack(batch)
