"""How a command or stage begins and ends: signals, error messages, exit codes, time taken."""

import contextlib
import errno
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.runtime import environment, terminal
from pipeline.runtime.atomic_io import write_json
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.processes import end_with_parent

STAGES = ("validate", "split", "featurize", "train", "evaluate", "report", "register")  # those of dvc.yaml
TIMINGS = Path(".cache/timings")  # not beside the outputs: a time is a function of no input

EXTERNAL_SERVICE_EXIT = 75  # exit code, EX_TEMPFAIL of sysexits.h
INTERRUPTED_EXIT = 130  # exit code, as a shell has it of Ctrl-C

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")  # user and password in the address of a store or a remote

_DVC_TEMPORARY = re.compile(r"\.[\w-]{22}\.tmp")  # dvc_objects.fs.utils.tmp_fname


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Run the body of a stage or command; its errors end the process with an exit code and, if expected, no traceback.

    A `StageError`, `ValueError` or `OSError` prints its text and ends the process with exit code 1.

    An `ExternalServiceError` ends it with `EXTERNAL_SERVICE_EXIT`, so that the flow tries again.
    Ctrl-C, SIGTERM and SIGHUP end it with `INTERRUPTED_EXIT`, after clean-up. Errors of other types are bugs and keep
    their traceback; so do all with BUSI_TRACEBACK=1. How long one of `STAGES` took is left in `TIMINGS`.
    """
    terminal.prepare()
    started = time.monotonic()
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is signal.SIG_DFL:  # not under nohup
                signal.signal(ending, _interrupt)
    if "DVC_STAGE" in os.environ:
        end_with_parent()
        _sweep(Path("artifacts", name))
    try:
        if refused := environment.refusal(os.environ):
            raise StageError(refused)
        yield
        sys.stdout.flush()  # a full disk is an error, and said below
        if name in STAGES:
            write_json(TIMINGS / f"{name}.json", {"seconds": round(time.monotonic() - started, 1)})
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; nothing half done is kept, and the same command goes on", file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT)
    except (StageError, ValueError, OSError) as error:
        if os.environ.get("BUSI_TRACEBACK"):
            raise
        text = str(error)
        if isinstance(error, FileNotFoundError) and error.filename:
            text = f"{error.filename} not found"
            if name in STAGES:
                text += "\n  the stages before write it: dvc repro"
        if isinstance(error, PermissionError) and error.filename:
            text += f"\n  {_whose(Path(error.filename))}"
        if isinstance(error, OSError) and error.errno == errno.ENOLCK:
            text += "\n  this disk, most likely one on a network, can't lock files; move the repository to a local disk"
        with contextlib.suppress(OSError):  # of a full disk, which may be the error itself
            sys.stdout.flush()  # in a pipe or a file that both streams go to, what led to the error stands before it
        print(f"\nerror in {name}: {_CREDENTIALS.sub('', text)}", file=sys.stderr)
        sys.exit(EXTERNAL_SERVICE_EXIT if isinstance(error, ExternalServiceError) else 1)


def seconds_of(stages: Iterable[str]) -> dict[str, float]:
    """How long each stage took when it last ran here, without the start of Python; one that never did is left out."""
    files = {name: TIMINGS / f"{name}.json" for name in stages}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["seconds"] for name, file in files.items() if file.is_file()
    }


def _whose(path: Path) -> str:
    """Why a file is refused, and the way out: most often a run as root, with sudo or in a container, has left it."""
    path = path.absolute()
    there = next(one for one in (path, *path.parents) if os.path.lexists(one))
    folder = Path.cwd() if path.is_relative_to(Path.cwd()) else there
    owner, ours = os.lstat(there).st_uid, os.getuid()
    if owner == ours:
        return f"{there} is yours but closed to you: `chmod -R u+rwX {folder}`"
    return f"{there} belongs to user {owner}, and you are {ours}: `sudo chown -R {ours} {folder}` makes it yours"


def _interrupt(number: int, frame) -> None:
    """End as by Ctrl-C, once: when DVC ends by the same signal, `end_with_parent` sends another one during clean-up."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _sweep(folder: Path) -> None:
    """Remove the temporary files that a killed DVC left beside a stage's outputs.

    None is in use: the DVC that runs this stage waits for it.
    """
    for left in folder.glob(".*.tmp"):
        if _DVC_TEMPORARY.fullmatch(left.name):
            left.unlink()
