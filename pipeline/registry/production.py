"""The Production model as programs use it: verified, loaded, with what is on record of it beside it."""

import json
from dataclasses import dataclass

import pandas as pd

from busi.serving import ImageClassifier
from pipeline.dataset import read_dataset
from pipeline.registry import promotion
from pipeline.tracking import store as tracking


@dataclass(frozen=True)
class Production:
    """One loaded version. `metrics`, `gate` and `predictions` are those of its evaluation, as docs/outputs.md has them;
    `card` is its model card, Markdown."""

    name: str
    version: str
    classifier: ImageClassifier
    card: str
    gate: dict
    metrics: dict
    predictions: pd.DataFrame


def default_name() -> str:
    """The registered model that belongs to the data set in `data/`."""
    return promotion.registered_name(read_dataset())


def load(name: str) -> Production:
    """Load the Production version of a registered model.

    Raises:
        StageError: there is none, it does not pass `promotion.verify`, or the store does not answer.
    """
    tracking.connect()
    with promotion.production_files(name) as (version, files):
        return Production(
            name=name,
            version=str(version.version),
            classifier=tracking.load_classifier(files),
            card=(files / "model_card.md").read_text(encoding="utf-8"),
            gate=json.loads((files / "gate.json").read_text(encoding="utf-8")),
            metrics=json.loads((files / "metrics.json").read_text(encoding="utf-8")),
            predictions=pd.read_csv(files / "predictions.csv", dtype={"duplicate_group": str}),
        )
