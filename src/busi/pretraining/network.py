"""The network that is pretrained on phantoms, several tasks at once, and the backbone that is kept of it.

The tasks:

- the class and each BI-RADS descriptor;
- the lesion mask, and the tissue's echogenicity, which is the image without its speckle, shadows and gain. Both are
  decoded from three feature maps at an eighth of the input's resolution;
- equal embeddings of two views of one phantom, which needs no truth (VICReg: Bardes, Ponce & LeCun, ICLR 2022).

The decoder and the heads are thrown away afterwards. The network runs on any Keras backend.
"""

from pathlib import Path

import h5py
import numpy as np

from busi.backend import keras, layers, ops
from busi.data.layout import CLASSES
from busi.model.backbone import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from busi.pretraining.phantom_stream import TASKS, Batch

WEIGHT_DECAY, CLIP_NORM = 1e-4, 1.0  # of AdamW, as fine-tuning has them
MASK_WEIGHT = 4.0  # of the tasks' losses; that of the class is 1
ECHOGENICITY_WEIGHT = 2.0
DESCRIPTOR_WEIGHT = 0.3
ALIKE_WEIGHT = 0.03
ALIKE = "alike"  # the output with the embedding of a view
EMBEDDING = 256  # numbers a view
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 12.5, 0.5  # weights within VICReg, the last two for each of the two views


def build_pretrainer() -> tuple[keras.Model, keras.Model]:
    """(model, backbone): the model from pixels (n, S, S, 1) in 0-255 to all tasks, and the DenseNet121 inside it."""
    backbone = build_backbone(input_shape=(None, None, 3))
    pixels = keras.Input((None, None, 1))
    scaled = layers.Normalization(
        mean=[255 * m for m in IMAGENET_MEAN], variance=[(255 * s) ** 2 for s in IMAGENET_STD]
    )(layers.Concatenate()([pixels, pixels, pixels]))
    feature_maps = keras.Model(
        backbone.input,
        [backbone.get_layer(name).output for name in ("pool3_conv", "pool4_conv", "relu")],
        name="feature_maps",
    )
    eighth, sixteenth, last = feature_maps(scaled)
    decoded = layers.Conv2D(48, 1)(eighth)
    for feature_map, scale in ((sixteenth, 2), (last, 4)):
        decoded = decoded + layers.UpSampling2D(scale)(layers.Conv2D(48, 1)(feature_map))
    decoded = layers.Conv2D(48, 3, padding="same", activation="relu")(layers.Activation("relu")(decoded))
    outputs = {"mask": layers.Conv2D(1, 1, activation="sigmoid", name="mask", dtype="float32")(decoded)}
    outputs["echogenicity"] = layers.Conv2D(1, 1, name="echogenicity", dtype="float32")(decoded)
    pooled = layers.GlobalAveragePooling2D()(last)
    outputs["class"] = layers.Dense(len(CLASSES), activation="softmax", name="class")(pooled)
    for name, values in TASKS.items():
        outputs[name] = layers.Dense(len(values), activation="softmax", name=name)(pooled)
    expanded = layers.ReLU()(layers.BatchNormalization()(layers.Dense(EMBEDDING)(pooled)))
    outputs[ALIKE] = layers.Dense(EMBEDDING, name=ALIKE)(expanded)
    return keras.Model(pixels, outputs), backbone


def compile_pretrainer(model: keras.Model, learning_rate: float) -> None:
    """Give the model its optimiser and the weighted loss of each task, in place."""
    losses = dict.fromkeys(("class", *TASKS), "sparse_categorical_crossentropy")
    losses |= {"mask": _mask_loss, "echogenicity": _echogenicity_loss, ALIKE: _alike_loss}
    weights = {"class": 1.0, "mask": MASK_WEIGHT, "echogenicity": ECHOGENICITY_WEIGHT, ALIKE: ALIKE_WEIGHT}
    weights |= dict.fromkeys(TASKS, DESCRIPTOR_WEIGHT)
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=WEIGHT_DECAY, clipnorm=CLIP_NORM)
    model.compile(optimizer, losses, loss_weights=weights, weighted_metrics={"class": ["accuracy"]})
    optimizer.build(model.trainable_variables)  # so that `load_weights` has variables to load its moments into


def train_step(model: keras.Model, batch: Batch) -> dict[str, float]:
    """One step of the optimiser; the loss of each task, their weighted sum `loss` and `class_accuracy`."""
    count = len(batch.pixels)
    targets = batch.targets | {ALIKE: np.zeros((count, EMBEDDING), np.float32)}  # it has no truth
    weights = batch.weights | {ALIKE: np.ones(count, np.float32)}
    return model.train_on_batch(batch.pixels.astype(np.float32), targets, weights, return_dict=True)


def export_backbone(backbone: keras.Model, path: Path) -> None:
    """Write the backbone's weights in Keras' `.weights.h5` form, as float16.

    The file is in HDF5's latest format, whose headers take a third of the space.
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
    """Cross-entropy and soft Dice (Milletari et al., V-Net, 2016), half each; one value an image."""
    predicted = ops.clip(predicted, 1e-6, 1 - 1e-6)
    cross = -ops.mean(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted), axis=(1, 2, 3))
    overlap = ops.sum(truth * predicted, axis=(1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (ops.sum(truth, axis=(1, 2, 3)) + ops.sum(predicted, axis=(1, 2, 3)) + 1)
    return 0.5 * cross + 0.5 * dice


def _echogenicity_loss(truth, predicted):
    """Mean absolute difference where there is tissue, in units of 30 dB; one value an image."""
    tissue = ops.cast(truth > 14, "float32")  # a cell at the border is part tissue, part nothing
    off = ops.abs((truth - 128) / 60 - predicted) * tissue
    return ops.sum(off, axis=(1, 2, 3)) / (ops.sum(tissue, axis=(1, 2, 3)) + 1)


def _alike_loss(_truth, embeddings):
    """VICReg over a batch, the same value for each image; `embeddings` is (2 n, d), first views before second ones."""
    count = ops.shape(embeddings)[0] // 2
    first, second = embeddings[:count], embeddings[count:]
    loss = INVARIANCE * ops.mean(ops.square(first - second))
    for view in (first, second):
        centred = view - ops.mean(view, axis=0, keepdims=True)
        covariance = ops.matmul(ops.transpose(centred), centred) / (ops.cast(count, "float32") - 1)
        variances = ops.diagonal(covariance)
        between = ops.sum(ops.square(covariance)) - ops.sum(ops.square(variances))
        loss += VARIANCE * ops.mean(ops.relu(1 - ops.sqrt(variances + 1e-4))) + COVARIANCE * between / EMBEDDING
    return loss * ops.ones((2 * count,))
