"""Before there is data, a command about its model says so at once, and does not import MLflow for seconds first."""

import json
import subprocess
import sys

import pytest

from pipeline.paths import ROOT

COMMANDS = (
    "versions", "show", "card", "promote", "rollback", "history", "verify", "reproduce 1", "summary", "serve",
    "predict params.yaml",
)  # fmt: skip

PROGRAM = """
import contextlib, io, json, sys
from pipeline import cli
for command in json.loads(sys.argv[1]):
    sys.argv[1:], said = command.split(), io.StringIO()
    code = None
    with contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([command, code, said.getvalue(), "mlflow" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each command answers in a folder with nothing but the parameters: exit code, stderr, MLflow imported."""
    root = tmp_path_factory.mktemp("before_data")
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    command = [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=True)
    assert [path.name for path in root.iterdir()] == ["params.yaml"]  # no store
    return {command: answer for command, *answer in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_data(answers, command):
    code, said, imported = answers[command]
    assert code == 1
    assert "data/dataset.json not found" in said
    assert "busi run" in said
    assert not imported
