"""Out-of-distribution detection: the distance of an image to the training images, with a threshold.

A classifier gives three probabilities for a holiday photograph too. Its texture tells it from an ultrasound image, and
early layers measure texture. The features are each channel's mean and spread over the image, in two early layers. The
distance of an image is the Mahalanobis distance of its features to those of the training images (Lee et al., A Simple
Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018; here without classes,
and with the shrunk covariance of Ledoit and Wolf, J. Multivariate Analysis 88, 2004, since there may be fewer images
than features). The threshold is a quantile of the validation images' distances.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_FLOOR = 1e-6  # of a standard deviation, for a channel that is constant over the training images


@dataclass(frozen=True)
class OodDetector:
    """The training images' features: their mean `center` (F,) and inverse covariance `precision` (F, F), float64.

    Images up to the distance `threshold` are accepted.
    """

    center: np.ndarray
    precision: np.ndarray
    threshold: float

    def distance(self, ood_features: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances, float64 (n,), 0 or more, of features (n, F) as in `inference.Outputs`."""
        away = np.asarray(ood_features, dtype=np.float64) - self.center
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


def fit_detector(training: np.ndarray, validation: np.ndarray, accepted: float) -> OodDetector:
    """The detector of a training set, with the threshold that accepts a share of the validation images.

    Args:
        training: features (n, F) of at least two images.
        validation: features (m, F) of images that were not trained on, at least one.
        accepted: share of the validation images to accept, 0 to 1.

    Raises:
        ValueError: too few images.
    """
    from sklearn.covariance import LedoitWolf

    if len(training) < 2 or not len(validation):
        raise ValueError(f"{len(training)} training and {len(validation)} validation images; expected 2 and 1 at least")
    training = np.asarray(training, dtype=np.float64)
    center, scale = training.mean(axis=0), np.maximum(training.std(axis=0), _FLOOR)
    # Shrinkage pulls the covariance towards a sphere, so all features are brought to one scale first
    precision = LedoitWolf(assume_centered=True).fit((training - center) / scale).precision_ / np.outer(scale, scale)
    found = OodDetector(center, precision, np.inf)
    return OodDetector(center, precision, float(np.quantile(found.distance(validation), accepted)))
