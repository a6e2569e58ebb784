"""Rebuilding a version: its own stages, its own commands, its own code."""

import os
import sys

import pytest

from pipeline.registry import reproduce
from pipeline.runtime.errors import StageError


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages:\n  split: {cmd: a}\n  evaluate: {cmd: b}\n  register: {cmd: c}\n")
    return tmp_path


def test_the_stages_are_those_of_the_commit_up_to_what_is_compared(tree):
    assert reproduce.stages_to_run(tree) == ["split", "evaluate"]
    (tree / "dvc.yaml").write_text("stages:\n  train: {cmd: a}\n")
    with pytest.raises(StageError, match="expected evaluate"):
        reproduce.stages_to_run(tree)


def test_phantoms_are_made_by_the_command_that_the_commit_has(tree):
    assert reproduce.make_phantoms(tree) == (sys.executable, "-m", "pipeline.data", "phantom")
    (tree / "pipeline" / "cli.py").touch()
    assert reproduce.make_phantoms(tree) == (sys.executable, "-m", "pipeline.cli", "data", "phantom")


def test_the_code_that_runs_is_that_of_the_worktree(tree, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    found = reproduce.environment(tree)
    assert found["PYTHONPATH"].split(os.pathsep) == [str(tree), str(tree / "src")]
    assert "MLFLOW_TRACKING_URI" not in found
