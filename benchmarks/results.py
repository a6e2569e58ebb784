"""The table of docs/results.md, any row of it: `python -m benchmarks.results ROW...`; without a row, what there is.

A row is params.yaml with some values changed, cross-validated by the engine of `busi crossval`: the same folds, the
same jobs, the same judgement. So `busi crossval` itself gives the row whose values params.yaml has. Some rows also
differ in how images are divided into folds, in the number of trainings a fold, or in the views of a test image. A
baseline is no network, but takes the same folds and is judged by the same function.

Writes reports/results.json, data set by data set and row by row; reports/folds.csv, which fold tests which image; and
reports/out_of_fold.csv, what every row called each image there. Minutes are processor time of all jobs that gave the
row, the frozen prefix and the evaluation included; of a job that was cut off, the last try alone.
"""

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
import typer
from tabulate import tabulate

from benchmarks import baselines
from busi import DISCLAIMER
from busi.evaluation.metrics import accuracy_difference
from busi.evaluation.records import Resampling
from pipeline.dataset import read_dataset
from pipeline.orchestration.crossval import cross_validate, pooled
from pipeline.orchestration.folds import FOLDER, Experiment, changed
from pipeline.params import Params, read_params
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

REPORT = Path("reports/results.json")
FOLD_OF = Path("reports/folds.csv")
CALLED = Path("reports/out_of_fold.csv")
FOLDS = 5
CODE = ("src/busi", "pipeline/stages", "pipeline/orchestration", "benchmarks/baselines.py", "params.yaml")


@dataclass(frozen=True)
class Row:
    """One row: what it is, and in what it differs from `busi crossval` with the committed params.yaml."""

    what: str
    changes: dict[str, dict[str, object]] = field(default_factory=dict)  # section -> key -> value
    baseline: str = ""  # a method of `baselines` instead of a trained network
    grouped: bool = True  # or plain random folds of all images, conflicting labels and twins too
    averaged_views: bool = False  # the mean over six views of a test image
    trainings: int = 1  # a fold, their probabilities averaged

    def experiment(self, params: Params, repeats: int = 1) -> Experiment:
        own = changed(params, self.changes)
        return Experiment(own, FOLDS, repeats, self.grouped, self.trainings, self.averaged_views)


class Measured(NamedTuple):
    """A row's out-of-fold predictions, as `crossval.out_of_fold` gives them, and what its training says of itself."""

    predictions: pd.DataFrame
    about: dict[str, float]  # minutes, and of a network validation_accuracy, the mean over folds


def _network(weights: str, boundary: str = "", **featurize: object) -> dict[str, dict[str, object]]:
    """Changes of the network's section, at 128 pixels if nothing else is said; without a boundary the committed one."""
    return {"featurize": {"weights": weights, **SMALL} | ({"boundary": boundary} if boundary else {}) | featurize}


RANDOM, ULTRASOUND, IMAGENET = "none", "ultrasound.weights.h5", "densenet121_imagenet_notop.h5"
SMALL, LARGE = {"image_size": 128}, {"image_size": 224}
# What deeper training asks for, seen on validation parts: pretrained early layers are lost at the committed rate, and a
# network from random weights needs longer than the committed patience to come below what its head alone gives
GENTLE = {"train": {"tail_learning_rate": 1e-4}}
PATIENT = {"train": {"patience": 30}}

