"""Cross-validation, the one engine: `busi crossval`, and every row of docs/results.md (`benchmarks.results`).

The images of the manifest are divided into folds (`folds`), a job trains and evaluates each fold (`fold`) on Dask
through Prefect (`dask_jobs`), and the out-of-fold predictions are judged together. Finished folds stay below
artifacts/crossval/folds/, so a run that was cut off continues, and runs with folds in common share them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.evaluation.metrics import evaluate
from busi.evaluation.records import Resampling, as_json
from pipeline.dataset import read_dataset
from pipeline.orchestration import fold
from pipeline.orchestration.folds import (
    FOLDER,
    Experiment,
    Fold,
    digest,
    make_folders,
    plan,
    read_manifest,
    sums_of_inputs,
)
from pipeline.params import Evaluate, read_params
from pipeline.paths import PREDICTIONS
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.tracking import runs

OUT_OF_FOLD = FOLDER / "predictions.csv"
REPORT = Path("reports/crossval.json")


class CrossValidated(NamedTuple):
    """What a cross-validation found.

    `folds` are its folds, all finished; `predictions` has a row an image and repeat, as `out_of_fold` gives it;
    `report` is the content of reports/crossval.json; `seconds` is the processor time of all its jobs.
    """

    folds: list[Fold]
    predictions: pd.DataFrame
    report: dict
    seconds: float


def run(folds: int, repeats: int, scheduler: str | None) -> None:
    """Cross-validate with the parameters of params.yaml; write `REPORT` and `OUT_OF_FOLD`, and print the figures.

    Args:
        folds: number of folds, 2 or more; each image is tested in one of them.
        repeats: how often the images are divided into folds.
        scheduler: address of a Dask scheduler, tcp://HOST:PORT, or None for two local workers.

    Raises:
        StageError: the manifest is missing or of other images, no scheduler answers, or folds failed.
        ValueError: the images can't be divided into so many folds.
    """
    experiment = Experiment(read_params(), folds, repeats)
    found = cross_validate(experiment, REPORT, OUT_OF_FOLD, scheduler)
    announce(found.report, experiment.params.evaluate)


def cross_validate(
    experiment: Experiment, report_file: Path, predictions_file: Path, scheduler: str | None = None
) -> CrossValidated:
    """Finish every fold of an experiment, judge its out-of-fold predictions, and record it as one MLflow run.

    Each fold is a child of that run, with its own metrics. Raises as `run`.
    """
    params, manifest = experiment.params, read_manifest()
    sums = sums_of_inputs(params)
    planned = plan(experiment, manifest, sums)
    prefixes = make_folders(planned, sums)
    waiting = [one for one in planned if not one.is_finished]
    print(f"{len(planned)} folds, {len(planned) - len(waiting)} of them finished before", flush=True)

    key = digest([one.key for one in planned])
    with runs.run(key, name=f"crossval-{runs.run_name(read_dataset()['name'], key)}") as parent:
        parent.log_params(params.of_training() | {"crossval": experiment.settings()})
        if waiting:
            from pipeline.orchestration.dask_jobs import run_all  # Prefect takes seconds to import

            run_all(waiting, prefixes, scheduler)
        for one in planned:
            result = one.result()
            runs.nest(parent, result["key"], name=f"{one.name} of {experiment.folds}")
            runs.open_run(result["key"]).log_evaluation(result["metrics"], [])
        predictions = out_of_fold(planned)
        report = summarise(planned, predictions, params.evaluate)
        write_csv(predictions_file, predictions)
        write_json(report_file, report)
        parent.log_evaluation(report["pooled"], [predictions_file, report_file])
    results = [one.result() for one in planned]
    seconds = results[0]["prefix_seconds"] + sum(result["seconds"] for result in results)
    return CrossValidated(planned, predictions, report, seconds)


def out_of_fold(planned: list[Fold]) -> pd.DataFrame:
    """The prediction of every image by the model that was not trained on it, sorted by repeat and path.

    Returns:
        Columns repeat, fold, path, label, duplicate_group, predicted and the probability of each class; the mean over
        the trainings of a fold.
    """
    tables = [table_of(one, fold.AVERAGED if one.kind == "fold-averaged-views" else PREDICTIONS) for one in planned]
    every = pd.concat(tables, ignore_index=True)
    if every.duplicated(["repeat", "path"]).any():
        every = mean_of_trainings(every)
        every.insert(5, "predicted", every[list(CLASSES)].idxmax(axis=1))
    return every.sort_values(["repeat", "path"], ignore_index=True)


def table_of(one: Fold, file: Path) -> pd.DataFrame:
    """A table that a fold's job left, with the numbers of repeat and fold in front."""
    found = pd.read_csv(one.folder / file, dtype={"duplicate_group": str})
    found.insert(0, "repeat", one.repeat)
    found.insert(1, "fold", one.number)
    return found


def mean_of_trainings(predictions: pd.DataFrame) -> pd.DataFrame:
    """The mean probabilities of each repeat, fold and path, where a fold was trained several times."""
    same = ["repeat", "fold", "path", "label", "duplicate_group"]
    return predictions.groupby(same, as_index=False)[list(CLASSES)].mean()


def pooled(predictions: pd.DataFrame, settings: Evaluate) -> dict:
    """The metrics of out-of-fold predictions, as reports/metrics.json has them; intervals draw whole groups."""
    found = evaluate(
        predictions["label"].map(CLASSES.index).to_numpy(),
        predictions[list(CLASSES)].to_numpy(),
        predictions["duplicate_group"].to_numpy(),
        Resampling(settings.bootstrap, settings.confidence, settings.seed),
    )
    return as_json(found)


def summarise(planned: list[Fold], predictions: pd.DataFrame, settings: Evaluate) -> dict:
    """The content of reports/crossval.json. Intervals of `pooled` draw whole groups, with all repeats of their images.

    `mean` and `std` (n - 1) are of the folds' accuracies.
    """
    together = pooled(predictions, settings)
    if planned[-1].repeat > 0:
        del together["accuracy_wilson"]  # takes predictions for independent, and repeats of an image are not
    folds = []
    for one in planned:
        result = one.result()
        seeds = {"split": one.params.split.seed, "train": one.params.train.seed}
        measured = {name: result["metrics"][name] for name in ("accuracy", "auroc_macro")}
        folds.append(
            {"repeat": one.repeat, "fold": one.number, "seeds": seeds, "model_md5": result["model_md5"], **measured}
        )
    accuracies = [entry["accuracy"]["value"] for entry in folds]
    return {
        "folds": folds,
        "pooled": together,
        "mean": round(float(np.mean(accuracies)), 6),
        "std": round(float(np.std(accuracies, ddof=1)), 6),
    }


def announce(report: dict, settings: Evaluate) -> None:
    """Print the figures of reports/crossval.json, each with its interval, and where the files are."""
    together = report["pooled"]
    rows = {"accuracy": together["accuracy"], "macro AUROC": together["auroc_macro"]}
    rows |= {f"{label} sensitivity": together["per_class"][label]["sensitivity"] for label in CLASSES}
    print(f"\nout of fold, {settings.confidence:.0%} intervals over near-duplicate groups")
    for name, metric in rows.items():
        print(f"{name:<22} {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}")
    print(f"accuracy of a fold     {report['mean']:.3f} ± {report['std']:.3f} (mean and SD of {len(report['folds'])})")
    print(f"report: {REPORT.as_posix()}, predictions: {OUT_OF_FOLD.as_posix()}\n\n{DISCLAIMER}")
