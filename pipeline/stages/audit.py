"""The counterpart of an evaluation: the same recipe on a plain random split, which divides near-duplicate groups.

Part of stage `evaluate` when `evaluate.audit_random_split` is on. What it gives is shown beside the honest figure,
never instead of it.
"""

from pathlib import Path

import pandas as pd

from pipeline.params import Params
from pipeline.paths import CACHE
from pipeline.runtime.locks import scratch
from pipeline.stages.featurize import initial_model


def train_on(split: pd.DataFrame, folder: Path, params: Params):
    """The model that the stages featurize and train would make of a split, calibrated; with progress.

    Args:
        split: columns path, label and part.
        folder: where the paths are relative to.
    """
    from busi.model.features import feature_rows, read_features, write_features
    from busi.model.network import cut, for_inference
    from busi.model.training import TrainingConfig, calibrate, train, training_set_from_rows

    model = initial_model(params.featurize, params.train.dropout)
    prefix, tail = cut(model, params.featurize.boundary)
    rows = feature_rows(split, params.featurize.views)
    recipe = TrainingConfig(**params.train.model_dump(exclude={"dropout"}))

    def report(row: dict) -> None:
        print(f"audit, epoch {row['epoch']:>3}  val_loss {row['val_loss']:.3f}", flush=True)

    with scratch(CACHE, "audit") as workplace:
        features = workplace / "features.npy"
        write_features(for_inference(prefix), folder, rows, params.featurize.seed, features)
        examples = training_set_from_rows(read_features(features, rows), rows)
        train(tail, examples, recipe, workplace / "checkpoint.npz", "audit", report)
        calibrate(tail, examples, recipe.batch_size)
    return model
