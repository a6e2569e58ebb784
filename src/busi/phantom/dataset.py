"""A phantom data set in BUSI's layout, with near-duplicates, conflicting labels and annotations planted on purpose.

The same seed gives the same bytes on every processor.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from busi.data.layout import CLASSES, image_name, mask_name
from busi.data.process_pool import process_pool
from busi.phantom.annotations import annotate
from busi.phantom.random_fields import generator_for, pick, smooth_field
from busi.phantom.scan import render

ANNOTATED = 0.20  # share of scans with burnt-in calipers or text, in every class
ANNOTATED_AGAIN = 0.25  # the same for a further frame of a scan
GROUP = 0.15  # chance that an image begins a group of near-duplicates
GROUP_SIZES = {2: 0.70, 3: 0.22, 4: 0.08}
# The two classes that share a scan once every so many numbers; the copy lies in the second one's folder.
CONFLICTS = (("benign", "malignant"), ("benign", "normal"))
CONFLICT_EVERY = 50
CONFLICT_WITHIN = 12  # the copies lie among the first so many numbers of each stretch, so that small sets have one


class Copy(NamedTuple):
    """One file of a group: where it goes and whether it repeats the group's scan exactly or as another frame."""

    label: str
    number: int
    exact: bool


def generate(folder: Path, counts: dict[str, int], seed: int, workers: int | None = None) -> dict:
    """Write a phantom data set below `folder` and return the content of its `dataset.json`.

    Args:
        folder: gets `benign/`, `malignant/`, `normal/` with images (8-bit grey PNG) and masks (1-bit PNG, all black
            for normal images); must not hold these class folders yet.
        counts: images a class; every class of `layout.CLASSES` must be named.
        seed: what image N of a class shows depends on the seed, the class and N only: neither on `workers`, nor on
            the order of work, nor (unless its twin falls away) on the counts.
        workers: processes; None for one a core, 1 for this process alone.

    Raises:
        ValueError: for counts that are not one non-negative whole number a class, a negative seed or a used folder.
    """
    if set(counts) != set(CLASSES) or any(type(n) is not int or n < 0 for n in counts.values()):
        raise ValueError(f"counts: received {counts}; expected a number of images, 0 or more, for each of {CLASSES}")
    if seed < 0:
        raise ValueError(f"seed: received {seed}; expected 0 or more")
    for label in CLASSES:
        if (folder / label).exists():
            raise ValueError(f"{folder / label} exists already; expected a folder without; remove it or name another")
    for label in CLASSES:
        (folder / label).mkdir(parents=True)

    groups = plan(counts, seed)
    total = sum(counts.values())
    written: list[dict[str, list[str]]] = []
    with tqdm(total=total, desc="phantom", unit="image") as progress:
        if workers == 1:
            for group in groups:
                written.append(_write_group(folder, seed, group))
                progress.update(len(group))
        else:
            with process_pool(workers) as pool:
                jobs = [pool.submit(_write_group, folder, seed, group) for group in groups]
                for job, group in zip(jobs, groups, strict=True):
                    written.append(job.result())
                    progress.update(len(group))

    twins: dict[str, list[list[str]]] = {"near_duplicates": [], "label_conflicts": []}
    for group in groups:
        if len(group) > 1:
            kind = "near_duplicates" if len({copy.label for copy in group}) == 1 else "label_conflicts"
            twins[kind].append([f"{copy.label}/{image_name(copy.label, copy.number)}" for copy in group])
    return {
        "name": "phantom",
        "synthetic": True,
        "source": f"busi.phantom, seed {seed}",
        "licence": "CC0-1.0",
        "counts": {label: counts[label] for label in CLASSES},
        "masks": sum(len(files["masks"]) for files in written),
        "planted": {
            **twins,
            "annotated": sorted(path for files in written for path in files["annotated"]),
        },
    }


