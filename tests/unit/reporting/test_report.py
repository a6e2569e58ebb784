"""The report holds together on its own, and the evaluate stage writes what it promises. No TensorFlow, no MLflow."""

import contextlib
import html.parser
import json
import re
import sys
import types
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import PARTS
from busi.evaluation import gate
from busi.evaluation.metrics import evaluate
from busi.model.inference import Seen
from busi.reporting.report import LINEAGE, render
from pipeline.runtime.errors import StageError
from pipeline.stages import evaluate as stage_module

KEY = "c0ffee" * 10

VALIDATION = {
    "dataset": "phantom",
    "synthetic": True,
    "images": 40,
    "masks": 33,
    "annotated": 7,
    "counts": {"benign": 20, "malignant": 12, "normal": 8},
    "groups": {"1": 26, "2": 4, "3": 2},
    "conflicts": {"g0003": ["benign/a.png", "malignant/b.png"]},
    "expectations": [
        {"name": "a", "severity": "critical", "sentence": "All is well.", "success": True, "unexpected_count": 0},
        {"name": "b", "severity": "warning", "sentence": "Modes are <L>.", "success": False, "unexpected_count": 3},
    ],
}
SPLIT = {
    "images": {part: {"benign": 7, "malignant": 4, "normal": 3} for part in PARTS},
    "groups": {part: {"benign": 6, "malignant": 3, "normal": 2} for part in PARTS},
    "quarantined": ["benign/a.png", "malignant/b.png"],
    "random_split_leak": {"value": 0.335, "low": 0.25, "high": 0.42, "n": 14, "splits": 100},
}
INTERVALS = {"confidence": 0.95, "bootstrap": 200, "groups": 30, "without_a_class": 4}
FIGURES = ("confusion", "roc", "precision_recall", "reliability", "slices", "training")
GATE = {"accuracy": 0.85, "accuracy_lower_bound": None, "slices": None}
PARAMETERS = {"featurize": {"image_size": 128, "weights": "<none>"}, "evaluate": {"audit_random_split": False}}


def metric(value: float, n: int = 33) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


POINT = {
    "threshold": 0.312, "target_sensitivity": 0.95, "validation_sensitivity": 1.0, "validation_images": 8,
    "sensitivity": metric(0.71, 9), "specificity": metric(0.62, 24), "ppv": metric(0.53, 14), "npv": metric(0.84, 19),
}  # fmt: skip
POINTED = {
    "pointing_game": {**metric(0.41, 27), "chance": metric(0.08, 27), "centre": metric(0.66, 27)},
    "randomised_weights": {"pointing_game": metric(0.09, 27), "rank_correlation": metric(0.02, 26)},
}
AUDIT = {"accuracy": metric(0.93), "with_twin": metric(0.97, 11), "without_twin": metric(0.91, 22)}


def arguments(right: float = 0.8) -> dict:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [18, 9, 6])
    favoured = np.where(rng.random(33) < right, labels, (labels + 1) % 3)
    scores = np.exp(rng.normal(size=(33, 3)) / 9 + np.eye(3)[favoured])
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    predictions = pd.DataFrame(
        {
            "path": [f"{CLASSES[label]}/<b>{i}</b> ü.png" for i, label in enumerate(labels)],
            "label": np.take(CLASSES, labels),
            "duplicate_group": "g",
            "predicted": np.take(CLASSES, probabilities.argmax(axis=1)),
        }
    ).assign(**dict(zip(CLASSES, probabilities.T, strict=True)))
    metrics = {
        **evaluate(labels, probabilities, np.arange(33), 200, 0.95, 0),
        "operating_point": POINT,
        "accepted_inputs": {**metric(0.987, 41), "threshold": 500.0},
        "slices": {"annotation": {"annotated": metric(0.7, 12), "clean": metric(0.8, 21)}},
        "uncalibrated": {"expected_calibration_error": metric(0.21), "brier_score": metric(0.31)},
        **POINTED,
    }
    row = predictions.iloc[0].to_dict() | {"image": b"i", "overlay": b"o", "outlined": True, "empty": False}
    return {
        "metrics": metrics,
        "decision": gate.decide(metrics, GATE),
        "intervals": INTERVALS,
        "predictions": predictions,
        "figures": dict.fromkeys(FIGURES, b"1"),
        "gallery": {"right": [row], "wrong": [], "uncertain": [row | {"outlined": False, "empty": True}]},
        "slice_ranges": {},
        "validation": VALIDATION,
        "split": SPLIT,
        "parameters": PARAMETERS,
        "lineage": dict.fromkeys(LINEAGE, "a value") | {"temperature": 1.25, "data_md5": "0123.dir"},
    }


