"""The table of many files: on the page, and as the CSV to download."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from busi.data.layout import CLASSES
from pipeline.serving.app.crop import Crop, box_of
from pipeline.serving.app.state import File, Preview

FORMULA = ("=", "+", "-", "@", "\t")  # a spreadsheet runs a cell that begins so


def to_table(
    files: list[File], answers: list[dict], previews: Mapping[str, Preview], crops: Mapping[str, Crop]
) -> pd.DataFrame:
    """One row a file, in the order of `files`, with the columns of the CSV.

    Args:
        answers: a row of `ImageClassifier.predict` for each file.
        previews, crops: by a file's key.

    Returns:
        `file`, `label` (empty where the file was refused), a probability a class (NaN there), `accepted`, `reason`,
        `crop` ("left top right bottom", or "none"), `model_version` and `disclaimer`.
    """
    rows = []
    for file, answer in zip(files, answers, strict=True):
        probabilities = answer["probabilities"] if answer["accepted"] else dict.fromkeys(CLASSES, np.nan)
        box = box_of(previews[file.key], crops.get(file.key))
        rows.append(
            {
                "file": f"'{file.name}" if file.name.startswith(FORMULA) else file.name,
                "label": answer["label"] or "",
                **{label: round(probabilities[label], 6) for label in CLASSES},
                "accepted": answer["accepted"],
                "reason": answer["reason"],
                "crop": "none" if box is None else " ".join(map(str, box)),
                "model_version": answer["model_version"],
                "disclaimer": answer["disclaimer"],
            }
        )
    return pd.DataFrame(rows)


def show_table(table: pd.DataFrame, thumbnails: list[str | None]) -> None:
    """The table of `to_table` on the page, with a number and a small picture before each row."""
    column = st.column_config
    shown = table.assign(number=range(1, len(table) + 1), image=thumbnails)
    st.dataframe(
        shown.style.format("{:.1%}", subset=list(CLASSES), na_rep=""),
        hide_index=True,
        row_height=44,
        column_order=["number", "image", *table.columns],
        column_config={
            "number": column.NumberColumn("#", width=40),
            "image": column.ImageColumn("", width=60),
            "file": column.TextColumn(width=180),
            "label": column.TextColumn(width=90),
            **{label: column.NumberColumn(width=85) for label in CLASSES},
            "accepted": column.CheckboxColumn(width=80),
            "reason": column.TextColumn(width=260),
            "crop": column.TextColumn(width=110),
            "model_version": column.TextColumn("model version"),
        },
    )
