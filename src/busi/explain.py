"""Where in an image the network saw its reasons: Grad-CAM on DenseNet121's last feature map.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017. The map
of a class is the last feature map's channels, each weighed by the mean gradient of that class's logit, summed, and cut
at zero. Pixels go in as they go into the model, so the map is of the model's own preprocessing.
"""

import threading
from functools import lru_cache

import numpy as np
from PIL import Image

from busi.backend import keras, tf

FEATURE_MAP = "relu"  # the layer before DenseNet121's global pooling
HEAD = "head"
BATCH = 32

_COMPILING = threading.Lock()  # the app's sessions ask for the same at the same moment


def grad_cam(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The Grad-CAM of one class for each image.

    Args:
        model: as `model.build_model` makes it: a feature map named `FEATURE_MAP`, a softmax layer named `HEAD`.
        pixels: (n, S, S, 3), values 0-255, as `images.prepare` gives them.
        classes: (n,) integers, the class to explain, in the order of `layout.CLASSES`.

    Returns:
        float32 (n, h, w) at the resolution of the feature map (S / 32), each map from 0 to 1, where 1 is its peak; all
        0 where nothing speaks for the class.
    """
    found = np.maximum(evidence(model, pixels, classes), 0)
    peaks = found.max(axis=(1, 2), keepdims=True)
    return np.divide(found, peaks, out=np.zeros_like(found), where=peaks > 0)


def evidence(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The same before it is cut at zero and scaled, float32 (n, h, w): below 0 is what speaks against the class."""
    with _COMPILING:
        run = _compiled(model)
    parts = [slice(start, start + BATCH) for start in range(0, len(pixels), BATCH)]
    return np.concatenate([run(tf.cast(pixels[part], tf.float32), classes[part]).numpy() for part in parts])


def randomised(model: keras.Model, seed: int) -> keras.Model:
    """The same architecture with weights drawn anew, as before any training: what a map of learned reasons must not
    look like (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).
    """
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(model)


def forget() -> None:
    """Let go of the models that were explained, with what was compiled for them."""
    _compiled.cache_clear()


def enlarge(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """One map, float32 (h, w) in 0-1, stretched over an image: float32 (height, width) in 0-1, bilinear."""
    stretched = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(stretched), 0, 1)


@lru_cache(maxsize=2)  # compiling takes seconds
def _compiled(model: keras.Model):
    """From pixels (n, S, S, 3) and classes (n,) to evidence (n, h, w)."""
    head = model.get_layer(HEAD)
    features = model.get_layer(FEATURE_MAP).output
    before, after = keras.Model(model.input, features), keras.Model(features, head.input)

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:])), tf.TensorSpec((None,), tf.int64)])
    def run(pixels, classes):
        maps = before(pixels, training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            # The softmax is left out: the gradient of a probability vanishes where the network is sure
            logits = tf.matmul(after(maps, training=False), head.kernel) + head.bias
            chosen = tf.gather(logits, classes, axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
        return tf.reduce_sum(weights * maps, axis=-1)

    return run
