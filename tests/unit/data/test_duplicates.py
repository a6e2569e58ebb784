"""Near-duplicates: altered copies are found, unrelated images are not, and no chain makes a giant group."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from busi.data import duplicates
from busi.data.duplicates import SWEEP, TWINS, find_groups, find_pairs, fingerprint, join

SOURCES = 16
SIZE = (230, 270)


def texture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Something like tissue: noise at four scales, uint8."""
    rng = np.random.default_rng(seed)
    scales = (2, 4, 8, 20)
    field = sum(scale**0.5 * gaussian_filter(rng.standard_normal(size), scale) * scale for scale in scales)
    field = (field - field.mean()) / field.std()
    return np.clip(110 + 40 * field, 0, 255).astype(np.uint8)


def resized(gray: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def cropped(gray: np.ndarray, top: float, bottom: float, left: float, right: float) -> np.ndarray:
    height, width = gray.shape
    return gray[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def annotated(gray: np.ndarray) -> np.ndarray:
    image = Image.fromarray(gray)
    draw = ImageDraw.Draw(image)
    draw.line((40, 60, 190, 150), fill=255)
    for x, y in ((40, 60), (190, 150)):
        draw.line((x - 5, y, x + 5, y), fill=255, width=2)
        draw.line((x, y - 5, x, y + 5), fill=255, width=2)
    draw.text((8, 200), "RT BREAST 10:00 1.62 cm", fill=255)
    return np.asarray(image)


def compressed(gray: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "JPEG", quality=30)
    return np.asarray(Image.open(buffer))


def speckled(gray: np.ndarray) -> np.ndarray:
    noise = 1 + 0.2 * np.random.default_rng(99).standard_normal(gray.shape)
    return np.clip(gray * noise, 0, 255).astype(np.uint8)


ALTERATIONS = {
    "exact": lambda gray: gray,
    "smaller": lambda gray: resized(gray, 110, 90),
    "larger": lambda gray: resized(gray, 500, 460),
    "squashed": lambda gray: resized(gray, 200, 200),
    "cropped 5 %": lambda gray: cropped(gray, 0.05, 0, 0, 0.05),
    "cropped 10 %": lambda gray: cropped(gray, 0.02, 0.08, 0.10, 0),
    "cropped 15 %": lambda gray: cropped(gray, 0, 0.15, 0.11, 0.04),
    "shifted": lambda gray: cropped(np.roll(gray, (6, 9), axis=(0, 1)), 0.03, 0, 0.04, 0),
    "brighter": lambda gray: np.clip(gray * 1.3 + 15, 0, 255).astype(np.uint8),
    "darker": lambda gray: (gray * 0.5).astype(np.uint8),
    "gamma": lambda gray: np.round(255 * (gray / 255) ** 1.6).astype(np.uint8),
    "mirrored": lambda gray: np.ascontiguousarray(gray[:, ::-1]),
    "mirrored, cropped": lambda gray: cropped(np.ascontiguousarray(gray[:, ::-1]), 0.03, 0.05, 0, 0.08),
    "annotated": annotated,
    "JPEG": compressed,
    "new speckle": speckled,
}


@pytest.fixture(scope="module")
def sources() -> np.ndarray:
    return np.stack([fingerprint(texture(seed)) for seed in range(SOURCES)])


def partition(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_altered_copies_are_grouped_with_their_source_and_with_nothing_else(sources, alteration):
    copies = np.stack([fingerprint(ALTERATIONS[alteration](texture(seed))) for seed in range(SOURCES)])
    groups = find_groups(np.concatenate([sources, copies]))
    np.testing.assert_array_equal(groups, np.tile(np.arange(SOURCES), 2))


def test_all_altered_copies_of_one_image_make_one_group(sources):
    copies = np.stack([fingerprint(alter(texture(0))) for alter in ALTERATIONS.values()])
    groups = find_groups(np.concatenate([sources, copies]))
    # The outermost crops have less in common with each other than each has with the whole image.
    assert (groups[SOURCES:] == groups[0]).mean() > 0.8
    assert set(groups[:SOURCES]) == set(range(SOURCES))


def test_images_that_share_layers_but_not_texture_are_not_grouped():
    layers = gaussian_filter(np.repeat(np.random.default_rng(5).uniform(40, 200, 12), 20), 3)[: SIZE[0], None]
    images = [np.clip(layers + 0.25 * (texture(seed) - 110.0), 0, 255).astype(np.uint8) for seed in range(12)]
    groups = find_groups(np.stack([fingerprint(image) for image in images]))
    assert len(set(groups)) == 12


@settings(max_examples=3, deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_the_images_does_not_matter(order):
    prints = mixed_prints()
    groups = find_groups(prints)
    shuffled = find_groups(prints[list(order)])
    assert {frozenset(order[k] for k in group) for group in partition(shuffled)} == partition(groups)


@pytest.mark.parametrize("steps", [12, 24])
def test_a_sequence_that_drifts_from_one_image_to_another_is_cut(steps):
    start, end = texture(1).astype(float), texture(2).astype(float)
    frames = [fingerprint((start * (1 - t) + end * t).astype(np.uint8)) for t in np.linspace(0, 1, steps)]
    pairs = find_pairs(np.stack(frames))
    twins = set(zip(*pairs.loc[pairs["twins"], ["first", "second"]].to_numpy().T, strict=True))
    assert {(k, k + 1) for k in range(steps - 1)} <= twins, "the sequence must be a chain of near-duplicates"
    groups = join(pairs, steps)
    assert groups[0] != groups[-1]
    alike = set(zip(pairs["first"], pairs["second"], strict=True))
    for members in partition(groups):
        assert len(members) <= SWEEP or set(itertools.combinations(sorted(members), 2)) <= alike


def test_groups_are_numbered_by_first_appearance():
    groups = find_groups(mixed_prints())
    firsts = [groups.tolist().index(group) for group in range(groups.max() + 1)]
    assert firsts == sorted(firsts)
    assert groups[0] == 0
    assert groups.dtype == np.int64


def test_pairs_say_which_are_mirrored(sources):
    copies = np.stack([fingerprint(np.ascontiguousarray(texture(3)[:, ::-1])), fingerprint(annotated(texture(4)))])
    pairs = find_pairs(np.concatenate([sources, copies]))
    assert list(pairs.columns) == ["first", "second", "score", "mirrored", "twins"]
    twins = pairs[pairs["twins"]].sort_values("first")
    assert twins[["first", "second"]].to_numpy().tolist() == [[3, SOURCES], [4, SOURCES + 1]]
    assert twins["mirrored"].tolist() == [True, False]
    assert (pairs["first"] < pairs["second"]).all()
    assert not pairs.duplicated(["first", "second"]).any()
    assert pairs["score"].is_monotonic_decreasing
    assert pairs["score"].max() <= 1
    assert (pairs["twins"] == (pairs["score"] >= TWINS)).all()


def test_giving_up_hopeless_pairs_changes_nothing_among_near_duplicates(monkeypatch):
    """On many pairs that look alike at 16 x 16: half of them altered copies, all of a coarse texture."""
    coarse = [gaussian_filter(texture(seed, (400, 470)), 12)[:230, :270] for seed in range(16)]
    stretched = [((c - c.min()) * (255 / np.ptp(c))).astype(np.uint8) for c in coarse]
    copies = [cropped(gray, 0.1, 0.05, 0.05, 0.1) for gray in stretched]
    prints = np.stack([fingerprint(gray) for gray in (*stretched, *copies)])
    fast = find_pairs(prints)
    monkeypatch.setattr(duplicates, "LEAST_SCORES", (-1.0, -1.0, -1.0))
    whole = find_pairs(prints)
    pd.testing.assert_frame_equal(fast[fast["twins"]], whole[whole["twins"]])
    assert fast["twins"].sum() >= 13
    both = fast.merge(whole, on=["first", "second"], suffixes=("", "_whole"))
    assert len(both) == len(fast) == len(whole)
    assert (both["score"] < both["score_whole"]).any() and (both["score"] <= both["score_whole"]).all()


def test_a_short_chain_stays_whole_so_that_no_twins_are_torn():
    assert join(table((0, 1, 0.95), (2, 3, 0.90), (1, 2, 0.80)), 5).tolist() == [0, 0, 0, 0, 1]


def test_a_long_chain_is_cut_at_its_weakest_pair_unless_all_look_alike():
    half = SWEEP // 2 + 1
    links = [(k, k + 1, 0.95) for k in range(2 * half - 1) if k != half - 1]
    chain = table(*links, (half - 1, half, 0.80))
    assert join(chain, 2 * half).tolist() == [0] * half + [1] * half
    others = [(a, b, 0.60) for a, b in itertools.combinations(range(2 * half), 2) if b > a + 1]
    assert join(pd.concat([chain, table(*others)], ignore_index=True), 2 * half).tolist() == [0] * (2 * half)


def test_join_without_twins_leaves_every_image_alone():
    assert join(table((0, 1, 0.70)), 3).tolist() == [0, 1, 2]


def test_images_without_structure_are_like_none():
    blank = [np.full((50, 70), level, np.uint8) for level in (0, 0, 128, 255)]
    prints = np.stack([fingerprint(gray) for gray in (*blank, texture(0))])
    assert find_groups(prints).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1])
def test_none_or_one_image(count, sources):
    assert find_groups(sources[:count]).tolist() == list(range(count))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_fingerprints_have_one_size_and_leave_the_image_alone(height, width, seed):
    gray = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    before = gray.copy()
    result = fingerprint(gray)
    assert result.shape == (64, 64)
    assert result.dtype == np.uint8
    assert gray.min() <= result.min()
    assert result.max() <= gray.max()
    np.testing.assert_array_equal(gray, before)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)])
def test_fingerprint_refuses_what_is_not_a_gray_image(wrong):
    with pytest.raises(ValueError, match="expected uint8"):
        fingerprint(wrong)


@pytest.mark.parametrize(("shape", "dtype"), [((3, 64, 64), float), ((3, 32, 32), np.uint8), ((64, 64), np.uint8)])
def test_find_groups_refuses_what_are_not_fingerprints(shape, dtype):
    with pytest.raises(ValueError, match="expected uint8"):
        find_groups(np.zeros(shape, dtype))


def mixed_prints() -> np.ndarray:
    """24 fingerprints: copies of six images, some exact, and the frames of a drift between two others."""
    images = [alter(texture(seed)) for seed in range(6) for alter in (np.array, np.fliplr, annotated)]
    images += [(texture(7) * (1 - t) + texture(8) * t).astype(np.uint8) for t in np.linspace(0, 1, 5)]
    images += [images[0]]
    return np.stack([fingerprint(np.ascontiguousarray(image)) for image in images])


def table(*rows: tuple[int, int, float]) -> pd.DataFrame:
    pairs = pd.DataFrame(rows, columns=["first", "second", "score"]).assign(mirrored=False)
    return pairs.assign(twins=pairs["score"] >= TWINS)
