"""What a plain random split of the same images, which divides near-duplicate groups, would have claimed.

It is shown beside the figure of the split by groups, never instead of it.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES
from busi.data.split import has_twin_in_train, split_at_random
from busi.evaluation.observer import Observer
from busi.evaluation.records import Metric
from busi.evaluation.resampling import wilson_share


def audit_random_split(
    images: pd.DataFrame, retrain: Callable[[pd.DataFrame], Observer], seed: int, confidence: float
) -> dict[str, Metric]:
    """The accuracy on the test part of a random split.

    Args:
        images: the split, a row an image: path, label, duplicate_group, part.
        retrain: trains a model on a split, which has the same columns.
        seed: of the random split.
        confidence: coverage of the intervals. They take images for independent, as a random split does.

    Returns:
        "accuracy", and the accuracy of the images "with_twin" and "without_twin" in the training part.
    """
    divided = split_at_random(images, seed)
    test = divided[divided["part"] == "test"].sort_values("path")
    twins = has_twin_in_train(divided)
    probabilities, _ = retrain(divided).classify(test["path"].tolist(), "audit")
    right = np.take(CLASSES, probabilities.argmax(axis=1)) == test["label"].to_numpy()

    def accuracy(among: np.ndarray) -> Metric:
        return wilson_share(int(right[among].sum()), int(among.sum()), confidence)

    return {
        "accuracy": accuracy(np.ones_like(twins)),
        "with_twin": accuracy(twins),
        "without_twin": accuracy(~twins),
    }
