"""Intervals: the bootstrap over near-duplicate groups, and Wilson's for images that are taken for independent.

Low and high are percentiles (Efron and Tibshirani 1993, chapter 13) over resamples of near-duplicate groups. Whole
groups are drawn with replacement (the randomized cluster bootstrap of Field and Welsh 2007, J. R. Statist. Soc. B
69:369), since twins are right or wrong together and an interval over single images would be too narrow.

A resample is a row of image weights: how often each image's group was drawn. Weights are whole numbers, and what they
weigh is rounded to whole steps, so that every sum is exact and no result depends on the order of the images.
"""

from collections.abc import Iterator

import numpy as np

from busi.evaluation.records import Metric, Resampling

_DIGITS = 6
_SMALLEST_STEP = 2.0**-24  # of a probability's difference from right or wrong
_CELLS = 4_000_000  # numbers in one block of resamples: keeps memory flat in images and resamples


def resamples(groups: np.ndarray, resampling: Resampling) -> Iterator[np.ndarray]:
    """Blocks of image weights, float64 (b, n), whole numbers; `resampling.bootstrap` rows in all.

    Args:
        groups: (n,) near-duplicate group of each image, any sortable type.
    """
    group_of = np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(resampling.seed)
    count = int(group_of.max()) + 1
    block = max(1, _CELLS // len(group_of))
    for start in range(0, resampling.bootstrap, block):
        rows = min(block, resampling.bootstrap - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=rows)[:, group_of].astype(np.float64)


def resamples_without_a_class(labels: np.ndarray, groups: np.ndarray, classes: int, resampling: Resampling) -> int:
    """How many resamples lack one of `classes` classes, and so are left out of some intervals of `metrics.evaluate`."""
    present = np.eye(classes)[labels]
    return sum(int((weights @ present == 0).any(axis=1).sum()) for weights in resamples(groups, resampling))


def share(top: np.ndarray, among: np.ndarray, groups: np.ndarray, resampling: Resampling) -> Metric:
    """The sum of `top` (n,) over the number of images in `among` (n,) bool, with its interval; 0 without images."""
    n = int(among.sum())
    if n == 0:
        return Metric(0.0, 0.0, 0.0, 0)
    top, among = np.asarray(top, dtype=np.float64), among.astype(np.float64)
    values = np.concatenate([ratio(weights @ top, weights @ among) for weights in resamples(groups, resampling)])
    value = top.sum() / n
    # With few images it may be that every resample lacks them; the interval is then the value alone
    return with_interval(value, values if not np.isnan(values).all() else np.array([value]), resampling.confidence, n)


def with_interval(value: float, values: np.ndarray, confidence: float, n: int) -> Metric:
    """A value with the percentiles of its resamples, (b,) floats; NaN is a resample that leaves it undefined."""
    outside = (1 - confidence) / 2
    return rounded(value, *np.quantile(values[~np.isnan(values)], [outside, 1 - outside]), n)


def wilson_share(successes: int, n: int, confidence: float) -> Metric:
    """A share of n images with Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    It takes images for independent, but holds near 0 and 1, where a bootstrap is too narrow. With n = 0 all are 0.
    """
    if n == 0:
        return Metric(0.0, 0.0, 0.0, 0)
    from scipy.stats import binomtest  # not at the top: the import takes most of a second

    return rounded(successes / n, *binomtest(successes, n).proportion_ci(confidence, method="wilson"), n)


def rounded(value: float, low: float, high: float, n: int) -> Metric:
    """A metric of plain numbers, rounded to 6 digits."""
    return Metric(round(float(value), _DIGITS), round(float(low), _DIGITS), round(float(high), _DIGITS), int(n))


def whole_steps(values: np.ndarray) -> np.ndarray:
    """Values rounded to multiples of 2^-24, whose weighted sums are exact while they are hundreds at most."""
    return np.round(values / _SMALLEST_STEP) * _SMALLEST_STEP


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above` / `below`, NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.broadcast_shapes(above.shape, below.shape), np.nan), where=below > 0)
