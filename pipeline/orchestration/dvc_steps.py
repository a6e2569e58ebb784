"""The stages of `dvc.yaml`, each run by `dvc repro --single-item`: DVC alone decides whether there is anything to do.

So running every stage here in order equals `dvc repro`: the same commands, the same `dvc.lock`, one cache.
"""

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import yaml
from filelock import Timeout

from pipeline.ingest.dvc_command import DVC_BUSY, mend
from pipeline.orchestration.dvc_file import outputs_of, read_stages
from pipeline.paths import DATA_DVC, DVC_FILE, DVC_LOCK
from pipeline.runtime.atomic_io import write_text
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.lifecycle import EXTERNAL_SERVICE_EXIT
from pipeline.runtime.locks import locked
from pipeline.runtime.processes import end_tree, is_alive

LOCK, HOLDER = Path(".cache/flow.lock"), Path(".cache/flow.holder")  # of the flow, and who holds it

DATA = "data"  # the step before the stages: bring `data/` in, and make `data.dvc` its version
SUMMARY = "summary"  # the step after them: register where the store was deleted, and say what was reached

LAST_LINES = 12
PROGRESS_SECONDS = 15  # between two lines of one progress bar
POLL_SECONDS = 1.0

RAN = re.compile(r"^Running stage '")
SKIPPED = re.compile(r"didn't change, skipping|is cached - skipping run")
BUSY = re.compile(r"is busy, it is being blocked by")
EXIT_CODE = re.compile(r"exited with (\d+)")
DVC_ECHO = re.compile(r"ERROR: failed to reproduce|Running stage '|> python -m ")


class Outcome(NamedTuple):
    """What a step did. `changed` says whether the hashes of its outputs differ from those before it."""

    step: str
    ran: bool
    seconds: float
    changed: bool


class StageTimeout(StageError):
    """A stage that took longer than `flow.timeout` allows."""


def stage_names() -> list[str]:
    """The stages of `dvc.yaml` in its order.

    Raises:
        StageError: a stage reads what a later one writes, so the stages cannot be run in this order.
    """
    stages = read_stages()
    writers = {out: name for name, body in stages.items() for out in outputs_of(body)}
    names = list(stages)
    for name, body in stages.items():
        for dep in body.get("deps", []):
            if dep in writers and names.index(writers[dep]) >= names.index(name):
                raise StageError(
                    f"{DVC_FILE}: {name} reads {dep}, which {writers[dep]} writes\n  put {writers[dep]} before it"
                )
    return names


def run_step(step: str, *, timeout: float, say: Callable[[str], None], force: bool = False) -> Outcome:
    """Run one step: `data`, a stage of `dvc.yaml`, or `summary`.

    Args:
        timeout: seconds, waiting for another DVC process included.
        say: takes each line that the step prints.
        force: run the stage although nothing changed, as `dvc repro --force` does.

    Raises:
        StageTimeout: the step took too long; its processes are ended.
        ExternalServiceError: what failed lies outside this machine and may work later.
        StageError: the step failed; the text ends with its own last lines.
    """
    started = time.monotonic()
    deadline = started + timeout
    before = output_hashes(step)
    if step == SUMMARY:
        _run_module(step, deadline, say)
        ran = True
    elif step == DATA:
        missing = not any(Path(DATA).glob("*"))
        _run_module(step, deadline, say)  # stops where data/ is not what data.dvc names; DVC would rewrite data.dvc
        _repro(step, deadline, say, force=False)
        ran = missing or output_hashes(step) != before
    else:
        lines = _repro(step, deadline, say, force=force)
        ran = any(map(RAN.search, lines))
        if not ran and not any(map(SKIPPED.search, lines)):
            raise StageError(f"{step}: DVC said neither that it ran the stage nor that it skipped it\n{_shown(lines)}")
    return Outcome(step, ran, time.monotonic() - started, output_hashes(step) != before)


def output_hashes(step: str) -> dict[str, str]:
    """Path to hash of a step's outputs, as `dvc.lock` or `data.dvc` has them; empty before the first run."""
    file = DATA_DVC if step == DATA else DVC_LOCK
    if not file.is_file():
        return {}
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    outs = content.get("outs", []) if step == DATA else content.get("stages", {}).get(step, {}).get("outs", [])
    return {out["path"]: out["md5"] for out in outs}


