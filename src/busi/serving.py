"""The registered model as anybody loads it: encoded image files in, probabilities out.

`mlflow.pyfunc.load_model` calls `_load_pyfunc` on the model's data folder. Input is a frame with a binary column
`image`, one PNG or JPEG file a row. Output is a frame with the same index: one probability a class (double, in
the order of `layout.CLASSES`, summing to 1), `predicted` (the class with the largest), `model_version` and
`disclaimer` (strings).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from busi import DISCLAIMER, images
from busi.layout import CLASSES

IMAGE_COLUMN = "image"
TEXT_COLUMNS = ("predicted", "model_version", "disclaimer")
MODEL_FILE = "model.keras"
BATCH = 32


class ImageClassifier:
    """A Keras model (None, S, S, 3) → (None, 3) with the decoding before it and the table after it."""

    def __init__(self, model, version: str):
        shape = model.input_shape
        if len(shape) != 4 or shape[1] != shape[2] or shape[1] is None or shape[3] != 3:
            raise ValueError(f"model input is {shape}; expected (None, S, S, 3)")
        if model.output_shape[-1] != len(CLASSES):
            raise ValueError(f"model output is {model.output_shape}; expected one value a class of {CLASSES}")
        self.model = model
        self.version = version
        self.size = shape[1]

    def predict(self, files, params=None) -> pd.DataFrame:
        """Classify encoded image files.

        Args:
            files: a frame with a column `image` of bytes, or an iterable of bytes.
            params: no parameter is known; MLflow passes the argument.

        Raises:
            ValueError: the column is missing, a row is not bytes, or a file can't be read as an image; the row is
                named.
        """
        encoded, index = _encoded(files)
        probabilities = np.empty((len(encoded), len(CLASSES)), dtype=np.float64)
        for start in range(0, len(encoded), BATCH):
            rows = range(start, min(start + BATCH, len(encoded)))
            pixels = np.stack([self._pixels(row, encoded[row]) for row in rows])
            probabilities[start : rows.stop] = self.model.predict_on_batch(pixels.astype(np.float32))
        table = pd.DataFrame(probabilities, columns=list(CLASSES), index=index)
        table["predicted"] = pd.Series(np.array(CLASSES)[probabilities.argmax(axis=1)], index=index, dtype=object)
        table["model_version"] = self.version
        table["disclaimer"] = DISCLAIMER
        return table

    def _pixels(self, row: int, encoded: bytes) -> np.ndarray:
        if not isinstance(encoded, bytes | bytearray | memoryview):
            raise ValueError(f"image {row}: received {type(encoded).__name__}; expected the bytes of an image file")
        return images.prepare(images.read_image(bytes(encoded), name=f"image {row}"), self.size)


def version_of(folder: Path) -> str:
    """Name a model folder's version: `name/number` when it came from a registry, else its logged-model id.

    MLflow writes `registered_model_meta` into the folder whenever it loads `models:/NAME/VERSION`.
    """
    registered = folder / "registered_model_meta"
    if registered.is_file():
        found = yaml.safe_load(registered.read_text(encoding="utf-8"))
        if found.get("model_name") and found.get("model_version"):
            return f"{found['model_name']}/{found['model_version']}"
    description = folder / "MLmodel"
    if description.is_file():
        return str(yaml.safe_load(description.read_text(encoding="utf-8")).get("model_id") or "unregistered")
    return "unregistered"


def _load_pyfunc(path: str) -> ImageClassifier:
    import keras  # here, so that reading this module's names costs no TensorFlow

    data = Path(path)
    folder = next((parent for parent in data.parents if (parent / "MLmodel").is_file()), data)
    model = keras.saving.load_model(data / MODEL_FILE, compile=False, safe_mode=True)
    return ImageClassifier(model, version_of(folder))


def _encoded(files) -> tuple[list, pd.Index]:
    if isinstance(files, pd.DataFrame):
        if IMAGE_COLUMN not in files:
            columns = [str(name) for name in files.columns]
            raise ValueError(f"received columns {columns}; expected a column {IMAGE_COLUMN!r} of image files")
        return files[IMAGE_COLUMN].tolist(), files.index
    if isinstance(files, bytes | str) or not isinstance(files, Iterable):
        raise ValueError(
            f"received {type(files).__name__}; expected a list of image files as bytes, or a frame with a "
            f"column {IMAGE_COLUMN!r}"
        )
    encoded = list(files)
    return encoded, pd.RangeIndex(len(encoded))
