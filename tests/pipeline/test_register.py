"""The MLflow side on real stores in `tmp_path`: one run and one version, whatever is killed, deleted or moved."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.layout import CLASSES
from pipeline import ROOT, lineage, register, tracking, ui
from pipeline.outputs import StageError
from pipeline.params import read_params

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own

KEY = "3f" * 32
NAME = register.SYNTHETIC_NAME
EPOCHS = 4


def metric(value):
    return {"value": value, "low": round(value - 0.05, 6), "high": round(value + 0.04, 6), "n": 90}


def make_metrics(accuracy=0.9, sensitivity=0.9):
    overall = ("accuracy", "accuracy_wilson", "balanced_accuracy", "macro_f1", "auroc_macro")
    each = ("sensitivity", "specificity", "precision", "f1")
    return {name: metric(accuracy) for name in overall} | {
        "per_class": {label: {name: metric(sensitivity) for name in each} for label in CLASSES}
    }


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    import keras

    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(pooled)).save(path)
    return path


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store with its experiment and nothing else: made once, since MLflow takes seconds for it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.connect()
    return folder / "mlruns"


@pytest.fixture
def outputs(tmp_path, monkeypatch, keras_file):
    """A folder with what the stages before `register` declare, without a store."""
    folder = tmp_path / "röpository one"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    counts = dict(zip(CLASSES, (3, 2, 1), strict=True))
    write("data/dataset.json", {"name": "phantom", "synthetic": True, "source": "s", "licence": "l", "counts": counts})
    write("data.dvc", "outs:\n- md5: 0123.dir\n  path: data\n")
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: x}\n")
    write("artifacts/split/split.csv", "path,label,duplicate_group,part\n")
    write("artifacts/train/run.json", {"key": KEY, "image_size": 32})
    rows = [f"{n},{'head' if n < 2 else 'tail'},{1 / (n + 1)},0.5,{2 / (n + 1)},0.4,0.001" for n in range(EPOCHS)]
    header = "epoch,phase,loss,accuracy,val_loss,val_accuracy,learning_rate"
    write("artifacts/train/history.csv", "\n".join([header, *rows]) + "\n")
    shutil.copy(keras_file, "artifacts/train/model.keras")
    write("artifacts/evaluate/predictions.csv", "path,label\n")
    write("artifacts/evaluate/report.html", "<p>report")
    write("artifacts/evaluate/figures/roc.png", "figure")
    write("reports/metrics.json", make_metrics())
    write("reports/validation.json", {})
    write("reports/split.json", {})
    return folder


@pytest.fixture
def folder(outputs, empty_store):
    shutil.copytree(empty_store, "mlruns")
    return outputs


def registered():
    """What a store holds: runs, logged models and versions of both names."""
    client = tracking.connect()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    models = client.search_logged_models([experiment])
    return client, runs, models, client.search_model_versions("")


def assert_one_of_each():
    client, runs, models, versions = registered()
    assert (len(runs), len(models), len(versions)) == (1, 1, 1)
    [run], [model], [version] = runs, models, versions
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")] == list(range(EPOCHS))
    assert run.data.metrics["test/accuracy"] == 0.9
    assert run.data.tags["verdict"] == "passed"
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.status == "READY"
    files = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "model_card.md", "gate.json", "metrics.json", "lineage.json", "data", "code"} <= files
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": version.version}]
    assert version.source == f"models:/{model.model_id}"
    assert version.run_id == version.tags["run_id"] == run.info.run_id
    assert set(lineage.FIELDS) < set(version.tags)
    assert version.description.startswith(f"# {NAME}: passed the gate")
    return run, version


def test_a_model_is_registered_with_verdict_lineage_and_card(folder):
    register.main()
    run, version = assert_one_of_each()
    assert json.loads(Path("reports/gate.json").read_text())["verdict"] == "passed"
    assert json.loads(Path("mlruns/registration.json").read_text()) == {
        "name": NAME,
        "version": "1",
        "run_id": run.info.run_id,
        "verdict": "passed",
        "lineage": {field: version.tags[field] for field in lineage.FIELDS},
    }
    assert version.tags["accuracy"] == "0.9000 (0.8500 to 0.9400, n = 90)"
    assert version.tags["failed_rules"] == "none"
    assert version.tags["data_md5"] == "0123.dir"
    assert version.tags["commit"] == lineage.NO_REPOSITORY
    assert version.aliases == []
    assert run.data.params["train.batch_size"] == str(read_params().train.batch_size)
    assert run.data.metrics["test/malignant/sensitivity_low"] == 0.85
    assert run.info.artifact_uri.startswith("mlruns/artifacts/")
    report = Path(run.info.artifact_uri, "evaluate")
    assert {path.name for path in report.rglob("*.*")} == {"predictions.csv", "report.html", "roc.png"}


def test_registering_again_changes_nothing(folder):
    register.main()
    receipt = Path("mlruns/registration.json").read_bytes()
    Path("mlruns/registration.json").unlink()
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# later\n")  # today's lineage is another one
    register.main()
    assert_one_of_each()
    assert Path("mlruns/registration.json").read_bytes() == receipt


def test_a_deleted_store_gets_run_and_version_back(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    register.main()
    before = json.loads(Path("mlruns/registration.json").read_text())
    shutil.rmtree("mlruns")
    # A process of its own, as in life: MLflow keeps a connection to the database that it has opened once
    restore = "from pipeline import params, register; register.ensure_registered(params.read_params())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", restore], env=environment, check=True)
    after = json.loads(Path("mlruns/registration.json").read_text())
    assert after["run_id"] != before["run_id"]
    assert {**after, "run_id": None} == {**before, "run_id": None}
    monkeypatch.chdir(elsewhere)
    shutil.copytree(folder / "mlruns", "mlruns")  # by another address, for the same reason
    assert_one_of_each()


def test_deleted_model_files_come_back(folder):
    register.main()
    shutil.rmtree("mlruns/artifacts/1/models")
    register.main()
    assert_one_of_each()


@pytest.mark.parametrize(
    "step",
    [
        "create_run", "log_batch", "log_artifacts", "create_logged_model", "log_model_artifacts", "log_outputs",
        "finalize_logged_model", "create_registered_model", "create_model_version", "set_logged_model_tags",
    ],
)  # fmt: skip
def test_a_kill_after_any_step_leaves_no_second_version(folder, monkeypatch, step):
    real = getattr(mlflow.MlflowClient, step)

    def last_call(*arguments, **named):
        real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, step, last_call)
        with pytest.raises(KeyboardInterrupt):
            register.main()
    register.main()
    assert_one_of_each()
    assert not tracking.WORKPLACE.exists()


def test_a_rejected_model_is_registered_as_rejected(folder):
    write("reports/metrics.json", make_metrics(accuracy=0.8, sensitivity=0.7))
    register.main()
    *_, [version] = registered()
    assert version.tags["verdict"] == "failed"
    assert version.tags["failed_rules"] == "accuracy, malignant_sensitivity"
    assert version.description.startswith(f"# {NAME}: failed the gate")


def test_another_threshold_is_another_version_of_the_same_run(folder):
    register.main()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("accuracy: 0.85", "accuracy: 0.95"))
    register.main()
    _, runs, models, versions = registered()
    assert (len(runs), len(models)) == (1, 2)
    assert {version.version: version.tags["verdict"] for version in versions} == {1: "passed", 2: "failed"}
    assert {version.run_id for version in versions} == {runs[0].info.run_id}


def test_real_images_have_another_name(folder):
    found = json.loads(Path("data/dataset.json").read_text())
    write("data/dataset.json", {**found, "name": "busi", "synthetic": False})
    assert register.NAME != register.SYNTHETIC_NAME
    register.main()
    *_, [version] = registered()
    assert version.name == "busi-densenet121"


@pytest.mark.parametrize("path", ["reports/metrics.json", "artifacts/train/model.keras", "data/dataset.json"])
def test_a_missing_input_is_named(folder, path):
    Path(path).unlink()
    with pytest.raises(StageError, match=path):
        register.main()
    assert registered()[3] == []


def test_one_run_from_a_failed_training_to_a_finished_one(folder):
    with pytest.raises(ZeroDivisionError), tracking.run(KEY) as run:
        run.log_epoch(0, {"loss": 1.0, "val_loss": 2.0})
        1 / 0  # noqa: B018
    assert registered()[1][0].info.status == "FAILED"
    with tracking.run(KEY) as run:
        assert registered()[1][0].info.status == "RUNNING"
        for epoch in range(EPOCHS):
            run.log_epoch(epoch, {"epoch": epoch, "phase": "head", "loss": np.float32(1), "val_loss": 2.0})
    with tracking.run(KEY) as run:
        run.log_training({"train": {"seed": 1}}, pd.read_csv("artifacts/train/history.csv"))
        run.log_params({"train": {"seed": 2}})
    client, [run], *_ = registered()
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.seed": "1"}
    assert json.loads(run.data.tags["busi.params_since"]) == {"train.seed": "2"}
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(epoch, 1.0) for epoch in range(EPOCHS)]


LOAD = """
import io, json, sys
import mlflow, pandas
name = "busi-densenet121-phantom"
model = mlflow.pyfunc.load_model(f"models:/{name}/1")
files = json.load(open(sys.argv[1]))
table = model.predict(pandas.DataFrame({"image": [bytes.fromhex(file) for file in files]}, index=[7, 9]))
try:
    model.predict(pandas.DataFrame({"image": [b"not an image"]}))
    error = None
