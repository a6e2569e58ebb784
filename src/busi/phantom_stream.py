"""The endless sequence of phantoms that pretraining learns from: varied ones, with the generator's own truth.

Without Keras, as the processes that render import it. No phantom comes twice; each is shown in a window of its own,
mirrored or not, with some gain and gamma.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from busi.layout import CLASSES
from busi.phantom import DESCRIPTORS, Scan, annotate, render
from busi.pools import process_pool

# Value lists of the tasks; a normal phantom has no lesion and so no descriptors: its weight in those tasks is 0
TASKS = {
    name: sorted({value for chances in table.values() for value in chances}) for name, table in DESCRIPTORS.items()
}
MASK_STRIDE = 8
NATIVE = (200, 440)  # least and most pixels a side before the view is taken
ANNOTATED = 0.25
MAX_CROP = 0.25  # of the side, and never into a lesion
AHEAD = 40  # batches rendered ahead, a process: a compiler keeps the first step waiting for minutes


class Example(NamedTuple):
    pixels: np.ndarray  # uint8 (S, S)
    cover: np.ndarray  # of the lesions, uint8 (S/8, S/8), 0-255
    truth: dict[str, int]  # task -> index into its values
    label: int  # index into `layout.CLASSES`


class Batch(NamedTuple):
    pixels: np.ndarray  # uint8 (n, S, S, 1)
    targets: dict[str, np.ndarray]  # class and descriptors int32 (n,), mask float32 (n, S/8, S/8, 1) in 0-1
    weights: dict[str, np.ndarray]  # float32 (n,)


def example(seed: int, number: int, size: int) -> Example:
    """Phantom `number` of the endless sequence. Classes are equally likely."""
    rng = np.random.default_rng([seed, number])
    label = int(rng.integers(len(CLASSES)))
    native = (int(rng.integers(NATIVE[0], NATIVE[1] + 1)), int(rng.integers(NATIVE[0], NATIVE[1] + 1)))
    scan = render(rng, CLASSES[label], native, varied=True)
    if rng.random() < ANNOTATED:
        scan = scan._replace(image=annotate(rng, scan.image, scan.masks))
    truth = {name: values.index(scan.descriptors[name]) if scan.masks else 0 for name, values in TASKS.items()}
    return Example(*_view(rng, scan, size), truth, label)


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
    label = np.array([one.label for one in examples], np.int32)
    targets = {name: np.array([one.truth[name] for one in examples], np.int32) for name in TASKS}
    targets |= {"class": label, "mask": np.stack([one.cover for one in examples])[..., None].astype(np.float32) / 255}
    lesion = (label != CLASSES.index("normal")).astype(np.float32)
    weights = dict.fromkeys(TASKS, lesion) | dict.fromkeys(("class", "mask"), np.ones(count, np.float32))
    return Batch(np.stack([one.pixels for one in examples])[..., None], targets, weights)


def _view(rng: np.random.Generator, scan: Scan, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A window of a scan as some scanner would show it, uint8 (size, size), and the lesions' cover there."""
    height, width = scan.image.shape
    mask = np.max(scan.masks, axis=0) if scan.masks else np.zeros_like(scan.image)
    # left, top, right and bottom of what the window keeps
    inner = Image.fromarray(mask).getbbox() or (width * 2 // 5, height * 2 // 5, width * 3 // 5, height * 3 // 5)
    room = (inner[0], inner[1], width - inner[2], height - inner[3])
    cut = [
        int(min(most, MAX_CROP * side) * rng.random() * (rng.random() < 0.7))
        for most, side in zip(room, (width, height, width, height), strict=True)
    ]
    window = (cut[0], cut[1], width - cut[2], height - cut[3])
    grey, cover = (
        Image.fromarray(layer).resize((size, size), Image.Resampling.BILINEAR, window, reducing_gap=2.0)
        for layer in (scan.image, mask)
    )
    if rng.random() < 0.5:
        grey, cover = (layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in (grey, cover))
    cell = size // MASK_STRIDE
    return _shown(np.asarray(grey), rng), np.asarray(cover.resize((cell, cell), Image.Resampling.BOX))


def _shown(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other gamma, contrast, gain and gain over depth; black stays black: no echo is there that these could raise."""
    depth = np.linspace(-0.5, 0.5, len(grey), dtype=np.float32)[:, None]
    shown = 255 * (grey.astype(np.float32) / 255) ** np.exp(rng.uniform(-0.45, 0.45))
    shown = (shown - 64) * rng.uniform(0.7, 1.3) + 64 + rng.uniform(-25, 25) + rng.uniform(-25, 25) * depth
    return np.where(grey > 2, np.clip(shown, 0, 255), 0).astype(np.uint8)
