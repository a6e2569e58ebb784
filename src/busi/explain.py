"""Where in an image the network saw its reasons: Grad-CAM on DenseNet121's last feature map.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017. The map
of a class is the last feature map's channels, each weighed by the mean gradient of that class's logit, summed, and cut
at zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from busi.backend import keras, tf
from busi.inference import FEATURE_MAP

HEAD = "head"

_POOLED = WeakKeyDictionary()  # made once a model: Keras keeps some kilobytes of each that is made


def grad_cam(model: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The Grad-CAM of one class for each image.

    Args:
        model: as `model.build_model` makes it: a feature map named `FEATURE_MAP`, a softmax layer named `HEAD`.
        features: float32 (n, h, w, C), the output of `FEATURE_MAP`, as `inference.compile_pass` gives it.
        classes: (n,) integers, the class to explain, in the order of `layout.CLASSES`.

    Returns:
        float32 (n, h, w), each map from 0 to 1, where 1 is its peak; all 0 where nothing speaks for the class.
    """
    found = np.maximum(evidence(model, features, classes), 0)
    peaks = found.max(axis=(1, 2), keepdims=True)
    return np.divide(found, peaks, out=np.zeros_like(found), where=peaks > 0)


def evidence(model: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The same before it is cut at zero and scaled, float32 (n, h, w): below 0 is what speaks against the class."""
    head = model.get_layer(HEAD)
    if model not in _POOLED:
        _POOLED[model] = keras.Model(model.get_layer(FEATURE_MAP).output, head.input)
    pooled = _POOLED[model]
    with tf.GradientTape() as tape:
        maps = tf.convert_to_tensor(features)
        tape.watch(maps)
        # The softmax is left out: the gradient of a probability vanishes where the network is sure
        logits = tf.matmul(pooled(maps, training=False), head.kernel) + head.bias
        chosen = tf.gather(logits, classes, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * maps, axis=-1).numpy()


@contextmanager
def randomised(model: keras.Model, seed: int) -> Iterator[None]:
    """Within the block the model has weights drawn anew, as before any training: what a map of learned reasons must not
    look like (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).
    """
    learned = model.get_weights()
    keras.utils.set_random_seed(seed)
    model.set_weights(keras.models.clone_model(model).get_weights())
    try:
        yield
    finally:
        model.set_weights(learned)


def enlarge(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """One map, float32 (h, w) in 0-1, stretched over an image: float32 (height, width) in 0-1, bilinear."""
    stretched = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(stretched), 0, 1)
