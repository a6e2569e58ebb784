"""The MLflow side on real stores in `tmp_path`: one run and one version, whatever is killed, deleted or moved."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from pipeline.params import read_params
from pipeline.paths import ROOT
from pipeline.registry import checks, lineage, names
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import connection, logged_model, runs
from tests.pipeline.registry import (
    EPOCHS,
    KEY,
    NAME,
    git,
    make_metrics,
    mlflow_server,
    passing,
    process_pool,
    register_another,
    write,
    write_evaluation,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own


def registered():
    """What a store holds: runs, logged models and versions of both names."""
    client = connection.connect()
    experiment = client.get_experiment_by_name(connection.EXPERIMENT).experiment_id
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
    evidence = {"model_card.md", "gate.json", "metrics.json", "lineage.json", "predictions.csv", "smoke.json"}
    assert {"MLmodel", "data", "code", "checksums.json"} | evidence <= files
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": version.version}]
    assert version.source == f"models:/{model.model_id}"
    assert version.run_id == version.tags["run_id"] == run.info.run_id
    assert set(lineage.FIELDS) < set(version.tags)
    assert version.description.startswith(f"# {NAME}: passed the gate")
    return run, version


def test_a_model_is_registered_with_verdict_lineage_and_card(folder):
    register.main()
    run, version = assert_one_of_each()
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
    assert version.tags["commit"].startswith("not recorded")
    assert version.aliases == []
    assert run.data.params["train.batch_size"] == str(read_params().train.batch_size)
    assert run.data.metrics["test/malignant/sensitivity_low"] == 0.85
    assert run.info.artifact_uri.startswith("mlruns/artifacts/")
    logged = {path.name for path in Path(run.info.artifact_uri, "evaluate").rglob("*.*") if path.suffix != ".image"}
    assert logged == {"predictions.csv", "report.html", "roc.png", "smoke.json"}
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("phantom", "0123.dir")
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training"}
    assert (version.tags["smoke"], version.tags["temperature"], version.tags["synthetic"]) == ("passed", "1.25", "true")


def test_how_long_the_stages_took_is_on_the_run_once(folder):
    write(".cache/timings/train.json", {"seconds": 12.5})
    write(".cache/timings/register.json", {"seconds": 99})  # of an earlier run: this one has not ended
    register.main()
    write(".cache/timings/train.json", {"seconds": 80})  # by now of another training, maybe
    register.main()
    run, _ = assert_one_of_each()
    assert {name: value for name, value in run.data.metrics.items() if name.startswith("seconds/")} == {
        "seconds/train": 12.5
    }
    assert len(connection.connect().get_metric_history(run.info.run_id, "seconds/train")) == 1


def test_registering_again_changes_nothing(folder):
    register.main()
    receipt = Path("mlruns/registration.json").read_bytes()
    Path("mlruns/registration.json").unlink()
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# later\n")  # today's lineage is another one
    register.main()
    assert_one_of_each()
    assert Path("mlruns/registration.json").read_bytes() == receipt


def restore(folder):
    os.chdir(folder)
    checks.smoke_test = passing
    register.ensure_registered(read_params())


def test_a_deleted_store_gets_run_and_version_back(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    register.main()
    before = json.loads(Path("mlruns/registration.json").read_text())
    shutil.rmtree("mlruns")
    # A process of its own, as in life: MLflow keeps a connection to the database that it has opened once
    with process_pool(1, monkeypatch) as pool:
        pool.apply(restore, (str(folder),))
    after = json.loads(Path("mlruns/registration.json").read_text())
    assert after["run_id"] != before["run_id"]
    assert {**after, "run_id": None} == {**before, "run_id": None}
    monkeypatch.chdir(elsewhere)
    shutil.copytree(folder / "mlruns", "mlruns")  # by another address, for the same reason
    assert_one_of_each()


def test_a_version_whose_files_were_deleted_is_registered_anew(folder):
    """Files written again would not be those of the version's checksums."""
    register.main()
    shutil.rmtree("mlruns/artifacts/1/models")
    register.main()
    register.main()
    _, [_], models, found = registered()
    assert len(models) == 2
    assert sorted(int(version.version) for version in found) == [1, 2]
    assert json.loads(Path("mlruns/registration.json").read_text())["version"] == "2"


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
    assert not logged_model.WORKPLACE.exists()


