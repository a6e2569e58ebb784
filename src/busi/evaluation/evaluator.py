"""The evaluation of one model: everything that the stage `evaluate` writes, from the model's answers on raw images.

The operating point for malignant and the threshold for unknown input are chosen on the validation images; every figure
is measured on the test images.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from busi.data.layout import CLASSES, MALIGNANT
from busi.data.masks import lesion_masks
from busi.evaluation import shown_images
from busi.evaluation.localization import localize
from busi.evaluation.metrics import (
    accuracy_by_slice,
    calibration_errors,
    detection,
    evaluate,
    mean_of,
    operating_point,
    reliability,
)
from busi.evaluation.observer import Observer
from busi.evaluation.random_split_audit import audit_random_split
from busi.evaluation.records import Metric, Resampling, format_interval
from busi.evaluation.sampling import evenly_spaced
from busi.evaluation.slices import slices_of
from busi.model.calibration import apply_temperature
from busi.model.ood_detection import OodDetector, fit_detector


class EvaluationConfig(NamedTuple):
    """The numbers of an evaluation; `params.yaml` names and documents them under `evaluate`."""

    resampling: Resampling
    target_sensitivity: float
    max_threshold: float
    accepted_inputs: float
    known_images: int
    explained_images: int
    smoke_images: int


class DataSet(NamedTuple):
    """The images of an evaluation.

    `folder` holds the files. `manifest` (of `busi.data.manifest`) and `split` have a row an image. The columns of the
    split, all text, are path, label, duplicate_group and part.
    """

    folder: Path
    manifest: pd.DataFrame
    split: pd.DataFrame


class SmokeImage(NamedTuple):
    """A test image that a copy of the model can be tried on: the file's bytes and what the model answers."""

    content: bytes
    expected: dict  # path, sha256, and a probability a class, rounded to 6 digits


class Evaluation(NamedTuple):
    """What `evaluate_model` finds."""

    metrics: dict  # the content of reports/metrics.json, metrics as `records.Metric`
    predictions: pd.DataFrame  # a row a test image: path, label, duplicate_group, predicted, a probability a class
    heat_maps: dict[str, np.ndarray]  # of the images in `shown_images.choose`, by path, of their predicted class
    ood_detector: OodDetector
    plots: dict[str, pd.DataFrame]  # the points of the curves, by name
    smoke_images: list[SmokeImage]


def evaluate_model(
    observer: Observer,
    data: DataSet,
    temperature: float,
    config: EvaluationConfig,
    retrain: Callable[[pd.DataFrame], Observer] | None,
) -> Evaluation:
    """Evaluate a model on the test images of a split.

    Args:
        observer: the model's answers on the images of `data`.
        data: the images, and which of them are for what.
        temperature: what the model's calibration divided the logits by.
        config: the numbers of the evaluation.
        retrain: trains the same configuration on another split, for the audit by a random split; None leaves it out.

    Raises:
        ValueError: an image can't be read, or a class has no test image.
    """
    test, val, train = (_rows_of(data.split, part) for part in ("test", "val", "train"))
    of_test = data.manifest.set_index("path").loc[test["path"]].reset_index()
    labels, groups = test["label"].map(CLASSES.index).to_numpy(), test["duplicate_group"].to_numpy()
    resampling = config.resampling

    probabilities, ood_features = observer.classify(test["path"].tolist())
    val_probabilities, val_ood_features = observer.classify(val["path"].tolist(), "operating point")
    known = train.iloc[evenly_spaced(np.arange(len(train)), config.known_images)]
    known_ood_features = observer.ood_features(known["path"].tolist())
    ood_detector = fit_detector(known_ood_features, val_ood_features, config.accepted_inputs)
    uncalibrated = apply_temperature(probabilities, 1 / temperature)
    predicted = np.take(CLASSES, probabilities.argmax(axis=1))
    predictions = test.assign(predicted=predicted, **dict(zip(CLASSES, probabilities.T, strict=True)))
    accepted = mean_of(ood_detector.distance(ood_features) <= ood_detector.threshold, groups, resampling)
    metrics = {
        **evaluate(labels, probabilities, groups, resampling),
        "operating_point": malignant_detection(test, probabilities, val, val_probabilities, config),
        "slices": accuracy_by_slice(predicted == test["label"].to_numpy(), slices_of(of_test), groups, resampling),
        "accepted_inputs": {**accepted._asdict(), "threshold": round(ood_detector.threshold, 3)},
        "uncalibrated": calibration_errors(labels, uncalibrated, groups, resampling),
        **localize(
            observer,
            test,
            of_test["lesion_fraction"].to_numpy(),
            lesion_masks(data.folder, data.manifest),
            config.explained_images,
            resampling,
        ),
    }
    if retrain:
        metrics["random_split_audit"] = audit_random_split(data.split, retrain, resampling.seed, resampling.confidence)
    bins = {"before": reliability(labels, uncalibrated), "after": reliability(labels, probabilities)}
    return Evaluation(
        metrics,
        predictions,
        heat_maps_of_shown(observer, predictions),
        ood_detector,
        curves(predictions, labels, probabilities) | {f"reliability_{name}": table for name, table in bins.items()},
        smoke_images(predictions, data.folder, config.smoke_images),
    )


