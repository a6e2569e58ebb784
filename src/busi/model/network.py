"""The network: DenseNet121 with its preprocessing inside, cut at one layer into a frozen prefix and a trained tail.

There is one model and one graph. `build_model` makes it; `cut` gives the part before the boundary layer and the part
after it, sharing the same weights, so that assembling the trained model is not a step that could go wrong: it is
the graph both parts were cut from.

    pixels (n, S, S, 3) in 0-255 -> [preprocess, DenseNet121 up to the boundary] -> features -> [rest, head] -> (n, 3)

The head reads of each of `FEATURE_MAPS` every channel's mean and standard deviation over the image: early ones say more of
speckle and edges, late ones of shape.

Probabilities are in the order of `layout.CLASSES`.
"""

import hashlib
import json
import math
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from busi.backend import keras, layers, ops, tf
from busi.data.layout import CLASSES
from busi.model.backbone import (
    BOUNDARIES,
    FEATURE_MAPS,
    IMAGENET_FILE,
    IMAGENET_MD5,
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_backbone,
)

_LEVEL = "level_"  # names of the layers that hold a level's numbers begin with it
_LEAST_VARIANCE = 1e-6  # under the square root, whose slope at 0 is infinite: a channel that is dead on an image


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and make TensorFlow's operations deterministic. Call once, first."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def build_model(image_size: int, dropout: float, weights: Path | None) -> keras.Model:
    """The whole model, with random weights or with those of a no-top DenseNet121 file.

    Args:
        image_size: side S of the square input.
        dropout: rate before the classification layer.
        weights: HDF5 file of a `DenseNet121(include_top=False)`, in Keras 3's `.weights.h5` or the older `.h5` form.

    Returns:
        Model from float32 or uint8 pixels (n, S, S, 3) in 0-255 to float32 probabilities (n, 3).

    Raises:
        ValueError: the weights file is missing, truncated, not HDF5, of another network, or not finite.
    """
    pixels = keras.Input((image_size, image_size, 3), name="input")
    scaled = layers.Normalization(
        mean=[255 * m for m in IMAGENET_MEAN], variance=[(255 * s) ** 2 for s in IMAGENET_STD], name="preprocess"
    )(pixels)
    backbone = build_backbone(input_tensor=scaled)
    levels = layers.Concatenate(name="levels")([_level(backbone.get_layer(name)) for name in FEATURE_MAPS])
    features = layers.BatchNormalization(name="head_norm")(levels)
    features = layers.Dropout(dropout, seed=0, name="head_dropout")(features)
    probabilities = layers.Dense(len(CLASSES), activation="softmax", name="head")(features)
    model = keras.Model(pixels, probabilities, name="busi_densenet121")
    if weights is not None:
        load_backbone_weights(model, weights)
    return model


def load_backbone_weights(model: keras.Model, path: Path) -> None:
    """Copy the weights of a no-top DenseNet121 file into `model`. Raises ValueError as `build_model` says."""
    if not path.is_file():
        raise ValueError(f"weights file {path} not found; fetch it with `make weights`, or set featurize.weights: none")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if path.name == IMAGENET_FILE and md5 != IMAGENET_MD5:
        raise ValueError(f"weights file {path} has md5 {md5}, expected {IMAGENET_MD5}; fetch it again: `make weights`")
    source = build_backbone()
    try:
        with warnings.catch_warnings():
            # Keras only warns about layers that the file lacks and leaves them random
            warnings.simplefilter("error", UserWarning)
            source.load_weights(path)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"weights file {path} cannot be used: {reason}\n"
            "  expected the HDF5 weights of keras.applications.DenseNet121(include_top=False)"
        ) from error
    for layer in source.layers:
        if not layer.weights:
            continue
        values = layer.get_weights()
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(f"weights file {path} holds values that are not finite in layer {layer.name}")
        model.get_layer(layer.name).set_weights(values)


def cut(model: keras.Model, boundary: str) -> tuple[keras.Model, keras.Model]:
    """Cut `model` behind the layer named `boundary` into (prefix, tail), which share its weights.

    The head also reads levels of the prefix. Their numbers are features too: then a feature is one vector, of the
    boundary layer's output and these numbers side by side. With `input` the prefix is the identity and the tail is the
    whole model, with `levels` the tail is the head.

    Raises:
        ValueError: no such layer, or the backbone does not narrow to one tensor there (inside a dense block, a
            convolution's output alone does not determine what follows).
    """
    usual = f"usual boundaries are {', '.join(BOUNDARIES)}"
    names = [layer.name for layer in model.layers]
    if boundary not in names or boundary.startswith(("head", _LEVEL)):
        raise ValueError(f"featurize.boundary: no layer {boundary!r}; {usual}")
    before = _before(model.get_layer(boundary))
    passed = [
        model.get_layer(_LEVEL + name) for name in FEATURE_MAPS if name in before and boundary not in (name, "levels")
    ]
    frozen = before.union(*map(_before, passed))
    # The cut is clean when only the boundary itself, and levels that are passed on, feed what comes after it
    for operation in model.operations:
        reads = {tensor._keras_history.operation.name for tensor in _inputs(operation)}
        if operation.name not in frozen and reads & (frozen - {boundary, *(layer.name for layer in passed)}):
            raise ValueError(
                f"featurize.boundary: {boundary!r} lies inside a block (layer {operation.name!r} also reads what comes "
                f"before it); {usual}"
            )
    crossing = [model.get_layer(boundary).output, *(layer.output for layer in passed)]
    if not passed:
        return keras.Model(model.input, crossing[0], name="prefix"), keras.Model(crossing[0], model.output, name="tail")
    flat = layers.Concatenate(dtype="float32")([layers.Flatten(dtype="float32")(tensor) for tensor in crossing])
    return keras.Model(model.input, flat, name="prefix"), _of_one_vector(keras.Model(crossing, model.output))


