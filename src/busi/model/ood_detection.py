"""Is this picture like those the model was trained on? A distance to the training images, with a threshold.

A classifier gives three probabilities for a holiday photograph too. What tells them apart is texture, which the early
layers measure: for each channel of two of them the mean and the spread over the image. The distance of an image is
the Mahalanobis distance of these numbers to the training images (Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018; here without classes, and with the shrunk
covariance of Ledoit and Wolf, J. Multivariate Analysis 88, 2004, since there may be fewer images than numbers). The
threshold is a quantile of the validation images' distances.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_FLOOR = 1e-6  # of a spread: a channel that is dead on all training images


@dataclass(frozen=True)
class OodDetector:
    """What is known of the training images: float64 `center` (F,), `precision` (F, F), and the largest distance
    that is taken for one of their kind."""

    center: np.ndarray
    precision: np.ndarray
    threshold: float

    def distance(self, described: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances, float64 (n,) from 0 up, of n images, described as in `inference.Seen`."""
        away = np.asarray(described, dtype=np.float64) - self.center
        return np.einsum("nf,fg,ng->n", away, self.precision, away)

    def save(self, path: Path) -> None:
        """Write an .npz. Not by `np.savez`, whose bytes depend on the release of Python (the headers of zipfile)."""
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("center", "precision", "threshold"):
                content = io.BytesIO()
                np.save(content, getattr(self, name))
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "OodDetector":
        """Read what `save` wrote; never unpickles. Raises ValueError for another file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["center"], file["precision"], float(file["threshold"]))
        except (KeyError, OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path} is not a file of OodDetector: {error}") from error


def fit(training: np.ndarray, validation: np.ndarray, accepted: float) -> OodDetector:
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
    found = OodDetector(center, precision, np.inf)
    return OodDetector(center, precision, float(np.quantile(found.distance(validation), accepted)))
