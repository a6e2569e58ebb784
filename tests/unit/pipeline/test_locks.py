"""Locks end with their holder, however it ends, and scratch folders of killed processes go."""

import signal
import subprocess
import sys
import time

import pytest
from filelock import Timeout

from pipeline.runtime.locks import is_locked, locked, scratch

HOLD = """
import sys, time
from pathlib import Path
from pipeline.runtime.locks import locked, scratch
what, folder = sys.argv[1], Path(sys.argv[2])
with locked(folder / "lock") if what == "lock" else scratch(folder, "work") as made:
    print(made or "held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds a lock or a scratch folder; what it printed, and the process."""
    started = []

    def start(what):
        process = subprocess.Popen([sys.executable, "-c", HOLD, what, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process.stdout.readline().strip(), process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_held_lock_is_refused_at_once_or_after_the_time_given(holder, tmp_path):
    _, process = holder("lock")
    assert is_locked(tmp_path / "lock")
    with pytest.raises(Timeout), locked(tmp_path / "lock", timeout=0):
        pass
    started = time.monotonic()
    with pytest.raises(Timeout), locked(tmp_path / "lock", timeout=0.3):
        pass
    assert time.monotonic() - started >= 0.3
    assert process.poll() is None


def test_a_killed_holder_blocks_nobody(holder, tmp_path):
    _, process = holder("lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_locked(tmp_path / "lock")
    with locked(tmp_path / "lock", timeout=5):
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


def test_who_waits_goes_on_as_soon_as_the_holder_is_killed(holder, tmp_path):
    _, process = holder("lock")
    waiting = subprocess.Popen([sys.executable, "-c", HOLD, "lock", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        process.kill()
        assert waiting.stdout.readline().strip() == "held"
    finally:
        waiting.kill()
        waiting.communicate()


def test_scratch_folders_of_living_processes_stay_and_those_of_killed_ones_go(holder, tmp_path):
    name, process = holder("scratch")
    with scratch(tmp_path, "work") as mine:
        assert sorted(str(path) for path in tmp_path.glob(".work-*")) == sorted([name, str(mine)])
    assert [str(path) for path in tmp_path.glob(".work-*")] == [name]
    process.kill()
    process.wait()
    with scratch(tmp_path, "work") as mine:
        assert list(tmp_path.glob(".work-*")) == [mine]
    assert not list(tmp_path.glob(".work-*"))


def test_scratch_goes_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), scratch(tmp_path, "work") as made:
        (made / "half").touch()
        raise RuntimeError
    assert not made.exists()