except ValueError as caught:
    error = str(caught)
import busi
keras_model = mlflow.keras.load_model(f"models:/{name}/1")
print(json.dumps({
    "table": table.to_dict(orient="list"), "index": list(table.index), "error": error, "code": busi.__file__,
    "shape": keras_model.input_shape, "example": len(model.input_example),
    "signature": model.metadata.signature.to_dict(),
}))
"""


def test_a_moved_store_loads_in_a_fresh_process_without_the_repository(folder, keras_file, tmp_path, monkeypatch):
    register.main()
    moved = tmp_path / "moved away"
    monkeypatch.chdir(tmp_path)
    folder.rename(moved)
    shutil.rmtree(moved / "artifacts")

    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (2, 32, 32), dtype=np.uint8)
    files = [io.BytesIO(), io.BytesIO()]
    for image, file in zip(pixels, files, strict=True):
        Image.fromarray(image).save(file, "PNG")
    write(tmp_path / "files.json", [file.getvalue().hex() for file in files])

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlruns/mlflow.db"
    command = [sys.executable, "-c", LOAD, str(tmp_path / "files.json")]
    done = subprocess.run(command, cwd=moved, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    import keras

    gray = np.repeat(pixels[..., np.newaxis], 3, axis=-1).astype(np.float32)
    expected = keras.saving.load_model(keras_file).predict(gray, verbose=0)
    table = found["table"]
    assert list(table) == [*CLASSES, "predicted", "model_version", "disclaimer"]
    np.testing.assert_allclose(np.array([table[label] for label in CLASSES]).T, expected, atol=1e-6)
    assert table["predicted"] == [CLASSES[row.argmax()] for row in expected]
    assert table["model_version"] == ["busi-densenet121-phantom/1"] * 2
    assert table["disclaimer"] == [DISCLAIMER] * 2
    assert found["index"] == [7, 9]
    assert found["code"].startswith(str(moved / "mlruns"))
    assert found["shape"] == [None, 32, 32, 3]
    assert found["example"] == 1
    assert json.loads(found["signature"]["inputs"]) == [{"type": "binary", "name": "image", "required": True}]
    assert "image 0" in found["error"]


def test_two_processes_on_a_store_that_is_not_there_yet_make_one_version(outputs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.register"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    line = f"{NAME} version 1: passed the gate\n".encode()
    assert said == [(line, b"")] * 2
    assert_one_of_each()


def test_a_tracking_server_serves_as_well(outputs, tmp_path, monkeypatch):
    port = ui.choose_port(None)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"),
        *(
            "--artifacts-destination",
            str(tmp_path / "served"),
            "--host",
            ui.HOST,
            "--port",
            str(port),
            "--workers",
            "1",
        ),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://{ui.HOST}:{port}/health", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{ui.HOST}:{port}")
        register.main()
        register.main()
        client, [run], [model], [version] = registered()
        assert version.tags["verdict"] == "passed"
        assert version.run_id == run.info.run_id
        assert model.artifact_location.startswith("mlflow-artifacts:")
        served = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
        assert "MLmodel" in served
        assert not tracking.DATABASE.exists()
    finally:
        ui._end(server)


def test_a_store_that_is_not_there_is_an_error_that_says_so(outputs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match=r"http://127.0.0.1:9 refused.*\n.*unset MLFLOW_TRACKING_URI"):
        register.main()


def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_lineage_says_what_the_code_was(outputs):
    def code():
        found = lineage.collect("none")
        return found["commit"], found["tree"], found["remote"]

    assert code() == (lineage.NO_REPOSITORY,) * 3
    git("init")
    write(".gitignore", "/data/\n/artifacts/\n/mlruns/\n")
    commit, tree, remote = code()
    assert (commit, remote) == (lineage.NO_COMMIT, "none")
    assert tree.startswith("uncommitted changes")
    git("add", ".")
    git("commit", "-m", "all")
    commit, tree, _ = code()
    assert len(commit) == 40
    assert tree == "clean"
    write("dvc.lock", "schema: '2.0'\n")  # what the run itself writes
    write("reports/gate.json", {})
    assert code()[1] == "clean"
    write("params.yaml", Path("params.yaml").read_text() + "#\n")
    git("remote", "add", "origin", "https://me:secret@host/team/busi.git")
    assert code() == (commit, "uncommitted changes: params.yaml", "https://host/team/busi.git")


def test_lineage_of_the_lock_file_leaves_its_own_stage_out(outputs):
    before = lineage.lock_md5(lineage.LOCK_FILE)
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: x}\n  register: {cmd: y}\n")
    assert lineage.lock_md5(lineage.LOCK_FILE) == before
    write("dvc.lock", "schema: '2.0'\nstages:\n  train: {cmd: z}\n")
    assert lineage.lock_md5(lineage.LOCK_FILE) != before


def test_lineage_names_what_is_not_there(outputs):
    for path in ("data.dvc", "dvc.lock", "artifacts/split/split.csv"):
        Path(path).unlink()
    found = lineage.collect("imagenet.h5")
    missing = {name for name, value in found.items() if value == lineage.NOT_RECORDED}
    assert missing == {"data_md5", "dvc_lock_md5", "split_md5", "weights_md5"}
    write("weights/imagenet.h5", "abc")
    assert lineage.collect("imagenet.h5")["weights_md5"] == "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://me:secret@host:80/a/b.git?token=1", "https://host:80/a/b.git"),
        ("https://token@host/a", "https://host/a"),
        ("ssh://git:secret@host/a", "ssh://git@host/a"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("../elsewhere", "../elsewhere"),
    ],
)
def test_credentials_are_left_out_of_a_remote(url, kept):
    assert lineage.without_credentials(url) == kept


def test_the_ui_takes_a_free_port_or_says_that_the_wanted_one_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ui, "FIRST_PORT", port)
        monkeypatch.setattr(ui, "LAST_PORT", port + 20)
        assert port < ui.choose_port(None) <= port + 20
        with pytest.raises(StageError, match=f"port {port} is taken"):
            ui.choose_port(str(port))
    assert ui.choose_port(str(port)) == port
    with pytest.raises(StageError, match="expected a number"):
        ui.choose_port("http")
