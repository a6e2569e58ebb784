"""Runs, versions and files that were deleted behind the pipeline's back: found by verify, and a way on from each."""

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.params import read_params
from pipeline.registry import audit_log, checks, moves, names, verify
from pipeline.runtime.errors import StageError
from pipeline.stages import register
from pipeline.tracking import connection, logged_model, versions
from tests.pipeline.registry import NAME, make_metrics, promote, working_in, write, write_evaluation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(with_production, tmp_path_factory):
    with working_in(shutil.copytree(with_production, tmp_path_factory.mktemp("lost") / "repository")) as folder:
        train_another("4e" * 32, 0.91)
        promote(2)
    return folder


@pytest.fixture
def store(template, tmp_path):
    """Version 2 in Production, before it version 1, of two runs; the files of the stages are those of version 2."""
    with working_in(shutil.copytree(template, tmp_path / "repository")):
        connection.connect()
        yield mlflow.MlflowClient()


def train_another(key: str, accuracy: float) -> None:
    write("artifacts/train/run.json", {"key": key, "image_size": 32, "temperature": 1.25})
    write_evaluation(make_metrics(accuracy=accuracy))
    register.main()


def delete_run(number: str) -> None:
    mlflow.MlflowClient().delete_run(names.choose(NAME, int(number)).run_id)


def collect_garbage() -> None:
    """`mlflow gc`, as a process of its own."""
    address = connection.store_address()
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", address]
    subprocess.run(command, check=True, capture_output=True, env={"MLFLOW_TRACKING_URI": address, "PATH": "/usr/bin"})


def delete_version(number: str) -> None:
    mlflow.MlflowClient().delete_model_version(NAME, number)


def delete_files(number: str) -> None:
    client = mlflow.MlflowClient()
    version = client.get_model_version(NAME, number)
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    shutil.rmtree(model.artifact_location)


def delete_model(number: str) -> None:
    client = mlflow.MlflowClient()
    client.delete_logged_model(client.get_model_version(NAME, number).source.removeprefix("models:/"))


def change_file(number: str) -> None:
    client = mlflow.MlflowClient()
    version = client.get_model_version(NAME, number)
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    (Path(model.artifact_location) / "gate.json").write_text("{}")


HARMS = [delete_run, delete_version, delete_files, delete_model, change_file]


def failed() -> set[str]:
    return {one.name for one in checks.failures(verify.verify(NAME))}


def rollback() -> str:
    return moves.rollback(NAME, "", lambda *_: None)["to"]


def third_version() -> None:
    train_another("5d" * 32, 0.92)
    promote(3)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", ["1", "2"])
def test_verify_finds_it_of_production_and_of_what_a_rollback_goes_back_to(store, harm, number):
    assert not failed()
    harm(number)
    assert any(name.endswith(f"version {number}") for name in failed())


@pytest.mark.parametrize("harm", HARMS)
def test_a_run_registers_anew_what_was_lost_and_that_can_be_promoted(store, harm, capsys):
    harm("2")
    receipt = register.ensure_registered(read_params())
    assert receipt["version"] == "3"
    assert versions.lost(names.choose(NAME, 3)) is None
    with logged_model.files_of(names.choose(NAME, 3)) as files:
        assert checks.integrity(names.choose(NAME, 3), files).passed
    promote(3)
    assert names.production_of(NAME).version == 3
    assert not failed()
    assert register.ensure_registered(read_params())["version"] == "3"  # once
    if harm is not delete_version:
        assert "registered anew" in capsys.readouterr().out
        assert versions.LOST_TAG in names.choose(NAME, 2).tags


@pytest.mark.parametrize("harm", HARMS)
def test_a_rollback_goes_to_the_last_that_is_whole_and_names_what_it_passes_over(store, harm, capsys):
    third_version()
    harm("2")
    assert rollback() == "1"
    assert "version 2 can't become Production again" in capsys.readouterr().out
    assert names.production_of(NAME).version == 1
    assert audit_log.production_stack(audit_log.entries(NAME).values()) == ["1"]
    assert not failed()


def test_there_is_a_way_back_from_a_production_version_that_was_deleted(store):
    delete_version("2")
    assert names.production_of(NAME) is None
    assert rollback() == "1"
    assert not failed()


def test_where_nothing_is_left_it_is_said_and_a_run_begins_anew(store):
    delete_version("1")
    delete_version("2")
    with pytest.raises(StageError, match="busi run"):
        rollback()
    number = int(register.ensure_registered(read_params())["version"])
    promote(number)
    assert names.production_of(NAME).version == number


def test_a_registered_model_that_was_deleted_begins_anew(store):
    store.delete_registered_model(NAME)
    promote(int(register.ensure_registered(read_params())["version"]))
    assert not failed()


def test_a_promotion_of_another_version_settles_what_it_leaves_behind(store):
    delete_run("2")
    third_version()
    assert not failed()


def test_files_of_a_run_that_were_deleted_are_logged_again(store):
    folder = Path(store.get_run(names.choose(NAME, 2).run_id).info.artifact_uri) / "evaluate"
    before = {path for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder / "smoke")  # without these images the version can't be promoted
    register.ensure_registered(read_params())
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def test_the_newest_that_passed_is_the_newest_whole_one(store, capsys):
    third_version()
    delete_run("3")
    assert names.choose(NAME, None).version == 2
    assert "version 3" in capsys.readouterr().out


def test_what_serves_says_which_version_is_gone(store):
    delete_version("2")
    with pytest.raises(StageError, match=r"version 2 was.*rollback"), verify.production_files(NAME):
        pass


def test_a_collected_run(store):
    delete_run("2")
    collect_garbage()
    assert any(name.startswith("run of") for name in failed())
    assert register.ensure_registered(read_params())["version"] == "3"
    promote(3)
    assert not failed()
    assert rollback() == "1"
