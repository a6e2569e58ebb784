"""The results' table: every row's parameters are valid, and its folds are dealt as the row says."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import model_selection, repeated_crossval, results
from busi.data.layout import CLASSES
from busi.data.split import QUARANTINE
from pipeline.params import read_params
from pipeline.runtime.errors import StageError


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
        paths = [path for fold in folds for path in results.images_of(fold, "test")]
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


def test_what_every_row_called_an_image_is_kept_row_by_row_and_compared_image_by_image(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "CALLED", tmp_path / "called.csv")
    monkeypatch.setattr(results, "FOLD_OF", tmp_path / "folds.csv")
    params = read_params()
    folds = results.deal(manifest, "by group", params)
    results.record(folds, "a set")
    images = manifest[~manifest["label_conflict"]].set_index("path")
    sure = pd.get_dummies(images["label"])[list(CLASSES)].astype(float)
    worse = sure.copy()
    worse.loc[images["duplicate_group"] == "benign-1"] = [0.0, 1.0, 0.0]  # two images, twins of one another
    for data_set, name, found in (
        ("a set", "ultrasound-tail", worse), ("another set", "hog", worse), ("a set", "hog", worse),
        ("a set", "ultrasound-tail", sure), ("a set", "random-split-hog", sure),
    ):  # fmt: skip
        results.keep_calls(data_set, name, found.sample(frac=1, random_state=1))

    calls = results.read_of(results.CALLED, "a set")
    assert calls["path"].tolist() == sorted(images.index)
    assert list(calls)[:2] == ["data_set", "path"]
    assert (calls["ultrasound-tail"] == images["label"].loc[calls["path"]].to_numpy()).all()
    above = results.compare(calls, results.read_of(results.FOLD_OF, "a set"), "hog", params)
    assert list(above) == ["ultrasound-tail"]
    assert above["ultrasound-tail"]["value"] == pytest.approx(2 / len(images), abs=1e-6)
    assert above["ultrasound-tail"]["low"] == 0 < above["ultrasound-tail"]["high"]
    assert len(results.read_of(results.CALLED, "another set")) == len(images)
    assert results.compare(calls, results.read_of(results.FOLD_OF, "a set"), "imagenet", params) == {}


def test_table_shows_what_was_measured_and_how_to_measure_the_rest():
    metric = {"value": 0.7034, "low": 0.66, "high": 0.742, "n": 761}
    names = ("accuracy", "macro_f1", "malignant_sensitivity", "malignant_specificity", "auroc_macro")
    gain = {"hog": {"value": 0.0124, "low": -0.02, "high": 0.05, "n": 761}}
    measured = {"hog": {"metrics": dict.fromkeys(names, metric), "minutes": 0.1}}
    shown = results.table(measured, gain, "linear-random").splitlines()
    assert "accuracy above linear-random" in shown[0]
    line = next(line for line in shown if line.startswith("| hog "))
    assert line.count("0.703 (0.660 to 0.742)") == 5 and "+0.012 (-0.020 to +0.050)" in line
    assert all(f"not measured: `make results ROW={name}`" in "\n".join(shown) for name in results.ROWS if name != "hog")


def test_a_row_over_several_dealings_is_measured_on_other_folds_each_time(manifest, tmp_path, monkeypatch, capsys):
    """With a method that is wrong about the first ten images of a class where the first fold tests them."""
    monkeypatch.setattr(repeated_crossval, "REPORT", tmp_path / "dealings.json")
    monkeypatch.setattr(results, "read_manifest", lambda: manifest)
    monkeypatch.setattr(repeated_crossval.lineage, "dataset", lambda: {"name": "a set"})

    def is_wrong(folds):
        images = folds[0][folds[0]["part"] != QUARANTINE].set_index("path")
        return images["label"], images["part"].eq("test") & images.index.str.contains(r"\(\d\)")

    def method(row, folds):
        labels, wrong = is_wrong(folds)
        other = labels.map(dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True)))
        return pd.get_dummies(labels.mask(wrong, other))[list(CLASSES)].astype(float), {"minutes": 0.0}

    monkeypatch.setattr(results, "simple", method)
    repeated_crossval.main(["hog", "random-split-hog"], dealings=3, workers=1)

    found = json.loads((tmp_path / "dealings.json").read_text())["a set"]
    seed = read_params().split.seed
    assert found["hog"]["split_seeds"] == [seed, seed + 1, seed + 2]
    assert (found["hog"]["n"], found["random-split-hog"]["n"]) == (56, 60)
    for name, dealt in (("hog", "by group"), ("random-split-hog", "random")):
        for number, value in zip(found[name]["split_seeds"], found[name]["accuracy"], strict=True):
            params = results.changed(read_params(), {"split": {"seed": number}})
            _, wrong = is_wrong(results.deal(manifest, dealt, params))
            assert value == pytest.approx(1 - wrong.mean(), abs=1e-6)
        assert len(set(found[name]["accuracy"])) > 1
    spread = f"{np.mean(found['hog']['accuracy']):.3f} ± {np.std(found['hog']['accuracy'], ddof=1):.3f}"
    above = np.subtract(found["random-split-hog"]["accuracy"], found["hog"]["accuracy"])
    compared = f"{above.mean():+.3f} ± {above.std(ddof=1):.3f} | {(above > 0).sum()} of 3"
    table = capsys.readouterr().out
    assert f"| {spread}" in table
    assert compared in re.sub(" +", " ", table)


def test_recipes_are_compared_by_the_validation_parts_of_every_dealing_and_by_nothing_else(
    manifest, tmp_path, monkeypatch, capsys
):
    """Of two networks, one of which calls every second image of validation wrong, and all of the test images right."""
    monkeypatch.setattr(model_selection, "REPORT", tmp_path / "choosing.json")
    monkeypatch.setattr(model_selection, "read_manifest", lambda: manifest)
    monkeypatch.setattr(model_selection.lineage, "dataset", lambda: {"name": "a set"})
    labels, validated = manifest.set_index("path")["label"], {}

    def network(row, params, folds, workers):
        files = {}
        for number, fold in enumerate(folds):
            said = {}
            for part in results.PARTS:
                paths = results.images_of(fold, part)
                right = np.ones(len(paths), bool)
                if part == "val":
                    validated.setdefault((row.what, params.split.seed), []).extend(paths)
                    right = ~pd.Series(paths).str.contains(r"[13579]\)") if "head only" in row.what else right
                truth = labels[paths].map(CLASSES.index).to_numpy()
                said[part] = np.full((len(paths), 3), 0.1)
                said[part][np.arange(len(paths)), np.where(right, truth, (truth + 1) % 3)] = 0.8
            files[tmp_path / f"{row.what}, {params.split.seed}, {number}.npz"] = fold
            np.savez(list(files)[-1], **said)
        return files, 0.0

    monkeypatch.setattr(model_selection, "fit", network)
    model_selection.main(["ultrasound-head", "ultrasound-tail"], dealings=3, workers=1)

    found = json.loads((tmp_path / "choosing.json").read_text())["a set"]["ultrasound-head"]
    dealt = [paths for (what, _), paths in validated.items() if "head only" in what]
    images = {path for paths in dealt for path in paths}
    assert len(dealt) == 3 and len(set(map(tuple, dealt))) == 3 and len(images) < sum(map(len, dealt))
    wrong = pd.Series(sorted(images)).str.contains(r"[13579]\)").mean()
    assert 0.3 < wrong < 0.7
    head, tail = found["rows"]["ultrasound-head"], found["rows"]["ultrasound-tail"]
    assert head["accuracy"]["n"] == tail["log_loss"]["n"] == len(images)
    assert (head["accuracy"]["value"], tail["accuracy"]["value"]) == (pytest.approx(1 - wrong, abs=1e-6), 1)
    assert tail["log_loss"]["value"] == pytest.approx(-np.log(0.8), abs=1e-6)
    assert tail["accuracy_above"]["value"] == pytest.approx(wrong, abs=1e-6)
    assert tail["log_loss_above"]["value"] == pytest.approx(wrong * np.log(0.1 / 0.8), abs=1e-6)
    assert tail["log_loss_above"]["high"] < 0 < tail["accuracy_above"]["low"]
    assert found["split_seeds"] == [read_params().split.seed + dealing for dealing in range(3)]
    assert f"{tail['accuracy_above']['value']:+.3f}" in capsys.readouterr().out
    with pytest.raises(StageError, match="hog"):
        model_selection.main(["ultrasound-head", "hog"], dealings=1, workers=1)


def test_of_an_image_that_several_seeds_call_the_mean_counts_fold_by_fold(tmp_path):
    fold = pd.DataFrame({"path": ["a", "b"], "part": ["val", "test"]})
    files = {tmp_path / f"{i}.npz": fold for i in range(2 * results.FOLDS)}
    for i, kept in enumerate(files):
        np.savez(kept, val=[[i / 10, 1 - i / 10, 0.0]], test=[[0.0, 0.0, 1.0]])
    said = results.said_of(files, "val")
    assert said.index.tolist() == [(number, "a") for number in range(results.FOLDS)]
    np.testing.assert_allclose(said[CLASSES[0]], [(i + i + results.FOLDS) / 20 for i in range(results.FOLDS)])