def for_inference(prefix: keras.Model) -> keras.Model:
    """A prefix of `cut` as it is, or `in_bfloat16` where the processor is made for that."""
    return in_bfloat16(prefix) if multiplies_bfloat16() else prefix


def in_bfloat16(prefix: keras.Model) -> keras.Model:
    """A copy of a prefix that takes half the time, differs by its rounding, and can't be trained.

    Convolutions multiply in bfloat16, which has 8 bits of mantissa, and sum in float32; preprocessing and what is
    computed from the maps stay in float32.
    Batch normalisation and the activation after it become one pass over memory, without which the gain is half as much.
    """

    def copied(layer: keras.Operation) -> keras.Operation:
        on_maps = isinstance(layer, keras.Layer) and len(layer.output.shape) == 4
        if isinstance(layer, layers.InputLayer | layers.Normalization) or not on_maps:
            return layer
        kind = _FusedNormalization if isinstance(layer, layers.BatchNormalization) else type(layer)
        return kind.from_config(layer.get_config() | {"dtype": "mixed_bfloat16"})

    fast = keras.models.clone_model(prefix, clone_function=copied)
    fast.set_weights(prefix.get_weights())
    return fast


def multiplies_bfloat16() -> bool:
    """Whether this processor has AVX512-BF16 or AMX-BF16; without it bfloat16 is slower than float32."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return False
    flags = next((line for line in information.read_text().splitlines() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def predict(model: keras.Model, batches: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Run `model` over batches in inference mode; yields one float32 array a batch."""

    # Compiled once, for batches of any size: another time for the last and smaller one costs seconds
    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def forward(batch):
        return tf.cast(model(batch, training=False), tf.float32)

    for batch in batches:
        yield forward(tf.cast(batch, tf.float32)).numpy()


def save_model(model: keras.Model, path: Path) -> None:
    """Save in Keras' native format, so that the same weights give the same bytes.

    Keras writes the date into the archive and its metadata, and memory addresses as ids of shared objects into the
    configuration; dates become constants here, and ids count from one.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.keras"
        model.save(raw)
        with zipfile.ZipFile(raw) as source, zipfile.ZipFile(Path(folder) / "model.keras", "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    metadata = json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}
                    content = json.dumps(metadata, sort_keys=True).encode()
                elif name == "config.json":
                    content = _number_shared_objects(content.decode()).encode()
                target.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
        os.replace(Path(folder) / "model.keras", path)


def load_model(path: Path) -> keras.Model:
    """Load a model saved by `save_model`, in safe mode: a file that carries code is refused with a ValueError."""
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _level(layer: keras.Layer):
    """A layer's channels over the image: means and standard deviations, float32 (n, 2 C)."""
    # In float32 wherever the layer computes in less
    mean, variance = ops.moments(ops.cast(layer.output, "float32"), axes=(1, 2))
    return layers.Concatenate(name=_LEVEL + layer.name, dtype="float32")([mean, ops.sqrt(variance + _LEAST_VARIANCE)])


def _inputs(operation) -> list:
    """The tensors that an operation of a functional model reads."""
    if isinstance(operation, layers.InputLayer):
        return []
    return operation.input if isinstance(operation.input, list | tuple) else [operation.input]


def _before(operation) -> set[str]:
    """The names of an operation and of all that it depends on."""
    found, ahead = set(), [operation]
    while ahead:
        operation = ahead.pop()
        if operation.name not in found:
            found.add(operation.name)
            ahead += [tensor._keras_history.operation for tensor in _inputs(operation)]
    return found


def _of_one_vector(model: keras.Model) -> keras.Model:
    """A model of several inputs as one of a single vector, in which they lie side by side; with the same layers."""
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    vector = keras.Input((ends[-1],))
    parts = [
        ops.reshape(vector[:, end - math.prod(shape) : end], (-1, *shape))
        for shape, end in zip(shapes, ends, strict=True)
    ]
    return keras.Model(vector, model.call(parts), name="tail")


class _FusedNormalization(layers.BatchNormalization):
    """Batch normalisation in inference mode as the one operation that oneDNN also fuses with the activation."""

    def call(self, inputs, training=None, mask=None):
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            is_training=False,
        )
        return outputs[0]


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}

    def number(found: re.Match) -> str:
        return f"{found[1]}{numbers.setdefault(found[2], len(numbers) + 1)}"

    return re.sub(r'("shared_object_id": )(\d+)', number, config)
