"""How good a classifier is, and how sure that is: metrics with intervals that respect near-duplicate groups.

Every metric is {"value", "low", "high", "n"}, plain numbers rounded to 6 digits. Low and high are the percentile
bootstrap interval (Efron and Tibshirani 1993, chapter 13) over near-duplicate groups: whole groups are drawn with
replacement (Field and Welsh 2007, J. R. Statist. Soc. B 69:369, the randomized cluster bootstrap), since twins are
right or wrong together and an interval over single images would be too narrow. n is the number of images that the
metric is over: all of them; for sensitivity the images of the class; for specificity the others; for precision the
images predicted as the class; for F1 the images that are of the class or were predicted so.

Definitions (P = images of the class, TP/FP/FN/TN against all other classes together):
    sensitivity TP / P; specificity TN / (TN + FP); precision TP / (TP + FP); F1 2 TP / (2 TP + FP + FN)
    balanced accuracy: mean sensitivity; macro F1: mean F1; macro AUROC: mean one-against-rest area, ties half
    expected calibration error: over ten bins of equal width of the largest probability, the mean distance between the
        share of right images and the mean of that probability, weighted by images (Guo et al., ICML 2017). Few images
        raise it: a perfectly calibrated model has about 0.06 on 90 images
    Brier score: mean squared distance of the probabilities from the true class, 0 to 2 (Brier 1950, Mon. Weather Rev.
        78:1)
Precision and F1 of a class that was never predicted are 0, as in scikit-learn. A resample without images of a class
leaves that class's sensitivity, and what is averaged over classes, undefined: it is left out of those intervals, and
`resamples_without_a_class` says how many there were.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES

_DIGITS = 6
_BINS = 10  # of the largest probability, for the expected calibration error
_SMALLEST_STEP = 2.0**-24  # a probability's difference from right or wrong, as a whole number of these: sums are exact
_CELLS = 4_000_000  # numbers in one block of resamples: keeps memory flat in images and resamples

Metric = dict[str, float | int]


def evaluate(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, bootstrap: int, confidence: float, seed: int
) -> dict[str, Metric | dict[str, dict[str, Metric]]]:
    """All metrics with their intervals.

    Args:
        labels: (n,) integers, the index of the true class in `layout.CLASSES`; every class occurs.
        probabilities: (n, 3) floats 0 to 1, rows that sum to 1. The prediction is the largest, the first of equals.
        groups: (n,) near-duplicate group of each image, any sortable type.
        bootstrap: number of resamples.
        confidence: coverage of the intervals, between 0 and 1.
        seed: of the resampling. The order of the images does not matter.

    Returns:
        {"accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro", "expected_calibration_error",
        "brier_score"} with a metric each, and
        "per_class": {class: {"sensitivity", "specificity", "precision", "f1"}}. `accuracy_wilson` is Wilson's
        score interval, which takes images for independent but holds near 0 and 1 where a bootstrap is too narrow.

    Raises:
        ValueError: shapes or values are not as above, or a class has no image.
    """
    labels, probabilities, group_of = _checked(labels, probabilities, groups, confidence)
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1))
    images = np.ones((1, len(labels)))
    value = _metrics(images, labels, probabilities)
    resampled = [_metrics(weights, labels, probabilities) for weights in _resamples(group_of, bootstrap, seed)]
    tail = (1 - confidence) / 2

    def metric(name: str, n: int) -> Metric:
        values = np.concatenate([block[name] for block in resampled])
        values = values[~np.isnan(values)]
        if not len(values):
            raise ValueError(f"{name} is undefined in every one of {bootstrap} resamples: too few groups")
        low, high = np.quantile(values, [tail, 1 - tail])
        return _metric(value[name][0], low, high, n)

    n = len(labels)
    actual, predicted, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return {
        "accuracy": metric("accuracy", n),
        "accuracy_wilson": plain_share(int(right.sum()), n, confidence),
        "balanced_accuracy": metric("balanced_accuracy", n),
        "macro_f1": metric("macro_f1", n),
        "auroc_macro": metric("auroc_macro", n),
        "expected_calibration_error": metric("expected_calibration_error", n),
        "brier_score": metric("brier_score", n),
        "per_class": {
            label: {
                "sensitivity": metric(f"sensitivity {label}", actual[i]),
                "specificity": metric(f"specificity {label}", n - actual[i]),
                "precision": metric(f"precision {label}", predicted[i]),
                "f1": metric(f"f1 {label}", actual[i] + predicted[i] - right[i]),
            }
            for i, label in enumerate(CLASSES)
        },
    }


def operating_point(positive: np.ndarray, scores: np.ndarray, target: float) -> float:
    """The highest threshold, up to 0.5, at which at least `target` of the positives have a score at or above it.

    From 0.5 on a class is the most probable one anyway, and a point chosen to find more must not find less than that.
    On few images that the model tells apart well the highest threshold lies above it, too high for the next images.

    Args:
        positive: (n,) bool, at least one of them true.
        scores: (n,) floats 0 to 1, higher for positive.
        target: sensitivity to reach, above 0 and at most 1.

    Returns:
        A threshold rounded down to 6 digits, so that the score it was chosen by still reaches it.

    Raises:
        ValueError: there is no positive.
    """
    found = np.sort(np.asarray(scores, dtype=np.float64)[np.asarray(positive, dtype=bool)])[::-1]
    if not len(found):
        raise ValueError("no positive image to choose an operating point on")
    # The small number keeps 0.9 of 10 at nine, which a float's last bit would make ten
    needed = max(1, math.ceil(target * len(found) - 1e-9))
    return min(0.5, math.floor(found[needed - 1] * 10**_DIGITS) / 10**_DIGITS)


def detection(
    positive: np.ndarray, called: np.ndarray, groups: np.ndarray, bootstrap: int, confidence: float, seed: int
) -> dict[str, Metric]:
    """Sensitivity, specificity and positive and negative predictive value of a yes-or-no call.

    Args:
        positive: (n,) bool, what is so.
        called: (n,) bool, what was said, as by a score at or above an `operating_point` chosen on other images.
        groups, bootstrap, confidence, seed: as for `evaluate`.

    Returns:
        {"sensitivity", "specificity", "ppv", "npv"}; a value over no image is 0 with n = 0.
    """
    positive, called = np.asarray(positive, dtype=bool), np.asarray(called, dtype=bool)
    parts = {
        "sensitivity": (called, positive),
        "specificity": (~called, ~positive),
        "ppv": (positive, called),
        "npv": (~positive, ~called),
    }
    group_of = np.unique(groups, return_inverse=True)[1]
    return {
        name: _share(wanted & among, among, group_of, bootstrap, confidence, seed)
        for name, (wanted, among) in parts.items()
    }


def accuracy_by_slice(
    right: np.ndarray,
    slices: Mapping[str, np.ndarray],
    groups: np.ndarray,
    bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, dict[str, Metric]]:
    """Accuracy in each part of the images that a slicing makes.

    Args:
        right: (n,) bool, whether the prediction is right.
        slices: what it is sliced by, e.g. "lesion_size", to (n,) names of each image's slice; an empty name for an
            image that is in none.
        groups, bootstrap, confidence, seed: as for `evaluate`.

    Returns:
        {slicing: {slice: metric}}, slices in order of their names.
    """
    right, group_of = np.asarray(right, dtype=bool), np.unique(groups, return_inverse=True)[1]
    return {
        slicing: {
            name: _share(right & (names == name), names == name, group_of, bootstrap, confidence, seed)
            for name in sorted(set(names) - {""})
        }
        for slicing, names in slices.items()
    }


def accuracy_difference(
    right: np.ndarray, right_before: np.ndarray, groups: np.ndarray, bootstrap: int, confidence: float, seed: int
) -> Metric:
    """How much more accurate one model is than another on the same images, with the paired interval.

    Both are weighed by the same draws of groups, so that images hard for both widen nothing (Efron and Tibshirani
    1993, chapter 13, on paired data).

    Args:
        right, right_before: (n,) bool, whether the model and the one before it are right.
        groups, bootstrap, confidence, seed: as for `evaluate`.
    """
    gain = np.asarray(right, dtype=np.float64) - np.asarray(right_before, dtype=np.float64)
    return mean_of(gain, groups, bootstrap, confidence, seed)


def mean_of(values: np.ndarray, groups: np.ndarray, bootstrap: int, confidence: float, seed: int) -> Metric:
    """The mean of one number an image: a difference, a loss, or truth values, whose mean is a share.

    Args:
        values: (n,), finite, hundreds at most: sums of their whole steps are exact.
        groups, bootstrap, confidence, seed: as for `evaluate`.
    """
    values = _whole_steps(np.asarray(values, dtype=np.float64))
    group_of = np.unique(groups, return_inverse=True)[1]
    return _share(values, np.ones(len(values), dtype=bool), group_of, bootstrap, confidence, seed)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The bins of the expected calibration error that hold images, in order.

    Args:
        labels, probabilities: as for `evaluate`.

    Returns:
        Columns low and high (the bin's ends, 0 to 1), n (images), sure (mean of their largest probability) and right
        (share of them that is classified right). The mean of |right - sure|, weighted by n, is the error.
    """
    sure = probabilities.max(axis=1)
    found = pd.DataFrame({"bin": _bin_of(sure), "sure": sure, "right": probabilities.argmax(axis=1) == labels})
    table = found.groupby("bin").agg(n=("sure", "size"), sure=("sure", "mean"), right=("right", "mean")).reset_index()
    ends = {"low": table["bin"] / _BINS, "high": (table["bin"] + 1) / _BINS}
    return table.assign(**ends)[["low", "high", "n", "sure", "right"]]


