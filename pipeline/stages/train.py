"""Stage `train`: train the layers after the frozen prefix on the stored features, and write the whole model.

Reads `artifacts/featurize/` and the weights file; writes `artifacts/train/model.keras` (0-255 pixels in, probabilities
out), `history.csv` and `run.json`. Later stages find the MLflow run by the key in `run.json`, a hash of the inputs. A
run that was killed continues after its last whole epoch.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import yaml

from pipeline.params import Params, read_params
from pipeline.paths import CHECKPOINT, DATASET, DVC_FILE, FEATURES, HISTORY, MODEL, ROWS, RUN, VALIDATION_SCORE, WEIGHTS
from pipeline.runtime.atomic_io import atomic_write, sha256, write_csv, write_json
from pipeline.runtime.lifecycle import stage


def main() -> None:
    params = read_params()

    rows = pd.read_csv(ROWS)
    key = input_key(params)

    # Not at the top: importing TensorFlow takes seconds, and a missing input should be reported at once
    from busi.model.features import read_features
    from busi.model.fitting import NetworkConfig, fit
    from busi.model.saving import save_model
    from busi.model.training import TrainingConfig

    configs = NetworkConfig.from_section(params.featurize.model_dump(), WEIGHTS), TrainingConfig(**dict(params.train))
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    with recorded(key, params) as (on_epoch, on_history):
        fitted = fit(read_features(FEATURES, rows), rows, configs, CHECKPOINT, key, on_epoch)
        on_history(fitted.history)

    with atomic_write(MODEL) as partial:
        save_model(fitted.model, partial)
    write_csv(HISTORY, fitted.history)
    best = fitted.history.loc[fitted.history.val_loss.idxmin()]
    about = {
        "image_size": params.featurize.image_size,
        "best_epoch": int(best.epoch),
        "val_loss": round(best.val_loss, 6),
        "val_accuracy": round(best.val_accuracy, 6),
        "temperature": fitted.temperature,
    }
    write_json(VALIDATION_SCORE, {name: about[name] for name in ("val_accuracy", "val_loss")})
    write_json(RUN, {"key": key, **about})
    CHECKPOINT.unlink()
    print(
        f"train: best epoch {best.epoch} of {len(fitted.history)}, val_accuracy {best.val_accuracy:.3f}, "
        f"temperature {fitted.temperature:.2f}"
    )


def input_key(params: Params) -> str:
    """sha256 over what decides the result: the files that the stage declares, and the sections featurize and train.

    Of a directory every file counts, by name and bytes, save compiled ones. Code that only records (pipeline.tracking)
    is not declared, so an edit to it leaves the key as it is.
    """
    declared = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"]["train"]["deps"]
    names = [Path(name.replace("${featurize.weights}", params.featurize.weights)) for name in declared]
    sums = {file.as_posix(): sha256(file) for name in names for file in _files(name)}
    values = params.model_dump(include={"featurize", "train"})
    return hashlib.sha256(json.dumps([sums, values], sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def recorded(key: str, params: Params) -> Iterator[tuple[Callable[[dict], None], Callable[[pd.DataFrame], None]]]:
    """The MLflow run of a training: within the block, functions that record an epoch and the whole history."""
    from pipeline.dataset import read_dataset  # only for recording, as tracking is
    from pipeline.tracking import runs

    # A Kubeflow step holds declared inputs only, and data/ is none of this stage; there `register` names the run
    name = runs.run_name(read_dataset()["name"], key) if DATASET.is_file() else None
    with runs.run(key, name) as run:
        run.log_params(params.of_training())

        def on_epoch(row: dict) -> None:
            run.log_epoch(row["epoch"], row)
            print(
                f"epoch {row['epoch']:>3} {row['phase']}  loss {row['loss']:.3f}  accuracy {row['accuracy']:.3f}  "
                f"val_loss {row['val_loss']:.3f}  val_accuracy {row['val_accuracy']:.3f}",
                flush=True,
            )

        yield on_epoch, lambda history: run.log_training(params.of_training(), history)


def _files(path: Path) -> list[Path]:
    """The file itself, or the files below a directory, without `__pycache__`."""
    if not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


if __name__ == "__main__":
    with stage("train"):
        main()