@contextlib.contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the flow. While another flow holds it, say which one and wait; a killed flow holds none."""
    said = None
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(LOCK, timeout=0))
                break
            except Timeout:
                holder = HOLDER.read_text(encoding="utf-8") if HOLDER.is_file() else ""
                if holder and holder != said:
                    say(f"waiting: another flow is at work here ({holder})")
                    said = holder
                time.sleep(POLL_SECONDS)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        write_text(HOLDER, f"PID {os.getpid()}, since {now}")
        stack.callback(HOLDER.unlink, missing_ok=True)  # before the lock is given back
        yield


def wait_for_dvc(deadline: float, say: Callable[[str], None]) -> None:
    """Wait while a DVC process runs a stage in this repository, and say which.

    Raises:
        StageTimeout: it is still at work at the deadline, of `time.monotonic()`.
    """
    said = None
    while holder := _dvc_at_work():
        if holder != said:
            say(f"waiting: {holder} is at work here")
            said = holder
        if time.monotonic() > deadline:
            raise StageTimeout(f"{holder} has been at work here for too long\n  wait for it, or end it, and repeat")
        time.sleep(POLL_SECONDS)


def follow(step: str, command: list[str], deadline: float, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command in a session of its own and hand on each line it prints.

    A progress bar, which draws over itself with carriage returns, gives a line each `PROGRESS_SECONDS` and its last.
    When an exception leaves this call, as when a flow is cancelled, the command and all that it started are ended.

    Returns:
        The exit code, and the lines.

    Raises:
        StageTimeout: the deadline, of `time.monotonic()`, has passed.
    """
    lines = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        for line in _lines(process, step, deadline):
            lines.append(line)
            say(line)
        return process.wait(), lines
    except BaseException:
        end_tree(process)
        raise
    finally:
        process.stdout.close()


def _run_module(step: str, deadline: float, say: Callable[[str], None]) -> list[str]:
    wait_for_dvc(deadline, say)
    code, lines = follow(step, [sys.executable, "-m", "pipeline.cli", step], deadline, say)
    if code:
        raise _failure(step, lines, code)
    return lines


def _repro(step: str, deadline: float, say: Callable[[str], None], *, force: bool) -> list[str]:
    """`dvc repro --single-item`, again when another DVC process was quicker; gives the lines it printed."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
    command += [str(DATA_DVC)] if step == DATA else [*(["--force"] if force else []), step]
    while True:
        wait_for_dvc(deadline, say)
        code, lines = follow(step, command, deadline, say)
        if code == 0:
            return lines
        if done := mend("\n".join(lines)):
            say(done)
        elif any(map(BUSY.search, lines)):
            time.sleep(POLL_SECONDS)
        else:
            raise _failure(step, lines, code)


def _failure(step: str, lines: list[str], code: int) -> StageError:
    """The error of a step that ended with `code`: DVC gives its own, and names that of the stage in its last lines."""
    named = [found[1] for line in lines if (found := EXIT_CODE.search(line))]
    code = int(named[-1]) if named else code
    own = [line for line in lines if not DVC_ECHO.search(line)]
    kind = ExternalServiceError if code == EXTERNAL_SERVICE_EXIT else StageError
    return kind(f"{step} failed with exit code {code}; its last lines:\n{_shown(own or lines)}")


def _shown(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in [line for line in lines if line.strip()][-LAST_LINES:])


def _lines(process: subprocess.Popen, step: str, deadline: float) -> Iterator[str]:
    pending, quiet_until = b"", 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if time.monotonic() > deadline:
                raise StageTimeout(
                    f"{step} ran longer than flow.timeout.{step} of params.yaml allows and was ended\n"
                    "  raise it there if the time was well spent"
                )
            if not selector.select(timeout=min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            *whole, pending = re.split(rb"(?<=[\r\n])", pending + chunk) if chunk else (pending, b"")
            for piece in whole:
                text = piece.decode(errors="replace").rstrip()
                is_progress = piece.endswith(b"\r")
                if not text or (is_progress and time.monotonic() < quiet_until):
                    continue
                if is_progress:
                    quiet_until = time.monotonic() + PROGRESS_SECONDS
                yield text
            if not chunk:
                return


def _dvc_at_work() -> str | None:
    try:
        found = json.loads(DVC_BUSY.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or just being written
        return None
    readers = [info for infos in found.get("read", {}).values() for info in infos]
    for info in [*found.get("write", {}).values(), *readers]:
        if is_alive(info["pid"]):
            return f"{info['cmd']} (PID {info['pid']})"
    return None
