"""Stage `evaluate`: the assembled model on the raw test images, never on features.

Reads the images, manifest, split, model and `run.json`; writes `reports/metrics.json` and, under `artifacts/evaluate/`,
predictions, heat maps, the detector of unknown input, the points of the curves, and a few test images with the model's
answers, for the smoke test of a copy. It knows no threshold of the gate, and draws nothing.
"""

import json

import pandas as pd

from pipeline.params import Evaluate, Params, read_params
from pipeline.paths import (
    CACHE,
    DATA,
    HEADLINE,
    HEAT_MAPS,
    MANIFEST,
    METRICS,
    MODEL,
    OOD_DETECTOR,
    PLOTS,
    PREDICTIONS,
    RUN,
    SMOKE,
    SPLIT,
    WEIGHTS,
)
from pipeline.runtime.atomic_io import atomic_write, write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.runtime.locks import scratch

MADE_BY = {RUN: "train", MODEL: "train", SPLIT: "split", MANIFEST: "validate"}


def main() -> None:
    params = read_params()

    require_inputs()
    run = json.loads(RUN.read_text(encoding="utf-8"))
    split = pd.read_csv(SPLIT, dtype=str, keep_default_na=False)
    manifest = pd.read_csv(MANIFEST)

    # Not at the top: importing TensorFlow takes seconds, and a missing input should be reported at once
    from busi.evaluation.evaluator import DataSet, evaluate_model, summary
    from busi.evaluation.observer import Observer
    from busi.model.network import seed_everything

    seed_everything(params.evaluate.seed)
    observer = Observer.load(MODEL, DATA, run["image_size"])
    config = evaluation_config(params.evaluate)
    retrain = retraining(params) if params.evaluate.audit_random_split else None
    found = evaluate_model(observer, DataSet(DATA, manifest, split), run["temperature"], config, retrain)

    write(found)
    print(*summary(found.metrics), sep="\n")


def require_inputs() -> None:
    """Raise a `StageError` that names the missing input and the stage that makes it."""
    for path, maker in MADE_BY.items():
        if not path.is_file():
            raise StageError(f"{path} not found\n  run `dvc repro {maker}`, which makes it")


def evaluation_config(params: Evaluate):
    """The section `evaluate` as `busi` takes it."""
    from busi.evaluation.evaluator import EvaluationConfig
    from busi.evaluation.records import Resampling

    values = params.model_dump(include=set(EvaluationConfig._fields))
    return EvaluationConfig(Resampling(params.bootstrap, params.confidence, params.seed), **values)


def retraining(params: Params):
    """A function that trains on another split as `featurize` and `train` do, for `evaluate_model`."""
    from busi.evaluation.observer import Observer
    from busi.model.fitting import NetworkConfig, fit_images
    from busi.model.training import TrainingConfig

    configs = NetworkConfig.from_section(params.featurize.model_dump(), WEIGHTS), TrainingConfig(**dict(params.train))

    def report(row: dict) -> None:
        print(f"audit, epoch {row['epoch']:>3}  val_loss {row['val_loss']:.3f}", flush=True)

    def retrain(split: pd.DataFrame) -> Observer:
        with scratch(CACHE, "audit") as folder:
            return Observer(fit_images(DATA, split, configs, folder, report).model, DATA)

    return retrain


def write(found) -> None:
    """Write what `evaluate_model` returns; the metrics last."""
    from busi.evaluation import heat_maps
    from busi.evaluation.evaluator import headline
    from busi.evaluation.records import as_json

    write_csv(PREDICTIONS, found.predictions)
    for name, table in found.plots.items():
        write_csv(PLOTS / f"{name}.csv", table)
    with atomic_write(HEAT_MAPS) as partial:
        heat_maps.save(found.heat_maps, partial)
    with atomic_write(OOD_DETECTOR) as partial:
        found.ood_detector.save(partial)
    for image in found.smoke_images:
        with atomic_write(SMOKE / f"{image.expected['sha256']}.image") as partial:
            partial.write_bytes(image.content)
    write_json(SMOKE / "smoke.json", [image.expected for image in found.smoke_images])
    write_json(HEADLINE, headline(found.metrics))
    write_json(METRICS, as_json(found.metrics))


if __name__ == "__main__":
    with stage("evaluate"):
        main()
