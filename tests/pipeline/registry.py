"""What the stages before `register` leave, small and made here: a folder to register, promote and verify in.

The model is a real one of a few weights, so that the real smoke test by a fresh process can be run on it. It takes
seconds, so `folder` puts one that always passes in its place; `REAL_SMOKE_TEST` is the real one.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from busi.data.layout import CLASSES
from busi.evaluation import gate
from busi.evaluation.records import CheckResult
from pipeline import paths
from pipeline.params import read_params
from pipeline.paths import ROOT
from pipeline.registry import checks, moves, names
from pipeline.runtime.processes import end_tree
from pipeline.serving import ui
from pipeline.serving.ports import HOST
from pipeline.stages import register
from pipeline.tracking import connection
from tests.pipeline import tiny_model

KEY = "3f" * 32
NAME = names.SYNTHETIC_NAME
EPOCHS = 4
REAL_SMOKE_TEST = checks.smoke_test


def metric(value, n=90):
    return {"value": value, "low": round(value - 0.05, 6), "high": round(value + 0.04, 6), "n": n}


def make_metrics(accuracy=0.9, sensitivity=0.9):
    overall = ("accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro")
    each = ("sensitivity", "specificity", "precision", "f1")
    calibration = {"expected_calibration_error": metric(0.05), "brier_score": metric(0.2)}
    found = {name: metric(sensitivity, 24) for name in ("sensitivity", "specificity", "ppv", "npv")}
    chosen = {"threshold": 0.4, "target_sensitivity": 0.95, "validation_sensitivity": 0.96, "validation_images": 24}
    return {name: metric(accuracy) for name in overall} | {
        "per_class": {label: {name: metric(sensitivity) for name in each} for label in CLASSES},
        **calibration,
        "uncalibrated": calibration,
        "operating_point": chosen | found,
        "accepted_inputs": {**metric(0.95), "threshold": 500.0},
        "slices": {"label": {label: metric(accuracy, 30) for label in CLASSES}},
    }


def git(*arguments):
    """Run git in the working directory, as somebody and on branch main whatever the machine is set up for."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_evaluation(metrics, **thresholds):
    """What evaluate and report leave of an evaluation: its metrics and the gate's decision; thresholds may differ."""
    register_section = read_params().register_
    decision = gate.decide(
        metrics, {**register_section.gate.model_dump(), **thresholds}, register_section.gate_slice_images
    )
    write("reports/metrics.json", metrics)
    write("reports/gate.json", decision.as_json())


def passing(version, files):
    return CheckResult("smoke", 0.0, 0.001, True, "Taken for granted here.")


