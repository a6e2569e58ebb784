"""Simple methods that a deep model has to beat: rows of `benchmarks.results`.

A method's one number is chosen on the fold's validation part, then it is fitted on training and validation part. The
folds are those of `pipeline.orchestration.folds`, and `pipeline.orchestration.crossval` judges the predictions.

- `hog`: histograms of oriented gradients (Dalal and Triggs, CVPR 2005: 9 orientations, cells of 8 pixels, 2 x 2 cells a
  block) and a grid of mean gray levels, of 64 x 64 pixels, with an RBF support vector machine; C.
- `random`, `ultrasound`: DenseNet121 at 128 pixels with random or with the pretrained weights, never trained on these
  images; globally averaged `pool4_pool` and last features side by side, with logistic regression; C.
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from busi.data.images import prepare, read_image, to_gray
from busi.data.layout import CLASSES
from busi.data.split import QUARANTINE
from pipeline.orchestration.folds import Experiment, changed, divide, read_manifest
from pipeline.paths import DATA

STRENGTHS = {"svm": (1.0, 3.0, 10.0, 30.0), "logistic": (1e-4, 1e-3, 1e-2, 1e-1)}  # of C
CELL = 8  # pixels


def cross_validate(method: str, experiment: Experiment) -> pd.DataFrame:
    """Out-of-fold predictions of a method of `METHODS`, in the form of `crossval.out_of_fold`."""
    (kind, describe), manifest, params = METHODS[method], read_manifest(), experiment.params
    tables, described = [], None
    with threadpool_limits(1):  # as the networks: threads wait for one another in processor time, and add up otherwise
        for repeat in range(experiment.repeats):
            of_repeat = changed(params, {"split": {"seed": params.split.seed + repeat}})
            for number, images in enumerate(divide(manifest, of_repeat, experiment.folds, experiment.grouped)):
                clean = images[images["part"] != QUARANTINE]
                if described is None:  # the same images in every fold, in the same order
                    described = describe([DATA / path for path in clean["path"]])
                labels, parts = clean["label"].map(CLASSES.index).to_numpy(), clean["part"].to_numpy()
                called = fit_and_predict(kind, described, labels, parts)
                tested = clean.loc[parts == "test", ["path", "label", "duplicate_group"]]
                tested = tested.assign(predicted=np.take(CLASSES, called.argmax(axis=1)))
                tables.append(tested.assign(repeat=repeat, fold=number, **dict(zip(CLASSES, called.T, strict=True))))
    return pd.concat(tables).sort_values(["repeat", "path"], ignore_index=True)


def hog(paths: list[Path]) -> np.ndarray:
    return np.stack([_hog(to_gray(read_image(path))) for path in paths])


def network(weights: Path | None):
    """Features of a frozen DenseNet121, its pooled levels side by side."""

    def describe(paths: list[Path]) -> np.ndarray:
        from busi.backend import keras
        from busi.model.inference import predict
        from busi.model.network import build_model, seed_everything

        seed_everything(0)
        model = build_model(128, 0.0, weights)
        pooled = [keras.ops.mean(model.get_layer(name).output, axis=(1, 2)) for name in ("pool4_pool", "relu")]
        features = keras.Model(model.input, keras.ops.concatenate(pooled, axis=1))
        batches = (
            np.stack([prepare(read_image(path), 128) for path in paths[start : start + 32]])
            for start in range(0, len(paths), 32)
        )
        return np.concatenate(list(predict(features, batches)))

    return describe


METHODS = {
    "hog": ("svm", hog),
    "random": ("logistic", network(None)),
    "ultrasound": ("logistic", network(Path("weights/ultrasound.weights.h5"))),
}


def _hog(gray: np.ndarray) -> np.ndarray:
    small = np.asarray(Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    rows, columns = np.gradient(small)
    strength, angle = np.hypot(rows, columns), np.mod(np.arctan2(rows, columns), np.pi)
    orientation = np.minimum((angle / np.pi * 9).astype(int), 8)
    cells = np.zeros((64 // CELL, 64 // CELL, 9))
    y, x = np.mgrid[:64, :64] // CELL
    np.add.at(cells, (y, x, orientation), strength)
    blocks = np.stack([cells[:-1, :-1], cells[1:, :-1], cells[:-1, 1:], cells[1:, 1:]], axis=2).reshape(-1, 36)
    blocks /= np.sqrt((blocks**2).sum(axis=1, keepdims=True) + 1e-3)
    grid = small.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    return np.concatenate([blocks.ravel(), grid.ravel()])


def _model(kind: str, strength: float):
    if kind == "svm":
        return make_pipeline(StandardScaler(), SVC(C=strength, class_weight="balanced"))
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300))


def fit_and_predict(kind: str, described: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Probabilities of the test part; those of the machine by a softmax of its decision values, for the ranking."""
    train, val, test = (parts == part for part in ("train", "val", "test"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = {
            strength: _model(kind, strength).fit(described[train], labels[train]).score(described[val], labels[val])
            for strength in STRENGTHS[kind]
        }
        best = _model(kind, max(scores, key=scores.get)).fit(described[train | val], labels[train | val])
    values = best.decision_function(described[test])
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
