"""Which parts of an image speak for a class: HiResCAM on the feature maps that the head reads.

Draelos & Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks,
arXiv:2011.08891, 2020. The map of a class is, cell by cell, the sum over channels of the feature map times the gradient
of that class's logit. The head is linear in means and standard deviations of channels. So the sum over one layer's map
is that layer's share of the logit, and the sum over all maps is the logit, up to a constant. (Grad-CAM takes the mean
of the gradient over the map, which is zero for a standard deviation.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from busi.backend import keras, tf
from busi.model.backbone import FEATURE_MAPS, HEAD

_READ = WeakKeyDictionary()  # one built for each model: Keras keeps some kilobytes of every model that was built


def heat_map(model: keras.Model, feature_maps: list[np.ndarray], classes: np.ndarray) -> np.ndarray:
    """What speaks for one class of each image.

    Args:
        model: as `network.build_model` makes it: layers named `FEATURE_MAPS`, a softmax layer named `HEAD`.
        feature_maps: float32, each (n, h, w, C), as `inference.compile_pass` gives them.
        classes: (n,) integers, the class to explain, in the order of `layout.CLASSES`.

    Returns:
        float32 (n, h, w) of the first feature map's size, each from 0 to 1, where 1 is its peak; all 0 where nothing
        speaks for the class.
    """
    found = np.maximum(evidence(model, feature_maps, classes), 0)
    peaks = found.max(axis=(1, 2), keepdims=True)
    return np.divide(found, peaks, out=np.zeros_like(found), where=peaks > 0)


def evidence(model: keras.Model, feature_maps: list[np.ndarray], classes: np.ndarray) -> np.ndarray:
    """The maps before they are cut at zero and scaled, float32 (n, h, w); negative values speak against the class.

    Args:
        model, feature_maps, classes: as for `heat_map`.
    """
    head = model.get_layer(HEAD)
    if model not in _READ:
        names = [layer.name for layer in model.layers]
        inputs = [model.get_layer(name).output for name in FEATURE_MAPS if name in names]
        _READ[model] = keras.Model(inputs if len(inputs) > 1 else inputs[0], head.input)
    read = _READ[model]
    maps = [tf.convert_to_tensor(one) for one in feature_maps]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        # The softmax is left out: the gradient of a probability vanishes where the network is sure
        logits = tf.matmul(read(maps if len(maps) > 1 else maps[0], training=False), head.kernel) + head.bias
        chosen = tf.gather(logits, classes, axis=1, batch_dims=1)
    # Models of the first registered versions read their last feature map alone
    gradients = tape.gradient(chosen, maps, unconnected_gradients="zero")
    return sum(_laid_over(tf.reduce_sum(g * m, -1), maps[0].shape[1:3]) for g, m in zip(gradients, maps, strict=True))


@contextmanager
def randomised(model: keras.Model, seed: int) -> Iterator[None]:
    """Within the block the model has new random weights, as before any training.

    Maps of a trained model must look different (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).
    """
    learned = model.get_weights()
    keras.utils.set_random_seed(seed)
    model.set_weights(keras.models.clone_model(model).get_weights())
    try:
        yield
    finally:
        model.set_weights(learned)


def _laid_over(heat: tf.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Maps (n, h, w) at another size, bilinear, their sums as before."""
    larger = tf.image.resize(heat[..., tf.newaxis], size)[..., 0]
    return (larger * (heat.shape[1] * heat.shape[2] / (size[0] * size[1]))).numpy()


def enlarge(heat: np.ndarray, width: int, height: int) -> np.ndarray:
    """One map, float32 (h, w) in 0-1, stretched over an image: float32 (height, width) in 0-1, bilinear."""
    stretched = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(stretched), 0, 1)
