"""Is this picture like those the model was trained on? A distance to the training images, with a threshold.

A classifier gives three probabilities for a holiday photograph too. What tells them apart is texture, which the early
layers measure: for each channel of two of them the mean and the spread over the image. The distance of an image is
the Mahalanobis distance of these numbers to the training images (Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018; here without classes, and with the shrunk
covariance of Ledoit and Wolf, J. Multivariate Analysis 88, 2004, since there may be fewer images than numbers). The
threshold is a quantile of the validation images' distances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEVELS = ("conv1_relu", "pool2_pool")  # with later layers more photographs pass: benchmarks/unknown_input.py

_FLOOR = 1e-6  # of a spread: a channel that is dead on all training images


@dataclass(frozen=True)
class Novelty:
    """What is known of the training images: float64 `center` (F,), `precision` (F, F), and the largest distance
    that is taken for one of their kind."""

    center: np.ndarray
    precision: np.ndarray
    threshold: float

    def distance(self, described: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances, float64 (n,) from 0 up, of what `describe` says of n images (n, F)."""
        away = np.asarray(described, dtype=np.float64) - self.center
        return np.einsum("nf,fg,ng->n", away, self.precision, away)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, center=self.center, precision=self.precision, threshold=self.threshold)

    @classmethod
    def load(cls, path: Path) -> "Novelty":
        """Read what `save` wrote; never unpickles. Raises ValueError for another file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["center"], file["precision"], float(file["threshold"]))
        except (KeyError, OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is not a file of novelty.Novelty: {error}") from error


def describe(model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """One compiled pass that gives probabilities and what the distance is of.

    Args:
        model: Keras model with layers named `LEVELS`, pixels (n, S, S, 3) in 0-255 to probabilities (n, classes).

    Returns:
        A function of pixels, (n, S, S, 3) in 0-255 of any type, to float32 probabilities (n, classes) and float32
        descriptions (n, F): for each level the channels' means and the logs of their standard deviations.
    """
    from busi.backend import keras, tf  # here, so that what only reads and measures distances costs no TensorFlow

    missing = set(LEVELS) - {layer.name for layer in model.layers}
    if missing:
        raise ValueError(f"the model has no layer {', '.join(sorted(missing))}; expected DenseNet121's layers")
    network = keras.Model(model.input, [model.output, *(model.get_layer(name).output for name in LEVELS)])

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def run(pixels):
        probabilities, *levels = network(pixels, training=False)
        numbers = []
        for level in levels:
            mean, variance = tf.nn.moments(level, axes=[1, 2])
            numbers += [mean, tf.math.log1p(tf.sqrt(variance))]
        return probabilities, tf.concat(numbers, axis=1)

    def on(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, numbers = run(tf.cast(pixels, tf.float32))
        return probabilities.numpy(), numbers.numpy()

    return on


def fit(training: np.ndarray, validation: np.ndarray, accepted: float) -> Novelty:
    """What is known of the training images, with the threshold that accepts a share of the validation images.

    Args:
        training: descriptions (n, F) of at least two images.
        validation: descriptions (m, F) of images that were not trained on, at least one.
        accepted: share of the validation images to accept, 0 to 1.

    Raises:
        ValueError: too few images.
    """
    from sklearn.covariance import LedoitWolf

    if len(training) < 2 or not len(validation):
        raise ValueError(f"{len(training)} training and {len(validation)} validation images; expected 2 and 1 at least")
    training = np.asarray(training, dtype=np.float64)
    center, scale = training.mean(axis=0), np.maximum(training.std(axis=0), _FLOOR)
    # The shrinkage pulls towards a sphere, which is fair to all numbers once they have one scale
    precision = LedoitWolf(assume_centered=True).fit((training - center) / scale).precision_ / np.outer(scale, scale)
    found = Novelty(center, precision, np.inf)
    return Novelty(center, precision, float(np.quantile(found.distance(validation), accepted)))
