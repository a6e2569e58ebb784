"""Metrics against scikit-learn, intervals against simulated truth, and the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from busi.data.layout import CLASSES
from busi.evaluation.metrics import (
    accuracy_by_slice,
    accuracy_difference,
    calibration_errors,
    detection,
    evaluate,
    mean_of,
    operating_point,
    reliability,
)
from busi.evaluation.records import Metric, Resampling

NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc_macro")
PER_CLASS = ("sensitivity", "specificity", "precision", "f1")


def case(n: int, seed: int, digits: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, noisy probabilities (rounded, so that few digits make ties) and groups of one to about four."""
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1, 2], rng.choice(3, n - 3, p=[0.55, 0.27, 0.18]))
    scores = np.exp(rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels])
    probabilities = np.round(scores / scores.sum(axis=1, keepdims=True), digits)
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    return labels, probabilities.clip(0, 1), rng.integers(0, max(1, n // 2), n)


def flat(found: dict) -> dict[str, dict]:
    rows = {name: metric for name, metric in found.items() if name != "per_class"}
    rows |= {f"{name} {label}": found["per_class"][label][name] for label in CLASSES for name in PER_CLASS}
    return rows


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 2, 6]))
def test_values_are_those_of_scikit_learn(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    found = evaluate(labels, probabilities, groups, Resampling(20, 0.95, 0))
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro", labels=[0, 1, 2]),
        "auroc_macro": np.mean([reference.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]),
    }
    for i, label in enumerate(CLASSES):
        true, called = labels == i, predicted == i
        expected |= {
            f"sensitivity {label}": reference.recall_score(true, called),
            f"specificity {label}": reference.recall_score(~true, ~called),
            f"precision {label}": reference.precision_score(true, called, zero_division=0),
            f"f1 {label}": reference.f1_score(true, called, zero_division=0),
        }
    rows = flat(found)
    for name, value in expected.items():
        assert rows[name].value == pytest.approx(value, abs=1e-6), name


def test_layout_and_n():
    labels, probabilities, groups = case(100, 3)
    found = evaluate(labels, probabilities, groups, Resampling(200, 0.95, 1))
    assert set(found) == {*NAMES, "accuracy_wilson", "expected_calibration_error", "brier_score", "per_class"}
    assert tuple(found["per_class"]) == CLASSES
    assert all(set(found["per_class"][label]) == set(PER_CLASS) for label in CLASSES)
    for metric in flat(found).values():
        assert isinstance(metric, Metric)
        assert 0 <= metric.low <= metric.value <= metric.high <= 1
        assert type(metric.n) is int
        assert all(type(end) is float and end == round(end, 6) for end in metric[:3])
    predicted = probabilities.argmax(axis=1)
    malignant = found["per_class"]["malignant"]
    assert found["accuracy"].n == 100
    assert malignant["sensitivity"].n == (labels == 1).sum()
    assert malignant["specificity"].n == (labels != 1).sum()
    assert malignant["precision"].n == (predicted == 1).sum()
    assert malignant["f1"].n == ((labels == 1) | (predicted == 1)).sum()


def test_the_interval_is_that_of_a_plain_loop_over_groups():
    """The same resamples, computed one at a time by repeating images and asking scikit-learn."""
    labels, probabilities, groups = case(60, 8, digits=2)
    found = flat(evaluate(labels, probabilities, groups, Resampling(100, 0.9, 4)))
    names, members = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(4).multinomial(len(names), np.full(len(names), 1 / len(names)), size=100)
    values = []
    for row in drawn:
        images = np.repeat(np.arange(len(labels)), row[members])
        true, scores = labels[images], probabilities[images]
        row_of_values = [reference.accuracy_score(true, scores.argmax(axis=1)), np.nan, np.nan]
        if len(set(true)) == 3:
            row_of_values[1] = np.mean([reference.roc_auc_score(true == i, scores[:, i]) for i in range(3)])
            row_of_values[2] = reference.f1_score(true, scores.argmax(axis=1), average="macro")
        values.append(row_of_values)
    low, high = np.nanquantile(values, [0.05, 0.95], axis=0)
    for i, name in enumerate(("accuracy", "auroc_macro", "macro_f1")):
        assert found[name].low == pytest.approx(low[i], abs=1e-6)
        assert found[name].high == pytest.approx(high[i], abs=1e-6)