def malignant_detection(
    test: pd.DataFrame,
    probabilities: np.ndarray,
    val: pd.DataFrame,
    val_probabilities: np.ndarray,
    config: EvaluationConfig,
) -> dict[str, float | int | Metric]:
    """The operating point for malignant, chosen on the validation images, and what it gives on the test images."""
    malignant = CLASSES[MALIGNANT]
    positive, scores = (val["label"] == malignant).to_numpy(), val_probabilities[:, MALIGNANT]
    threshold = operating_point(positive, scores, config.target_sensitivity, config.max_threshold)
    found = detection(
        (test["label"] == malignant).to_numpy(),
        probabilities[:, MALIGNANT] >= threshold,
        test["duplicate_group"].to_numpy(),
        config.resampling,
    )
    return {
        "threshold": threshold,
        "target_sensitivity": config.target_sensitivity,
        "validation_sensitivity": round(float((scores[positive] >= threshold).mean()), 6),
        "validation_images": int(positive.sum()),
        **found,
    }


def heat_maps_of_shown(observer: Observer, predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """HiResCAM of the predicted class of the images that a report shows, by path, float32 (h, w) in 0-1."""
    chosen = shown_images.choose(predictions)
    rows = predictions.iloc[[place for places in chosen.values() for place in places]]
    maps = observer.heat_maps(rows["path"].tolist(), rows["predicted"].tolist())
    return dict(zip(rows["path"], maps, strict=True))


def curves(predictions: pd.DataFrame, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, pd.DataFrame]:
    """The confusion pairs, and ROC and precision-recall curves of each class against the others, for `dvc plots`."""
    tables = {"confusion": predictions[["label", "predicted"]].rename(columns={"label": "actual"})}
    for index, label in enumerate(CLASSES):
        positive, scores = labels == index, probabilities[:, index]
        fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
        tables[f"roc_{label}"] = pd.DataFrame({"fpr": fpr, "tpr": tpr})
        precision, recall, _ = precision_recall_curve(positive, scores)
        tables[f"pr_{label}"] = pd.DataFrame({"recall": recall, "precision": precision})
    return tables


def smoke_images(predictions: pd.DataFrame, folder: Path, count: int) -> list[SmokeImage]:
    """At most `count` test images, evenly spaced over the sorted paths and so over the classes."""
    found = []
    for row in predictions.iloc[evenly_spaced(np.arange(len(predictions)), count)].to_dict(orient="records"):
        content = (folder / row["path"]).read_bytes()
        answer = {label: round(row[label], 6) for label in CLASSES}
        expected = {"path": row["path"], "sha256": hashlib.sha256(content).hexdigest(), **answer}
        found.append(SmokeImage(content, expected))
    return found


def headline(metrics: Mapping) -> dict[str, float]:
    """The few figures that decide, rounded to 4 places; short enough for one line of a terminal.

    `sens` is the sensitivity for malignant at the operating point.
    """
    accuracy = metrics["accuracy"]
    found = {
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "auroc": metrics["auroc_macro"].value,
        "sens": metrics["operating_point"]["sensitivity"].value,
    }
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def summary(metrics: Mapping) -> list[str]:
    """The metrics that the gate looks at and a few more, a line each."""
    point = metrics["operating_point"]
    rows = {"accuracy": metrics["accuracy"], "macro AUROC": metrics["auroc_macro"]}
    rows |= {f"{label} sensitivity": metrics["per_class"][label]["sensitivity"] for label in CLASSES}
    rows[f"malignant at p ≥ {point['threshold']:.2f}"] = point["sensitivity"]
    rows["calibration error"] = metrics["expected_calibration_error"]
    rows["accepted as known"] = Metric.from_json(metrics["accepted_inputs"])
    if "pointing_game" in metrics:
        rows["points at the lesion"] = Metric.from_json(metrics["pointing_game"])
    if "random_split_audit" in metrics:
        rows["random split's claim"] = metrics["random_split_audit"]["accuracy"]
    return [f"{name:<22} {format_interval(metric)}, n = {metric.n}" for name, metric in rows.items()]


def _rows_of(split: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of a split's part, path, label and duplicate_group, sorted by path."""
    rows = split.loc[split["part"] == part, ["path", "label", "duplicate_group"]]
    return rows.sort_values("path", ignore_index=True)
