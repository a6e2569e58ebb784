"""What is typed behind a variable of make reaches the `busi` command as it was typed, and nothing of it is run."""

import json
import os
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
    for name in ("busi", "dvc"):
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
            ["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=True
        )
        assert sorted(folder.iterdir()) == before, "something was run"
        return json.loads(done.stdout.splitlines()[-1])

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
