"""DVC's commands as processes, and the repair of DVC's own files that a killed DVC left half written."""

import re
import subprocess
import sys
from pathlib import Path

from pipeline.paths import DVC_LOCK

DVC_BUSY = Path(".dvc/tmp/rwlock")  # what DVC's processes read and write at the moment
LINES_SHOWN = 10

_BROKEN_BUSY = re.compile(r"Unable to read RWLock-file|RWLock-file .* format error")
_BROKEN_LOCK = re.compile(r"dvc\.lock' (is invalid|validation failed)")


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    """Run a DVC command to its end, again after `mend`; its output is text in `stdout` and `stderr`."""
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], capture_output=True, encoding="utf-8", errors="replace",
            check=False,
        )  # fmt: skip
        if not (done.returncode and (mended := mend(done.stderr))):
            return done
        print(mended)


def own_words(done: subprocess.CompletedProcess) -> str:
    """What a DVC command said, indented. DVC repeats itself for every file of a set, so only the first lines."""
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    if len(lines) > LINES_SHOWN:
        lines[LINES_SHOWN:] = [f"... and {len(lines) - LINES_SHOWN} more lines"]
    return "\n  ".join(lines)


def mend(said: str) -> str | None:
    """Remove a file of DVC's own that a killed DVC left half written, if DVC complains of it.

    DVC writes these files in place. What `dvc.lock` named is found again in DVC's run cache, or runs again. A
    `dvc.lock` with git's conflict marks is a user's work and is left alone.

    Args:
        said: what DVC printed.

    Returns:
        What was done, or None.
    """
    for path, complaint in ((DVC_BUSY, _BROKEN_BUSY), (DVC_LOCK, _BROKEN_LOCK)):
        if complaint.search(said) and path.is_file() and "<<<<<<<" not in path.read_text(encoding="utf-8"):
            path.unlink()
            return f"a killed DVC left half of {path.as_posix()}; it was removed"
    return None
