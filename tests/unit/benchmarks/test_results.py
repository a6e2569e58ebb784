"""The results' table: what a row changes, what is kept of it, and how rows are compared."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks import baselines, model_selection, repeated_crossval, results
from busi.data.layout import CLASSES
from pipeline.orchestration import crossval, folds
from pipeline.orchestration.folds import Experiment, changed, divide
from pipeline.params import read_params
from pipeline.runtime.errors import StageError

OTHER = dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True))


@pytest.fixture
def manifest(monkeypatch) -> pd.DataFrame:
    """Ten pairs of twins a class, one pair of two labels."""
    rows = [(f"{label}/{label} ({i}).png", label, f"{label}-{i // 2}") for label in CLASSES for i in range(20)]
    table = pd.DataFrame(rows, columns=["path", "label", "duplicate_group"])
    table["duplicate_group"] = table["duplicate_group"].replace("normal-0", "benign-0")
    table["label_conflict"] = table["duplicate_group"] == "benign-0"
    table["sha256"] = [f"{i:064x}" for i in range(len(table))]
    monkeypatch.setattr(baselines, "read_manifest", lambda: table)
    for module in (results, repeated_crossval, model_selection):
        monkeypatch.setattr(module, "read_dataset", lambda: {"name": "a set"})
    return table


def called(images: pd.DataFrame, wrong: np.ndarray) -> pd.DataFrame:
    """Predictions of 0.8 for the label, or for another class where `wrong`."""
    predicted = images["label"].mask(wrong, images["label"].map(OTHER))
    probabilities = {label: np.where(predicted == label, 0.8, 0.1) for label in CLASSES}
    return images.assign(predicted=predicted, **probabilities)


def out_of_fold(manifest: pd.DataFrame, experiment: Experiment, wrong) -> pd.DataFrame:
    """What a method that is wrong where `wrong(tested images, fold)` says would leave of an experiment."""
    tables = []
    for repeat in range(experiment.repeats):
        params = changed(experiment.params, {"split": {"seed": experiment.params.split.seed + repeat}})
        for number, images in enumerate(divide(manifest, params, experiment.folds, experiment.grouped)):
            tested = images[images["part"] == "test"].drop(columns="part").reset_index(drop=True)
            tables.append(called(tested, wrong(tested, number)).assign(repeat=repeat, fold=number))
    return pd.concat(tables, ignore_index=True)


def test_every_row_that_the_table_names_has_valid_parameters():
    for row in results.ROWS.values():
        params = row.experiment(read_params()).params.model_dump()
        assert all(values.items() <= params[section].items() for section, values in row.changes.items())


def test_a_baseline_takes_the_folds_of_the_engine_and_tests_every_image_once(manifest, monkeypatch):
    monkeypatch.setitem(baselines.METHODS, "hog", ("logistic", lambda paths: np.eye(len(paths))))
    for grouped, tested in ((True, 56), (False, 60)):
        experiment = Experiment(read_params(), folds=5, grouped=grouped)
        predictions = baselines.cross_validate("hog", experiment)
        assert len(predictions) == predictions["path"].nunique() == tested
        for number, images in enumerate(divide(manifest, experiment.params, 5, grouped)):
            expected = set(images.loc[images["part"] == "test", "path"])
            assert set(predictions.loc[predictions["fold"] == number, "path"]) == expected
        assert crossval.pooled(predictions, experiment.params.evaluate)["accuracy"]["n"] == tested


def test_what_every_row_called_an_image_is_kept_row_by_row_and_compared_image_by_image(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "CALLED", tmp_path / "called.csv")
    monkeypatch.setattr(results, "FOLD_OF", tmp_path / "folds.csv")
    params = read_params()
    sure = out_of_fold(manifest, Experiment(params, 5), lambda images, fold: np.zeros(len(images), bool))
    twins = lambda images, fold: (images["duplicate_group"] == "benign-1").to_numpy()  # noqa: E731  two images
    worse = out_of_fold(manifest, Experiment(params, 5), twins)
    results.keep_folds("a set", sure)
    for data_set, name, found in (
        ("a set", "ultrasound-tail", worse), ("another set", "hog", worse), ("a set", "hog", worse),
        ("a set", "ultrasound-tail", sure), ("a set", "random-split-hog", sure),
    ):  # fmt: skip
        results.keep_calls(data_set, name, found.sample(frac=1, random_state=1))

    calls = results.read_of(results.CALLED, "a set")
    labels = manifest.set_index("path")["label"]
    assert calls["path"].tolist() == sorted(sure["path"])
    assert list(calls)[:2] == ["data_set", "path"]
    assert (calls["ultrasound-tail"] == labels.loc[calls["path"]].to_numpy()).all()
    above = results.compare(calls, results.read_of(results.FOLD_OF, "a set"), "hog", params)
    assert list(above) == ["ultrasound-tail"]
    assert above["ultrasound-tail"]["value"] == pytest.approx(2 / len(sure), abs=1e-6)
    assert above["ultrasound-tail"]["low"] == 0 < above["ultrasound-tail"]["high"]
    assert len(results.read_of(results.CALLED, "another set")) == len(sure)
    assert results.compare(calls, results.read_of(results.FOLD_OF, "a set"), "imagenet", params) == {}


def test_table_shows_what_was_measured_and_how_to_measure_the_rest():
    metric = {"value": 0.7034, "low": 0.66, "high": 0.742, "n": 761}
    names = ("accuracy", "macro_f1", "malignant_sensitivity", "malignant_specificity", "auroc_macro")
    gain = {"hog": {"value": 0.0124, "low": -0.02, "high": 0.05, "n": 761}}
    entry = {"metrics": dict.fromkeys(names, metric), "minutes": 0.1, "what": "a method"}
    shown = results.table({"hog": entry, "a row of old": entry}, gain, "linear-random").splitlines()
    assert "accuracy above linear-random" in shown[0]
    line = next(line for line in shown if line.startswith("| hog "))
    assert line.count("0.703 (0.660 to 0.742)") == 5
    assert "+0.012 (-0.020 to +0.050)" in line
    assert any(line.startswith("| a row of old ") for line in shown)
    assert all(f"make results ROW={name}`" in "\n".join(shown) for name in results.ROWS if name != "hog")


def test_every_row_on_record_can_be_shown():
    for rows in results.read_report(results.REPORT).values():
        shown = results.table(rows, {}, "hog")
        assert all(f"| {name} " in shown for name in rows)


def test_a_row_over_several_split_seeds_has_a_figure_for_each(manifest, tmp_path, monkeypatch, capsys):
    """With a method that is wrong about the first ten images of a class where the first fold tests them."""
    monkeypatch.setattr(repeated_crossval, "REPORT", tmp_path / "dealings.json")
    shares = {}

    def measure(name, experiment, scheduler):
        found = out_of_fold(
            manifest, experiment, lambda images, fold: images["path"].str.contains(r"\(\d\)").to_numpy() & (fold == 0)
        )
        shares[name] = (found["predicted"] == found["label"]).groupby(found["repeat"]).mean().tolist()
        return results.Measured(found, {"minutes": 0.0})

    monkeypatch.setattr(repeated_crossval, "measure", measure)
    repeated_crossval.main(["hog", "random-split-hog"], repeats=3, scheduler=None)

    found = json.loads((tmp_path / "dealings.json").read_text())["a set"]
    seed = read_params().split.seed
    assert found["hog"]["split_seeds"] == [seed, seed + 1, seed + 2]
    assert (found["hog"]["n"], found["random-split-hog"]["n"]) == (56, 60)
    for name in ("hog", "random-split-hog"):
        assert found[name]["accuracy"] == pytest.approx(shares[name], abs=1e-6)
        assert len(set(found[name]["accuracy"])) > 1
    spread = f"{np.mean(found['hog']['accuracy']):.3f} ± {np.std(found['hog']['accuracy'], ddof=1):.3f}"
    above = np.subtract(found["random-split-hog"]["accuracy"], found["hog"]["accuracy"])
    compared = f"{above.mean():+.3f} ± {above.std(ddof=1):.3f} | {(above > 0).sum()} of 3"
    table = capsys.readouterr().out
    assert f"| {spread}" in table
    assert compared in re.sub(" +", " ", table)


def test_rows_are_selected_by_the_validation_images_of_every_split_seed_and_by_nothing_else(
    manifest, tmp_path, monkeypatch, capsys
):
    """Of two networks, one of which calls every second image of validation wrong, and all of the test images right."""
    monkeypatch.setattr(model_selection, "REPORT", tmp_path / "choosing.json")
    validated = []

    def cross_validate(experiment, report, predictions, scheduler):
        head_only = experiment.params.featurize.boundary == "levels"
        planned = folds.plan(experiment, manifest, {})
        for one in planned:
            images = one.images[one.images["part"] == "val"].drop(columns="part").reset_index(drop=True)
            wrong = images["path"].str.contains(r"[13579]\)").to_numpy() & head_only
            table = called(images, wrong).drop(columns="predicted")
            (tmp_path / one.folder).mkdir(parents=True, exist_ok=True)
            table.to_csv(tmp_path / one.folder / "validation.csv", index=False)
            validated.extend(images["path"] if head_only else [])
        return crossval.CrossValidated(planned, None, {}, 0.0)

    monkeypatch.setattr(model_selection, "cross_validate", cross_validate)
    params = read_params()
    monkeypatch.setattr(model_selection, "read_params", lambda: params)
    monkeypatch.chdir(tmp_path)
    model_selection.main(["ultrasound-head", "ultrasound-tail"], repeats=3, scheduler=None)

    found = json.loads((tmp_path / "choosing.json").read_text())["a set"]["ultrasound-head"]
    images = set(validated)
    assert len(images) < len(validated)
    wrong = pd.Series(sorted(images)).str.contains(r"[13579]\)").mean()
    assert 0.3 < wrong < 0.7
    head, tail = found["rows"]["ultrasound-head"], found["rows"]["ultrasound-tail"]
    assert head["accuracy"]["n"] == tail["log_loss"]["n"] == len(images)
    assert (head["accuracy"]["value"], tail["accuracy"]["value"]) == (pytest.approx(1 - wrong, abs=1e-6), 1)
    assert tail["log_loss"]["value"] == pytest.approx(-np.log(0.8), abs=1e-6)
    assert tail["accuracy_above"]["value"] == pytest.approx(wrong, abs=1e-6)
    assert tail["log_loss_above"]["value"] == pytest.approx(wrong * np.log(0.1 / 0.8), abs=1e-6)
    assert tail["log_loss_above"]["high"] < 0 < tail["accuracy_above"]["low"]
    assert found["split_seeds"] == [params.split.seed + repeat for repeat in range(3)]
    assert f"{tail['accuracy_above']['value']:+.3f}" in capsys.readouterr().out
    with pytest.raises(StageError, match="hog"):
        model_selection.main(["ultrasound-head", "hog"], repeats=1, scheduler=None)


def test_without_any_measured_row_the_spread_says_so(manifest, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(repeated_crossval, "REPORT", tmp_path / "dealings.json")
    repeated_crossval.main(rows=[], against="hog")
    assert "nothing measured" in capsys.readouterr().out