def process_pool(count, monkeypatch):
    """A pool of processes that are forked from one which has done the imports; these take seconds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))  # it starts with no other path
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.registry"])
    return context.Pool(count)


def register_another(folder, mark):
    """Register the model in `folder` with other metrics, by which it is another version; in a process of its own."""
    os.chdir(folder)
    checks.smoke_test = passing
    paths.METRICS = Path(f"metrics-{mark}.json")
    write(paths.METRICS, {**make_metrics(), "mark": mark})
    register.write_json = lambda *_: None  # the receipt is one file for all
    return int(register.ensure_registered(read_params())["version"])


def promote(number):
    moves.promote(NAME, number, read_params(), force=False, reason="", agree=lambda *_: None)


def free_port():
    """A port that the system gives: two test processes that look at the same moment get two."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def post(address, content):
    """Status and parsed answer of a request to an endpoint, whose body is bytes."""
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextlib.contextmanager
def mlflow_server(folder, backend, port=None):
    """An MLflow tracking server on this backend store, with its artifacts below `folder`; its address."""
    port = port or free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend),
        *("--artifacts-destination", str(folder / "served"), "--host", HOST, "--port", str(port), "--workers", "1"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        ui.wait_until_up(server, port, folder / "log")
        yield f"http://{HOST}:{port}"
    finally:
        end_tree(server)


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory):
    """A model, and beside it what it says of 24 images, in the files of stage `evaluate`."""
    return tiny_model.unpack(tmp_path_factory.mktemp("keras"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store with its experiment and nothing else: made once, since MLflow takes seconds for it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connection.connect()
    return folder / "mlruns"


@pytest.fixture(scope="session")
def known(keras_file):
    """Image files that the tiny model knows, with what it said of them at evaluation."""
    smoke = keras_file.with_name("smoke")
    expected = json.loads((smoke / "smoke.json").read_text())
    return [((smoke / f"{row['sha256']}.image").read_bytes(), row) for row in expected]


@pytest.fixture(scope="session")
def with_production(tmp_path_factory, keras_file, empty_store):
    """A folder whose store has the tiny model as version 1, in Production: copied by those who use it."""
    with working_in(lay_out(tmp_path_factory.mktemp("production") / "repository", keras_file)) as folder:
        shutil.copytree(empty_store, "mlruns")
        register.main()
        promote(1)
    return folder


@pytest.fixture(scope="session")
def with_two_versions(tmp_path_factory, with_production):
    """The same with a second version that passed, not promoted."""
    folder = shutil.copytree(with_production, tmp_path_factory.mktemp("two") / "repository")
    with working_in(folder):
        write_evaluation(make_metrics(accuracy=0.91))
        register.main()
    return folder


@contextlib.contextmanager
def working_in(folder):
    """Work in `folder`, on its embedded store, outside any git repository, with the smoke test of a model left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
        patch.setattr(checks, "smoke_test", passing)
        yield folder


def lay_out(folder, keras_file):
    """Write what the stages before `register` declare, without a store."""
    folder.mkdir()
    with working_in(folder):
        shutil.copy(ROOT / "params.yaml", "params.yaml")
        counts = dict(zip(CLASSES, (3, 2, 1), strict=True))
        write(
            "data/dataset.json", {"name": "phantom", "synthetic": True, "source": "s", "licence": "l", "counts": counts}
        )
        write("data.dvc", "outs:\n- md5: 0123.dir\n  path: data\n")
        write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: x}\n")
        write("artifacts/split/split.csv", "path,label,duplicate_group,part\n")
        write("artifacts/train/run.json", {"key": KEY, "image_size": 32, "temperature": 1.25})
        rows = [f"{n},{'head' if n < 2 else 'tail'},{1 / (n + 1)},0.5,{2 / (n + 1)},0.4,0.001" for n in range(EPOCHS)]
        header = "epoch,phase,loss,accuracy,val_loss,val_accuracy,learning_rate"
        write("artifacts/train/history.csv", "\n".join([header, *rows]) + "\n")
        shutil.copy(keras_file, "artifacts/train/model.keras")
        Path("artifacts/evaluate").mkdir()
        shutil.copy(keras_file.with_name("predictions.csv"), "artifacts/evaluate/predictions.csv")
        shutil.copy(keras_file.with_name("novelty.npz"), "artifacts/evaluate/novelty.npz")
        shutil.copytree(keras_file.with_name("smoke"), "artifacts/evaluate/smoke")
        write("artifacts/report/report.html", "<p>report")
        write("artifacts/report/figures/roc.png", "figure")
        write_evaluation(make_metrics())
        write("reports/validation.json", {})
        write("reports/split.json", {})
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch, keras_file):
    """A folder with what the stages before `register` declare, without a store and with the real smoke test."""
    with working_in(lay_out(tmp_path / "röpository one", keras_file)) as folder:
        monkeypatch.setattr(checks, "smoke_test", REAL_SMOKE_TEST)
        yield folder


@pytest.fixture(name="folder")
def folder_with_store(outputs, empty_store, monkeypatch):
    """The same with an empty store, and without the seconds that a real smoke test takes."""
    shutil.copytree(empty_store, "mlruns")
    monkeypatch.setattr(checks, "smoke_test", passing)
    return outputs