class Reader(html.parser.HTMLParser):
    """Collects text and addresses; fails on a tag that is closed out of turn."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.addresses, self.rows = [], [], [], 0
        self.feed(page)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.text))

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_the_report_is_one_file_that_says_what_it_is():
    given = arguments()
    page = render(**given)
    assert page == render(**given)
    report = Reader(page)
    pictures = [value for value in report.addresses if value.startswith("data:image/")]
    assert len(pictures) == len(FIGURES) + 4
    links = {value for value in report.addresses if value not in pictures}
    assert links and all(f'id="{value[1:]}"' in page for value in links)  # all of them lead into the page
    assert not re.search(r"https?:|@import|<script|url\(", page)
    accuracy = given["metrics"]["accuracy"]
    assert f"Accuracy on 33 test images {100 * accuracy['value']:.1f} %" in report.text
    assert f"95 % interval {100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f} %" in report.text
    assert report.text.count(DISCLAIMER) == 2
    assert "Synthetic images" in report.text and "Real images" not in report.text
    assert "4 of them lacked a class" in report.text
    assert "33.5 % of its test images would have a near-duplicate" in report.text
    assert "14 of 40 images have a near-duplicate in the data set; they form 6 groups, the largest of 3" in report.text
    assert "Near-duplicate groups with two labels: 1, of 2 images" in report.text
    assert "g0003 benign/a.png, malignant/b.png" in report.text
    assert "1 of 2 expectations hold" in report.text and "Modes are <L>." in report.text
    assert "All is well." not in report.text
    assert "Data set phantom, version 0123.dir" in report.text
    assert "<none>" in report.text and "audit_random_split false" in report.text


def test_the_gate_says_what_it_decided_rule_by_rule():
    given = arguments()
    text = Reader(render(**given)).text
    by_accuracy = given["decision"]["rules"][0]
    assert by_accuracy["passed"] is False
    assert "Gate ✗ failed by accuracy" in text and f"≥ 0.850 ✗ failed {by_accuracy['sentence']}" in text
    assert "accuracy lower bound" in text and " off " in text
    given["decision"] = gate.decide(given["metrics"], GATE | {"accuracy": 0.1})
    assert "Gate ✓ passed by every rule that is on" in Reader(render(**given)).text


def test_the_operating_point_calibration_and_slices_are_there_with_their_n():
    text = Reader(render(**arguments())).text
    assert "called malignant from a probability of 0.312" in text and "on the 8 malignant validation images" in text
    assert "71.0 % 66.0–76.0 % 9" in text and "84.0 % 79.0–89.0 % 19" in text
    assert "0.210 0.160–0.260" in text and "0.310 0.260–0.360" in text
    assert "annotated 70.0 % 65.0–75.0 % 12 too few to say" in text and "clean 80.0 % 75.0–85.0 % 21 " in text
    assert "no slice by lesion size" in text and "no slice by native size" in text
    given = arguments()
    given["metrics"]["operating_point"] = POINT | {"ppv": {"value": 0, "low": 0, "high": 0, "n": 0}}
    assert "no such image" in Reader(render(**given)).text


def test_slices_by_size_say_what_the_sizes_are():
    given = arguments()
    thirds = {"large": metric(0.9), "medium": metric(0.8), "small": metric(0.7)}
    given["metrics"]["slices"] = {"native_size": thirds, "lesion_size": thirds}
    given["slice_ranges"] = {
        "native_size": dict.fromkeys(thirds, (150_000.0, 200_000.0)),
        "lesion_size": dict.fromkeys(thirds, (0.02, 0.051)),
    }
    text = Reader(render(**given)).text
    assert "0.150 to 0.200 megapixels" in text and "2.0 to 5.1 % of the image" in text
    assert text.index("small 0.150") < text.index("medium 0.150") < text.index("large 0.150")


def test_the_pointing_game_stands_beside_chance_and_centre_or_says_that_there_are_no_masks():
    given = arguments()
    text = Reader(render(**given)).text
    assert "the share of 27 test images with a lesion mask" in text
    assert "This model 41.0 % 36.0–46.0 % 27" in text and "with random weights 9.0 % 4.0–14.0 % 27" in text
    assert "more often than chance." in text and "The centre of the image, which knows nothing, does so more" in text
    assert "rank correlation of 0.020 (95 % interval −0.030 to 0.070, n = 26" in text
    assert "16 × 16 cells" in text
    del given["metrics"]["pointing_game"]
    given["metrics"]["randomised_weights"] = {"rank_correlation": metric(0.3)}
    text = Reader(render(**given)).text
    assert "no lesion masks" in text and "This model" not in text and "rank correlation of 0.300" in text
    del given["metrics"]["randomised_weights"]
    assert "no image has two maps that vary" in Reader(render(**given)).text


def test_the_audit_is_shown_or_said_to_be_off():
    given = arguments()
    assert "evaluate.audit_random_split: true" in Reader(render(**given)).text
    given["metrics"]["random_split_audit"] = AUDIT
    text = Reader(render(**given)).text
    assert "audit_random_split: true" not in text
    assert "Claimed by the random split 93.0 % 88.0–98.0 % 33" in text
    assert "with a near-duplicate in training 97.0 %" in text and "without one 91.0 %" in text


def test_real_data_is_called_real():
    given = arguments() | {"validation": VALIDATION | {"synthetic": False, "dataset": "busi"}}
    text = Reader(render(**given)).text
    assert "evaluation on busi" in text and "Real images" in text and "Synthetic" not in text


def test_wrong_images_are_listed_surest_first_and_escaped():
    given = arguments() | {"gallery": {"right": [], "wrong": [], "uncertain": []}}
    page = render(**given)
    wrong = given["predictions"].query("label != predicted")
    assert "<b>" not in page
    text = Reader(page).text
    assert f"{len(wrong)} of 33 test images" in text
    listed = [path for path in given["predictions"]["path"] if path in text]
    assert listed == wrong["path"].tolist()
    sureness = wrong.set_index("path")[list(CLASSES)].max(axis=1)
    order = sorted(listed, key=text.index)
    assert sureness[order].is_monotonic_decreasing


def test_a_report_without_mistakes_and_without_quarantine():
    given = arguments(right=1.0) | {"split": SPLIT | {"quarantined": []}}
    text = Reader(render(**given)).text
    assert "None of the 33 test images is wrong" in text and "There is none." in text
    assert "in quarantine, neither" not in text


def test_a_class_that_was_never_predicted_has_no_precision():
    given = arguments()
    labels = np.array([CLASSES.index(label) for label in given["predictions"]["label"]])
    given["metrics"] |= evaluate(labels, np.tile([0.5, 0.3, 0.2], (33, 1)), np.arange(33), 200, 0.95, 0)
    assert Reader(render(**given)).text.count("never predicted") == 2


def test_a_missing_figure_or_count_is_an_error():
    for change in ({"figures": {"roc": b"2"}}, {"split": {}}):
        with pytest.raises((jinja2.UndefinedError, KeyError)):
            render(**(arguments() | change))


# The stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository after `train`, with a model that calls an image by its brightness, and MLflow played by a list."""
    monkeypatch.chdir(tmp_path)
    parameters = (Path(__file__).parents[3] / "params.yaml").read_text()
    Path("params.yaml").write_text(parameters.replace("bootstrap: 2000", "bootstrap: 200"))
    rows = []
    for label, shade in zip(CLASSES, (40, 120, 200), strict=True):
        Path("data", label).mkdir(parents=True)
        for number in range(1, 21):
            path = f"{label}/{label} ({number}).png"
            # the last of each class looks like the next class
            value = (shade if number < 20 else (shade + 80) % 240) + number
            Image.new("L", (50, 40), value).save(Path("data", path))
            part = "test" if number > 8 else "train" if number > 4 else "val"
            rows.append((path, label, f"{label[0]}{number // 2:03d}", part))
    table = pd.DataFrame(rows, columns=["path", "label", "duplicate_group", "part"]).sort_values("path")
    for path in (stage_module.MANIFEST, stage_module.SPLIT, stage_module.HISTORY, stage_module.SPLIT_REPORT):
        path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(stage_module.SPLIT, index=False)
    described = table[["path", "label"]].assign(width=50, height=40, lesion_fraction=np.nan, annotated=False)
    described.to_csv(stage_module.MANIFEST, index=False)
    stage_module.HISTORY.write_text(
        "epoch,phase,loss,accuracy,val_loss,val_accuracy,learning_rate\n0,head,1,0.5,1.1,0.4,0.001\n"
    )
    stage_module.RUN.write_text(json.dumps({"key": KEY, "image_size": 32, "temperature": 2.0, "best_epoch": 7}))
    stage_module.MODEL.write_bytes(b"")
    Path("data/dataset.json").write_text(json.dumps({"name": "phantom", "synthetic": True, "source": "a test"}))
    Path("data.dvc").write_text("outs: [{md5: 0123.dir, path: data}]")
    stage_module.SPLIT_REPORT.write_text(json.dumps(SPLIT))
    stage_module.VALIDATION_REPORT.write_text(json.dumps(VALIDATION))

    seen = types.SimpleNamespace(batches=[], logged=[], output_shape=(None, 3))

    def look(batch):
        assert batch.dtype == np.uint8 and batch.shape[1:] == (32, 32, 3)
        seen.batches.append(len(batch))
        scores = -np.abs(batch.mean(axis=(1, 2, 3))[:, None] - np.array([50, 130, 210])) / 20
        probabilities = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
        described = np.stack([batch.mean(axis=(1, 2, 3)), batch.std(axis=(1, 2, 3))], axis=1)
        return Seen(probabilities, described, [batch.astype(np.float32)])

    monkeypatch.setattr(stage_module, "compile_pass", lambda model: look)
    monkeypatch.setattr(stage_module, "compile_description", lambda model: lambda batch: look(batch).described)
    model = types.ModuleType("busi.model")
    model.seed_everything = lambda seed: None
    model.load_model = lambda path: types.SimpleNamespace(
        input_shape=(None, 32, 32, 3), output_shape=seen.output_shape, learned=True
    )

    def evidence(model, levels, classes):
        """The true class's map points at the upper left, other weights' at the lower right."""
        [features] = levels
        heat = np.zeros((len(features), 2, 2), np.float32)
        heat[:, *((0, 0) if model.learned else (1, 1))] = 1 + classes
        heat[:, 0, 1] = np.arange(len(features)) / len(features)
        return heat

    @contextlib.contextmanager
    def randomised(model, seed):
        model.learned = False
        yield
        model.learned = True

    explain = types.ModuleType("busi.explain")
    explain.evidence = explain.heat_map = evidence
    explain.randomised = randomised
    tracking = types.ModuleType("pipeline.tracking")
    tracking.run = lambda key: contextlib.nullcontext(
        types.SimpleNamespace(log_evaluation=lambda metrics, files: seen.logged.append((key, metrics, list(files))))
    )
    monkeypatch.setitem(sys.modules, "busi.model", model)
    monkeypatch.setitem(sys.modules, "busi.explain", explain)
    monkeypatch.setitem(sys.modules, "pipeline.tracking", tracking)
    monkeypatch.setattr("pipeline.tracking", tracking, raising=False)
    return seen


