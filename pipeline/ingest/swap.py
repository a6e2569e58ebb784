"""Replace `data/` by a set that was collected beside it, in one step that can be undone until it is complete.

A set is collected into `.data-incoming-*/new`, swapped with `data/`, and added to DVC. Until all of this is done, a
journal in that folder says what to undo. After a kill the next start finds it there.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.ingest import dvc_command
from pipeline.ingest.version import note_name
from pipeline.paths import DATA, DATA_DVC, DVC_LOCK
from pipeline.runtime.atomic_io import write_json
from pipeline.runtime.errors import StageError

INCOMING = ".data-incoming-"


@contextlib.contextmanager
def incoming() -> Iterator[Path]:
    """Yield a fresh folder beside `data/`. It is removed when the block ends, unless `undo` still needs it."""
    work = Path(tempfile.mkdtemp(prefix=INCOMING, dir="."))
    try:
        yield work
    except OSError as error:
        raise StageError(f"{error}\n  data/ and data.dvc are as they were") from error
    finally:
        if not (work / "journal").exists():
            # What can't be removed now is removed at the next start
            shutil.rmtree(work, ignore_errors=True)


def take_over(work: Path, name: str) -> None:
    """Swap `work/new` with `data/`, add it to DVC, note its name in `data.dvc`; or leave both as they were.

    `work/journal` exists exactly while there is something to undo. Undoing only renames, so that a full disk
    can't stop it.
    """
    new = work / "new"
    versioned = DATA_DVC.exists()
    if versioned:
        shutil.copyfile(DATA_DVC, work / DATA_DVC.name)
    write_json(work / "journal", {"inode": new.stat().st_ino, "versioned": versioned})
    try:
        _swap(new, aside=work / "old")
        added = dvc_command.dvc("add", str(DATA))
        if added.returncode:
            raise StageError(
                f"dvc add data failed; data/ and data.dvc are as they were\n  {dvc_command.own_words(added)}"
            )
        note_name(name)
    except BaseException:
        undo(work)
        raise
    (work / "journal").unlink()


def undo(work: Path) -> bool:
    """Put `data/` and `data.dvc` back as they were before `take_over(work)`; True when there was something to undo.

    May itself be interrupted and called again.
    """
    journal, new, old, saved = (work / name for name in ("journal", "new", "old", DATA_DVC.name))
    if not journal.exists():
        return False
    begun = json.loads(journal.read_text(encoding="utf-8"))
    swapped = DATA.exists() and DATA.stat().st_ino == begun["inode"]
    if swapped and os.path.lexists(new):
        _exchange(new, DATA)
    else:
        if swapped:
            DATA.rename(new)
        if os.path.lexists(old):
            old.rename(DATA)
    if saved.exists():
        saved.replace(DATA_DVC)
    elif not begun["versioned"]:
        DATA_DVC.unlink(missing_ok=True)
    journal.unlink()
    return True


def recover() -> None:
    """Undo what a killed run left half done and remove its folder."""
    for work in sorted(Path().glob(f"{INCOMING}*")):
        if undo(work):
            print("an earlier run was cut off; data/ and data.dvc are back as they were before it")
        shutil.rmtree(work)
    if DVC_LOCK.exists():
        dvc_command.dvc("stage", "list", "--name-only")  # reads dvc.lock; `dvc` then mends one that is half written


def _swap(new: Path, aside: Path) -> None:
    if not os.path.lexists(DATA):
        new.rename(DATA)
    elif not _exchange(new, DATA):
        DATA.rename(aside)
        new.rename(DATA)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux renameat2); False where kernel or file system can't."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2
    if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
