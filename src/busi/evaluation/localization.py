"""Localization: whether a heat map points at the lesion, and whether it depends on what was learned.

The pointing game (Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016): a map scores where its
peak lies inside the lesion. Here the peak is the centre of the strongest cell at the resolution of the feature map,
carried over to the image's own size, and no margin around the lesion counts as inside (theirs is of 15 pixels). Maps
are taken as they are before HiResCAM cuts them at zero, so that each has a peak and an order of cells.

The sanity check (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018): maps of the same architecture with
random weights must look different.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from busi.evaluation.metrics import mean_of
from busi.evaluation.observer import Observer
from busi.evaluation.records import Metric, Resampling
from busi.evaluation.sampling import evenly_spaced


def localize(
    observer: Observer,
    test: pd.DataFrame,
    lesion_fraction: np.ndarray,
    lesion_of: Callable[[str], np.ndarray | None],
    images: int,
    resampling: Resampling,
) -> dict[str, dict]:
    """How often HiResCAM of the true class points at the lesion, and how a network with random weights compares.

    Args:
        test: rows with path, label and duplicate_group.
        lesion_fraction: (n,) share of each image that its masks cover; NaN without masks.
        lesion_of: path to the union of the image's masks, bool (height, width); None without masks.
        images: at most so many test images with a lesion, evenly spaced over `test`, are measured. If no test image
            has masks, the rank correlation alone is measured, on at most so many of all test images.
        resampling: how the intervals are made; its seed also draws the random weights.

    Returns:
        "pointing_game": a metric with "chance" (mean share of the image that the lesion covers) and "centre" (the
        centre of the image in place of the map's peak), and "randomised_weights": its "pointing_game", and its
        "rank_correlation" with the learned maps. What can't be measured is left out.
    """
    with_lesion = np.flatnonzero(lesion_fraction > 0)
    chosen = test.iloc[evenly_spaced(with_lesion if len(with_lesion) else np.arange(len(test)), images)]
    paths, classes, groups = chosen["path"].tolist(), chosen["label"].tolist(), chosen["duplicate_group"].to_numpy()
    learned = observer.evidence(paths, classes, "heat maps")
    with observer.random_weights(resampling.seed):
        random = observer.evidence(paths, classes, "heat maps, random weights")

    def mean(values: list) -> Metric:
        return mean_of(np.array(values), groups, resampling)

    correlations = np.array([rank_correlation(*maps) for maps in zip(learned, random, strict=True)])
    varied = np.isfinite(correlations)
    against = {"rank_correlation": mean_of(correlations[varied], groups[varied], resampling)} if varied.any() else {}
    if not len(with_lesion):
        return {"randomised_weights": against} if against else {}
    lesions = [lesion_of(path) for path in paths]
    game = mean([points_at(*pair) for pair in zip(learned, lesions, strict=True)])
    chance, centre = mean([lesion.mean() for lesion in lesions]), mean([is_centred(lesion) for lesion in lesions])
    random_game = mean([points_at(*pair) for pair in zip(random, lesions, strict=True)])
    return {
        "pointing_game": {**game._asdict(), "chance": chance, "centre": centre},
        "randomised_weights": {"pointing_game": random_game, **against},
    }


def points_at(heat: np.ndarray, lesion: np.ndarray) -> bool:
    """Whether the peak of a map lies inside the lesion.

    Args:
        heat: (h, w); of equal peaks the first in reading order is taken, and a flat map has none.
        lesion: bool (height, width), at the image's own size.
    """
    if np.ptp(heat) == 0:
        return False
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return _holds(lesion, (row + 0.5) / heat.shape[0], (column + 0.5) / heat.shape[1])


def is_centred(lesion: np.ndarray) -> bool:
    """Whether the centre of the image lies inside the lesion: lesions tend to be there, and no model is needed."""
    return _holds(lesion, 0.5, 0.5)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of the cells of two maps of one shape, ties by mean rank; NaN where one is flat."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def _holds(lesion: np.ndarray, down: float, across: float) -> bool:
    return bool(lesion[int(down * lesion.shape[0]), int(across * lesion.shape[1])])
