"""The compiled passes: what they give is what the layers give, for batches of any size."""

import numpy as np
import pytest

from busi.backend import keras
from busi.model import network
from busi.model.backbone import FEATURE_MAPS
from busi.model.inference import DESCRIBED, compile_description, compile_pass

SIZE = 32


@pytest.fixture(scope="module")
def whole():
    network.seed_everything(3)
    return network.build_model(SIZE, dropout=0.5, weights=None)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)


def test_a_pass_gives_probabilities_levels_and_channel_statistics(whole, pixels):
    look = compile_pass(whole)
    seen = [look(part) for part in (pixels[:2], pixels[2:])]
    maps = [whole.get_layer(name).output for name in (*FEATURE_MAPS, *DESCRIBED)]
    probabilities, *outputs = keras.Model(whole.input, [whole.output, *maps])(pixels.astype(np.float32))
    np.testing.assert_allclose(np.concatenate([one.probabilities for one in seen]), probabilities, atol=1e-5)
    for found, expected in zip(
        zip(*(one.levels for one in seen), strict=True), outputs[: len(FEATURE_MAPS)], strict=True
    ):
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)
    numbers = [
        number
        for layer in map(np.asarray, outputs[len(FEATURE_MAPS) :])
        for number in (layer.mean(axis=(1, 2)), np.log1p(layer.std(axis=(1, 2))))
    ]
    described = np.concatenate([one.described for one in seen])
    np.testing.assert_allclose(described, np.concatenate(numbers, axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(compile_description(whole)(pixels), described, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [compile_pass, compile_description])
def test_a_network_without_these_layers_is_refused_with_their_names(compiled):
    pixels = keras.Input((SIZE, SIZE, 3))
    with pytest.raises(ValueError, match="no layer conv1_relu, pool2_pool"):
        compiled(keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels)))
