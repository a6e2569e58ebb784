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
    auroc,
    confusion_matrix,
    detection,
    evaluate,
    mean_of,
    operating_point,
    plain_share,
    reliability,
    resamples_without_a_class,
    roc_curve,
    wilson,
)

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


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 2, 6]))
def test_values_are_those_of_scikit_learn(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    found = evaluate(labels, probabilities, groups, bootstrap=20, confidence=0.95, seed=0)
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
        assert rows[name]["value"] == pytest.approx(value, abs=1e-6), name
    np.testing.assert_array_equal(
        confusion_matrix(labels, predicted), reference.confusion_matrix(labels, predicted, labels=[0, 1, 2])
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 80), st.integers(0, 2**32), st.sampled_from([1, 2, 6]))
def test_roc_curve_and_its_area_are_those_of_scikit_learn(n, seed, digits):
    rng = np.random.default_rng(seed)
    positive = np.append([True, False], rng.random(n - 2) < 0.3)
    scores = np.round(rng.random(n) + 0.4 * positive, digits)
    rates = roc_curve(positive, scores)
    expected = reference.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(rates[0], expected[0])
    np.testing.assert_allclose(rates[1], expected[1])
    assert auroc(positive, scores) == pytest.approx(np.trapezoid(rates[1], rates[0]))
    assert auroc(positive, scores) == pytest.approx(reference.roc_auc_score(positive, scores))


def test_layout_and_n():
    labels, probabilities, groups = case(100, 3)
    found = evaluate(labels, probabilities, groups, bootstrap=200, confidence=0.95, seed=1)
    assert set(found) == {*NAMES, "accuracy_wilson", "expected_calibration_error", "brier_score", "per_class"}
    assert tuple(found["per_class"]) == CLASSES
    assert all(set(found["per_class"][label]) == set(PER_CLASS) for label in CLASSES)
    for metric in flat(found).values():
        assert set(metric) == {"value", "low", "high", "n"}
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
        assert type(metric["n"]) is int
        assert all(type(metric[key]) is float and metric[key] == round(metric[key], 6) for key in ("value", "low"))
    predicted = probabilities.argmax(axis=1)
    malignant = found["per_class"]["malignant"]
    assert found["accuracy"]["n"] == 100
    assert malignant["sensitivity"]["n"] == (labels == 1).sum()
    assert malignant["specificity"]["n"] == (labels != 1).sum()
    assert malignant["precision"]["n"] == (predicted == 1).sum()
    assert malignant["f1"]["n"] == ((labels == 1) | (predicted == 1)).sum()


def test_the_interval_is_that_of_a_plain_loop_over_groups():
    """The same resamples, computed one at a time by repeating images and asking scikit-learn."""
    labels, probabilities, groups = case(60, 8, digits=2)
    found = flat(evaluate(labels, probabilities, groups, bootstrap=300, confidence=0.9, seed=4))
    names, members = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(4).multinomial(len(names), np.full(len(names), 1 / len(names)), size=300)
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
        assert found[name]["low"] == pytest.approx(low[i], abs=1e-6)
        assert found[name]["high"] == pytest.approx(high[i], abs=1e-6)


