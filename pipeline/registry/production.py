"""The Production model as programs use it: verified, loaded, with what is on record of it beside it."""

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.registry import verify
from pipeline.tracking import connection, logged_model


@dataclass(frozen=True)
class Production:
    """One loaded version.

    `classifier` is its `ImageClassifier`, by the code that was registered with it (`busi.serving` has its contract).
    `metrics`, `gate` and `predictions` are those of its evaluation, as docs/outputs.md has them; `card` is its model
    card, Markdown.
    """

    name: str
    version: str
    classifier: Any
    card: str
    gate: dict
    metrics: dict
    predictions: pd.DataFrame


def load(name: str) -> Production:
    """Load the Production version of a registered model.

    Raises:
        StageError: there is none, it does not pass `verify.verify`, or the store does not answer.
    """
    connection.connect()
    with verify.production_files(name) as (version, files):
        return Production(
            name=name,
            version=str(version.version),
            classifier=logged_model.load_classifier(files),
            card=(files / "model_card.md").read_text(encoding="utf-8"),
            gate=json.loads((files / "gate.json").read_text(encoding="utf-8")),
            metrics=json.loads((files / "metrics.json").read_text(encoding="utf-8")),
            predictions=pd.read_csv(files / "predictions.csv", dtype={"duplicate_group": str}),
        )
