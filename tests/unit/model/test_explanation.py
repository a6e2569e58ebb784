"""HiResCAM on a network whose reasons are known, and on the real one, whose maps must add up to its logits."""

import numpy as np
import pytest

from busi.backend import keras, layers
from busi.model import explanation
from busi.model.backbone import FEATURE_MAPS, HEAD
from busi.model.network import build_model, seed_everything

SIZE = 64  # feature maps of 8 x 8, 4 x 4, and twice 2 x 2


@pytest.fixture(scope="module")
def bright():
    """Class 1 is what is bright, class 0 what is dark; the feature map is the mean of 8 x 8 pixels."""
    pixels = keras.Input((32, 32, 3))
    maps = layers.AveragePooling2D(8, name=FEATURE_MAPS[-1])(pixels)
    head = layers.Dense(3, activation="softmax", name=HEAD)
    network = keras.Model(pixels, head(layers.GlobalAveragePooling2D()(maps)))
    head.set_weights([np.array([[-0.1, 0.1, 0.0]] * 3, np.float32), np.zeros(3, np.float32)])
    return network


def maps_of(network, pixels):
    outputs = [layer.output for layer in network.layers if layer.name in FEATURE_MAPS]
    _, found = keras.Model(network.input, [network.output, outputs])(pixels.astype(np.float32))
    return [one.numpy() for one in found]


@pytest.fixture(scope="module")
def real(small_backbone):
    seed_everything(3)
    network = build_model(SIZE, dropout=0.5, weights=None)
    norm = network.get_layer("head_norm")  # as after a training, no longer the identity
    norm.set_weights([value + 0.1 * np.arange(len(value)) / len(value) for value in norm.get_weights()])
    return network


def test_the_map_is_of_the_class_that_is_asked_for(bright):
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[0, 8:16, 16:24] = 200
    pixels[1, 24:, :8] = 200
    maps = maps_of(bright, pixels)
    heat = explanation.heat_map(bright, maps, np.array([1, 1, 1]))
    assert heat.shape == (3, 4, 4) and heat.dtype == np.float32
    assert [np.unravel_index(one.argmax(), one.shape) for one in heat[:2]] == [(1, 2), (3, 0)]
    assert heat[:2].max(axis=(1, 2)).tolist() == [1, 1] and heat.min() == 0
    assert not heat[2].any()  # nothing is bright
    against = np.array([0, 0, 0])
    assert not explanation.heat_map(bright, maps, against).any()
    np.testing.assert_allclose(
        explanation.evidence(bright, maps, against), -explanation.evidence(bright, maps, 1 - against)
    )


def test_the_maps_of_the_real_network_add_up_to_its_logits(real):
    """The head is linear in means and deviations: what sets two logits apart sets the sums of their maps apart."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    maps = maps_of(real, pixels)
    sums = np.stack(
        [explanation.evidence(real, maps, np.full(3, label)).sum(axis=(1, 2)) for label in range(3)], axis=1
    )
    logits = np.log(np.asarray(real(pixels.astype(np.float32), training=False)))
    apart = (logits[:, :1] - logits[:, 1:]) - (sums[:, :1] - sums[:, 1:])
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), rtol=1e-3, atol=1e-3)


def test_weights_drawn_anew_are_other_ones_and_the_same_for_a_seed(bright):
    learned, drawn = bright.get_layer(HEAD).get_weights(), []
    for seed in (5, 5, 6):
        with explanation.randomised(bright, seed):
            drawn.append(bright.get_layer(HEAD).get_weights()[0])
    one, again, other = drawn
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert not np.array_equal(one, learned[0])


def test_afterwards_the_weights_are_the_learned_ones_again_whatever_happened(bright):
    before = bright.get_weights()
    with pytest.raises(RuntimeError), explanation.randomised(bright, 5):
        raise RuntimeError
    assert all(np.array_equal(*pair) for pair in zip(before, bright.get_weights(), strict=True))


def test_a_map_is_stretched_over_the_image():
    heat = np.array([[0, 1], [0, 0]], np.float32)
    large = explanation.enlarge(heat, width=60, height=40)
    assert large.shape == (40, 60) and large.min() >= 0 and large.max() == 1
    assert large[5, 55] == 1 and large[35, 5] == 0
