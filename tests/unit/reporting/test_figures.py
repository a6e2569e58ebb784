"""Figures show what they are given, the same bytes every time, and nothing of the machine."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from busi.data.layout import CLASSES
from busi.evaluation.metrics import reliability
from busi.evaluation.records import Metric
from busi.reporting.figures import (
    CLASS_STYLES,
    confusion_figure,
    png,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
    slices_figure,
    training_figure,
)

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3, 4, 5],
        "phase": ["head", "head", "tail", "tail", "tail"],
        "loss": [1.0, 0.9, 0.7, 0.6, 0.5],
        "accuracy": [0.5, 0.6, 0.7, 0.8, 0.9],
        "val_loss": [1.1, 1.0, 0.9, 0.8, 0.85],
        "val_accuracy": [0.4, 0.5, 0.6, 0.7, 0.65],
        "learning_rate": [1e-3] * 5,
    }
)
CONFUSION = np.array([[60, 4, 1], [5, 24, 0], [0, 2, 18]])


def scores() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 15, 10])
    raw = np.exp(rng.normal(size=(55, 3)) + np.eye(3)[labels])
    return labels, raw / raw.sum(axis=1, keepdims=True)


def metric(value: float, n: int = 55) -> Metric:
    return Metric(value, value - 0.1, min(1, value + 0.1), n)


POINT = {"sensitivity": metric(0.8), "specificity": metric(0.7), "ppv": metric(0.6)}
SLICES = {"class": {"benign": metric(0.9, 30), "malignant": metric(0.7, 15)}, "marks": {"clean": metric(0.75, 20)}}


def draw_reliability():
    labels, probabilities = scores()
    table = reliability(labels, probabilities)
    return reliability_figure(table, table, {"before": (metric(0.2), metric(0.4)), "after": (metric(0.1), metric(0.3))})


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion_figure(CONFUSION),
        lambda: roc_figure(*scores(), POINT),
        lambda: precision_recall_figure(*scores(), POINT),
        draw_reliability,
        lambda: slices_figure(SLICES, metric(0.8), 20),
        lambda: training_figure(HISTORY),
    ],
    ids=["confusion", "roc", "precision_recall", "reliability", "slices", "training"],
)
def test_a_figure_is_a_png_without_metadata_and_the_same_every_time(draw):
    first = png(draw())
    assert first == png(draw())
    image = Image.open(io.BytesIO(first))
    assert image.format == "PNG" and min(image.size) > 400
    assert set(image.info) <= {"dpi"}
    assert np.asarray(image.convert("L")).std() > 5


def test_confusion_figure_shows_counts_shares_and_n():
    axes = confusion_figure(CONFUSION).axes[0]
    cells = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert cells[0, 0] == "60\n92%" and cells[0, 1] == "4\n6%" and cells[2, 1] == "2\n10%"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "benign\nn = 65", "malignant\nn = 29", "normal\nn = 20",
    ]  # fmt: skip
    assert "114 test images" in axes.get_title()
    assert axes.get_xlabel() == "predicted class" and axes.get_ylabel() == "true class"


def test_confusion_figure_takes_a_class_without_images():
    cells = [text.get_text() for text in confusion_figure(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]])).axes[0].texts]
    assert cells[-1] == "0\n0%"


def test_roc_figure_has_a_curve_and_the_area_of_each_class():
    labels, probabilities = scores()
    axes = roc_figure(labels, probabilities).axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    for index, label in enumerate(CLASSES):
        area = roc_auc_score(labels == index, probabilities[:, index])
        assert f"{label} (AUC {area:.3f}, n = {(labels == index).sum()})" in legend
    assert len({dash for _, dash in CLASS_STYLES.values()}) == len(CLASSES)
    assert "55 test images" in axes.get_title()


def test_the_operating_point_is_marked_on_both_curves():
    diamond = {"malignant operating point"}
    for figure, where in ((roc_figure, (0.3, 0.8)), (precision_recall_figure, (0.8, 0.6))):
        axes = figure(*scores(), POINT).axes[0]
        [marked] = [line for line in axes.lines if line.get_label() in diamond]
        assert (marked.get_xdata()[0], marked.get_ydata()[0]) == pytest.approx(where)
        assert axes.get_xlabel() and axes.get_ylabel()
    nobody = POINT | {"ppv": Metric(0, 0, 0, 0)}
    legend = precision_recall_figure(*scores(), nobody).axes[0].get_legend()
    assert not diamond & {text.get_text() for text in legend.get_texts()}


def test_precision_recall_figure_has_the_average_precision_and_the_share_of_each_class():
    labels, probabilities = scores()
    axes = precision_recall_figure(labels, probabilities).axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    for index, label in enumerate(CLASSES):
        average = average_precision_score(labels == index, probabilities[:, index])
        assert f"{label} (AP {average:.3f}, n = {(labels == index).sum()})" in legend
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert levels == pytest.approx([30 / 55, 15 / 55, 10 / 55])


def test_reliability_figure_shows_every_bin_with_its_number_of_images():
    table = reliability(*scores())
    before, after, counts, _ = draw_reliability().axes
    assert "ECE 0.200, Brier 0.400" in before.get_title() and "ECE 0.100, Brier 0.300" in after.get_title()
    assert list(before.lines[1].get_xdata()) == table["sure"].tolist()
    assert list(before.lines[1].get_ydata()) == table["right"].tolist()
    assert [bar.get_height() for bar in counts.patches] == table["n"].tolist()
    assert [text.get_text() for text in counts.texts] == [str(n) for n in table["n"]]
    assert "55 test images" in counts.get_xlabel()


def test_slices_figure_draws_a_small_slice_hollow_and_says_so():
    axes = slices_figure(SLICES, metric(0.8), 20).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["class: benign", "class: malignant", "marks: clean"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [0.9, 0.7, 0.75]
    assert [dot.get_fillstyle() for dot in dots] == ["full", "none", "full"]
    assert [text.get_text() for text in axes.texts] == ["n = 30", "n = 15, too few to say", "n = 20"]


def test_training_figure_marks_the_kept_epoch_and_the_change_of_phase():
    loss, accuracy = training_figure(HISTORY).axes
    assert "kept: epoch 4" in [text.get_text() for text in loss.get_legend().get_texts()]
    dotted = [line.get_xdata()[0] for line in accuracy.lines if line.get_linestyle() == ":"]
    assert dotted == [2.5]
    assert list(loss.lines[0].get_ydata()) == HISTORY["loss"].tolist()
    assert list(accuracy.lines[1].get_ydata()) == HISTORY["val_accuracy"].tolist()


@pytest.mark.slow
def test_figures_do_not_depend_on_the_users_matplotlib_style(tmp_path):
    """A matplotlibrc in the working folder, which matplotlib reads, changes nothing."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\naxes.facecolor: red\nfigure.dpi: 30\n")
    code = (
        "import hashlib, numpy as np;"
        "from busi.reporting.figures import confusion_figure, png;"
        "print(hashlib.sha256(png(confusion_figure(np.eye(3, dtype=int)))).hexdigest())"
    )
    (tmp_path / "plain").mkdir()
    found = [
        subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        for folder in (tmp_path, tmp_path / "plain")
    ]
    assert found[0].stdout == found[1].stdout


def test_training_figure_takes_a_model_that_was_not_trained():
    assert png(training_figure(HISTORY.iloc[:0]))
