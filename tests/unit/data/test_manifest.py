"""The manifest: one row an image, masks beside it, groups and conflicts, and every problem by name."""

import hashlib
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from busi.data.layout import CLASSES
from busi.data.listing import PROBLEMS
from busi.data.manifest import COLUMNS, build_manifest
from busi.data.masks import lesion_masks
from busi.data.measures import looks_annotated
from busi.data.validation_table import VALIDATION_COLUMNS, validation_table
from tests import bad_images

GRAY = bad_images.pixels(77)


@pytest.fixture
def data(tmp_path):
    return bad_images.data_set(tmp_path / "data", count=3)


def kinds(problems):
    return [(problem.path, problem.kind) for problem in problems]


def row_of(manifest, path):
    (row,) = manifest[manifest["path"] == path].to_dict("records")
    return row


def test_a_good_set(data):
    manifest, problems = build_manifest(data)
    assert problems == []
    assert tuple(manifest.columns) == COLUMNS
    assert len(manifest) == 9
    assert list(manifest["path"]) == sorted(manifest["path"])
    assert manifest["path"].is_unique
    row = row_of(manifest, "benign/benign (2).png")
    content = (data / "benign/benign (2).png").read_bytes()
    gray = bad_images.pixels(2)
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert (row["label"], row["width"], row["height"], row["mode"], row["format"]) == ("benign", 48, 40, "L", "PNG")
    assert row["mask_count"] == 1
    assert row["lesion_fraction"] == round(bad_images.disc().mean(), 6)
    assert row["mean"] == round(float(gray.mean(dtype=np.float64)), 6)
    assert row["std"] == pytest.approx(float(gray.std(dtype=np.float64)), abs=1e-6)
    assert row["saturated"] == round(float((gray >= 250).mean()), 6)
    assert row["annotated"] is False
    assert row["label_conflict"] is False
    assert row["duplicate_group"] == "g0002"
    assert manifest["duplicate_group"].is_unique
    assert row_of(manifest, "normal/normal (1).png")["lesion_fraction"] == 0


def test_processes_give_what_one_process_gives(tmp_path):
    folder = bad_images.data_set(tmp_path / "data", count=22)
    (folder / "normal" / "normal (3).png").write_bytes(b"")
    one, problems = build_manifest(folder, workers=1)
    two, same_problems = build_manifest(folder, workers=2)
    pd.testing.assert_frame_equal(one, two)
    assert problems == same_problems
    assert len(one) == 65


def test_no_images_at_all(tmp_path):
    manifest, problems = build_manifest(tmp_path)
    assert tuple(manifest.columns) == COLUMNS
    assert len(manifest) == 0
    assert problems == []
    table = validation_table(manifest, problems, dict.fromkeys(CLASSES, 0), 0)
    assert list(table["path"]) == ["benign/", "malignant/", "normal/", "*_mask*"]


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        build_manifest(tmp_path / "data")


def test_every_bad_file_is_reported(data):
    (data / "benign" / "benign (1).png").write_bytes(b"")
    (data / "benign" / "benign (2).png").write_bytes(bad_images.truncated(bad_images.encoded(GRAY)))
    (data / "malignant" / "malignant (1).png").write_text("text")
    (data / "malignant" / "malignant (2).png").write_bytes(bad_images.bomb())
    (data / "normal" / "normal (1)_mask.png").write_bytes(b"x")
    manifest, problems = build_manifest(data)
    assert kinds(problems) == [
        ("benign/benign (1).png", "unreadable_image"),
        ("benign/benign (2).png", "unreadable_image"),
        ("malignant/malignant (1).png", "unreadable_image"),
        ("malignant/malignant (2).png", "unreadable_image"),
        ("normal/normal (1)_mask.png", "unreadable_mask"),
    ]
    assert len(manifest) == 5
    reasons = [problem.reason for problem in problems]
    for reason, part in zip(reasons, ["empty", "truncated", "not an image", "at most", "not an image"], strict=True):
        assert part in reason
        assert "expected" in reason
        assert str(data) not in reason