def test_a_rejected_model_is_registered_as_rejected(folder):
    write_evaluation(make_metrics(accuracy=0.8, sensitivity=0.7))
    register.main()
    *_, [version] = registered()
    assert version.tags["verdict"] == "failed"
    assert version.tags["failed_rules"] == "accuracy, malignant_sensitivity"
    assert version.description.startswith(f"# {NAME}: failed the gate")


def test_another_threshold_is_another_version_of_the_same_run(folder):
    register.main()
    write_evaluation(make_metrics(), accuracy=0.95)
    register.main()
    _, runs, models, versions = registered()
    assert (len(runs), len(models)) == (1, 2)
    assert {version.version: version.tags["verdict"] for version in versions} == {1: "passed", 2: "failed"}
    assert {version.run_id for version in versions} == {runs[0].info.run_id}


def test_real_images_have_another_name(folder):
    found = json.loads(Path("data/dataset.json").read_text())
    write("data/dataset.json", {**found, "name": "busi", "synthetic": False})
    assert names.NAME != names.SYNTHETIC_NAME
    register.main()
    *_, [version] = registered()
    assert version.name == "busi-densenet121"


@pytest.mark.parametrize(
    "path", ["reports/metrics.json", "reports/gate.json", "artifacts/train/model.keras", "data/dataset.json"]
)
def test_a_missing_input_is_named(folder, path):
    Path(path).unlink()
    with pytest.raises(StageError, match=path):
        register.main()
    assert registered()[3] == []


