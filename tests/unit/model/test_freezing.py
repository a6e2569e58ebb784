"""Cutting the network changes no prediction, and is refused where it would."""

import numpy as np
import pytest

from busi.backend import keras
from busi.data.layout import CLASSES
from busi.model.backbone import FREEZE_LAYERS
from busi.model.freezing import cut

pytestmark = pytest.mark.usefixtures("small_backbone")


def predicted(model, batch):
    return np.asarray(model(batch.astype(np.float32), training=False))


@pytest.mark.parametrize("freeze_until", [*FREEZE_LAYERS, "conv4_block1_concat", "relu"])
def test_the_trainable_layers_on_stored_features_equal_the_model_on_the_image(whole, pixels, freeze_until):
    prefix, trainable_layers = cut(whole, freeze_until)
    stored = predicted(prefix, pixels).astype(np.float16)
    expected = predicted(whole, pixels)
    assert expected.shape == (5, len(CLASSES))
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(predicted(trainable_layers, stored.astype(np.float32)), expected, atol=2e-4)


def test_statistics_of_the_prefix_are_passed_on_beside_the_last_frozen_layer(whole, pixels):
    prefix, _ = cut(whole, "conv4_block1_concat")
    channels = whole.get_layer("conv4_block1_concat").output.shape[-1]
    of_maps = 2 * sum(whole.get_layer(name).output.shape[-1] for name in ("pool2_pool", "pool3_pool"))
    assert prefix.output_shape == (None, 2 * 2 * channels + of_maps)
    maps = keras.Model(whole.input, [whole.get_layer(name).output for name in ("pool2_pool", "pool3_pool")])(
        pixels.astype(np.float32)
    )
    numbers = [number for one in maps for number in (np.mean(one, axis=(1, 2)), np.std(one, axis=(1, 2)))]
    found = predicted(prefix, pixels)[:, -of_maps:]
    np.testing.assert_allclose(found, np.concatenate(numbers, axis=1), atol=2e-3)  # a dead channel's is 0.001


def test_with_nothing_frozen_features_are_the_pixels(whole, pixels):
    prefix, trainable_layers = cut(whole, "input")
    np.testing.assert_array_equal(predicted(prefix, pixels), pixels)
    assert trainable_layers.count_params() == whole.count_params()


def test_training_leaves_the_prefix_alone_and_changes_the_whole(whole, pixels):
    prefix, trainable_layers = cut(whole, "pool4_pool")
    features, before = predicted(prefix, pixels), predicted(whole, pixels)
    kernel = trainable_layers.get_layer("conv5_block1_1_conv")
    original = kernel.get_weights()
    kernel.set_weights([2 * original[0] + 0.1])
    try:
        np.testing.assert_array_equal(predicted(prefix, pixels), features)
        assert not np.allclose(predicted(whole, pixels), before)
    finally:
        kernel.set_weights(original)


def test_cut_refuses_unknown_layers_and_layers_inside_a_block(whole):
    with pytest.raises(ValueError, match="no layer 'pool9'"):
        cut(whole, "pool9")
    with pytest.raises(ValueError, match="no layer 'head_norm'"):
        cut(whole, "head_norm")
    with pytest.raises(ValueError, match="inside a block"):
        cut(whole, "conv4_block1_1_conv")
    with pytest.raises(ValueError, match="no layer 'level_relu'"):
        cut(whole, "level_relu")
