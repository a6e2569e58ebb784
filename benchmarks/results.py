"""The table of docs/results.md, any row of it: `python -m benchmarks.results ROW...`; without a row, what there is.

A row is params.yaml with some values changed, trained and tested over the folds of `pipeline.crossval` (split.seed):
the same for every row, save those whose point is another way of dividing. Reads `artifacts/validate/manifest.csv`;
writes reports/results.json, data set by data set and row by row, reports/folds.csv, which says of every image which
fold tests it, and reports/out_of_fold.csv, what every row called it there. Finished folds are kept below
.cache/results under a hash of what went in, and of the others the last whole epoch, so that a row that was cut off
goes on.

Minutes are of processor time, of all folds, features included; a network computes on one thread a fold.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from benchmarks import baselines
from busi import DISCLAIMER
from busi.data.images import prepare, read_image
from busi.data.layout import CLASSES
from busi.data.process_pool import process_pool
from busi.data.split import QUARANTINE, make_folds
from busi.evaluation.metrics import accuracy_difference, evaluate
from pipeline.dataset import read_dataset
from pipeline.orchestration.crossval import DATA, MANIFEST, read_manifest
from pipeline.orchestration.fold import THREADS
from pipeline.params import Params, read_params
from pipeline.paths import CACHE
from pipeline.runtime.atomic_io import atomic_write, sha256, write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.stages.featurize import initial_model

REPORT = Path("reports/results.json")
FOLD_OF = Path("reports/folds.csv")
CALLED = Path("reports/out_of_fold.csv")
KEPT = CACHE / "results"
FOLDS = 5
PARTS = ("val", "test")  # whose probabilities a training keeps
ZOOMS = (1.0, 0.9, 1.1)  # of test-time augmentation, each as it is and mirrored
CODE = (
    "pipeline/featurize.py", "src/busi/augment.py", "src/busi/backend.py", "src/busi/calibration.py",
    "src/busi/densenet.py", "src/busi/features.py", "src/busi/images.py", "src/busi/model.py",
    "src/busi/split.py", "src/busi/training.py",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row: what it is, and in what it differs from params.yaml and from one prediction by group."""

    what: str
    changes: dict[str, dict[str, object]] = field(default_factory=dict)  # section -> key -> value
    simple: str = ""  # a method of `baselines` instead of a trained network
    dealt: str = "by group"  # or "random": all images, conflicts and twins too; or "random, masks": mask files as well
    augmented: bool = False  # the mean over the views of test-time augmentation
    seeds: int = 1  # trainings a fold, their probabilities averaged


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
    "hog": Row("gradients and gray levels, support vector machine, no network", simple="hog"),
    "linear-random": Row("random weights, pooled features, logistic regression", simple="random"),
    "linear-ultrasound": Row("ultrasound weights, pooled features, logistic regression", simple="ultrasound"),
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
    "tail-augmented": Row("ultrasound-tail, six views at test", _network(ULTRASOUND), augmented=True),
    "tail-three-seeds": Row("ultrasound-tail, mean of three seeds", _network(ULTRASOUND), seeds=3),
    "tail-224-augmented": Row("ultrasound-tail-224, six views at test", _network(ULTRASOUND, **LARGE), augmented=True),
    "tail-224-three-seeds": Row("ultrasound-tail-224, mean of three seeds", _network(ULTRASOUND, **LARGE), seeds=3),
    "tail-224-augmented-three-seeds": Row(
        "ultrasound-tail-224, mean of six views and three seeds",
        _network(ULTRASOUND, **LARGE),
        augmented=True,
        seeds=3,
    ),
    "imagenet": Row("ImageNet weights, frozen alike, 224 px (`make weights` first)", _network(IMAGENET, **LARGE)),
    "random-split-head": Row(
        "ultrasound-head, plain random folds of all images", _network(ULTRASOUND, "levels"), dealt="random"
    ),
    "random-split-tail": Row("ultrasound-tail, plain random folds of all images", _network(ULTRASOUND), dealt="random"),
    "random-split-tail-224": Row(
        "ultrasound-tail-224, plain random folds of all images", _network(ULTRASOUND, **LARGE), dealt="random"
    ),
    "random-split-hog": Row("hog, plain random folds of all images", simple="hog", dealt="random"),
    "random-split-linear-random": Row(
        "linear-random, plain random folds of all images", simple="random", dealt="random"
    ),
    "random-split-linear-ultrasound": Row(
        "linear-ultrasound, plain random folds of all images", simple="ultrasound", dealt="random"
    ),
    "random-split-masks": Row(
        "ultrasound-head, the same folds with the mask files as images",
        _network(ULTRASOUND, "levels"),
        dealt="random, masks",
    ),
}


