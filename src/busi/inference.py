"""One compiled pass over images gives all that is asked of the network: tracing DenseNet121 takes seconds.

pixels (n, S, S, 3) in 0-255 -> probabilities, the numbers that `busi.novelty` measures distances between, and the
feature map that `busi.explain` starts from
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FEATURE_MAP = "relu"  # the layer before DenseNet121's global pooling
LEVELS = ("conv1_relu", "pool2_pool")  # described; with later layers more photographs pass: benchmarks/unknown_input.py


class Seen(NamedTuple):
    """What the network makes of n images, all float32."""

    probabilities: np.ndarray  # (n, classes)
    described: np.ndarray  # (n, F): for each of `LEVELS` the channels' means and the logs of their standard deviations
    features: np.ndarray  # (n, h, w, C), the output of `FEATURE_MAP`


def compile_pass(model) -> Callable[[np.ndarray], Seen]:
    """A function of pixels, (n, S, S, 3) in 0-255 of any type. It follows when the model's weights are set anew.

    Args:
        model: Keras model with layers named `LEVELS` and `FEATURE_MAP`, pixels (n, S, S, 3) in 0-255 to probabilities
            (n, classes).

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf  # here, so that reading this module's names costs no TensorFlow

    wanted = (*LEVELS, FEATURE_MAP)
    missing = set(wanted) - {layer.name for layer in model.layers}
    if missing:
        raise ValueError(f"the model has no layer {', '.join(sorted(missing))}; expected DenseNet121's layers")
    network = keras.Model(model.input, [model.output, *(model.get_layer(name).output for name in wanted)])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def run(pixels):
        probabilities, *levels, features = network(pixels, training=False)
        numbers = []
        for level in levels:
            mean, variance = tf.nn.moments(level, axes=[1, 2])
            numbers += [mean, tf.math.log1p(tf.sqrt(variance))]
        return probabilities, tf.concat(numbers, axis=1), features

    return lambda pixels: Seen(*(found.numpy() for found in run(tf.cast(pixels, tf.float32))))
