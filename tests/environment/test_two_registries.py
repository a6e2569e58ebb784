"""Versions in another store than runs are not supported: every command and program is told so before it works."""

import mlflow
import pytest

from pipeline import cli
from pipeline.registry import production
from pipeline.runtime import environment
from pipeline.runtime.errors import StageError
from pipeline.tracking import connection

ELSEWHERE = "sqlite:///elsewhere.db"
COMMANDS = (
    "versions", "verify", "promote", "rollback", "history", "show", "card", "reproduce 1", "predict x.png", "serve",
    "app", "ui", "run", "flow", "summary", "crossval",
)  # fmt: skip


@pytest.fixture
def two(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", ELSEWHERE)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses(command, two, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["busi", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "MLFLOW_REGISTRY_URI" in said and ELSEWHERE in said
    assert not list(two.glob("*.db"))


def test_a_program_is_refused_too(two):
    with pytest.raises(StageError, match="MLFLOW_REGISTRY_URI"):
        production.load("busi-densenet121")


def test_so_is_one_that_sets_the_registry_by_itself(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "")  # MLflow writes it; it is put back afterwards
    mlflow.set_registry_uri(ELSEWHERE)
    try:
        with pytest.raises(StageError, match="MLFLOW_REGISTRY_URI"):
            connection.connect()
    finally:
        mlflow.set_registry_uri(None)


@pytest.mark.parametrize("spelling", ["http://host:5000", "http://host:5000/"])
def test_one_address_for_both_is_one_store(spelling):
    assert environment.refusal({"MLFLOW_TRACKING_URI": "http://host:5000", "MLFLOW_REGISTRY_URI": spelling}) is None


def test_both_set_to_the_embedded_store(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", connection.EMBEDDED)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", connection.EMBEDDED)
    connection.connect()
    assert not list(folder.glob("*.db"))
