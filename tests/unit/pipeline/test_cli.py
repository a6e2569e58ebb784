"""The `busi` command: help that loads nothing heavy, wrong words in one line, completion, and one way to the rooms."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.lifecycle import EXTERNAL_SERVICE_EXIT

COMMANDS = [
    "data", "run", "flow", "crossval", "versions", "show", "card", "promote", "rollback", "history", "verify",
    "reproduce", "predict", "serve", "app", "ui", "weights", "pretrain", "doctor", "summary", "kubeflow",
]  # fmt: skip
HEAVY = {"dask", "dvc", "great_expectations", "keras", "mlflow", "numpy", "pandas", "prefect", "rich", "streamlit",
         "tensorflow", "yaml"}  # fmt: skip


def busi(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    program = Path(sys.executable).parent / "busi"
    return subprocess.run([program, *arguments], env=os.environ | environment, capture_output=True, text=True)


def test_the_help_lists_every_command_in_one_line_each_and_loads_nothing_heavy():
    show = (
        "import sys; from pipeline import cli\ntry: cli.main()\nfinally: print(*{m.split('.')[0] for m in sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", show, "--help"], capture_output=True, text=True, check=True).stdout
    *lines, loaded = said.splitlines()
    listed = [line.split() for line in lines[lines.index("Commands:") + 1 :]]
    assert [words[0] for words in listed] == COMMANDS
    assert not [words for words in listed if words[-1].endswith("...")], "cut off"
    assert HEAVY & set(loaded.split()) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_more_than_its_one_line_and_gives_an_example(command):
    said = CliRunner().invoke(cli.app, [command, "--help"]).output
    assert f"busi {command}" in said.partition("Examples")[2]


def test_without_a_word_the_help_is_shown():
    done = busi()
    assert done.returncode == 0 and "Commands:" in done.stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["promot"], ["'promot'", "'promote'", "busi --help"]),
        (["serve", "--prot", "1"], ["--prot", "busi serve --help"]),
        (["serve", "--port", "0"], ["--port", "busi serve --help"]),
        (["reproduce"], ["version", "busi reproduce --help"]),
        (["show", "three"], ["version", "integer", "busi show --help"]),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(words, names, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["busi", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said, errors = capsys.readouterr()
    assert (ended.value.code, said, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("error: ") and all(name in errors.lower() for name in names)


@pytest.mark.parametrize(
    ("error", "code"),
    [(StageError("mend it"), 1), (ValueError("mend it"), 1), (ExternalServiceError("mend it"), EXTERNAL_SERVICE_EXIT)],
)
def test_an_error_of_a_command_is_its_text_and_exit_code(monkeypatch, capsys, error, code):
    def fail():
        raise error

    monkeypatch.setattr("pipeline.ingest.weights.fetch", fail)
    monkeypatch.setattr(sys, "argv", ["busi", "weights"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == "\nerror in weights: mend it\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("pipeline.ingest.weights.fetch", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["busi", "weights"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def completed(*words: str) -> set[str]:
    line = " ".join(["busi", *words])
    done = busi(_BUSI_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    return set(done.stdout.split())


def test_the_shell_completes_commands_sources_and_steps():
    assert completed("pr") == {"promote", "predict", "pretrain"}
    assert completed("data", "p") == {"phantom"}
    assert completed("flow", "--until", "re") == {"report", "register"}
    assert completed("serve", "--po") == {"--port"}


def test_predict_takes_paths_and_those_in_one_text(monkeypatch):
    taken = {}
    monkeypatch.setattr("pipeline.serving.predict.run", lambda *given: taken.update(given=given))
    result = CliRunner().invoke(cli.app, ["predict", "a b.png", "--files", "c d", "--json"])
    assert result.exit_code == 0, result.output
    assert taken["given"] == ([Path("a b.png"), Path("c"), Path("d")], False, True, None)


@pytest.mark.parametrize("words", [["ui"], ["data", "phantom"], ["versions"], ["flow"]])
def test_outside_the_repository_nothing_is_made(words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["busi", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "root of the repository" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
