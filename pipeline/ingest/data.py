"""Bring a data set in and make it a DVC version: `busi data [SOURCE]`.

A set is collected and checked beside `data/`, takes its place in one step, and is added to DVC; or nothing changes.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from busi.data.images import printable
from busi.data.layout import CLASSES, DATASET_FILE
from pipeline.ingest import dvc_command, remote, sources, swap
from pipeline.ingest.version import difference, has_content, is_cached, is_listed, read_version
from pipeline.paths import DATA, DATA_DVC
from pipeline.runtime import git
from pipeline.runtime.atomic_io import write_json
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.locks import locked

LOCK = Path(".cache/data.lock")


def bring(source: str | None) -> None:
    """Bring a data set into data/ and make it a DVC version; without `source`, only where data/ is missing.

    Args:
        source: phantom, busi, kaggle, or a path to a zip or folder.

    Raises:
        StageError, ValueError, OSError: data/ and data.dvc are as they were; the text says why.
    """
    if source is not None and not source.strip():
        raise StageError("the source is an empty text; expected phantom, busi, kaggle, or the path of a zip or folder")
    with _alone():
        match_git()
        swap.recover()
        if source is None:
            restore()
        else:
            bring_in(source)


def bring_in(source: str) -> None:
    """Collect `source`, swap it with `data/`, add it to DVC, and say what came in.

    Raises:
        StageError, ValueError, OSError: nothing was changed; the text says why.
    """
    _require_saved(source)
    before = read_version()
    with swap.incoming() as work:
        new = work / "new"
        description, ignored, notes = sources.collect(source, new)
        write_json(new / DATASET_FILE, description)
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
        swap.take_over(work, description["name"])
    counts = description["counts"]
    per_class = ", ".join(f"{label} {counts[label]}" for label in CLASSES)
    real = "synthetic" if description["synthetic"] else "not synthetic"
    print(
        f"data/ is now {description['name']} ({real}): {sum(counts.values())} images ({per_class}), "
        f"{description['masks']} masks, {size / 1e6:.1f} MB"
    )
    if ignored:
        names = ", ".join(map(printable, ignored[:5])) + (", ..." if len(ignored) > 5 else "")
        print(f"  ignored: {len(ignored)} files that no data set needs ({names})")
    for note in notes:
        print(f"  note: {note}")
    after = read_version()
    change = "first version" if before is None else "same version as before" if before == after else f"was {before[1]}"
    print(f"  data.dvc: {after[1]} ({change})")
    print("next: dvc repro")


def restore() -> None:
    """Put the version that `data.dvc` names into `data/`: from DVC's cache, its remote, or generated if synthetic.

    Raises:
        StageError: the version was not found; the text names it and says how to bring it in. Or `data/` holds another
            one, as after `git checkout` of another branch: to run on it would make it this branch's.
    """
    wanted = read_version()
    if has_content(DATA):
        print("data/ is there already; nothing to do")
        if wanted is None:
            print("  note: there is no data.dvc; `dvc add data` makes this a version")
        elif "modified" in (found := difference()):
            raise StageError(
                f"data/ is not the version that data.dvc names, {' '.join(filter(None, wanted))}: "
                "that of another branch, or changed by hand\n"
                "  for the version that data.dvc names: `dvc checkout data.dvc`, or `dvc pull data.dvc` from a remote\n"
                "  to keep what lies in data/ as the next version: `busi data ./data`"
            )
        elif found:
            print(f"  note: DVC calls it {found!r}: `dvc add data` puts it into the cache again")
        return
    reasons, named = [], None
    if wanted is not None:
        named = remote.default()
        gone = remote.silence(named[1]) if named else None
        commands = ["checkout"] if not gone or is_listed(wanted[1]) else []  # without its list, it asks the remote too
        if named and not gone:
            commands.append("pull")
        for command in commands:
            if command == "pull":
                print(f"asking DVC's remote {named[0]} for {wanted[1]}", flush=True)
            reason = _restore_by(command)
            if reason is None:
                print(f"data/ is back by dvc {command}: {wanted[0] or 'unnamed'}, {wanted[1]}")
                return
            reasons.append(f"dvc {command}: {reason}")
        if gone:
            reasons.append(f"DVC's remote {named[0]}, {named[1]}, is not there: {gone} (`dvc remote list`)")
    if wanted is None or wanted[0] == sources.EMBEDDED:
        bring_in(sources.EMBEDDED)
        return
    name = wanted[0] or "unnamed"
    again = " (or `busi data busi`)" if name == "busi" else ""
    kind = ExternalServiceError if named else StageError
    raise kind(
        f"data.dvc names the version {name} {wanted[1]}, and it is not here\n  "
        + "\n  ".join(reasons)
        + f"\n  bring it in: `busi data PATH`{again},"
        + "\n  or add a remote that holds it (`dvc remote add -d NAME URL`) and repeat,"
        + "\n  or start from the synthetic set: `busi data phantom`"
    )


def _require_saved(source: str) -> None:
    """Refuse to replace a `data/` whose content DVC doesn't hold, unless that very folder is the source.

    DVC holds that of another branch's `data.dvc` as well.
    """
    if not has_content(DATA) or (sources.is_path(source) and Path(source).resolve() == DATA.resolve()):
        return
    found = difference() if DATA_DVC.exists() else "in no version"
    if found and not is_cached(DATA):
        raise StageError(
            f"data/ is the only copy of what it holds (DVC calls it {found!r}), and that would be lost\n"
            "  keep it with `dvc add data`, or move data/ away, and repeat"
        )


def match_git() -> None:
    """Have DVC run without git where there is no repository, and say what is not recorded then.

    The setting is local to this checkout (.dvc/config.local), and goes as soon as there is a repository.
    """
    checkout = git.state()
    local = Path(".dvc/config.local")
    without = local.is_file() and "no_scm" in local.read_text(encoding="utf-8")
    if checkout is git.Checkout.NO_REPOSITORY:
        if not without:
            _require(dvc_command.dvc("config", "--local", "core.no_scm", "true"))
    elif without:
        _require(dvc_command.dvc("config", "--local", "--unset", "core.no_scm"))
    if checkout not in (git.Checkout.WHOLE, git.Checkout.WITHOUT_COMMIT):
        print(f"note: versions are registered without their commit: {checkout.sentence()}")


def _require(done: subprocess.CompletedProcess) -> None:
    if done.returncode:
        raise StageError(f"`dvc config` failed\n  {dvc_command.own_words(done)}")


def _restore_by(command: str) -> str | None:
    """Run `dvc checkout` or `dvc pull`; None when `data/` is there after it, else DVC's reason and no `data/`."""
    whole = False
    try:
        done = dvc_command.dvc(command, str(DATA_DVC))
        whole = done.returncode == 0 and has_content(DATA)
    finally:
        # DVC leaves the files that it found; half a set must not pass for a whole one
        if not whole and DATA.exists():
            shutil.rmtree(DATA)
    return None if whole else dvc_command.own_words(done)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this command: a second run at the same time would take the first one's folder for a leftover.

    Raises:
        StageError: another run holds it, or this is no DVC repository.
    """
    if not Path(".dvc").is_dir():
        raise StageError(f"no DVC repository in {Path.cwd()}\n  run in the root of the repository")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(LOCK, timeout=0))
        except Timeout as error:
            raise StageError("another `busi data` is at work here; repeat when it is done") from error
        yield