def test_jpeg_named_png_is_accepted_and_recorded(data):
    (data / "benign" / "benign (1).png").write_bytes(bad_images.encoded(GRAY, "JPEG"))
    manifest, problems = build_manifest(data)
    assert problems == []
    assert row_of(manifest, "benign/benign (1).png")["format"] == "JPEG"


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "I;16"])
def test_other_pixel_types_are_accepted_and_recorded(data, mode):
    (data / "benign" / "benign (1).png").write_bytes(bad_images.in_mode(mode, GRAY))
    manifest, problems = build_manifest(data)
    assert problems == []
    row = row_of(manifest, "benign/benign (1).png")
    assert row["mode"] == mode
    if mode != "1":
        assert row["mean"] == round(float(GRAY.mean(dtype=np.float64)), 6)


def test_one_pixel(data):
    (data / "normal" / "normal (1).png").write_bytes(bad_images.encoded(np.full((1, 1), 7, np.uint8)))
    (data / "normal" / "normal (1)_mask.png").unlink()
    manifest, problems = build_manifest(data)
    assert problems == []
    row = row_of(manifest, "normal/normal (1).png")
    assert (row["width"], row["height"], row["mean"], row["std"]) == (1, 1, 7, 0)


def test_masks_are_united(data):
    right = np.zeros((40, 48), bool)
    right[:, 24:] = True
    (data / "benign" / "benign (1)_mask_1.png").write_bytes(bad_images.encoded(right))
    (data / "benign" / "benign (1)_mask_2.png").write_bytes(bad_images.in_mode("RGBA", right.astype(np.uint8) * 255))
    manifest, problems = build_manifest(data)
    assert problems == []
    row = row_of(manifest, "benign/benign (1).png")
    assert row["mask_count"] == 3
    assert row["lesion_fraction"] == round((bad_images.disc() | right).mean(), 6)
    assert np.array_equal(lesion_masks(data, manifest)("benign/benign (1).png"), bad_images.disc() | right)


def test_a_lesion_is_read_off_its_masks_alone(data):
    manifest, _ = build_manifest(data)
    manifest.loc[manifest["path"] == "malignant/malignant (2).png", "mask_count"] = 0
    for path in data.rglob("*.png"):
        if "_mask" not in path.name:
            path.write_bytes(b"not opened")
    (data / "benign" / "benign (2)_mask.png").write_bytes(b"not opened either")
    lesion = lesion_masks(data, manifest)
    assert np.array_equal(lesion("benign/benign (1).png"), bad_images.disc())
    assert lesion("malignant/malignant (2).png") is None
    with pytest.raises(KeyError):
        lesion("benign/benign (99).png")


def test_mask_without_image(data):
    (data / "benign" / "benign (1).png").unlink()
    _, problems = build_manifest(data)
    assert kinds(problems) == [("benign/benign (1)_mask.png", "mask_without_image")]


def test_mask_goes_to_the_image_with_its_suffix_or_to_none(data):
    (data / "benign" / "benign (1).jpg").write_bytes(bad_images.encoded(GRAY, "JPEG"))
    manifest, problems = build_manifest(data)
    assert problems == []
    assert row_of(manifest, "benign/benign (1).png")["mask_count"] == 1
    assert row_of(manifest, "benign/benign (1).jpg")["mask_count"] == 0
    (data / "benign" / "benign (1)_mask.png").rename(data / "benign" / "benign (1)_mask.bmp")
    _, problems = build_manifest(data)
    assert kinds(problems) == [("benign/benign (1)_mask.bmp", "mask_without_image")]


def test_mask_of_another_size(data):
    small = bad_images.encoded(bad_images.disc(20, 20))
    (data / "benign" / "benign (1)_mask.png").write_bytes(small)
    (data / "benign" / "benign (2)_mask_1.png").write_bytes(small)
    manifest, problems = build_manifest(data)
    assert kinds(problems) == [
        ("benign/benign (1)_mask.png", "mask_size"),
        ("benign/benign (2)_mask_1.png", "further_mask_size"),
    ]
    assert "20 x 20 pixels; expected 48 x 40" in problems[0].reason
    assert np.isnan(row_of(manifest, "benign/benign (1).png")["lesion_fraction"])
    assert row_of(manifest, "benign/benign (2).png")["lesion_fraction"] == round(bad_images.disc().mean(), 6)
    lesion = lesion_masks(data, manifest)
    assert lesion("benign/benign (1).png") is None
    assert np.array_equal(lesion("benign/benign (2).png"), bad_images.disc())


