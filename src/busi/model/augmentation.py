"""The random preprocessing, for training images only; the deterministic one is `images.prepare`.

Only changes that an ultrasound scan can really undergo: mirrored left to right (never upside down: depth has a
direction, shadows point away from the probe), a little rotation, zoom and shift of the window, gain, contrast, and
gain that changes with depth.
"""

import hashlib

import numpy as np
from PIL import Image

MAX_ROTATION = 8.0  # degrees
MAX_ZOOM = 0.15
MAX_SHIFT = 0.06  # of the side
MAX_GAIN = 20.0  # grey levels of 255
MAX_CONTRAST = 0.2
MAX_DEPTH_GAIN = 25.0  # grey levels between top and bottom


def view_generator(seed: int, path: str, view: int) -> np.random.Generator:
    """The generator of one view of one image: it depends on nothing else in the data set."""
    digest = hashlib.sha256(f"{seed}:{view}:{path}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def augment(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random view of a prepared image; uint8 (S, S, 3) in 0-255 with equal channels, in and out."""
    side = pixels.shape[0]
    angle = np.deg2rad(generator.uniform(-MAX_ROTATION, MAX_ROTATION))
    zoom = 1 + generator.uniform(-MAX_ZOOM, MAX_ZOOM)
    shift = generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * side
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
    grey = np.asarray(moved, np.float32)
    contrast = 1 + generator.uniform(-MAX_CONTRAST, MAX_CONTRAST)
    gain = generator.uniform(-MAX_GAIN, MAX_GAIN)
    depth_gain = generator.uniform(-MAX_DEPTH_GAIN, MAX_DEPTH_GAIN) * np.linspace(-0.5, 0.5, side, dtype=np.float32)
    # Black stays black: margins and shadows carry no echo that a gain could raise
    grey = np.where(grey > 2, (grey - 64) * contrast + 64 + gain + depth_gain[:, None], grey)
    grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
