"""Stage `evaluate`: the assembled model on the raw test images, never on features -> metrics, figures, the report."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from busi.figures import confusion_figure, png, roc_figure, training_figure
from busi.images import prepare, read_image
from busi.layout import CLASSES
from busi.metrics import confusion_matrix, evaluate, resamples_without_a_class, roc_curve
from busi.report import render
from pipeline.outputs import StageError, stage, whole_file, write_csv, write_json, write_text
from pipeline.params import read_params

DATA = Path("data")
SPLIT = Path("artifacts/split/split.csv")
MODEL = Path("artifacts/train/model.keras")
HISTORY = Path("artifacts/train/history.csv")
RUN = Path("artifacts/train/run.json")
VALIDATION_REPORT = Path("reports/validation.json")
SPLIT_REPORT = Path("reports/split.json")

PREDICTIONS = Path("artifacts/evaluate/predictions.csv")
FIGURES = Path("artifacts/evaluate/figures")
PLOTS = Path("artifacts/evaluate/plots")
REPORT = Path("artifacts/evaluate/report.html")
METRICS = Path("reports/metrics.json")

BATCH = 32  # images in memory at once


def main() -> None:
    params = read_params().evaluate

    require_inputs()
    run, validation, split = (json.loads(path.read_text()) for path in (RUN, VALIDATION_REPORT, SPLIT_REPORT))
    history = pd.read_csv(HISTORY)
    test = tested_images(pd.read_csv(SPLIT, dtype=str, keep_default_na=False))

    labels, groups = test["label"].map(CLASSES.index).to_numpy(), test["duplicate_group"].to_numpy()
    probabilities = classify(test["path"].tolist(), run["image_size"], params.seed)
    metrics = evaluate(labels, probabilities, groups, params.bootstrap, params.confidence, params.seed)
    predicted = probabilities.argmax(axis=1)
    predictions = test.assign(predicted=np.take(CLASSES, predicted), **dict(zip(CLASSES, probabilities.T, strict=True)))
    figures = {
        "confusion": png(confusion_figure(confusion_matrix(labels, predicted))),
        "roc": png(roc_figure(labels, probabilities)),
        "training": png(training_figure(history)),
    }
    intervals = {
        "confidence": params.confidence,
        "bootstrap": params.bootstrap,
        "groups": len(np.unique(groups)),
        "without_a_class": resamples_without_a_class(labels, groups, params.bootstrap, params.seed),
    }
    report = render(metrics, intervals, predictions, figures, validation, split)

    write_csv(PREDICTIONS, predictions)
    write_csv(PLOTS / "confusion.csv", predictions[["label", "predicted"]].rename(columns={"label": "actual"}))
    for index, label in enumerate(CLASSES):
        fpr, tpr = roc_curve(labels == index, probabilities[:, index])
        write_csv(PLOTS / f"roc_{label}.csv", pd.DataFrame({"fpr": fpr, "tpr": tpr}))
    for name, content in figures.items():
        with whole_file(FIGURES / f"{name}.png") as partial:
            partial.write_bytes(content)
    write_text(REPORT, report)
    write_json(METRICS, metrics)
    describe(metrics)

    # Not at the top: the import takes seconds, and what this module computes needs no tracking.
    from pipeline import tracking

    with tracking.run(run["key"]) as tracked:
        tracked.log_evaluation(metrics, [PREDICTIONS, FIGURES, REPORT])


def require_inputs() -> None:
    """Raise a `StageError` that names what is missing and what makes it."""
    made_by = {RUN: "train", MODEL: "train", HISTORY: "train", SPLIT: "split", SPLIT_REPORT: "split"}
    made_by[VALIDATION_REPORT] = "validate"
    for path, maker in made_by.items():
        if not path.is_file():
            raise StageError(f"{path} not found\n  run `dvc repro {maker}`, which makes it")


def tested_images(split: pd.DataFrame) -> pd.DataFrame:
    """The test rows of a split: path, label, duplicate_group, sorted by path."""
    test = split.loc[split["part"] == "test", ["path", "label", "duplicate_group"]]
    return test.sort_values("path", ignore_index=True)


def classify(paths: list[str], size: int, seed: int) -> np.ndarray:
    """The saved model's probabilities, float32 (n, 3), of images in `data/`, batch after batch, with progress."""
    # Not at the top: importing TensorFlow takes seconds, and what this module computes else needs none.
    from busi.model import load_model, predict, seed_everything

    seed_everything(seed)
    model = load_model(MODEL)
    shapes = tuple(model.input_shape), tuple(model.output_shape)
    if shapes != ((None, size, size, 3), (None, len(CLASSES))):
        raise StageError(
            f"{MODEL} takes {shapes[0]} and gives {shapes[1]}; {RUN} says image_size {size} and there are "
            f"{len(CLASSES)} classes\n  the two are not of one training: run `dvc repro --force train`"
        )

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(paths), BATCH):
            batch = [prepare(read_image(DATA / path), size) for path in paths[start : start + BATCH]]
            yield np.stack(batch)
            progress.update(len(batch))

    with tqdm(total=len(paths), desc="evaluate", unit="image") as progress:
        return np.concatenate(list(predict(model, batches())))


def describe(metrics: dict) -> None:
    """Print the metrics that the gate looks at, and where the report is."""
    rows = {"accuracy": metrics["accuracy"], "macro AUROC": metrics["auroc_macro"]}
    rows |= {f"{label} sensitivity": metrics["per_class"][label]["sensitivity"] for label in CLASSES}
    for name, metric in rows.items():
        print(f"{name:<22} {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}")
    print(f"report: {REPORT.as_posix()}")


if __name__ == "__main__":
    with stage("evaluate"):
        main()