def test_bad_image_with_masks_of_several_sizes(data):
    (data / "benign" / "benign (1).png").write_bytes(b"")
    (data / "benign" / "benign (1)_mask_1.png").write_bytes(bad_images.encoded(bad_images.disc(20, 20)))
    _, problems = build_manifest(data)
    assert kinds(problems) == [("benign/benign (1).png", "unreadable_image")]


def test_no_masks_at_all(tmp_path):
    manifest, problems = build_manifest(bad_images.data_set(tmp_path / "data", masks=False))
    assert problems == []
    assert manifest["lesion_fraction"].isna().all()
    assert (manifest["mask_count"] == 0).all()


def test_strange_folders_and_files(data):
    (data / "cyst").mkdir()
    (data / "cyst" / "cyst (1).png").write_bytes(bad_images.encoded(GRAY))
    (data / "benign" / "more").mkdir()
    (data / "benign" / "more" / "benign (9).png").write_bytes(bad_images.encoded(GRAY))
    (data / "benign" / "notes.txt").write_text("x")
    (data / "readme.md").write_text("x")
    (data / "normal" / "normal (9).png").symlink_to("nowhere.png")
    os.mkfifo(data / "normal" / "normal (8).png")
    manifest, problems = build_manifest(data)
    assert kinds(problems) == [
        ("benign/more/", "nested_folder"),
        ("benign/notes.txt", "other_file"),
        ("cyst/", "unknown_folder"),
        ("normal/normal (8).png", "unreadable_image"),
        ("normal/normal (9).png", "unreadable_image"),
        ("readme.md", "other_file"),
    ]
    assert len(manifest) == 9


def test_names_with_spaces_umlauts_and_newlines(data):
    names = ["größe  1.png", "zwei\nzeilen.png", "100% $x {y}.PNG"]
    for number, name in enumerate(names):
        (data / "benign" / name).write_bytes(bad_images.encoded(bad_images.pixels(900 + number)))
        mask = name.rpartition(".")[0] + "_mask.png"
        (data / "benign" / mask).write_bytes(bad_images.encoded(bad_images.disc()))
    manifest, problems = build_manifest(data)
    assert problems == []
    for name in names:
        assert row_of(manifest, f"benign/{name}")["mask_count"] == 1


def test_name_that_is_not_utf8(data):
    with open(os.fsencode(data / "benign") + b"/\xff.png", "wb") as file:
        file.write(bad_images.encoded(GRAY))
    _, problems = build_manifest(data)
    assert len(problems) == 1
    assert problems[0].kind == "unreadable_image"
    assert "UTF-8" in problems[0].reason
    problems[0].path.encode("utf-8")


def test_copies_share_a_group_and_two_labels_conflict(data):
    copy = (data / "benign" / "benign (2).png").read_bytes()
    (data / "benign" / "benign (3).png").write_bytes(copy)
    blank = bad_images.encoded(np.zeros((40, 48), np.uint8))
    for path in ("benign/benign (1).png", "normal/normal (1).png", "normal/normal (2).png"):
        (data / path).write_bytes(blank)
    manifest, _ = build_manifest(data)
    group = manifest.set_index("path")["duplicate_group"]
    conflict = manifest.set_index("path")["label_conflict"]
    assert group["benign/benign (2).png"] == group["benign/benign (3).png"]
    assert not conflict["benign/benign (2).png"]
    assert group["benign/benign (1).png"] == group["normal/normal (1).png"] == group["normal/normal (2).png"] == "g0001"
    assert conflict[group == "g0001"].all()
    assert conflict.sum() == 3
    assert manifest.groupby("sha256")["duplicate_group"].nunique().max() == 1
    assert list(manifest["duplicate_group"].unique()) == sorted(manifest["duplicate_group"].unique())


