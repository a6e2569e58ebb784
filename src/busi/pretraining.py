"""The network that is pretrained on phantoms, several tasks at once, and the backbone that is kept of it.

The tasks are the class, each BI-RADS descriptor, and the lesion mask at an eighth of the input's resolution, decoded
from three feature levels; the decoder and the task heads are thrown away afterwards. Runs on any Keras backend.
"""

from pathlib import Path

import h5py
import numpy as np

from busi.backend import keras, layers, ops
from busi.densenet import IMAGENET_MEAN, IMAGENET_STD
from busi.layout import CLASSES
from busi.phantom_stream import TASKS

MASK_WEIGHT = 4.0
DESCRIPTOR_WEIGHT = 0.3


def build_pretrainer() -> tuple[keras.Model, keras.Model]:
    """(model, backbone): the model from pixels (n, S, S, 1) in 0-255 to all tasks, and the DenseNet121 inside it."""
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(None, None, 3))
    pixels = keras.Input((None, None, 1))
    scaled = layers.Normalization(
        mean=[255 * m for m in IMAGENET_MEAN], variance=[(255 * s) ** 2 for s in IMAGENET_STD]
    )(layers.Concatenate()([pixels, pixels, pixels]))
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


def _mask_loss(truth, predicted):
    """Cross-entropy and soft Dice (Milletari et al., V-Net, 2016), halves; one value an image."""
    predicted = ops.clip(predicted, 1e-6, 1 - 1e-6)
    cross = -ops.mean(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted), axis=(1, 2, 3))
    overlap = ops.sum(truth * predicted, axis=(1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (ops.sum(truth, axis=(1, 2, 3)) + ops.sum(predicted, axis=(1, 2, 3)) + 1)
    return 0.5 * cross + 0.5 * dice
