"""The network: DenseNet121 with its preprocessing inside, cut at one layer into a frozen prefix and a trained tail.

There is one model and one graph. `build_model` makes it; `cut` gives the part before the boundary layer and the part
after it, sharing the same weights, so that assembling the trained model is not a step that could go wrong: it is
the graph both parts were cut from.

    pixels (n, S, S, 3) in 0-255 -> [preprocess, DenseNet121 up to the boundary] -> features -> [rest, head] -> (n, 3)

Probabilities are in the order of `layout.CLASSES`.
"""

import hashlib
import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from busi.backend import keras, layers, tf
from busi.layout import CLASSES

# Statistics of ImageNet's training images in 0-1, as keras.applications' "torch" mode applies them to DenseNet
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Published with keras.applications; fetched by `make weights`
IMAGENET_FILE = "densenet121_imagenet_notop.h5"
IMAGENET_MD5 = "30ee3e1110167f948a6b9946edeeb738"

# The layers where the graph narrows to a single tensor between stages; `cut` accepts any other such layer too
BOUNDARIES = ("input", "pool1", "pool2_pool", "pool3_pool", "pool4_pool", "avg_pool")


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
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=scaled, pooling="avg")
    features = layers.BatchNormalization(name="head_norm")(backbone.output)
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
    source = keras.applications.DenseNet121(include_top=False, weights=None)
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

    With `input` the prefix is the identity and the tail is the whole model.

    Raises:
        ValueError: no such layer, or the graph does not narrow to one tensor there (inside a dense block, a
            convolution's output alone does not determine what follows).
    """
    names = [layer.name for layer in model.layers]
    if boundary not in names or boundary.startswith("head"):
        raise ValueError(f"featurize.boundary: no layer {boundary!r}; usual boundaries are {', '.join(BOUNDARIES)}")
    index = names.index(boundary)
    # The layers are in topological order: the cut is clean when nothing before the boundary feeds anything after it
    before = {id(layer.output) for layer in model.layers[:index]}
    for layer in model.layers[index + 1 :]:
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        if any(id(tensor) in before for tensor in inputs):
            raise ValueError(
                f"featurize.boundary: {boundary!r} lies inside a block (layer {layer.name!r} also reads what comes "
                f"before it); usual boundaries are {', '.join(BOUNDARIES)}"
            )
    output = model.get_layer(boundary).output
    prefix = keras.Model(model.input, output, name="prefix")
    return prefix, keras.Model(output, model.output, name="tail")


def for_inference(prefix: keras.Model) -> keras.Model:
    """A prefix of `cut` as it is, or `in_bfloat16` where the processor is made for that."""
    return in_bfloat16(prefix) if multiplies_bfloat16() else prefix


def in_bfloat16(prefix: keras.Model) -> keras.Model:
    """A copy of a prefix that takes half the time, differs by its rounding, and can't be trained.

    Convolutions multiply in bfloat16, which has 8 bits of mantissa, and sum in float32; preprocessing stays in float32.
    Batch normalisation and the activation after it become one pass over memory, without which the gain is half as much.
    """

    def copied(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, layers.InputLayer | layers.Normalization):
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
