"""The network: what its head reads, random weights from the seed, weights from a file, bad files refused."""

import re

import h5py
import numpy as np
import pytest

from busi.backend import keras, tf
from busi.model import backbone
from busi.model.backbone import FEATURE_MAPS, IMAGENET_FILE, IMAGENET_MD5, build_backbone
from busi.model.freezing import cut
from busi.model.network import build_model, load_backbone_weights, seed_everything
from pipeline.ingest import weights as fetched

FULL = backbone.BLOCKS  # before the fixture
SEED, SIZE = 3, 32  # of the fixtures `whole` and `pixels`

pytestmark = pytest.mark.usefixtures("small_backbone")


def test_the_head_reads_every_feature_map(whole, pixels):
    head, norm = whole.get_layer("head"), whole.get_layer("head_norm")
    assert (
        head.kernel.shape[0]
        == norm.gamma.shape[0]
        == 2 * sum(whole.get_layer(name).output.shape[-1] for name in FEATURE_MAPS)
    )


def test_a_channel_that_is_dead_on_an_image_has_a_gradient(whole):
    """The slope of a square root is infinite at 0, and then the first step of training ends in NaN."""
    _, trainable_layers = cut(whole, "pool4_pool")
    with tf.GradientTape() as tape:
        said = trainable_layers(np.zeros((2, *trainable_layers.input_shape[1:]), np.float32), training=False)
        loss = tf.reduce_sum(said[:, 0])
    gradients = tape.gradient(loss, trainable_layers.trainable_variables)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_random_weights_follow_the_seed(whole):
    def first_kernel(seed):
        seed_everything(seed)
        return build_model(SIZE, 0.5, None).get_layer("conv1_conv").get_weights()[0]

    expected = whole.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(first_kernel(SEED), expected)
    assert not np.array_equal(first_kernel(SEED + 1), expected)


@pytest.fixture(scope="module")
def weights_file(whole, tmp_path_factory):
    backbone = build_backbone()
    for layer in backbone.layers:
        if layer.weights:
            layer.set_weights([value + 0.01 for value in whole.get_layer(layer.name).get_weights()])
    path = tmp_path_factory.mktemp("weights") / "made.weights.h5"
    backbone.save_weights(path)
    return path


def test_weights_are_loaded_into_the_backbone(whole, weights_file):
    loaded = build_model(SIZE, 0.5, weights_file)
    for name in ("conv1_conv", "conv5_block1_2_conv"):
        expected = whole.get_layer(name).get_weights()[0] + 0.01
        np.testing.assert_allclose(loaded.get_layer(name).get_weights()[0], expected, rtol=1e-6)


def test_bad_weights_are_refused_with_the_reason(whole, weights_file, tmp_path):
    def refused(content, name="bad.weights.h5"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights file .*bad|weights file .*imagenet") as caught:
            load_backbone_weights(whole, path)
        return str(caught.value)

    good = weights_file.read_bytes()
    assert "not found" in _reason(whole, tmp_path / "absent.weights.h5")
    assert "cannot be used" in refused(good[: len(good) // 2])
    assert "cannot be used" in refused(b"not HDF5 at all")
    assert "cannot be used" in refused(b"")
    assert "md5" in refused(good, IMAGENET_FILE)
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
        load_backbone_weights(model, path)
    return str(caught.value)


def test_the_fetched_file_is_the_one_the_model_checks():
    assert (fetched.FILE.name, fetched.MD5) == (IMAGENET_FILE, IMAGENET_MD5)


@pytest.mark.slow
def test_the_backbone_is_the_published_densenet121(monkeypatch):
    monkeypatch.setattr(backbone, "BLOCKS", FULL)

    def outline(model):  # without the numbers that Keras gives unnamed layers of a process
        return [
            (re.sub(r"^(zero_padding2d|input_layer).*", r"\1", layer.name), layer.output.shape)
            for layer in model.layers
        ]

    published, own = keras.applications.DenseNet121(include_top=False, weights=None), build_backbone()
    assert outline(own) == outline(published)
    assert [value.shape for value in own.get_weights()] == [value.shape for value in published.get_weights()]
