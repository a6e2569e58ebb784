"""Whether a map of reasons points at the lesion, and whether it is a map of what was learned.

The pointing game (Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016): a map scores where its
peak lies inside the lesion. Here the peak is the centre of the strongest cell at the resolution of the feature map,
carried over to the image's own size, and no margin around the lesion counts as inside (theirs is of 15 pixels). Maps
are taken as they are before HiResCAM cuts them at zero, so that each has a peak and an order of cells.
"""

import numpy as np
from scipy.stats import spearmanr


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