def plan(counts: dict[str, int], seed: int) -> list[tuple[Copy, ...]]:
    """Share the images out into groups that show the same scan: most of one image, some of two to four frames.

    The first copy of a group is its scan itself. A longer set has the groups of a shorter one, save those cut short.
    """
    groups = []
    taken = set()
    for stretch in range(max(counts.values(), default=0) // CONFLICT_EVERY + 1):
        for pair, labels in enumerate(CONFLICTS):
            rng = generator_for(seed, "conflict", stretch, pair)
            # odd numbers for one pair of classes and even ones for the other, so that no image is in both
            start = stretch * CONFLICT_EVERY + pair + 1
            first, second = ((label, start + 2 * int(rng.integers(CONFLICT_WITHIN // 2))) for label in labels)
            if all(number <= counts[label] for label, number in (first, second)):
                exact = bool(rng.integers(2))
                groups.append((Copy(*first, True), Copy(*second, exact)))
                taken.update((first, second))
    for label in CLASSES:
        number = 1
        while number <= counts[label]:
            if (label, number) in taken:
                number += 1
                continue
            rng = generator_for(seed, "group", label, number)
            size = pick(rng, GROUP_SIZES) if rng.random() < GROUP else 1
            group = [Copy(label, number, True)]
            for follower in range(number + 1, min(number + size, counts[label] + 1)):
                if (label, follower) in taken:
                    break
                group.append(Copy(label, follower, False))
            groups.append(tuple(group))
            number += len(group)
    return groups


def another_frame(
    rng: np.random.Generator, image: np.ndarray, masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same scan a moment later: cropped by up to 3 % a side, other gain, some new speckle, 8 % of them mirrored."""
    height, width = image.shape
    crop = [int(rng.integers(0, side * 3 // 100 + 1)) for side in (height, height, width, width)]
    window = np.s_[crop[0] : height - crop[1], crop[2] : width - crop[3]]
    frame = image[window].astype(np.int32)
    fresh = smooth_field(rng, *frame.shape, 3, 5) - 128
    gain = int(rng.integers(218, 296))
    offset = int(rng.integers(-6, 7))
    frame = np.clip((frame * gain >> 8) + (fresh * frame >> 11) + offset * (frame > 0), 0, 255).astype(np.uint8)
    masks = [mask[window] for mask in masks]
    if rng.random() < 0.08:
        frame, masks = frame[:, ::-1], [mask[:, ::-1] for mask in masks]
    return np.ascontiguousarray(frame), [np.ascontiguousarray(mask) for mask in masks]


def _write_group(folder: Path, seed: int, group: Sequence[Copy]) -> dict[str, list[str]]:
    """Render a group's scan, write its copies, and return the paths of the masks and of the annotated images."""
    files: dict[str, list[str]] = {"masks": [], "annotated": []}
    origin = group[0]
    scan = render(generator_for(seed, "scan", origin.label, origin.number), origin.label)
    shown, marked = scan.image, False
    for copy in group:
        rng = generator_for(seed, "copy", copy.label, copy.number)
        image, masks = scan.image, scan.masks
        if copy is origin:
            if rng.random() < ANNOTATED:
                image, marked = annotate(rng, image, masks), True
            shown, annotated = image, marked
        elif copy.exact:
            image, annotated = shown, marked
        else:
            image, masks = another_frame(rng, image, masks)
            annotated = rng.random() < ANNOTATED_AGAIN
            if annotated:
                image = annotate(rng, image, masks)
        path = f"{copy.label}/{image_name(copy.label, copy.number)}"
        _save(Image.fromarray(image), folder / path)
        if annotated:
            files["annotated"].append(path)
        if copy.label == "normal":
            masks = [np.zeros_like(image)]
        for number, mask in enumerate(masks):
            path = f"{copy.label}/{mask_name(copy.label, copy.number, number)}"
            _save(Image.fromarray(mask).convert("1", dither=Image.Dither.NONE), folder / path)
            files["masks"].append(path)
    return files


def _save(image: Image.Image, path: Path) -> None:
    # Huffman coding alone (Z_HUFFMAN_ONLY): zlib-ng searches matches differently on different processors
    image.save(path, compress_type=2)
