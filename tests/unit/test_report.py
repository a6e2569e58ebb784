"""The report holds together on its own, and the evaluate stage writes what it promises. No TensorFlow, no MLflow."""

import contextlib
import html.parser
import json
import re
import shutil
import sys
import types
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.layout import CLASSES
from busi.metrics import evaluate
from busi.report import render
from busi.split import PARTS
from pipeline import evaluate as stage_module
from pipeline.outputs import StageError

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
    return {
        "metrics": evaluate(labels, probabilities, np.arange(33), 200, 0.95, 0),
        "intervals": INTERVALS,
        "predictions": predictions,
        "figures": {"confusion": b"1", "roc": b"2", "training": b"3"},
        "validation": VALIDATION,
        "split": SPLIT,
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
    assert len(report.addresses) == 3 and all(value.startswith("data:image/png;base64,") for value in report.addresses)
    assert not re.search(r"https?:|@import|<script|url\(", page)
    accuracy = given["metrics"]["accuracy"]
    assert f"Accuracy on 33 test images {100 * accuracy['value']:.1f} %" in report.text
    assert f"95 % interval {100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f} %" in report.text
    assert report.text.count(DISCLAIMER) == 2
    assert "Synthetic images" in report.text and "Real images" not in report.text
    assert "4 of them lacked a class" in report.text
    assert "33.5 % of its test images would have a near-duplicate" in report.text
    assert "14 images have a near-duplicate, in 6 groups; 2 images are in groups that carry two labels" in report.text
    assert "1 of 2 expectations hold" in report.text and "Modes are <L>." in report.text
    assert "All is well." not in report.text


def test_real_data_is_called_real():
    given = arguments() | {"validation": VALIDATION | {"synthetic": False, "dataset": "busi"}}
    text = Reader(render(**given)).text
    assert "evaluation on busi" in text and "Real images" in text and "Synthetic" not in text


def test_wrong_images_are_listed_surest_first_and_escaped():
    given = arguments()
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
    assert "None of the 33 test images is wrong" in text
    assert "in quarantine, neither" not in text


def test_a_class_that_was_never_predicted_has_no_precision():
    given = arguments()
    labels = np.array([CLASSES.index(label) for label in given["predictions"]["label"]])
    given["metrics"] = evaluate(labels, np.tile([0.5, 0.3, 0.2], (33, 1)), np.arange(33), 200, 0.95, 0)
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
    shutil.copy(Path(__file__).parents[2] / "params.yaml", "params.yaml")
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
    stage_module.RUN.write_text(json.dumps({"key": KEY, "image_size": 32, "temperature": 2.0}))
    stage_module.MODEL.write_bytes(b"")
    stage_module.SPLIT_REPORT.write_text(json.dumps(SPLIT))
    stage_module.VALIDATION_REPORT.write_text(json.dumps(VALIDATION))

    seen = types.SimpleNamespace(batches=[], logged=[], output_shape=(None, 3))

    def predict(model, batches):
        for batch in batches:
            assert batch.dtype == np.uint8 and batch.shape[1:] == (32, 32, 3)
            seen.batches.append(len(batch))
            scores = -np.abs(batch.mean(axis=(1, 2, 3))[:, None] - np.array([50, 130, 210])) / 20
            yield (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)

    model = types.ModuleType("busi.model")
    model.seed_everything = lambda seed: None
    model.load_model = lambda path: types.SimpleNamespace(input_shape=(None, 32, 32, 3), output_shape=seen.output_shape)
    model.predict = predict
    tracking = types.ModuleType("pipeline.tracking")
    tracking.run = lambda key: contextlib.nullcontext(
        types.SimpleNamespace(log_evaluation=lambda metrics, files: seen.logged.append((key, metrics, list(files))))
    )
    monkeypatch.setitem(sys.modules, "busi.model", model)
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
        "artifacts/evaluate/report.html",
        *(f"artifacts/evaluate/figures/{name}.png" for name in ("confusion", "roc", "training")),
        *(f"artifacts/evaluate/plots/{name}.csv" for name in ("confusion", *(f"roc_{label}" for label in CLASSES))),
    }
    predictions = pd.read_csv(stage_module.PREDICTIONS)
    assert list(predictions) == ["path", "label", "duplicate_group", "predicted", *CLASSES]
    assert len(predictions) == 36 and predictions["path"].is_monotonic_increasing
    assert set(predictions["path"]) == {f"{label}/{label} ({n}).png" for label in CLASSES for n in range(9, 21)}
    assert (predictions["predicted"] == predictions[list(CLASSES)].idxmax(axis=1)).all()
    wrong = predictions.loc[predictions["label"] != predictions["predicted"], "path"]
    assert list(wrong) == [f"{label}/{label} (20).png" for label in CLASSES]
    assert sum(project.batches) == 36 + 12 and len(project.batches) > 1

    metrics = json.loads(stage_module.METRICS.read_text())
    assert metrics["accuracy"]["value"] == pytest.approx(33 / 36, abs=1e-6)
    again = evaluate(
        predictions["label"].map(CLASSES.index).to_numpy(), predictions[list(CLASSES)].to_numpy(),
        predictions["duplicate_group"].to_numpy(), bootstrap=2000, confidence=0.95, seed=17,
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

    paths = [Path("artifacts/evaluate", name) for name in ("predictions.csv", "figures", "report.html", "smoke")]
    assert project.logged == [(KEY, metrics, paths)]
    assert "accuracy" in capsys.readouterr().out

    for content in first.values():
        assert str(Path.cwd()).encode() not in content and KEY.encode() not in content
    before = outputs()
    stage_module.main()
    assert outputs() == before


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
