"""How an image is formed: absorption, speckle, receiver noise, gain compensation, log compression and display.

Random scatterers, weighted with the echogenicity that absorption leaves over them, are convolved with a point spread
function that widens with depth. The squared magnitude of the complex sum is fully developed speckle, whose envelope is
Rayleigh distributed (Burckhardt, IEEE Trans Sonics Ultrason 25 (1978) 1-6; Goodman, Speckle Phenomena in Optics, 2007).

The unit of echogenicity, absorption and received level is the step, a quarter of a decibel.
"""

import math
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from busi.phantom.random_fields import between

FAT = 240  # echogenicity of fat in steps above an amplitude of one
LOUDEST = 288  # 72 dB
PASSES = (2, 3, 4, 5, 6, 8)  # lateral [1 2 1] passes from the probe's face to the deepest sixth
LOOKS = 2  # independent speckle patterns averaged, as spatial compounding does


class Tissue(NamedTuple):
    """What is under the probe, as three maps on the work grid; int32 (rows, columns) each, changed in place.

    `echo` is the echogenicity of the scatterers in steps. `mirror` is that of smooth reflectors in steps above fat's,
    0 where there is none. `absorption` is what tissue takes from the beam beyond the usual, in 1/256 step a row.
    """

    echo: np.ndarray
    mirror: np.ndarray
    absorption: np.ndarray


def absorb(absorption: np.ndarray, alpha: np.ndarray, steps: int) -> None:
    """Let the tissue under `alpha` (0-255) take `steps` from the beam where its path through it is longest."""
    longest = int(abs(alpha).sum(axis=0).max())
    if longest:
        absorption += alpha * (steps * 256 * 256 // longest) >> 8


def receive(rng: np.random.Generator, tissue: Tissue) -> np.ndarray:
    """What arrives from each depth after receiver noise and gain compensation, in steps; int32 (rows, columns)."""
    echo, mirror, absorption = tissue
    rows, columns = echo.shape
    usual = np.arange(rows, dtype=np.int32) * round(between(rng, 90, 150)) // rows
    lost = _spread(np.cumsum(absorption, axis=0, dtype=np.int32) >> 8) + usual[:, None]
    amplitudes = _amplitudes()
    scattering = amplitudes[np.clip(echo - lost, 0, LOUDEST)]
    reflecting = np.where(mirror > 0, amplitudes[np.clip(FAT + mirror - lost, 0, LOUDEST)], 0)
    power = np.zeros((rows, columns), np.int64)
    for _ in range(LOOKS):
        noise = np.frombuffer(rng.bytes(2 * echo.size), np.uint8).reshape(2, rows, columns)
        for part, hiss in zip(speckle(rng, scattering, reflecting), noise, strict=True):
            power += (part + hiss - 128).astype(np.int64) ** 2
    level = np.searchsorted(power_thresholds(), power // LOOKS, side="right").astype(np.int32)
    compensation = usual * round(256 * between(rng, 0.70, 1.0)) >> 8
    return level + (compensation + lateral_loss(rows))[:, None]


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
    for _ in range(2):  # axial
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


def display(rng: np.random.Generator, level: np.ndarray, varied: bool) -> np.ndarray:
    """Map received steps to grey: dynamic range and gain as somebody set them; uint8 (rows, columns)."""
    span = round(between(rng, 160, 340) if varied else between(rng, 200, 250))
    black = FAT - 10 - round(between(rng, 70, 150) if varied else between(rng, 95, 125)) * span // 256
    grey = np.clip((level - black) * 256 // span, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(between(rng, 0.4, 1.5) if varied else 0.6)))


def _spread(lost: np.ndarray) -> np.ndarray:
    """Soften shadows sideways, more so with depth, as beams from several angles do; steps, int32 (rows, columns)."""
    rows, columns = lost.shape
    picture = Image.fromarray(np.clip(lost + 64, 0, 255).astype(np.uint8))
    near = picture.filter(ImageFilter.GaussianBlur((columns / 150, 0)))
    far = picture.filter(ImageFilter.GaussianBlur((columns / 28, 0)))
    depth = np.arange(rows, dtype=np.int32)[:, None] * 256 // rows
    return ((np.asarray(near) * (256 - depth) + np.asarray(far) * depth) >> 8) - 64


@cache
def _amplitudes() -> np.ndarray:
    """Amplitude of 0 to LOUDEST steps: 1 to 3981, in exact decimal arithmetic."""
    return np.array([round(Decimal(10) ** (Decimal(step) / 80)) for step in range(LOUDEST + 1)], np.int32)


@cache
def power_thresholds() -> np.ndarray:
    """Power at which each step begins, in exact decimal arithmetic; step 0 is the mean echo of amplitude one."""
    # both components' variance, and what two axial passes and the fewest lateral ones leave of it (see `lateral_loss`)
    kept = [Decimal(math.comb(4 * passes, 2 * passes)) / 16**passes for passes in (2, PASSES[0])]
    one = 2 * Decimal("10922.5") * kept[0] * kept[1]
    return np.array([round(one * Decimal(10) ** (Decimal(step) / 40)) for step in range(1, 361)], np.int64)
