"""One file of heat maps: `evaluate` writes it, and `report` draws from it without running the network."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save(heat_maps: Mapping[str, np.ndarray], file: Path) -> None:
    """Write an .npz: for each image's path its map, float32 (h, w) in 0-1. The same maps give the same bytes.

    Not by `np.savez`, whose bytes depend on the release of Python (the headers of zipfile).
    """
    with zipfile.ZipFile(file, "w") as archive:
        for path, heat in sorted(heat_maps.items()):
            content = io.BytesIO()
            np.save(content, np.asarray(heat, dtype=np.float32), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{path}.npy"), content.getvalue())


def load(file: Path) -> dict[str, np.ndarray]:
    """Read what `save` wrote; never unpickles. Raises ValueError for another file."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {path: archive[path] for path in archive.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} is not a file of heat maps: {error}\n  run `dvc repro evaluate`") from error