def test_resamples_without_a_class_are_counted_and_left_out():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    probabilities = np.eye(3)[labels]
    groups = np.arange(21)
    without = resamples_without_a_class(labels, groups, bootstrap=500, seed=0)
    # the one normal image is missed with chance (1 - 1/21)^21
    assert without == pytest.approx(500 * (1 - 1 / 21) ** 21, abs=50)
    found = evaluate(labels, probabilities, groups, bootstrap=500, confidence=0.95, seed=0)
    assert found["per_class"]["normal"]["sensitivity"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert found["balanced_accuracy"]["low"] == 1.0


def test_intervals_cover_the_truth_where_images_come_in_groups():
    """Groups of four that are right or wrong together: 95 % intervals over groups cover, over images they don't."""
    rng = np.random.default_rng(12)
    truth, runs, group_count = 0.8, 150, 60
    labels = np.tile(np.repeat([0, 1, 2], group_count // 3), 4)
    groups = np.tile(np.arange(group_count), 4)
    covered, covered_alone = 0, 0
    for run in range(runs):
        right = rng.random(group_count) < truth
        predicted = np.where(np.tile(right, 4), labels, (labels + 1) % 3)
        for units, which in ((groups, "groups"), (np.arange(len(labels)), "images")):
            found = evaluate(labels, np.eye(3)[predicted], units, bootstrap=200, confidence=0.95, seed=run)
            inside = found["accuracy"]["low"] <= truth <= found["accuracy"]["high"]
            covered += inside and which == "groups"
            covered_alone += inside and which == "images"
    assert 0.90 <= covered / runs <= 0.99
    assert covered_alone / runs < 0.80


def test_order_of_images_does_not_matter_and_the_seed_does():
    labels, probabilities, groups = case(80, 1)
    first = evaluate(labels, probabilities, groups, 200, 0.95, seed=3)
    order = np.random.default_rng(0).permutation(80)
    names = np.array([f"g{group:04d}" for group in groups])
    assert first == evaluate(labels[order], probabilities[order], names[order], 200, 0.95, seed=3)
    assert first != evaluate(labels, probabilities, groups, 200, 0.95, seed=4)


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    labels, probabilities, groups = case(80, 1)
    whole = evaluate(labels, probabilities, groups, 100, 0.95, seed=3)
    monkeypatch.setattr("busi.metrics._CELLS", 80 * 7)
    assert whole == evaluate(labels, probabilities, groups, 100, 0.95, seed=3)


def test_a_perfect_and_a_useless_classifier():
    labels = np.repeat([0, 1, 2], 20)
    perfect = evaluate(labels, np.eye(3)[labels], np.arange(60), 200, 0.95, seed=0)
    wilson_row = perfect.pop("accuracy_wilson")
    assert wilson_row["value"] == wilson_row["high"] == 1 and 0.9 < wilson_row["low"] < 0.95
    for name, row in flat(perfect).items():
        best = 0 if name in ("expected_calibration_error", "brier_score") else 1
        assert (row["value"], row["low"], row["high"]) == (best,) * 3, name

    always_benign = np.tile([0.6, 0.2, 0.2], (60, 1))
    useless = evaluate(labels, always_benign, np.arange(60), 200, 0.95, seed=0)
    assert useless["auroc_macro"]["value"] == 0.5
    assert useless["per_class"]["normal"]["precision"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    assert useless["per_class"]["normal"]["f1"]["value"] == 0
    assert useless["per_class"]["benign"]["sensitivity"]["value"] == 1


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Stat. Med. 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(successes, n, low, high):
    assert wilson(successes, n, 0.95) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - successes, n, 0.95) == pytest.approx((1 - high, 1 - low), abs=5e-5)


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
        evaluate(labels, probabilities, groups, 100, 0.95, seed=0)


def test_a_confidence_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        evaluate(*case(30, 0), 100, 95, seed=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 2, 6]))
def test_brier_score_and_calibration_error_are_their_definitions(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    found = evaluate(labels, probabilities, groups, bootstrap=20, confidence=0.95, seed=0)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    # rounding keeps 0.3 * 10 from being 3 in one place and 2.999 in the other
    bins = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).sum() for b in set(bins)]
    assert found["expected_calibration_error"]["value"] == pytest.approx(sum(gaps) / n, abs=2e-6)
    brier = ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1).mean()
    assert found["brier_score"]["value"] == pytest.approx(brier, abs=2e-6)


@given(st.integers(1, 60), st.integers(0, 2**32), st.floats(0.01, 1))
def test_the_operating_point_is_the_highest_threshold_that_reaches_the_target(positives, seed, target):
    rng = np.random.default_rng(seed)
    positive = np.append(np.ones(positives, bool), rng.random(20) < 0)
    scores = np.round(rng.random(positives + 20), 3)
    threshold = operating_point(positive, scores, target)
    assert (scores[positive] >= threshold).mean() >= target - 1e-9
    assert threshold == 0.5 or (scores[positive] >= threshold + 1e-4).mean() < target


def test_the_operating_point_finds_no_less_than_the_most_probable_class():
    assert operating_point(np.ones(3, bool), np.array([0.7, 0.8, 0.9]), 0.95) == 0.5


def test_ninety_percent_of_ten_is_nine():
    scores = np.arange(10) / 10
    assert operating_point(np.ones(10, bool), scores, 0.9) == 0.1
    with pytest.raises(ValueError, match="no positive"):
        operating_point(np.zeros(10, bool), scores, 0.9)


