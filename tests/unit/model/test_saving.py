"""Saving twice gives the same bytes, without an optimizer; a file that carries code is refused."""

import re
import zipfile

import numpy as np
import pytest

from busi.backend import keras
from busi.model.freezing import cut
from busi.model.saving import load_model, save_model

pytestmark = pytest.mark.usefixtures("small_backbone")


def predicted(model, batch):
    return np.asarray(model(batch.astype(np.float32), training=False))


def test_the_same_weights_save_to_the_same_bytes(whole, pixels, tmp_path, monkeypatch):
    save_model(whole, tmp_path / "a.keras")
    # Another day: Keras writes the date into the file
    monkeypatch.setattr("keras.src.saving.saving_lib.datetime", _Tomorrow)
    save_model(whole, tmp_path / "b.keras")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.keras", "b.keras"))
    assert first == second
    with zipfile.ZipFile(tmp_path / "a.keras") as saved:
        ids = re.findall(r'"shared_object_id": (\d+)', saved.read("config.json").decode())
    assert ids
    assert max(map(int, ids)) <= len(ids), "memory addresses are left in the file"
    np.testing.assert_array_equal(predicted(load_model(tmp_path / "a.keras"), pixels), predicted(whole, pixels))


def test_training_the_whole_network_leaves_no_optimizer_in_the_saved_file(whole, pixels, tmp_path):
    _, trainable_layers = cut(whole, "input")
    trainable_layers.compile("adam", "categorical_crossentropy")
    trainable_layers.optimizer.build(trainable_layers.trainable_variables)
    save_model(whole, tmp_path / "model.keras")
    values = 4 * whole.count_params()  # an optimizer would hold two more for each
    assert values < (tmp_path / "model.keras").stat().st_size < 2 * values


class _Tomorrow:
    class datetime:
        @staticmethod
        def now():
            import datetime

            return datetime.datetime(2031, 2, 3, 4, 5, 6)


def test_a_model_file_that_carries_code_is_refused(tmp_path):
    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match=r"unsafe|Lambda|lambda"):
        load_model(tmp_path / "code.keras")
