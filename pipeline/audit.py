"""The counterpart of an evaluation: the same recipe on a plain random split, which divides near-duplicate groups.

Part of stage `evaluate` when `evaluate.audit_random_split` is on. What it gives is shown beside the honest figure,
never instead of it.
"""

from pathlib import Path

import pandas as pd

from pipeline import CACHE
from pipeline.featurize import initial_model
from pipeline.outputs import scratch
from pipeline.params import Params


def train_on(split: pd.DataFrame, folder: Path, params: Params):
    """The model that the stages featurize and train would make of a split, calibrated; with progress.

    Args:
        split: columns path, label and part.
        folder: where the paths are relative to.
    """
    from busi.features import feature_rows, read_features, write_features
    from busi.model import cut, for_inference
    from busi.training import Recipe, calibrate, examples_from_rows, train

    model = initial_model(params.featurize, params.train.dropout)
    prefix, tail = cut(model, params.featurize.boundary)
    rows = feature_rows(split, params.featurize.views)
    recipe = Recipe(**params.train.model_dump(exclude={"dropout"}))

    def report(row: dict) -> None:
        print(f"audit, epoch {row['epoch']:>3}  val_loss {row['val_loss']:.3f}", flush=True)

    with scratch(CACHE, "audit") as workplace:
        features = workplace / "features.npy"
        write_features(for_inference(prefix), folder, rows, params.featurize.seed, features)
        examples = examples_from_rows(read_features(features, rows), rows)
        train(tail, examples, recipe, workplace / "checkpoint.npz", "audit", report)
        calibrate(tail, examples, recipe.batch_size)
    return model
