"""The gate: each rule at, above and below its threshold, and what a rule that is off still says."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from busi.evaluation import gate
from busi.evaluation.gate import FAILED, PASSED, RULES, Decision, chance_to_pass
from busi.evaluation.records import CheckResult

share = st.floats(min_value=0, max_value=1)
THRESHOLDS = {
    "accuracy": 0.85, "accuracy_lower_bound": 0.8, "malignant_sensitivity": 0.8, "expected_calibration_error": 0.15,
    "slices": 0.7,
}  # fmt: skip
AT_MOST = {"expected_calibration_error"}
SLICE_IMAGES = 20


def decide(found, thresholds):
    return gate.decide(found, thresholds, SLICE_IMAGES)


def metric(value, n=88):
    return {"value": value, "low": value, "high": value, "n": n}


def metrics(accuracy=0.9, low=0.85, sensitivity=0.9, error=0.05, lowest=0.8):
    return {
        "accuracy": {**metric(accuracy), "low": low},
        "operating_point": {"threshold": 0.3, "target_sensitivity": 0.9, "sensitivity": metric(sensitivity, 24)},
        "expected_calibration_error": metric(error),
        "slices": {"label": {"benign": metric(lowest, 49), "malignant": metric(max(lowest, 0.95), SLICE_IMAGES)}},
    }


def rule(decision, name):
    return next(row for row in decision.rules if row.name == name)


def test_the_thresholds_here_are_all_the_rules():
    assert list(THRESHOLDS) == list(RULES)


@given(share, share, share, share, share, st.fixed_dictionaries(dict.fromkeys(RULES, share)))
def test_verdict_is_passed_exactly_when_every_value_holds(accuracy, low, sensitivity, error, lowest, thresholds):
    decision = decide(metrics(accuracy, low, sensitivity, error, lowest), thresholds)
    values = dict(zip(RULES, (accuracy, low, sensitivity, error, lowest), strict=True))
    expected = {
        name: value <= thresholds[name] if name in AT_MOST else value >= thresholds[name]
        for name, value in values.items()
    }
    assert [row.name for row in decision.rules] == list(RULES)
    for row in decision.rules:
        assert isinstance(row, CheckResult)
        assert (row.value, row.threshold) == (values[row.name], thresholds[row.name])
        assert row.passed == expected[row.name]
    assert decision.verdict == (PASSED if all(expected.values()) else FAILED)
    assert decision.failed_rules == [name for name in RULES if not expected[name]]


@given(share)
def test_a_value_at_its_threshold_passes_and_the_next_one_beyond_fails(value):
    decide_by = {"accuracy": value, "expected_calibration_error": value}
    assert decide(metrics(accuracy=value, error=value), decide_by).verdict == PASSED
    assert decide(metrics(accuracy=math.nextafter(value, -1), error=value), decide_by).failed_rules == ["accuracy"]
    beyond = decide(metrics(accuracy=value, error=math.nextafter(value, 2)), decide_by)
    assert beyond.failed_rules == ["expected_calibration_error"]


def test_seventeen_of_twenty_reaches_85_percent():
    assert decide(metrics(accuracy=17 / 20, sensitivity=4 / 5), THRESHOLDS).verdict == PASSED


@pytest.mark.parametrize("off", list(RULES))
def test_a_rule_that_is_off_is_measured_and_decides_nothing(off):
    bad = metrics(accuracy=0, low=0, sensitivity=0, error=1, lowest=0)
    decision = decide(bad, {**THRESHOLDS, off: None})
    row = rule(decision, off)
    assert (row.threshold, row.passed) == (None, None)
    assert row.value == (1 if off in AT_MOST else 0)
    assert decision.failed_rules == [name for name in RULES if name != off]


def test_a_rule_that_is_off_needs_no_metric():
    decision = decide({"accuracy": metric(0.9)}, {**dict.fromkeys(RULES), "accuracy": 0.85})
    assert rule(decision, "malignant_sensitivity").value is None


def test_each_sentence_says_the_figure_that_decided():
    said = {row.name: row.sentence for row in decide(metrics(), THRESHOLDS).rules}
    figures = {
        "accuracy": ("90.0%", "88"), "accuracy_lower_bound": ("85.0%", "13.6%"),
        "malignant_sensitivity": ("90.0%", "24", "0.300"), "expected_calibration_error": ("0.050", "88"),
        "slices": ("label: benign", "80.0%", "49"),
    }  # fmt: skip
    for name, parts in figures.items():
        assert all(part in said[name] for part in parts), said[name]


def test_a_decision_is_read_back_from_its_file():
    decision = decide(metrics(accuracy=0.8), THRESHOLDS | {"slices": None})
    stored = json.loads(json.dumps(decision.as_json()))
    assert stored["verdict"] == FAILED
    assert set(stored["rules"][0]) == {"name", "value", "threshold", "passed", "sentence"}
    assert Decision.from_json(stored) == decision
    assert not decision.passed and decision.summary == "failed by accuracy"
    assert decide(metrics(), THRESHOLDS).summary == "passed"


@pytest.mark.parametrize("found", [{}, {"verdict": "passed"}, {"verdict": "passed", "rules": [{}]}, [], None])
def test_what_is_no_decision_is_refused(found):
    with pytest.raises(ValueError, match="gate"):
        Decision.from_json(found)


def test_the_fewest_images_of_a_slice_are_an_argument():
    found = metrics(lowest=0.9)
    found["slices"]["lesion_size"] = {"small": metric(0.1, 5)}
    assert rule(gate.decide(found, THRESHOLDS, 6), "slices").value == 0.9
    assert rule(gate.decide(found, THRESHOLDS, 5), "slices").value == 0.1


def test_the_lowest_slice_is_one_that_is_large_enough():
    found = metrics(lowest=0.9)
    found["slices"]["lesion_size"] = {"small": metric(0.1, SLICE_IMAGES - 1), "large": metric(0.6, SLICE_IMAGES)}
    row = rule(decide(found, THRESHOLDS), "slices")
    assert (row.value, row.passed) == (0.6, False)
    assert "lesion_size: large" in row.sentence


@pytest.mark.parametrize(("threshold", "passed"), [(0.99, True), (None, None)])
def test_where_no_slice_is_large_enough_none_fails(threshold, passed):
    found = {**metrics(), "slices": {"label": {"benign": metric(0.0, 19)}}}
    row = rule(decide(found, {**THRESHOLDS, "slices": threshold}), "slices")
    assert (row.value, row.passed) == (None, passed)
    assert "too few" in row.sentence


@given(st.floats(0.01, 0.99), st.integers(1, 99), st.integers(1, 300))
def test_the_chance_to_pass_is_the_binomial_tail(accuracy, percent, images):
    needed = -(-percent * images // 100)  # in whole numbers: the least count that reaches the threshold
    expected = binomtest(needed, images, accuracy, alternative="greater").pvalue
    assert chance_to_pass(accuracy, percent / 100, images) == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9", True])
def test_a_metric_that_is_no_finite_number_is_refused(value):
    found = metrics()
    found["operating_point"]["sensitivity"]["value"] = value
    with pytest.raises(ValueError, match="malignant_sensitivity"):
        decide(found, THRESHOLDS)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_that_is_not_finite_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        decide(metrics(), {"accuracy": threshold})


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="acuracy"):
        decide(metrics(), {"acuracy": 0.85})


@pytest.mark.parametrize("rules", [{}, dict.fromkeys(RULES)])
def test_a_gate_without_a_rule_is_refused(rules):
    with pytest.raises(ValueError, match="every gate rule is off"):
        decide(metrics(), rules)
