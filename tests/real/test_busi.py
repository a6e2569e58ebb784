"""BUSI's own images: native sizes and masks come in whole, its known twins are found, and the split keeps them apart.

Needs ../shared/data beside the repository.
"""

import hashlib
import json
import shutil
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from busi.data.duplicates import find_pairs, fingerprint
from busi.data.images import read_image, to_gray
from busi.data.layout import CLASSES, DATASET_FILE, PUBLISHED_COUNTS, parse_name
from busi.data.manifest import build_manifest
from busi.data.split import PARTS, QUARANTINE, USED_PARTS

# Frames of one scan under two labels; each was looked at
CONFLICTS = """
    b131,b42,m51 | b164,b85,m52 | b269,n1 | b333,m77,m78 | b399,m93 | b406,m94 | b433,m145 | b437,n34
"""
LABEL = {label[0]: label for label in CLASSES}


def paths_of(short: str) -> frozenset[str]:
    """`b131,m51` -> {"benign/benign (131).png", "malignant/malignant (51).png"}"""
    labels_and_numbers = [(LABEL[name[0]], name[1:]) for name in short.strip().split(",")]
    return frozenset(f"{label}/{label} ({number}).png" for label, number in labels_and_numbers)


def partition(manifest: pd.DataFrame) -> set[frozenset[str]]:
    return set(manifest.groupby("duplicate_group")["path"].agg(frozenset))


