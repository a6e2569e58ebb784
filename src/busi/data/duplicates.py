"""Near-duplicate images: frames of one scan, and copies that were cropped, rescaled, mirrored or written on.

BUSI has no patient ids, and two fifths of its images have a twin in the set, so groups of near-duplicates are
what a split must keep together. Three steps:

1. `fingerprint`: an image squeezed to 64 x 64 gray levels. All later steps see nothing else.
2. `find_pairs`: fingerprints are reduced to local structure (band-pass, divided by local contrast, horizontal
   lines removed), in which neither gain and brightness nor the layers that all breasts share count. Every image is
   correlated at 16 x 16 with 64 windows of every other one, plain and mirrored, by matrix products. The few pairs
   that look alike are then aligned at 64 x 64 and correlated where they overlap: that is a pair's score.
3. `join`: pairs become groups, strongest first. A group of more than `SWEEP` images may only come about when each
   looks like each other one, so a long chain of frames that drifts from one scene to another is cut and can't become
   one giant group. Shorter chains, the frames of one sweep of the probe, stay whole: cutting them would leave two
   near-duplicates in different groups, which a split may then put on different sides.

On BUSI, copies of one frame score above 0.90 and frames of one sweep of the probe 0.55-0.90; every pair above 0.50
was of one lesion when looked at. `python -m benchmarks.duplicates` measures recall and false positives.
"""

import itertools

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

SIDE = 64  # pixels of a fingerprint's side
TWINS = 0.73  # least score of near-duplicates; on BUSI any value from 0.71 to 0.75 gives the same grouped images
SWEEP = 8  # largest group that a chain of near-duplicates may make; BUSI's longest sweep has seven frames
ALIKE = 0.55  # least correlation at 16 x 16 of two images of one group, and of a pair worth aligning

# Local structure of a fingerprint: blurs in its pixels, the noise floor in gray levels, the limit in deviations.
FINE, COARSE, CONTRAST = 0.8, 4.0, 6.0
NOISE = 6.0
LIMIT = 2.5  # so that burnt-in calipers and text, far brighter than tissue, count no more than an edge

COARSE_SIDE = 16
# Parts of an axis that a copy may have kept: all, or all but 7.5, 15 or 30 % at either end or both.
WINDOWS = np.array(
    [(0, 1), (0.0375, 0.9625), (0.075, 1), (0, 0.925), (0.15, 1), (0, 0.85), (0.075, 0.925), (0.15, 0.85)],
    dtype=np.float32,
)
STEPS = (0.03, 0.015, 0.0075)  # of the alignment, in image widths; the last is half a pixel
# Least score before each step; pairs below it are dropped. Of 25,417 near-duplicates, BUSI's own and altered copies of
# its images, the lowest scores before the three steps were 0.22, 0.57 and 0.71.
LEAST_SCORES = (-1.0, 0.50, 0.65)
SHORTEST = 0.65  # least share of an axis that two copies have in common
BLOCK = 1024  # images in one matrix product
BATCH = 256  # pairs aligned together, which bounds memory
LEAST_GAIN = 0.002  # of a score in a round of moves; with less the alignment at this step has converged

# (top, bottom, left, right): shift an axis, then move one edge.
_SHIFTS = [(1, 1, 0, 0), (0, 0, 1, 1)]
_EDGES = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
MOVES = np.array([[sign * edge for edge in move] for move in _SHIFTS + _EDGES for sign in (1, -1)], dtype=np.float32)


