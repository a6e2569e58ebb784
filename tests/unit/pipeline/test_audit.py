"""The audit trains the recipe on the split that it is given, the same every time, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from busi.backend import keras, layers
from busi.data.images import prepare, read_image
from busi.data.layout import CLASSES
from busi.model.network import seed_everything
from pipeline.params import read_params
from pipeline.paths import CACHE
from pipeline.stages import audit

ROOT = Path(__file__).parents[3]


def small_model(params, dropout):
    """In place of DenseNet121, which takes a minute: a network of the same outline."""
    seed_everything(params.seed)
    pixels = keras.Input((params.image_size, params.image_size, 3), name="input")
    pooled = layers.AveragePooling2D(8, name="pool1")(layers.Rescaling(1 / 255)(pixels))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 1, activation="relu")(pooled))
    features = layers.Dropout(dropout, seed=0, name="head_dropout")(features)
    return keras.Model(pixels, layers.Dense(len(CLASSES), activation="softmax", name="head")(features))


def test_a_model_is_trained_on_the_split_and_comes_out_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = []
    for label, shade in zip(CLASSES, (30, 120, 220), strict=True):
        (tmp_path / label).mkdir()
        for number in range(10):
            path = f"{label}/{number}.png"
            Image.fromarray(rng.integers(shade - 25, shade + 25, (40, 40)).astype(np.uint8)).save(tmp_path / path)
            rows.append((path, label, "train" if number < 6 else "val" if number < 8 else "test"))
    split = pd.DataFrame(rows, columns=["path", "label", "part"])
    params = read_params(ROOT / "params.yaml")
    small = {"image_size": 32, "boundary": "pool1", "views": 1}
    quick = {"batch_size": 6, "head_epochs": 1, "tail_epochs": 40, "tail_learning_rate": 0.05, "patience": 40}
    params = params.model_copy(
        update={
            "featurize": params.featurize.model_copy(update=small),
            "train": params.train.model_copy(update=quick),
        }
    )
    monkeypatch.setattr(audit, "initial_model", small_model)
    before = set(CACHE.glob("*"))
    test = split[split["part"] == "test"]
    pixels = np.stack([prepare(read_image(tmp_path / path), 32) for path in test["path"]]).astype(np.float32)
    said = [np.asarray(audit.train_on(split, tmp_path, params)(pixels, training=False)) for _ in range(2)]
    assert np.array_equal(*said)
    assert (said[0].argmax(axis=1) == test["label"].map(CLASSES.index)).all()
    assert set(CACHE.glob("*")) == before