OUTPUTS = ("artifacts/evaluate", "reports/metrics.json")


def outputs() -> dict[str, bytes]:
    files = [Path(OUTPUTS[1]), *(path for path in Path(OUTPUTS[0]).rglob("*") if path.is_file())]
    return {path.as_posix(): path.read_bytes() for path in files}


def test_the_stage_writes_predictions_metrics_plots_figures_and_the_report(project, capsys):
    stage_module.main()
    first = outputs()
    aside = json.loads(first.pop("artifacts/evaluate/smoke/smoke.json"))
    images = {f"artifacts/evaluate/smoke/{row['sha256']}.image": Path("data", row["path"]) for row in aside}
    assert len(images) == 8
    assert {first.pop(name) for name in images} == {path.read_bytes() for path in images.values()}
    assert {row["path"].split("/")[0] for row in aside} == set(CLASSES)
    assert set(first) == {
        "reports/metrics.json",
        "artifacts/evaluate/predictions.csv",
        "artifacts/evaluate/novelty.npz",
        "artifacts/evaluate/report.html",
        *(f"artifacts/evaluate/figures/{name}.png" for name in FIGURES),
        *(f"artifacts/evaluate/plots/{name}.csv" for name in ("confusion", "reliability_before", "reliability_after")),
        *(f"artifacts/evaluate/plots/{curve}_{label}.csv" for curve in ("roc", "pr") for label in CLASSES),
    }
    predictions = pd.read_csv(stage_module.PREDICTIONS)
    assert list(predictions) == ["path", "label", "duplicate_group", "predicted", *CLASSES]
    assert len(predictions) == 36 and predictions["path"].is_monotonic_increasing
    assert set(predictions["path"]) == {f"{label}/{label} ({n}).png" for label in CLASSES for n in range(9, 21)}
    assert (predictions["predicted"] == predictions[list(CLASSES)].idxmax(axis=1)).all()
    wrong = predictions.loc[predictions["label"] != predictions["predicted"], "path"]
    assert list(wrong) == [f"{label}/{label} (20).png" for label in CLASSES]
    # Test, validation and training images; HiResCAM with learned and other weights; three pictures of each class
    assert sum(project.batches) == 36 + 12 + 12 + 2 * 36 + 9 and max(project.batches) == 32

    metrics = json.loads(stage_module.METRICS.read_text())
    assert metrics["accuracy"]["value"] == pytest.approx(33 / 36, abs=1e-6)
    again = evaluate(
        predictions["label"].map(CLASSES.index).to_numpy(), predictions[list(CLASSES)].to_numpy(),
        predictions["duplicate_group"].to_numpy(), bootstrap=200, confidence=0.95, seed=17,
    )  # fmt: skip
    assert {name: metrics[name] for name in again} == again
    point = metrics["operating_point"]
    on_test = predictions["malignant"] >= point["threshold"]
    malignant = predictions["label"] == "malignant"
    assert point["sensitivity"]["value"] == pytest.approx((on_test & malignant).sum() / 12, abs=1e-6)
    assert point["specificity"]["value"] == pytest.approx((~on_test & ~malignant).sum() / 24, abs=1e-6)
    assert (point["validation_images"], point["validation_sensitivity"]) == (4, 1.0)
    by_label = {label: metric["value"] for label, metric in metrics["slices"]["label"].items()}
    assert by_label == {label: metrics["per_class"][label]["sensitivity"]["value"] for label in CLASSES}
    assert list(metrics["slices"]) == ["label"]  # one size, no masks, none annotated
    assert metrics["uncalibrated"]["brier_score"] != metrics["brier_score"]
    for row in aside:
        [said] = predictions.loc[predictions["path"] == row["path"], list(CLASSES)].to_numpy()
        assert [row[label] for label in CLASSES] == pytest.approx(said, abs=1e-6)
    confusion = pd.read_csv("artifacts/evaluate/plots/confusion.csv")
    assert list(confusion) == ["actual", "predicted"] and len(confusion) == 36
    assert (confusion["actual"] == predictions["label"]).all()
    for label in CLASSES:
        roc = pd.read_csv(f"artifacts/evaluate/plots/roc_{label}.csv")
        assert list(roc) == ["fpr", "tpr"]
        assert roc.iloc[0].tolist() == [0, 0] and roc.iloc[-1].tolist() == [1, 1]
        recall = pd.read_csv(f"artifacts/evaluate/plots/pr_{label}.csv")
        assert list(recall) == ["recall", "precision"] and recall.iloc[-1].tolist() == [0, 1]
    bins = pd.read_csv("artifacts/evaluate/plots/reliability_after.csv")
    assert bins["n"].sum() == 36
    error = (bins["n"] * (bins["right"] - bins["sure"]).abs()).sum() / 36
    assert error == pytest.approx(metrics["expected_calibration_error"]["value"], abs=1e-5)
    # No masks, so nothing to point at; the audit is off
    assert set(metrics["randomised_weights"]) == {"rank_correlation"}
    assert not {"pointing_game", "random_split_audit"} & set(metrics)

    paths = [Path("artifacts/evaluate", name) for name in ("predictions.csv", "figures", "report.html", "smoke")]
    assert project.logged == [(KEY, metrics, paths)]
    assert "accuracy" in capsys.readouterr().out

    for content in first.values():
        assert str(Path.cwd()).encode() not in content
    report = Reader(stage_module.REPORT.read_text())
    assert "0123.dir" in report.text and KEY in report.text
    assert stage_module.REPORT.stat().st_size < 3e6
    before = outputs()
    stage_module.main()
    assert outputs() == before