def test_one_run_from_a_failed_training_to_a_finished_one(folder):
    with pytest.raises(ZeroDivisionError), runs.run(KEY) as run:
        run.log_epoch(0, {"loss": 1.0, "val_loss": 2.0})
        1 / 0  # noqa: B018
    assert registered()[1][0].info.status == "FAILED"
    with runs.run(KEY) as run:
        assert registered()[1][0].info.status == "RUNNING"
        for epoch in range(EPOCHS):
            run.log_epoch(epoch, {"epoch": epoch, "phase": "head", "loss": np.float32(1), "val_loss": 2.0})
    with runs.run(KEY) as run:
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
unreadable = model.predict(pandas.DataFrame({"image": [b"not an image"]})).to_dict(orient="records")
module = sys.modules[type(model.get_raw_model()).__module__]
keras_model = mlflow.keras.load_model(f"models:/{name}/1")
print(json.dumps({
    "table": table.to_dict(orient="list"), "index": list(table.index), "unreadable": unreadable,
    "code": module.__file__,
    "working_tree": [name for name in sys.modules if name == "busi" or name.startswith("busi.")],
    "shape": keras_model.input_shape, "example": len(model.input_example),
    "signature": model.metadata.signature.to_dict(),
}))
"""


def test_a_moved_store_loads_in_a_fresh_process_without_the_repository(folder, keras_file, tmp_path):
    register.main()
    moved = tmp_path / "moved away"
    os.chdir(tmp_path)  # not by monkeypatch, which would go back to the folder that moves
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
    assert list(table) == ["label", "probabilities", "accepted", "reason", "model_version", "disclaimer"]
    assert [list(said) for said in table["probabilities"]] == [list(CLASSES)] * 2
    np.testing.assert_allclose([list(said.values()) for said in table["probabilities"]], expected, atol=1e-6)
    assert table["label"] == [CLASSES[row.argmax()] for row in expected]
    assert (table["accepted"], table["reason"]) == ([True, True], ["", ""])
    assert table["model_version"] == ["busi-densenet121-phantom/1"] * 2
    assert table["disclaimer"] == [DISCLAIMER] * 2
    assert found["index"] == [7, 9]
    assert found["code"].startswith(str(moved / "mlruns"))
    assert found["working_tree"] == []
    assert found["shape"] == [None, 32, 32, 3]
    assert found["example"] == 1
    assert json.loads(found["signature"]["inputs"]) == [{"type": "binary", "name": "image", "required": True}]
    [row] = found["unreadable"]
    assert (row["label"], row["probabilities"], row["accepted"]) == (None, None, False)
    assert row["reason"].startswith("image: not an image")


def test_a_model_that_does_not_say_what_it_said_is_registered_and_named(folder, monkeypatch):
    monkeypatch.setattr(checks, "smoke_test", lambda *_: passing(*_)._replace(passed=False, sentence="It says else."))
    with pytest.raises(StageError, match=r"version 1 is registered but can't be promoted: It says else"):
        register.main()
    *_, [version] = registered()
    assert version.tags["smoke"] == "failed"
    monkeypatch.setattr(checks, "smoke_test", passing)
    register.main()  # tried again
    assert assert_one_of_each()[1].tags["smoke"] == "passed"


def test_what_was_not_in_the_commit_is_kept_as_a_patch(folder):
    git("init")
    write(".gitignore", "/data/\n/artifacts/\n/mlruns/\n/secret\n")
    write("pipeline/old.py", "1\n")
    git("add", ".")
    git("commit", "-m", "all")
    write("pipeline/old.py", "2\n")
    write("pipeline/new.py", "3\n")
    write("notes.txt", "mine\n")
    git("add", "notes.txt")
    before = subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout
    patch = lineage.uncommitted()
    assert subprocess.run(["git", "status", "--porcelain"], capture_output=True, check=True).stdout == before
    assert "notes.txt" not in patch
    register.main()
    client, [run], [model], [version] = registered()
    assert version.tags["tree"].startswith("uncommitted changes: notes.txt, pipeline/new.py, pipeline/old.py")
    assert Path(run.info.artifact_uri, "lineage/uncommitted.patch").read_text() == patch
    with logged_model.files_of(version) as files:
        (Path.cwd() / "kept.patch").write_bytes((files / "uncommitted.patch").read_bytes())
    git("stash", "--include-untracked", "--", "pipeline")
    git("apply", "kept.patch")
    assert (Path("pipeline/old.py").read_text(), Path("pipeline/new.py").read_text()) == ("2\n", "3\n")


def test_eight_processes_at_once_make_eight_versions(folder, monkeypatch):
    """On the embedded store, where SQLite knows one writer at a time."""
    register.main()
    with process_pool(8, monkeypatch) as pool:
        numbers = pool.starmap(register_another, [(str(folder), f"{mark}") for mark in range(8)], chunksize=1)
    assert sorted(numbers) == list(range(2, 10))
    _, [run], models, versions = registered()
    assert len(models) == len(versions) == 9
    assert len({version.tags["files_sha256"] for version in versions}) == 9
    for version in versions:
        with logged_model.files_of(version) as files:
            assert logged_model.altered_files(version, files) == []


def test_two_processes_on_a_store_that_is_not_there_yet_make_one_version(outputs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.stages.register"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    line = f"{NAME} version 1: passed the gate\n".encode()
    assert [out for out, _ in said] == [line] * 2
    assert all(b"\n" not in progress.rstrip() for _, progress in said)  # at most that it is tried in a fresh process
    assert_one_of_each()


def test_a_tracking_server_serves_as_well(outputs, tmp_path, monkeypatch):
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/server.db") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        register.main()
        register.main()
        client, [run], [model], [version] = registered()
        assert (version.tags["verdict"], version.tags["smoke"]) == ("passed", "passed")
        assert version.run_id == run.info.run_id
        assert model.artifact_location.startswith("mlflow-artifacts:")
        served = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
        assert "MLmodel" in served
        assert not connection.DATABASE.exists()


def test_a_store_that_is_not_there_is_an_error_that_says_so(outputs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match=r"http://127.0.0.1:9 refused.*\n.*unset MLFLOW_TRACKING_URI"):
        register.main()
