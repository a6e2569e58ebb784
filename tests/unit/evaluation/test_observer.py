"""A model's answers on files, by a small network with DenseNet121's layer names."""

import numpy as np
import pytest
from PIL import Image

from busi.backend import keras, layers
from busi.data.images import prepare, read_image
from busi.data.layout import CLASSES
from busi.evaluation import observer as module
from busi.evaluation.observer import Observer
from busi.model.network import seed_everything
from busi.model.saving import save_model

SIDE = 32


@pytest.fixture(scope="module")
def model():
    seed_everything(0)
    pixels = keras.Input((SIDE, SIDE, 3))
    found = layers.Conv2D(4, 3, strides=2, padding="same", name="conv1_relu", activation="relu")(pixels)
    found = layers.AveragePooling2D(2, name="pool2_pool")(found)
    found = layers.Conv2D(5, 3, padding="same", name="relu", activation="relu")(found)
    found = layers.GlobalAveragePooling2D()(found)
    return keras.Model(pixels, layers.Dense(len(CLASSES), activation="softmax", name="head")(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    for number in range(5):
        levels = np.random.default_rng(number).integers(0, 256, (20, 30), dtype=np.uint8)
        Image.fromarray(levels).save(place / f"{number}.png")
    return place


PATHS = [f"{number}.png" for number in (3, 0, 4, 1, 2)]


def test_answers_are_those_of_the_model_in_the_order_of_the_paths(model, folder, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    observer = Observer(model, folder)
    probabilities, ood_features = observer.classify(PATHS)
    pixels = np.stack([prepare(read_image(folder / path), SIDE) for path in PATHS]).astype(np.float32)
    np.testing.assert_allclose(probabilities, model(pixels, training=False), atol=1e-5)
    np.testing.assert_allclose(observer.ood_features(PATHS), ood_features, atol=1e-4)
    assert probabilities.dtype == np.float32 and ood_features.shape == (5, 2 * (4 + 4))


def test_a_heat_map_is_the_positive_evidence_scaled_to_its_peak(model, folder):
    observer, classes = Observer(model, folder), [CLASSES[number % 3] for number in range(5)]
    evidence, heat = observer.evidence(PATHS, classes), observer.heat_maps(PATHS, classes)
    assert heat.shape == evidence.shape == (5, 8, 8)
    for one, other in zip(heat, evidence, strict=True):
        if (other > 0).any():
            np.testing.assert_allclose(one, np.maximum(other, 0) / other.max(), rtol=1e-4, atol=1e-6)
    others = observer.evidence(PATHS, classes[1:] + classes[:1])
    assert not np.allclose(evidence, others)  # each map is of its own class


def test_random_weights_last_as_long_as_the_block(model, folder):
    observer = Observer(model, folder)
    before, _ = observer.classify(PATHS)
    with observer.random_weights(1):
        within, _ = observer.classify(PATHS)
    assert not np.allclose(within, before)
    np.testing.assert_array_equal(observer.classify(PATHS)[0], before)


def test_a_model_of_another_shape_is_refused(model, folder, tmp_path):
    save_model(model, tmp_path / "model.keras")
    with pytest.raises(ValueError, match="image_size 64"):
        Observer.load(tmp_path / "model.keras", folder, 64)
    assert Observer.load(tmp_path / "model.keras", folder, SIDE).classify(PATHS[:1])[0].shape == (1, 3)
