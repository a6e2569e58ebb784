"""What simple methods reach on the data set in `data/`, out of fold: `python -m benchmarks.baselines`.

A deep model that does not clear them has learnt nothing. Reads `artifacts/validate/manifest.csv`; the folds are those
of `pipeline.crossval` with the same `split.seed`, and beside them plain random folds of the same images, which leak. A
method's one number is chosen on the fold's validation part, then it is fitted on training and validation part.

- `hog`: histograms of oriented gradients (Dalal and Triggs, CVPR 2005: 9 orientations, cells of 8 pixels, 2 x 2 cells a
  block) and a grid of mean gray levels, of 64 x 64 pixels, with an RBF support vector machine; C.
- `random`, `ultrasound`: DenseNet121 at 128 pixels with random or with the pretrained weights, never trained on these
  images; globally averaged `pool4_pool` and last features side by side, with logistic regression; C.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tabulate import tabulate

from busi.images import prepare, read_image, to_gray
from busi.layout import CLASSES
from busi.metrics import evaluate
from busi.split import QUARANTINE, make_folds
from pipeline.evaluate import DATA, MANIFEST
from pipeline.params import read_params

FOLDS = 5
STRENGTHS = {"svm": (1.0, 3.0, 10.0, 30.0), "logistic": (1e-4, 1e-3, 1e-2, 1e-1)}  # of C
CELL = 8  # pixels


def main() -> None:
    params = read_params()
    manifest = pd.read_csv(MANIFEST, dtype={"duplicate_group": str})
    splits = [fold.table for fold in make_folds(manifest, FOLDS, params.split.val, params.split.seed)]
    clean = splits[0].loc[splits[0]["part"] != QUARANTINE, ["path", "label", "duplicate_group"]].reset_index(drop=True)
    by_group = [dict(zip(split["path"], split["part"], strict=True)) for split in splits]
    grouped = [clean["path"].map(parts).to_numpy() for parts in by_group]
    labels, groups = clean["label"].map(CLASSES.index).to_numpy(), clean["duplicate_group"].to_numpy()
    protocols = {"by group": grouped, "random": _random_folds(labels, grouped, params.split.seed)}

    rows = []
    for method, (kind, describe) in METHODS.items():
        start = time.perf_counter()
        described = describe([DATA / path for path in clean["path"]])
        for protocol, folds in protocols.items():
            said = np.empty((len(clean), len(CLASSES)))
            for parts in folds:
                said[parts == "test"] = _fit_and_predict(kind, described, labels, parts)
            found = evaluate(
                labels, said, groups, params.evaluate.bootstrap, params.evaluate.confidence, params.evaluate.seed
            )
            malignant = found["per_class"]["malignant"]
            shown = [found["accuracy"], found["macro_f1"], malignant["sensitivity"], malignant["specificity"]]
            rows.append([method, protocol, *map(_interval, [*shown, found["auroc_macro"]]), len(clean)])
        print(f"{method}: {time.perf_counter() - start:.0f} s", flush=True)
    headers = ["method", "folds", "accuracy", "macro F1", "malignant sensitivity", "specificity", "macro AUROC", "n"]
    print(tabulate(rows, headers=headers, tablefmt="github"))


def hog(paths: list[Path]) -> np.ndarray:
    return np.stack([_hog(to_gray(read_image(path))) for path in paths])


def network(weights: Path | None):
    """Features of a frozen DenseNet121, its pooled levels side by side."""

    def describe(paths: list[Path]) -> np.ndarray:
        from busi.backend import keras
        from busi.model import build_model, predict, seed_everything

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


def _fit_and_predict(kind: str, described: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> np.ndarray:
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


def _random_folds(labels: np.ndarray, grouped: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Plain stratified folds with as many validation images as the grouped ones have."""
    rng, folds = np.random.default_rng(seed), []
    dealt = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
    for (rest, test), parts in zip(dealt, grouped, strict=True):
        random = np.full(len(labels), "train", dtype=object)
        random[test] = "test"
        random[rng.choice(rest, int((parts == "val").sum()), replace=False)] = "val"
        folds.append(random)
    return folds


def _interval(metric: dict) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


if __name__ == "__main__":
    typer.run(main)
