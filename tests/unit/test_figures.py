"""Figures show what they are given, the same bytes every time, and nothing of the machine."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi.figures import CLASS_STYLES, confusion_figure, png, roc_figure, training_figure
from busi.layout import CLASSES
from busi.metrics import auroc

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


@pytest.mark.parametrize(
    "draw",
    [lambda: confusion_figure(CONFUSION), lambda: roc_figure(*scores()), lambda: training_figure(HISTORY)],
    ids=["confusion", "roc", "training"],
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
        area = auroc(labels == index, probabilities[:, index])
        assert f"{label} (AUC {area:.3f}, n = {(labels == index).sum()})" in legend
    assert len({dash for _, dash in CLASS_STYLES.values()}) == len(CLASSES)
    assert "55 test images" in axes.get_title()


def test_training_figure_marks_the_kept_epoch_and_the_change_of_phase():
    loss, accuracy = training_figure(HISTORY).axes
    assert "kept: epoch 4" in [text.get_text() for text in loss.get_legend().get_texts()]
    dotted = [line.get_xdata()[0] for line in accuracy.lines if line.get_linestyle() == ":"]
    assert dotted == [2.5]
    assert list(loss.lines[0].get_ydata()) == HISTORY["loss"].tolist()
    assert list(accuracy.lines[1].get_ydata()) == HISTORY["val_accuracy"].tolist()


def test_figures_do_not_depend_on_the_users_matplotlib_style(tmp_path):
    """A matplotlibrc in the working folder, which matplotlib reads, changes nothing."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\naxes.facecolor: red\nfigure.dpi: 30\n")
    code = (
        "import sys, hashlib, numpy as np; sys.path.insert(0, sys.argv[1]);"
        "from busi.figures import confusion_figure, png;"
        "print(hashlib.sha256(png(confusion_figure(np.eye(3, dtype=int)))).hexdigest())"
    )
    source = str(Path(__file__).parents[2] / "src")
    (tmp_path / "plain").mkdir()
    found = [
        subprocess.run([sys.executable, "-c", code, source], cwd=folder, capture_output=True, text=True, check=True)
        for folder in (tmp_path, tmp_path / "plain")
    ]
    assert found[0].stdout == found[1].stdout


def test_training_figure_takes_a_model_that_was_not_trained():
    assert png(training_figure(HISTORY.iloc[:0]))
