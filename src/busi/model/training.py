"""Training on stored features: the head first, then all trainable layers at a lower rate, then calibration.

Batch normalisation outside the head keeps its statistics and scales, as is usual where few images adapt a network
(Keras' guide to transfer learning and fine-tuning). When it learned too, statistics of batches of 32 replaced those of
thousands of images, and the validation loss rose to several times that of training the head alone.

Everything random in an epoch is drawn from (seed, epoch), so a run that was killed and continues from its
checkpoint takes the same steps as one that was not.
"""

import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from busi.backend import keras, tf
from busi.data.layout import CLASSES
from busi.model.backbone import HEAD, HEAD_DROPOUT
from busi.model.calibration import fit_temperature
from busi.model.features import Features
from busi.model.inference import predict

CLIP_NORM = 1.0  # of each variable's gradient; keeps one bad batch from a large step
HISTORY = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]


@dataclass(frozen=True)
class TrainingConfig:
    """The numbers of a training run, by their names in the section `train` of the parameters.

    `head_*` are of the first phase, in which only the head learns; `tail_*` of the second, in which all trainable
    layers do. `dropout` is the rate before the classification layer, `patience` the number of epochs without a better
    validation loss that ends the second phase.
    """

    batch_size: int
    head_epochs: int
    tail_epochs: int
    head_learning_rate: float
    tail_learning_rate: float
    weight_decay: float
    label_smoothing: float
    dropout: float
    patience: int
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """What to train and to validate on.

    `features` is float16 (rows, ...); `train_rows[i]` are the rows of training image i's views, int (n, views);
    `val_rows` int (m,); labels are indices into `layout.CLASSES`.
    """

    features: Features | np.ndarray
    train_rows: np.ndarray
    train_labels: np.ndarray
    val_rows: np.ndarray
    val_labels: np.ndarray


def training_set_from_rows(features: Features | np.ndarray, rows: pd.DataFrame) -> TrainingSet:
    """Arrange the feature rows (`features.feature_rows`) for training."""
    train = rows[rows.part == "train"].pivot(index="path", columns="view", values="row").sort_index()
    val = rows[rows.part == "val"].sort_values("path")
    labels = rows.drop_duplicates("path").set_index("path").label.map(CLASSES.index)
    return TrainingSet(
        features, train.to_numpy(), labels[train.index].to_numpy(), val.row.to_numpy(), labels[val.path].to_numpy()
    )


def train(
    trainable_layers: keras.Model,
    training_set: TrainingSet,
    config: TrainingConfig,
    checkpoint: Path,
    key: str,
    on_epoch: Callable[[dict], None],
) -> pd.DataFrame:
    """Train `trainable_layers` in place and leave it with the weights of the best epoch (lowest validation loss).

    Args:
        trainable_layers: from features to probabilities; the layers whose names begin with `head` are its head.
        checkpoint: file to continue from when it is there and carries the same `key`, and to write after each epoch.
        key: hash of everything that decides the outcome.
        on_epoch: called after each epoch with its row of the history.

    Returns:
        One row an epoch with the columns `HISTORY`.

    Raises:
        ValueError: the loss is not finite.
    """
    state = _State(trainable_layers, checkpoint, key)
    phases = [
        ("head", config.head_epochs, config.head_learning_rate),
        ("tail", config.tail_epochs, config.tail_learning_rate),
    ]
    first = 0
    for phase, epochs, peak in phases:
        if state.epoch >= first + epochs or state.stopped:
            first += epochs
            continue
        train_step, test_step = _compile(trainable_layers, phase, config)
        state.restore_optimizer(trainable_layers.optimizer, phase)
        for epoch in range(max(first, state.epoch), first + epochs):
            # Cosine from the peak rate to zero over the phase (Loshchilov & Hutter, SGDR, 2017), a step an epoch
            rate = peak * 0.5 * (1 + math.cos(math.pi * (epoch - first) / epochs))
            trainable_layers.optimizer.learning_rate.assign(rate)
            loss, accuracy = _epoch(trainable_layers, train_step, training_set, config, epoch)
            val_loss, val_accuracy = _validate(test_step, training_set, config)
            row = dict(zip(HISTORY, [epoch, phase, loss, accuracy, val_loss, val_accuracy, rate], strict=True))
            if not (math.isfinite(loss) and math.isfinite(val_loss)):
                raise ValueError(
                    f"epoch {epoch}: loss {loss:g}, validation loss {val_loss:g}; lower train.{phase}_learning_rate"
                )
            state.finish_epoch(row, config.patience)
            on_epoch(row)
            if state.stopped:
                break
        first += epochs
    state.use_best_weights()
    return pd.DataFrame(state.history, columns=HISTORY)


