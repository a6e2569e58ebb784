"""The evaluation of a stand-in model that calls an image by its brightness. No TensorFlow."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi.data.images import read_image, to_gray
from busi.data.layout import CLASSES
from busi.evaluation import shown_images
from busi.evaluation.evaluator import DataSet, EvaluationConfig, evaluate_model, summary
from busi.evaluation.metrics import evaluate
from busi.evaluation.records import Resampling, as_json
from pipeline.runtime.errors import StageError
from pipeline.stages import evaluate as stage_module

CONFIG = EvaluationConfig(Resampling(200, 0.95, 17), 0.95, 0.5, 0.99, 8, 20, 5)


class BrightnessObserver:
    """Answers like `Observer`. With learned weights a map has its peak at the upper left, else at the lower right."""

    def __init__(self, folder: Path):
        self.folder, self.learned, self.asked = folder, True, []

    def classify(self, paths, title=""):
        levels = self._levels(paths)
        scores = np.exp(-np.abs(levels[:, None] - np.array([50, 130, 210])) / 20)
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), self._described(levels)

    def ood_features(self, paths, title=""):
        return self._described(self._levels(paths))

    def evidence(self, paths, classes, title=""):
        heat = np.zeros((len(paths), 2, 2), np.float32)
        heat[:, *((0, 0) if self.learned else (1, 1))] = 5
        heat[:, 0, 1] = self._levels(paths) / 255
        return heat

    heat_maps = evidence

    @contextlib.contextmanager
    def random_weights(self, seed):
        self.learned = False
        yield
        self.learned = True

    def _levels(self, paths):
        self.asked.append(len(paths))
        return np.array([to_gray(read_image(self.folder / path)).mean() for path in paths])

    @staticmethod
    def _described(levels):
        return np.stack([levels, levels % 7], axis=1).astype(np.float32)


@pytest.fixture
def images(tmp_path):
    """Twenty images a class, the last of each as bright as the next class: four val, four train, twelve test."""
    rows = []
    for label, shade in zip(CLASSES, (40, 120, 200), strict=True):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(1, 21):
            path = f"{label}/{label} ({number}).png"
            value = (shade if number < 20 else (shade + 80) % 240) + number
            Image.new("L", (50, 40), value).save(tmp_path / "data" / path)
            part = "test" if number > 8 else "train" if number > 4 else "val"
            rows.append((path, label, f"{label[0]}{number // 2:03d}", part))
    return pd.DataFrame(rows, columns=["path", "label", "duplicate_group", "part"]).sort_values("path")


def manifest_of(images: pd.DataFrame) -> pd.DataFrame:
    return images[["path", "label"]].assign(width=50, height=40, mask_count=0, lesion_fraction=np.nan, annotated=False)


def found_for(images, folder, manifest=None, retrain=None, config=CONFIG):
    manifest = manifest_of(images) if manifest is None else manifest
    return evaluate_model(BrightnessObserver(folder), DataSet(folder, manifest, images), 2.0, config, retrain)


def test_predictions_and_metrics_are_of_the_test_images(images, tmp_path):
    found = found_for(images, tmp_path / "data")
    table = found.predictions
    assert list(table) == ["path", "label", "duplicate_group", "predicted", *CLASSES]
    assert table["path"].tolist() == sorted(images.loc[images["part"] == "test", "path"])
    assert (table["predicted"] == table[list(CLASSES)].idxmax(axis=1)).all()
    wrong = table.loc[table["label"] != table["predicted"], "path"]
    assert list(wrong) == [f"{label}/{label} (20).png" for label in CLASSES]
    labels = table["label"].map(CLASSES.index).to_numpy()
    again = evaluate(labels, table[list(CLASSES)].to_numpy(), table["duplicate_group"].to_numpy(), CONFIG.resampling)
    assert {name: found.metrics[name] for name in again} == again
    by_label = {label: metric.value for label, metric in found.metrics["slices"]["label"].items()}
    assert by_label == {label: again["per_class"][label]["sensitivity"].value for label in CLASSES}
    assert list(found.metrics["slices"]) == ["label"]  # one size, no masks, none annotated
    assert found.metrics["uncalibrated"]["brier_score"] != again["brier_score"]


def test_the_operating_point_is_chosen_on_validation_and_measured_on_test(images, tmp_path):
    found = found_for(images, tmp_path / "data")
    point, table = found.metrics["operating_point"], found.predictions
    called, malignant = table["malignant"] >= point["threshold"], table["label"] == "malignant"
    assert point["sensitivity"].value == pytest.approx((called & malignant).sum() / 12, abs=1e-6)
    assert point["specificity"].value == pytest.approx((~called & ~malignant).sum() / 24, abs=1e-6)
    assert (point["validation_images"], point["validation_sensitivity"]) == (4, 1.0)
    capped = found_for(images, tmp_path / "data", config=CONFIG._replace(max_threshold=0.25))
    assert capped.metrics["operating_point"]["threshold"] == 0.25


def test_heat_maps_are_of_the_images_that_a_report_shows(images, tmp_path):
    found = found_for(images, tmp_path / "data")
    places = [place for kind in shown_images.choose(found.predictions).values() for place in kind]
    assert set(found.heat_maps) == set(found.predictions["path"].iloc[places])
    assert all(heat.shape == (2, 2) and heat.dtype == np.float32 for heat in found.heat_maps.values())


def test_numbers_of_images_are_what_the_configuration_says(images, tmp_path):
    observer = BrightnessObserver(tmp_path / "data")
    config = CONFIG._replace(known_images=3, explained_images=7, smoke_images=2)
    found = evaluate_model(observer, DataSet(tmp_path / "data", manifest_of(images), images), 2.0, config, None)
    shown = len(found.heat_maps)
    assert observer.asked == [36, 12, 3, 7, 7, shown]  # test, validation, known, explained twice, shown
    assert len(found.smoke_images) == 2


def test_curves_run_from_corner_to_corner(images, tmp_path):
    plots = found_for(images, tmp_path / "data").plots
    curves = {f"{curve}_{label}" for curve in ("roc", "pr") for label in CLASSES}
    assert set(plots) == curves | {"confusion", "reliability_before", "reliability_after"}
    for label in CLASSES:
        roc = plots[f"roc_{label}"]
        assert roc.iloc[0].tolist() == [0, 0] and roc.iloc[-1].tolist() == [1, 1]
        assert plots[f"pr_{label}"].iloc[-1].tolist() == [0, 1]
    assert len(plots["confusion"]) == plots["reliability_after"]["n"].sum() == 36


def test_smoke_images_carry_the_file_and_the_answer(images, tmp_path):
    found = found_for(images, tmp_path / "data")
    assert {image.expected["path"].split("/")[0] for image in found.smoke_images} == set(CLASSES)
    for image in found.smoke_images:
        assert hashlib.sha256(image.content).hexdigest() == image.expected["sha256"]
        assert image.content == (tmp_path / "data" / image.expected["path"]).read_bytes()
        answer = found.predictions.set_index("path").loc[image.expected["path"], list(CLASSES)]
        assert [image.expected[label] for label in CLASSES] == pytest.approx(list(answer), abs=1e-6)


def test_with_masks_the_pointing_game_is_played(images, tmp_path):
    """Two of three lesions fill the upper left, where the learned map points, the others the lower right."""
    manifest = manifest_of(images)
    lesions = manifest["label"] != "normal"
    manifest.loc[lesions, ["mask_count", "lesion_fraction"]] = 1, 0.25
    for path in manifest.loc[lesions, "path"]:
        number = int(path.split("(")[1].split(")")[0])
        mask = np.zeros((40, 50), np.uint8)
        mask[(slice(0, 20), slice(0, 25)) if number % 3 else (slice(20, 40), slice(25, 50))] = 255
        Image.fromarray(mask).save(tmp_path / "data" / path.replace(".png", "_mask.png"))
    config = CONFIG._replace(explained_images=100)
    metrics = as_json(found_for(images, tmp_path / "data", manifest, config=config).metrics)
    game, random = metrics["pointing_game"], metrics["randomised_weights"]["pointing_game"]
    assert game["n"] == random["n"] == 24
    assert game["value"] == pytest.approx(2 / 3, abs=1e-6) and game["low"] < game["value"] < game["high"]
    assert random["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert game["chance"]["value"] == 0.25
    assert game["centre"]["value"] == pytest.approx(1 / 3, abs=1e-6)  # the pixel right of and below the middle


def test_without_masks_there_is_a_rank_correlation_alone(images, tmp_path):
    metrics = found_for(images, tmp_path / "data").metrics
    assert "pointing_game" not in metrics and set(metrics["randomised_weights"]) == {"rank_correlation"}


def test_the_audit_divides_the_same_images_at_random(images, tmp_path):
    trained = []

    def retrain(split):
        trained.append(split)
        return BrightnessObserver(tmp_path / "data")

    found = found_for(images, tmp_path / "data", retrain=retrain).metrics["random_split_audit"]
    [split] = trained
    assert split["part"].value_counts().to_dict() == images["part"].value_counts().to_dict()
    in_training = set(split.loc[split["part"] == "train", "duplicate_group"])
    test = split[split["part"] == "test"]
    assert found["with_twin"].n == test["duplicate_group"].isin(in_training).sum() > 0
    assert found["accuracy"].n == 36 == found["with_twin"].n + found["without_twin"].n
    wrong = test["path"].str.contains(r"\(20\)").sum()
    assert found["accuracy"].value == pytest.approx(1 - wrong / 36, abs=1e-6)
    assert "random_split_audit" not in found_for(images, tmp_path / "data").metrics


def test_the_summary_has_a_line_for_each_figure_that_the_gate_looks_at(images, tmp_path):
    lines = summary(found_for(images, tmp_path / "data").metrics)
    [accuracy] = [line for line in lines if line.startswith("accuracy ")]
    assert "0.917 (" in accuracy and accuracy.endswith("n = 36")
    assert any(line.startswith("calibration error") for line in lines)


def test_a_damaged_test_image_is_named(images, tmp_path):
    damaged = tmp_path / "data/normal/normal (9).png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"normal \(9\)\.png"):
        found_for(images, tmp_path / "data")


# The stage


def test_the_stage_writes_the_same_files_every_time(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []
    for _ in range(2):
        stage_module.write(found_for(images, Path("data")))
        files = [path for folder in ("artifacts", "reports") for path in Path(folder).rglob("*") if path.is_file()]
        written.append({path.as_posix(): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert {
        "reports/metrics.json", "artifacts/evaluate/predictions.csv", "artifacts/evaluate/heat_maps.npz",
        "artifacts/evaluate/novelty.npz", "artifacts/evaluate/plots/confusion.csv",
        "artifacts/evaluate/smoke/smoke.json",
    } <= set(written[0])  # fmt: skip
    metrics = json.loads(written[0]["reports/metrics.json"])
    assert set(metrics["accuracy"]) == {"value", "low", "high", "n"}
    for row in json.loads(written[0]["artifacts/evaluate/smoke/smoke.json"]):
        assert f"artifacts/evaluate/smoke/{row['sha256']}.image" in written[0]


@pytest.mark.parametrize("path", list(stage_module.MADE_BY))
def test_a_missing_input_names_the_stage_that_makes_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for other in stage_module.MADE_BY:
        other.parent.mkdir(parents=True, exist_ok=True)
        if other != path:
            other.touch()
    with pytest.raises(StageError, match=f"{path.name}[^$]*dvc repro {stage_module.MADE_BY[path]}"):
        stage_module.require_inputs()
