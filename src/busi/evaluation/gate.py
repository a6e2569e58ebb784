"""The gate: a verdict on a model from its evaluation alone.

Input is the table of `reports/metrics.json`. Each rule is one row of `RULES`: where its value comes from, how it must
compare with the threshold of `params.yaml` (None there turns the rule off), and the sentence that tells a reader what
was found. A rule that is off is measured, shown, and decides nothing.
"""

import math
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

from scipy.special import bdtrc  # scipy.stats takes most of a second to import

from busi.data.layout import CLASSES, MALIGNANT

PASSED, FAILED = "passed", "failed"

SLICE_IMAGES = 20  # fewer test images than this say too little of a slice to decide by it
MEDIOCRE = 0.80  # the true accuracy whose chance to pass the accuracy rule is shown

Thresholds = Mapping[str, float | None]


class Rule(NamedTuple):
    """A rule: its value in the metrics (None where they lack it), its comparison, and what it says."""

    value: Callable[[Mapping], object]
    holds: Callable[[float, float], bool]
    sign: str
    sentence: Callable[[Mapping, Thresholds], str]


def decide(metrics: Mapping, rules: Thresholds) -> dict:
    """Hold an evaluation against the rules.

    Args:
        metrics: the content of `reports/metrics.json`.
        rules: rule name to threshold; None turns the rule off.

    Returns:
        `{"verdict": "passed"|"failed", "rules": [{"name", "value", "threshold", "passed", "sentence"}, ...]}` in the
        order of `RULES`. A value equal to its threshold passes. A rule that is off has threshold and passed None, no
        part in the verdict, and value None where the metrics lack it. `slices` passes, with value None, where no
        slice is large enough to decide by.

    Raises:
        ValueError: a rule is unknown, every rule is off, a threshold is not finite, or the metric of a rule that is
            on is missing or not a finite number.
    """
    unknown = sorted(set(rules) - set(RULES))
    if unknown:
        raise ValueError(f"unknown gate rule {', '.join(unknown)}; the rules are {', '.join(RULES)}")
    if all(threshold is None for threshold in rules.values()):
        raise ValueError("every gate rule is off, so nothing would be decided; give at least one rule a threshold")
    rows = [_row(name, metrics, rules) for name in RULES if name in rules]
    verdict = FAILED if any(row["passed"] is False for row in rows) else PASSED
    return {"verdict": verdict, "rules": rows}


def failed_rules(decision: Mapping) -> list[str]:
    """The names of the rules that a decision failed by, in the order of the rules."""
    return [row["name"] for row in decision["rules"] if row["passed"] is False]


def chance_to_pass(true_accuracy: float, threshold: float, images: int) -> float:
    """The chance that a model of this true accuracy reaches the threshold on so many independent images."""
    needed = math.ceil(threshold * images - 1e-9)  # a float's last bit must not ask for one image more
    return float(bdtrc(needed - 1, images, true_accuracy))


def _row(name: str, metrics: Mapping, rules: Thresholds) -> dict:
    rule, threshold = RULES[name], rules[name]
    value = _finite(rule.value(metrics))
    row = {"name": name, "value": value, "threshold": threshold}
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"gate rule {name}: threshold is {threshold}; expected a finite number, or null for off")
    if value is None and name == "slices" and "slices" in metrics:
        sentence = f"No slice has {SLICE_IMAGES} test images, too few to decide by."
        return {**row, "passed": None if threshold is None else True, "sentence": sentence}
    if value is None:
        if threshold is None:
            return {**row, "passed": None, "sentence": "Not measured."}
        raise ValueError(
            f"gate rule {name}: the metrics hold no finite number for it; "
            f"evaluate the model again, or turn the rule off with null"
        )
    passed = None if threshold is None else rule.holds(value, threshold)
    return {**row, "passed": passed, "sentence": rule.sentence(metrics, rules)}


def _at(*path: str) -> Callable[[Mapping], object]:
    def look_up(metrics: Mapping) -> object:
        found = metrics
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return found

    return look_up


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def _slices(metrics: Mapping) -> dict[str, Mapping]:
    """The slices that are large enough, `slicing: slice` to metric."""
    return {
        f"{slicing}: {name}": metric
        for slicing, parts in metrics.get("slices", {}).items()
        for name, metric in parts.items()
        if metric["n"] >= SLICE_IMAGES
    }


def _lowest_slice(metrics: Mapping) -> float | None:
    return min((metric["value"] for metric in _slices(metrics).values()), default=None)


def _say_accuracy(metrics: Mapping, rules: Thresholds) -> str:
    accuracy = metrics["accuracy"]
    return f"{accuracy['value']:.1%} of {accuracy['n']} test images are classified right."


def _say_lower_bound(metrics: Mapping, rules: Thresholds) -> str:
    accuracy = metrics["accuracy"]
    said = f"The interval over near-duplicate groups reaches down to {accuracy['low']:.1%}."
    threshold = rules.get("accuracy")
    if threshold is None:
        return said
    chance = chance_to_pass(MEDIOCRE, threshold, accuracy["n"])
    return (
        f"{said} A model of true accuracy {MEDIOCRE:.0%} would reach {threshold:.0%} on {accuracy['n']} independent "
        f"images with a chance of {chance:.1%}."
    )


def _say_sensitivity(metrics: Mapping, rules: Thresholds) -> str:
    point = metrics["operating_point"]
    return (
        f"{point['sensitivity']['value']:.1%} of {point['sensitivity']['n']} malignant test images have a probability "
        f"of {point['threshold']:.3f} or more, chosen on validation to find {point['target_sensitivity']:.0%}."
    )


def _say_calibration(metrics: Mapping, rules: Thresholds) -> str:
    error = metrics["expected_calibration_error"]
    return (
        f"Probabilities are off by {error['value']:.3f} on average (interval {error['low']:.3f} to "
        f"{error['high']:.3f}, n = {error['n']})."
    )


def _say_slices(metrics: Mapping, rules: Thresholds) -> str:
    slices = _slices(metrics)
    name, metric = min(slices.items(), key=lambda item: item[1]["value"])
    return (
        f"The least accurate of {len(slices)} slices of at least {SLICE_IMAGES} test images is {name}, "
        f"{metric['value']:.1%} of {metric['n']}."
    )


RULES = {
    "accuracy": Rule(_at("accuracy", "value"), operator.ge, "≥", _say_accuracy),
    "accuracy_lower_bound": Rule(_at("accuracy", "low"), operator.ge, "≥", _say_lower_bound),
    f"{CLASSES[MALIGNANT]}_sensitivity": Rule(
        _at("operating_point", "sensitivity", "value"), operator.ge, "≥", _say_sensitivity
    ),
    "expected_calibration_error": Rule(_at("expected_calibration_error", "value"), operator.le, "≤", _say_calibration),
    "slices": Rule(_lowest_slice, operator.ge, "≥", _say_slices),
}
