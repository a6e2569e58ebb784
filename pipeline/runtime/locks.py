"""Locks between processes, and scratch folders. Both end with the process that holds them, however it ends.

The lock is `filelock`'s, which asks the operating system: a killed holder blocks nobody.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_FOREVER = -1
_LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(path: Path, timeout: float = _FOREVER) -> Iterator[None]:
    """Hold the lock file `path` for the length of a block; one process, and one thread in it, at a time.

    Args:
        path: the lock file; made where it is missing, never removed.
        timeout: seconds to wait for another holder; 0 tries once, -1 waits for ever.

    Raises:
        filelock.Timeout: another process still holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout, is_singleton=False):
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file at this moment."""
    if not path.is_file():
        return False
    try:
        with locked(path, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """Yield a fresh folder `.name-*` below `folder` for a block. Removes those of killed processes too."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Under one lock: a new folder that is not locked yet would look abandoned to another process
        with locked(folder / f".{name}{_LOCK_FILE}"):
            for left in folder.glob(f".{name}-*"):
                if left.is_dir() and not is_locked(left / _LOCK_FILE):
                    shutil.rmtree(left)
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder)))
            stack.enter_context(locked(made / _LOCK_FILE))
        yield made
