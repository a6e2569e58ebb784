"""One compiled pass over images gives all that is asked of the network: tracing DenseNet121 takes seconds.

pixels (n, S, S, 3) in 0-255 -> probabilities, the numbers that `busi.novelty` measures distances between, and the
feature maps that `busi.explain` starts from
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEVELS = ("pool2_pool", "pool3_pool", "pool4_pool", "relu")  # the head reads all of these; the last is DenseNet121's own
DESCRIBED = ("conv1_relu", "pool2_pool")  # with later layers more photographs pass: benchmarks/unknown_input.py


class Seen(NamedTuple):
    """What the network makes of n images, all float32."""

    probabilities: np.ndarray  # (n, classes)
    described: np.ndarray  # (n, F): of each of `DESCRIBED` the channels' means and the logs of their standard deviations
    levels: list[np.ndarray]  # each (n, h, w, C), the outputs of those of `LEVELS` that the model has


def compile_pass(model) -> Callable[[np.ndarray], Seen]:
    """A function of pixels, (n, S, S, 3) in 0-255 of any type. It follows when the model's weights are set anew.

    Args:
        model: Keras model with layers named `DESCRIBED` and the last of `LEVELS`, pixels (n, S, S, 3) in 0-255 to
            probabilities (n, classes).

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf  # here, so that reading this module's names costs no TensorFlow

    layers = {layer.name: layer.output for layer in model.layers}
    if missing := {*DESCRIBED, LEVELS[-1]} - set(layers):
        raise ValueError(f"the model has no layer {', '.join(sorted(missing))}; expected DenseNet121's layers")
    levels = [layers[name] for name in LEVELS if name in layers]
    network = keras.Model(model.input, [model.output, [layers[name] for name in DESCRIBED], levels])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def run(pixels):
        probabilities, described, levels = network(pixels, training=False)
        numbers = []
        for layer in described:
            mean, variance = tf.nn.moments(layer, axes=[1, 2])
            numbers += [mean, tf.math.log1p(tf.sqrt(variance))]
        return probabilities, tf.concat(numbers, axis=1), levels

    return lambda pixels: Seen(*tf.nest.map_structure(lambda found: found.numpy(), run(tf.cast(pixels, tf.float32))))
