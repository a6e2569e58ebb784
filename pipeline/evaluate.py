"""Stage `evaluate`: the assembled model on the raw test images, never on features -> metrics, figures, the report.

The malignant operating point is chosen on the validation images, and so is the distance from which on an image is none
that the model knows. A few test images are set aside with what the model says of them, for anyone to check that a copy
of it still says so.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from busi.calibration import temper
from busi.figures import confusion_figure, png, roc_figure, training_figure
from busi.images import prepare, read_image
from busi.layout import CLASSES, MALIGNANT
from busi.metrics import (
    accuracy_by_slice,
    confusion_matrix,
    detection,
    evaluate,
    operating_point,
    proportion,
    resamples_without_a_class,
    roc_curve,
)
from busi.novelty import Novelty, describe, fit
from busi.report import render
from busi.slices import slices_of
from pipeline.outputs import StageError, stage, whole_file, write_csv, write_json, write_text
from pipeline.params import Evaluate, read_params

DATA = Path("data")
MANIFEST = Path("artifacts/validate/manifest.csv")
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
NOVELTY = Path("artifacts/evaluate/novelty.npz")
SMOKE = Path("artifacts/evaluate/smoke")
METRICS = Path("reports/metrics.json")

BATCH = 32  # images in memory at once
SMOKE_IMAGES = 8
KNOWN_IMAGES = 1000  # of training, at most, that an image's distance is measured to


def main() -> None:
    params = read_params().evaluate

    require_inputs()
    run, validation, split = (json.loads(path.read_text()) for path in (RUN, VALIDATION_REPORT, SPLIT_REPORT))
    history = pd.read_csv(HISTORY)
    images = pd.read_csv(SPLIT, dtype=str, keep_default_na=False)
    test, validated, trained = (images_of(images, part) for part in ("test", "val", "train"))
    trained = trained.iloc[np.unique(np.linspace(0, len(trained) - 1, KNOWN_IMAGES).astype(int))]

    labels, groups = test["label"].map(CLASSES.index).to_numpy(), test["duplicate_group"].to_numpy()
    parts = [list(part["path"]) for part in (test, validated, trained)]
    (probabilities, described), (on_validation, validation_described), (_, training_described) = classify(
        parts, run["image_size"], params.seed
    )
    novelty = fit(training_described, validation_described, params.accepted_inputs)
    metrics = {
        **evaluate(labels, probabilities, groups, params.bootstrap, params.confidence, params.seed),
        "operating_point": malignant_detection(test, probabilities, validated, on_validation, params),
        "slices": sliced_accuracy(test, probabilities, params),
        "accepted_inputs": accepted_inputs(novelty, described, groups, params),
        "uncalibrated": uncalibrated(labels, probabilities, groups, run["temperature"], params),
    }
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
    with whole_file(NOVELTY) as partial:
        novelty.save(partial)
    set_aside(predictions)
    write_json(METRICS, metrics)
    announce(metrics)

    # Not at the top: the import takes seconds, and what this module computes needs no tracking.
    from pipeline import tracking

    with tracking.run(run["key"]) as tracked:
        tracked.log_evaluation(metrics, [PREDICTIONS, FIGURES, REPORT, SMOKE])


def require_inputs() -> None:
    """Raise a `StageError` that names what is missing and what makes it."""
    made_by = {RUN: "train", MODEL: "train", HISTORY: "train", SPLIT: "split", SPLIT_REPORT: "split"}
    made_by |= {VALIDATION_REPORT: "validate", MANIFEST: "validate"}
    for path, maker in made_by.items():
        if not path.is_file():
            raise StageError(f"{path} not found\n  run `dvc repro {maker}`, which makes it")


def images_of(split: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of a split's part: path, label, duplicate_group, sorted by path."""
    rows = split.loc[split["part"] == part, ["path", "label", "duplicate_group"]]
    return rows.sort_values("path", ignore_index=True)


def malignant_detection(
    test: pd.DataFrame,
    probabilities: np.ndarray,
    validated: pd.DataFrame,
    on_validation: np.ndarray,
    params: Evaluate,
) -> dict:
    """The operating point for malignant, chosen on validation, and what it gives on test."""
    malignant = CLASSES[MALIGNANT]
    sought, scores = (validated["label"] == malignant).to_numpy(), on_validation[:, MALIGNANT]
    threshold = operating_point(sought, scores, params.target_sensitivity)
    found = detection(
        (test["label"] == malignant).to_numpy(),
        probabilities[:, MALIGNANT] >= threshold,
        test["duplicate_group"].to_numpy(),
        params.bootstrap,
        params.confidence,
        params.seed,
    )
    return {
        "threshold": threshold,
        "target_sensitivity": params.target_sensitivity,
        "validation_sensitivity": round(float((scores[sought] >= threshold).mean()), 6),
        "validation_images": int(sought.sum()),
        **found,
    }


