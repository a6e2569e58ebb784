"""Synthetic breast-ultrasound images in BUSI's layout, with lesion masks and BI-RADS descriptors as their truth.

A scan is made as a scanner makes it. An anatomy (skin, fat, gland, pectoral muscle, ribs) is a map of echogenicity and
a map of absorption in decibel; a lesion changes both according to its descriptors. Random scatterers, weighted with
the echogenicity that absorption leaves over them, are convolved with a point spread function that widens with depth;
the squared magnitude of the complex sum is fully developed speckle, whose envelope is Rayleigh distributed (Burckhardt,
IEEE Trans Sonics Ultrason 25 (1978) 1-6; Goodman, Speckle Phenomena in Optics, 2007). Receiver noise, time gain
compensation, log compression and scan conversion to the native size follow.

The same seed gives the same bytes on every processor: everything that decides a pixel is integer arithmetic. Scalars
from `math` are rounded to 1/16 pixel or a quarter of a decibel before a pixel sees them, random fields are
`Generator.integers`, the logarithm is a table of integer thresholds, and Pillow resizes and blurs 8-bit images in
fixed point. NumPy's own exp, log, sin, power, FFT and normal variates are avoided, since their last bit depends on
the processor's vector instructions.

Units inside this module: `steps` are quarters of a decibel; the work grid has one column for two native pixels and
two rows for three, and scan conversion interpolates, as in a scanner with fewer beams than screen columns.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from busi.data.layout import CLASSES, image_name, mask_name
from busi.data.process_pool import process_pool

# Chances of the BI-RADS descriptors (ACR BI-RADS Atlas, 5th edition, ultrasound) by class. They overlap on purpose,
# with the odds that Stavros et al. (Radiology 196 (1995) 123-134) and Hong et al. (AJR 184 (2005) 1260-1265) lead one
# to expect: no single descriptor decides.
DESCRIPTORS: dict[str, dict[str, dict[str, float]]] = {
    "shape": {
        "benign": {"oval": 0.76, "round": 0.15, "irregular": 0.09},
        "malignant": {"oval": 0.08, "round": 0.08, "irregular": 0.84},
    },
    "orientation": {
        "benign": {"parallel": 0.90, "not parallel": 0.10},
        "malignant": {"parallel": 0.38, "not parallel": 0.62},
    },
    "margin": {
        "benign": {
            "circumscribed": 0.82,
            "indistinct": 0.08,
            "angular": 0.02,
            "microlobulated": 0.06,
            "spiculated": 0.02,
        },
        "malignant": {
            "circumscribed": 0.06,
            "indistinct": 0.18,
            "angular": 0.18,
            "microlobulated": 0.18,
            "spiculated": 0.40,
        },
    },
    "echo_pattern": {
        "benign": {
            "anechoic": 0.34,
            "hypoechoic": 0.42,
            "isoechoic": 0.06,
            "hyperechoic": 0.03,
            "complex": 0.08,
            "heterogeneous": 0.07,
        },
        "malignant": {
            "anechoic": 0.01,
            "hypoechoic": 0.44,
            "isoechoic": 0.03,
            "hyperechoic": 0.01,
            "complex": 0.11,
            "heterogeneous": 0.40,
        },
    },
    "posterior_features": {
        "benign": {"none": 0.35, "enhancement": 0.55, "shadowing": 0.06, "combined": 0.04},
        "malignant": {"none": 0.22, "enhancement": 0.08, "shadowing": 0.56, "combined": 0.14},
    },
    "halo": {"benign": {"absent": 0.95, "present": 0.05}, "malignant": {"absent": 0.34, "present": 0.66}},
    "calcifications": {"benign": {"absent": 0.94, "present": 0.06}, "malignant": {"absent": 0.72, "present": 0.28}},
}

SECOND_LESION = 0.06  # chance to try for a second lesion; half the time there is room
ANNOTATED = 0.20  # share of scans with burnt-in calipers or text, in every class
ANNOTATED_AGAIN = 0.25  # the same for a further frame of a scan
MARGINS = 0.25  # share of scans with black margins
GROUP = 0.15  # chance that an image begins a group of near-duplicates
GROUP_SIZES = {2: 0.70, 3: 0.22, 4: 0.08}
# The two classes that share a scan once every so many numbers; the copy lies in the second one's folder.
CONFLICTS = (("benign", "malignant"), ("benign", "normal"))
CONFLICT_EVERY = 50
CONFLICT_WITHIN = 12  # the copies lie among the first so many numbers of each stretch, so that small sets have one

FAT = 240  # echogenicity of fat in steps above an amplitude of one
LOUDEST = 288  # 72 dB
PASSES = (2, 3, 4, 5, 6, 8)  # lateral [1 2 1] passes from the probe's face to the deepest sixth
LOOKS = 2  # independent speckle patterns averaged, as spatial compounding does
TEXTS = ("LEFT BREAST", "RIGHT BREAST", "RT 12 C", "LT 3 C", "RT2", "LT", "RT", "LT UOQ", "RT 9 C", "AXILLA", "LT 6 C")


class Scan(NamedTuple):
    """One phantom with its truth.

    `image` is uint8 (height, width), 0-255. `masks` holds one uint8 (height, width) array of 0 and 255 a lesion, none
    for a normal scan. `descriptors` has `lesions` (their number) and, with a lesion, the keys of `DESCRIPTORS`, and
    `width_fraction` and `height_fraction`, the first lesion's size over the image's. `echogenicity`, uint8 (height,
    width), is how strongly the tissue scatters, before speckle, absorption and gain: 128 is fat, a grey level is half a
    decibel, 0 is no tissue.
    """

    image: np.ndarray
    masks: list[np.ndarray]
    descriptors: dict[str, str | int | float]
    echogenicity: np.ndarray


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
            rng = _generator(seed, "conflict", stretch, pair)
            # odd numbers for the one pair of classes and even ones for the other, lest both want the same image
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
            rng = _generator(seed, "group", label, number)
            size = _pick(rng, GROUP_SIZES) if rng.random() < GROUP else 1
            group = [Copy(label, number, True)]
            for follower in range(number + 1, min(number + size, counts[label] + 1)):
                if (label, follower) in taken:
                    break
                group.append(Copy(label, follower, False))
            groups.append(tuple(group))
            number += len(group)
    return groups


def describe(rng: np.random.Generator, label: str) -> dict[str, str]:
    """Draw a lesion's BI-RADS descriptors for class `label` (benign or malignant): a value for each of `DESCRIPTORS`.

    A round lesion is not parallel by definition, and a simple cyst holds no calcifications.
    """
    drawn = {name: _pick(rng, chances[label]) for name, chances in DESCRIPTORS.items()}
    if drawn["shape"] == "round":
        drawn["orientation"] = "not parallel"
    if drawn["echo_pattern"] == "anechoic":
        drawn["calcifications"] = "absent"
    return drawn


def render(rng: np.random.Generator, label: str, size: tuple[int, int] | None = None, varied: bool = False) -> Scan:
    """One scan without annotations.

    Args:
        rng: a PCG64 generator (`np.random.default_rng(seed)`); the scan is a function of its state.
        label: one of `layout.CLASSES`.
        size: width and height of the image in pixels, 64 or more each; None draws about 500 x 500.
        varied: as patients and scanners vary, for pretraining: a breast full of ligaments, lobules and shadows, a
            lesion that stands out more or less and may lie anywhere, other fading with depth, dynamic range and
            smoothing. The embedded data set is not varied.

    Raises:
        ValueError: for an unknown label or a size below 64 pixels.
    """
    if label not in CLASSES:
        raise ValueError(f"label: received {label!r}; expected one of {CLASSES}")
    canvas_width, canvas_height = size or (int(rng.integers(380, 701)), int(rng.integers(350, 601)))
    if min(canvas_width, canvas_height) < 64:
        raise ValueError(f"size: received {canvas_width} x {canvas_height}; expected 64 pixels a side or more")
    left, top, right, bottom = _margins(rng, canvas_width, canvas_height)
    width, height = canvas_width - left - right, canvas_height - top - bottom
    columns, rows = width // 2, height * 2 // 3

    echo, mirror, absorption = _anatomy(rng, rows, columns)
    if varied:
        _clutter(rng, echo, mirror, absorption)
    masks = []
    descriptors: dict[str, str | int | float] = {"lesions": 0}
    if label != "normal":
        drawn = describe(rng, label)
        for number in range(2 if rng.random() < SECOND_LESION else 1):
            mask = _lesion(rng, label, drawn, number, (height, width), masks, varied)
            if mask is None:
                break
            _paint(rng, drawn, mask, echo, mirror, absorption, varied)
            masks.append(mask)
        (y0, x0, y1, x1) = _box(masks[0])
        descriptors = {
            **drawn,
            "lesions": len(masks),
            "width_fraction": round((x1 - x0) / canvas_width, 4),
            "height_fraction": round((y1 - y0) / canvas_height, 4),
        }

    grey = _display(rng, _receive(rng, echo, mirror, absorption), varied)
    image = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))
    tissue = Image.fromarray(np.clip(128 + (echo - FAT) // 2, 1, 255).astype(np.uint8))
    tissue = np.asarray(tissue.resize((width, height), Image.Resampling.NEAREST))
    frame = ((top, bottom), (left, right))
    return Scan(np.pad(image, frame), [np.pad(mask, frame) for mask in masks], descriptors, np.pad(tissue, frame))


def speckle(
    rng: np.random.Generator, amplitude: np.ndarray, specular: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """In-phase and quadrature echo of random scatterers, and of smooth reflectors where there are some.

    Args:
        amplitude: the scatterers' local amplitude, integers 0-4095, (rows, columns).
        specular: amplitude of reflectors that echo in phase, such as fasciae; same type and shape, None for none.

    Returns:
        Two int32 arrays of the same shape. The envelope, the root of the sum of their squares, is Rayleigh distributed
        where `amplitude` is uniform: mean over standard deviation is (pi / (4 - pi)) ** 0.5 = 1.91 (Burckhardt 1978).
        Resolution cells grow with depth (rows), and their mean power falls as `lateral_loss` says.
    """
    rows = len(amplitude)
    pad = 2 * PASSES[-1]
    frame = ((4, 4), (pad, pad))
    amplitude = np.pad(amplitude.astype(np.int32), frame, mode="edge")
    # Two sums of two bytes a cell: variance 10922.5 each; |echo| < 2**21 throughout
    noise = np.frombuffer(rng.bytes(4 * amplitude.size), np.uint8).reshape(2, 2, *amplitude.shape)
    echo = (noise[0].astype(np.int32) + noise[1] - 255) * amplitude
    if specular is not None:
        echo[0] += 72 * np.pad(specular.astype(np.int32), frame, mode="edge")
    for _ in range(2):
        echo[:, 1:-1] = (echo[:, :-2] + 2 * echo[:, 1:-1] + echo[:, 2:] + 2) >> 2
    for band, extra in enumerate(np.diff(PASSES, prepend=0)):
        part = echo[:, 4 + band * rows // len(PASSES) :] if band else echo
        for _ in range(extra):
            part[:, :, 1:-1] = (part[:, :, :-2] + 2 * part[:, :, 1:-1] + part[:, :, 2:] + 2) >> 2
    echo = echo[:, 4:-4, pad:-pad]
    return echo[0], echo[1]


def lateral_loss(rows: int) -> np.ndarray:
    """Steps by which `speckle`'s mean power falls in each of `rows` rows, as the resolution cell widens."""
    # the power that n binomial passes keep is comb(4n, 2n) / 16**n
    kept = [math.comb(4 * n, 2 * n) / 16**n for n in PASSES]
    loss = [round(40 * math.log10(kept[0] / one)) for one in kept]
    starts = [band * rows // len(PASSES) for band in range(len(PASSES))]
    return np.repeat(np.array(loss, np.int32), np.diff([*starts, rows]))


def _write_group(folder: Path, seed: int, group: Sequence[Copy]) -> dict[str, list[str]]:
    """Render a group's scan, write its copies, and return the paths of the masks and of the annotated images."""
    files: dict[str, list[str]] = {"masks": [], "annotated": []}
    origin = group[0]
    scan = render(_generator(seed, "scan", origin.label, origin.number), origin.label)
    shown, marked = scan.image, False
    for copy in group:
        rng = _generator(seed, "copy", copy.label, copy.number)
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


def another_frame(
    rng: np.random.Generator, image: np.ndarray, masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same scan a moment later: cropped by up to 3 % a side, other gain, some new speckle, seldom mirrored."""
    height, width = image.shape
    crop = [int(rng.integers(0, side * 3 // 100 + 1)) for side in (height, height, width, width)]
    window = np.s_[crop[0] : height - crop[1], crop[2] : width - crop[3]]
    frame = image[window].astype(np.int32)
    fresh = _field(rng, *frame.shape, 3, 5) - 128
    gain = int(rng.integers(218, 296))
    offset = int(rng.integers(-6, 7))
    frame = np.clip((frame * gain >> 8) + (fresh * frame >> 11) + offset * (frame > 0), 0, 255).astype(np.uint8)
    masks = [mask[window] for mask in masks]
    if rng.random() < 0.08:
        frame, masks = frame[:, ::-1], [mask[:, ::-1] for mask in masks]
    return np.ascontiguousarray(frame), [np.ascontiguousarray(mask) for mask in masks]


def annotate(rng: np.random.Generator, image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Burn calipers, text or both into a copy of `image`; without a lesion the calipers measure some other spot."""
    height, width = image.shape
    canvas = Image.fromarray(image)
    calipers = rng.random() < 0.6
    if calipers:
        if masks:
            y0, x0, y1, x1 = _box(masks[0])
        else:
            half_x, half_y = int(_between(rng, 0.04, 0.16) * width), int(_between(rng, 0.03, 0.12) * height)
            x, y = int(_between(rng, 0.3, 0.7) * width), int(_between(rng, 0.25, 0.6) * height)
            y0, x0, y1, x1 = y - half_y, x - half_x, y + half_y, x + half_x
        tilt = int(rng.integers(-(y1 - y0) // 6 - 1, (y1 - y0) // 6 + 2))
        middle_y, middle_x = (y0 + y1) // 2, (x0 + x1) // 2
        _caliper(canvas, (x0, middle_y - tilt), (x1, middle_y + tilt), "1")
        if rng.random() < 0.6:
            _caliper(canvas, (middle_x + tilt, y0), (middle_x - tilt, y1), "2")
    if not calipers or rng.random() < 0.5:
        text = TEXTS[int(rng.integers(len(TEXTS)))]
        _text(canvas, (int(_between(rng, 0.0, 0.6) * width), int(_between(rng, 0.6, 0.92) * height)), text, height)
    return np.asarray(canvas)


def _caliper(canvas: Image.Image, start: tuple[int, int], end: tuple[int, int], name: str) -> None:
    """Two crosses joined by a dotted line, and the measurement's number."""
    draw = ImageDraw.Draw(canvas)
    arm = max(2, canvas.height // 90)
    for x, y in (start, end):
        draw.rectangle((x - arm, y, x + arm, y), fill=235)
        draw.rectangle((x, y - arm, x, y + arm), fill=235)
    dots = max(1, max(abs(end[0] - start[0]), abs(end[1] - start[1])) // 5)
    for dot in range(dots):
        x, y = (start[k] + (end[k] - start[k]) * dot // dots for k in (0, 1))
        draw.point((x, y), fill=215)
    _text(canvas, (start[0] - 3 * arm, start[1] - 3 * arm), name, canvas.height)


def _text(canvas: Image.Image, corner: tuple[int, int], text: str, height: int) -> None:
    # the bitmap font: an outline font's pixels depend on the version of FreeType
    font = ImageFont.load_default_imagefont()
    _, _, w, h = font.getbbox(text)
    mask = Image.new("L", (w, h))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    scaled = mask.resize((max(1, w * height // 270), max(1, h * height // 270)), Image.Resampling.BILINEAR)
    canvas.paste(225, corner, scaled)


def _margins(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Black margins left, top, right and bottom, in pixels: mostly none."""
    if rng.random() >= MARGINS:
        return 0, 0, 0, 0
    sides = (width, height, width, height)
    return tuple(int(side * _between(rng, 0.01, 0.09)) if rng.random() < 0.4 else 0 for side in sides)


def _anatomy(rng: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A breast without lesion: echogenicity of its scatterers and, above fat's, of its reflectors (steps; 0 for none),
    and what it absorbs beyond the usual (1/256 step a row); int32 (rows, columns) each."""
    skin = _between(rng, 0.015, 0.035)
    gland = _between(rng, 0.10, 0.34)
    retro = gland + _between(rng, 0.22, 0.42)
    muscle = retro + _between(rng, 0.02, 0.10)
    chest = muscle + _between(rng, 0.12, 0.30)
    sway = _between(rng, 0.02, 0.12)
    borders = [
        round(depth * rows) + _curve(rng, columns, cells, part * rows)
        for depth, cells, part in (
            (skin, 2, 0.004),
            (gland, 3, sway),
            (retro, 3, 0.06),
            (muscle, 2, 0.03),
            (chest, 2, 0.05),
        )
    ]
    depth = np.arange(rows, dtype=np.int32)[:, None]
    layer = sum((depth >= border).astype(np.uint8) for border in borders)

    def field(cell_rows: float, cell_columns: float) -> np.ndarray:
        return _field(rng, rows, columns, max(2, round(cell_rows * rows)), max(2, round(cell_columns * columns)))

    # subcutaneous fat: even, with the bright threads of Cooper's ligaments around its lobules
    fat = (field(0.03, 0.05) - 128) * 16 // 128
    # gland: bright tissue with dark lobules and ducts, stretched along the skin
    grain = field(0.035, 0.09) + field(0.014, 0.04)
    contrast = int(rng.integers(12, 30))
    parenchyma = (
        int(rng.integers(4, 34)) + (grain - 256) * contrast // 128 - np.clip(200 - grain, 0, 60) * contrast // 40
    )
    # muscle: dark with bright fibres
    fibre = int(rng.integers(-54, -20)) + _threads(field(0.022, 0.35), 16, 30) + (field(0.02, 0.2) - 128) * 24 // 128
    behind = int(rng.integers(-90, -44)) + (field(0.05, 0.15) - 128) * 20 // 128
    surface = 20 + field(0.006, 0.3) // 6
    echo = FAT + np.choose(layer, (surface, fat, parenchyma, fat - 8, fibre, behind)).astype(np.int32)

    # what reflects as a mirror does: ligaments, fibres, fasciae between the layers
    ligaments = _threads(field(0.10, 0.45), 3, 60)
    strands = _threads(field(0.04, 0.30), 4, 44)
    fibres = _threads(field(0.025, 0.45), 7, 48)
    mirror = np.choose(layer, (0, ligaments, strands, ligaments, fibres, 0)).astype(np.int32)
    mirror = np.where(field(0.02, 0.05) > int(rng.integers(70, 130)), mirror, 0)
    for border, height in zip(borders, (26, 44, 30, 66, 70), strict=True):
        strength = np.clip(_curve(rng, columns, 5, 2 * height) + height // 3, 0, 80)
        mirror = np.maximum(mirror, np.where(abs(depth - border) <= 1, strength, 0))
    # no reflector is even: each patch faces the beam more or less
    mirror = np.where(mirror > 0, mirror + (field(0.012, 0.03) - 150) * 50 // 128, 0)

    absorption = np.where(layer == 5, 256 * 60 // rows, 0).astype(np.int32)
    for _ in range(int(rng.integers(0, 3))):
        _lobule(rng, rows, columns, round(gland * rows), round(retro * rows), echo)
    for _ in range(int(rng.integers(0, 3))):
        _cooper_shadow(rng, rows, columns, absorption)
    if rng.random() < 0.15:
        _poor_contact(rng, rows, columns, absorption)
    if rng.random() < 0.40:
        _ribs(rng, rows, columns, max(round(muscle * rows), rows * 6 // 10), echo, absorption)

    # the layers lie tilted and bent together
    tilt = np.arange(columns) * round(_between(rng, -0.09, 0.09) * rows) // columns
    bend = _curve(rng, columns, 2, _between(rng, 0.02, 0.12) * rows) + tilt
    source = np.clip(depth - bend + int(bend.min() + bend.max()) // 2, 0, rows - 1)
    return tuple(np.take_along_axis(part, source, 0) for part in (echo, mirror, absorption))


def _clutter(rng: np.random.Generator, echo: np.ndarray, mirror: np.ndarray, absorption: np.ndarray) -> None:
    """Fill `_anatomy`'s maps, in place, with what a breast has besides its layers."""
    rows, columns = echo.shape
    depth = np.arange(rows, dtype=np.int32)[:, None]

    def field(cell_rows: float, cell_columns: float) -> np.ndarray:
        return _field(rng, rows, columns, max(2, round(cell_rows * rows)), max(2, round(cell_columns * columns)))

    # tissue that is brighter here and darker there
    echo += (field(_between(rng, 0.12, 0.4), _between(rng, 0.15, 0.5)) - 128) * int(rng.integers(0, 70)) // 128
    for _ in range(int(rng.integers(0, 6))):
        _lobule(rng, rows, columns, round(0.04 * rows), round(0.8 * rows), echo)
    # ligaments and fasciae, each family of them bent and tilted in its own way and only in places
    for _ in range(int(rng.integers(1, 6))):
        course = field(_between(rng, 0.025, 0.12), _between(rng, 0.15, 0.8))
        lines = _threads(course, int(rng.integers(3, 11)), int(rng.integers(30, 96)))
        lines = np.where(field(0.15, 0.15) > int(rng.integers(40, 150)), lines, 0)
        tilt = np.arange(columns) * round(_between(rng, -0.25, 0.25) * rows) // columns
        bend = _curve(rng, columns, int(rng.integers(1, 5)), _between(rng, 0.03, 0.3) * rows) + tilt
        lines = np.take_along_axis(lines, (depth - bend) % rows, 0)
        echo += lines * int(rng.integers(100, 257)) // 256
        np.maximum(mirror, lines * int(rng.integers(0, 200)) // 256, out=mirror)
    # shadows, and a picture that gets darker with depth
    for _ in range(int(rng.integers(0, 6))):
        _cooper_shadow(rng, rows, columns, absorption)
    streaks = np.clip(_curve(rng, columns, int(rng.integers(3, 14)), 512 * _between(rng, 0.0, 90)), 0, None)
    absorption += streaks // (2 * rows)
    absorption += 256 * int(rng.integers(0, 110)) // rows


def _lobule(rng: np.random.Generator, rows: int, columns: int, top: int, bottom: int, echo: np.ndarray) -> None:
    """A fat lobule within the gland: oval, no darker than fat, with soft border: what a lesion is mistaken for."""
    wide, high = _between(rng, 0.04, 0.12) * columns, _between(rng, 0.02, 0.06) * rows
    x, y = _between(rng, 0.1, 0.9) * columns, _between(rng, top, bottom)
    alpha = _blurred(_fill([_outline(rng, "oval", "circumscribed", (x, y), (wide, high), 0.0)], rows, columns), 1.5)
    level = FAT + int(rng.integers(-26, 8))
    echo += (level - echo) * alpha // 255


def _cooper_shadow(rng: np.random.Generator, rows: int, columns: int, absorption: np.ndarray) -> None:
    """The faint shadow that a ligament throws when the beam meets it at a slant."""
    x, y = _between(rng, 0.0, 1.0) * columns, _between(rng, 0.05, 0.45) * rows
    size = (_between(rng, 0.012, 0.05) * columns, _between(rng, 0.02, 0.05) * rows)
    alpha = _blurred(_fill([_outline(rng, "oval", "angular", (x, y), size, 0.0)], rows, columns), 3)
    _absorb(absorption, alpha, round(_between(rng, 8, 32)))


def _poor_contact(rng: np.random.Generator, rows: int, columns: int, absorption: np.ndarray) -> None:
    """One edge of the probe lost contact with the skin: dark from the top."""
    reach = _between(rng, 0.04, 0.18) * columns
    x = 0 if rng.integers(2) else columns
    edge = _outline(rng, "oval", "circumscribed", (x, 0.06 * rows), (reach, 0.1 * rows), 0.0)
    _absorb(absorption, _blurred(_fill([edge], rows, columns), 8), round(_between(rng, 40, 130)))


def _ribs(
    rng: np.random.Generator, rows: int, columns: int, top: int, echo: np.ndarray, absorption: np.ndarray
) -> None:
    """One or two ribs: a bright surface and all but nothing behind it."""
    for _ in range(int(rng.integers(1, 3))):
        size = (_between(rng, 0.10, 0.22) * columns, _between(rng, 0.05, 0.10) * rows)
        centre = (_between(rng, 0.0, 1.0) * columns, _between(rng, top + size[1], rows * 1.02))
        rib = _fill([_outline(rng, "oval", "circumscribed", centre, size, 0.0)], rows, columns)
        surface = rib.copy()
        surface[3:] -= np.minimum(rib[:-3], rib[3:])
        echo += -40 * _blurred(rib, 1) // 255
        echo += 80 * _blurred(surface, 1) // 255
        _absorb(absorption, _blurred(rib, 2), round(_between(rng, 60, 130)))


def _lesion(
    rng: np.random.Generator,
    label: str,
    drawn: dict[str, str],
    number: int,
    size: tuple[int, int],
    others: Sequence[np.ndarray],
    varied: bool,
) -> np.ndarray | None:
    """Outline a lesion where none of `others` is; native mask, or None where no room was found."""
    height, width = size
    small, large = (0.09, 0.18) if label == "benign" else (0.13, 0.26)
    if varied:
        small, large = small / 2, large * 1.2
    for _ in range(8):
        half_width = width * (small + (large - small) * rng.random()) * (0.7 if number else 1)
        aspect = {"round": _between(rng, 0.92, 1.08)}.get(
            drawn["shape"], _between(rng, 0.45, 0.80) if drawn["orientation"] == "parallel" else _between(rng, 1.1, 1.5)
        )
        half_height = half_width * aspect
        if half_height > 0.24 * height:
            half_width, half_height = half_width * 0.24 * height / half_height, 0.24 * height
        centre = (
            (_between(rng, 0.12, 0.88) if varied else _between(rng, 0.25, 0.75)) * width,
            _between(rng, 0.07 * height + half_height, max(0.50 * height, 0.1 * height + half_height)),
        )
        angle = _between(rng, -0.25, 0.25)
        core = _outline(rng, drawn["shape"], drawn["margin"], centre, (half_width, half_height), angle)
        polygons = [core]
        if drawn["margin"] == "spiculated":
            polygons += _spicules(rng, core, centre)
        mask = _fill(polygons, height, width)
        if mask.any() and not any((_blurred(mask, 12) > 0)[other > 0].any() for other in others):
            return mask
    return None


def _outline(
    rng: np.random.Generator,
    shape: str,
    margin: str,
    centre: tuple[float, float],
    half: tuple[float, float],
    angle: float,
) -> np.ndarray:
    """A closed outline around `centre`: int64 (points, 2), x and y in 1/16 pixel."""
    points = int(rng.integers(7, 12)) if margin == "angular" else 144
    waves = range(2, 7) if shape == "irregular" else range(2, 4)
    strength = 0.19 if shape == "irregular" else 0.035
    harmonics = [
        (k, strength * _between(rng, 0.4, 1.0) * (2 / k) ** 0.5, _between(rng, 0.0, 2 * math.pi)) for k in waves
    ]
    lobes, lobe_phase = int(rng.integers(4, 8)), _between(rng, 0.0, math.pi)
    lobe = _between(rng, 0.13, 0.22) if margin == "microlobulated" else 0.0
    outline = []
    for point in range(points):
        theta = 2 * math.pi * point / points
        radius = 1.0 + sum(a * math.cos(k * theta + phase) for k, a, phase in harmonics)
        # unevenly spaced and of uneven height
        bump = abs(math.sin(lobes * theta + lobe_phase + 1.3 * math.sin(theta + 2 * lobe_phase)))
        radius += lobe * (bump - 0.6) * (1.0 + 0.5 * math.sin(2 * theta + lobe_phase))
        if margin == "angular":
            theta += _between(rng, -0.25, 0.25)
            radius *= _between(rng, 0.72, 1.25)
        x, y = half[0] * radius * math.cos(theta), half[1] * radius * math.sin(theta)
        cos, sin = math.cos(angle), math.sin(angle)
        outline.append((round(16 * (centre[0] + x * cos - y * sin)), round(16 * (centre[1] + x * sin + y * cos))))
    return np.array(outline, np.int64)


def _spicules(rng: np.random.Generator, core: np.ndarray, centre: tuple[float, float]) -> list[np.ndarray]:
    """Thin spikes that stand on the outline and point away from the centre."""
    spikes = []
    count = int(rng.integers(7, 14))
    middle = np.array([round(16 * c) for c in centre], np.int64)
    for spike in range(count):
        at = (spike * len(core) // count + int(rng.integers(0, 12))) % len(core)
        breadth = max(1, round(len(core) * _between(rng, 0.016, 0.045)))
        reach = round(256 * _between(rng, 1.25, 1.85))
        tip = middle + ((core[at] - middle) * reach >> 8)
        inner = [middle + ((core[(at + side) % len(core)] - middle) * 230 >> 8) for side in (-breadth, breadth)]
        spikes.append(np.array([inner[0], tip, inner[1]], np.int64))
    return spikes


def _paint(
    rng: np.random.Generator,
    drawn: dict[str, str],
    mask: np.ndarray,
    echo: np.ndarray,
    mirror: np.ndarray,
    absorption: np.ndarray,
    varied: bool,
) -> None:
    """Put a lesion with its descriptors into `_anatomy`'s maps, in place."""
    # of 256, how much of its difference from the tissue and of its effect behind it is seen
    contrast = int(rng.integers(72, 257)) if varied else 256
    rows, columns = echo.shape
    body = Image.fromarray(mask).resize((columns, rows), Image.Resampling.BOX)
    sharp = np.asarray(body).astype(np.int32)
    alpha = _blurred(sharp, {"indistinct": rows / 50, "circumscribed": 0.4}.get(drawn["margin"], 1.2))

    texture = _field(rng, rows, columns, max(2, rows // 22), max(2, columns // 18)) - 128
    level, spread = {
        "anechoic": (_between(rng, -150, -110), 4),
        "hypoechoic": (_between(rng, -84, -58), 12),
        "isoechoic": (_between(rng, -42, -24), 12),
        "hyperechoic": (_between(rng, 36, 52), 14),
        "complex": (_between(rng, -76, -50), 20),
        "heterogeneous": (_between(rng, -68, -42), 62),
    }[drawn["echo_pattern"]]
    inside = FAT + round(level) * contrast // 256 + texture * spread // 128
    if drawn["echo_pattern"] == "complex":
        cyst = np.clip((_field(rng, rows, columns, max(2, rows // 12), max(2, columns // 9)) - 140) * 12, 0, 255)
        inside += (FAT - 130 - inside) * cyst // 255
    if drawn["calcifications"] == "present":
        ys, xs = np.nonzero(sharp > 200)
        if len(ys):
            for spot in rng.integers(0, len(ys), int(rng.integers(4, 12))):
                inside[ys[spot], max(0, xs[spot] - 1) : xs[spot] + 1] = FAT + 40

    if drawn["halo"] == "present":
        wide = _blurred(sharp, rows / 28)
        echo += round(_between(rng, 60, 90)) * wide * (255 - alpha) // (255 * 255)
    elif drawn["margin"] == "circumscribed" and rng.random() < 0.5:
        echo += 70 * _blurred(sharp, 2) * (255 - alpha) // (255 * 255)
    echo += (inside - echo) * alpha // 255
    mirror -= mirror * alpha // 255

    kind = drawn["posterior_features"]
    if kind == "none":
        return
    deep = round(_between(rng, 80, 160))
    if kind == "enhancement":
        deep = -round(_between(rng, 30, 58))
    deep = deep * contrast // 256
    across = np.full(columns, 256, np.int32)
    if kind == "combined":
        _y0, x0, _y1, x1 = _box(sharp)
        across = np.clip(256 - (np.arange(columns) - x0) * 346 // (x1 - x0), -90, 256).astype(np.int32)
        if rng.integers(2):
            across = across[::-1][np.clip(columns - x0 - x1 + np.arange(columns), 0, columns - 1)]
    _absorb(absorption, _blurred(sharp, 2.5) * across >> 8, deep)


def _absorb(absorption: np.ndarray, alpha: np.ndarray, steps: int) -> None:
    """Let the tissue under `alpha` (0-255) take `steps` from the beam where its path through it is longest."""
    longest = int(abs(alpha).sum(axis=0).max())
    if longest:
        absorption += alpha * (steps * 256 * 256 // longest) >> 8


def _receive(rng: np.random.Generator, echo: np.ndarray, mirror: np.ndarray, absorption: np.ndarray) -> np.ndarray:
    """What arrives from each depth after receiver noise and gain compensation, in steps; int32 (rows, columns)."""
    rows, columns = echo.shape
    usual = np.arange(rows, dtype=np.int32) * round(_between(rng, 90, 150)) // rows
    lost = _spread(np.cumsum(absorption, axis=0, dtype=np.int32) >> 8) + usual[:, None]
    amplitudes = _amplitudes()
    scattering = amplitudes[np.clip(echo - lost, 0, LOUDEST)]
    reflecting = np.where(mirror > 0, amplitudes[np.clip(FAT + mirror - lost, 0, LOUDEST)], 0)
    power = np.zeros((rows, columns), np.int64)
    for _ in range(LOOKS):
        noise = np.frombuffer(rng.bytes(2 * echo.size), np.uint8).reshape(2, rows, columns)
        for part, hiss in zip(speckle(rng, scattering, reflecting), noise, strict=True):
            power += (part + hiss - 128).astype(np.int64) ** 2
    level = np.searchsorted(_thresholds(), power // LOOKS, side="right").astype(np.int32)
    compensation = usual * round(256 * _between(rng, 0.70, 1.0)) >> 8
    return level + (compensation + lateral_loss(rows))[:, None]


def _spread(lost: np.ndarray) -> np.ndarray:
    """Soften shadows sideways, more so with depth, as beams from several angles do; steps, int32 (rows, columns)."""
    rows, columns = lost.shape
    picture = Image.fromarray(np.clip(lost + 64, 0, 255).astype(np.uint8))
    near = picture.filter(ImageFilter.GaussianBlur((columns / 150, 0)))
    far = picture.filter(ImageFilter.GaussianBlur((columns / 28, 0)))
    depth = np.arange(rows, dtype=np.int32)[:, None] * 256 // rows
    return ((np.asarray(near) * (256 - depth) + np.asarray(far) * depth) >> 8) - 64


def _display(rng: np.random.Generator, level: np.ndarray, varied: bool) -> np.ndarray:
    """Map received steps to grey: dynamic range and gain as somebody set them; uint8 (rows, columns)."""
    span = round(_between(rng, 160, 340) if varied else _between(rng, 200, 250))
    black = FAT - 10 - round(_between(rng, 70, 150) if varied else _between(rng, 95, 125)) * span // 256
    grey = np.clip((level - black) * 256 // span, 0, 255).astype(np.uint8)
    return np.asarray(
        Image.fromarray(grey).filter(ImageFilter.GaussianBlur(_between(rng, 0.4, 1.5) if varied else 0.6))
    )


@cache
def _amplitudes() -> np.ndarray:
    """Amplitude of 0 to LOUDEST steps: 1 to 3981, in exact decimal arithmetic."""
    return np.array([round(Decimal(10) ** (Decimal(step) / 80)) for step in range(LOUDEST + 1)], np.int32)


@cache
def _thresholds() -> np.ndarray:
    """Power at which each step begins, in exact decimal arithmetic; step 0 is the mean echo of amplitude one."""
    # both components' variance, and what two axial passes and the fewest lateral ones leave of it (see `lateral_loss`)
    kept = [Decimal(math.comb(4 * passes, 2 * passes)) / 16**passes for passes in (2, PASSES[0])]
    one = 2 * Decimal("10922.5") * kept[0] * kept[1]
    return np.array([round(one * Decimal(10) ** (Decimal(step) / 40)) for step in range(1, 361)], np.int64)


def _threads(field: np.ndarray, half_width: int, height: int) -> np.ndarray:
    """Bright threads along the middle contour of a 0-255 field."""
    return np.clip(half_width - abs(field - 128), 0, None) * height // half_width


def _curve(rng: np.random.Generator, columns: int, cells: int, amplitude: float) -> np.ndarray:
    """A smooth random curve over the columns, within about -amplitude/2 to amplitude/2 rows; int32 (columns,)."""
    knots = rng.integers(0, 256, (1, cells + 3), np.uint8)
    # begin between knots, lest all curves have their crests in the same columns
    start = int(rng.integers(16)) / 16
    box = (start, 0, start + cells + 2, 1)
    line = np.asarray(Image.fromarray(knots).resize((columns, 1), Image.Resampling.BICUBIC, box))[0].astype(np.int32)
    return (line - 128) * round(256 * amplitude) >> 16


def _field(rng: np.random.Generator, rows: int, columns: int, cell_rows: int, cell_columns: int) -> np.ndarray:
    """A smooth random field with cells of about the given size; int32 (rows, columns), 0-255."""
    knots = rng.integers(0, 256, (rows // cell_rows + 2, columns // cell_columns + 2), np.uint8)
    return np.asarray(Image.fromarray(knots).resize((columns, rows), Image.Resampling.BICUBIC)).astype(np.int32)


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """A 0-255 mask smoothed by Pillow's fixed-point Gaussian; int32."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))).astype(np.int32)


def _fill(polygons: Sequence[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Fill polygons given in 1/16 pixel; uint8 (rows, columns) of 0 and 255, in integer arithmetic throughout."""
    filled = np.zeros((rows, columns), bool)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        down = (start[:, 1] <= end[:, 1])[:, None]
        start, end = np.where(down, start, end), np.where(down, end, start)
        # an edge crosses the centres (16 r + 8) of the rows from `first` up to, not including, `last`
        first = np.clip((start[:, 1] + 7) // 16, 0, rows)
        last = np.clip((end[:, 1] + 7) // 16, 0, rows)
        edge = np.repeat(np.arange(len(polygon)), last - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
        dx, dy = (end - start)[edge].T
        x = start[edge, 0] * dy + dx * (16 * row + 8 - start[edge, 1])
        column = np.clip(-((8 * dy - x) // (16 * dy)), 0, columns)
        crossings = np.zeros((rows, columns + 1), np.uint8)
        np.add.at(crossings, (row, column), 1)
        filled |= (np.cumsum(crossings, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :-1]
    return filled.astype(np.uint8) * 255


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of a mask's filled part, the last two exclusive."""
    ys, xs = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1


def _generator(seed: int, *name: str | int) -> np.random.Generator:
    """A generator of its own for each name, so that no draw depends on what was drawn elsewhere."""
    words = [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in name]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _pick(rng: np.random.Generator, chances: dict):
    """One of the keys, by its chance; the chances add up to one."""
    left = rng.random()
    for value, chance in chances.items():
        left -= chance
        if left < 0:
            return value
    return value
