"""Training of the tail on stored features: head first, then the whole tail at a lower rate, then its calibration.

Batch normalisation keeps its statistics and scales, as is usual where few images adapt a network (Keras' guide to
transfer learning and fine-tuning), save the one in the head. Where it learned too, batches of 32 replaced statistics of
thousands, and the validation loss rose to several times the head's.

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
from busi.model.calibration import fit_temperature
from busi.model.network import predict

HISTORY = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]


@dataclass(frozen=True)
class TrainingConfig:
    """The numbers of a training run; `params.yaml` names and documents them under `train`."""

    batch_size: int
    head_epochs: int
    tail_epochs: int
    head_learning_rate: float
    tail_learning_rate: float
    weight_decay: float
    label_smoothing: float
    patience: int
    seed: int


@dataclass(frozen=True)
class TrainingSet:
    """What to train and to validate on.

    `features` is float16 (rows, ...); `train_rows[i]` are the rows of training image i's views, int (n, views);
    `val_rows` int (m,); labels are indices into `layout.CLASSES`.
    """

    features: np.ndarray
    train_rows: np.ndarray
    train_labels: np.ndarray
    val_rows: np.ndarray
    val_labels: np.ndarray


def training_set_from_rows(features: np.ndarray, rows: pd.DataFrame) -> TrainingSet:
    """Arrange the feature rows (`features.feature_rows`) for training."""
    train = rows[rows.part == "train"].pivot(index="path", columns="view", values="row").sort_index()
    val = rows[rows.part == "val"].sort_values("path")
    labels = rows.drop_duplicates("path").set_index("path").label.map(CLASSES.index)
    return TrainingSet(
        features, train.to_numpy(), labels[train.index].to_numpy(), val.row.to_numpy(), labels[val.path].to_numpy()
    )


def train(
    tail: keras.Model,
    examples: TrainingSet,
    recipe: TrainingConfig,
    checkpoint: Path,
    key: str,
    on_epoch: Callable[[dict], None],
) -> pd.DataFrame:
    """Train `tail` in place and leave it with the weights of the best epoch (lowest validation loss).

    Args:
        tail: from features to probabilities; its head is the layers whose names begin with `head`.
        checkpoint: file to continue from when it is there and carries the same `key`, and to write after each epoch.
        key: hash of everything that decides the outcome.
        on_epoch: called after each epoch with its row of the history.

    Returns:
        One row an epoch with the columns `HISTORY`.

    Raises:
        ValueError: the loss is not finite.
    """
    state = _State(tail, checkpoint, key)
    phases = [
        ("head", recipe.head_epochs, recipe.head_learning_rate),
        ("tail", recipe.tail_epochs, recipe.tail_learning_rate),
    ]
    first = 0
    for phase, epochs, peak in phases:
        if state.epoch >= first + epochs or state.stopped:
            first += epochs
            continue
        train_step, test_step = _compile(tail, phase, recipe)
        state.restore_optimizer(tail.optimizer, phase)
        for epoch in range(max(first, state.epoch), first + epochs):
            # Cosine from the peak rate to zero over the phase (Loshchilov & Hutter, SGDR, 2017), a step an epoch
            rate = peak * 0.5 * (1 + math.cos(math.pi * (epoch - first) / epochs))
            tail.optimizer.learning_rate.assign(rate)
            loss, accuracy = _epoch(tail, train_step, examples, recipe, epoch)
            val_loss, val_accuracy = _validate(test_step, examples, recipe)
            row = dict(zip(HISTORY, [epoch, phase, loss, accuracy, val_loss, val_accuracy, rate], strict=True))
            if not (math.isfinite(loss) and math.isfinite(val_loss)):
                raise ValueError(
                    f"epoch {epoch}: loss {loss:g}, validation loss {val_loss:g}; lower train.{phase}_learning_rate"
                )
            state.finish_epoch(row, recipe.patience)
            on_epoch(row)
            if state.stopped:
                break
        first += epochs
    state.use_best_weights()
    return pd.DataFrame(state.history, columns=HISTORY)


def calibrate(tail: keras.Model, examples: TrainingSet, batch_size: int) -> float:
    """Fit a temperature on the validation rows and make it part of `tail`: the head's weights are divided by it.

    Returns:
        The temperature; `calibration.apply_temperature(probabilities, 1 / temperature)` gives back what the model said before.
    """
    rows = (
        examples.features[examples.val_rows[start : start + batch_size]]
        for start in range(0, len(examples.val_rows), batch_size)
    )
    probabilities = np.concatenate(list(predict(tail, rows)))
    temperature = fit_temperature(examples.val_labels, probabilities)
    head = tail.get_layer("head")
    head.set_weights([weight / np.float32(temperature) for weight in head.get_weights()])
    return temperature


def _compile(tail: keras.Model, phase: str, recipe: TrainingConfig) -> tuple[Callable, Callable]:
    """A step of training and one of validation: from features, one-hot labels and, in training, weights of a batch to
    its loss and its share of right answers.

    Traced once, for batches of any size: `train_on_batch` is for each size anew, and with DenseNet's layers each time
    takes seconds.
    """
    for layer in tail.layers:
        # Batch normalisation that is not trainable also runs in inference mode
        adapts = phase == "tail" and not isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = adapts or layer.name.startswith("head")
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    tail.compile(
        optimizer=keras.optimizers.AdamW(recipe.head_learning_rate, weight_decay=recipe.weight_decay, clipnorm=1.0)
    )
    tail.optimizer.build(tail.trainable_variables)
    batch = [tf.TensorSpec((None, *tail.input_shape[1:])), tf.TensorSpec((None, len(CLASSES)))]

    @tf.function(input_signature=[*batch, tf.TensorSpec((None,))])
    def train_step(features, labels, weights):
        with tf.GradientTape() as tape:
            probabilities = tail(features, training=True)
            value = loss(labels, probabilities, sample_weight=weights)
        variables = tail.trainable_variables
        tail.optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value, _share_right(labels, probabilities)

    @tf.function(input_signature=batch)
    def test_step(features, labels):
        probabilities = tail(features, training=False)
        return loss(labels, probabilities), _share_right(labels, probabilities)

    return train_step, test_step


def _share_right(labels, probabilities):
    return tf.reduce_mean(tf.cast(tf.argmax(labels, axis=1) == tf.argmax(probabilities, axis=1), tf.float32))


def _epoch(
    tail: keras.Model, train_step: Callable, examples: TrainingSet, recipe: TrainingConfig, epoch: int
) -> tuple[float, float]:
    generator = np.random.default_rng([recipe.seed, epoch])
    count, views = examples.train_rows.shape
    order = generator.permutation(count)
    rows = examples.train_rows[order, generator.integers(views, size=count)]
    labels = examples.train_labels[order]
    weights = _class_weights(examples.train_labels)[labels]
    dropout = tail.get_layer("head_dropout")
    if dropout.rate > 0:  # a layer that drops nothing has no generator
        dropout.seed_generator.state.assign(np.array([recipe.seed, epoch], dropout.seed_generator.state.dtype))
    sums = np.zeros(2)
    for part in tqdm(_batches(count, recipe), desc=f"epoch {epoch}", unit="step", leave=False, disable=None):
        features = examples.features[rows[part]].astype(np.float32)
        sums += np.array(train_step(features, _one_hot(labels[part]), weights[part])) * len(labels[part])
    return tuple(sums / count)


def _validate(test_step: Callable, examples: TrainingSet, recipe: TrainingConfig) -> tuple[float, float]:
    count = len(examples.val_rows)
    sums = np.zeros(2)
    for part in _batches(count, recipe):
        features = examples.features[examples.val_rows[part]].astype(np.float32)
        labels = examples.val_labels[part]
        sums += np.array(test_step(features, _one_hot(labels))) * len(labels)
    return tuple(sums / count)


def _batches(count: int, recipe: TrainingConfig) -> list[slice]:
    """Batches of nearly equal size: batch normalisation would learn nonsense from a last batch of one image."""
    edges = np.linspace(0, count, math.ceil(count / recipe.batch_size) + 1).round().astype(int)
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def _class_weights(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (len(labels) / (len(CLASSES) * counts)).astype(np.float32)


class _State:
    """What a run needs to continue: weights, optimizer, best weights so far, history; one file, replaced whole."""

    def __init__(self, tail: keras.Model, checkpoint: Path, key: str):
        self.tail, self.checkpoint, self.key = tail, checkpoint, key
        self.history: list[dict] = []
        self.best_loss, self.waited, self.stopped = math.inf, 0, False
        self.best = [np.array(value) for value in tail.get_weights()]
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
            self.best = [np.array(value) for value in self.tail.get_weights()]
        # The head phase only prepares: patience ends the phase that adapts the tail
        self.stopped = row["phase"] == "tail" and self.waited >= patience
        self._write()

    def use_best_weights(self) -> None:
        self.tail.set_weights(self.best)

    def _write(self) -> None:
        arrays = {f"weight/{i}": value for i, value in enumerate(self.tail.get_weights())}
        arrays |= {f"best/{i}": value for i, value in enumerate(self.best)}
        arrays |= {f"optimizer/{i}": np.array(v) for i, v in enumerate(self.tail.optimizer.variables)}
        scalars = {"best_loss": self.best_loss, "waited": self.waited, "stopped": self.stopped}
        partial = self.checkpoint.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, key=self.key, phase=self._phase, history=json.dumps(self.history), **scalars, **arrays)
        os.replace(partial, self.checkpoint)

    def _read(self) -> None:
        with np.load(self.checkpoint, allow_pickle=False) as saved:
            if str(saved["key"]) != self.key:
                return  # of other inputs: it will be overwritten

            def read(prefix: str) -> list[np.ndarray]:
                return [
                    saved[f"{prefix}/{i}"] for i in range(sum(name.startswith(f"{prefix}/") for name in saved.files))
                ]

            self.tail.set_weights(read("weight"))
            self.best = read("best")
            self._optimizer = read("optimizer")
            self._phase = str(saved["phase"])
            self.history = json.loads(str(saved["history"]))
            self.best_loss, self.waited, self.stopped = (
                float(saved["best_loss"]),
                int(saved["waited"]),
                bool(saved["stopped"]),
            )
