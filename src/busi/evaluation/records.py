"""The records that evaluation hands on: a metric with its interval, how it was resampled, the outcome of a check.

Files hold them as JSON objects with the fields' names; `_asdict` and `Metric(**found)` convert.
"""

from typing import NamedTuple


class Metric(NamedTuple):
    """A figure with its interval: `low` and `high` enclose `value`, `n` counts the images it is over."""

    value: float
    low: float
    high: float
    n: int


class Resampling(NamedTuple):
    """How intervals are made: `bootstrap` resamples of whole groups, coverage `confidence` in 0-1, and a seed."""

    bootstrap: int
    confidence: float
    seed: int


class CheckResult(NamedTuple):
    """The outcome of a rule or check. `passed` is None where it is switched off or decides nothing."""

    name: str
    value: float | None
    threshold: float | None
    passed: bool | None
    sentence: str


def format_interval(metric: Metric, digits: int = 3) -> str:
    """A metric for a sentence.

    >>> format_interval(Metric(0.898, 0.822, 0.957, 88))
    '0.898 (0.822 to 0.957)'
    """
    return f"{metric.value:.{digits}f} ({metric.low:.{digits}f} to {metric.high:.{digits}f})"
