"""The compiled passes: what they give is what the layers give, for batches of any size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from busi.backend import keras
from busi.model.backbone import FEATURE_MAPS
from busi.model.inference import OOD_LAYERS, compile_ood_features, compile_pass, predict

SIZE = 32  # of the fixtures `whole` and `pixels`


def _flags() -> list[str]:
    """The processor's instruction sets, where the system says them."""
    information = Path("/proc/cpuinfo")
    return information.read_text().split() if information.is_file() else []


def test_a_pass_gives_probabilities_feature_maps_and_channel_statistics(whole, pixels):
    look = compile_pass(whole)
    seen = [look(part) for part in (pixels[:2], pixels[2:])]
    maps = [whole.get_layer(name).output for name in (*FEATURE_MAPS, *OOD_LAYERS)]
    probabilities, *outputs = keras.Model(whole.input, [whole.output, *maps])(pixels.astype(np.float32))
    np.testing.assert_allclose(np.concatenate([one.probabilities for one in seen]), probabilities, atol=1e-5)
    for found, expected in zip(
        zip(*(one.feature_maps for one in seen), strict=True), outputs[: len(FEATURE_MAPS)], strict=True
    ):
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)
    numbers = [
        number
        for layer in map(np.asarray, outputs[len(FEATURE_MAPS) :])
        for number in (layer.mean(axis=(1, 2)), np.log1p(layer.std(axis=(1, 2))))
    ]
    ood_features = np.concatenate([one.ood_features for one in seen])
    np.testing.assert_allclose(ood_features, np.concatenate(numbers, axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(compile_ood_features(whole)(pixels), ood_features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compiled", [compile_pass, compile_ood_features])
def test_a_network_without_these_layers_is_refused_with_their_names(compiled):
    pixels = keras.Input((SIZE, SIZE, 3))
    with pytest.raises(ValueError, match="no layer conv1_relu, pool2_pool"):
        compiled(keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels)))


def test_a_prediction_is_what_the_model_gives(whole, pixels):
    batches = list(predict(whole, [pixels[:3], pixels[3:]]))
    assert [(batch.shape, batch.dtype) for batch in batches] == [((3, 3), np.float32), ((2, 3), np.float32)]
    expected = np.asarray(whole(pixels.astype(np.float32), training=False))
    np.testing.assert_allclose(np.concatenate(batches), expected, atol=1e-5)


def test_in_float32_a_result_depends_on_no_batch_and_no_place(whole):
    """Also run by itself, on the instructions that every processor of this decade has; see below."""
    images = np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.uint8)
    network = keras.Model(whole.input, whole.get_layer("levels").output)
    cuts = [range(0, 41, size) for size in (1, 3, 8, 31)]
    in_batches = [images[start : start + cut.step] for cut in cuts for start in cut if start < 40]
    moved = [np.roll(images, shift, axis=0) for shift in (1, 5, 8)]
    repeated = np.repeat(images[:1], 32, axis=0)
    alone, *found = predict(network, [images, *in_batches, *moved, repeated])
    np.testing.assert_array_equal(np.concatenate(found[: len(in_batches)]), np.concatenate([alone] * len(cuts)))
    for shift, values in zip((1, 5, 8), found[len(in_batches) : -1], strict=True):
        np.testing.assert_array_equal(np.roll(values, -shift, axis=0), alone)
    assert len(np.unique(found[-1], axis=0)) == 1


@pytest.mark.skipif("avx512f" not in _flags(), reason="the processor has no AVX-512 that could be left unused")
def test_so_it_is_where_onednn_is_held_to_avx2():
    this = f"{__file__}::{test_in_float32_a_result_depends_on_no_batch_and_no_place.__name__}"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", this]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