def resamples_without_a_class(labels: np.ndarray, groups: np.ndarray, bootstrap: int, seed: int) -> int:
    """How many of the resamples that `evaluate` draws lack a class, and so are left out of some intervals."""
    group_of = np.unique(groups, return_inverse=True)[1]
    present = np.eye(len(CLASSES))[labels]
    return sum(int((weights @ present == 0).any(axis=1).sum()) for weights in _resamples(group_of, bootstrap, seed))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts (3, 3) int64: row the true class, column the predicted one."""
    return np.bincount(labels * len(CLASSES) + predicted, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)


def roc_curve(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate (k,) as the threshold falls through the distinct scores; both start at 0, end at 1.

    Args:
        positive: (n,) bool, both values present.
        scores: (n,) floats, higher for positive.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive[order])[last_of_ties]
    false = np.cumsum(~positive[order])[last_of_ties]
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under `roc_curve`: the chance that a positive scores above a negative, ties half."""
    return float(_auroc(np.ones((1, len(scores))), np.asarray(positive), np.asarray(scores))[0])


def plain_share(successes: int, n: int, confidence: float) -> Metric:
    """A share of n images with Wilson's interval, which takes images for independent; 0 with n = 0 of none."""
    return _metric(successes / n, *wilson(successes, n, confidence), n) if n else _metric(0, 0, 0, 0)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22:209)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (successes * (n - successes) / n + z**2 / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _resamples(group_of: np.ndarray, bootstrap: int, seed: int):
    """Blocks (b, n) of image weights: how often each image's group was drawn, `bootstrap` rows in all."""
    rng = np.random.default_rng(seed)
    count = int(group_of.max()) + 1
    block = max(1, _CELLS // len(group_of))
    for start in range(0, bootstrap, block):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(block, bootstrap - start))
        yield drawn[:, group_of].astype(np.float64)


def _share(
    top: np.ndarray, among: np.ndarray, group_of: np.ndarray, bootstrap: int, confidence: float, seed: int
) -> Metric:
    """The sum of `top` (n,) over the number of images in `among` (n,) bool, 0 where that is none of them."""
    n = int(among.sum())
    if n == 0:
        return _metric(0, 0, 0, 0)
    top, among = np.asarray(top, dtype=np.float64), among.astype(np.float64)
    values = np.concatenate(
        [_ratio(weights @ top, weights @ among) for weights in _resamples(group_of, bootstrap, seed)]
    )
    value, tail = top.sum() / n, (1 - confidence) / 2
    # Few groups may be in no resample at all; the value is then all that is known
    values = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([value])
    return _metric(value, *np.quantile(values, [tail, 1 - tail]), n)


def _gaps(true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Right (1) or wrong (0) less the largest probability, in the column of that probability's bin of (n, bins)."""
    sure, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    right = true[np.arange(len(true)), predicted]
    gaps = np.zeros((len(true), _BINS))
    gaps[np.arange(len(true)), _bin_of(sure)] = _whole_steps(right - sure)
    return gaps


def _bin_of(sure: np.ndarray) -> np.ndarray:
    return np.minimum((sure * _BINS).astype(int), _BINS - 1)


def _whole_steps(values: np.ndarray) -> np.ndarray:
    return np.round(values / _SMALLEST_STEP) * _SMALLEST_STEP


def _metrics(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric (b,) under b rows of image weights; NaN where it is undefined.

    Weights are whole numbers, so that every sum is exact and no result depends on the order of summation.
    """
    true = np.eye(len(CLASSES))[labels]
    predicted = np.eye(len(CLASSES))[probabilities.argmax(axis=1)]
    total = weights.sum(axis=1)
    right, actual, called = weights @ (true * predicted), weights @ true, weights @ predicted
    sensitivity = _ratio(right, actual)
    specificity = _ratio(total[:, None] - actual - called + right, total[:, None] - actual)
    precision = np.where(called > 0, _ratio(right, called), np.where(actual > 0, 0.0, np.nan))
    f1 = np.where(actual > 0, _ratio(2 * right, actual + called), np.nan)
    areas = np.stack([_auroc(weights, labels == i, probabilities[:, i]) for i in range(len(CLASSES))], axis=1)
    values = {
        "accuracy": right.sum(axis=1) / total,
        "balanced_accuracy": sensitivity.mean(axis=1),
        "macro_f1": f1.mean(axis=1),
        "auroc_macro": areas.mean(axis=1),
        "expected_calibration_error": np.abs(weights @ _gaps(true, probabilities)).sum(axis=1) / total,
        "brier_score": weights @ _whole_steps(((probabilities - true) ** 2).sum(axis=1)) / total,
    }
    per_class = {"sensitivity": sensitivity, "specificity": specificity, "precision": precision, "f1": f1}
    for name, columns in per_class.items():
        values |= {f"{name} {label}": columns[:, i] for i, label in enumerate(CLASSES)}
    return values


def _auroc(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (b,) under b rows of weights; NaN where a row lacks positives or negatives."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    weights, positive = weights[:, order], positive[order]
    positives = np.add.reduceat(weights * positive, ties, axis=1)
    negatives = np.add.reduceat(weights * ~positive, ties, axis=1)
    # twice the count of ordered pairs, so that a tie's half stays a whole number
    pairs = (positives * (2 * negatives.cumsum(axis=1) - negatives)).sum(axis=1)
    return _ratio(pairs, 2 * positives.sum(axis=1) * negatives.sum(axis=1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.broadcast_shapes(above.shape, below.shape), np.nan), where=below > 0)


def _metric(value: float, low: float, high: float, n: int) -> Metric:
    return {
        "value": round(float(value), _DIGITS),
        "low": round(float(low), _DIGITS),
        "high": round(float(high), _DIGITS),
        "n": int(n),
    }


def _checked(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, probabilities, groups = np.asarray(labels), np.asarray(probabilities, dtype=np.float64), np.asarray(groups)
    n = len(labels)
    if labels.shape != (n,) or groups.shape != (n,) or probabilities.shape != (n, len(CLASSES)):
        raise ValueError(
            f"expected labels (n,), probabilities (n, {len(CLASSES)}) and groups (n,); "
            f"received {labels.shape}, {probabilities.shape} and {groups.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or not set(np.unique(labels)) <= set(range(len(CLASSES))):
        raise ValueError(f"labels must be integers from 0 to {len(CLASSES) - 1}; received {np.unique(labels)[:5]}")
    absent = [label for i, label in enumerate(CLASSES) if i not in labels]
    if absent:
        raise ValueError(f"every class needs a test image; none is {' or '.join(absent)}")
    in_range = (probabilities >= 0) & (probabilities <= 1)
    wrong = np.flatnonzero(~in_range.all(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3))
    if len(wrong):
        raise ValueError(
            f"probabilities must lie from 0 to 1 and sum to 1; {len(wrong)} of {n} rows don't, "
            f"the first is row {wrong[0]}: {probabilities[wrong[0]]}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; received {confidence}")
    return labels, probabilities, np.unique(groups, return_inverse=True)[1]
