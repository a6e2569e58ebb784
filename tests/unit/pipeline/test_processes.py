"""Process trees end as a whole: descendants, members of the session without a parent, and what heeds no signal."""

import subprocess
import time
from pathlib import Path

import pytest

from pipeline.runtime import processes
from pipeline.runtime.processes import end_tree, is_alive

DEAF = "trap '' INT TERM; "


def started(folder: Path, script: str, count: int) -> tuple[subprocess.Popen, list[int]]:
    """A shell in a session of its own, and the `count` numbers of processes that it wrote to the file pids."""
    process = subprocess.Popen(["bash", "-c", script], cwd=folder, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(found := [int(word) for word in pids_file(folder).split()]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, found


def pids_file(folder: Path) -> str:
    return (folder / "pids").read_text() if (folder / "pids").exists() else ""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.3)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 300 & echo $! >> pids; wait",
        f"{DEAF} sleep 300 & echo $! >> pids; wait; sleep 300",
        "(bash -c 'sleep 300 & echo $! >> pids' &); sleep 300",  # whose parent has ended
        "setsid bash -c 'echo $$ >> pids; sleep 300' & wait",  # in another session
    ],
)
def test_nobody_of_the_tree_is_left(tmp_path, script):
    process, found = started(tmp_path, script, 1)
    end_tree(process)
    assert process.returncode is not None
    assert not any(map(is_alive, found))


def test_a_second_interruption_kills_at_once_and_is_raised_again(tmp_path, monkeypatch):
    process, found = started(tmp_path, f"{DEAF} sleep 300 & echo $! >> pids; wait; sleep 300", 1)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        end_tree(process)
    monkeypatch.undo()
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while any(map(is_alive, found)):
        assert time.monotonic() < deadline


def test_a_process_that_has_ended_is_no_error_and_keeps_its_exit_code():
    process = subprocess.Popen(["bash", "-c", "exit 3"])
    while is_alive(process.pid):
        time.sleep(0.02)
    end_tree(process)
    assert process.returncode == 3
