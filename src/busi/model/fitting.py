"""From images or stored features to a trained and calibrated model: the one place where a model is trained.

`featurize` and `fit` are the two halves, one a stage; `fit_images` is both, for a split that has no stored features.
Both halves build the same initial model from the same seed, so the prefix that features came through is the one that
the trained model has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from busi.backend import keras
from busi.model.augmentation import AugmentationConfig
from busi.model.features import Features, feature_rows, read_features, write_features
from busi.model.freezing import cut
from busi.model.network import build_model, seed_everything
from busi.model.precision import Precision, for_inference
from busi.model.training import TrainingConfig, calibrate, train, training_set_from_rows

NO_WEIGHTS = "none"  # in place of a file name: random weights
FEATURES, CHECKPOINT = "features.npy", "checkpoint.npz"  # in the folder of `fit_images`


@dataclass(frozen=True)
class NetworkConfig:
    """The network before training, and the views that features are stored of.

    Args:
        image_size: side S of the square input, pixels.
        weights: HDF5 file of the backbone; None for random weights.
        freeze_until: the last layer that is not trained.
        views: augmented views stored of each training image.
        precision: of the frozen prefix.
        seed: of random weights and of the views.
        augmentation: how far views may differ from their image.
    """

    image_size: int
    weights: Path | None
    freeze_until: str
    views: int
    precision: Precision
    seed: int
    augmentation: AugmentationConfig

    @classmethod
    def from_section(cls, values: Mapping, folder: Path) -> "NetworkConfig":
        """From the section `featurize` of the parameters, as a dictionary.

        Args:
            values: the fields above, save that `boundary` is `freeze_until`, that `weights` is the name of a file in
                `folder` or `none`, and that `augmentation` is a dictionary of `AugmentationConfig`'s fields.
            folder: holds the weights files.
        """
        values = dict(values)
        return cls(
            freeze_until=values.pop("boundary"),
            weights=None if (name := values.pop("weights")) == NO_WEIGHTS else folder / name,
            augmentation=AugmentationConfig(**values.pop("augmentation")),
            **values,
        )


class Fit(NamedTuple):
    """A trained model, calibrated: pixels (n, S, S, 3) in 0-255 to probabilities (n, 3)."""

    model: keras.Model
    history: pd.DataFrame  # as `training.train` returns it
    temperature: float  # that the head's weights were divided by


def initial_model(network: NetworkConfig, dropout: float) -> keras.Model:
    """The model before training, the same each time. Seeds Python, NumPy and TensorFlow.

    Raises:
        ValueError: the weights file cannot be used, as `network.build_model` says.
    """
    seed_everything(network.seed)
    return build_model(network.image_size, dropout, network.weights)


def featurize(folder: Path, split: pd.DataFrame, network: NetworkConfig, path: Path) -> pd.DataFrame:
    """Run the frozen prefix over every image and augmented view, and write its output to `path`.

    Args:
        folder: the images' paths are relative to it.
        split: columns path, label and part.
        path: the file to write, float16 (rows, ...).

    Returns:
        Which row is which, as `features.feature_rows` gives it.

    Raises:
        ValueError: as `initial_model`, `freezing.cut` and `features.write_features`.
    """
    prefix, _ = cut(initial_model(network, dropout=0.0), network.freeze_until)
    rows = feature_rows(split, network.views)
    write_features(for_inference(prefix, network.precision), folder, rows, network.augmentation, network.seed, path)
    return rows


def fit(
    features: Features,
    rows: pd.DataFrame,
    configs: tuple[NetworkConfig, TrainingConfig],
    checkpoint: Path,
    key: str,
    on_epoch: Callable[[dict], None],
) -> Fit:
    """Train on stored features and calibrate.

    Args:
        features: of `featurize`, as `features.read_features` gives them.
        rows: of `featurize`.
        configs: the network's must be the one of `featurize`.
        checkpoint: file of the last whole epoch; a run that was killed continues from it.
        key: hash of everything that decides the result; a checkpoint with another one is not used.
        on_epoch: called after each epoch with its row of the history.

    Raises:
        ValueError: as `initial_model`, `freezing.cut` and `training.train`.
    """
    network, training = configs
    model = initial_model(network, training.dropout)
    _, trainable_layers = cut(model, network.freeze_until)
    training_set = training_set_from_rows(features, rows)
    history = train(trainable_layers, training_set, training, checkpoint, key, on_epoch)
    return Fit(model, history, calibrate(trainable_layers, training_set, training.batch_size))


def fit_images(
    folder: Path,
    split: pd.DataFrame,
    configs: tuple[NetworkConfig, TrainingConfig],
    scratch: Path,
    on_epoch: Callable[[dict], None],
) -> Fit:
    """Train on images with another split, as `featurize` and `fit` do one after the other.

    Args:
        folder: the images' paths are relative to it.
        split: columns path, label and part.
        scratch: an empty folder for the features and the checkpoint; the caller removes it.
        on_epoch: called after each epoch with its row of the history.

    Raises:
        ValueError: as `featurize` and `fit`.
    """
    rows = featurize(folder, split, configs[0], scratch / FEATURES)
    features = read_features(scratch / FEATURES, rows)
    return fit(features, rows, configs, scratch / CHECKPOINT, "images", on_epoch)