def fingerprint(gray: np.ndarray) -> np.ndarray:
    """What is kept of an image to compare it: uint8 of shape (64, 64), the same bits on every processor.

    Args:
        gray: gray levels, uint8 of shape (H, W), of any size and aspect (the aspect is not kept).

    Raises:
        ValueError: `gray` is not a non-empty two-dimensional uint8 array.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2 or 0 in gray.shape:
        raise ValueError(
            f"image of {gray.dtype} {gray.shape}; expected uint8 (H, W); pass busi.data.images.to_gray(image)"
        )
    return np.array(Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.BOX))


def find_groups(fingerprints: np.ndarray) -> np.ndarray:
    """Near-duplicate group of every image: int64 of shape (n,), numbered from 0 by first appearance.

    An image without a twin is a group of its own. The partition does not depend on the order of the images.

    Args:
        fingerprints: uint8 of shape (n, 64, 64), stacked results of `fingerprint`.

    Raises:
        ValueError: `fingerprints` has another type or shape.
    """
    return join(find_pairs(fingerprints), len(fingerprints))


def find_pairs(fingerprints: np.ndarray) -> pd.DataFrame:
    """Pairs of images that look alike, near-duplicates or not, the surest first.

    Args:
        fingerprints: uint8 of shape (n, 64, 64), stacked results of `fingerprint`.

    Returns:
        A table with the columns
        first, second: indices of the two images, first < second.
        score: correlation of their local structure where they overlap after alignment, at most 1 (three digits); of
            pairs far from being near-duplicates, which are not aligned to the end, a lower bound.
        mirrored: whether one is the other's mirror image, left to right.
        twins: whether they are near-duplicates (score at least `TWINS`).

    Raises:
        ValueError: `fingerprints` has another type or shape.
    """
    fingerprints = np.asarray(fingerprints)
    if fingerprints.dtype != np.uint8 or fingerprints.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"fingerprints of {fingerprints.dtype} {fingerprints.shape}; expected uint8 (n, {SIDE}, {SIDE}); "
            "stack the results of fingerprint()"
        )
    # In an order that depends on the images alone, so that the last bits of the scores do too.
    order = np.array(sorted(range(len(fingerprints)), key=lambda k: fingerprints[k].tobytes()), dtype=np.int64)
    structure = _local_structure(fingerprints[order])
    whole, part, window, mirrored = _look_alikes(structure)
    starts = range(0, len(whole), BATCH)
    score = np.zeros(len(whole), np.float32)
    for start in tqdm(starts, desc="aligning look-alikes", unit="batch", delay=5, leave=False):
        batch = slice(start, start + BATCH)
        turned = np.where(mirrored[batch, None, None], structure[part[batch]][:, :, ::-1], structure[part[batch]])
        score[batch] = _align(structure[whole[batch]], turned, window[batch])
    score = np.round(score.astype(np.float64), 3)
    one, other = order[whole], order[part]
    pairs = pd.DataFrame(
        {
            "first": np.minimum(one, other),
            "second": np.maximum(one, other),
            "score": score,
            "mirrored": mirrored,
            "twins": score >= TWINS,
        }
    )
    return pairs.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def join(pairs: pd.DataFrame, count: int) -> np.ndarray:
    """Groups from the pairs of `find_pairs` among `count` images: int64 of shape (count,), as `find_groups` returns.

    Agglomerative: the surest near-duplicates are joined first, and a pair joins its two groups when they have no
    more than `SWEEP` images together or every image of the one looks like every image of the other (complete
    linkage on likeness).
    """
    alike = [{image} for image in range(count)]
    for first, second in zip(pairs["first"], pairs["second"], strict=True):
        alike[first].add(second)
        alike[second].add(first)
    members = [{image} for image in range(count)]
    twins = pairs[pairs["twins"]]
    for first, second in zip(twins["first"], twins["second"], strict=True):
        one, other = members[first], members[second]
        if one is not other and (len(one) + len(other) <= SWEEP or all(other <= alike[image] for image in one)):
            one |= other
            for image in other:
                members[image] = one
    first_member = [min(group) for group in members]
    return np.unique(first_member, return_inverse=True)[1].astype(np.int64)


def _local_structure(fingerprints: np.ndarray) -> np.ndarray:
    """Edges and texture in units of the local contrast: float32 (n, 64, 64), about -2.5 to 2.5, 0 where it is flat.

    Each row has mean 0: skin, fascia and muscle are horizontal in every breast, so a horizontal line is no evidence.
    """
    gray = fingerprints.astype(np.float32)
    band = _blur(gray, FINE) - _blur(gray, COARSE)
    structure = np.clip(band / np.sqrt(_blur(band * band, CONTRAST) + NOISE**2), -LIMIT, LIMIT)
    return structure - structure.mean(axis=2, keepdims=True)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    kernel = gaussian_filter1d(np.eye(SIDE), sigma, axis=0, mode="nearest").astype(np.float32)
    return kernel @ images @ kernel.T


def _look_alikes(structure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of which one image, whole, correlates at 16 x 16 with a window of the other.

    Returns:
        whole, part: indices, (p,); each pair of images once.
        window: (top, bottom, left, right) of the window in `part` that fits best, float32 (p, 4), in image sides.
        mirrored: whether that window is one of the mirror image, bool (p,).
    """
    samplers = _samplers(WINDOWS[:, 0], WINDOWS[:, 1], COARSE_SIDE)
    whole = _unit(samplers[0] @ structure @ samplers[0].T)
    found = []
    hypotheses = list(itertools.product((1, -1), range(len(WINDOWS)), range(len(WINDOWS))))
    progress = tqdm(hypotheses, desc="comparing images", unit="window", delay=5, leave=False)
    for number, (turn, rows, columns) in enumerate(progress):
        part = _unit(samplers[rows] @ structure[:, :, ::turn] @ samplers[columns].T)
        for start in range(0, len(whole), BLOCK):
            likeness = whole[start : start + BLOCK] @ part.T
            one, other = np.nonzero(likeness >= ALIKE)
            score = likeness[one, other]
            one = one + start
            found.append(np.stack([one, other, np.full(len(one), number), score], axis=1)[one != other])
    table = np.concatenate(found) if found else np.empty((0, 4))
    table = pd.DataFrame(table, columns=["one", "other", "number", "likeness"])
    table["low"], table["high"] = table[["one", "other"]].min(axis=1), table[["one", "other"]].max(axis=1)
    # Rounded, so that equal fits are settled by the order of the hypotheses and not by a last bit.
    table["likeness"] = table["likeness"].round(3)
    table = table.sort_values(["low", "high", "likeness", "number"], ascending=[True, True, False, True], kind="stable")
    table = table.drop_duplicates(["low", "high"])
    one, other, number = (table[name].to_numpy(np.int64) for name in ("one", "other", "number"))
    best = np.array(hypotheses)[number].reshape(-1, 3)
    window = np.concatenate([WINDOWS[best[:, 1]], WINDOWS[best[:, 2]]], axis=1)
    return one, other, window, best[:, 0] < 0


