"""Outputs that appear whole or not at all, how long a stage took, and the one way a stage ends with an error.

Every writer here writes beside the target and renames, so a killed process leaves the old file or the new one
and never half of one.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

STAGES = ("validate", "split", "featurize", "train", "evaluate", "register")  # those of dvc.yaml
TIMINGS = Path(".cache/timings")  # not beside the outputs: a time is a function of no input

OUTSIDE = 75  # exit code, EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # exit code, as a shell has it of Ctrl-C

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")  # user and password in the address of a store or a remote

_OF_DVC = re.compile(r"\.[\w-]{22}\.tmp")  # dvc_objects.fs.utils.tmp_fname

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class StageError(Exception):
    """A failure the user can mend: its text says what was received, what was expected and how to mend it."""


class Outside(StageError):
    """What failed lies outside this machine, a server or a remote, and may work when tried again."""


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Run a stage's body; a `StageError`, `ValueError` or `OSError` ends the process with exit code 1 and no traceback.

    An `Outside` ends it with `OUTSIDE`, so that the flow knows what is worth another try. Ctrl-C, SIGTERM and SIGHUP
    end it with `INTERRUPTED`, after everything on the way out has cleaned up. Errors of other types are bugs and keep
    their traceback. How long one of `STAGES` took is left in `TIMINGS`.
    """
    started = time.monotonic()
    if threading.current_thread() is threading.main_thread():  # only there can it be said
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is signal.SIG_DFL:  # not under nohup
                signal.signal(ending, _interrupt)
    if "DVC_STAGE" in os.environ:
        _end_with_parent()
        _sweep(Path("artifacts", name))
    try:
        yield
        if name in STAGES:
            write_json(TIMINGS / f"{name}.json", {"seconds": round(time.monotonic() - started, 1)})
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; nothing half done is kept, and the same command goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (StageError, ValueError, OSError) as error:
        if os.environ.get("BUSI_TRACEBACK"):
            raise
        text = str(error)
        if isinstance(error, FileNotFoundError) and error.filename:
            text = f"{error.filename} not found\n  the stages before write it: dvc repro"
        print(f"\nerror in {name}: {_CREDENTIALS.sub('', text)}", file=sys.stderr)
        sys.exit(OUTSIDE if isinstance(error, Outside) else 1)


def seconds_of(stages: Iterable[str]) -> dict[str, float]:
    """How long each stage took when it last ran here, without the start of Python; one that never did is left out."""
    files = {name: TIMINGS / f"{name}.json" for name in stages}
    return {name: json.loads(file.read_text())["seconds"] for name, file in files.items() if file.is_file()}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """Yield a fresh folder `.name-*` below `folder` for the length of a block; those of killed processes go too.

    A living process holds a lock on its own, which ends with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _locked(folder):
            for left in folder.glob(f".{name}-*"):
                with contextlib.suppress(OSError), _locked(left, fcntl.LOCK_NB):  # OSError: in use
                    shutil.rmtree(left)
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder)))
            stack.enter_context(_locked(made))
        yield made


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, no NaN, a final newline: the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index. Floats are written with 9 significant digits, enough for any float32."""
    with whole_file(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n", float_format="%.9g")


@contextlib.contextmanager
def _locked(folder: Path, at_once: int = 0) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | at_once)
        yield
    finally:
        os.close(handle)


def _interrupt(number: int, frame) -> None:
    """End as by Ctrl-C. Once: DVC, ended by the same signal, sends another one (see below) into the cleaning up."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _sweep(folder: Path) -> None:
    """Remove what a DVC that was killed while it linked a stage's outputs left beside them; a living one now waits."""
    for left in folder.glob(".*.tmp"):
        if _OF_DVC.fullmatch(left.name):
            left.unlink()


def _end_with_parent() -> None:
    """Have the system end this process when DVC, which started it, is killed; else both it and its repetition run."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
