"""The network: cutting it changes no prediction, saving it twice gives the same bytes, bad weights are refused."""

import re
import zipfile

import h5py
import numpy as np
import pytest

from busi.backend import keras, tf
from busi.data.layout import CLASSES
from busi.model import network
from pipeline.ingest import weights as fetched

SEED = 3
SIZE = 32  # the smallest the network takes; what is tested does not depend on it


@pytest.fixture(scope="module")
def whole():
    network.seed_everything(SEED)
    return network.build_model(SIZE, dropout=0.5, weights=None)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)


def predicted(model, batch):
    # Eagerly: `network.predict` compiles first, which costs more than five images are worth
    return np.asarray(model(batch.astype(np.float32), training=False))


def test_predict_gives_what_the_model_gives(whole, pixels):
    batches = list(network.predict(whole, [pixels[:3], pixels[3:]]))
    assert [batch.shape for batch in batches] == [(3, 3), (2, 3)]
    np.testing.assert_allclose(np.concatenate(batches), predicted(whole, pixels), atol=1e-5)


@pytest.mark.parametrize("boundary", [*network.BOUNDARIES, "conv4_block5_concat", "relu"])
def test_tail_on_stored_features_equals_the_model_on_the_image(whole, pixels, boundary):
    prefix, tail = network.cut(whole, boundary)
    stored = predicted(prefix, pixels).astype(np.float16)
    expected = predicted(whole, pixels)
    assert expected.shape == (5, len(CLASSES))
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(predicted(tail, stored.astype(np.float32)), expected, atol=2e-4)


def test_the_prefix_in_bfloat16_gives_what_the_plain_one_gives_but_for_its_rounding(whole, pixels):
    prefix, _ = network.cut(whole, "pool4_pool")
    fast, plain = network.in_bfloat16(prefix), predicted(prefix, pixels)
    found = next(iter(network.predict(fast, [pixels])))
    assert found.dtype == np.float32
    # 8 bits of mantissa are 0.2 % a product; 88 layers of them came to 0.4 % of real images' features
    assert 0 < np.sqrt(((found - plain) ** 2).mean()) <= 0.02 * np.sqrt((plain**2).mean())
    kernel = fast.get_layer("conv1_conv").kernel
    assert kernel.dtype == "float32" and kernel is not prefix.get_layer("conv1_conv").kernel


def test_levels_of_the_prefix_are_passed_on_beside_the_boundary(whole, pixels):
    prefix, _ = network.cut(whole, "conv4_block5_concat")
    of_levels = 2 * (128 + 256)
    assert prefix.output_shape == (None, 2 * 2 * 416 + of_levels)
    maps = keras.Model(whole.input, [whole.get_layer(name).output for name in ("pool2_pool", "pool3_pool")])(
        pixels.astype(np.float32)
    )
    numbers = [number for level in maps for number in (np.mean(level, axis=(1, 2)), np.std(level, axis=(1, 2)))]
    found = predicted(prefix, pixels)[:, -of_levels:]
    np.testing.assert_allclose(found, np.concatenate(numbers, axis=1), atol=2e-3)  # a dead channel's is 0.001


def test_the_head_reads_every_level(whole, pixels):
    head, norm = whole.get_layer("head"), whole.get_layer("head_norm")
    assert head.kernel.shape[0] == norm.gamma.shape[0] == 2 * (128 + 256 + 512 + 1024)