def test_with_masks_the_stage_plays_the_pointing_game(project):
    """Every second lesion fills the upper left, where the map points, the others the lower right."""
    manifest = pd.read_csv(stage_module.MANIFEST)
    lesions = manifest["label"] != "normal"
    manifest.loc[lesions, "lesion_fraction"] = 0.25
    manifest.to_csv(stage_module.MANIFEST, index=False)
    for path in manifest.loc[lesions, "path"]:
        number = int(path.split("(")[1].split(")")[0])
        mask = np.zeros((40, 50), np.uint8)
        mask[(slice(0, 20), slice(0, 25)) if number % 2 else (slice(20, 40), slice(25, 50))] = 255
        Image.fromarray(mask).save(Path("data", path.replace(".png", "_mask.png")))
    stage_module.main()
    metrics = json.loads(stage_module.METRICS.read_text())
    game, random = metrics["pointing_game"], metrics["randomised_weights"]["pointing_game"]
    assert game["n"] == random["n"] == 24
    assert game["value"] == random["value"] == 0.5 and game["low"] < 0.5 < game["high"]
    assert game["chance"]["value"] == 0.25
    assert game["centre"]["value"] == 0.5  # the pixel right of and below the middle
    assert "lesion_size" not in metrics["slices"]  # all of one size
    assert "24 test images with a lesion mask" in Reader(stage_module.REPORT.read_text()).text


