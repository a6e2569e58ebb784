"""Classify image files with the Production model: `busi predict PATH...`.

A path is an image file, or a folder that is searched recursively for image files. Prints a table, or with `--csv` or
`--json` the same for programs, with the columns that `busi.serving` describes and the path before them; in the CSV each
class has a column. A file that can't be read or is no ultrasound image has its row and its reason.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from busi import DISCLAIMER
from busi.data.images import printable
from busi.data.layout import CLASSES, IMAGE_SUFFIXES
from busi.serving import MAX_BYTES
from pipeline.dataset import read_dataset
from pipeline.runtime.errors import StageError

BATCH = 32  # files in memory at once


def run(paths: list[Path], as_csv: bool, as_json: bool, model: str | None) -> None:
    """Classify image files with the Production model of `model`, by default that of the data set, and print the result.

    Raises:
        StageError: no path, a path that is not there, both formats, or no usable Production model.
    """
    if as_csv and as_json:
        raise StageError("both --csv and --json were given; expected one of them")
    if not paths:
        raise StageError("no file was named; expected image files, or folders of them")
    files = find(paths)
    if model is None:
        read_dataset()  # an error before the seconds that the next line takes

    from pipeline.registry import names, production

    with tqdm(total=len(files), desc="predict", unit="image", disable=None) as progress:
        classifier = production.load(model or names.default_name()).classifier
        rows = list(classify(classifier, files, progress))
    # A file name may not be valid text; its bytes are printed as \udcXX, which JSON takes
    sys.stdout.reconfigure(errors="backslashreplace")
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif as_csv:
        flatten(rows).to_csv(sys.stdout, index=False, lineterminator="\n", float_format="%.6f")
    else:
        print(as_table(rows))


def split_paths(text: str) -> list[Path]:
    """The paths in one text: one, if a file or folder has exactly this name, otherwise several between spaces."""
    whole = Path(text)
    if text.strip() and not os.path.lexists(whole):
        return [Path(part) for part in text.split()]
    return [whole] if text.strip() else []


def find(paths: list[Path]) -> list[Path]:
    """The files that the paths name, folders' in order of their names.

    Raises:
        StageError: a path is not there, or a folder has no image file in it.
    """
    files = []
    for path in paths:
        if path.is_dir():
            named = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            found = sorted(file for file in named if not file.is_dir())
            if not found:
                raise StageError(
                    f"{printable(str(path))} has no image file in it; expected names ending in "
                    f"{', '.join(IMAGE_SUFFIXES)}"
                )
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise StageError(f"{printable(str(path))} not found; expected an image file or a folder of them")
    return files


def classify(classifier, files: list[Path], progress: tqdm) -> Iterator[dict]:
    """A row for each file, as `busi.serving` gives it, with the file's path before it."""
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        contents, unreadable = [], {}
        for path in batch:
            try:
                contents.append(_content(path))
            except ValueError as error:
                contents.append(b"")  # the model refuses it too; its reason is replaced below
                unreadable[path] = str(error)
        said = classifier.predict(contents).to_dict(orient="records")
        for path, row in zip(batch, said, strict=True):
            yield {"path": str(path), **row, "reason": unreadable.get(path, row["reason"])}
        progress.update(len(batch))


def flatten(rows: list[dict]) -> pd.DataFrame:
    """The rows as a table that has a column for each class in place of `probabilities`."""
    table = pd.DataFrame(rows, dtype=object)  # pandas' text columns refuse file names that are not valid text
    place = table.columns.get_loc("probabilities")
    for offset, label in enumerate(CLASSES):
        table.insert(place + 1 + offset, label, [said[label] if said else None for said in table["probabilities"]])
    return table.drop(columns="probabilities")


def as_table(rows: list[dict]) -> str:
    """The table for people, with the model's version and the disclaimer under it."""
    shown = []
    for row in rows:
        percent = [f"{row['probabilities'][label]:.1%}" if row["accepted"] else "" for label in CLASSES]
        shown.append([printable(row["path"]), row["label"] or "refused", *percent, row["reason"]])
    refused = sum(not row["accepted"] for row in rows)
    # Only the reason is wrapped: a name that is broken in two can't be found or copied
    table = tabulate(shown, headers=["file", "label", *CLASSES, "reason"], maxcolwidths=[*[None] * 5, 60])
    return f"{table}\n\n{len(rows) - refused} classified, {refused} refused by {rows[0]['model_version']}\n{DISCLAIMER}"


def _content(path: Path) -> bytes:
    """The bytes of a file, of a too large one just enough for it to be refused. Raises ValueError with the reason."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("neither a file nor a link to one")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"can't be opened: {error.strerror}") from error