def test_a_channel_that_is_dead_on_an_image_has_a_gradient(whole):
    """The slope of a square root is infinite at 0, and then the first step of training ends in NaN."""
    _, tail = network.cut(whole, "pool4_pool")
    with tf.GradientTape() as tape:
        said = tail(np.zeros((2, *tail.input_shape[1:]), np.float32), training=False)
        loss = tf.reduce_sum(said[:, 0])
    gradients = tape.gradient(loss, tail.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_input_boundary_stores_the_pixels_themselves(whole, pixels):
    prefix, tail = network.cut(whole, "input")
    np.testing.assert_array_equal(predicted(prefix, pixels), pixels)
    assert tail.count_params() == whole.count_params()


def test_training_the_whole_network_leaves_no_optimizer_in_the_saved_file(whole, pixels, tmp_path):
    _, tail = network.cut(whole, "input")
    tail.compile("adam", "categorical_crossentropy")
    tail.optimizer.build(tail.trainable_variables)
    network.save_model(whole, tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 35e6


def test_training_the_tail_leaves_the_prefix_alone_and_changes_the_whole(whole, pixels):
    prefix, tail = network.cut(whole, "pool4_pool")
    features, before = predicted(prefix, pixels), predicted(whole, pixels)
    kernel = tail.get_layer("conv5_block1_1_conv")
    original = kernel.get_weights()
    kernel.set_weights([2 * original[0] + 0.1])
    try:
        np.testing.assert_array_equal(predicted(prefix, pixels), features)
        assert not np.allclose(predicted(whole, pixels), before)
    finally:
        kernel.set_weights(original)


def test_cut_refuses_unknown_layers_and_layers_inside_a_block(whole):
    with pytest.raises(ValueError, match="no layer 'pool9'"):
        network.cut(whole, "pool9")
    with pytest.raises(ValueError, match="no layer 'head_norm'"):
        network.cut(whole, "head_norm")
    with pytest.raises(ValueError, match="inside a block"):
        network.cut(whole, "conv4_block5_1_conv")
    with pytest.raises(ValueError, match="no layer 'level_relu'"):
        network.cut(whole, "level_relu")


def test_the_same_weights_save_to_the_same_bytes(whole, pixels, tmp_path, monkeypatch):
    network.save_model(whole, tmp_path / "a.keras")
    # Another day: Keras writes the date into the file
    monkeypatch.setattr("keras.src.saving.saving_lib.datetime", _Tomorrow)
    network.save_model(whole, tmp_path / "b.keras")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.keras", "b.keras"))
    assert first == second
    assert len(first) < 35e6
    with zipfile.ZipFile(tmp_path / "a.keras") as saved:
        ids = re.findall(r'"shared_object_id": (\d+)', saved.read("config.json").decode())
    assert ids
    assert max(map(int, ids)) <= len(ids), "memory addresses are left in the file"
    np.testing.assert_array_equal(predicted(network.load_model(tmp_path / "a.keras"), pixels), predicted(whole, pixels))


class _Tomorrow:
    class datetime:
        @staticmethod
        def now():
            import datetime

            return datetime.datetime(2031, 2, 3, 4, 5, 6)


def test_random_weights_follow_the_seed(whole):
    def first_kernel(seed):
        network.seed_everything(seed)
        return network.build_model(SIZE, 0.5, None).get_layer("conv1_conv").get_weights()[0]

    expected = whole.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(first_kernel(SEED), expected)
    assert not np.array_equal(first_kernel(SEED + 1), expected)


@pytest.fixture(scope="module")
def weights_file(whole, tmp_path_factory):
    import keras

    backbone = keras.applications.DenseNet121(include_top=False, weights=None)
    for layer in backbone.layers:
        if layer.weights:
            layer.set_weights([value + 0.01 for value in whole.get_layer(layer.name).get_weights()])
    path = tmp_path_factory.mktemp("weights") / "made.weights.h5"
    backbone.save_weights(path)
    return path


def test_weights_are_loaded_into_the_backbone(whole, weights_file):
    loaded = network.build_model(SIZE, 0.5, weights_file)
    for name in ("conv1_conv", "conv5_block16_2_conv"):
        expected = whole.get_layer(name).get_weights()[0] + 0.01
        np.testing.assert_allclose(loaded.get_layer(name).get_weights()[0], expected, rtol=1e-6)


def test_bad_weights_are_refused_with_the_reason(whole, weights_file, tmp_path):
    def refused(content, name="bad.weights.h5"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights file .*bad|weights file .*imagenet") as caught:
            network.load_backbone_weights(whole, path)
        return str(caught.value)

    good = weights_file.read_bytes()
    assert "not found" in _reason(whole, tmp_path / "absent.weights.h5")
    assert "cannot be used" in refused(good[: len(good) // 2])
    assert "cannot be used" in refused(b"not HDF5 at all")
    assert "cannot be used" in refused(b"")
    assert "md5" in refused(good, network.IMAGENET_FILE)
    # Of another network: a layer is missing
    other = tmp_path / "bad.other.weights.h5"
    with h5py.File(other, "w") as file:
        file.create_group("layers/dense").create_dataset("vars/0", data=np.zeros((2, 2)))
    assert "cannot be used" in _reason(whole, other)
    # Not finite
    broken = tmp_path / "bad.nan.weights.h5"
    broken.write_bytes(good)
    with h5py.File(broken, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        file[names[0]][...] = np.nan
    assert "not finite" in _reason(whole, broken)


def _reason(model, path):
    with pytest.raises(ValueError, match="weights file") as caught:
        network.load_backbone_weights(model, path)
    return str(caught.value)


def test_the_fetched_file_is_the_one_the_model_checks():
    assert (fetched.FILE.name, fetched.MD5) == (network.IMAGENET_FILE, network.IMAGENET_MD5)


def test_a_model_file_that_carries_code_is_refused(tmp_path):
    import keras

    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match=r"unsafe|Lambda|lambda"):
        network.load_model(tmp_path / "code.keras")
