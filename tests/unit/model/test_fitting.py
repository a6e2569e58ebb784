"""Training on images: what it makes follows from split and parameters alone, and is what the two halves make."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi.data.layout import CLASSES
from busi.model.augmentation import AugmentationConfig
from busi.model.features import read_features
from busi.model.fitting import NetworkConfig, featurize, fit, fit_images, initial_model
from busi.model.training import TrainingConfig

SIZE = 32
NETWORK = NetworkConfig(
    image_size=SIZE, weights=None, freeze_until="pool4_pool", views=1, precision="float32", seed=17,
    augmentation=AugmentationConfig(8.0, 0.15, 0.06, 20.0, 0.2, 25.0),
)  # fmt: skip
TRAINING = TrainingConfig(
    batch_size=6, head_epochs=1, tail_epochs=4, head_learning_rate=1e-3, tail_learning_rate=5e-3, weight_decay=1e-4,
    label_smoothing=0.05, dropout=0.3, patience=20, seed=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, shade in zip(CLASSES, (30, 120, 220), strict=True):
        (folder / label).mkdir()
        for number in range(10):
            pixels = rng.integers(shade - 25, shade + 25, (40, 40)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def split():
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [(f"{label}/{number}.png", label, part) for label in CLASSES for number, part in enumerate(parts)]
    return pd.DataFrame(rows, columns=["path", "label", "part"])


def test_a_model_is_trained_on_the_split_and_is_what_the_two_halves_make(small_backbone, folder, split, tmp_path):
    scratch, epochs = tmp_path / "scratch", []
    scratch.mkdir()
    whole = fit_images(folder, split, (NETWORK, TRAINING), scratch, epochs.append)
    assert [row["epoch"] for row in epochs] == whole.history.epoch.tolist()

    rows = featurize(folder, split, NETWORK, tmp_path / "features.npy")
    features = read_features(tmp_path / "features.npy", rows)
    halves = fit(features, rows, (NETWORK, TRAINING), tmp_path / "checkpoint.npz", "key", lambda row: None)
    pd.testing.assert_frame_equal(whole.history, halves.history, check_exact=True)
    assert whole.temperature == halves.temperature
    for value, same in zip(whole.model.get_weights(), halves.model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, same)

    assert whole.history.loss.iloc[-1] < whole.history.loss.iloc[0]


def test_the_initial_model_follows_the_seed(small_backbone):
    def values(seed):
        return (
            initial_model(NetworkConfig(**NETWORK.__dict__ | {"seed": seed}), 0.3)
            .get_layer("conv1_conv")
            .get_weights()[0]
        )

    np.testing.assert_array_equal(values(17), values(17))
    assert not np.array_equal(values(17), values(18))


@pytest.mark.parametrize(("name", "weights"), [("none", None), ("some.weights.h5", "some.weights.h5")])
def test_the_network_is_read_from_a_section_of_parameters(tmp_path, name, weights):
    section = {
        "image_size": 64, "weights": name, "boundary": "pool2_pool", "views": 2, "precision": "bfloat16", "seed": 3,
        "augmentation": NETWORK.augmentation.__dict__,
    }  # fmt: skip
    found = NetworkConfig.from_section(section, tmp_path)
    assert found == NetworkConfig(
        64, weights and tmp_path / weights, "pool2_pool", 2, "bfloat16", 3, NETWORK.augmentation
    )
