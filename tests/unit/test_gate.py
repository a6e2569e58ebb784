import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busi.gate import FAILED, PASSED, RULES, decide, failed_rules

share = st.floats(min_value=0, max_value=1)
BOTH = {"accuracy": 0.85, "malignant_sensitivity": 0.8}


def metrics(accuracy, sensitivity):
    return {"accuracy": {"value": accuracy}, "per_class": {"malignant": {"sensitivity": {"value": sensitivity}}}}


@given(share, share, share, share)
def test_verdict_is_passed_exactly_when_every_value_reaches_its_threshold(accuracy, sensitivity, first, second):
    decision = decide(metrics(accuracy, sensitivity), {"accuracy": first, "malignant_sensitivity": second})
    assert decision["rules"] == [
        {"name": "accuracy", "value": accuracy, "threshold": first, "passed": accuracy >= first},
        {"name": "malignant_sensitivity", "value": sensitivity, "threshold": second, "passed": sensitivity >= second},
    ]
    assert decision["verdict"] == (PASSED if accuracy >= first and sensitivity >= second else FAILED)
    assert set(failed_rules(decision)) == {row["name"] for row in decision["rules"] if not row["passed"]}


@given(share, share)
def test_a_value_at_its_threshold_passes_and_the_next_one_below_fails(accuracy, sensitivity):
    rules = {"accuracy": accuracy, "malignant_sensitivity": sensitivity}
    assert decide(metrics(accuracy, sensitivity), rules)["verdict"] == PASSED
    below = math.nextafter(accuracy, -1)
    assert failed_rules(decide(metrics(below, sensitivity), rules)) == ["accuracy"]


def test_seventeen_of_twenty_reaches_85_percent():
    assert decide(metrics(17 / 20, 4 / 5), BOTH)["verdict"] == PASSED


@given(share)
def test_a_rule_that_is_off_is_shown_and_decides_nothing(sensitivity):
    decision = decide(metrics(0.9, sensitivity), {"accuracy": 0.85, "malignant_sensitivity": None})
    assert decision["verdict"] == PASSED
    assert decision["rules"][1] == {
        "name": "malignant_sensitivity", "value": sensitivity, "threshold": None, "passed": None,
    }  # fmt: skip
    assert failed_rules(decision) == []


def test_a_rule_that_is_off_needs_no_metric():
    decision = decide({"accuracy": {"value": 0.9}}, {"accuracy": 0.85, "malignant_sensitivity": None})
    assert decision["rules"][1]["value"] is None


def test_the_order_is_that_of_the_table():
    decision = decide(metrics(0.9, 0.9), dict(reversed(BOTH.items())))
    assert [row["name"] for row in decision["rules"]] == list(RULES)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.9", True])
def test_a_metric_that_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match="malignant_sensitivity"):
        decide(metrics(0.9, value), BOTH)


def test_a_missing_metric_is_refused():
    with pytest.raises(ValueError, match="per_class → malignant"):
        decide({"accuracy": {"value": 0.9}}, BOTH)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_that_is_not_finite_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        decide(metrics(0.9, 0.9), {"accuracy": threshold})


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="acuracy"):
        decide(metrics(0.9, 0.9), {"acuracy": 0.85})


@pytest.mark.parametrize("rules", [{}, {"accuracy": None, "malignant_sensitivity": None}])
def test_a_gate_without_a_rule_is_refused(rules):
    with pytest.raises(ValueError, match="every gate rule is off"):
        decide(metrics(0.9, 0.9), rules)