def test_a_class_that_resamples_miss_is_left_out_of_its_own_interval():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    found = evaluate(labels, np.eye(3)[labels], np.arange(21), Resampling(500, 0.95, 0))
    assert found["per_class"]["normal"]["sensitivity"] == Metric(1.0, 1.0, 1.0, 1)
    assert found["balanced_accuracy"].low == 1.0


def test_calibration_alone_is_what_all_metrics_together_say():
    labels, probabilities, groups = case(90, 2)
    whole = evaluate(labels, probabilities, groups, Resampling(200, 0.9, 5))
    alone = calibration_errors(labels, probabilities, groups, Resampling(200, 0.9, 5))
    assert set(alone) == {"expected_calibration_error", "brier_score"}
    assert alone == {name: whole[name] for name in alone}


def test_order_of_images_does_not_matter_and_the_seed_does():
    labels, probabilities, groups = case(80, 1)
    first = evaluate(labels, probabilities, groups, Resampling(200, 0.95, 3))
    order = np.random.default_rng(0).permutation(80)
    names = np.array([f"g{group:04d}" for group in groups])
    assert first == evaluate(labels[order], probabilities[order], names[order], Resampling(200, 0.95, 3))
    assert first != evaluate(labels, probabilities, groups, Resampling(200, 0.95, 4))


def test_a_perfect_and_a_useless_classifier():
    labels = np.repeat([0, 1, 2], 20)
    perfect = evaluate(labels, np.eye(3)[labels], np.arange(60), Resampling(200, 0.95, 0))
    wilson_row = perfect.pop("accuracy_wilson")
    assert wilson_row.value == wilson_row.high == 1 and 0.9 < wilson_row.low < 0.95
    for name, row in flat(perfect).items():
        best = 0 if name in ("expected_calibration_error", "brier_score") else 1
        assert (row.value, row.low, row.high) == (best,) * 3, name

    always_benign = np.tile([0.6, 0.2, 0.2], (60, 1))
    useless = evaluate(labels, always_benign, np.arange(60), Resampling(200, 0.95, 0))
    assert useless["auroc_macro"].value == 0.5
    assert useless["per_class"]["normal"]["precision"] == Metric(0.0, 0.0, 0.0, 0)
    assert useless["per_class"]["normal"]["f1"].value == 0
    assert useless["per_class"]["benign"]["sensitivity"].value == 1


def _drop_class(labels, probabilities, groups):
    return np.where(labels == 2, 0, labels), probabilities, groups


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop_class, "none is normal"),
        (lambda y, p, g: (y, p[:, :2], g), "expected labels"),
        (lambda y, p, g: (y, p, g[:-1]), "expected labels"),
        (lambda y, p, g: (y + 1, p, g), "integers from 0 to 2"),
        (lambda y, p, g: (y.astype(float), p, g), "integers from 0 to 2"),
        (lambda y, p, g: (y, p * 2, g), "sum to 1"),
        (lambda y, p, g: (y, np.where(np.arange(3) == 1, np.nan, p), g), "30 of 30 rows"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, says):
    labels, probabilities, groups = change(*case(30, 0))
    with pytest.raises(ValueError, match=says):
        evaluate(labels, probabilities, groups, Resampling(100, 0.95, 0))


def test_a_confidence_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        evaluate(*case(30, 0), Resampling(100, 95, 0))


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 2, 6]))
def test_brier_score_and_calibration_error_are_their_definitions(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    found = evaluate(labels, probabilities, groups, Resampling(20, 0.95, 0))
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # rounding keeps 0.3 * 10 from being 3 in one place and 2.999 in the other
    bins = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).sum() for b in set(bins)]
    assert found["expected_calibration_error"].value == pytest.approx(sum(gaps) / n, abs=2e-6)
    brier = ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1).mean()
    assert found["brier_score"].value == pytest.approx(brier, abs=2e-6)


@given(st.integers(1, 60), st.integers(0, 2**32), st.floats(0.01, 1), st.sampled_from([0.3, 0.5, 0.9]))
def test_the_operating_point_is_the_highest_threshold_that_reaches_the_target(positives, seed, target, cap):
    rng = np.random.default_rng(seed)
    positive = np.append(np.ones(positives, bool), rng.random(20) < 0)
    scores = np.round(rng.random(positives + 20), 3)
    threshold = operating_point(positive, scores, target, cap)
    assert (scores[positive] >= threshold).mean() >= target - 1e-9
    assert threshold <= cap
    assert threshold == cap or (scores[positive] >= threshold + 1e-4).mean() < target


