"""`busi doctor` in a small checkout in which one thing is broken: the finding names it, and says what to do."""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

import pipeline
from pipeline.doctor import checkout, machine, report
from pipeline.doctor.finding import NOTE, OK, PROBLEM
from pipeline.paths import ROOT
from pipeline.runtime.locks import locked

REFUSING = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A checkout in which every check is content, and the current folder."""
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").touch()
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0.dir\n  nfiles: 1\n  path: data\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for module in (checkout, machine):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(pipeline, "ORIGINAL_ENVIRONMENT", {})
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def found(check, level: str) -> str:
    """What a check finds at a level, each with a remedy unless all is well."""
    some = [one for one in report.findings(check) if one.level == level]
    assert some, f"nothing at level {level}: {report.findings(check)}"
    assert level != PROBLEM or all(one.remedy for one in some)
    return "\n".join(f"{one.what} -> {one.remedy}" for one in some)


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


def test_a_checkout_in_order_has_no_problem(capsys):
    assert report.run() == 0
    output = capsys.readouterr().out
    assert PROBLEM not in output
    assert "not checked" not in output


def test_a_problem_is_exit_code_1_and_passwords_are_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:9/api")
    assert report.run() == 1
    output = capsys.readouterr().out
    assert "PREFECT_API_URL" in output
    assert "secret" not in output


def test_a_check_that_fails_hides_no_other(monkeypatch):
    def broken():
        yield checkout.Finding(OK, "first")
        raise RuntimeError("broken")

    assert [one.level for one in report.findings(broken)] == [OK, NOTE]


def test_without_any_package_it_says_make_env(here):
    """An interpreter that sees nothing but its own library, as before `make env`."""
    done = subprocess.run(
        [sys._base_executable, "-S", "-m", "pipeline.doctor"], cwd=here, capture_output=True, encoding="utf-8",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "packages missing" in done.stdout
    assert "make env" in done.stdout
    assert "Traceback" not in done.stderr


def test_packages_at_another_version_and_missing(here):
    lock = here / "requirements.lock"
    there = f"typer=={importlib.metadata.version('typer')}"
    assert there in lock.read_text()
    lock.write_text(lock.read_text().replace(there, "typer==0.0.1"))
    assert "typer" in found(machine.packages, NOTE)
    lock.write_text("nosuch-a==1\nnosuch-b==1\nnosuch-c==1\nnosuch-d==1\nnosuch-e==1 ; sys_platform == 'nowhere'\n")
    assert "4 of 4" in found(machine.packages, PROBLEM)
    lock.unlink()
    assert "requirements.lock" in found(machine.packages, PROBLEM)


def test_a_python_of_the_wrong_version_or_of_another_environment(here, monkeypatch):
    assert "not that of .venv" in found(machine.python, NOTE)
    monkeypatch.setattr(sys, "prefix", str(here / ".venv"))
    found(machine.python, OK)
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert platform.python_version() in found(machine.python, PROBLEM)


def test_a_linked_environment(here):
    (here / ".venv").symlink_to(here)
    assert "link" in found(machine.python, NOTE)


def test_programs_that_are_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    assert "dvc" in found(machine.programs, PROBLEM)
    assert "git" in found(machine.programs, NOTE)


def test_another_folder_and_another_checkout(here, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path_factory.mktemp("other"))
    assert "not of this checkout" in found(checkout.folder, PROBLEM)
    monkeypatch.setattr(checkout, "ROOT", here)
    monkeypatch.chdir("/")
    assert f"cd '{here}'" in found(checkout.folder, PROBLEM)


def test_a_folder_that_cannot_be_written_to(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert "Permission denied" in found(checkout.folder, PROBLEM)


def test_a_disk_without_locks(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no locks available")

    monkeypatch.setattr("pipeline.runtime.locks.locked", refuse)
    assert "no locks" in found(checkout.folder, PROBLEM)


def test_git_missing_foreign_enclosing_and_changed(here, monkeypatch):
    assert "git clone" in found(checkout.repository, NOTE)
    git("init", "-q")
    assert "git commit" in found(checkout.repository, NOTE)
    git("add", ".")
    git("commit", "-qm", "first")
    found(checkout.repository, OK)
    (here / "new").touch()
    assert "new" in found(checkout.repository, NOTE)
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert "larger" in found(checkout.repository, NOTE)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to have an owner refused
    assert "safe.directory" in found(checkout.repository, NOTE)


def test_parameters_that_are_broken(here):
    found(checkout.files, OK)
    (here / "params.yaml").write_text((here / "params.yaml").read_text() + "nosuch: 1\n")
    assert "nosuch" in found(checkout.files, PROBLEM)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock", "data.dvc"])
def test_marks_of_a_conflict(here, name):
    (here / name).write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n")
    assert name in found(checkout.files, PROBLEM)


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("KERAS_BACKEND", "jax", NOTE),
        ("MLFLOW_RUN_ID", "a", NOTE),
        ("OMP_NUM_THREADS", "1", NOTE),
        ("MLFLOW_REGISTRY_URI", "http://a", PROBLEM),
    ],
)
def test_variables_as_the_user_has_them(monkeypatch, name, value, level):
    found(machine.variables, OK)
    monkeypatch.setattr(pipeline, "ORIGINAL_ENVIRONMENT", {name: value})
    assert name in found(machine.variables, level)


def test_files_of_the_user_that_count(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "home/.config/dvc").mkdir(parents=True)
    (here / "home/.config/dvc/config").write_text("[cache]\n    type = hardlink\n")
    assert "~/.config/dvc/config" in found(machine.variables, NOTE)
    assert "hardlink" in found(checkout.data, OK)


def test_a_full_disk_and_little_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10**6))
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("Memory", "available")(10**6))
    assert "disk" in found(machine.machine, PROBLEM)
    assert "memory" in found(machine.machine, NOTE)


def test_a_port_that_is_taken(monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {port: "make ui"})
        assert f"process {os.getpid()}" in found(machine.ports, NOTE)
    found(machine.ports, OK)


def test_a_tracking_server_that_is_dead(monkeypatch):
    found(checkout.store, OK)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", REFUSING)
    assert "MLFLOW_TRACKING_URI" in found(checkout.store, PROBLEM)


def test_a_store_that_is_damaged_or_of_another_mlflow(here):
    (here / "mlruns").mkdir()
    database = here / "mlruns/mlflow.db"
    database.write_text("not a database")
    assert "mlflow.db" in found(checkout.store, PROBLEM)
    database.unlink()
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE alembic_version (version_num)")
        opened.execute("CREATE TABLE model_versions (version)")
        opened.execute("INSERT INTO alembic_version VALUES ('0123abcd')")
    assert "0123abcd" in found(checkout.store, PROBLEM)


def test_the_schema_is_the_one_that_mlflow_writes():
    from mlflow.store.db import utils

    assert checkout._mlflow_schema() == utils._get_latest_schema_revision()


def test_remotes_data_and_cache(here):
    found(checkout.data, OK)
    (here / ".dvc/config").write_text("[cache]\n    type = symlink\n['remote \"a\"']\n    url = nosuch\n")
    assert "nosuch" in found(checkout.data, NOTE)
    assert "symlink" in found(checkout.data, OK)
    (here / "data/b.png").touch()
    assert "2 files" in found(checkout.data, NOTE)
    (here / "data.dvc").write_text("nonsense")
    assert "data.dvc" in found(checkout.data, PROBLEM)
    (here / "data.dvc").unlink()
    assert "data.dvc" in found(checkout.data, NOTE)
    shutil.rmtree(here / ".dvc")
    assert "DVC" in found(checkout.data, PROBLEM)


def test_commands_at_work_and_what_killed_ones_left(here):
    found(checkout.at_work, OK)
    (here / ".data-incoming-x").mkdir()
    assert ".data-incoming-x" in found(checkout.at_work, NOTE)
    with locked(Path(".cache/data.lock")):
        assert "busi data" in found(checkout.at_work, NOTE)
    (here / ".dvc/tmp").mkdir()
    (here / ".dvc/tmp/rwlock").write_text(json.dumps({"a": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    assert str(os.getpid()) in found(checkout.at_work, NOTE)
