"""Lesions: BI-RADS descriptors drawn for a class, an outline that fits them, and the change of the tissue inside."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from busi.phantom.physics import FAT, Tissue, absorb
from busi.phantom.random_fields import between, pick, smooth_field
from busi.phantom.shapes import blurred, bounding_box, closed_outline, fill, spicules

# Chances of the BI-RADS descriptors (ACR BI-RADS Atlas, 5th edition, ultrasound) by class. They overlap on purpose,
# guided by the odds that Stavros et al. (Radiology 196 (1995) 123-134) and Hong et al. (AJR 184 (2005) 1260-1265)
# report: no single descriptor decides.
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


def draw_descriptors(rng: np.random.Generator, label: str) -> dict[str, str]:
    """Draw a lesion's BI-RADS descriptors for class `label` (benign or malignant): a value for each of `DESCRIPTORS`.

    A round lesion is not parallel by definition, and a simple cyst holds no calcifications.
    """
    drawn = {name: pick(rng, chances[label]) for name, chances in DESCRIPTORS.items()}
    if drawn["shape"] == "round":
        drawn["orientation"] = "not parallel"
    if drawn["echo_pattern"] == "anechoic":
        drawn["calcifications"] = "absent"
    return drawn


def place_lesion(
    rng: np.random.Generator,
    label: str,
    drawn: dict[str, str],
    size: tuple[int, int],
    others: Sequence[np.ndarray],
    varied: bool,
) -> np.ndarray | None:
    """Draw the outline of a lesion that touches none of `others`.

    Args:
        rng: the generator.
        label: the class of the scan, which decides how large its lesions are.
        drawn: the descriptors.
        size: height and width of the mask, in pixels of the image.
        others: masks of the scan's other lesions; a further lesion is smaller.
        varied: as in `scan.render`.

    Returns:
        The mask, uint8 (height, width) of 0 and 255, or None when eight attempts found no room.
    """
    height, width = size
    small, large = (0.09, 0.18) if label == "benign" else (0.13, 0.26)
    if varied:
        small, large = small / 2, large * 1.2
    for _ in range(8):
        half_width = width * (small + (large - small) * rng.random()) * (0.7 if others else 1)
        # Both are drawn for every shape, so that the draws that follow do not depend on it
        round_aspect = between(rng, 0.92, 1.08)
        aspect = between(rng, 0.45, 0.80) if drawn["orientation"] == "parallel" else between(rng, 1.1, 1.5)
        if drawn["shape"] == "round":
            aspect = round_aspect
        half_height = half_width * aspect
        if half_height > 0.24 * height:
            half_width, half_height = half_width * 0.24 * height / half_height, 0.24 * height
        centre = (
            (between(rng, 0.12, 0.88) if varied else between(rng, 0.25, 0.75)) * width,
            between(rng, 0.07 * height + half_height, max(0.50 * height, 0.1 * height + half_height)),
        )
        angle = between(rng, -0.25, 0.25)
        core = closed_outline(rng, drawn["shape"], drawn["margin"], centre, (half_width, half_height), angle)
        polygons = [core]
        if drawn["margin"] == "spiculated":
            polygons += spicules(rng, core, centre)
        mask = fill(polygons, height, width)
        if mask.any() and not any((blurred(mask, 12) > 0)[other > 0].any() for other in others):
            return mask
    return None


def paint_lesion(
    rng: np.random.Generator,
    drawn: dict[str, str],
    mask: np.ndarray,
    tissue: Tissue,
    varied: bool,
) -> None:
    """Change `tissue`, in place, as a lesion with outline `mask` and descriptors `drawn` does.

    `mask` has the image's pixels, `tissue` the work grid's.
    """
    echo, mirror, absorption = tissue
    # in 1/256: how strongly the lesion differs from the tissue around it and changes what lies behind it
    contrast = int(rng.integers(72, 257)) if varied else 256
    rows, columns = echo.shape
    body = Image.fromarray(mask).resize((columns, rows), Image.Resampling.BOX)
    sharp = np.asarray(body).astype(np.int32)
    alpha = blurred(sharp, {"indistinct": rows / 50, "circumscribed": 0.4}.get(drawn["margin"], 1.2))

    texture = smooth_field(rng, rows, columns, max(2, rows // 22), max(2, columns // 18)) - 128
    level, spread = {
        "anechoic": (between(rng, -150, -110), 4),
        "hypoechoic": (between(rng, -84, -58), 12),
        "isoechoic": (between(rng, -42, -24), 12),
        "hyperechoic": (between(rng, 36, 52), 14),
        "complex": (between(rng, -76, -50), 20),
        "heterogeneous": (between(rng, -68, -42), 62),
    }[drawn["echo_pattern"]]
    inside = FAT + round(level) * contrast // 256 + texture * spread // 128
    if drawn["echo_pattern"] == "complex":
        cyst = np.clip((smooth_field(rng, rows, columns, max(2, rows // 12), max(2, columns // 9)) - 140) * 12, 0, 255)
        inside += (FAT - 130 - inside) * cyst // 255
    if drawn["calcifications"] == "present":
        ys, xs = np.nonzero(sharp > 200)
        if len(ys):
            for spot in rng.integers(0, len(ys), int(rng.integers(4, 12))):
                inside[ys[spot], max(0, xs[spot] - 1) : xs[spot] + 1] = FAT + 40

    if drawn["halo"] == "present":
        wide = blurred(sharp, rows / 28)
        echo += round(between(rng, 60, 90)) * wide * (255 - alpha) // (255 * 255)
    elif drawn["margin"] == "circumscribed" and rng.random() < 0.5:
        echo += 70 * blurred(sharp, 2) * (255 - alpha) // (255 * 255)
    echo += (inside - echo) * alpha // 255
    mirror -= mirror * alpha // 255

    kind = drawn["posterior_features"]
    if kind == "none":
        return
    deep = round(between(rng, 80, 160))
    if kind == "enhancement":
        deep = -round(between(rng, 30, 58))
    deep = deep * contrast // 256
    across = np.full(columns, 256, np.int32)
    if kind == "combined":
        _y0, x0, _y1, x1 = bounding_box(sharp)
        across = np.clip(256 - (np.arange(columns) - x0) * 346 // (x1 - x0), -90, 256).astype(np.int32)
        if rng.integers(2):
            across = across[::-1][np.clip(columns - x0 - x1 + np.arange(columns), 0, columns - 1)]
    absorb(absorption, blurred(sharp, 2.5) * across >> 8, deep)
