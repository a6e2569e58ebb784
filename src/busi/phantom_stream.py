"""The endless sequence of phantoms that pretraining learns from: varied ones, with the generator's own truth.

Without Keras, as the processes that render import it. No image comes twice: a phantom is shown `VIEWS` times, each
time in a window of its own, mirrored or not, with another gain and gamma.
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
VIEWS = 2
NATIVE = (200, 440)  # least and most pixels a side before the view is taken
ANNOTATED = 0.25
MAX_CROP = 0.25  # of the side, and never into a lesion
AHEAD = 40  # batches rendered ahead, a process: a compiler keeps the first step waiting for minutes


class Example(NamedTuple):
    """One phantom: its views, each with the lesion's cover, and what it is."""

    pixels: np.ndarray  # uint8 (VIEWS, S, S)
    cover: np.ndarray  # uint8 (VIEWS, S/8, S/8), 0-255
    truth: dict[str, int]  # task -> index into its values
    label: int  # index into `layout.CLASSES`


class Batch(NamedTuple):
    """`VIEWS` times as many images as phantoms, the first views of all of them before the second ones."""

    pixels: np.ndarray  # uint8 (n, S, S, 1)
    targets: dict[str, np.ndarray]  # class and descriptors int32 (n,), mask float32 (n, S/8, S/8, 1) in 0-1
    weights: dict[str, np.ndarray]  # float32 (n,)


def example(seed: int, number: int, size: int) -> Example:
    """Phantom `number` of the endless sequence. Classes are equally likely."""
    rng = np.random.default_rng([seed, number])
    label = int(rng.integers(len(CLASSES)))
    native = tuple(int(side) for side in rng.integers(NATIVE[0], NATIVE[1] + 1, 2))
    scan = render(rng, CLASSES[label], native, varied=True)
    if rng.random() < ANNOTATED:
        scan = scan._replace(image=annotate(rng, scan.image, scan.masks))
    views = [_view(rng, scan, size) for _ in range(VIEWS)]
    truth = {name: values.index(scan.descriptors[name]) if scan.masks else 0 for name, values in TASKS.items()}
    return Example(*(np.stack(layer) for layer in zip(*views, strict=True)), truth, label)


def stream(seed: int, first: int, phantoms: int, size: int, workers: int) -> Iterator[Batch]:
    """Batches of `phantoms` of the endless sequence, from number `first` on, rendered in `workers` processes."""
    with process_pool(workers) as pool:
        numbers = range(first, first + AHEAD * workers * phantoms, phantoms)
        ahead = [pool.submit(batch, seed, number, phantoms, size) for number in numbers]
        following = first + len(ahead) * phantoms
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(batch, seed, following, phantoms, size))
            following += phantoms


def batch(seed: int, first: int, phantoms: int, size: int) -> Batch:
    """The batch of phantoms `first` to `first + phantoms - 1`."""
    examples = [example(seed, first + i, size) for i in range(phantoms)]
    label = np.tile(np.array([one.label for one in examples], np.int32), VIEWS)
    pixels, cover = (
        np.concatenate(np.stack([getattr(one, layer) for one in examples], axis=1))[..., None]
        for layer in ("pixels", "cover")
    )
    targets = {name: np.tile(np.array([one.truth[name] for one in examples], np.int32), VIEWS) for name in TASKS}
    targets |= {"class": label, "mask": cover.astype(np.float32) / 255}
    all_alike = np.ones(len(label), np.float32)
    lesion = (label != CLASSES.index("normal")).astype(np.float32)
    return Batch(pixels, targets, dict.fromkeys(TASKS, lesion) | {"class": all_alike, "mask": all_alike})


def _view(rng: np.random.Generator, scan: Scan, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A window of a scan as some scanner would show it, uint8 (size, size), and the lesions' cover there."""
    height, width = scan.image.shape
    mask = np.max(scan.masks, axis=0) if scan.masks else np.zeros_like(scan.image)
    inner = _box(mask) if scan.masks else (width * 2 // 5, height * 2 // 5, width * 3 // 5, height * 3 // 5)
    room = (inner[0], inner[1], width - inner[2], height - inner[3])
    cut = [
        int(min(most, MAX_CROP * side) * rng.random()) if rng.random() < 0.7 else 0
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
    shown = 255 * (grey.astype(np.float32) / 255) ** np.float32(np.exp(rng.uniform(-0.45, 0.45)))
    shown = (shown - 64) * rng.uniform(0.7, 1.3) + 64 + rng.uniform(-25, 25) + rng.uniform(-25, 25) * depth
    return np.where(grey > 2, np.clip(shown, 0, 255), 0).astype(np.uint8)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a mask's filled part, the last two exclusive."""
    return Image.fromarray(mask).getbbox()
