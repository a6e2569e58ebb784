"""The environment is made whatever pip is set to; only where packages come from is the user's to say."""

import os
import subprocess
import sys
import venv
import zipfile

import pytest

from pipeline.paths import ROOT
from pipeline.runtime import pip_install

SCRIPT = ROOT / "pipeline/runtime/pip_install.py"


def test_only_the_way_to_the_index_is_kept():
    listed = "\n".join(
        [
            ":env:.index-url='https://mine.example/simple'",
            "global.extra-index-url='\\nhttps://a.example\\nhttps://b.example'",
            "global.index-url='https://old.example/simple'",
            "install.user='true'",
            "install.target='/elsewhere'",
            "global.constraint='/etc/constraints.txt'",
            ":env:.dry-run='1'",
            "For variant 'user', will try loading '/home/me/.config/pip/pip.conf'",
        ]
    )
    variables = {"PIP_DRY_RUN": "1", "PIP_INDEX_URL": "https://mine.example/simple", "HOME": "/home/me"}
    assert pip_install.environment(listed, variables) == {
        "HOME": "/home/me",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "https://a.example https://b.example",
        "PIP_INDEX_URL": "https://mine.example/simple",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A fresh environment, and a folder with one wheel as the only index."""
    folder = tmp_path_factory.mktemp("pip")
    venv.create(folder / "venv", with_pip=True)
    (folder / "wheels").mkdir()
    with zipfile.ZipFile(folder / "wheels/tiny_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_thing.py", "here = __file__\n")
        wheel.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    return folder


CASES = {
    "user": {"PIP_USER": "1"},
    "target": {"PIP_TARGET": "elsewhere"},
    "prefix": {"PIP_PREFIX": "elsewhere"},
    "dry run": {"PIP_DRY_RUN": "1"},
    "constraint": {"PIP_CONSTRAINT": "constraints.txt"},
    "no wheels": {"PIP_NO_BINARY": ":all:"},
    "quiet": {"PIP_QUIET": "2"},
    "verbose": {"PIP_VERBOSE": "1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["variable", "file"])
@pytest.mark.parametrize("case", CASES)
def test_a_package_lands_in_the_environment(place, case, where, tmp_path):
    (tmp_path / "constraints.txt").write_text("tiny-thing==2.0\n")
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place / "wheels"), "PYTHONUSERBASE": str(tmp_path / "base")}
    if where == "variable":
        variables |= CASES[case]
    else:
        settings = "\n".join(
            f"{name.removeprefix('PIP_').lower().replace('_', '-')} = {value}" for name, value in CASES[case].items()
        )
        (tmp_path / "pip.conf").write_text(f"[install]\n{settings}\n")
        variables["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    python = place / "venv/bin/python"
    command = [python, SCRIPT, "--quiet", "--force-reinstall", "tiny-thing"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean | variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = subprocess.run(
        [python, "-c", "import tiny_thing; print(tiny_thing.here)"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(place / "venv"))
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "tiny-thing"], check=True)


@pytest.mark.parametrize("level", ["1", "3"])
def test_an_index_counts_however_quiet_pip_is(tmp_path, level):
    """It would be lost in silence, and packages come from elsewhere."""
    (tmp_path / "pip.conf").write_text(f"[global]\nquiet = {level}\nindex-url = http://127.0.0.1:9/mine\nretries = 0\n")
    done = install(tmp_path, "--dry-run", "no-such-package-of-theirs")
    assert done.returncode == 1
    assert "127.0.0.1:9/mine" in done.stdout and "index-url" in done.stderr


@pytest.mark.parametrize("content", ["[global\nuser = true\n", "[global]\ntimeout = abc\n"])
def test_settings_that_pip_cannot_read_are_named(tmp_path, content):
    (tmp_path / "pip.conf").write_text(content)
    done = install(tmp_path, "--dry-run", "no-such-package-of-theirs")
    assert done.returncode == 1
    assert "pip can't read its settings" in done.stderr and "Traceback" not in done.stderr


def install(folder, *arguments: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=folder, env=clean | {"PIP_CONFIG_FILE": str(folder / "pip.conf")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_an_unfit_python_is_refused_by_name(tmp_path):
    """By a stand-in that says it is another version, before anything is made."""
    stand_in = tmp_path / "python3.14"
    stand_in.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 14, 0); exec(sys.argv[1])" "$2"\n'
    )
    stand_in.chmod(0o755)
    for name in ("Makefile", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    outer = ("MAKE", "MFLAGS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    done = subprocess.run(
        ["make", "env", f"PYTHON={stand_in}"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is 3.14" in done.stderr and not (tmp_path / ".venv").exists()
