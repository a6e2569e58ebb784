"""Running the network: `predict` over many batches, `compile_pass` for all that is asked of an image.

`compile_pass`: pixels (n, S, S, 3) in 0-255 -> probabilities, the numbers that `ood_detection` measures distances
between, and the feature maps that `explanation` starts from. One compiled pass gives them all, because tracing
DenseNet121 takes seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from busi.model.backbone import FEATURE_MAPS

DESCRIBED = ("conv1_relu", "pool2_pool")  # with later layers more photographs pass: benchmarks/unknown_input.py
PARALLEL = 8  # images that `predict` has in memory at once; it computes as many as TensorFlow has inter-op threads


class Seen(NamedTuple):
    """What the network makes of n images, all float32."""

    probabilities: np.ndarray  # (n, classes)
    described: np.ndarray  # (n, F): of each of `DESCRIBED` the channels' means and logs of standard deviations
    feature_maps: list[np.ndarray]  # each (n, h, w, C), of those of `FEATURE_MAPS` that the model has


def predict(model, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Run a Keras model of one input and one output in inference mode; yields float32 (n, ...) for each batch (n, ...).

    Each image passes by itself, so its result is the same, bit for bit, whatever batch it stands in and wherever. (A
    convolution of several images together adds up its products in an order that depends on their number, and for the
    last images on their place. In float32 that changes the last digits.) The order also depends on processor and
    number of threads (`TF_NUM_INTRAOP_THREADS`): results are equal between runs that agree in these.
    """
    from busi.backend import tf

    def one(image):
        return tf.cast(model(image[tf.newaxis], training=False)[0], tf.float32)

    # Compiled once, for batches of any size: another time for the last and smaller one costs seconds
    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def forward(batch):
        return tf.map_fn(one, batch, parallel_iterations=PARALLEL)

    for batch in batches:
        yield forward(tf.cast(batch, tf.float32)).numpy()


def compile_pass(model) -> Callable[[np.ndarray], Seen]:
    """A function of pixels, (n, S, S, 3) in 0-255 of any type. It follows when the model's weights are set anew.

    The images are computed together. So the last digits of an answer depend on how many they are; `predict` does not.

    Args:
        model: Keras model with layers named `DESCRIBED` and the last of `FEATURE_MAPS`, pixels (n, S, S, 3) in 0-255 to
            probabilities (n, classes).

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf  # here, so that reading this module's names costs no TensorFlow

    layers = _outputs(model, {*DESCRIBED, FEATURE_MAPS[-1]})
    maps = [layers[name] for name in FEATURE_MAPS if name in layers]
    network = keras.Model(model.input, [model.output, [layers[name] for name in DESCRIBED], maps])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def run(pixels):
        probabilities, described, feature_maps = network(pixels, training=False)
        return probabilities, _numbers(described), feature_maps

    return lambda pixels: Seen(*tf.nest.map_structure(lambda found: found.numpy(), run(tf.cast(pixels, tf.float32))))


def compile_description(model) -> Callable[[np.ndarray], np.ndarray]:
    """A function of pixels to `Seen.described` alone, which early layers give in a third of the time of a pass.

    Args:
        model: as for `compile_pass`, of which it needs the layers named `DESCRIBED`.

    Raises:
        ValueError: it lacks one of these layers.
    """
    from busi.backend import keras, tf

    layers = _outputs(model, set(DESCRIBED))
    network = keras.Model(model.input, [layers[name] for name in DESCRIBED])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def run(pixels):
        return _numbers(network(pixels, training=False))

    return lambda pixels: run(tf.cast(pixels, tf.float32)).numpy()


def _outputs(model, needed: set[str]) -> dict:
    """The outputs of a model's layers by name. Raises ValueError where a needed one is missing."""
    outputs = {layer.name: layer.output for layer in model.layers}
    if missing := needed - set(outputs):
        raise ValueError(f"the model has no layer {', '.join(sorted(missing))}; expected DenseNet121's layers")
    return outputs


def _numbers(maps: list):
    """What `Seen.described` says of feature maps (n, h, w, C), float32 (n, F)."""
    from busi.backend import tf

    numbers = []
    for layer in maps:
        mean, variance = tf.nn.moments(layer, axes=[1, 2])
        numbers += [mean, tf.math.log1p(tf.sqrt(variance))]
    return tf.concat(numbers, axis=1)