def test_the_audit_deals_the_same_images_at_random_and_says_what_came_of_it(project, monkeypatch):
    dealt = []

    def train_on(split, folder, params):
        dealt.append(split)
        return types.SimpleNamespace(input_shape=(None, 32, 32, 3))

    monkeypatch.setattr(stage_module.audit, "train_on", train_on)
    parameters = Path("params.yaml")
    parameters.write_text(parameters.read_text().replace("audit_random_split: false", "audit_random_split: true"))
    stage_module.main()
    [split] = dealt
    honest = pd.read_csv(stage_module.SPLIT)
    assert split["part"].value_counts().to_dict() == honest["part"].value_counts().to_dict()
    found = json.loads(stage_module.METRICS.read_text())["random_split_audit"]
    assert found["accuracy"]["n"] == 36 == found["with_twin"]["n"] + found["without_twin"]["n"]
    trained = set(split.loc[split["part"] == "train", "duplicate_group"])
    test = split[split["part"] == "test"]
    assert found["with_twin"]["n"] == test["duplicate_group"].isin(trained).sum() > 0
    wrong = test["path"].str.contains(r"\(20\)").sum()
    assert found["accuracy"]["value"] == pytest.approx(1 - wrong / 36, abs=1e-6)
    assert "Claimed by the random split" in Reader(stage_module.REPORT.read_text()).text


@pytest.mark.parametrize(
    ("path", "stage"),
    [(stage_module.MODEL, "train"), (stage_module.SPLIT, "split"), (stage_module.VALIDATION_REPORT, "validate")],
)
def test_a_missing_input_names_the_stage_that_makes_it(project, path, stage):
    path.unlink()
    with pytest.raises(StageError, match=f"{path.name} not found\n.*dvc repro {stage}"):
        stage_module.main()


def test_a_missing_or_damaged_test_image_is_named_and_nothing_is_written(project):
    image = Path("data/normal/normal (9).png")
    content = image.read_bytes()
    for damage in (lambda: image.write_bytes(content[:40]), image.unlink):
        damage()
        with pytest.raises(ValueError, match=r"normal \(9\)\.png"):
            stage_module.main()
        assert not Path(OUTPUTS[0]).exists() and not Path(OUTPUTS[1]).exists()


def test_a_model_of_another_shape_is_refused(project):
    project.output_shape = (None, 2)
    with pytest.raises(StageError, match="not of one training"):
        stage_module.main()