ROWS = {
    "hog": Row("gradients and gray levels, support vector machine, no network", baseline="hog"),
    "linear-random": Row("random weights, pooled features, logistic regression", baseline="random"),
    "linear-ultrasound": Row("ultrasound weights, pooled features, logistic regression", baseline="ultrasound"),
    "random-head": Row("random weights, head only", _network(RANDOM, "levels")),
    "random-tail": Row("random weights, frozen alike", _network(RANDOM)),
    "random-tail-224": Row("random weights, frozen alike, 224 px", _network(RANDOM, **LARGE)),
    "random-all": Row("random weights, all layers, no early stopping", _network(RANDOM, "input") | PATIENT),
    "random-all-224": Row(
        "random weights, all layers, 224 px, no early stopping", _network(RANDOM, "input", **LARGE) | PATIENT
    ),
    "ultrasound-head": Row("ultrasound weights, head only", _network(ULTRASOUND, "levels")),
    "ultrasound-tail": Row("ultrasound weights, head and last layers", _network(ULTRASOUND)),
    "ultrasound-tail-224": Row("the same, 224 px, as committed", _network(ULTRASOUND, **LARGE)),
    "ultrasound-pool4": Row("ultrasound weights, from pool4", _network(ULTRASOUND, "pool4_pool")),
    "ultrasound-pool3": Row(
        "ultrasound weights, from pool3, a fifth of the rate", _network(ULTRASOUND, "pool3_pool") | GENTLE
    ),
    "ultrasound-pool2": Row(
        "ultrasound weights, from pool2, a fifth of the rate", _network(ULTRASOUND, "pool2_pool") | GENTLE
    ),
    "ultrasound-pool1": Row(
        "ultrasound weights, from pool1, a fifth of the rate", _network(ULTRASOUND, "pool1") | GENTLE
    ),
    "ultrasound-all": Row(
        "ultrasound weights, all layers, a fifth of the rate", _network(ULTRASOUND, "input") | GENTLE
    ),
    "ultrasound-all-224": Row(
        "ultrasound weights, all layers, 224 px, a fifth of the rate", _network(ULTRASOUND, "input", **LARGE) | GENTLE
    ),
    "tail-augmented": Row("ultrasound-tail, six views at test", _network(ULTRASOUND), averaged_views=True),
    "tail-three-seeds": Row("ultrasound-tail, mean of three seeds", _network(ULTRASOUND), trainings=3),
    "tail-224-augmented": Row(
        "ultrasound-tail-224, six views at test", _network(ULTRASOUND, **LARGE), averaged_views=True
    ),
    "tail-224-three-seeds": Row("ultrasound-tail-224, mean of three seeds", _network(ULTRASOUND, **LARGE), trainings=3),
    "tail-224-augmented-three-seeds": Row(
        "ultrasound-tail-224, mean of six views and three seeds",
        _network(ULTRASOUND, **LARGE),
        averaged_views=True,
        trainings=3,
    ),
    "imagenet": Row("ImageNet weights, frozen alike, 224 px (`make weights` first)", _network(IMAGENET, **LARGE)),
    "random-split-head": Row(
        "ultrasound-head, plain random folds of all images", _network(ULTRASOUND, "levels"), grouped=False
    ),
    "random-split-tail": Row("ultrasound-tail, plain random folds of all images", _network(ULTRASOUND), grouped=False),
    "random-split-tail-224": Row(
        "ultrasound-tail-224, plain random folds of all images", _network(ULTRASOUND, **LARGE), grouped=False
    ),
    "random-split-hog": Row("hog, plain random folds of all images", baseline="hog", grouped=False),
    "random-split-linear-random": Row(
        "linear-random, plain random folds of all images", baseline="random", grouped=False
    ),
    "random-split-linear-ultrasound": Row(
        "linear-ultrasound, plain random folds of all images", baseline="ultrasound", grouped=False
    ),
}


def main(
    rows: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler; by default two local workers")] = None,
    against: Annotated[str, typer.Option(help="Row that the others are compared with, image by image")] = "hog",
) -> None:
    """Measure rows of the results' table on the data set in data/, and show the table."""
    refuse_unknown([*(rows or ()), against])
    data_set, params = read_dataset()["name"], read_params()
    for name in rows or ():
        experiment = ROWS[name].experiment(params)
        found = measure(name, experiment, scheduler)
        measured = {"command": f"python -m benchmarks.results {name}", **entry(name, experiment, found)}
        if experiment.grouped:
            keep_folds(data_set, found.predictions)
        keep_calls(data_set, name, found.predictions)
        keep(REPORT, data_set, name, measured)
        print(f"{name}: accuracy {shown(measured['metrics']['accuracy'])}, {measured['minutes']} min", flush=True)
    above = compare(read_of(CALLED, data_set), read_of(FOLD_OF, data_set), against, params)
    print(f"{data_set}\n\n{table(read_report(REPORT).get(data_set, {}), above, against)}\n\n{DISCLAIMER}")


def refuse_unknown(names: list[str]) -> None:
    if unknown := [name for name in names if name not in ROWS]:
        raise StageError(f"no such row: {', '.join(unknown)}\n  there are {', '.join(ROWS)}")


def measure(name: str, experiment: Experiment, scheduler: str | None) -> Measured:
    """Cross-validate a row. What is not kept in reports/ stays below artifacts/crossval/rows/."""
    if method := ROWS[name].baseline:
        start = time.process_time()
        predictions = baselines.cross_validate(method, experiment)
        return Measured(predictions, {"minutes": _minutes(time.process_time() - start)})
    folder = FOLDER / "rows" / name
    found = cross_validate(experiment, folder / "crossval.json", folder / "predictions.csv", scheduler)
    accuracies = [one.result()["val_accuracy"] for one in found.folds]
    validation = round(sum(accuracies) / len(accuracies), 6)
    return Measured(found.predictions, {"minutes": _minutes(found.seconds), "validation_accuracy": validation})


