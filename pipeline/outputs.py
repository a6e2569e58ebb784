"""Outputs that appear whole or not at all, how long a stage took, and the one way a stage ends with an error.

Every writer here writes beside the target and renames, so a killed process leaves the old file or the new one
and never half of one.
"""

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

STAGES = ("validate", "split", "featurize", "train", "evaluate", "register")  # those of dvc.yaml
TIMINGS = Path(".cache/timings")  # not beside the outputs: a time is a function of no input

OUTSIDE = 75  # exit code, EX_TEMPFAIL of sysexits.h


class StageError(Exception):
    """A failure the user can mend: its text says what was received, what was expected and how to mend it."""


class Outside(StageError):
    """What failed lies outside this machine, a server or a remote, and may work when tried again."""


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Run a stage's body; a `StageError`, `ValueError` or `OSError` ends the process with exit code 1 and no traceback.

    An `Outside` ends it with `OUTSIDE`, so that the flow knows what is worth another try. Errors of other types are
    bugs and keep their traceback. How long one of `STAGES` took is left in `TIMINGS`.
    """
    started = time.monotonic()
    try:
        yield
        if name in STAGES:
            write_json(TIMINGS / f"{name}.json", {"seconds": round(time.monotonic() - started, 1)})
    except (StageError, ValueError, OSError) as error:
        if os.environ.get("BUSI_TRACEBACK"):
            raise
        text = str(error)
        if isinstance(error, FileNotFoundError) and error.filename:
            text = f"{error.filename} not found\n  the stages before write it: dvc repro"
        print(f"\nerror in {name}: {text}", file=sys.stderr)
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
