"""Pretraining: examples are functions of seed and number, and what is exported loads as a backbone."""

from itertools import islice

import numpy as np
import pytest

from busi.backend import keras
from busi.data.layout import CLASSES
from busi.model import backbone
from busi.model.network import build_model
from busi.pretraining.network import build_pretrainer, compile_pretrainer, export_backbone, train_step
from busi.pretraining.phantom_stream import STRIDE, TASKS, VIEWS, batch, example, stream


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    monkeypatch.setattr(backbone, "BLOCKS", (1, 1, 1, 1))


def test_an_example_depends_on_seed_and_number_only():
    first, again, other = example(3, 8, 64), example(3, 8, 64), example(3, 9, 64)
    for name in ("pixels", "cover", "echogenicity"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.truth, first.label) == (again.truth, again.label)
    assert not np.array_equal(first.pixels, other.pixels)
    assert not np.array_equal(first.pixels[0], first.pixels[1])


def test_a_batch_carries_pixels_pictures_and_weights_that_fit():
    found = batch(seed=3, first=0, count=24, size=64)
    count, side = 24 * VIEWS, 64 // STRIDE
    assert found.pixels.shape == (count, 64, 64, 1)
    assert found.pixels.dtype == np.uint8
    assert set(found.targets) == set(found.weights) == {"class", "mask", "echogenicity", *TASKS}
    normal = found.targets["class"] == CLASSES.index("normal")
    assert 0 < normal.sum() < count
    covered = found.targets["mask"].reshape(count, side * side).sum(axis=1)
    assert (covered[normal] == 0).all()
    assert (covered[~normal] > 0).all()
    tissue = found.targets["echogenicity"].reshape(count, side * side)
    assert 0 <= tissue.min() < tissue.max() <= 255
    assert (tissue.mean(axis=1) > 64).all()
    for name, values in TASKS.items():
        assert found.targets[name].max() < len(values)
        np.testing.assert_array_equal(found.weights[name] == 0, normal)
    for number in (0, 5, 23):  # the views of a phantom stand a batch's phantoms apart
        one = example(3, number, 64)
        for view in range(VIEWS):
            np.testing.assert_array_equal(found.pixels[number + 24 * view, ..., 0], one.pixels[view])
            assert found.targets["class"][number + 24 * view] == one.label


def test_a_stream_goes_on_where_another_was_left():
    whole = list(islice(stream(seed=3, first=0, count=2, size=32, workers=1), 3))
    rest = list(islice(stream(seed=3, first=4, count=2, size=32, workers=1), 1))
    np.testing.assert_array_equal(whole[2].pixels, rest[0].pixels)
    assert not np.array_equal(whole[1].pixels, whole[2].pixels)


@pytest.mark.filterwarnings("error::UserWarning")  # Keras only warns of what it does not load
@pytest.mark.slow
def test_every_task_is_learnt_from_a_step_and_a_checkpoint_has_all_of_it(tmp_path):
    keras.utils.set_random_seed(2)
    model, inside = build_pretrainer()
    compile_pretrainer(model, 1e-3)
    model.run_eagerly = True  # tracing takes longer than one step does
    found = batch(seed=3, first=0, count=6, size=32)
    before = [value.copy() for value in model.get_weights()]
    result = train_step(model, found)
    assert np.isfinite(result["loss"])
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)]
    assert all(changed)
    assert inside.get_layer("conv1_conv").trainable

    model.save_weights(tmp_path / "kept.weights.h5")
    other, _ = build_pretrainer()
    compile_pretrainer(other, 1e-3)
    other.load_weights(tmp_path / "kept.weights.h5")
    state, restored = (
        [np.array(value) for value in (*one.weights, *one.optimizer.variables)] for one in (model, other)
    )
    assert len(state) == len(restored)
    for value, again in zip(state, restored, strict=True):
        np.testing.assert_array_equal(value, again)


def test_the_exported_backbone_loads_into_the_model_at_half_precision(tmp_path):
    keras.utils.set_random_seed(2)
    made = backbone.build_backbone()
    export_backbone(made, tmp_path / "made.weights.h5")
    values = 2 * made.count_params()
    assert values < (tmp_path / "made.weights.h5").stat().st_size < 2 * values
    assert [file.name for file in tmp_path.iterdir()] == ["made.weights.h5"]
    loaded = build_model(32, 0.0, tmp_path / "made.weights.h5")
    for layer in made.layers:
        for value, expected in (
            zip(loaded.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True) if (layer.weights) else ()
        ):
            np.testing.assert_array_equal(value, expected.astype(np.float16).astype(np.float32))