def main(
    rows: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(ROWS)}", show_default=False)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Folds at the same time")] = 2,
    against: Annotated[str, typer.Option(help="Row that the others are compared with, image by image")] = "hog",
) -> None:
    """Measure rows of the results' table on the data set in data/, and show the table."""
    refuse_unknown([*(rows or ()), against])
    data_set = read_dataset()["name"]
    for name in rows or ():
        row = ROWS[name]
        folds, found, worth = measure(row, changed(read_params(), row.changes), workers)
        measured = {"command": f"python -m benchmarks.results {name}", **worth}
        if row.dealt == "by group":
            record(folds, data_set)
        keep_calls(data_set, name, found)
        keep(REPORT, data_set, name, measured)
        print(f"{name}: accuracy {shown(measured['metrics']['accuracy'])}, {measured['minutes']} min", flush=True)
    above = compare(read_of(CALLED, data_set), read_of(FOLD_OF, data_set), against, read_params())
    print(f"{data_set}\n\n{table(read_report(REPORT).get(data_set, {}), above, against)}\n\n{DISCLAIMER}")


def refuse_unknown(names: list[str]) -> None:
    if unknown := [name for name in names if name not in ROWS]:
        raise StageError(f"no such row: {', '.join(unknown)}\n  there are {', '.join(ROWS)}")


def read_report(path: Path) -> dict:
    """data set -> row -> entry, empty without the file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(path: Path, data_set: str, name: str, entry: dict) -> None:
    """Put a row's entry into a report, read only now: another process may have measured other rows meanwhile."""
    report = read_report(path)
    report.setdefault(data_set, {})[name] = entry
    write_json(path, report)


def measure(row: Row, params: Params, workers: int) -> tuple[list[pd.DataFrame], pd.DataFrame, dict]:
    """A row's folds, its out-of-fold probabilities by path, and its entry in the report."""
    folds = deal(read_manifest(), row.dealt, params)
    found, took = simple(row, folds) if row.simple else trained(row, params, folds, workers)
    return folds, found, judge(row, params, folds, found) | took


def judge(row: Row, params: Params, folds: list[pd.DataFrame], found: pd.DataFrame) -> dict:
    """A row's entry in the report, but for its minutes: what its out-of-fold probabilities, by path, are worth."""
    images = folds[0].set_index("path").loc[found.index]
    metrics = evaluate(
        images["label"].map(CLASSES.index).to_numpy(),
        found.to_numpy(),
        images["duplicate_group"].to_numpy(),
        params.evaluate.bootstrap,
        params.evaluate.confidence,
        params.evaluate.seed,
    )
    malignant = metrics["per_class"]["malignant"]
    kept = {name: metrics[name] for name in ("accuracy", "macro_f1", "auroc_macro")}
    return {
        "metrics": kept | {f"malignant_{name}": malignant[name] for name in ("sensitivity", "specificity")},
        "what": row.what,
        "dealt": row.dealt,
        "params": params.of_training(),
        "seeds": {"split": params.split.seed, "train": params.train.seed, "trainings": row.seeds},
        "commit": commit(),
        "machine": machine(),
    }


