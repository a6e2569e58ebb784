"""Running the network: `predict` over many batches, `compile_pass` for all that is asked of an image.

`compile_pass`: pixels (n, S, S, 3) in 0-255 -> probabilities, the features that `ood_detection` measures distances
between, and the feature maps that `explanation` starts from. One compiled pass gives all three, because tracing
DenseNet121 takes seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from busi.model.backbone import FEATURE_MAPS

# Early layers; later ones accept more photographs, see benchmarks/unknown_input.py
OOD_LAYERS = ("conv1_relu", "pool2_pool")
PARALLEL = 8  # images that `predict` has in memory at once; it computes as many as TensorFlow has inter-op threads


class Outputs(NamedTuple):
    """What a pass gives for n images, all float32."""

    probabilities: np.ndarray  # (n, classes)
    ood_features: np.ndarray  # (n, F): of `OOD_LAYERS` each channel's mean and log(1 + standard deviation)
    feature_maps: list[np.ndarray]  # each (n, h, w, C), of those of `FEATURE_MAPS` that the model has


def predict(model, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Run a Keras model of one input and one output in inference mode; yields float32 (n, ...) for each batch (n, ...).

    Each image passes through the network by itself. So its result is the same, bit for bit, in every batch and at every
    place in it. (A convolution of several images at once sums its products in an order that depends on their number
    and, for the last images, on their place. In float32 that changes the last digits.) The order of summation also
    depends on the processor and on the number of threads (`TF_NUM_INTRAOP_THREADS`): two runs give equal results if
    they agree in both.
    """
    from busi.backend import tf

    def one(image):
        return tf.cast(model(image[tf.newaxis], training=False)[0], tf.float32)

    # Compiled once, for batches of any size: compiling again for a smaller last batch would take seconds
    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)], autograph=False)
    def forward(batch):
        return tf.map_fn(one, batch, parallel_iterations=PARALLEL)

    for batch in batches:
        yield forward(tf.cast(batch, tf.float32)).numpy()


def compile_pass(model) -> Callable[[np.ndarray], Outputs]:
    """A function from pixels, (n, S, S, 3) in 0-255 of any type, to `Outputs`. It uses the model's present weights.

    The images are computed together, so the last digits of a result depend on their number; those of `predict` don't.

    Args:
        model: Keras model from pixels (n, S, S, 3) in 0-255 to probabilities (n, classes), with layers named
            `OOD_LAYERS` and the last of `FEATURE_MAPS`.

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf  # here, so that reading this module's names costs no TensorFlow

    layers = _outputs(model, {*OOD_LAYERS, FEATURE_MAPS[-1]})
    maps = [layers[name] for name in FEATURE_MAPS if name in layers]
    network = keras.Model(model.input, [model.output, [layers[name] for name in OOD_LAYERS], maps])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)], autograph=False)
    def run(pixels):
        probabilities, early_maps, feature_maps = network(pixels, training=False)
        return probabilities, _channel_statistics(early_maps), feature_maps

    return lambda pixels: Outputs(*tf.nest.map_structure(lambda found: found.numpy(), run(tf.cast(pixels, tf.float32))))


def compile_ood_features(model) -> Callable[[np.ndarray], np.ndarray]:
    """A function from pixels to `Outputs.ood_features` alone, which early layers give in a third of the time of a pass.

    Args:
        model: as for `compile_pass`, but only the layers named `OOD_LAYERS` are needed.

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf

    layers = _outputs(model, set(OOD_LAYERS))
    network = keras.Model(model.input, [layers[name] for name in OOD_LAYERS])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)], autograph=False)
    def run(pixels):
        return _channel_statistics(network(pixels, training=False))

    return lambda pixels: run(tf.cast(pixels, tf.float32)).numpy()


def _outputs(model, needed: set[str]) -> dict:
    """The outputs of a model's layers by name. Raises ValueError where a needed one is missing."""
    outputs = {layer.name: layer.output for layer in model.layers}
    if missing := needed - set(outputs):
        raise ValueError(f"the model has no layer {', '.join(sorted(missing))}; expected DenseNet121's layers")
    return outputs


def _channel_statistics(maps: list):
    """`Outputs.ood_features`, float32 (n, F), from feature maps (n, h, w, C)."""
    from busi.backend import tf

    numbers = []
    for layer in maps:
        mean, variance = tf.nn.moments(layer, axes=[1, 2])
        numbers += [mean, tf.math.log1p(tf.sqrt(variance))]
    return tf.concat(numbers, axis=1)