def sha256_of_files(folder: Path) -> dict[str, str]:
    """Every file below `folder` but `dataset.json`, which names the source."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != DATASET_FILE]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    images, masks = [], []
    for path in sorted(folder.glob("*/*.png")):
        (images if parse_name(path.name).mask is None else masks).append(path)
    return images, masks


# --- the sample at native size ---


def test_every_image_and_mask_of_the_sample_comes_in_byte_for_byte(sample):
    images, masks = images_and_masks(sample.data)
    assert (len(images), len(masks)) == (149, 151)
    source = sha256_of_files(sample.source)
    assert sha256_of_files(sample.data) == {path: source[path] for path in source if path.endswith(".png")}
    assert sample.dataset["counts"] == {"benign": 49, "malignant": 50, "normal": 50}
    assert sample.dataset["masks"] == 151
    assert sample.dataset["synthetic"] is False
    assert "ignored: 3 files" in sample.brought  # BUSI's test.txt


def test_the_manifest_describes_each_native_image_and_no_mask(sample):
    manifest = sample.manifest
    images, masks = images_and_masks(sample.data)
    assert manifest["path"].tolist() == sorted(path.relative_to(sample.data).as_posix() for path in images)
    assert (manifest["label"] == manifest["path"].str.partition("/")[0]).all()
    hashes = sha256_of_files(sample.data)
    assert manifest["sha256"].tolist() == [hashes[path] for path in manifest["path"]]
    found = {path: Image.open(sample.data / path) for path in manifest["path"]}
    assert manifest["mode"].tolist() == [image.mode for image in found.values()]
    assert list(zip(manifest["width"], manifest["height"], strict=True)) == [image.size for image in found.values()]
    assert len(set(manifest["width"])) > 20  # native sizes
    owners = Counter(f"{path.parent.name}/{parse_name(path.name).stem}.png" for path in masks)
    assert dict(zip(manifest["path"], manifest["mask_count"], strict=True)) == owners
    assert manifest.loc[manifest["mask_count"] == 2, "path"].tolist() == [
        "benign/benign (25).png",
        "benign/benign (4).png",
    ]


def test_masks_of_every_mode_are_read_and_mark_lesions_only(sample):
    modes = Counter(Image.open(path).mode for path in images_and_masks(sample.data)[1])
    assert modes == {"1": 86, "RGB": 64, "RGBA": 1}
    fraction = sample.manifest.set_index("path")["lesion_fraction"]
    normal = sample.manifest.set_index("path")["label"] == "normal"
    assert (fraction[normal] == 0).all()
    assert fraction[~normal].between(0.001, 0.6).all()


def test_a_second_mask_of_another_size_is_a_warning_and_left_out_of_the_lesion(sample):
    broken = [expectation for expectation in sample.report["expectations"] if not expectation["success"]]
    assert [(e["name"], e["severity"], e["unexpected"]) for e in broken] == [
        ("further_mask_size", "warning", ["benign/benign (4)_mask_1.png"])
    ]
    assert "benign (4)_mask_1.png: 555 x 465 pixels; expected 416 x 416" in sample.output
    mask = np.asarray(Image.open(sample.data / "benign/benign (4)_mask.png").convert("L")) > 127
    fraction = sample.manifest.set_index("path").loc["benign/benign (4).png", "lesion_fraction"]
    assert fraction == pytest.approx(mask.mean(), abs=1e-6)


def test_two_masks_of_one_image_are_one_lesion_area(sample):
    masks = [sample.data / f"benign/benign (25)_mask{suffix}.png" for suffix in ("", "_1")]
    union = np.logical_or(*(np.asarray(Image.open(mask).convert("L")) > 127 for mask in masks))
    fraction = sample.manifest.set_index("path").loc["benign/benign (25).png", "lesion_fraction"]
    assert fraction == pytest.approx(union.mean(), abs=1e-6)


def test_every_image_of_the_sample_decodes_to_its_size(sample):
    for row in sample.manifest.itertuples():
        gray = to_gray(read_image(sample.data / row.path))
        assert gray.shape == (row.height, row.width)
        assert gray.dtype == np.uint8
        assert gray.std() > 1


def test_a_zip_with_busis_outer_folder_comes_in_equal_to_the_folder(sample, make_workspace, tmp_path):
    archive = tmp_path / f"{sample.source.name}.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        for path in sorted(sample.source.rglob("*.*")):
            writer.write(path, Path("Dataset_BUSI_with_GT") / path.relative_to(sample.source))
    workspace = make_workspace("from-zip")
    workspace.busi("data", str(archive))
    assert json.loads(workspace.text(f"data/{DATASET_FILE}")) == sample.dataset | {"source": archive.name}
    assert sha256_of_files(workspace.folder / "data") == sha256_of_files(sample.data)


# --- near-duplicates of all 780 images ---


def test_all_of_busi_at_256_passes_without_masks(whole):
    assert whole.dataset["counts"] == PUBLISHED_COUNTS
    assert whole.dataset["masks"] == 0
    assert len(whole.manifest) == 780
    assert set(zip(whole.manifest["width"], whole.manifest["height"], whole.manifest["mode"], strict=True)) == {
        (256, 256, "RGB")
    }
    assert (whole.manifest["mask_count"] == 0).all()
    assert whole.manifest["lesion_fraction"].isna().all()


def test_groups_are_as_many_and_as_large_as_published(whole):
    """Published: 330 images in 149 groups, 122 of two, 22 of three, 5 of four."""
    sizes = Counter(whole.manifest["duplicate_group"].value_counts())
    assert 320 <= sum(size * count for size, count in sizes.items() if size > 1) <= 350
    assert max(sizes) <= 8
    assert abs(sizes[2] - 122) <= 8
    assert abs(sizes[3] - 22) <= 4
    assert whole.report["groups"] == {str(size): count for size, count in sorted(sizes.items())}


def test_the_known_label_conflicts_are_the_ones_found(whole):
    known = {paths_of(short) for short in CONFLICTS.split("|")}
    conflicting = whole.manifest[whole.manifest["label_conflict"]]
    assert partition(conflicting) == known
    assert set(map(frozenset, whole.report["conflicts"].values())) == known


def test_the_two_identical_files_of_two_classes_are_one_group(whole):
    twins = whole.manifest[whole.manifest["sha256"].duplicated(keep=False)]
    assert set(twins["path"]) == paths_of("b433,m145")
    assert twins["duplicate_group"].nunique() == 1


def test_groups_do_not_depend_on_the_size_of_the_images(sample, whole, tmp_path):
    """The same 149 images at native size, alone at 256 x 256, and among all 780."""
    paths = sample.manifest["path"]
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(whole.source / path, tmp_path / path)
    small, problems = build_manifest(tmp_path, workers=1)
    assert problems == []
    native = partition(sample.manifest)
    assert any(len(group) > 1 for group in native)
    assert partition(small) == native
    assert partition(whole.manifest[whole.manifest["path"].isin(paths)]) == native


# --- the split of all 780 images ---


@pytest.fixture(scope="module")
def split(whole) -> pd.DataFrame:
    whole.workspace.python("pipeline.stages.split")
    table = whole.table("artifacts/split/split.csv")
    columns = whole.manifest[["path", "sha256", "label_conflict", "duplicate_group"]]
    joined = table.merge(columns, on="path", suffixes=("", "_of_manifest"), validate="1:1")
    assert len(joined) == len(whole.manifest)
    return joined


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_a_pair_of_parts_shares_nothing(split, one, other):
    for column in ("path", "sha256", "duplicate_group", "duplicate_group_of_manifest"):
        values = [set(split.loc[split["part"] == part, column]) for part in (one, other)]
        assert all(values)
        assert not values[0] & values[1], column


def test_the_conflicts_and_nothing_else_are_in_quarantine(split, whole):
    assert ((split["part"] == QUARANTINE) == split["label_conflict"]).all()
    report = json.loads(whole.workspace.text("reports/split.json"))
    assert report["quarantined"] == sorted(split.loc[split["label_conflict"], "path"])


def test_each_class_is_within_three_points_of_its_share_of_each_part(split, whole):
    wanted = yaml.safe_load(whole.workspace.text("params.yaml"))["split"]
    used = split[split["part"] != QUARANTINE]
    shares = pd.crosstab(used["label"], used["part"], normalize="index")
    for label in CLASSES:
        for part in USED_PARTS:
            assert abs(shares.loc[label, part] - wanted[part]) <= 0.03, (label, part)


def test_a_random_split_of_busi_would_leak_a_third_of_its_test_images(whole, split):
    leak = json.loads(whole.workspace.text("reports/split.json"))["random_split_leak"]
    assert 0.25 <= leak["value"] <= 0.45
    assert leak["low"] <= leak["value"] <= leak["high"]


def test_no_two_near_duplicates_lie_in_different_parts(split, whole):
    """Pair by pair, not by group: a group that tore two twins apart would show here."""
    prints = [fingerprint(to_gray(read_image(whole.data / path))) for path in whole.manifest["path"]]
    pairs = find_pairs(np.stack(prints))
    twins = pairs[pairs["twins"]]
    assert len(twins) > 200
    part = split.set_index("path")["part"].reindex(whole.manifest["path"]).to_numpy()
    torn = twins[part[twins["first"]] != part[twins["second"]]]
    assert torn.empty, torn.assign(one=part[torn["first"]], other=part[torn["second"]])