def changed(params: Params, changes: dict[str, dict[str, object]]) -> Params:
    values = params.model_dump(by_alias=True)
    return Params.model_validate(values | {section: values[section] | new for section, new in changes.items()})


def deal(manifest: pd.DataFrame, dealt: str, params: Params) -> list[pd.DataFrame]:
    """The folds: one table each with path, label, duplicate_group and part, quarantine among the parts."""
    columns = ["path", "label", "duplicate_group", "part"]
    grouped = [fold.table[columns] for fold in make_folds(manifest, FOLDS, params.split.val, params.split.seed)]
    if dealt == "by group":
        return grouped
    images = grouped[0][columns[:-1]]
    if dealt == "random, masks":
        images = pd.concat([images, *map(masks_of, images.itertuples())], ignore_index=True)
        if not images["path"].str.contains("_mask").any():
            raise StageError(f"no masks in {DATA}/\n  the row random-split-masks needs a data set that has some")
    rng, folds = np.random.default_rng(params.split.seed), []
    held = StratifiedKFold(FOLDS, shuffle=True, random_state=params.split.seed)
    for rest, test in held.split(images, images["label"]):
        part = np.full(len(images), "train", dtype=object)
        part[test] = "test"
        part[rng.choice(rest, round(params.split.val * len(images)), replace=False)] = "val"
        folds.append(images.assign(part=part))
    return folds


def record(folds: list[pd.DataFrame], data_set: str) -> None:
    """Write down which fold tests which image; the folds of other data sets stay in the file."""
    tables = [fold.loc[fold["part"] == "test"].assign(data_set=data_set, fold=i) for i, fold in enumerate(folds)]
    replace(FOLD_OF, data_set, pd.concat(tables)[["data_set", "path", "label", "duplicate_group", "fold"]])


