"""How good a classifier is: metrics with intervals over near-duplicate groups (`busi.evaluation.resampling`).

Every metric is a `records.Metric`, rounded to 6 digits. n is the number of images that the metric is over: all of
them; for sensitivity the images of the class; for specificity the others; for precision the images predicted as the
class; for F1 the images that are of the class or were predicted so.

Definitions (P = images of the class, TP/FP/FN/TN against all other classes together):
    sensitivity TP / P; specificity TN / (TN + FP); precision TP / (TP + FP); F1 2 TP / (2 TP + FP + FN)
    balanced accuracy: mean sensitivity; macro F1: mean F1; macro AUROC: mean one-against-rest area, ties half
    expected calibration error: over ten bins of equal width of the largest probability, the mean distance between the
        share of right images and the mean of that probability, weighted by images (Guo et al., ICML 2017). Few images
        raise it: a perfectly calibrated model has about 0.06 on 90 images
    Brier score: mean squared distance of the probabilities from the true class, 0 to 2 (Brier 1950, Mon. Weather Rev.
        78:1)
Precision and F1 of a class that was never predicted are 0, as in scikit-learn. A resample without images of a class
leaves that class's sensitivity, and what is averaged over classes, undefined. It is left out of those intervals;
`resampling.resamples_without_a_class` counts such resamples.

The formulas are scikit-learn's, written for a block of resamples at once: one call for each resample takes minutes.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from busi.data.layout import CLASSES
from busi.evaluation.records import Metric, Resampling
from busi.evaluation.resampling import ratio, resamples, share, whole_steps, wilson_share, with_interval

CALIBRATION = ("expected_calibration_error", "brier_score")

_BINS = 10  # of the largest probability, for the expected calibration error
_THRESHOLD_DIGITS = 6


def evaluate(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> dict[str, Metric | dict[str, dict[str, Metric]]]:
    """All metrics with their intervals.

    Args:
        labels: (n,) integers, the index of the true class in `layout.CLASSES`; every class occurs.
        probabilities: (n, 3) floats 0 to 1, rows that sum to 1. The prediction is the largest, the first of equals.
        groups: (n,) near-duplicate group of each image, any sortable type.
        resampling: how the intervals are made. The order of the images does not matter.

    Returns:
        {"accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro", "expected_calibration_error",
        "brier_score"} with a metric each, and
        "per_class": {class: {"sensitivity", "specificity", "precision", "f1"}}. `accuracy_wilson` has Wilson's
        score interval, which takes images for independent but holds near 0 and 1 where a bootstrap is too narrow.

    Raises:
        ValueError: shapes or values are not as above, a class has no image, or no resample defines a metric.
    """
    labels, probabilities, groups = _checked(labels, probabilities, groups, resampling.confidence)
    n = len(labels)
    predicted = probabilities.argmax(axis=1)
    right = int((labels == predicted).sum())
    actual, called, both = (
        np.bincount(found, minlength=len(CLASSES)) for found in (labels, predicted, labels[labels == predicted])
    )
    images = {"sensitivity": actual, "specificity": n - actual, "precision": called, "f1": actual + called - both}
    found = _intervals(_all, labels, probabilities, groups, resampling)
    per_class = {
        label: {name: Metric(*found[f"{name} {label}"][:3], int(counts[i])) for name, counts in images.items()}
        for i, label in enumerate(CLASSES)
    }
    return {
        "accuracy": found["accuracy"],
        "accuracy_wilson": wilson_share(right, n, resampling.confidence),
        **{name: found[name] for name in ("balanced_accuracy", "macro_f1", "auroc_macro", *CALIBRATION)},
        "per_class": per_class,
    }


def calibration_errors(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> dict[str, Metric]:
    """The metrics `CALIBRATION` alone, as `evaluate` gives them."""
    labels, probabilities, groups = _checked(labels, probabilities, groups, resampling.confidence)
    return _intervals(_calibration, labels, probabilities, groups, resampling)


def operating_point(positive: np.ndarray, scores: np.ndarray, target: float, max_threshold: float) -> float:
    """The highest threshold, up to `max_threshold`, at which at least `target` of the positives score at or above it.

    Args:
        positive: (n,) bool, at least one of them true.
        scores: (n,) floats 0 to 1, higher for positive.
        target: sensitivity to reach, above 0 and at most 1.
        max_threshold: the cap, 0 to 1. A class with a probability above 0.5 is the most probable one anyway, and an
            operating point for high sensitivity must not find less than that. On few images that the model tells
            apart well, the highest threshold lies above the cap and would be too high for other images.

    Returns:
        A threshold rounded down to 6 digits, so that the score it was chosen by still reaches it.

    Raises:
        ValueError: there is no positive.
    """
    found = np.sort(np.asarray(scores, dtype=np.float64)[np.asarray(positive, dtype=bool)])[::-1]
    if not len(found):
        raise ValueError("no positive image to choose an operating point on")
    # Less a small number, so that rounding errors of floats don't raise 0.9 of 10 to ten
    needed = max(1, math.ceil(target * len(found) - 1e-9))
    return min(max_threshold, math.floor(found[needed - 1] * 10**_THRESHOLD_DIGITS) / 10**_THRESHOLD_DIGITS)


def detection(
    positive: np.ndarray, called: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> dict[str, Metric]:
    """Sensitivity, specificity and positive and negative predictive value of a yes-or-no call.

    Args:
        positive: (n,) bool, the truth.
        called: (n,) bool, the call, such as a score at or above an `operating_point` chosen on other images.
        groups, resampling: as for `evaluate`.

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
    return {name: share(wanted & among, among, groups, resampling) for name, (wanted, among) in parts.items()}


