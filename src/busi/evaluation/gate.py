"""The gate: a verdict on a model from its evaluation alone.

Input is the content of `reports/metrics.json`. Each rule is one row of `RULES`: where its value comes from, how it
must compare with the threshold of `params.yaml` (None there turns the rule off), and the sentence that tells a reader
what was found. A rule that is off is measured and shown, but decides nothing.
"""

import math
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

from scipy.special import bdtrc  # scipy.stats takes most of a second to import

from busi.data.layout import CLASSES, MALIGNANT
from busi.evaluation.records import CheckResult, Metric, format_range

PASSED, FAILED = "passed", "failed"

MEDIOCRE = 0.80  # the true accuracy whose chance to pass the accuracy rule is shown

Thresholds = Mapping[str, float | None]


class Decision(NamedTuple):
    """The gate's verdict, `PASSED` or `FAILED`, and the outcome of every rule, in the order of `RULES`."""

    verdict: str
    rules: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        return self.verdict == PASSED

    @property
    def failed_rules(self) -> list[str]:
        """The names of the rules that decided against the model, in the order of the rules."""
        return [rule.name for rule in self.rules if rule.passed is False]

    @property
    def summary(self) -> str:
        """The verdict in one line.

        >>> Decision(FAILED, (CheckResult("accuracy", 0.8, 0.85, False, ""),)).summary
        'failed by accuracy'
        """
        return f"{self.verdict} by {', '.join(self.failed_rules)}" if self.failed_rules else self.verdict

    def as_json(self) -> dict:
        """The content of `reports/gate.json`."""
        return {"verdict": self.verdict, "rules": [rule._asdict() for rule in self.rules]}

    @classmethod
    def from_json(cls, found: Mapping) -> "Decision":
        """Read what `as_json` wrote, by this or an earlier release.

        Raises:
            ValueError: it is not the content of a gate.json.
        """
        try:
            rules = tuple(CheckResult(**{name: row[name] for name in CheckResult._fields}) for row in found["rules"])
            return cls(found["verdict"], rules)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the content of a gate.json, which holds `verdict` and `rules`: {error!r}") from error


class Rule(NamedTuple):
    """A rule: its value in the metrics (None where they lack it), its comparison, and what it says."""

    value: Callable[["_Evidence"], object]
    holds: Callable[[float, float], bool]
    sign: str
    sentence: Callable[["_Evidence"], str]


def decide(metrics: Mapping, thresholds: Thresholds, slice_images: int) -> Decision:
    """Hold an evaluation against the rules.

    Args:
        metrics: the content of `reports/metrics.json`.
        thresholds: rule name to threshold; None turns the rule off.
        slice_images: a slice of fewer test images decides nothing.

    Returns:
        The decision. A value equal to its threshold passes. A rule that is off has threshold and passed None, no
        part in the verdict, and value None where the metrics lack it. `slices` passes, with value None, where no
        slice is large enough to decide by.

    Raises:
        ValueError: a rule is unknown, every rule is off, a threshold is not finite, or the metric of a rule that is
            on is missing or not a finite number.
    """
    unknown = sorted(set(thresholds) - set(RULES))
    if unknown:
        raise ValueError(f"unknown gate rule {', '.join(unknown)}; the rules are {', '.join(RULES)}")
    if all(threshold is None for threshold in thresholds.values()):
        raise ValueError("every gate rule is off, so nothing would be decided; give at least one rule a threshold")
    evidence = _Evidence(metrics, thresholds, slice_images)
    results = tuple(_check(name, evidence) for name in RULES if name in thresholds)
    return Decision(FAILED if any(result.passed is False for result in results) else PASSED, results)


def chance_to_pass(true_accuracy: float, threshold: float, images: int) -> float:
    """The chance that a model of this true accuracy reaches the threshold on so many independent images."""
    needed = math.ceil(threshold * images - 1e-9)  # rounding errors of floats must not raise it by one image
    return float(bdtrc(needed - 1, images, true_accuracy))


class _Evidence(NamedTuple):
    """What the rules look at."""

    metrics: Mapping
    thresholds: Thresholds
    slice_images: int

    @property
    def slices(self) -> dict[str, Mapping]:
        """The slices that are large enough, `slicing: slice` to metric."""
        return {
            f"{slicing}: {name}": metric
            for slicing, parts in self.metrics.get("slices", {}).items()
            for name, metric in parts.items()
            if metric["n"] >= self.slice_images
        }


def _check(name: str, evidence: _Evidence) -> CheckResult:
    rule, threshold = RULES[name], evidence.thresholds[name]
    value = _finite(rule.value(evidence))
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"gate rule {name}: threshold is {threshold}; expected a finite number, or null for off")
    if value is None and name == "slices" and "slices" in evidence.metrics:
        sentence = f"No slice has {evidence.slice_images} test images, too few to decide by."
        return CheckResult(name, None, threshold, None if threshold is None else True, sentence)
    if value is None:
        if threshold is None:
            return CheckResult(name, None, None, None, "Not measured.")
        raise ValueError(
            f"gate rule {name}: the metrics hold no finite number for it; "
            f"evaluate the model again, or turn the rule off with null"
        )
    passed = None if threshold is None else rule.holds(value, threshold)
    return CheckResult(name, value, threshold, passed, rule.sentence(evidence))


def _at(*path: str) -> Callable[[_Evidence], object]:
    def look_up(evidence: _Evidence) -> object:
        found = evidence.metrics
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


def _lowest_slice(evidence: _Evidence) -> float | None:
    return min((metric["value"] for metric in evidence.slices.values()), default=None)


def _say_accuracy(evidence: _Evidence) -> str:
    accuracy = evidence.metrics["accuracy"]
    return f"{accuracy['value']:.1%} of {accuracy['n']} test images are classified right."


def _say_lower_bound(evidence: _Evidence) -> str:
    accuracy = evidence.metrics["accuracy"]
    said = f"The interval over near-duplicate groups reaches down to {accuracy['low']:.1%}."
    threshold = evidence.thresholds.get("accuracy")
    if threshold is None:
        return said
    chance = chance_to_pass(MEDIOCRE, threshold, accuracy["n"])
    return (
        f"{said} A model of true accuracy {MEDIOCRE:.0%} would reach {threshold:.0%} on {accuracy['n']} independent "
        f"images with a chance of {chance:.1%}."
    )


def _say_sensitivity(evidence: _Evidence) -> str:
    point = evidence.metrics["operating_point"]
    return (
        f"{point['sensitivity']['value']:.1%} of {point['sensitivity']['n']} malignant test images have a probability "
        f"of {point['threshold']:.3f} or more, chosen on validation to find {point['target_sensitivity']:.0%}."
    )


def _say_calibration(evidence: _Evidence) -> str:
    error = Metric.from_json(evidence.metrics["expected_calibration_error"])
    return f"Probabilities are off by {error.value:.3f} on average (interval {format_range(error)}, n = {error.n})."


def _say_slices(evidence: _Evidence) -> str:
    slices = evidence.slices
    name, metric = min(slices.items(), key=lambda item: item[1]["value"])
    return (
        f"The least accurate of {len(slices)} slices of at least {evidence.slice_images} test images is {name}, "
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
