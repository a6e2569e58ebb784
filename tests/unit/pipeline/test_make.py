"""What is typed behind a variable of make reaches the command as it was typed, and nothing of it is run."""

import json
import os
import re
import shutil
import subprocess

import pytest

from pipeline.paths import ROOT

NAMES = {
    "a space and parentheses": "malignant (12).png",
    "quotes": """say "x" and 'y'""",
    "dollars": "$5 $$5 ${HOME}",
    "a shell's command": "`touch run` $(touch run); touch run",
    "make's command": "$(shell touch run)",
    "a newline": "one\ntwo",
    "a leading dash": "-x --force",
    "a backslash and a hash": r"a\b # c",
    "a backslash at the end": "a\\",
    "a percent sign and an umlaut": "100% für 5 €",
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Run a target with a `busi` that prints its arguments, and give them; the folder is looked at for traces."""
    folder = tmp_path_factory.mktemp("make")
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv/.installed").touch()
    (folder / ".cache").mkdir()
    for name in ("busi", "dvc", "prefect", "python"):
        (programs / name).write_text(
            f"#!/bin/sh\nexec python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {name} \"$@\"\n"
        )
        (programs / name).chmod(0o755)
    before = sorted(folder.iterdir())
    # `make test` is a make too: what it hands to those below it, and the variables that it exports, must not count here
    outer = ("MAKE", "MFLAGS", "ARG_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}

    def run(*arguments: str, **environment: str) -> list[str]:
        done = subprocess.run(
            ["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
        )
        assert sorted(folder.iterdir()) == before, "something was run"
        done.check_returncode()
        return json.loads([line for line in done.stdout.splitlines() if line.startswith("[")][-1])

    return run


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_a_text_arrives_as_it_was_typed(make, text):
    assert make("promote", f"REASON={text}", "VERSION=3", "YES=1") == [
        "busi", "promote", "3", "--force", f"--reason={text}", "--yes",
    ]  # fmt: skip
    assert make("predict", f"FILES={text}") == ["busi", "predict", f"--files={text}"]


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_a_text_of_the_environment_arrives_too(make, text):
    assert make("rollback", REASON=text) == ["busi", "rollback", f"--reason={text}"]


@pytest.mark.parametrize(
    ("target", "variable", "command"),
    [
        ("data", "SOURCE", ["busi", "data", "--", "{}"]),
        ("flow", "SET", ["busi", "flow", "--set={}"]),
        ("show", "VERSION", ["busi", "show", "{}"]),
        ("versions", "MODEL", ["busi", "versions", "--model={}"]),
        ("app", "PORT", ["busi", "app", "--port={}"]),
        ("serve", "PORT", ["busi", "serve", "--port={}"]),
        ("ui", "PORT", ["busi", "ui", "--port={}"]),
        ("crossval", "SCHEDULER", ["busi", "crossval", "--scheduler={}"]),
        ("verify", "ALL", ["busi", "verify", "--all"]),
    ],
)
def test_every_target_hands_its_variable_over(make, target, variable, command):
    text = "x y $(shell touch run) `touch run`"
    assert make(target, f"{variable}={text}") == [word.format(text) for word in command]


@pytest.mark.parametrize(
    "target", ["run", "weights", "versions", "promote", "rollback", "history", "verify", "app", "serve", "crossval"]
)
def test_a_variable_that_is_not_set_is_no_option(make, target):
    assert make(target) == ["busi", target]


def test_every_variable_is_handed_over_and_none_is_expanded():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    listed = re.search(r"^VARIABLES := ((?:.*\\\n)*.*)$", text, re.M)[1].replace("\\", " ").split()
    recipes = "\n".join(line for line in text.splitlines() if line.startswith("\t"))
    used = re.findall(r"\$\((?:call option,\w+,|call argument,|if \$\(value )(\w+)\)|ARG_(\w+)", text)
    assert {first or second for first, second in used} == set(listed)
    assert not re.findall(rf"\$[({{]({'|'.join(listed)})[)}}]", recipes)


@pytest.mark.parametrize("target", ["test FAST", "results ROW", "server PORT", "remote URL", "bench IMAGES"])
def test_targets_of_other_programs_run_nothing_either(make, target):
    target, variable = target.split()
    make(target, f"{variable}=x; touch run `touch run` $(touch run) $(shell touch run)")


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY", "HOME", "USER", "PATH"])
def test_a_dollar_in_the_environment_is_a_dollar(make, variable):
    before = f"{os.environ['PATH']}:" if variable == "PATH" else ""
    assert make("versions", **{variable: f"{before}/$(shell touch run)"}) == ["busi", "versions"]


@pytest.mark.parametrize("wrong", ["UNTILL=train", "until=train", "FILE=x.png"])
def test_a_misspelt_variable_is_refused(wrong):
    done = subprocess.run(["make", "-n", "flow", wrong], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "UNTIL" in done.stderr


def test_variables_of_other_programs_and_the_python_may_be_given(make):
    assert make("versions", "MLFLOW_TRACKING_URI=http://127.0.0.1:1", "PYTHON=python3", "TMPDIR=/tmp") == [
        "busi", "versions",
    ]  # fmt: skip
