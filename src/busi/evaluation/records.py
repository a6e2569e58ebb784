"""The records that evaluation hands on: a metric with its interval, how it was resampled, the outcome of a check.

Files hold them as JSON objects with the fields' names: `as_json` writes them, `Metric.from_json` reads one.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """A figure with its interval: `low` and `high` enclose `value`, `n` counts the images it is over."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def from_json(cls, found: Mapping) -> "Metric":
        """The metric that a JSON object holds; further keys are ignored. Raises KeyError where one is missing."""
        return cls(**{name: found[name] for name in cls._fields})


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


def as_json(found: object) -> object:
    """Records, at any depth of dicts and sequences, as the dicts and lists that a JSON file holds."""
    if hasattr(found, "_asdict"):
        found = found._asdict()
    if isinstance(found, Mapping):
        return {name: as_json(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [as_json(value) for value in found]
    return found


def format_interval(metric: Metric, digits: int = 3) -> str:
    """A metric for a sentence.

    >>> format_interval(Metric(0.898, 0.822, 0.957, 88))
    '0.898 (0.822 to 0.957)'
    """
    return f"{metric.value:.{digits}f} ({format_range(metric, digits)})"


def format_range(metric: Metric, digits: int = 3, *, percent: bool = False, separator: str = " to ") -> str:
    """The ends of a metric's interval, for a table that has a column of its own for the value.

    >>> format_range(Metric(0.898, 0.822, 0.957, 88))
    '0.822 to 0.957'
    >>> format_range(Metric(0.898, 0.822, 0.957, 88), 1, percent=True)
    '82.2 to 95.7'
    """
    scale = 100 if percent else 1
    return f"{scale * metric.low:.{digits}f}{separator}{scale * metric.high:.{digits}f}"
