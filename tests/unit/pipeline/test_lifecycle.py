"""Ctrl-C, SIGTERM and kills, on small processes: a clean word, exit code 130, nothing left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from busi.data import process_pool
from pipeline.runtime.lifecycle import INTERRUPTED_EXIT, stage
from pipeline.runtime.locks import locked, scratch

# They work a minute in short steps, as a stage does: a signal that comes while one long sleep begins waits for its end
STAGE = """
import sys, time
from pathlib import Path
from pipeline.runtime.atomic_io import atomic_write
from pipeline.runtime.lifecycle import stage
from pipeline.runtime.locks import scratch
with stage("work"), atomic_write(Path("result")) as partial, scratch(Path("."), "trying"):
    partial.write_text("half")
    Path("begun").touch()
    for step in range(1200): time.sleep(0.05)
"""
IMPORT = """
import pipeline
from pathlib import Path
import time
Path("begun").touch()
for step in range(1200): time.sleep(0.05)
"""
POOL = """
import time
from pathlib import Path
from busi.data.process_pool import process_pool
if __name__ == "__main__":
    with process_pool(2) as pool:
        for job in [pool.submit(time.sleep, 0.1), pool.submit(time.sleep, 60)]:
            Path("begun").touch()
            job.result()
"""


def start(folder: Path, program: str, **environment: str) -> subprocess.Popen:
    (folder / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=heed_signals,
    )  # fmt: skip
    wait_for(lambda: (folder / "begun").exists() or process.poll() is not None)
    return process


def heed_signals() -> None:
    """As in a terminal: tests that run under nohup or in the background hand on that SIGHUP and SIGINT are ignored."""
    for ending in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, signal.SIG_DFL)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left_in(folder: Path) -> set[str]:
    """The names in a folder, but for the lock file of its scratch folders, which stays on purpose."""
    return {path.name for path in folder.iterdir()} - {".trying.lock"}


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_stage_says_so_and_leaves_nothing(tmp_path, ending):
    process = start(tmp_path, STAGE)
    process.send_signal(ending)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED_EXIT
    assert said == "\nwork: interrupted; nothing half done is kept, and the same command goes on\n"
    assert left_in(tmp_path) == {"begun", "program.py"}


def test_a_second_sigterm_does_not_cut_the_cleaning_up_short(tmp_path):
    """As a stage gets it when its group is ended: DVC ends too, and with it comes the second."""
    slow = STAGE.replace("for step", "try:\n     for step") + "    finally: time.sleep(1); Path('cleaned').touch()\n"
    process = start(tmp_path, slow)
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.count("interrupted")) == (INTERRUPTED_EXIT, 1)
    assert left_in(tmp_path) == {"begun", "cleaned", "program.py"}


def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path):
    process = start(tmp_path, IMPORT)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "\ninterrupted\n"
    assert process.returncode


def test_a_stage_ends_with_the_dvc_that_started_it(tmp_path):
    """Else it would go on beside the one that the repetition starts."""
    parent = "import subprocess, sys\nsubprocess.run([sys.executable, 'stage.py'])"
    (tmp_path / "stage.py").write_text(STAGE)
    process = start(tmp_path, parent, DVC_STAGE="work")
    [child] = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    wait_for(lambda: not {name for name in left_in(tmp_path) if name.startswith(".")})


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_pool_ends_with_its_caller_and_in_silence(tmp_path, ending):
    process = start(tmp_path, POOL)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    os.kill(process.pid, ending) if ending == signal.SIGKILL else os.killpg(process.pid, ending)
    if ending == signal.SIGINT:  # the running job, which a stage's is not, would last a minute
        time.sleep(0.5)
        process.kill()
    said, _ = process.communicate(timeout=60)
    assert "SpawnProcess" not in said
    wait_for(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers))


def test_what_ends_the_caller_does_not_reach_the_processes_of_a_pool_that_are_starting(monkeypatch):
    """They are in the caller's group yet, and one that died would break the pool, which says so by a traceback."""
    start_it = process_pool._Process.start

    def start_and_end(process):
        start_it(process)
        process.terminate()

    monkeypatch.setattr(process_pool._Process, "start", start_and_end)
    with process_pool.process_pool(2) as pool:
        held_back = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(timeout=60)
    assert not held_back & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # no longer


def test_a_stage_removes_what_a_killed_dvc_left_beside_its_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "artifacts/split"
    outputs.mkdir(parents=True)
    for name in (".KLKjjKP-JQJyLh7l8FFhbg.tmp", ".mine.tmp", "split.csv"):
        (outputs / name).touch()
    with stage("split"):  # by itself, while a DVC may be at work on it
        assert len(list(outputs.iterdir())) == 3
    monkeypatch.setenv("DVC_STAGE", "split")
    monkeypatch.setattr("pipeline.runtime.lifecycle.end_with_parent", lambda: None)
    with stage("split"):
        assert {path.name for path in outputs.iterdir()} == {".mine.tmp", "split.csv"}


def test_scratch_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    dead, alive = tmp_path / ".trying-dead", tmp_path / ".trying-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "file").touch()
    with locked(alive / ".lock"), scratch(tmp_path, "trying") as mine, scratch(tmp_path, "trying") as other:
        assert sorted(folders(tmp_path)) == sorted([alive, mine, other])
    with scratch(tmp_path, "trying"):
        assert not alive.exists()
    assert folders(tmp_path) == []


def folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()]
