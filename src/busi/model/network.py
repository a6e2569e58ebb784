"""The network: DenseNet121 with its preprocessing inside, and a head for the three classes.

    pixels (n, S, S, 3) in 0-255 -> preprocess -> DenseNet121 -> statistics of its feature maps -> head -> (n, 3)

The head reads every channel's mean and standard deviation over the image, of each of the layers `FEATURE_MAPS`: early
layers carry speckle and edges, late ones shape. Probabilities are in the order of `layout.CLASSES`.
"""

import hashlib
import warnings
from pathlib import Path

import numpy as np

from busi.backend import keras, layers, ops, tf
from busi.data.layout import CLASSES
from busi.model.backbone import (
    ALL_STATISTICS,
    FEATURE_MAPS,
    HEAD,
    HEAD_DROPOUT,
    IMAGENET_FILE,
    IMAGENET_MD5,
    IMAGENET_MEAN,
    IMAGENET_STD,
    STATISTICS_PREFIX,
    build_backbone,
)

# Added under the square root, whose slope at 0 is infinite, for a channel that is constant on an image
_LEAST_VARIANCE = 1e-6


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's operations deterministic. Call once, first."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def build_model(image_size: int, dropout: float, weights: Path | None) -> keras.Model:
    """The whole model, with random weights or with those of a no-top DenseNet121 file.

    Args:
        image_size: side S of the square input.
        dropout: rate before the classification layer.
        weights: HDF5 file of a `DenseNet121(include_top=False)`, in Keras 3's `.weights.h5` or the older `.h5` form.

    Returns:
        Model from float32 or uint8 pixels (n, S, S, 3) in 0-255 to float32 probabilities (n, 3).

    Raises:
        ValueError: the weights file is missing, truncated, not HDF5, of another network, or not finite.
    """
    pixels = keras.Input((image_size, image_size, 3), name="input")
    scaled = layers.Normalization(
        mean=[255 * m for m in IMAGENET_MEAN], variance=[(255 * s) ** 2 for s in IMAGENET_STD], name="preprocess"
    )(pixels)
    backbone = build_backbone(input_tensor=scaled)
    statistics = layers.Concatenate(name=ALL_STATISTICS)(
        [_statistics(backbone.get_layer(name)) for name in FEATURE_MAPS]
    )
    features = layers.BatchNormalization(name=f"{HEAD}_norm")(statistics)
    features = layers.Dropout(dropout, seed=0, name=HEAD_DROPOUT)(features)
    probabilities = layers.Dense(len(CLASSES), activation="softmax", name=HEAD)(features)
    model = keras.Model(pixels, probabilities, name="busi_densenet121")
    if weights is not None:
        load_backbone_weights(model, weights)
    return model


def load_backbone_weights(model: keras.Model, path: Path) -> None:
    """Copy the weights of a no-top DenseNet121 file into `model`. Raises ValueError as `build_model` says."""
    if not path.is_file():
        raise ValueError(f"weights file {path} not found; fetch it with `busi weights`, or set featurize.weights: none")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if path.name == IMAGENET_FILE and md5 != IMAGENET_MD5:
        raise ValueError(f"weights file {path} has md5 {md5}, expected {IMAGENET_MD5}; fetch it again: `busi weights`")
    source = build_backbone()
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that the file lacks and leaves them random
            warnings.simplefilter("error", UserWarning)
            source.load_weights(path)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"weights file {path} cannot be used: {reason}\n"
            "  expected the HDF5 weights of keras.applications.DenseNet121(include_top=False)"
        ) from error
    for layer in source.layers:
        if not layer.weights:
            continue
        values = layer.get_weights()
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(f"weights file {path} holds values that are not finite in layer {layer.name}")
        model.get_layer(layer.name).set_weights(values)


def _statistics(layer: keras.Layer):
    """Each channel's mean over the image, then each channel's standard deviation, float32 (n, 2 C)."""
    # In float32, even where the layer computes in bfloat16
    mean, variance = ops.moments(ops.cast(layer.output, "float32"), axes=(1, 2))
    return layers.Concatenate(name=STATISTICS_PREFIX + layer.name, dtype="float32")(
        [mean, ops.sqrt(variance + _LEAST_VARIANCE)]
    )
