"""The random preprocessing, for training images only; the deterministic one is `images.prepare`.

Only changes that an ultrasound scan can really undergo: mirrored left to right (never upside down: depth has a
direction, shadows point away from the probe), a little rotation, zoom and shift of the window, gain, contrast, and
gain that changes with depth.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

BLACK = 2  # gray levels up to this stay as they are: margins and shadows carry no echo that a gain could raise
PIVOT = 64  # gray level that a change of contrast leaves as it is; ultrasound images are mostly dark


@dataclass(frozen=True)
class AugmentationConfig:
    """How far a view may differ from its image; each change is drawn evenly from minus the value to the value.

    Args:
        max_rotation: degrees.
        max_zoom: share of the image's side, 0 to 1.
        max_shift: share of the image's side, 0 to 1, in each direction.
        max_gain: gray levels of 255.
        max_contrast: share of the contrast, 0 to 1.
        max_depth_gain: gray levels of 255 between top and bottom.
    """

    max_rotation: float
    max_zoom: float
    max_shift: float
    max_gain: float
    max_contrast: float
    max_depth_gain: float


def view_generator(seed: int, path: str, view: int) -> np.random.Generator:
    """The generator of one view of one image: it depends on nothing else in the data set."""
    digest = hashlib.sha256(f"{seed}:{view}:{path}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def augment(pixels: np.ndarray, generator: np.random.Generator, config: AugmentationConfig) -> np.ndarray:
    """A random view of a prepared image; uint8 (S, S, 3) in 0-255 with equal channels, in and out."""
    side = pixels.shape[0]
    angle = np.deg2rad(generator.uniform(-config.max_rotation, config.max_rotation))
    zoom = 1 + generator.uniform(-config.max_zoom, config.max_zoom)
    shift = generator.uniform(-config.max_shift, config.max_shift, 2) * side
    mirror = -1.0 if generator.random() < 0.5 else 1.0
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    centre = (side - 1) / 2
    # PIL maps output to input: x_in = a x + b y + c, about the centre
    a, b, d, e = mirror * cos, mirror * sin, -sin, cos
    c = centre - a * (centre + shift[0]) - b * (centre + shift[1])
    f = centre - d * (centre + shift[0]) - e * (centre + shift[1])
    moved = Image.fromarray(pixels[..., 0]).transform(
        (side, side), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    gray = np.asarray(moved, np.float32)
    contrast = 1 + generator.uniform(-config.max_contrast, config.max_contrast)
    gain = generator.uniform(-config.max_gain, config.max_gain)
    depth_gain = generator.uniform(-config.max_depth_gain, config.max_depth_gain) * np.linspace(
        -0.5, 0.5, side, dtype=np.float32
    )
    gray = np.where(gray > BLACK, (gray - PIVOT) * contrast + PIVOT + gain + depth_gain[:, None], gray)
    gray = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
