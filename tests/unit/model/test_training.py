"""Training on stored features: a killed run that continues ends with the weights of an unbroken one."""

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from busi.data.layout import CLASSES
from busi.model.calibration import apply_temperature, fit_temperature
from busi.model.features import feature_rows
from busi.model.network import seed_everything
from busi.model.training import HISTORY, TrainingConfig, TrainingSet, _batches, calibrate, train, training_set_from_rows

CONFIG = TrainingConfig(
    batch_size=8, head_epochs=2, tail_epochs=4, head_learning_rate=1e-2, tail_learning_rate=5e-3, weight_decay=1e-4,
    label_smoothing=0.05, dropout=0.4, patience=10, seed=4,
)  # fmt: skip


class Killed(BaseException):
    pass


def small_layers(dropout=0.4):
    seed_everything(1)
    features = keras.Input((4, 4, 6))
    x = layers.Conv2D(8, 3, padding="same", name="conv5_conv")(features)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="bn")(x)))
    x = layers.Dropout(dropout, seed=0, name="head_dropout")(layers.BatchNormalization(name="head_norm")(x))
    return keras.Model(features, layers.Dense(3, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def training_set():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    features = rng.normal(size=(60 * 3 + 20, 4, 4, 6)) * 0.6
    val_labels = rng.integers(3, size=20)
    for index, label in enumerate(np.concatenate([np.repeat(labels, 3), val_labels])):
        features[index, ..., label] += 1
    rows = np.arange(180).reshape(60, 3)
    return TrainingSet(features.astype(np.float16), rows, labels, np.arange(180, 200), val_labels)


def run(training_set, checkpoint, config=CONFIG, kill_after=None, key="k", seen=None):
    trainable_layers = small_layers()

    def on_epoch(row):
        if seen is not None:
            seen.append(row["epoch"])
        if row["epoch"] == kill_after:
            raise Killed

    history = train(trainable_layers, training_set, config, checkpoint, key, on_epoch)
    return trainable_layers.get_weights(), history


@pytest.fixture(scope="module")
def unbroken(training_set, tmp_path_factory):
    return run(training_set, tmp_path_factory.mktemp("unbroken") / "checkpoint.npz")


def test_it_learns_and_keeps_a_row_an_epoch(unbroken):
    _, history = unbroken
    assert list(history.columns) == HISTORY
    assert history.epoch.tolist() == list(range(6))
    assert history.phase.tolist() == ["head"] * 2 + ["tail"] * 4
    assert history.loss.iloc[-1] < history.loss.iloc[0]
    assert history.val_accuracy.max() > 0.7
    assert history.learning_rate.iloc[0] == pytest.approx(1e-2)
    assert history.learning_rate.iloc[2] == pytest.approx(5e-3)


@pytest.mark.parametrize("kill_after", [0, 1, 3, 5], ids=["head", "between", "tail", "end"])
def test_killed_in_any_phase_it_continues_to_the_same_weights(training_set, unbroken, tmp_path, kill_after):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        run(training_set, checkpoint, kill_after=kill_after)
    seen = []
    weights, history = run(training_set, checkpoint, seen=seen)
    assert seen == list(range(kill_after + 1, 6)), "it must continue, not begin again"
    pd.testing.assert_frame_equal(history, unbroken[1], check_exact=True)
    for resumed, expected in zip(weights, unbroken[0], strict=True):
        np.testing.assert_array_equal(resumed, expected)


def test_without_dropout_it_trains_as_well(training_set, tmp_path):
    trainable_layers = small_layers(dropout=0.0)
    assert len(train(trainable_layers, training_set, CONFIG, tmp_path / "c.npz", "k", lambda row: None)) == 6


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 65, 97])
def test_batches_cover_everything_once_and_none_is_a_leftover_of_one(count):
    parts = _batches(count, TrainingConfig(**{**CONFIG.__dict__, "batch_size": 32}))
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= 32
    assert max(sizes) - min(sizes) <= 1


