"""The endless sequence of phantoms that pretraining learns from: varied ones, with the generator's own truth.

The processes that render import this module, so it does not import Keras. No phantom comes twice. Each is shown in two
views; each view has its own window, gain and gamma, and may be mirrored.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from busi.data.layout import CLASSES
from busi.data.process_pool import process_pool
from busi.model.augmentation import BLACK, PIVOT
from busi.phantom.annotations import annotate
from busi.phantom.lesion import DESCRIPTORS
from busi.phantom.scan import Scan, render

# The values of each descriptor. A normal phantom has no lesion, so its weight in these tasks is 0
TASKS = {
    name: sorted({value for chances in table.values() for value in chances}) for name, table in DESCRIPTORS.items()
}
STRIDE = 8  # of the pictures that are targets
VIEWS = 2
NATIVE = (200, 440)  # least and most pixels a side before the view is taken
ANNOTATED = 0.25  # share of phantoms with burnt-in calipers or text
MAX_CROP = 0.25  # of the side, and never into a lesion
# How far a view may differ from its phantom; somewhat more than the augmentation in fine-tuning
MAX_LOG_GAMMA = 0.45
MAX_CONTRAST = 0.3  # share of the contrast, more or less
MAX_GAIN = 25  # gray levels, over the whole view, and again between its top and bottom
CUT_SIDE, MIRRORED = 0.7, 0.5  # chances that a side is cropped, and that a view is mirrored
AHEAD = 40  # batches rendered ahead, a process: compiling the first step takes minutes


class Example(NamedTuple):
    """One phantom in its views, with its truth."""

    pixels: np.ndarray  # uint8 (VIEWS, S, S)
    cover: np.ndarray  # of the lesions, uint8 (VIEWS, S/8, S/8), 0-255
    echogenicity: np.ndarray  # uint8 (VIEWS, S/8, S/8), as in `Scan`
    truth: dict[str, int]  # task -> index into its values
    label: int  # index into `layout.CLASSES`


class Batch(NamedTuple):
    """Of n phantoms 2 n images: the first views of all of them before the second ones."""

    pixels: np.ndarray  # uint8 (2 n, S, S, 1)
    targets: dict[str, np.ndarray]  # class and descriptors int32 (2 n,), pictures float32 (2 n, S/8, S/8, 1)
    weights: dict[str, np.ndarray]  # float32 (2 n,)


def example(seed: int, number: int, size: int) -> Example:
    """Phantom `number` of the endless sequence. Classes are equally likely."""
    rng = np.random.default_rng([seed, number])
    label = int(rng.integers(len(CLASSES)))
    native = (int(rng.integers(NATIVE[0], NATIVE[1] + 1)), int(rng.integers(NATIVE[0], NATIVE[1] + 1)))
    scan = render(rng, CLASSES[label], native, varied=True)
    if rng.random() < ANNOTATED:
        scan = scan._replace(image=annotate(rng, scan.image, scan.masks))
    truth = {name: values.index(scan.descriptors[name]) if scan.masks else 0 for name, values in TASKS.items()}
    views = [_view(rng, scan, size) for _ in range(VIEWS)]
    return Example(*map(np.stack, zip(*views, strict=True)), truth, label)


def stream(seed: int, first: int, count: int, size: int, workers: int) -> Iterator[Batch]:
    """Batches of `count` phantoms of the endless sequence, from number `first` on, rendered in `workers` processes."""
    with process_pool(workers) as pool:
        ahead = [pool.submit(batch, seed, first + i * count, count, size) for i in range(AHEAD * workers)]
        following = first + len(ahead) * count
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(batch, seed, following, count, size))
            following += count


def batch(seed: int, first: int, count: int, size: int) -> Batch:
    """The batch of phantoms `first` to `first + count - 1`."""
    examples = [example(seed, first + i, size) for i in range(count)]

    def numbers(of_one: Iterable[int]) -> np.ndarray:
        return np.tile(np.array(list(of_one), np.int32), VIEWS)

    def pictures(name: str) -> np.ndarray:
        return np.concatenate(np.stack([getattr(one, name) for one in examples], axis=1))[..., None]

    label = numbers(one.label for one in examples)
    targets = {name: numbers(one.truth[name] for one in examples) for name in TASKS}
    targets |= {"class": label, "mask": pictures("cover").astype(np.float32) / 255}
    targets |= {"echogenicity": pictures("echogenicity").astype(np.float32)}
    lesion, everywhere = (label != CLASSES.index("normal")).astype(np.float32), np.ones(len(label), np.float32)
    weights = dict.fromkeys(targets, everywhere) | dict.fromkeys(TASKS, lesion)
    return Batch(pictures("pixels"), targets, weights)


def _view(rng: np.random.Generator, scan: Scan, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A window of a scan with random gain, gamma and mirroring; and the lesions' cover and the echogenicity in it."""
    height, width = scan.image.shape
    mask = np.max(scan.masks, axis=0) if scan.masks else np.zeros_like(scan.image)
    # left, top, right and bottom of what the window keeps
    inner = Image.fromarray(mask).getbbox() or (width * 2 // 5, height * 2 // 5, width * 3 // 5, height * 3 // 5)
    room = (inner[0], inner[1], width - inner[2], height - inner[3])
    cut = [
        int(min(most, MAX_CROP * side) * rng.random() * (rng.random() < CUT_SIDE))
        for most, side in zip(room, (width, height, width, height), strict=True)
    ]
    window = (cut[0], cut[1], width - cut[2], height - cut[3])
    layers = [
        Image.fromarray(layer).resize((size, size), Image.Resampling.BILINEAR, window, reducing_gap=2.0)
        for layer in (scan.image, mask, scan.echogenicity)
    ]
    if rng.random() < MIRRORED:
        layers = [layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in layers]
    grey, *truth = layers
    cells = (size // STRIDE, size // STRIDE)
    return _shown(np.asarray(grey), rng), *(np.asarray(layer.resize(cells, Image.Resampling.BOX)) for layer in truth)


def _shown(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other gamma, contrast, gain and gain over depth. Black stays black, as in `augmentation.augment`."""
    depth = np.linspace(-0.5, 0.5, len(grey), dtype=np.float32)[:, None]
    shown = 255 * (grey.astype(np.float32) / 255) ** np.exp(rng.uniform(-MAX_LOG_GAMMA, MAX_LOG_GAMMA))
    contrast = rng.uniform(1 - MAX_CONTRAST, 1 + MAX_CONTRAST)
    gain, depth_gain = rng.uniform(-MAX_GAIN, MAX_GAIN), rng.uniform(-MAX_GAIN, MAX_GAIN)
    shown = (shown - PIVOT) * contrast + PIVOT + gain + depth_gain * depth
    return np.where(grey > BLACK, np.clip(shown, 0, 255), 0).astype(np.uint8)