def sliced_accuracy(test: pd.DataFrame, probabilities: np.ndarray, params: Evaluate) -> dict:
    """Accuracy in the slices that the manifest allows."""
    manifest = pd.read_csv(MANIFEST).set_index("path").loc[test["path"]]
    right = np.take(CLASSES, probabilities.argmax(axis=1)) == test["label"].to_numpy()
    groups = test["duplicate_group"].to_numpy()
    return accuracy_by_slice(right, slices_of(manifest), groups, params.bootstrap, params.confidence, params.seed)


def uncalibrated(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, temperature: float, params: Evaluate
) -> dict:
    """What calibration is measured by, of the probabilities as they were without the temperature."""
    before = temper(probabilities, 1 / temperature)
    found = evaluate(labels, before, groups, params.bootstrap, params.confidence, params.seed)
    return {name: found[name] for name in ("expected_calibration_error", "brier_score")}


def accepted_inputs(novelty: Novelty, described: np.ndarray, groups: np.ndarray, params: Evaluate) -> dict:
    """The share of the test images that are not refused as unknown, and the threshold, chosen on validation."""
    accepted = novelty.distance(described) <= novelty.threshold
    found = proportion(accepted, groups, params.bootstrap, params.confidence, params.seed)
    return {**found, "threshold": round(novelty.threshold, 3)}


def set_aside(predictions: pd.DataFrame) -> None:
    """Copy some test images, spread over the classes, beside what the model says of them: `smoke.json`."""
    chosen = np.unique(np.linspace(0, len(predictions) - 1, SMOKE_IMAGES).astype(int))
    expected = []
    for row in predictions.iloc[chosen].to_dict(orient="records"):
        content = (DATA / row["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        with whole_file(SMOKE / f"{digest}.image") as partial:
            partial.write_bytes(content)
        expected.append({"path": row["path"], "sha256": digest} | {label: round(row[label], 6) for label in CLASSES})
    write_json(SMOKE / "smoke.json", expected)


def classify(parts: list[list[str]], size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the saved model says of images in `data/`, batch after batch, with progress.

    Returns:
        For each list of paths, probabilities float32 (n, 3) and what `novelty.describe` says, float32 (n, F).
    """
    # Not at the top: importing TensorFlow takes seconds, and what this module computes else needs none.
    from busi.model import load_model, seed_everything

    seed_everything(seed)
    model = load_model(MODEL)
    shapes = tuple(model.input_shape), tuple(model.output_shape)
    if shapes != ((None, size, size, 3), (None, len(CLASSES))):
        raise StageError(
            f"{MODEL} takes {shapes[0]} and gives {shapes[1]}; {RUN} says image_size {size} and there are "
            f"{len(CLASSES)} classes\n  the two are not of one training: run `dvc repro --force train`"
        )
    look = describe(model)

    def of(paths: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(paths), BATCH):
            batch = [prepare(read_image(DATA / path), size) for path in paths[start : start + BATCH]]
            yield look(np.stack(batch))
            progress.update(len(batch))

    with tqdm(total=sum(map(len, parts)), desc="evaluate", unit="image") as progress:
        return [tuple(np.concatenate(columns) for columns in zip(*of(paths), strict=True)) for paths in parts]


def announce(metrics: dict) -> None:
    """Print the metrics that the gate looks at, and where the report is."""
    rows = {"accuracy": metrics["accuracy"], "macro AUROC": metrics["auroc_macro"]}
    rows |= {f"{label} sensitivity": metrics["per_class"][label]["sensitivity"] for label in CLASSES}
    point = metrics["operating_point"]
    rows[f"malignant at p ≥ {point['threshold']:.2f}"] = point["sensitivity"]
    rows["calibration error"] = metrics["expected_calibration_error"]
    rows["accepted as known"] = metrics["accepted_inputs"]
    for name, metric in rows.items():
        print(f"{name:<22} {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}")
    print(f"report: {REPORT.as_posix()}")


if __name__ == "__main__":
    with stage("evaluate"):
        main()
