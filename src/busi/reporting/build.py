"""Everything that the stage `report` writes: the gate's decision, the figures, and the page that shows both."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from busi.data.images import read_image, to_gray
from busi.data.layout import CLASSES
from busi.data.masks import lesion_masks
from busi.evaluation import gate
from busi.evaluation.metrics import CALIBRATION
from busi.evaluation.records import Metric, Resampling
from busi.evaluation.resampling import resamples_without_a_class
from busi.evaluation.slices import ranges_of
from busi.reporting import figures, gallery
from busi.reporting.report import Content, render, titled


class Findings(NamedTuple):
    """What the stages before have found: tables and the content of JSON files."""

    metrics: dict
    predictions: pd.DataFrame  # a row a test image: path, label, duplicate_group, predicted, a probability a class
    heat_maps: dict[str, np.ndarray]
    reliability: dict[str, pd.DataFrame]  # "before" and "after" calibration, as `metrics.reliability` gives them
    history: pd.DataFrame
    manifest: pd.DataFrame
    validation: dict
    split: dict


class GateConfig(NamedTuple):
    """`register.gate` of the parameters, and the fewest images of a slice that decides."""

    thresholds: gate.Thresholds
    slice_images: int


class Report(NamedTuple):
    """What `build_report` makes."""

    decision: gate.Decision
    figures: dict[str, bytes]  # PNG files by name
    html: str


def build_report(
    found: Findings,
    folder: Path,
    rules: GateConfig,
    resampling: Resampling,
    parameters: dict[str, dict],
    lineage: Mapping[str, object],
) -> Report:
    """Decide, draw and write the page. Runs no network.

    Args:
        found: of one evaluation.
        folder: the data set; only the images that the gallery shows are read.
        rules: what the gate holds the metrics to.
        resampling: how the intervals of the metrics were made.
        parameters, lineage: as in `report.Content`.

    Raises:
        ValueError: the findings are not of one evaluation, or a rule's metric is missing.
    """
    predictions = found.predictions
    of_test = found.manifest.set_index("path").loc[predictions["path"]]
    decision = gate.decide(found.metrics, rules.thresholds, rules.slice_images)
    drawn = draw_all(found, rules.slice_images)
    lesion_of = lesion_masks(folder, found.manifest)

    def read_gray(path: str) -> np.ndarray:
        return to_gray(read_image(folder / path))

    def shown_lesion(path: str) -> np.ndarray | None:
        return lesion_of(path) if of_test.loc[path, "lesion_fraction"] > 0 else None

    content = Content(
        metrics=found.metrics,
        decision=decision,
        slice_images=rules.slice_images,
        intervals=_intervals(predictions, resampling),
        predictions=predictions,
        figures=drawn,
        gallery=gallery.entries(predictions, found.heat_maps, read_gray, shown_lesion),
        slice_ranges=ranges_of(of_test),
        validation=found.validation,
        split=found.split,
        parameters=parameters,
        lineage=lineage,
    )
    return Report(decision, drawn, render(content))


def draw_all(found: Findings, slice_images: int) -> dict[str, bytes]:
    """Every figure as a PNG file, by name."""
    metrics, predictions = found.metrics, found.predictions
    labels = predictions["label"].map(CLASSES.index).to_numpy()
    probabilities = predictions[list(CLASSES)].to_numpy()
    names = ("sensitivity", "specificity", "ppv")
    point = {name: Metric.from_json(metrics["operating_point"][name]) for name in names}
    errors = {
        "before": tuple(Metric.from_json(metrics["uncalibrated"][name]) for name in CALIBRATION),
        "after": tuple(Metric.from_json(metrics[name]) for name in CALIBRATION),
    }
    slices = {
        title: {name: Metric.from_json(metric) for name, metric in parts.items()}
        for title, parts in titled(metrics["slices"]).items()
    }
    drawn = {
        "confusion": figures.confusion_figure(
            confusion_matrix(predictions["label"], predictions["predicted"], labels=CLASSES)
        ),
        "roc": figures.roc_figure(labels, probabilities, point),
        "precision_recall": figures.precision_recall_figure(labels, probabilities, point),
        "reliability": figures.reliability_figure(found.reliability["before"], found.reliability["after"], errors),
        "slices": figures.slices_figure(slices, Metric.from_json(metrics["accuracy"]), slice_images),
        "training": figures.training_figure(found.history),
    }
    return {name: figures.png(figure) for name, figure in drawn.items()}


def _intervals(predictions: pd.DataFrame, resampling: Resampling) -> dict:
    labels, groups = predictions["label"].map(CLASSES.index).to_numpy(), predictions["duplicate_group"].to_numpy()
    return {
        "confidence": resampling.confidence,
        "bootstrap": resampling.bootstrap,
        "groups": len(np.unique(groups)),
        "without_a_class": resamples_without_a_class(labels, groups, len(CLASSES), resampling),
    }