def test_detection_is_that_of_scikit_learn_and_says_when_it_is_over_nothing():
    rng = np.random.default_rng(4)
    positive, called = rng.random(60) < 0.4, rng.random(60) < 0.5
    found = detection(positive, called, np.arange(60), 500, 0.95, 0)
    expected = {
        "sensitivity": reference.recall_score(positive, called),
        "specificity": reference.recall_score(~positive, ~called),
        "ppv": reference.precision_score(positive, called),
        "npv": reference.precision_score(~positive, ~called),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-6)
        assert found[name]["low"] < value < found[name]["high"]
    assert found["ppv"]["n"] == called.sum()
    nothing = detection(positive, np.zeros(60, bool), np.arange(60), 500, 0.95, 0)
    assert nothing["ppv"] == {"value": 0, "low": 0, "high": 0, "n": 0}


def test_slices_part_the_images():
    rng = np.random.default_rng(5)
    right, names = rng.random(90) < 0.7, np.resize(np.array(["a", "b", ""], dtype=object), 90)
    found = accuracy_by_slice(right, {"letter": names}, rng.integers(0, 40, 90), 300, 0.95, 0)["letter"]
    assert list(found) == ["a", "b"]
    for name, metric in found.items():
        assert metric["n"] == 30
        assert metric["value"] == pytest.approx(right[names == name].mean(), abs=1e-6)
        assert metric["low"] < metric["value"] < metric["high"]


def test_the_paired_interval_is_narrower_than_two_apart_and_takes_a_sign():
    rng = np.random.default_rng(6)
    before = rng.random(300) < 0.75
    right = np.where(rng.random(300) < 0.06, ~before, before)
    groups = rng.integers(0, 200, 300)
    gain = accuracy_difference(right, before, groups, 1000, 0.95, 0)
    loss = accuracy_difference(before, right, groups, 1000, 0.95, 0)
    assert gain["value"] == -loss["value"] == pytest.approx(right.mean() - before.mean(), abs=1e-6)
    assert gain["low"] == pytest.approx(-loss["high"], abs=1e-6)
    assert gain["high"] - gain["low"] < 0.08  # two intervals of 0.1 each would be 0.14 wide
    assert accuracy_difference(before, before, groups, 1000, 0.95, 0) == {"value": 0, "low": 0, "high": 0, "n": 300}


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 150), st.integers(0, 2**32), st.sampled_from([1, 6]))
def test_the_bins_of_the_reliability_diagram_are_those_of_the_calibration_error(n, seed, digits):
    labels, probabilities, groups = case(n, seed, digits)
    bins = reliability(labels, probabilities)
    assert bins["n"].sum() == n and bins["n"].min() > 0
    assert ((bins["low"] <= bins["sure"] + 1e-9) & (bins["sure"] <= bins["high"] + 1e-9)).all()
    error = (bins["n"] * (bins["right"] - bins["sure"]).abs()).sum() / n
    found = evaluate(labels, probabilities, groups, bootstrap=20, confidence=0.95, seed=0)
    assert error == pytest.approx(found["expected_calibration_error"]["value"], abs=2e-6)


def test_a_mean_of_truth_values_is_a_share_with_the_interval_of_its_groups():
    right = np.random.default_rng(0).random(60) < 0.7
    alone = mean_of(right, np.arange(60), 500, 0.95, 1)
    assert (alone["value"], alone["n"]) == (round(right.mean(), 6), 60)
    assert alone["low"] < alone["value"] < alone["high"]
    paired = mean_of(np.repeat(right, 4), np.repeat(np.arange(60), 4), 500, 0.95, 1)
    assert (paired["low"], paired["high"], paired["n"]) == (alone["low"], alone["high"], 240)
    assert mean_of(np.linspace(-1, 1, 21), np.arange(21), 100, 0.9, 0)["value"] == 0


def test_a_plain_share_has_wilsons_interval_and_none_of_nothing():
    assert plain_share(9, 10, 0.95) == {
        "value": 0.9, "low": round(wilson(9, 10, 0.95)[0], 6), "high": round(wilson(9, 10, 0.95)[1], 6), "n": 10,
    }  # fmt: skip
    assert plain_share(0, 0, 0.95) == {"value": 0, "low": 0, "high": 0, "n": 0}
