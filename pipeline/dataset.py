"""The one reader of `data/dataset.json`, the description that stands beside the images.

`busi data` writes the file. It holds `name` (text), `synthetic` (true or false), `source` and `licence` (text),
`counts` (images a class) and `masks` (their number); a synthetic set adds `planted`.
"""

import json
from pathlib import Path

from busi.data.layout import CLASSES
from pipeline.paths import DATASET
from pipeline.runtime.errors import StageError


def read_dataset(path: Path = DATASET) -> dict:
    """Read the description of the data set.

    Returns:
        The content of the file. `name` is a text that is not empty and `synthetic` a truth value; nothing else is
        checked.

    Raises:
        StageError: the file is missing, is not JSON, or lacks `name` or `synthetic`.
    """
    if not path.is_file():
        raise StageError(
            f"{path} not found\n  `busi run` brings data in (the version of data.dvc, else the embedded set) and runs "
            "all stages;\n  `busi data` does the first alone, and `busi data SOURCE` brings in your own images"
        )
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path} is not valid JSON: {error}\n  write it anew with `busi data SOURCE`") from error
    known = dataset if isinstance(dataset, dict) else {}
    name, synthetic = known.get("name"), known.get("synthetic")
    if not (isinstance(name, str) and name and isinstance(synthetic, bool)):
        raise StageError(
            f"{path}: received name {name!r:.60} and synthetic {synthetic!r:.60}; expected name (text) and synthetic "
            "(true or false)\n  write it anew with `busi data SOURCE`"
        )
    return dataset


def read_counted_dataset(path: Path = DATASET) -> dict:
    """Read the description of the data set, and require what a check of the images needs of it.

    Returns:
        What `read_dataset` returns, where `counts` has a whole number for each class and `masks` is a whole number.

    Raises:
        StageError: as `read_dataset`, and when `counts` or `masks` is missing or of another type.
    """
    dataset = read_dataset(path)
    counts, masks = dataset.get("counts"), dataset.get("masks")
    counted = isinstance(counts, dict) and set(counts) == set(CLASSES)
    if not (counted and all(type(number) is int for number in [*counts.values(), masks])):
        raise StageError(
            f"{path}: received counts {counts!r:.100} and masks {masks!r:.60}; expected counts (a whole number for "
            f"each of {', '.join(CLASSES)}) and masks (a whole number)\n  write it anew with `busi data SOURCE`"
        )
    return dataset