def keep_calls(data_set: str, name: str, found: pd.DataFrame) -> None:
    """Write down what a row called each image, by its out-of-fold probabilities; the calls of other rows stay."""
    calls = read_of(CALLED, data_set).set_index("path").drop(columns=[name, "data_set"], errors="ignore")
    calls = calls.join(found.idxmax(axis=1).rename(name), how="outer").rename_axis("path").reset_index()
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
        {row: metric}, without the rows that are not dealt by group; empty where `against` has not been measured.
    """
    table = images.merge(calls, on="path")
    names = [name for name, row in ROWS.items() if row.dealt == "by group" and name in table and all(table[name])]
    if against not in names:
        return {}
    right = {name: (table[name] == table["label"]).to_numpy() for name in names}
    groups, settings = table["duplicate_group"].to_numpy(), params.evaluate
    draws = groups, settings.bootstrap, settings.confidence, settings.seed
    return {name: accuracy_difference(right[name], right[against], *draws) for name in names if name != against}


def masks_of(image) -> pd.DataFrame:
    """The mask files of an image, as if they were images of its class."""
    found = sorted((DATA / image.path).parent.glob(f"{Path(image.path).stem}_mask*"))
    paths = [f.relative_to(DATA).as_posix() for f in found]
    return pd.DataFrame({"path": paths, "label": image.label, "duplicate_group": image.duplicate_group})


def simple(row: Row, folds: list[pd.DataFrame]) -> tuple[pd.DataFrame, dict]:
    """Out-of-fold probabilities of a method of `baselines`, by path, and its minutes."""
    start = time.process_time()
    kind, describe = baselines.METHODS[row.simple]
    clean = folds[0].loc[folds[0]["part"] != QUARANTINE, ["path", "label"]]
    labels = clean["label"].map(CLASSES.index).to_numpy()
    found = pd.DataFrame(0.0, index=clean["path"], columns=list(CLASSES))
    with threadpool_limits(1):  # as the networks: threads wait for one another in processor time, and add up otherwise
        described = describe([DATA / path for path in clean["path"]])
        for fold in folds:
            parts = clean["path"].map(fold.set_index("path")["part"]).to_numpy()
            found[parts == "test"] = baselines.fit_and_predict(kind, described, labels, parts)
    return found, {"minutes": _minutes(time.process_time() - start)}


def trained(row: Row, params: Params, folds: list[pd.DataFrame], workers: int) -> tuple[pd.DataFrame, dict]:
    """Out-of-fold probabilities of the network, by path, its minutes and its mean accuracy on the validation parts."""
    files, seconds = fit(row, params, folds, workers)
    validation = []
    for kept in files:
        with np.load(kept) as said:
            seconds += float(said["seconds"])
            validation.append(float(said["val_accuracy"]))
    measured = {"minutes": _minutes(seconds), "validation_accuracy": round(float(np.mean(validation)), 6)}
    return said_of(files, "test").droplevel("fold"), measured


def fit(row: Row, params: Params, folds: list[pd.DataFrame], workers: int) -> tuple[dict[Path, pd.DataFrame], float]:
    """Train what was not trained yet: the file that `train_fold` kept of each fold, and the features' seconds."""
    os.environ.update(THREADS)  # of the processes that train
    weights = [] if params.featurize.weights == "none" else [f"weights/{params.featurize.weights}"]
    if weights and not Path(weights[0]).is_file():
        raise StageError(f"{weights[0]} not found\n  `make weights` fetches the weights of ImageNet")
    sums = {name: sha256(Path(name)) for name in (*CODE, *weights, str(MANIFEST))}
    images = folds[0][["path", "label"]]
    features = KEPT / digest([sums, params.featurize.model_dump(), sorted(images["path"])])
    trainings = {}
    for seed in range(row.seeds):
        for number, fold in enumerate(folds):
            own = changed(params, {"train": {"seed": params.train.seed + seed * FOLDS + number}})
            kept = digest([sums, own.of_training(), fold.to_csv(), row.augmented, PARTS])
            trainings[KEPT / f"{kept}.npz"] = fold, own, row.augmented
    with process_pool(workers) as pool:
        try:
            if not (features / "seconds.json").is_file():
                pool.submit(featurize, images, params, features).result()
            missing = {kept: what for kept, what in trainings.items() if not kept.is_file()}
            for job in [pool.submit(train_fold, *what, features, kept) for kept, what in missing.items()]:
                print(f"  a fold of {row.what}, {job.result():.0f} s", flush=True)
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()  # a fold takes minutes and goes on from its last epoch
            raise
    seconds = json.loads((features / "seconds.json").read_text())
    return {kept: fold for kept, (fold, *_) in trainings.items()}, seconds


def said_of(files: dict[Path, pd.DataFrame], part: str) -> pd.DataFrame:
    """Probabilities of a part's images, of `PARTS`, by fold and path; the mean over the seeds of a fold."""
    tables = []
    for position, (kept, fold) in enumerate(files.items()):
        with np.load(kept) as said:
            table = pd.DataFrame(said[part], pd.Index(images_of(fold, part), name="path"), list(CLASSES))
        tables.append(table.assign(fold=position % FOLDS).set_index("fold", append=True).swaplevel())
    return pd.concat(tables).groupby(level=["fold", "path"]).mean()


def featurize(images: pd.DataFrame, params: Params, folder: Path) -> None:
    """Every view of every image through the frozen prefix, for all folds."""
    from busi.model.features import feature_rows, write_features
    from busi.model.network import cut, for_inference

    start = time.process_time()
    prefix, _ = cut(initial_model(params.featurize, dropout=0.0), params.featurize.boundary)
    rows = feature_rows(images.assign(part="train"), params.featurize.views)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "features.npy") as partial:
        write_features(for_inference(prefix), DATA, rows, params.featurize.seed, partial)
    write_json(folder / "seconds.json", time.process_time() - start)


