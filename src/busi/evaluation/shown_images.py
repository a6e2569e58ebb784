"""Which test images a report shows; `evaluate` makes heat maps of these only."""

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES

WRONG, UNCERTAIN = 6, 3  # images shown at most; of the right ones, the surest of each class is shown


def choose(predictions: pd.DataFrame) -> dict[str, list[int]]:
    """Positions of the images to show: `right`, the surest of each class; `wrong`, the surest first; `uncertain`.

    The least certain are those whose two largest probabilities are closest. No image is in two of them. The choice is
    a function of the predictions alone.

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
