"""Output that a pipe, an encoding or a full disk doesn't take: no work is lost and the exit code is the true one."""

import os
import subprocess
import sys

import pytest

from pipeline.orchestration.run import DVC
from pipeline.paths import ROOT

# Prints more than a pipe holds, then does what counts
PROGRAM = """
import sys
from pathlib import Path
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
with stage("work"):
    for line in range(20_000):
        print("line", line)
    Path("done").touch()
    if sys.argv[1:] == ["fail"]:
        raise StageError("the work failed")
"""


@pytest.fixture
def shell(tmp_path):
    """Run a shell's line, with $WORK for the program; give the exit code of its first command, and both outputs."""
    (tmp_path / "work.py").write_text(PROGRAM)

    def run(line: str, **variables: str) -> tuple[int, str, str]:
        environment = os.environ | {"WORK": f"{sys.executable} work.py", "PYTHONPATH": str(ROOT)} | variables
        done = subprocess.run(
            ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path, env=environment, capture_output=True,
            encoding="utf-8", timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_reader_that_leaves_ends_nothing(shell, tmp_path):
    assert shell("$WORK | head -1") == (0, "line 0\n", "")
    assert (tmp_path / "done").exists()


def test_an_error_after_the_reader_left_is_still_one(shell):
    code, said, error = shell("$WORK fail | head -1")
    assert (code, said) == (1, "line 0\n")
    assert "the work failed" in error and "pipe" not in error.lower()


def test_an_error_stands_below_what_led_to_it(shell):
    code, said, _ = shell("$WORK fail 2>&1")
    assert code == 1
    assert said.splitlines()[-3:] == ["line 19999", "", "error in work: the work failed"]


def test_output_that_is_closed_is_no_error(shell, tmp_path):
    assert shell("$WORK >&- 2>&-") == (0, "", "")
    assert (tmp_path / "done").exists()


def test_only_one_output_that_is_closed_is_no_error():
    """By the command, which prepares its output twice, beside files that take the free number."""
    for line in ("versions --help >&-", "frobnicate 2>&-", "doctor >&-"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m pipeline.cli {line}"], cwd=ROOT, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr and "descriptor" not in done.stderr, line


def test_a_stream_that_is_closed_stays_open_to_nowhere(tmp_path):
    program = (
        "import subprocess, sys\nfrom pipeline.runtime import terminal\nfrom pipeline.runtime.lifecycle import stage\n"
        "terminal.prepare()\nwith stage('work'): print('lost')\n"
        "assert open('log', 'w').fileno() != 1\nsubprocess.run(['echo', 'lost'], check=True)\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'exec "{sys.executable}" -c "$PROGRAM" >&-'], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PROGRAM": program}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_an_error(shell):
    code, _, error = shell("$WORK > /dev/full")
    assert code == 1 and "No space left" in error and "Traceback" not in error


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "LC_ALL"],
)
def test_signs_that_the_terminal_lacks_are_spelt(tmp_path, variables):
    program = (
        "from pipeline.runtime.lifecycle import stage\n"
        "with stage('work'): print('0.9 \\u2265 0.85 \\xb1 0.01 \\u2013 \\u65e5')\n"
        "with stage('work'): raise ValueError('0.8 \\xd7 2')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.decode("ascii") == "0.9 >= 0.85 +- 0.01 - ?\n"
    assert "0.8 x 2" in done.stderr.decode("ascii")


@pytest.mark.parametrize("command", ["--help", "doctor"])
def test_a_full_disk_is_an_error_of_every_command(command):
    line = f"{sys.executable} -m pipeline.cli {command} > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_a_dvc_that_nobody_reads_does_its_work():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", DVC, "root"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["--help", "flow --help"])
def test_help_goes_into_a_pipe(arguments):
    line = f"{sys.executable} -m pipeline.cli {arguments} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