def test_the_validation_table_names_every_culprit_in_its_column(data):
    (data / "benign" / "benign (2)_mask.png").write_bytes(bad_images.encoded(bad_images.disc(9, 9)))
    (data / "benign" / "benign (3)_mask.png").write_bytes(bad_images.encoded(np.zeros((40, 48), bool)))
    (data / "malignant" / "malignant (1)_mask.png").unlink()
    (data / "malignant" / "benign (8).png").write_bytes((data / "normal" / "normal (1).png").read_bytes())
    (data / "normal" / "normal (2)_mask.png").write_bytes(bad_images.encoded(bad_images.disc()))
    (data / "normal" / "normal (7)_mask.png").write_bytes(bad_images.encoded(bad_images.disc()))
    (data / "cyst").mkdir()
    manifest, problems = build_manifest(data)
    before = manifest.copy()
    table = validation_table(manifest, problems, {"benign": 3, "malignant": 3, "normal": 4}, 9)
    pd.testing.assert_frame_equal(manifest, before)
    assert tuple(table.columns) == VALIDATION_COLUMNS
    assert table["path"].is_unique

    def named(column, *values):
        return set(table["path"][table[column].isin(values)])

    bad = {kind: set(table["path"][table[kind] != "ok"]) for kind in PROBLEMS}
    assert {kind: paths for kind, paths in bad.items() if paths} == {
        "unknown_folder": {"cyst/"},
        "mask_size": {"benign/benign (2)_mask.png"},
        "mask_without_image": {"normal/normal (7)_mask.png"},
    }
    assert named("label", "cyst") == {"cyst/"}
    assert named("lesion_mask", "missing") == {"malignant/malignant (1).png", "malignant/benign (8).png"}
    assert named("lesion_mask", "empty") == {"benign/benign (3).png"}
    assert named("normal_mask", "present") == {"normal/normal (2).png"}
    assert named("copy_flagged", "yes") == {"malignant/benign (8).png", "normal/normal (1).png"}
    assert named("copy_flagged", "no") == set()
    assert set(table["path"][(table["name_label"] != table["label"]) & table["name_label"].notna()]) == {
        "malignant/benign (8).png"
    }
    counts = table[table["expected"].notna()].set_index("path")
    assert counts["found"].to_dict() == {"benign/": 3, "malignant/": 4, "normal/": 3, "*_mask*": 9}
    assert counts["images"].dropna().to_dict() == {"benign/": 3, "malignant/": 4, "normal/": 3}


def test_the_validation_table_counts_unreadable_images_and_then_no_masks(data):
    (data / "benign" / "benign (1).png").write_bytes(b"")
    table = validation_table(*build_manifest(data), dict.fromkeys(CLASSES, 3), 9).set_index("path")
    assert "empty" in table.loc["benign/benign (1).png", "unreadable_image"]
    assert table.loc["benign/", "found"] == 3
    assert table.loc["*_mask*", "found"] is None


def test_the_validation_table_of_a_set_without_masks_expects_none(tmp_path):
    manifest, problems = build_manifest(bad_images.data_set(tmp_path / "data", masks=False))
    table = validation_table(manifest, problems, dict.fromkeys(CLASSES, 4), 0)
    assert table["lesion_mask"].isna().all()
    assert table["normal_mask"].isna().all()


def test_burnt_in_marks():
    tissue = np.asarray(Image.fromarray(GRAY).resize((300, 300)))
    assert not looks_annotated(Image.fromarray(tissue), tissue)
    text = Image.fromarray(tissue // 2)
    ImageDraw.Draw(text).text((100, 200), "LEFT BREAST", fill=255)
    assert looks_annotated(text, np.asarray(text))
    coloured = Image.fromarray(tissue).convert("RGB")
    ImageDraw.Draw(coloured).line((20, 20, 60, 20), fill=(200, 200, 0))
    assert looks_annotated(coloured, np.asarray(coloured.convert("L")))
    layer = tissue // 2
    layer[150:153] = 255
    assert not looks_annotated(Image.fromarray(layer), layer)