def accuracy_by_slice(
    right: np.ndarray, slices: Mapping[str, np.ndarray], groups: np.ndarray, resampling: Resampling
) -> dict[str, dict[str, Metric]]:
    """Accuracy in each part of the images that a slicing makes.

    Args:
        right: (n,) bool, whether the prediction is right.
        slices: what it is sliced by, e.g. "lesion_size", to (n,) names of each image's slice; an empty name for an
            image that is in none.
        groups, resampling: as for `evaluate`.

    Returns:
        {slicing: {slice: metric}}, slices in order of their names.
    """
    right = np.asarray(right, dtype=bool)
    return {
        slicing: {
            name: share(right & (names == name), names == name, groups, resampling)
            for name in sorted(set(names) - {""})
        }
        for slicing, names in slices.items()
    }


def accuracy_difference(
    right: np.ndarray, right_before: np.ndarray, groups: np.ndarray, resampling: Resampling
) -> Metric:
    """How much more accurate one model is than another on the same images, with the paired interval.

    Both are resampled together, so images that are hard for both do not widen the interval (Efron and Tibshirani 1993,
    chapter 13, on paired data).

    Args:
        right, right_before: (n,) bool, whether the model and the one before it are right.
        groups, resampling: as for `evaluate`.
    """
    gain = np.asarray(right, dtype=np.float64) - np.asarray(right_before, dtype=np.float64)
    return mean_of(gain, groups, resampling)


def mean_of(values: np.ndarray, groups: np.ndarray, resampling: Resampling) -> Metric:
    """The mean of one number an image: a difference, a loss, or truth values, whose mean is a share.

    Args:
        values: (n,), finite, hundreds at most: sums of their whole steps are exact.
        groups, resampling: as for `evaluate`.
    """
    values = whole_steps(np.asarray(values, dtype=np.float64))
    return share(values, np.ones(len(values), dtype=bool), groups, resampling)


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


def _intervals(
    function: Callable[..., dict[str, np.ndarray]],
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    resampling: Resampling,
) -> dict[str, Metric]:
    """The metrics of `_all` or `_calibration` over all n images, with their intervals."""
    n = len(labels)
    value = function(np.ones((1, n)), labels, probabilities)
    blocks = [function(weights, labels, probabilities) for weights in resamples(groups, resampling)]
    found = {}
    for name in value:
        values = np.concatenate([block[name] for block in blocks])
        if np.isnan(values).all():
            raise ValueError(f"{name} is undefined in every one of {len(values)} resamples: too few groups")
        found[name] = with_interval(value[name][0], values, resampling.confidence, n)
    return found


def _all(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric (b,) under b rows of image weights; NaN where it is undefined."""
    true = np.eye(len(CLASSES))[labels]
    predicted = np.eye(len(CLASSES))[probabilities.argmax(axis=1)]
    total = weights.sum(axis=1)
    right, actual, called = weights @ (true * predicted), weights @ true, weights @ predicted
    sensitivity = ratio(right, actual)
    specificity = ratio(total[:, None] - actual - called + right, total[:, None] - actual)
    precision = np.where(called > 0, ratio(right, called), np.where(actual > 0, 0.0, np.nan))
    f1 = np.where(actual > 0, ratio(2 * right, actual + called), np.nan)
    areas = np.stack([_auroc(weights, labels == i, probabilities[:, i]) for i in range(len(CLASSES))], axis=1)
    values = {
        "accuracy": right.sum(axis=1) / total,
        "balanced_accuracy": sensitivity.mean(axis=1),
        "macro_f1": f1.mean(axis=1),
        "auroc_macro": areas.mean(axis=1),
        **_calibration(weights, labels, probabilities),
    }
    per_class = {"sensitivity": sensitivity, "specificity": specificity, "precision": precision, "f1": f1}
    for name, columns in per_class.items():
        values |= {f"{name} {label}": columns[:, i] for i, label in enumerate(CLASSES)}
    return values


def _calibration(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics `CALIBRATION` (b,) under b rows of image weights."""
    true, total = np.eye(len(CLASSES))[labels], weights.sum(axis=1)
    squares = whole_steps(((probabilities - true) ** 2).sum(axis=1))
    errors = np.abs(weights @ _gaps(labels, probabilities)).sum(axis=1) / total, weights @ squares / total
    return dict(zip(CALIBRATION, errors, strict=True))


def _gaps(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Right (1) or wrong (0) less the largest probability, in the column of that probability's bin of (n, bins)."""
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    gaps = np.zeros((len(labels), _BINS))
    gaps[np.arange(len(labels)), _bin_of(sure)] = whole_steps(right - sure)
    return gaps


def _bin_of(sure: np.ndarray) -> np.ndarray:
    return np.minimum((sure * _BINS).astype(int), _BINS - 1)


def _auroc(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (b,) under b rows of weights; NaN where a row lacks positives or negatives."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    weights, positive = weights[:, order], positive[order]
    positives = np.add.reduceat(weights * positive, ties, axis=1)
    negatives = np.add.reduceat(weights * ~positive, ties, axis=1)
    # twice the count of ordered pairs, so that a tie's half stays a whole number
    pairs = (positives * (2 * negatives.cumsum(axis=1) - negatives)).sum(axis=1)
    return ratio(pairs, 2 * positives.sum(axis=1) * negatives.sum(axis=1))


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
    return labels, probabilities, groups
