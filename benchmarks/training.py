"""Ten epochs of fine-tuning against the usual recipe: `python -m benchmarks.training`.

The recipe is Keras' own way: DenseNet121 frozen inside the model and so computed again in every epoch, 256 x 256,
batches of 16 read by `image_dataset_from_directory`, a fifth of the images for validation, Adam, a head of dense layers
on the flattened features. Its epoch is measured in `model.fit` after two batches have been traced and compiled, and
counted ten times; its imports and compiling are not counted. Ours are the stages as `dvc repro` starts them, each a
whole process: `featurize` and `train` with five epochs of the head and five of the tail, and for a further fold of a
cross-validation `busi crossval` with five folds, after one that had computed the prefix.
"""

import shutil
import time
from pathlib import Path

import typer

from benchmarks import harness

EPOCHS = 10
RECIPE = {"train.head_epochs": 5, "train.tail_epochs": 5}
FOLDS = 5


def main(images: harness.Images = None, quick: harness.Quick = False) -> None:
    data = harness.images(images, 100 if quick else 780)
    repeats = 1 if quick else harness.REPEATS
    count = len(harness.pictures(data))

    folder = harness.clone("training", RECIPE, data)
    at_256 = harness.clone("training-256", RECIPE | {"featurize.image_size": 256}, data)
    for place in (folder, at_256):
        for stage in ("validate", "split"):
            harness.stage(place, stage)
    epoch = usual_recipe(harness.pictures(data))
    seconds = harness.alternate(
        {
            "an epoch of the usual recipe": epoch,
            "featurize": lambda: harness.stage(folder, "featurize"),
            "train": lambda: harness.stage(folder, "train"),
        },
        repeats,
    )
    usual = [EPOCHS * one for one in seconds["an epoch of the usual recipe"]]
    cached = seconds["train"]
    cold = [sum(both) for both in zip(seconds["featurize"], cached, strict=True)]
    large = [harness.stage(at_256, stage).seconds for stage in ("featurize", "train")]
    further = [fold(folder)]
    figures = {
        "usual recipe, 10 epochs": usual, **seconds,
        "featurize at 256": large[:1], "train at 256": large[1:], "a further fold": further,
    }  # fmt: skip

    against = "the usual recipe, 10 epochs at 256 × 256"
    same_size = harness.quotients([harness.median(usual)] * 2, [sum(large), large[1]])
    for key, what, ours, at_same_size, least in (
        ("cold", f"10 epochs on {count} images, featurize and train", cold, same_size[0], 8),
        ("cached", "the same with features cached", cached, same_size[1], 20),
        ("fold", f"each further fold of crossval, {FOLDS} on two workers, one run", further, None, 20),
    ):
        ratio = harness.quotients(usual if len(ours) > 1 else [harness.median(usual)], ours)
        result = f"{harness.spread(ratio, '×')}: {harness.spread(usual, ' s')} to {harness.spread(ours, ' s')}"
        if at_same_size:
            result += f"; {at_same_size:.2g}× with ours at 256 × 256 too (n = 1)"
        harness.record(
            quick, key, what, against, f"≥ {least}×", result, harness.median(ratio) >= least,
            {"ratio": ratio, **figures},
        )  # fmt: skip


def usual_recipe(pictures: list[Path]):
    """A function that trains for one epoch, after the compiling."""
    from busi.backend import keras, layers

    folder = harness.PLACE / "usual-recipe"  # without the masks, which its author would have fed to it as images
    shutil.rmtree(folder, ignore_errors=True)
    for path in pictures:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path.resolve())
    train, val = keras.utils.image_dataset_from_directory(
        folder, label_mode="categorical", batch_size=16, image_size=(256, 256), seed=1, validation_split=0.2,
        subset="both", verbose=False,
    )  # fmt: skip
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(256, 256, 3))
    backbone.trainable = False
    dense = [layers.Dense(units, activation="relu") for units in (1024, 1024, 512, 128)]
    drop = [layers.Dropout(rate) for rate in (0.5, 0.3)]
    model = keras.Sequential(
        [backbone, layers.Flatten(), dense[0], drop[0], dense[1], drop[1], *dense[2:], layers.Dense(3, "softmax")]
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        train.take(2), validation_data=val.skip(len(val) - 2), shuffle=False, verbose=0
    )  # the last batch is a smaller one
    return lambda: model.fit(train, validation_data=val, shuffle=False, verbose=0)  # the data set shuffles itself


def fold(folder: Path) -> float:
    """Seconds for each of five further folds, two at a time, with the start and the end of the command."""
    harness.busi(folder, "crossval", "--folds", "2")  # the prefix of all images, and its two folds
    started = time.perf_counter()
    harness.busi(folder, "crossval", "--folds", str(FOLDS))
    return (time.perf_counter() - started) / FOLDS


if __name__ == "__main__":
    typer.run(main)
