"""One step of the flow: order, lines, timeouts, locks and errors, with small commands in place of the stages."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from pipeline.ingest.dvc_command import mend
from pipeline.orchestration import dvc_steps
from pipeline.orchestration.dvc_steps import (
    StageTimeout,
    alone,
    follow,
    output_hashes,
    run_step,
    stage_names,
    wait_for_dvc,
)
from pipeline.runtime import processes
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.lifecycle import EXTERNAL_SERVICE_EXIT, STAGES, seconds_of, stage
from pipeline.runtime.locks import is_locked
from pipeline.runtime.processes import is_alive

LONG = 60.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def soon(seconds=LONG):
    return time.monotonic() + seconds


def python(code):
    return [sys.executable, "-c", code]


def test_stages_come_in_the_order_of_the_file(folder):
    (folder / "dvc.yaml").write_text("stages: {b: {cmd: x, outs: [o: {cache: false}]}, a: {cmd: y, deps: [o]}}")
    assert stage_names() == ["b", "a"]


@pytest.mark.parametrize("kind", ["outs", "metrics"])
def test_a_stage_before_what_it_reads_is_refused(folder, kind):
    (folder / "dvc.yaml").write_text(f"stages: {{a: {{cmd: y, deps: [o]}}, b: {{cmd: x, {kind}: [o]}}}}")
    with pytest.raises(StageError, match="a reads o, which b writes"):
        stage_names()


def test_lines_come_one_by_one_from_both_streams():
    said = []
    code, lines = follow("s", python("import sys; print('one'); sys.stderr.write('two\\n')"), soon(), said.append)
    assert (code, sorted(lines)) == (0, ["one", "two"])
    assert said == lines


def test_a_progress_bar_gives_its_first_and_last_line_and_not_a_thousand():
    bar = "import sys\nfor i in range(1001): sys.stderr.write(f'\\rwork {i}')\nsys.stderr.write('\\n')\nprint('done')"
    _, lines = follow("s", python(bar), soon(), lambda line: None)
    assert lines[-2:] == ["work 1000", "done"]
    assert len(lines) <= 3


def test_a_timeout_ends_the_whole_process_tree(folder, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.5)  # a child in the background does not hear of SIGINT
    command = ["bash", "-c", "sleep 300 & echo $! > child; wait"]
    with pytest.raises(StageTimeout, match=r"flow\.timeout\.train"):
        follow("train", command, soon(2), lambda line: None)
    assert not is_alive(int((folder / "child").read_text()))


def test_an_interrupted_flow_ends_the_whole_process_tree(folder, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.5)

    def interrupt(line):
        raise KeyboardInterrupt

    command = ["bash", "-c", "sleep 300 & echo $! > child; echo begun; wait"]
    with pytest.raises(KeyboardInterrupt):
        follow("train", command, soon(), interrupt)
    assert not is_alive(int((folder / "child").read_text()))


@pytest.fixture
def dvc(folder, monkeypatch):
    """Put a command that prints given lines in place of DVC."""
    real = subprocess.Popen

    def fake(printed, code=0):
        shown = f"import sys; print({printed!r}); sys.exit({code})"
        monkeypatch.setattr(dvc_steps.subprocess, "Popen", lambda command, **rest: real(python(shown), **rest))

    return fake


def step(name="train", timeout=LONG):
    return run_step(name, timeout=timeout, say=lambda line: None)


def test_what_dvc_says_decides_between_ran_and_cached(dvc):
    dvc("Running stage 'train':\n> python -m pipeline.stages.train")
    assert step().ran
    dvc("Stage 'train' didn't change, skipping")
    assert not step().ran
    dvc("Stage 'train' is cached - skipping run, checking out outputs")
    assert not step().ran


def test_when_dvc_says_neither_nothing_is_guessed(dvc):
    dvc("something new")
    with pytest.raises(StageError, match="neither"):
        step()


def test_a_failure_carries_the_stages_own_last_lines(dvc):
    dvc("Running stage 'train':\nthe loss is nan\nERROR: failed to reproduce 'train': ..., exited with 1", 255)
    with pytest.raises(StageError) as caught:
        step()
    assert str(caught.value) == "train failed with exit code 1; its last lines:\n  the loss is nan"
    assert not isinstance(caught.value, ExternalServiceError)


def test_what_failed_outside_is_told_apart_by_the_stages_exit_code(dvc):
    dvc(f"no answer\nERROR: failed to reproduce 'train': failed to run: x, exited with {EXTERNAL_SERVICE_EXIT}", 255)
    with pytest.raises(ExternalServiceError, match="no answer"):
        step()
    with pytest.raises(SystemExit) as ended, stage("train"):
        raise ExternalServiceError("no answer")
    assert ended.value.code == EXTERNAL_SERVICE_EXIT


def test_another_dvc_process_is_waited_for_by_name(dvc, folder):
    (folder / ".dvc/tmp").mkdir(parents=True)
    busy = {"write": {"/x/model.keras": {"pid": os.getpid(), "cmd": "/bin/dvc repro"}}, "read": {}}
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps(busy))
    said = []
    with pytest.raises(StageTimeout, match=f"dvc repro .PID {os.getpid()}. has been at work"):
        wait_for_dvc(soon(1), said.append)
    assert said == [f"waiting: /bin/dvc repro (PID {os.getpid()}) is at work here"]


def test_a_killed_dvc_process_is_not_waited_for(folder):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (folder / ".dvc/tmp").mkdir(parents=True)
    busy = {"write": {}, "read": {"/x/data": [{"pid": gone.pid, "cmd": "/bin/dvc repro"}]}}
    (folder / ".dvc/tmp/rwlock").write_text(json.dumps(busy))
    wait_for_dvc(soon(1), pytest.fail)


def test_a_second_flow_waits_and_says_for_whom(folder):
    said, order = [], []

    def second():
        with alone(said.append):
            order.append("second")

    with alone(said.append):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not said:
            time.sleep(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert f"PID {os.getpid()}" in said[0]


def test_the_lock_of_a_killed_flow_is_free(folder):
    hold = (
        "import time\nfrom pipeline.orchestration.dvc_steps import alone\n"
        "with alone(print): print('held', flush=True); time.sleep(99)"
    )
    holder = subprocess.Popen(python(hold), stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert is_locked(dvc_steps.LOCK)
    holder.kill()
    holder.communicate()
    with alone(pytest.fail):
        pass


def test_hashes_are_those_of_dvc(folder):
    assert output_hashes("split") == {}
    (folder / "dvc.lock").write_text("stages: {split: {outs: [{path: a, md5: '1'}, {path: b, md5: '2'}]}}")
    (folder / "data.dvc").write_text("outs: [{path: data, md5: 3.dir}]")
    assert output_hashes("split") == {"a": "1", "b": "2"}
    assert output_hashes("train") == {}
    assert output_hashes("data") == {"data": "3.dir"}


def test_a_stage_leaves_how_long_it_took_when_it_ends_well_and_other_commands_nothing(folder):
    for name in ("split", "promote"):
        with stage(name):
            time.sleep(0.06)
    with pytest.raises(SystemExit), stage("train"):
        raise StageError("no")
    [(name, seconds)] = seconds_of(STAGES).items()
    assert name == "split" and seconds >= 0.1
    assert [path.name for path in folder.rglob("*.json")] == ["split.json"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (".dvc/tmp/rwlock", "ERROR: Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted"),
        ("dvc.lock", "ERROR: './dvc.lock' validation failed."),
        ("dvc.lock", "ERROR: './dvc.lock' is invalid."),
    ],
)
def test_half_a_file_of_a_killed_dvc_is_removed_once(folder, file, said):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    assert mend("ERROR: something else") is None
    assert file in mend(said)
    assert not path.exists()
    assert mend(said) is None
    path.write_text("<<<<<<< ours\n")
    assert mend(said) is None
