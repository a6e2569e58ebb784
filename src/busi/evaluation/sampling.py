"""A deterministic choice of a few of many images."""

import numpy as np


def evenly_spaced(items: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the items, evenly spaced from the first to the last."""
    return items[np.unique(np.linspace(0, len(items) - 1, count).astype(int))]