def test_the_operating_point_stays_below_its_cap():
    for cap in (0.5, 0.6):
        assert operating_point(np.ones(3, bool), np.array([0.7, 0.8, 0.9]), 0.95, cap) == cap


def test_ninety_percent_of_ten_is_nine():
    scores = np.arange(10) / 10
    assert operating_point(np.ones(10, bool), scores, 0.9, 0.5) == 0.1
    with pytest.raises(ValueError, match="no positive"):
        operating_point(np.zeros(10, bool), scores, 0.9, 0.5)


def test_detection_is_that_of_scikit_learn_and_says_when_it_is_over_nothing():
    rng = np.random.default_rng(4)
    positive, called = rng.random(60) < 0.4, rng.random(60) < 0.5
    found = detection(positive, called, np.arange(60), Resampling(500, 0.95, 0))
    expected = {
        "sensitivity": reference.recall_score(positive, called),
        "specificity": reference.recall_score(~positive, ~called),
        "ppv": reference.precision_score(positive, called),
        "npv": reference.precision_score(~positive, ~called),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-6)
        assert found[name].low < value < found[name].high
    assert found["ppv"].n == called.sum()
    nothing = detection(positive, np.zeros(60, bool), np.arange(60), Resampling(500, 0.95, 0))
    assert nothing["ppv"] == Metric(0, 0, 0, 0)


def test_slices_part_the_images():
    rng = np.random.default_rng(5)
    right, names = rng.random(90) < 0.7, np.resize(np.array(["a", "b", ""], dtype=object), 90)
    found = accuracy_by_slice(right, {"letter": names}, rng.integers(0, 40, 90), Resampling(300, 0.95, 0))["letter"]
    assert list(found) == ["a", "b"]
    for name, metric in found.items():
        assert metric.n == 30
        assert metric.value == pytest.approx(right[names == name].mean(), abs=1e-6)
        assert metric.low < metric.value < metric.high


def test_the_paired_interval_is_narrower_than_two_apart_and_takes_a_sign():
    rng = np.random.default_rng(6)
    before = rng.random(300) < 0.75
    right = np.where(rng.random(300) < 0.06, ~before, before)
    groups = rng.integers(0, 200, 300)
    gain = accuracy_difference(right, before, groups, Resampling(1000, 0.95, 0))
    loss = accuracy_difference(before, right, groups, Resampling(1000, 0.95, 0))
    assert gain.value == -loss.value == pytest.approx(right.mean() - before.mean(), abs=1e-6)
    assert gain.low == pytest.approx(-loss.high, abs=1e-6)
    assert gain.high - gain.low < 0.08  # two intervals of 0.1 each would be 0.14 wide
    assert accuracy_difference(before, before, groups, Resampling(1000, 0.95, 0)) == Metric(0, 0, 0, 300)


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 6]))
def test_the_bins_of_the_reliability_diagram_are_those_of_the_calibration_error(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    bins = reliability(labels, probabilities)
    assert bins["n"].sum() == n and bins["n"].min() > 0
    assert ((bins["low"] <= bins["sure"] + 1e-9) & (bins["sure"] <= bins["high"] + 1e-9)).all()
    error = (bins["n"] * (bins["right"] - bins["sure"]).abs()).sum() / n
    found = evaluate(labels, probabilities, groups, Resampling(20, 0.95, 0))
    assert error == pytest.approx(found["expected_calibration_error"].value, abs=2e-6)


def test_a_mean_of_truth_values_is_a_share_with_the_interval_of_its_groups():
    right = np.random.default_rng(0).random(60) < 0.7
    alone = mean_of(right, np.arange(60), Resampling(500, 0.95, 1))
    assert (alone.value, alone.n) == (round(right.mean(), 6), 60)
    assert alone.low < alone.value < alone.high
    paired = mean_of(np.repeat(right, 4), np.repeat(np.arange(60), 4), Resampling(500, 0.95, 1))
    assert (paired.low, paired.high, paired.n) == (alone.low, alone.high, 240)
    assert mean_of(np.linspace(-1, 1, 21), np.arange(21), Resampling(100, 0.9, 0)).value == 0
