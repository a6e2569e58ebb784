"""The results' table: every row's parameters are valid, and its folds are dealt as the row says."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import results
from busi.layout import CLASSES
from busi.split import QUARANTINE
from pipeline.params import read_params


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> pd.DataFrame:
    """Ten pairs of twins a class, one pair of two labels; the first benign image has two masks."""
    monkeypatch.setattr(results, "DATA", tmp_path)
    rows = [(f"{label}/{label} ({i}).png", label, f"{label}-{i // 2}") for label in CLASSES for i in range(20)]
    table = pd.DataFrame(rows, columns=["path", "label", "duplicate_group"])
    table["duplicate_group"] = table["duplicate_group"].replace("normal-0", "benign-0")
    table["label_conflict"] = table["duplicate_group"] == "benign-0"
    table["sha256"] = [f"{i:064x}" for i in range(len(table))]
    (tmp_path / "benign").mkdir()
    for name in ("benign (0).png", "benign (0)_mask.png", "benign (0)_mask_1.png"):
        Image.new("L", (8, 8)).save(tmp_path / "benign" / name)
    return table


def test_every_row_that_the_table_names_has_valid_parameters():
    for row in results.ROWS.values():
        changed = results.changed(read_params(), row.changes).model_dump()
        assert all(values.items() <= changed[section].items() for section, values in row.changes.items())


def test_honest_folds_keep_groups_whole_and_contaminated_ones_test_everything(manifest):
    params = read_params()
    honest, random, masks = (results.deal(manifest, how, params) for how in ("by group", "random", "random, masks"))

    for folds, tested in ((honest, 56), (random, 60), (masks, 62)):
        paths = [path for fold in folds for path in results.tested(fold)]
        assert len(paths) == len(set(paths)) == tested
        assert all(abs((fold["part"] == "val").mean() - params.split.val) < 0.05 for fold in folds)
    assert all((fold.groupby("duplicate_group")["part"].nunique() == 1).all() for fold in honest)
    assert any((fold.groupby("duplicate_group")["part"].nunique() > 1).any() for fold in random)
    assert not any((fold["part"] == QUARANTINE).any() for fold in (*random, *masks))
    assert (masks[0].loc[masks[0]["path"].str.contains("mask"), "label"] == "benign").sum() == 2


def test_views_at_test_begin_with_the_image_itself_and_have_its_mirror_image():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    views = list(results.views_of(pixels))
    assert len(views) == 6
    np.testing.assert_array_equal(views[0], pixels)
    np.testing.assert_array_equal(views[1], pixels[:, ::-1])
    assert len({view.tobytes() for view in views}) == 6


def test_table_shows_what_was_measured_and_how_to_measure_the_rest():
    metric = {"value": 0.7034, "low": 0.66, "high": 0.742, "n": 761}
    names = ("accuracy", "macro_f1", "malignant_sensitivity", "malignant_specificity", "auroc_macro")
    shown = results.table({"hog": {"metrics": dict.fromkeys(names, metric), "minutes": 0.1}}).splitlines()
    assert any(line.startswith("| hog ") and line.count("0.703 (0.660 to 0.742)") == 5 for line in shown)
    assert all(f"not measured: `make results ROW={name}`" in "\n".join(shown) for name in results.ROWS if name != "hog")
