"""What a model answers on image files: probabilities, features, heat maps, in batches and with progress."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from busi.data.images import prepare, read_image
from busi.data.layout import CLASSES
from busi.model.inference import compile_ood_features, compile_pass

BATCH = 32  # images in memory at once


class Observer:
    """A model and the folder that the paths of its images are relative to. The order of answers is that of the paths.

    Args:
        model: as `busi.model.network.build_model` makes it, pixels (n, S, S, 3) in 0-255 to probabilities (n, 3).
        folder: holds one folder a class.
    """

    def __init__(self, model, folder: Path):
        self._model, self._folder = model, folder
        self._pass, self._ood_features = compile_pass(model), compile_ood_features(model)

    @classmethod
    def load(cls, file: Path, folder: Path, image_size: int) -> "Observer":
        """Read the model from a `.keras` file.

        Raises:
            ValueError: it does not take images of `image_size`, or does not give one probability a class.
        """
        from busi.model.saving import load_model  # here, because importing TensorFlow takes seconds

        model = load_model(file)
        shapes = tuple(model.input_shape), tuple(model.output_shape)
        if shapes != ((None, image_size, image_size, 3), (None, len(CLASSES))):
            raise ValueError(
                f"{file} takes {shapes[0]} and gives {shapes[1]}; its record says image_size {image_size}, and there "
                f"are {len(CLASSES)} classes\n  the two are not of one training: run `dvc repro --force train`"
            )
        return cls(model, folder)

    def classify(self, paths: Sequence[str], title: str = "evaluate") -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, float32 (n, 3), and `ood_features`, float32 (n, F), as `inference.compile_pass` gives them.

        Raises:
            ValueError: an image is missing or damaged; the error names it.
        """
        answers = [self._pass(pixels)[:2] for _, pixels in self._batches(paths, title)]
        return tuple(np.concatenate(columns) for columns in zip(*answers, strict=True))

    def ood_features(self, paths: Sequence[str], title: str = "known images") -> np.ndarray:
        """The features that `ood_detection` measures distances between, float32 (n, F), in a third of the time."""
        return np.concatenate([self._ood_features(pixels) for _, pixels in self._batches(paths, title)])

    def evidence(self, paths: Sequence[str], classes: Sequence[str], title: str = "heat maps") -> np.ndarray:
        """HiResCAM of one class for each image, before it is cut at zero and scaled: float32 (n, h, w)."""
        from busi.model.explanation import evidence

        return self._explain(evidence, paths, classes, title)

    def heat_maps(self, paths: Sequence[str], classes: Sequence[str], title: str = "gallery") -> np.ndarray:
        """HiResCAM of one class for each image, float32 (n, h, w) in 0-1."""
        from busi.model.explanation import heat_map

        return self._explain(heat_map, paths, classes, title)

    @contextlib.contextmanager
    def random_weights(self, seed: int) -> Iterator[None]:
        """Within the block the model answers with random weights."""
        from busi.model.explanation import randomised

        with randomised(self._model, seed):
            yield

    def _explain(self, function, paths: Sequence[str], classes: Sequence[str], title: str) -> np.ndarray:
        number_of = {path: CLASSES.index(label) for path, label in zip(paths, classes, strict=True)}
        maps = []
        for batch, pixels in self._batches(paths, title):
            _, _, feature_maps = self._pass(pixels)
            maps.append(function(self._model, feature_maps, np.array([number_of[path] for path in batch])))
        return np.concatenate(maps)

    def _batches(self, paths: Sequence[str], title: str) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        """Paths and pixels, uint8 (b, S, S, 3)."""
        size = self._model.input_shape[1]
        with tqdm(total=len(paths), desc=title, unit="image") as progress:
            for start in range(0, len(paths), BATCH):
                batch = paths[start : start + BATCH]
                yield batch, np.stack([prepare(read_image(self._folder / path), size) for path in batch])
                progress.update(len(batch))
