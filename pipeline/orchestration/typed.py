"""What is typed behind options of `busi flow` and `busi crossval`, checked before Prefect and TensorFlow are imported.

Their import takes seconds, which nobody should wait for to hear of a typing error.
"""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from pipeline.params import overridden
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import STAGES

STEPS = ("data", *STAGES, "summary")

_NEXT_CHANGE = re.compile(r"\s+(?=[\w.]+=)")  # between two KEY=VALUE in one text
_ADDRESS = re.compile(r"\w+://[^/\s]+:\d+")


def check_step(name: str | None) -> None:
    """Refuse a name that is no step of the flow."""
    if name is not None and name not in STEPS:
        raise StageError(f"no step {name!r}; the steps are {', '.join(STEPS)}")


def check_address(scheduler: str | None) -> None:
    """Refuse an address that is none of a Dask scheduler."""
    if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
        raise StageError(f"--scheduler {scheduler}: expected an address such as tcp://10.0.0.1:8786")


def read_changes(texts: Iterable[str]) -> dict[str, Any]:
    """As `parse_changes`, and refuse what params.yaml does not take."""
    changes = parse_changes(texts)
    if changes:
        overridden(changes)
    return changes


def parse_changes(texts: Iterable[str]) -> dict[str, Any]:
    """Values of params.yaml by dotted key, from texts like `train.seed=3` or `train.seed=3 split.seed=4`.

    Raises:
        StageError: a text is not of this form.
    """
    changes = {}
    for change in (part for text in texts for part in _NEXT_CHANGE.split(text.strip())):
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise StageError(f"--set {change!r}: expected KEY=VALUE, such as train.seed=3")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StageError(f"--set {change!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    return changes
