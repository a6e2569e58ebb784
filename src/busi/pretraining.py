"""Pretraining of DenseNet121 on phantoms made as it goes: several tasks at once, from the generator's own truth.

No image is drawn twice. The tasks are the class, each BI-RADS descriptor, and the lesion mask at an eighth of the
input's resolution, decoded from three feature levels; the decoder and the task heads are thrown away afterwards.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image

from busi.backend import keras, layers, ops
from busi.layout import CLASSES
from busi.model import IMAGENET_MEAN, IMAGENET_STD
from busi.phantom import DESCRIPTORS, annotate, render
from busi.pools import process_pool

# Value lists of the tasks; a normal phantom has no lesion and so no descriptors: its weight in those tasks is 0
TASKS = {
    name: sorted({value for chances in table.values() for value in chances}) for name, table in DESCRIPTORS.items()
}
MASK_STRIDE = 8
MASK_WEIGHT = 4.0
DESCRIPTOR_WEIGHT = 0.3


class Batch(NamedTuple):
    pixels: np.ndarray  # uint8 (n, S, S, 3)
    targets: dict[str, np.ndarray]  # class and descriptors int32 (n,), mask float32 (n, S/8, S/8, 1) in 0-1
    weights: dict[str, np.ndarray]  # float32 (n,)


def example(seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray, dict[str, int], int]:
    """Phantom `number` of the endless sequence: pixels uint8 (S, S, 3), mask uint8 (S/8, S/8), descriptors, class.

    Classes are equally likely. Native sizes go from 240 to 560 pixels, a fifth carries burnt-in annotations.
    """
    rng = np.random.default_rng([seed, number])
    label = int(rng.integers(len(CLASSES)))
    native = (int(rng.integers(240, 561)), int(rng.integers(240, 561)))
    scan = render(rng, CLASSES[label], native)
    image = annotate(rng, scan.image, scan.masks) if rng.random() < 0.2 else scan.image
    mask = np.max(scan.masks, axis=0) if scan.masks else np.zeros_like(image)

    # One random window for image and mask, so that they stay aligned
    grey, cover = (Image.fromarray(layer).resize((size, size), Image.Resampling.BILINEAR) for layer in (image, mask))
    if rng.random() < 0.5:
        grey, cover = (layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in (grey, cover))
    cell = size // MASK_STRIDE
    cover = np.asarray(cover.resize((cell, cell), Image.Resampling.BOX))
    pixels = _gain(np.asarray(grey), rng)
    truth = {name: values.index(scan.descriptors[name]) if scan.masks else 0 for name, values in TASKS.items()}
    return np.repeat(pixels[..., None], 3, axis=-1), cover, truth, label


def stream(seed: int, first: int, batch_size: int, size: int, workers: int) -> Iterator[Batch]:
    """Batches of the endless sequence from phantom `first` on, rendered ahead in `workers` processes."""
    with process_pool(workers) as pool:
        ahead = [pool.submit(_batch, seed, first + i * batch_size, batch_size, size) for i in range(2 * workers)]
        following = first + len(ahead) * batch_size
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(_batch, seed, following, batch_size, size))
            following += batch_size


def build_pretrainer() -> tuple[keras.Model, keras.Model]:
    """(model, backbone): the model from pixels of any size to all tasks, and the DenseNet121 inside it."""
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(None, None, 3))
    pixels = keras.Input((None, None, 3))
    scaled = layers.Normalization(
        mean=[255 * m for m in IMAGENET_MEAN], variance=[(255 * s) ** 2 for s in IMAGENET_STD]
    )(pixels)
    levels = keras.Model(
        backbone.input,
        [backbone.get_layer(name).output for name in ("pool3_conv", "pool4_conv", "relu")],
        name="levels",
    )
    eighth, sixteenth, last = levels(scaled)
    decoded = layers.Conv2D(48, 1)(eighth)
    for level, scale in ((sixteenth, 2), (last, 4)):
        decoded = decoded + layers.UpSampling2D(scale)(layers.Conv2D(48, 1)(level))
    decoded = layers.Conv2D(48, 3, padding="same", activation="relu")(layers.Activation("relu")(decoded))
    outputs = {"mask": layers.Conv2D(1, 1, activation="sigmoid", name="mask", dtype="float32")(decoded)}
    pooled = layers.GlobalAveragePooling2D()(last)
    outputs["class"] = layers.Dense(len(CLASSES), activation="softmax", name="class")(pooled)
    for name, values in TASKS.items():
        outputs[name] = layers.Dense(len(values), activation="softmax", name=name)(pooled)
    return keras.Model(pixels, outputs), backbone


def compile_pretrainer(model: keras.Model, learning_rate: float) -> None:
    losses = dict.fromkeys(("class", *TASKS), "sparse_categorical_crossentropy") | {"mask": _mask_loss}
    weights = {"class": 1.0, "mask": MASK_WEIGHT} | dict.fromkeys(TASKS, DESCRIPTOR_WEIGHT)
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=1e-4, clipnorm=1.0)
    model.compile(optimizer, losses, loss_weights=weights, weighted_metrics={"class": ["accuracy"]})


def export_backbone(backbone: keras.Model, path: Path) -> None:
    """Write the backbone's weights in Keras' `.weights.h5` form, float16 on disk.

    In HDF5's newer format, whose headers take a third of the room.
    """
    whole = path.with_name(f"whole-{path.name}")
    backbone.save_weights(whole)
    with h5py.File(whole) as source, h5py.File(path, "w", libver="latest") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                made = target.require_group(name)
            else:
                made = target.create_dataset(name, data=item[()].astype(np.float16))
            for attribute, value in item.attrs.items():
                made.attrs[attribute] = value

        source.visititems(copy)
        for attribute, value in source.attrs.items():
            target.attrs[attribute] = value
    whole.unlink()


def _batch(seed: int, first: int, count: int, size: int) -> Batch:
    pixels, masks, truths, labels = zip(*(example(seed, first + i, size) for i in range(count)), strict=True)
    label = np.array(labels, np.int32)
    lesion = (label != CLASSES.index("normal")).astype(np.float32)
    targets = {name: np.array([truth[name] for truth in truths], np.int32) for name in TASKS}
    targets |= {"class": label, "mask": np.stack(masks)[..., None].astype(np.float32) / 255}
    weights = dict.fromkeys(TASKS, lesion) | {"class": np.ones(count, np.float32), "mask": np.ones(count, np.float32)}
    return Batch(np.stack(pixels), targets, weights)


def _gain(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed = (grey.astype(np.float32) - 64) * rng.uniform(0.7, 1.3) + 64 + rng.uniform(-25, 25)
    return np.where(grey > 2, np.clip(changed, 0, 255), grey).astype(np.uint8)


def _mask_loss(truth, predicted):
    """Cross-entropy and soft Dice (Milletari et al., V-Net, 2016), halves; one value an image."""
    predicted = ops.clip(predicted, 1e-6, 1 - 1e-6)
    cross = -ops.mean(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted), axis=(1, 2, 3))
    overlap = ops.sum(truth * predicted, axis=(1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (ops.sum(truth, axis=(1, 2, 3)) + ops.sum(predicted, axis=(1, 2, 3)) + 1)
    return 0.5 * cross + 0.5 * dice