def calibrate(trainable_layers: keras.Model, training_set: TrainingSet, batch_size: int) -> float:
    """Fit a temperature on the validation rows and divide the weights of the head by it.

    Returns:
        The temperature; `calibration.apply_temperature(probabilities, 1 / temperature)` gives back the earlier answers.
    """
    rows = (
        training_set.features[training_set.val_rows[start : start + batch_size]]
        for start in range(0, len(training_set.val_rows), batch_size)
    )
    probabilities = np.concatenate(list(predict(trainable_layers, rows)))
    temperature = fit_temperature(training_set.val_labels, probabilities)
    head = trainable_layers.get_layer(HEAD)
    head.set_weights([weight / np.float32(temperature) for weight in head.get_weights()])
    return temperature


def _compile(trainable_layers: keras.Model, phase: str, config: TrainingConfig) -> tuple[Callable, Callable]:
    """A step of training and one of validation.

    Both take the features and one-hot labels of a batch, the first also its weights. They give loss and accuracy. They
    are traced once, for batches of any size. Keras' `train_on_batch` is traced for each size, which takes seconds.
    """
    for layer in trainable_layers.layers:
        # Batch normalisation that is not trainable also runs in inference mode
        adapts = phase == "tail" and not isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = adapts or layer.name.startswith(HEAD)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    trainable_layers.compile(
        optimizer=keras.optimizers.AdamW(
            config.head_learning_rate, weight_decay=config.weight_decay, clipnorm=CLIP_NORM
        )
    )
    trainable_layers.optimizer.build(trainable_layers.trainable_variables)
    batch = [tf.TensorSpec((None, *trainable_layers.input_shape[1:])), tf.TensorSpec((None, len(CLASSES)))]

    @tf.function(input_signature=[*batch, tf.TensorSpec((None,))])
    def train_step(features, labels, weights):
        with tf.GradientTape() as tape:
            probabilities = trainable_layers(features, training=True)
            value = loss(labels, probabilities, sample_weight=weights)
        variables = trainable_layers.trainable_variables
        trainable_layers.optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value, _share_right(labels, probabilities)

    @tf.function(input_signature=batch)
    def test_step(features, labels):
        probabilities = trainable_layers(features, training=False)
        return loss(labels, probabilities), _share_right(labels, probabilities)

    return train_step, test_step


def _share_right(labels, probabilities):
    return tf.reduce_mean(tf.cast(tf.argmax(labels, axis=1) == tf.argmax(probabilities, axis=1), tf.float32))


def _epoch(
    trainable_layers: keras.Model, train_step: Callable, training_set: TrainingSet, config: TrainingConfig, epoch: int
) -> tuple[float, float]:
    generator = np.random.default_rng([config.seed, epoch])
    count, views = training_set.train_rows.shape
    order = generator.permutation(count)
    rows = training_set.train_rows[order, generator.integers(views, size=count)]
    labels = training_set.train_labels[order]
    weights = _class_weights(training_set.train_labels)[labels]
    dropout = trainable_layers.get_layer(HEAD_DROPOUT)
    if dropout.rate > 0:  # a layer that drops nothing has no generator
        dropout.seed_generator.state.assign(np.array([config.seed, epoch], dropout.seed_generator.state.dtype))
    sums = np.zeros(2)
    for part in tqdm(_batches(count, config), desc=f"epoch {epoch}", unit="step", leave=False, disable=None):
        features = training_set.features[rows[part]].astype(np.float32)
        sums += np.array(train_step(features, _one_hot(labels[part]), weights[part])) * len(labels[part])
    return tuple(sums / count)