def entry(name: str, experiment: Experiment, found: Measured) -> dict:
    """A row's entry in the report."""
    params = experiment.params
    metrics = pooled(found.predictions, params.evaluate)
    malignant = metrics["per_class"]["malignant"]
    kept = {key: metrics[key] for key in ("accuracy", "macro_f1", "auroc_macro")}
    return {
        "metrics": kept | {f"malignant_{key}": malignant[key] for key in ("sensitivity", "specificity")},
        "what": ROWS[name].what,
        "dealt": "by group" if experiment.grouped else "random",
        "params": params.of_training(),
        "seeds": {"split": params.split.seed, "train": params.train.seed, "trainings": experiment.trainings},
        "commit": commit(),
        "machine": machine(),
        **found.about,
    }


def read_report(path: Path) -> dict:
    """data set -> row -> entry, empty without the file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(path: Path, data_set: str, name: str, entry: dict) -> None:
    """Put a row's entry into a report, read only now: another process may have measured other rows meanwhile."""
    report = read_report(path)
    report.setdefault(data_set, {})[name] = entry
    write_json(path, report)


def keep_folds(data_set: str, predictions: pd.DataFrame) -> None:
    """Write down which fold tests which image; the folds of other data sets stay in the file."""
    table = predictions[["path", "label", "duplicate_group", "fold"]].assign(data_set=data_set)
    replace(FOLD_OF, data_set, table[["data_set", "path", "label", "duplicate_group", "fold"]])


def keep_calls(data_set: str, name: str, predictions: pd.DataFrame) -> None:
    """Write down what a row called each image; the calls of other rows stay."""
    calls = read_of(CALLED, data_set).set_index("path").drop(columns=[name, "data_set"], errors="ignore")
    found = predictions.set_index("path")["predicted"].rename(name)
    calls = calls.join(found, how="outer").rename_axis("path").reset_index()
    replace(CALLED, data_set, calls.assign(data_set=data_set)[["data_set", *calls]])


def read_of(path: Path, data_set: str) -> pd.DataFrame:
    """What a table of several data sets says of one, as text."""
    table = read_all(path)
    return table[table["data_set"] == data_set]


def read_all(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=["data_set", "path"])
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def replace(path: Path, data_set: str, table: pd.DataFrame) -> None:
    """Put a data set's rows in place of those that the table in `path` has; the other data sets' stay."""
    before = read_all(path)
    table = pd.concat([before[before["data_set"] != data_set], table])
    write_csv(path, table.fillna("").sort_values(["data_set", "path"]))


def compare(calls: pd.DataFrame, images: pd.DataFrame, against: str, params: Params) -> dict[str, dict]:
    """By how much each row's accuracy is above that of the row `against`, on the same images by the same folds.

    Args:
        calls, images: a data set's part of `CALLED` and `FOLD_OF`.

    Returns:
        {row: metric}, without the rows of random folds; empty where `against` has not been measured.
    """
    table = images.merge(calls, on="path")
    names = [name for name, row in ROWS.items() if row.grouped and name in table and all(table[name])]
    if against not in names:
        return {}
    right = {name: (table[name] == table["label"]).to_numpy() for name in names}
    groups, settings = table["duplicate_group"].to_numpy(), params.evaluate
    resampling = Resampling(settings.bootstrap, settings.confidence, settings.seed)
    found = {name: accuracy_difference(right[name], right[against], groups, resampling) for name in names}
    return {name: metric._asdict() for name, metric in found.items() if name != against}


def table(measured: dict[str, dict], above: dict[str, dict], against: str) -> str:
    """The rows as Markdown: those of `ROWS`, with a command where a measurement is missing, then others on record."""
    names = ("accuracy", "macro_f1", "malignant_sensitivity", "malignant_specificity", "auroc_macro")
    lines = []
    for name in [*ROWS, *(name for name in measured if name not in ROWS)]:
        if name in measured:
            what, metrics, minutes = (measured[name][key] for key in ("what", "metrics", "minutes"))
            values = [shown(metrics[metric]) for metric in names]
            gain = shown(above[name], "+") if name in above else "–"
            lines.append([name, what, *values, gain, metrics["accuracy"]["n"], minutes])
        else:
            lines.append([name, ROWS[name].what, f"not measured: `make results ROW={name}`"])
    headers = ["row", "what", "accuracy", "macro F1", "malignant sensitivity", "specificity", "macro AUROC"]
    headers += [f"accuracy above {against} (paired)", "n", "min"]
    return tabulate(lines, headers=headers, tablefmt="github")


def shown(metric: dict, sign: str = "") -> str:
    value, low, high = (f"{metric[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def commit() -> str:
    """The commit, and whether what decides a result differs from it."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    changes = subprocess.run(["git", "status", "--porcelain", *CODE], capture_output=True, check=False)
    return head.stdout.strip() + (" with changes" if changes.stdout else "")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _minutes(seconds: float) -> float:
    return round(seconds / 60, 1)


if __name__ == "__main__":
    with stage("results"):
        typer.run(main)
