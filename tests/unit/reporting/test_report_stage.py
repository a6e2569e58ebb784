"""Stage `report` decides and draws from files alone: no network, no TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from busi.data.layout import CLASSES
from busi.data.split import PARTS
from busi.evaluation import heat_maps, shown_images
from busi.evaluation.metrics import accuracy_by_slice, calibration_errors, detection, evaluate, reliability
from busi.evaluation.records import Resampling, as_json
from pipeline import paths
from pipeline.runtime.atomic_io import write_csv, write_json
from pipeline.stages import report

ROOT = Path(__file__).parents[3]
RESAMPLING = Resampling(200, 0.95, 17)
KEY = "c0ffee" * 10


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A workspace after `evaluate`: 33 of 36 test images are right. The model file is no model."""
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"]["bootstrap"] = RESAMPLING.bootstrap
    Path("params.yaml").write_text(yaml.safe_dump(params))
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], 12)
    favoured = np.where(np.arange(36) % 12 == 0, (labels + 1) % 3, labels)
    scores = np.exp(2 * np.eye(3)[favoured] + rng.random((36, 3)) / 2)
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    table = pd.DataFrame({"path": [f"{CLASSES[label]}/{i:02d}.png" for i, label in enumerate(labels)]})
    table = table.assign(label=np.take(CLASSES, labels), duplicate_group=[f"g{i // 2:04d}" for i in range(36)])
    table["predicted"] = np.take(CLASSES, probabilities.argmax(axis=1))
    table[list(CLASSES)] = probabilities
    groups = table["duplicate_group"].to_numpy()
    right = (table["predicted"] == table["label"]).to_numpy()
    metrics = {
        **evaluate(labels, probabilities, groups, RESAMPLING),
        "operating_point": {
            "threshold": 0.4, "target_sensitivity": 0.95, "validation_sensitivity": 1.0, "validation_images": 4,
            **detection(labels == 1, probabilities[:, 1] >= 0.4, groups, RESAMPLING),
        },
        "slices": accuracy_by_slice(right, {"label": table["label"].to_numpy()}, groups, RESAMPLING),
        "accepted_inputs": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 36, "threshold": 9.0},
        "uncalibrated": calibration_errors(labels, probabilities, groups, RESAMPLING),
    }  # fmt: skip
    write_json(paths.METRICS, as_json(metrics))
    write_csv(paths.PREDICTIONS, table)
    for name in ("before", "after"):
        write_csv(paths.PLOTS / f"reliability_{name}.csv", reliability(labels, probabilities))
    places = [place for kind in shown_images.choose(table).values() for place in kind]
    heat_maps.save({path: np.eye(4) for path in table["path"].iloc[places]}, paths.HEAT_MAPS)
    described = {"width": 50, "height": 40, "mask_count": 1, "lesion_fraction": 0.1, "annotated": False}
    write_csv(paths.MANIFEST, table[["path", "label"]].assign(**described))
    for path in table["path"]:
        (paths.DATA / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (50, 40), 90).save(paths.DATA / path)
        mask = np.zeros((40, 50), np.uint8)
        mask[10:20, 10:30] = 255
        Image.fromarray(mask).save(paths.DATA / path.replace(".png", "_mask.png"))
    write_json(paths.DATASET, {"name": "phantom", "synthetic": True, "source": "a test"})
    Path("data.dvc").write_text("outs: [{md5: 0123.dir, path: data}]")
    counts = {part: dict.fromkeys(CLASSES, 12) for part in PARTS}
    leak = {"value": 0.335, "low": 0.25, "high": 0.42, "n": 14, "splits": 100}
    write_json(paths.SPLIT_REPORT, {"images": counts, "groups": counts, "quarantined": [], "random_split_leak": leak})
    validation = {
        "dataset": "phantom",
        "synthetic": True,
        "images": 36,
        "masks": 36,
        "annotated": 0,
        "groups": {"2": 18},
    }
    validation |= {"counts": dict.fromkeys(CLASSES, 12), "conflicts": {}, "expectations": []}
    write_json(paths.VALIDATION_REPORT, validation)
    columns = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    write_csv(paths.HISTORY, pd.DataFrame({name: [1.0] for name in columns}).assign(phase="head"))
    write_json(paths.RUN, {"key": KEY, "image_size": 32, "temperature": 2.0, "best_epoch": 7})
    paths.MODEL.write_bytes(b"no model")
    return params


def outputs() -> dict[str, bytes]:
    files = [paths.GATE, paths.REPORT, *sorted(paths.FIGURES.iterdir())]
    return {path.as_posix(): path.read_bytes() for path in files}


def test_figures_page_and_verdict_are_the_same_every_time(project):
    report.main()
    first = outputs()
    names = ("confusion", "roc", "precision_recall", "reliability", "slices", "training")
    assert set(first) == {
        "reports/gate.json", "artifacts/report/report.html",
        *(f"artifacts/report/figures/{name}.png" for name in names),
    }  # fmt: skip
    page = first["artifacts/report/report.html"].decode()
    assert KEY in page and "0123.dir" in page and str(Path.cwd()) not in page
    assert "gate_slice_images" in page and "max_rotation" in page  # every parameter that decided is shown
    report.main()
    assert outputs() == first


def test_another_threshold_changes_the_verdict_and_needs_no_network(project):
    """Only the threshold differs; what the network made is as it was, and the model file holds no model."""
    verdicts, kept = [], []
    for threshold in (0.85, 0.95):
        project["register"]["gate"]["accuracy"] = threshold
        Path("params.yaml").write_text(yaml.safe_dump(project))
        report.main()
        decided = json.loads(paths.GATE.read_text())
        verdicts.append((decided["verdict"], decided["rules"][0]["threshold"]))
        kept.append([path.read_bytes() for path in (paths.METRICS, paths.HEAT_MAPS, paths.PREDICTIONS)])
    assert verdicts == [("passed", 0.85), ("failed", 0.95)]
    assert kept[0] == kept[1]
    assert "failed" in paths.REPORT.read_text()


def test_the_threshold_is_a_parameter_of_report_and_not_of_evaluate():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "register" in stages["report"]["params"] and "register" not in stages["evaluate"]["params"]


def test_importing_and_running_it_never_imports_tensorflow_or_mlflow(project):
    code = (
        "import sys; from pipeline.stages import report; report.main();"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'mlflow', 'prefect'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_maps_of_another_evaluation_are_refused(project):
    heat_maps.save({"benign/other.png": np.eye(4)}, paths.HEAT_MAPS)
    with pytest.raises(ValueError, match=r"no heat map of \w+/\d\d\.png"):
        report.main()
    assert not paths.GATE.exists()
