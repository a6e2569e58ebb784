"""Figures of an evaluation, for the report and the MLflow run: drawn without a display, the same bytes every time.

Colours are Okabe and Ito's, which colour-blind readers can tell apart (Wong 2011, Nat. Methods 8:441); lines differ
in dash as well. Every figure says over how many images or epochs it is.
"""

import contextlib
import io
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from busi.data.layout import CLASSES, MALIGNANT
from busi.evaluation.records import Metric

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
CLASS_STYLES = {"benign": (BLUE, "-"), "malignant": (ORANGE, "--"), "normal": (GREEN, "-.")}

_STYLE = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "savefig.dpi": 180,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextlib.contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib's defaults and ours: a user's matplotlibrc must not change what is declared an output."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@_own_style()
def png(figure: Figure) -> bytes:
    """Encode a figure; no date, version or other trace of the machine is written into it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


@_own_style()
def confusion_figure(confusion: np.ndarray) -> Figure:
    """Counts (3, 3), row the true class, with the share of its row in each cell; the shade is that share."""
    figure, axes = _figure(3.6, 3.6)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            axes.text(
                column,
                row,
                f"{confusion[row, column]}\n{shares[row, column]:.0%}",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.55 else "black",
            )
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(
        range(len(CLASSES)), [f"{label}\nn = {n}" for label, n in zip(CLASSES, confusion.sum(axis=1), strict=True)]
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"Confusion matrix, {confusion.sum()} test images")
    axes.spines[:].set_visible(False)
    return figure


@_own_style()
def roc_figure(labels: np.ndarray, probabilities: np.ndarray, point: dict[str, Metric] | None = None) -> Figure:
    """One-against-rest ROC curves.

    Args:
        labels: (n,) indices of classes, all present.
        probabilities: (n, 3).
        point: the malignant operating point, with the metrics `sensitivity` and `specificity`, to mark on its curve.
    """
    figure, axes = _figure(3.6, 3.6)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="chance")
    for index, label in enumerate(CLASSES):
        positive, scores = labels == index, probabilities[:, index]
        color, dash = CLASS_STYLES[label]
        legend = f"{label} (AUC {roc_auc_score(positive, scores):.3f}, n = {positive.sum()})"
        fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
        axes.plot(fpr, tpr, color=color, linestyle=dash, linewidth=1.8, label=legend)
    if point:
        _mark(axes, 1 - point["specificity"].value, point["sensitivity"].value)
    axes.set_xlabel("false positive rate (1 \N{MINUS SIGN} specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.set_title(f"ROC, {len(labels)} test images")
    _unit_square(axes)
    axes.legend(loc="lower right")
    return figure


@_own_style()
def precision_recall_figure(
    labels: np.ndarray, probabilities: np.ndarray, point: dict[str, Metric] | None = None
) -> Figure:
    """One-against-rest precision-recall curves, and the share of each class, which is what chance would reach.

    Args:
        labels, probabilities: as for `roc_figure`.
        point: the same, with the metrics `sensitivity` and `ppv`.
    """
    figure, axes = _figure(3.6, 3.6)
    for index, label in enumerate(CLASSES):
        positive, scores = labels == index, probabilities[:, index]
        color, dash = CLASS_STYLES[label]
        precision, recall, _ = precision_recall_curve(positive, scores)
        legend = f"{label} (AP {average_precision_score(positive, scores):.3f}, n = {positive.sum()})"
        axes.step(recall, precision, where="post", color=color, linestyle=dash, linewidth=1.8, label=legend)
        axes.axhline(positive.mean(), color=color, linewidth=1, linestyle=":")
    axes.plot([], [], color=GRAY, linewidth=1, linestyle=":", label="chance")
    if point and point["ppv"].n:
        _mark(axes, point["sensitivity"].value, point["ppv"].value)
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (positive predictive value)")
    axes.set_title(f"Precision and recall, {len(labels)} test images")
    _unit_square(axes)
    axes.legend(loc="lower left")
    return figure


@_own_style()
def reliability_figure(before: pd.DataFrame, after: pd.DataFrame, errors: dict[str, tuple[Metric, Metric]]) -> Figure:
    """Reliability diagrams before and after calibration, each over the number of images in its bins.

    Args:
        before, after: as `metrics.reliability` gives them.
        errors: "before" and "after": expected calibration error and Brier score.
    """
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
    for column, (name, table, color) in enumerate((("before", before, ORANGE), ("after", after, BLUE))):
        curve, counts = panels[:, column]
        curve.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="perfectly calibrated")
        # As large as the bin is full, so that a lone image far off does not look like evidence
        curve.plot(table["sure"], table["right"], color=color, linewidth=1.2)
        curve.scatter(table["sure"], table["right"], s=14 + 160 * table["n"] / table["n"].sum(), color=color, zorder=3)
        error, brier = errors[name]
        curve.set_title(f"{name} calibration: ECE {error.value:.3f}, Brier {brier.value:.3f}")
        curve.set_xlim(0, 1.02)
        curve.set_ylim(-0.03, 1.03)
        counts.bar(table["low"], table["n"], width=table["high"] - table["low"], align="edge", color=color, alpha=0.75)
        for middle, n in zip((table["low"] + table["high"]) / 2, table["n"], strict=True):
            counts.annotate(f"{n}", (middle, n), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        counts.set_xlabel(f"largest probability, {table['n'].sum()} test images")
        counts.margins(y=0.25)
    figure.get_layout_engine().set(wspace=0.06)
    panels[0, 0].set_ylabel("share that is right")
    panels[1, 0].set_ylabel("images")
    panels[0, 0].legend(loc="upper left")
    return figure


@_own_style()
def slices_figure(slices: dict[str, dict[str, Metric]], accuracy: Metric, few: int) -> Figure:
    """Accuracy and interval of each slice, and of all images as a line; fewer than `few` images are drawn hollow.

    Args:
        slices: title of a slicing to name of a slice to its metric, drawn from top to bottom.
        accuracy: of all images.
        few: a smaller slice says too little.
    """
    rows = [(slicing, name, metric) for slicing, parts in slices.items() for name, metric in parts.items()]
    places, place = [], 0.0
    for index, (slicing, _, _) in enumerate(rows):
        place += 1.0 if index and slicing == rows[index - 1][0] else 1.6
        places.append(place)
    figure, axes = _figure(6.4, 1.1 + 0.25 * (place + 1))
    axes.axvspan(accuracy.low, accuracy.high, color=BLUE, alpha=0.10, linewidth=0)
    axes.axvline(accuracy.value, color=BLUE, linewidth=1, linestyle="--")
    for where, (_, _, metric) in zip(places, rows, strict=True):
        is_few = metric.n < few
        color = GRAY if is_few else "black"
        axes.plot([metric.low, metric.high], [where, where], color=color, linewidth=1.4)
        axes.plot(metric.value, where, "o", color=color, markersize=6, fillstyle="none" if is_few else "full")
        note = f"n = {metric.n}" + (", too few to say" if is_few else "")
        axes.annotate(
            note, (1, where), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=8, color=color,
        )  # fmt: skip
    axes.set_yticks(places, [f"{slicing}: {name}" for slicing, name, _ in rows])
    axes.set_ylim(place + 0.9, 0.7)
    lowest = min(metric.low for metric in (accuracy, *(metric for _, _, metric in rows)))
    axes.set_xlim(max(0, np.floor(10 * lowest) / 10) - 0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy, with interval")
    axes.set_title(f"Accuracy by slice, dashed: all {accuracy.n} test images")
    return figure


@_own_style()
def training_figure(history: pd.DataFrame) -> Figure:
    """Loss and accuracy an epoch.

    Args:
        history: columns epoch, phase, loss, accuracy, val_loss, val_accuracy; a dotted line marks each epoch at which
            the phase changes, and a circle the lowest validation loss, whose weights were kept. It may have no rows:
            a model that was not trained.
    """
    figure, panels = _figure(8.2, 3.4, columns=2)
    best = history.nsmallest(1, "val_loss")
    for axes, name, title in zip(panels, ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True):
        axes.plot(history["epoch"], history[name], color=BLUE, marker=".", linewidth=1.6, label="training")
        axes.plot(
            history["epoch"], history[f"val_{name}"], color=ORANGE, marker=".", linestyle="--", linewidth=1.6,
            label="validation",
        )  # fmt: skip
        for epoch, value in zip(best["epoch"], best[f"val_{name}"], strict=True):
            axes.plot(
                epoch, value, "o", color=ORANGE, fillstyle="none", markersize=9, label=f"kept: epoch {epoch}"
            )  # fmt: skip
        for row in np.flatnonzero(history["phase"].to_numpy()[1:] != history["phase"].to_numpy()[:-1]):
            axes.axvline(history["epoch"].iloc[row : row + 2].mean(), color=GRAY, linestyle=":", linewidth=1)
        axes.set_xlabel("epoch")
        axes.set_ylabel(title.lower())
        axes.set_title(f"{title}, {len(history)} epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_ylim(0, 1.03)
    panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].legend()
    return figure


def _mark(axes: Axes, x: float, y: float) -> None:
    """The operating point, on the curve of its class."""
    color, _ = CLASS_STYLES[CLASSES[MALIGNANT]]
    axes.plot(
        x, y, "D", color="white", markeredgecolor=color, markeredgewidth=2, markersize=8, zorder=4, clip_on=False,
        label="malignant operating point",
    )  # fmt: skip


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Axes | np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)
