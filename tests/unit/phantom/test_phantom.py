"""The phantom generator: same seed, same bytes; its truth fits its images; its speckle is speckle."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from PIL import Image, ImageFilter

from busi.data.layout import CLASSES, parse_name
from busi.phantom.annotations import annotate
from busi.phantom.dataset import another_frame, generate, plan
from busi.phantom.lesion import DESCRIPTORS, draw_descriptors
from busi.phantom.physics import lateral_loss, power_thresholds, speckle
from busi.phantom.scan import render
from busi.phantom.shapes import bounding_box, fill

ROOT = Path(__file__).resolve().parents[3]
# Few images, of a seed that plants every kind of defect among them
COUNTS, SEED = {"benign": 6, "malignant": 6, "normal": 5}, 3897
GOLDEN = "c2af930b60433de18005bd0cbf6a1ea31db748f426eec013d55e3975e910ab0e"


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, generate(folder, COUNTS, SEED, workers=1)


def test_workers_and_repetition_do_not_matter(made, tmp_path):
    folder, dataset = made
    assert generate(tmp_path, COUNTS, SEED, workers=2) == dataset
    assert content(tmp_path) == content(folder)


def test_another_seed_gives_other_images(made, tmp_path):
    generate(tmp_path, {"benign": 1, "malignant": 1, "normal": 1}, SEED + 1, workers=1)
    assert not set(content(tmp_path).values()) & {
        digest for name, digest in content(made[0]).items() if "_mask" not in name
    }


def test_a_longer_set_repeats_the_shorter_ones_images(made, tmp_path):
    fewer = {"benign": 5, "malignant": 6, "normal": 5}
    generate(tmp_path, fewer, SEED, workers=1)
    shorter, longer = content(tmp_path), content(made[0])
    assert shorter == {name: longer[name] for name in shorter}


def digest() -> str:
    """What three small scans, their masks, an annotated copy and another frame of each come to."""
    found = hashlib.sha256()
    for number, label in enumerate(CLASSES):
        scan = render(np.random.default_rng(number), label, (160, 128))
        marked = annotate(np.random.default_rng(number), scan.image, scan.masks)
        frame, _ = another_frame(np.random.default_rng(number), scan.image, scan.masks)
        for array in (scan.image, *scan.masks, marked, frame):
            found.update(array.tobytes())
    return found.hexdigest()


def test_golden_pixels():
    """Fails when any processor, library or edit changes a pixel; an intended change of the generator renews it."""
    assert digest() == GOLDEN


def test_an_older_processor_draws_the_same_pixels():
    """NumPy and the C library told to do without AVX2, AVX-512 and FMA: their exp and sin then end in other bits."""
    less = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    run = subprocess.run(
        [sys.executable, "-c", "from tests.unit.phantom.test_phantom import digest; print(digest())"],
        env={
            **os.environ,
            "NPY_DISABLE_CPU_FEATURES": less,
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "src")),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == GOLDEN


def test_files_masks_and_counts(made):
    folder, dataset = made
    names = [parse_name(path.name) for path in folder.rglob("*.png")]
    assert dataset["masks"] == sum(name.mask is not None for name in names)
    assert dataset["counts"] == COUNTS
    assert (dataset["name"], dataset["synthetic"]) == ("phantom", True)
    for label in CLASSES:
        images = [path for path in (folder / label).glob("*.png") if "_mask" not in path.name]
        assert len(images) == COUNTS[label]
        for path in images:
            masks = sorted(path.parent.glob(f"{path.stem}_mask*.png"))
            assert masks[0].name == f"{path.stem}_mask.png"
            assert read(path).mode == "L"
            for mask in map(read, masks):
                assert mask.mode == "1"
                assert mask.size == read(path).size
                assert np.asarray(mask).any() == (label != "normal")


def test_planted_groups_are_what_they_claim(made):
    folder, dataset = made
    planted = dataset["planted"]
    listed = [path for group in planted["near_duplicates"] + planted["label_conflicts"] for path in group]
    assert len(listed) == len(set(listed))
    assert all((folder / path).is_file() for path in listed + planted["annotated"])
    assert planted["annotated"]
    assert planted["near_duplicates"]
    for group in planted["near_duplicates"]:
        assert 2 <= len(group) <= 4
        assert len({path.split("/")[0] for path in group}) == 1
    assert sorted(sorted({path.split("/")[0] for path in group}) for group in planted["label_conflicts"]) == [
        ["benign", "malignant"],
        ["benign", "normal"],
    ]

    def thumbnail(path: str) -> np.ndarray:
        return np.asarray(read(folder / path).resize((24, 24), Image.Resampling.BOX), float).ravel()

    def likeness(one: str, other: str) -> float:
        flipped = thumbnail(other).reshape(24, 24)[:, ::-1].ravel()
        return max(np.corrcoef(thumbnail(one), view)[0, 1] for view in (thumbnail(other), flipped))

    within = [likeness(group[0], other) for group in planted["near_duplicates"] for other in group[1:]]
    assert min(within) > 0.85
    firsts = [group[0] for group in planted["near_duplicates"]]
    apart = [likeness(one, other) for i, one in enumerate(firsts) for other in firsts[:i]]
    assert np.median(within) > max(apart, default=0)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 120)] * 3), st.integers(0, 2**32))
def test_plan_names_every_image_once(numbers, seed):
    counts = dict(zip(CLASSES, numbers, strict=True))
    copies = [copy for group in plan(counts, seed) for copy in group]
    assert sorted((copy.label, copy.number) for copy in copies) == [
        (label, number) for label in CLASSES for number in range(1, counts[label] + 1)
    ]


def test_shares_of_planted_defects():
    counts = {"benign": 4370, "malignant": 2100, "normal": 1330}
    groups = plan(counts, seed=1)
    total = sum(counts.values())
    assert 0.22 < sum(len(group) for group in groups if len(group) > 1) / total < 0.32
    assert 0.005 < sum(len({copy.label for copy in group}) == 2 for group in groups) / total < 0.015


def test_speckle_is_fully_developed():
    """A Rayleigh envelope has mean / standard deviation = 1.91 (Burckhardt 1978; Goodman 2007)."""
    rows, columns = 600, 600
    amplitude = np.full((rows, columns), 1000, np.int32)
    in_phase, quadrature = speckle(np.random.default_rng(1), amplitude)
    power = in_phase.astype(float) ** 2 + quadrature.astype(float) ** 2
    loss = lateral_loss(rows)
    for step in np.unique(loss):
        envelope = np.sqrt(power[loss == step])
        assert envelope.mean() / envelope.std() == pytest.approx((np.pi / (4 - np.pi)) ** 0.5, rel=0.04)
    # the components are Gaussian (kurtosis 3) and the power falls as announced
    assert np.mean(in_phase**4.0) / np.mean(in_phase**2.0) ** 2 == pytest.approx(3, rel=0.08)
    kept = np.array([power[loss == step].mean() for step in np.unique(loss)])
    assert 40 * np.log10(kept[0] / kept) == pytest.approx(np.unique(loss), abs=2.5)


def test_log_compression_is_logarithmic():
    thresholds = power_thresholds()
    assert np.diff(thresholds).min() > 0
    assert 40 * np.log10(thresholds[40:] / thresholds[:-40]) == pytest.approx(40, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 9))
def test_polygons_are_filled_by_pixel_centre(seed, corners):
    rng = np.random.default_rng(seed)
    polygon = rng.integers(-80, 560, (corners, 2))
    filled = fill([polygon], 30, 30)
    for row, column in rng.integers(0, 30, (40, 2)):
        inside = False
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            x, y = 16 * int(column) + 8, 16 * int(row) + 8
            if (y0 <= y) != (y1 <= y):
                side = (int(x1) - int(x0)) * (y - int(y0)) - (x - int(x0)) * (int(y1) - int(y0))
                inside ^= side <= 0 if y1 > y0 else side >= 0
        assert (filled[row, column] == 255) == inside


def test_descriptors_overlap_between_the_classes_and_differ():
    rng = np.random.default_rng(3)
    drawn = {label: [draw_descriptors(rng, label) for _ in range(1500)] for label in ("benign", "malignant")}
    for name in DESCRIPTORS:
        shares = {label: Counter(lesion[name] for lesion in lesions) for label, lesions in drawn.items()}
        values = set(shares["benign"]) | set(shares["malignant"])
        distance = sum(abs(shares["benign"][v] - shares["malignant"][v]) for v in values) / 1500 / 2
        assert 0.1 < distance < 0.9, name
        assert all(shares["benign"][v] and shares["malignant"][v] for v in values), name


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_chances_add_up(name):
    for chances in DESCRIPTORS[name].values():
        assert sum(chances.values()) == pytest.approx(1)


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("label", CLASSES)
def test_render_gives_what_it_promises(label, varied):
    seconds = 0
    for seed in range(12):
        size = (240, 200) if seed else None
        scan = render(np.random.default_rng(seed), label, size, varied)
        assert scan.image.dtype == np.uint8
        if size:
            assert scan.image.shape == (200, 240)
        else:
            assert 350 <= scan.image.shape[0] <= 600
            assert 380 <= scan.image.shape[1] <= 700
        assert (5 if varied else 20) < scan.image.mean() < (190 if varied else 150)
        assert (scan.echogenicity.dtype, scan.echogenicity.shape) == (np.uint8, scan.image.shape)
        assert (scan.image[scan.echogenicity == 0] == 0).all()  # no tissue, no picture
        assert (scan.image == 255).mean() < 0.2
        assert len(scan.masks) == scan.descriptors["lesions"]
        assert bool(scan.masks) == (label != "normal")
        for mask in scan.masks:
            assert mask.shape == scan.image.shape
            assert set(np.unique(mask)) == {0, 255}
            assert (0.001 if varied else 0.003) < mask.astype(bool).mean() < 0.5
        seconds += len(scan.masks) == 2
        assert len(scan.masks) < 2 or not (scan.masks[0] & scan.masks[1]).any()
    assert seconds < 6


def test_varied_scans_vary_more():
    """In brightness, and their lesions stand out less."""

    def contrast(scan):
        mask = scan.masks[0] > 0
        around = (np.asarray(Image.fromarray(scan.masks[0]).filter(ImageFilter.BoxBlur(8))) > 0) & ~mask
        return scan.image[around].mean() - scan.image[mask].mean()

    def drawn(varied):
        return [render(np.random.default_rng(seed), "malignant", (160, 160), varied) for seed in range(40)]

    usual, varied = drawn(False), drawn(True)
    assert np.std([s.image.mean() for s in varied]) > 1.25 * np.std([s.image.mean() for s in usual])
    assert np.mean([contrast(s) for s in varied]) < 0.85 * np.mean([contrast(s) for s in usual])


def test_lesions_look_as_described():
    """An anechoic lesion is darker than what surrounds it; behind a shadowing one it is darker than beside."""
    seen = Counter()
    for seed in range(60):
        scan = render(np.random.default_rng(seed), "benign" if seed % 2 else "malignant", (240, 240))
        mask = scan.masks[0] > 0
        y0, x0, y1, x1 = bounding_box(scan.masks[0])
        image = scan.image.astype(float)
        if scan.descriptors["echo_pattern"] == "anechoic":
            assert image[mask].mean() < 0.5 * image[y0:y1][~mask[y0:y1]].mean()
            seen["anechoic"] += 1
        middle, third = (x0 + x1) // 2, max(2, (x1 - x0) // 6)
        below = image[y1 : min(240, y1 + 36), middle - third : middle + third].mean()
        beside = np.median(np.delete(image[y1 : min(240, y1 + 36)], np.s_[x0:x1], axis=1))
        if scan.descriptors["posterior_features"] in ("enhancement", "shadowing") and beside > 20:
            seen[scan.descriptors["posterior_features"], bool(below > beside)] += 1
    assert seen["anechoic"] >= 3
    assert seen["shadowing", False] > 4 * seen["shadowing", True]
    assert seen["enhancement", True] > 4 * seen["enhancement", False]


@pytest.mark.parametrize(
    ("counts", "seed", "reason"),
    [
        ({"benign": 1, "malignant": 1}, 0, "counts"),
        ({"benign": 1, "malignant": 1, "normal": -1}, 0, "counts"),
        ({"benign": 1.5, "malignant": 1, "normal": 1}, 0, "counts"),
        ({"benign": 1, "malignant": 1, "normal": 1}, -1, "seed"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, counts, seed, reason):
    with pytest.raises(ValueError, match=reason):
        generate(tmp_path / "new", counts, seed, workers=1)
    assert not (tmp_path / "new").exists()


def test_a_used_folder_is_refused(tmp_path):
    (tmp_path / "normal").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        generate(tmp_path, COUNTS, 0, workers=1)
    assert not (tmp_path / "benign").exists()


def test_render_refuses_nonsense():
    with pytest.raises(ValueError, match="label"):
        render(np.random.default_rng(0), "cyst")
    with pytest.raises(ValueError, match="size"):
        render(np.random.default_rng(0), "normal", (40, 400))