def _align(whole: np.ndarray, part: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Move the windows' edges until their correlation with `whole` is largest; float32 (p,), that correlation.

    Pairs that score below `LEAST_SCORES` are dropped on the way; in a large set most look-alikes are.
    """
    window = window.copy()
    score = _correlation(whole, part, window)
    for step, least in zip(STEPS, LEAST_SCORES, strict=True):
        moving = np.flatnonzero(score >= least)
        while len(moving):
            before = score[moving]
            for move in MOVES:
                trial = window[moving] + step * move
                allowed = _allowed(trial)
                rows, trial = moving[allowed], trial[allowed]
                new = _correlation(whole[rows], part[rows], trial)
                better = new > score[rows]
                window[rows[better]], score[rows[better]] = trial[better], new[better]
            moving = moving[score[moving] > before + LEAST_GAIN]
    return score


def _allowed(window: np.ndarray) -> np.ndarray:
    start, end = window[:, ::2], window[:, 1::2]
    common = np.minimum(end, 1) - np.maximum(start, 0)
    return ((common >= SHORTEST) & (common >= SHORTEST * (end - start))).all(axis=1)


def _correlation(whole: np.ndarray, part: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Correlation of `whole` with the windows of `part`, over the pixels that both have: float32 (p,)."""
    rows = _samplers(window[:, 0], window[:, 1], SIDE)
    columns = _samplers(window[:, 2], window[:, 3], SIDE)
    cut = rows @ part @ columns.transpose(0, 2, 1)
    inside = (rows.sum(2) > 0.5)[:, :, None] & (columns.sum(2) > 0.5)[:, None, :]
    cut, seen = cut * inside, whole * inside
    product = np.einsum("pyx,pyx->p", cut, seen)
    energy = np.einsum("pyx,pyx->p", cut, cut) * np.einsum("pyx,pyx->p", seen, seen)
    return product / np.sqrt(np.maximum(energy, 1e-12))


def _samplers(start: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """Matrices that read `count` samples, evenly from `start` to `end`, off an axis of 64 pixels: (p, count, 64).

    Each sample is a weighted mean of the pixels nearer than a sample's width (linear interpolation for 64 samples);
    what lies outside the axis counts as 0, which is neutral in local structure.
    """
    width = np.float32(SIDE / count)
    step = (np.arange(count, dtype=np.float32) + 0.5) / count
    at = (start[:, None] + step * (end - start)[:, None]) * SIDE - np.float32(0.5)
    distance = np.abs(at[:, :, None] - np.arange(SIDE, dtype=np.float32))
    return np.maximum(0, 1 - distance / width) / width


def _unit(images: np.ndarray) -> np.ndarray:
    """Images as rows of length 1; a row of an image without structure is 0, so that it looks like none."""
    rows = images.reshape(len(images), images.shape[1] * images.shape[2])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, 1e-6)