def train_fold(fold: pd.DataFrame, params: Params, augmented: bool, features: Path, kept: Path) -> float:
    """Train on a fold as the stage train does, and keep what the model says of its test images.

    Returns:
        Its seconds of processor time.
    """
    from busi.backend import keras
    from busi.model.features import feature_rows, read_features
    from busi.model.network import cut, predict
    from busi.model.training import TrainingConfig, calibrate, train, training_set_from_rows

    keras.backend.clear_session()
    spent = kept.with_suffix(".seconds.json")  # by a training that was cut off after its last whole epoch
    start = time.process_time() - (json.loads(spent.read_text()) if spent.is_file() else 0)
    rows = feature_rows(fold[["path", "label"]].assign(part="train"), params.featurize.views)
    array = read_features(features / "features.npy", rows)
    rows["part"] = rows["path"].map(fold.set_index("path")["part"])
    rows = rows[(rows["view"] == 0) | (rows["part"] == "train")]
    examples = training_set_from_rows(array, rows)
    model = initial_model(params.featurize, params.train.dropout)
    _, tail = cut(model, params.featurize.boundary)
    recipe = TrainingConfig(**params.train.model_dump(exclude={"dropout"}))
    checkpoint = kept.with_suffix(".checkpoint.npz")
    history = train(
        tail, examples, recipe, checkpoint, kept.stem, lambda row: write_json(spent, time.process_time() - start)
    )

    def images(part: str) -> Iterator[np.ndarray]:
        for path in images_of(fold, part):
            pixels = prepare(read_image(DATA / path), params.featurize.image_size)
            yield np.stack(list(views_of(pixels))) if augmented else pixels[None]

    def says(part: str) -> np.ndarray:
        return np.stack([views.mean(axis=0) for views in predict(model, images(part))])

    said = {"val": says("val")}  # before the temperature, which these images choose
    calibrate(tail, examples, recipe.batch_size)
    said["test"] = says("test")
    best = history.loc[history["val_loss"].idxmin()]
    seconds = time.process_time() - start
    with atomic_write(kept) as partial, partial.open("wb") as file:
        np.savez(file, **said, val_accuracy=best["val_accuracy"], seconds=seconds)
    checkpoint.unlink()
    spent.unlink()
    return seconds


def images_of(fold: pd.DataFrame, part: str) -> list[str]:
    return sorted(fold.loc[fold["part"] == part, "path"])


def views_of(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The views of test-time augmentation, the image itself first: mirrored or not, at every zoom."""
    side = pixels.shape[0]
    for zoom in ZOOMS:
        edge = side * (1 - 1 / zoom) / 2
        window = (edge, edge, side - edge, side - edge)
        view = Image.fromarray(pixels).transform(
            (side, side), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR
        )
        yield np.asarray(view)
        yield np.asarray(view)[:, ::-1]


def table(measured: dict[str, dict], above: dict[str, dict], against: str) -> str:
    """Every row of `ROWS` as Markdown, those without a measurement with the command that fills them."""
    names = ("accuracy", "macro_f1", "malignant_sensitivity", "malignant_specificity", "auroc_macro")
    lines = []
    for name, row in ROWS.items():
        if name in measured:
            metrics = measured[name]["metrics"]
            values = [shown(metrics[metric]) for metric in names]
            gain = shown(above[name], "+") if name in above else "–"
            lines.append([name, row.what, *values, gain, metrics["accuracy"]["n"], measured[name]["minutes"]])
        else:
            lines.append([name, row.what, f"not measured: `make results ROW={name}`"])
    headers = ["row", "what", "accuracy", "macro F1", "malignant sensitivity", "specificity", "macro AUROC"]
    headers += [f"accuracy above {against} (paired)", "n", "min"]
    return tabulate(lines, headers=headers, tablefmt="github")


def shown(metric: dict, sign: str = "") -> str:
    value, low, high = (f"{metric[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def commit() -> str:
    """The commit, and whether what decides a result differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run(["git", "status", "--porcelain", *CODE, "params.yaml"], capture_output=True, check=False)
    return head.stdout.strip() + (" with changes" if changes.stdout else "")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _minutes(seconds: float) -> float:
    return round(seconds / 60, 1)


if __name__ == "__main__":
    with stage("results"):
        typer.run(main)
