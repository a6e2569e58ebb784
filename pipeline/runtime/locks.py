"""Scratch folders that a killed process does not leave behind for ever."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


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


@contextlib.contextmanager
def _locked(folder: Path, at_once: int = 0) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | at_once)
        yield
    finally:
        os.close(handle)