def _validate(test_step: Callable, training_set: TrainingSet, config: TrainingConfig) -> tuple[float, float]:
    count = len(training_set.val_rows)
    sums = np.zeros(2)
    for part in _batches(count, config):
        features = training_set.features[training_set.val_rows[part]].astype(np.float32)
        labels = training_set.val_labels[part]
        sums += np.array(test_step(features, _one_hot(labels))) * len(labels)
    return tuple(sums / count)


def _batches(count: int, config: TrainingConfig) -> list[slice]:
    """Batches of nearly equal size: statistics of a last batch of one image would spoil batch normalisation."""
    edges = np.linspace(0, count, math.ceil(count / config.batch_size) + 1).round().astype(int)
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def _class_weights(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (len(labels) / (len(CLASSES) * counts)).astype(np.float32)


class _State:
    """What a run needs to continue: weights, optimizer, best weights so far, history. One file, replaced atomically."""

    def __init__(self, trainable_layers: keras.Model, checkpoint: Path, key: str):
        self.trainable_layers, self.checkpoint, self.key = trainable_layers, checkpoint, key
        self.history: list[dict] = []
        self.best_loss, self.waited, self.stopped = math.inf, 0, False
        self.best = [np.array(value) for value in trainable_layers.get_weights()]
        self._phase, self._optimizer = "", []
        if checkpoint.is_file():
            self._read()

    @property
    def epoch(self) -> int:
        """The next epoch to run."""
        return len(self.history)

    def restore_optimizer(self, optimizer: keras.Optimizer, phase: str) -> None:
        if self._phase == phase:
            for variable, value in zip(optimizer.variables, self._optimizer, strict=True):
                variable.assign(value)

    def finish_epoch(self, row: dict, patience: int) -> None:
        self.history.append(row)
        if row["phase"] != self._phase:
            self._phase, self.waited = row["phase"], 0
        self.waited += 1
        if row["val_loss"] < self.best_loss:
            self.best_loss, self.waited = row["val_loss"], 0
            self.best = [np.array(value) for value in self.trainable_layers.get_weights()]
        # The head phase only prepares: patience ends the phase in which all trainable layers learn
        self.stopped = row["phase"] == "tail" and self.waited >= patience
        self._write()

    def use_best_weights(self) -> None:
        self.trainable_layers.set_weights(self.best)

    def _write(self) -> None:
        arrays = {f"weight/{i}": value for i, value in enumerate(self.trainable_layers.get_weights())}
        arrays |= {f"best/{i}": value for i, value in enumerate(self.best)}
        arrays |= {f"optimizer/{i}": np.array(v) for i, v in enumerate(self.trainable_layers.optimizer.variables)}
        scalars = {"best_loss": self.best_loss, "waited": self.waited, "stopped": self.stopped}
        partial = self.checkpoint.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, key=self.key, phase=self._phase, history=json.dumps(self.history), **scalars, **arrays)
        os.replace(partial, self.checkpoint)

    def _read(self) -> None:
        with np.load(self.checkpoint, allow_pickle=False) as saved:
            if str(saved["key"]) != self.key:
                return  # a checkpoint of other inputs; it will be overwritten

            def read(prefix: str) -> list[np.ndarray]:
                return [
                    saved[f"{prefix}/{i}"] for i in range(sum(name.startswith(f"{prefix}/") for name in saved.files))
                ]

            self.trainable_layers.set_weights(read("weight"))
            self.best = read("best")
            self._optimizer = read("optimizer")
            self._phase = str(saved["phase"])
            self.history = json.loads(str(saved["history"]))
            self.best_loss, self.waited, self.stopped = (
                float(saved["best_loss"]),
                int(saved["waited"]),
                bool(saved["stopped"]),
            )