def test_a_checkpoint_of_other_inputs_is_not_used(training_set, unbroken, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        run(training_set, checkpoint, kill_after=0, key="other")
    _, history = run(training_set, checkpoint)
    pd.testing.assert_frame_equal(history, unbroken[1], check_exact=True)


def test_the_best_epochs_weights_are_kept(training_set, unbroken, tmp_path):
    weights, history = unbroken
    best = int(history.val_loss.idxmin())
    snapshots = []
    trainable_layers = small_layers()
    train(
        trainable_layers,
        training_set,
        CONFIG,
        tmp_path / "c.npz",
        "k",
        lambda row: snapshots.append(trainable_layers.get_weights()),
    )
    for kept, expected in zip(weights, snapshots[best], strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_the_head_phase_leaves_the_rest_of_the_tail_alone(training_set, tmp_path):
    config = TrainingConfig(**{**CONFIG.__dict__, "tail_epochs": 0})
    trainable_layers, before = small_layers(), small_layers()
    train(trainable_layers, training_set, config, tmp_path / "c.npz", "k", lambda row: None)
    for name in ("conv5_conv", "bn"):
        for value, original in zip(
            trainable_layers.get_layer(name).get_weights(), before.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(value, original)
    assert not np.array_equal(
        trainable_layers.get_layer("head").get_weights()[0], before.get_layer("head").get_weights()[0]
    )


def test_normalisation_is_left_as_it_is_save_the_heads(training_set, tmp_path):
    learned = [np.full(8, value, np.float32) for value in (1.5, 0.25, 0.1, 2)]  # scale, shift, mean, variance
    trainable_layers = small_layers()
    trainable_layers.get_layer("bn").set_weights(learned)
    convolution = trainable_layers.get_layer("conv5_conv").get_weights()[0]
    train(trainable_layers, training_set, CONFIG, tmp_path / "c.npz", "k", lambda row: None)
    np.testing.assert_array_equal(trainable_layers.get_layer("bn").get_weights(), learned)
    assert np.any(trainable_layers.get_layer("head_norm").moving_mean.numpy() != 0)
    assert np.any(trainable_layers.get_layer("conv5_conv").get_weights()[0] != convolution)


def test_patience_ends_the_tail_phase(training_set, tmp_path):
    # With random validation labels nothing learnt can help
    noise = TrainingSet(*training_set.__dict__.values())
    object.__setattr__(noise, "val_labels", np.random.default_rng(5).integers(3, size=20))
    config = TrainingConfig(**{**CONFIG.__dict__, "tail_epochs": 40, "patience": 2})
    _, history = run(noise, tmp_path / "c.npz", config)
    assert len(history) < 42
    assert history.phase.iloc[-1] == "tail"
    assert not (history.val_loss.iloc[-2:] < history.val_loss.iloc[:-2].min()).any()


def test_a_loss_that_is_not_finite_stops_the_run(training_set, tmp_path):
    broken = TrainingSet(np.full_like(training_set.features, np.nan), *list(training_set.__dict__.values())[1:])
    with pytest.raises(ValueError, match=r"lower train\.head_learning_rate"):
        run(broken, tmp_path / "c.npz")


def test_rows_are_arranged_by_image_and_view():
    split = pd.DataFrame(
        [("b/3", "normal", "train"), ("a/1", "benign", "val"), ("a/2", "benign", "train"), ("c/9", "malignant", "test"),
         ("c/8", "malignant", "quarantine")],
        columns=["path", "label", "part"],
    )  # fmt: skip
    rows = feature_rows(split, views=2)
    assert rows.path.tolist() == ["b/3"] * 3 + ["a/1"] + ["a/2"] * 3 + ["c/9"]
    assert rows.view.tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    training_set = training_set_from_rows(np.zeros((len(rows), 1), np.float16), rows)
    assert training_set.train_rows.tolist() == [[4, 5, 6], [0, 1, 2]]
    assert [CLASSES[label] for label in training_set.train_labels] == ["benign", "normal"]
    assert training_set.val_rows.tolist() == [3]
    assert [CLASSES[label] for label in training_set.val_labels] == ["benign"]


def test_calibration_is_fitted_on_validation_alone_and_lies_in_the_head(training_set):
    trainable_layers = small_layers()
    trainable_layers.get_layer("head").set_weights(
        [3 * weight for weight in trainable_layers.get_layer("head").get_weights()]
    )
    every = training_set.features.astype(np.float32)
    before = trainable_layers.predict(every, verbose=0)
    on_validation = before[training_set.val_rows]
    temperature = calibrate(trainable_layers, training_set, batch_size=8)
    assert temperature == fit_temperature(training_set.val_labels, on_validation) != 1
    np.testing.assert_allclose(
        trainable_layers.predict(every, verbose=0), apply_temperature(before, temperature), atol=1e-5
    )
