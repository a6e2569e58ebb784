"""The registered model as MLflow loads it: encoded image files in, one row of answers for each file out.

`mlflow.pyfunc.load_model` calls `_load_pyfunc` on the model's data folder. Input is a frame with a binary column
`image`, one PNG, JPEG, BMP or TIFF file a row. Output is a frame with the same index and the columns

- `label`: the class with the largest probability; None where the image is not accepted.
- `probabilities`: {class: 0 to 1}, calibrated, summing to 1; None where the file can't be read.
- `accepted`: whether the file can be read and the image is like those that the model was trained on.
- `reason`: why it is not accepted, else empty.
- `model_version`: `name/number`.
- `disclaimer`.

A file that can't be read is a row with a reason too. A table without a column of files is a ValueError.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from busi import DISCLAIMER
from busi.data import images
from busi.data.layout import CLASSES, IMAGE_COLUMN, MODEL_FILE, OOD_DETECTOR_FILE
from busi.model.inference import compile_pass
from busi.model.ood_detection import OodDetector

COLUMNS = ("label", "probabilities", "accepted", "reason", "model_version", "disclaimer")
BATCH = 32
READERS = 4  # threads; each may hold an image of the largest accepted size, about 250 MB
MAX_BYTES = 50_000_000  # of one file; BUSI's largest has less than a megabyte


class ImageClassifier:
    """A Keras model (None, S, S, 3) → (None, 3) with the decoding before it and the table after it."""

    def __init__(self, model, ood_detector: OodDetector | None, version: str):
        shape = model.input_shape
        if len(shape) != 4 or shape[1] != shape[2] or shape[1] is None or shape[3] != 3:
            raise ValueError(f"model input is {shape}; expected (None, S, S, 3)")
        if model.output_shape[-1] != len(CLASSES):
            raise ValueError(f"model output is {model.output_shape}; expected one value a class of {CLASSES}")
        self.model = model
        self.ood_detector = ood_detector
        self.version = version
        self.size = shape[1]
        self._pass = compile_pass(model)

    def predict(self, files, params=None) -> pd.DataFrame:
        """Classify encoded image files; the columns are `COLUMNS`, described at the top of this module.

        Args:
            files: a frame with a column `image` of bytes, or an iterable of bytes.
            params: no parameter is known; MLflow passes the argument.

        Raises:
            ValueError: the column is missing, or a row is not bytes; the row is named.
        """
        encoded, index = _encoded(files)
        rows = []
        for start in range(0, len(encoded), BATCH):
            rows += self._classify([_bytes(start + i, file) for i, file in enumerate(encoded[start : start + BATCH])])
        # As objects, so that pandas keeps None as None
        return pd.DataFrame(rows, columns=list(COLUMNS), index=index, dtype=object).astype({"accepted": bool})

    def heatmap(self, encoded: bytes, label: str) -> np.ndarray:
        """The HiResCAM of a class for one image file, float32 (height, width) of the image, 0 to 1.

        Raises:
            ValueError: the file can't be read, or there is no such class.
        """
        from busi.model.explanation import enlarge, heat_map

        if label not in CLASSES:
            raise ValueError(f"class {label!r}; expected one of {', '.join(CLASSES)}")
        image = read_upload(encoded)
        outputs = self._pass(images.prepare(image, self.size)[np.newaxis])
        return enlarge(heat_map(self.model, outputs.feature_maps, np.array([CLASSES.index(label)]))[0], *image.size)

    def get_raw_model(self) -> "ImageClassifier":
        """This object; MLflow's `PyFuncModel.get_raw_model` asks for it."""
        return self

    def _classify(self, files: list[bytes]) -> list[dict]:
        """One row for each of at most `BATCH` files."""
        read: dict[int, np.ndarray] = {}
        rows = [self._row(reason="") for _ in files]
        # Decoding and resizing leave Python's lock, so threads use several cores
        with ThreadPoolExecutor(READERS) as pool:
            for number, pixels in enumerate(pool.map(self._pixels, files)):
                if isinstance(pixels, ValueError):
                    rows[number] = self._row(reason=str(pixels))
                else:
                    read[number] = pixels
        if read:
            probabilities, ood_features, _ = self._pass(np.stack(list(read.values())))
            distances = self.ood_detector.distance(ood_features) if self.ood_detector else np.zeros(len(read))
            for number, values, distance in zip(read, probabilities, distances, strict=True):
                rows[number] = self._row(_reason(distance, self.ood_detector), values)
        return rows

    def _pixels(self, file: bytes) -> np.ndarray | ValueError:
        """The network's input for a file, uint8 (S, S, 3), or the error that says why it can't be read."""
        try:
            return images.prepare(read_upload(file), self.size)
        except ValueError as error:
            return error

    def _row(self, reason: str, probabilities: np.ndarray | None = None) -> dict:
        accepted = probabilities is not None and not reason
        said = None if probabilities is None else dict(zip(CLASSES, map(float, probabilities), strict=True))
        return {
            "label": CLASSES[int(probabilities.argmax())] if accepted else None,
            "probabilities": said,
            "accepted": accepted,
            "reason": reason,
            "model_version": self.version,
            "disclaimer": DISCLAIMER,
        }


def read_upload(encoded: bytes) -> Image.Image:
    """Decode one file from outside. Raises ValueError with the reason when it is too large or not one whole image."""
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"image: {len(encoded):,} bytes; expected at most {MAX_BYTES:,}")
    return images.read_image(encoded)


def _reason(distance: float, ood_detector: OodDetector | None) -> str:
    if ood_detector is None or distance <= ood_detector.threshold:
        return ""
    return (
        "unknown input: unlike the ultrasound images that the model was trained on "
        f"(distance {distance:,.0f}, at most {ood_detector.threshold:,.0f} is accepted)"
    )


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
    from busi.backend import keras  # here, so that reading this module's names costs no TensorFlow

    data = Path(path)
    folder = next((parent for parent in data.parents if (parent / "MLmodel").is_file()), data)
    model = keras.saving.load_model(data / MODEL_FILE, compile=False, safe_mode=True)
    # The first registered versions have no such file; they accept every image
    ood_detector = OodDetector.load(data / OOD_DETECTOR_FILE) if (data / OOD_DETECTOR_FILE).is_file() else None
    return ImageClassifier(model, ood_detector, version_of(folder))


def _bytes(row: int, encoded) -> bytes:
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise ValueError(f"row {row}: received {type(encoded).__name__}; expected the bytes of an image file")
    return bytes(encoded)


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
