"""Pretraining: examples are functions of seed and number, and what is exported loads as a backbone."""

import numpy as np

from busi import model as network
from busi.backend import keras
from busi.layout import CLASSES
from busi.pretraining import MASK_STRIDE, TASKS, _batch, example, export_backbone


def test_an_example_depends_on_seed_and_number_only():
    first, again, other = example(3, 8, 64), example(3, 8, 64), example(3, 9, 64)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[2:] == again[2:]
    assert not np.array_equal(first[0], other[0])


def test_a_batch_carries_pixels_masks_and_weights_that_fit():
    batch = _batch(seed=3, first=0, count=24, size=64)
    assert batch.pixels.shape == (24, 64, 64, 3)
    assert batch.pixels.dtype == np.uint8
    assert batch.targets["mask"].shape == (24, 64 // MASK_STRIDE, 64 // MASK_STRIDE, 1)
    assert set(batch.targets) == set(batch.weights) == {"class", "mask", *TASKS}
    normal = batch.targets["class"] == CLASSES.index("normal")
    assert 0 < normal.sum() < 24
    covered = batch.targets["mask"].reshape(24, -1).sum(axis=1)
    assert (covered[normal] == 0).all()
    assert (covered[~normal] > 0).all()
    for name, values in TASKS.items():
        assert batch.targets[name].max() < len(values)
        np.testing.assert_array_equal(batch.weights[name] == 0, normal)


def test_the_exported_backbone_loads_into_the_model_at_half_precision(tmp_path):
    keras.utils.set_random_seed(2)
    backbone = keras.applications.DenseNet121(include_top=False, weights=None)
    export_backbone(backbone, tmp_path / "made.weights.h5")
    assert (tmp_path / "made.weights.h5").stat().st_size < 16e6
    assert [file.name for file in tmp_path.iterdir()] == ["made.weights.h5"]
    loaded = network.build_model(32, 0.0, tmp_path / "made.weights.h5")
    for layer in backbone.layers:
        for value, expected in (
            zip(loaded.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True) if (layer.weights) else ()
        ):
            np.testing.assert_array_equal(value, expected.astype(np.float16).astype(np.float32))
