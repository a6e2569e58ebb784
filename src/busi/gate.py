"""The gate: a verdict on a model from its evaluation alone.

Input is the table of `reports/metrics.json`: every metric a mapping with at least `value`. Each rule is one row
of `RULES`; its threshold comes from `params.yaml`, and None there turns the rule off.
"""

import math
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

from busi.layout import CLASSES, MALIGNANT

PASSED, FAILED = "passed", "failed"


class Rule(NamedTuple):
    """Where a rule's value stands in the metrics, and how the value must compare with the threshold."""

    path: tuple[str, ...]
    holds: Callable[[float, float], bool]
    sign: str


RULES = {
    "accuracy": Rule(("accuracy", "value"), operator.ge, "≥"),
    "malignant_sensitivity": Rule(("per_class", CLASSES[MALIGNANT], "sensitivity", "value"), operator.ge, "≥"),
}


def decide(metrics: Mapping, rules: Mapping[str, float | None]) -> dict:
    """Hold an evaluation against the rules.

    Args:
        metrics: the content of `reports/metrics.json`.
        rules: rule name to threshold; None turns the rule off.

    Returns:
        `{"verdict": "passed"|"failed", "rules": [{"name", "value", "threshold", "passed"}, ...]}` in the order of
        `RULES`. A value equal to its threshold passes. A rule that is off is listed with threshold and passed None,
        has no part in the verdict, and its value is None where the metrics lack it.

    Raises:
        ValueError: a rule is unknown, every rule is off, a threshold is not finite, or the metric of a rule that is
            on is missing or not a finite number.
    """
    unknown = sorted(set(rules) - set(RULES))
    if unknown:
        raise ValueError(f"unknown gate rule {', '.join(unknown)}; the rules are {', '.join(RULES)}")
    if all(threshold is None for threshold in rules.values()):
        raise ValueError("every gate rule is off, so nothing would be decided; give at least one rule a threshold")
    rows = [_row(name, metrics, rules[name]) for name in RULES if name in rules]
    verdict = FAILED if any(row["passed"] is False for row in rows) else PASSED
    return {"verdict": verdict, "rules": rows}


def failed_rules(decision: Mapping) -> list[str]:
    """The names of the rules that a decision failed by, in the order of the rules."""
    return [row["name"] for row in decision["rules"] if row["passed"] is False]


def _row(name: str, metrics: Mapping, threshold: float | None) -> dict:
    value = _lookup(metrics, RULES[name].path)
    if threshold is None:
        return {"name": name, "value": value, "threshold": None, "passed": None}
    if not math.isfinite(threshold):
        raise ValueError(f"gate rule {name}: threshold is {threshold}; expected a finite number, or null for off")
    if value is None:
        where = " → ".join(RULES[name].path)
        raise ValueError(
            f"gate rule {name}: the metrics hold no finite number at {where}; "
            f"evaluate the model again, or turn the rule off with null"
        )
    return {"name": name, "value": value, "threshold": threshold, "passed": RULES[name].holds(value, threshold)}


def _lookup(metrics: Mapping, path: tuple[str, ...]) -> float | None:
    found = metrics
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    if isinstance(found, bool) or not isinstance(found, Real) or not math.isfinite(found):
        return None
    return float(found)
