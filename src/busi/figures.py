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

from busi.layout import CLASSES
from busi.metrics import auroc, roc_curve

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
CLASS_STYLES = {"benign": (BLUE, "-"), "malignant": (ORANGE, "--"), "normal": (GREEN, "-.")}

_STYLE = {
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 160,
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
    figure, axes = _figure(4.6, 4.3)
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
def roc_figure(labels: np.ndarray, probabilities: np.ndarray) -> Figure:
    """One-against-rest ROC curves. `labels` (n,) indices of classes, all present; `probabilities` (n, 3)."""
    figure, axes = _figure(4.6, 4.3)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle=":", label="chance")
    for index, label in enumerate(CLASSES):
        positive, scores = labels == index, probabilities[:, index]
        color, dash = CLASS_STYLES[label]
        legend = f"{label} (AUC {auroc(positive, scores):.3f}, n = {positive.sum()})"
        axes.plot(*roc_curve(positive, scores), color=color, linestyle=dash, linewidth=1.8, label=legend)
    axes.set_xlabel("false positive rate (1 \N{MINUS SIGN} specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.set_title(f"ROC, one class against the rest, {len(labels)} test images")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
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


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Axes | np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)
