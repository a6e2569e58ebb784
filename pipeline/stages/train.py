"""train: adapt the part of the network behind the boundary to the stored features, and write the whole model.

Reads artifacts/featurize/ and the weights file; writes artifacts/train/model.keras (0-255 pixels in, probabilities
out), history.csv and run.json, whose key is a hash of what went in: by it every stage finds the one MLflow run.
Killed and started again, it continues after the last whole epoch.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
import yaml

from pipeline.dataset import read_dataset
from pipeline.params import Params, read_params
from pipeline.runtime.atomic_io import atomic_write, sha256, write_csv, write_json
from pipeline.runtime.lifecycle import stage
from pipeline.stages.featurize import FEATURES, ROWS, initial_model
from pipeline.tracking import store as tracking

MODEL = Path("artifacts/train/model.keras")
HISTORY = Path("artifacts/train/history.csv")
RUN = Path("artifacts/train/run.json")
# Not declared, so DVC leaves it alone between a killed run and the next one
CHECKPOINT = Path("artifacts/train/checkpoint.npz")


def main() -> None:
    params = read_params()
    rows = pd.read_csv(ROWS)
    key = input_key(params)

    from busi.model.features import read_features
    from busi.model.network import cut, save_model
    from busi.model.training import TrainingConfig, calibrate, train, training_set_from_rows

    examples = training_set_from_rows(read_features(FEATURES, rows), rows)
    model = initial_model(params.featurize, params.train.dropout)
    _, tail = cut(model, params.featurize.boundary)
    recipe = TrainingConfig(**params.train.model_dump(exclude={"dropout"}))
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    with tracking.run(key, name=tracking.run_name(read_dataset()["name"], key)) as run:
        run.log_params(params.of_training())

        def report(row: dict) -> None:
            run.log_epoch(row["epoch"], row)
            print(
                f"epoch {row['epoch']:>3} {row['phase']}  loss {row['loss']:.3f}  accuracy {row['accuracy']:.3f}  "
                f"val_loss {row['val_loss']:.3f}  val_accuracy {row['val_accuracy']:.3f}",
                flush=True,
            )

        history = train(tail, examples, recipe, CHECKPOINT, key, report)
        run.log_training(params.of_training(), history)
    temperature = calibrate(tail, examples, recipe.batch_size)

    # Prefix and tail were cut from `model` and share its weights: saving it is all the assembling there is
    with atomic_write(MODEL) as partial:
        save_model(model, partial)
    write_csv(HISTORY, history)
    best = history.loc[history.val_loss.idxmin()]
    about = {
        "image_size": params.featurize.image_size,
        "best_epoch": int(best.epoch),
        "val_loss": round(best.val_loss, 6),
        "val_accuracy": round(best.val_accuracy, 6),
        "temperature": temperature,
    }
    write_json(RUN, {"key": key, **about})
    CHECKPOINT.unlink()
    print(
        f"train: best epoch {best.epoch} of {len(history)}, val_accuracy {best.val_accuracy:.3f}, "
        f"temperature {temperature:.2f}"
    )


def input_key(params: Params) -> str:
    """sha256 over everything that decides the outcome: the code, the parameters and the bytes that train reads."""
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"]["deps"]
    files = [name.replace("${featurize.weights}", params.featurize.weights) for name in declared]
    sums = {name: sha256(Path(name)) for name in sorted(files)}
    values = params.model_dump(include={"featurize", "train"})
    return hashlib.sha256(json.dumps([sums, values], sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    with stage("train"):
        main()
