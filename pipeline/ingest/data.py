"""Bring a data set in: `busi data [SOURCE]`.

A set is collected into `.data-incoming-*`, checked and described there, swapped with `data/` in one step, and added
to DVC. Until the last of these is done everything can be undone, after a kill too: the next start finds the journal
in the leftover folder and puts `data/` and `data.dvc` back.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from tqdm import tqdm

from busi.data import archive
from busi.data.layout import CLASSES, DATASET_FILE, PUBLISHED_COUNTS
from pipeline.orchestration.dvc_steps import DVC_LOCK, mend
from pipeline.params import read_params
from pipeline.runtime.atomic_io import write_json, write_text
from pipeline.runtime.errors import ExternalServiceError, StageError

DATA = Path("data")
DATA_DVC = Path("data.dvc")
LOCK = Path(".cache/data.lock")
DOWNLOADS = Path(".cache/pooch")
INCOMING = ".data-incoming-"
LINES_SHOWN = 10

BUSI_URL = "https://scholar.cu.edu.eg/Dataset_BUSI.zip"
BUSI_SHA256 = "b2ce09f6063a31a73f628b6a6ee1245187cbaec225e93e563735691d68654de7"
BUSI_DOI = "10.1016/j.dib.2019.104863"
BUSI_LICENCE = "CC BY 4.0"
KAGGLE = "aryashah2k/breast-ultrasound-images-dataset"
EMBEDDED = "phantom"

OTHER_WAYS = "other ways: `busi data {other}`, or `busi data PATH` with a zip or folder"


def bring(source: str | None) -> None:
    """Bring a data set into data/ and make it a DVC version; without `source`, only where data/ is missing.

    Args:
        source: phantom, busi, kaggle, or a path to a zip or folder.

    Raises:
        StageError, ValueError, OSError: data/ and data.dvc are as they were; the text says why.
    """
    with _alone():
        recover()
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
    with _incoming() as work:
        new = work / "new"
        description, ignored, notes = _collect(source, new)
        write_json(new / DATASET_FILE, description)
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
        take_over(work, description["name"])
    counts = description["counts"]
    per_class = ", ".join(f"{label} {counts[label]}" for label in CLASSES)
    real = "synthetic" if description["synthetic"] else "not synthetic"
    print(
        f"data/ is now {description['name']} ({real}): {sum(counts.values())} images ({per_class}), "
        f"{description['masks']} masks, {size / 1e6:.1f} MB"
    )
    if ignored:
        names = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
        print(f"  ignored: {len(ignored)} files that no data set needs ({names})")
    for note in notes:
        print(f"  note: {note}")
    after = read_version()
    change = "first version" if before is None else "same version as before" if before == after else f"was {before[1]}"
    print(f"  data.dvc: {after[1]} ({change})")
    print("next: dvc repro")


def restore() -> None:
    """Put the version that `data.dvc` names into `data/`: from DVC's cache, its remote, or by generating the phantom.

    Raises:
        StageError: the version is nowhere to be had; the text names it and says how to bring it in.
    """
    wanted = read_version()
    if _has_content(DATA):
        print("data/ is there already; nothing to do")
        if wanted is None:
            print("  note: there is no data.dvc; `dvc add data` makes this a version")
        elif difference := _difference():
            print(f"  note: DVC calls it {difference!r} beside {wanted[1]} in data.dvc: `dvc add data` keeps what is")
            print("  here; to have that version instead, move data/ away and run `busi data` again")
        return
    reasons = []
    if wanted is not None:
        for command in ("checkout", "pull") if _dvc("remote", "list").stdout.strip() else ("checkout",):
            reason = _restore_by(command)
            if reason is None:
                print(f"data/ is back by dvc {command}: {wanted[0] or 'unnamed'}, {wanted[1]}")
                return
            reasons.append(f"dvc {command}: {reason}")
    if wanted is None or wanted[0] == EMBEDDED:
        bring_in(EMBEDDED)
        return
    name = wanted[0] or "unnamed"
    again = " (or `busi data busi`)" if name == "busi" else ""
    kind = ExternalServiceError if len(reasons) > 1 else StageError  # the remote was asked
    raise kind(
        f"data.dvc names the version {name} {wanted[1]}, and it is not here\n  "
        + "\n  ".join(reasons)
        + f"\n  bring it in: `busi data PATH`{again},"
        + "\n  or add a remote that holds it (`dvc remote add -d NAME URL`) and repeat,"
        + "\n  or start from the synthetic set: `busi data phantom`"
    )


def read_version() -> tuple[str, str] | None:
    """(set name, md5) that `data.dvc` names; the name is empty when nobody noted it; None without `data.dvc`.

    The name was noted together with the md5 it is of: DVC keeps `meta` when it writes another md5 beside it.
    """
    if not DATA_DVC.exists():
        return None
    try:
        value = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))
        md5, meta = value["outs"][0]["md5"], value.get("meta") or {}
        return meta.get("name", "") if meta.get("md5") == md5 else "", md5
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise StageError(
            f"{DATA_DVC} is not a file of DVC ({type(error).__name__}: {error})\n"
            f"  restore it (`git checkout {DATA_DVC}`) or remove it, and repeat"
        ) from error


def take_over(work: Path, name: str) -> None:
    """Swap `work/new` with `data/`, add it to DVC, note its name in `data.dvc`; or leave both as they were.

    `work/journal` exists exactly while there is something to undo. Undoing only renames, so that a full disk
    can't stand in its way.
    """
    new = work / "new"
    versioned = DATA_DVC.exists()
    if versioned:
        shutil.copyfile(DATA_DVC, work / "data.dvc")
    write_json(work / "journal", {"inode": new.stat().st_ino, "versioned": versioned})
    try:
        _swap(new, aside=work / "old")
        added = _dvc("add", str(DATA))
        if added.returncode:
            raise StageError(f"dvc add data failed; data/ and data.dvc are as they were\n  {_said(added)}")
        _note_name(name)
    except BaseException:
        undo(work)
        raise
    (work / "journal").unlink()


def undo(work: Path) -> bool:
    """Put `data/` and `data.dvc` back as they were before `take_over(work)`; True when there was something to undo.

    May itself be interrupted and called again.
    """
    journal, new, old, saved = (work / name for name in ("journal", "new", "old", "data.dvc"))
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
        _dvc("stage", "list", "--name-only")  # reads dvc.lock, and so has half of one mended


def _collect(source: str, folder: Path) -> tuple[dict, tuple[str, ...], list[str]]:
    """Bring `source` into `folder`; gives the content of `dataset.json`, ignored junk, and notes for the user."""
    match source:
        case "phantom":
            return _generate(folder), (), []
        case "busi":
            return _take_busi(_download_busi(), BUSI_URL, folder)
        case "kaggle":
            return _take_busi(_download_kaggle(), f"Kaggle {KAGGLE}", folder)
    path = Path(source).expanduser()
    if not path.exists():
        raise StageError(f"{source!r} is not there\n  SOURCE is phantom, busi, kaggle, or a path to a zip or folder")
    taken = archive.collect(path.resolve(), folder)
    _require_readable(folder)
    description = taken.description or _describe_local(path.resolve())
    return description | {"counts": taken.counts, "masks": taken.masks}, taken.ignored, []


def _generate(folder: Path) -> dict:
    from busi.phantom.dataset import generate

    wanted = read_params().data.phantom
    return generate(folder, {label: getattr(wanted, label) for label in CLASSES}, wanted.seed)


def _take_busi(path: Path, where: str, folder: Path) -> tuple[dict, tuple[str, ...], list[str]]:
    taken = archive.collect(path, folder)
    _require_readable(folder)
    description = {
        "name": "busi",
        "synthetic": False,
        "source": f"doi:{BUSI_DOI}, {where}",
        "licence": BUSI_LICENCE,
        "counts": taken.counts,
        "masks": taken.masks,
    }
    notes = [] if taken.counts == PUBLISHED_COUNTS else [f"BUSI as published has {PUBLISHED_COUNTS}"]
    return description, taken.ignored, notes


def _require_readable(folder: Path) -> None:
    """Decode every file, so that no set with a damaged image takes the place of a good one.

    Raises:
        StageError: names the files that cannot be read, with the reason for each.
    """
    from busi.data.images import read_image

    def fault(name: str) -> str | None:
        try:
            read_image(folder / name, name)
        except ValueError as error:
            return str(error)
        return None

    names = sorted(file.relative_to(folder).as_posix() for label in CLASSES for file in (folder / label).iterdir())
    with ThreadPoolExecutor() as pool:
        checked = tqdm(pool.map(fault, names), total=len(names), desc="decode", unit="file", mininterval=1)
        faults = [found for found in checked if found]
    if faults:
        more = [f"and {len(faults) - LINES_SHOWN} more"] if len(faults) > LINES_SHOWN else []
        raise StageError(
            f"{len(faults)} of {len(names)} files are no images that can be read\n  "
            + "\n  ".join(faults[:LINES_SHOWN] + more)
            + "\n  mend or remove them (a mask with its image), and repeat"
        )


def _describe_local(path: Path) -> dict:
    name = path.name if path.is_dir() else path.stem
    if reason := archive.name_fault(name):
        raise StageError(f"{name!r} can't name a data set: {reason}")
    if name == EMBEDDED:
        raise StageError(
            f"{path.name!r} is named like the synthetic set but has no {DATASET_FILE} to say what it is\n"
            f"  put the {DATASET_FILE} of the set beside its class folders, or rename it if it is real"
        )
    return {"name": name, "synthetic": False, "source": path.name, "licence": "not stated by its source"}


def _download_busi() -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    for left in DOWNLOADS.glob("tmp*"):  # pooch's, of a killed download
        left.unlink()
    try:
        return Path(
            pooch.retrieve(
                BUSI_URL,
                known_hash=f"sha256:{BUSI_SHA256}",
                fname="Dataset_BUSI.zip",
                path=DOWNLOADS,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
            )
        )
    # A wrong hash is a ValueError; requests' errors are OSErrors
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise StageError(
            f"BUSI could not be downloaded from {BUSI_URL}; nothing was kept\n  {error}\n  "
            + OTHER_WAYS.format(other="kaggle")
        ) from error


def _download_kaggle() -> Path:
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(KAGGLE))
    # kagglehub's own errors share no class but Exception with each other
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise StageError(
            f"Kaggle did not give {KAGGLE}\n  {type(error).__name__}: {error}\n"
            "  it needs the network and, for some accounts, credentials (KAGGLE_API_TOKEN, see kaggle.com/settings)\n  "
            + OTHER_WAYS.format(other="busi")
        ) from error


def _require_saved(source: str) -> None:
    """Refuse to replace a `data/` whose content DVC doesn't hold, unless that very folder is the source."""
    is_path = source not in ("phantom", "busi", "kaggle")
    if not _has_content(DATA) or (is_path and Path(source).resolve() == DATA.resolve()):
        return
    if difference := _difference() if DATA_DVC.exists() else "in no version":
        raise StageError(
            f"data/ is the only copy of what it holds (DVC calls it {difference!r}), and that would be lost\n"
            "  keep it with `dvc add data`, or move data/ away, and repeat"
        )


def _difference() -> str:
    """How `data/` differs from `data.dvc` and DVC's cache, in DVC's words (modified, not in cache), or nothing."""
    done = _dvc("status", "--json", str(DATA_DVC))
    if done.returncode:
        raise StageError(f"dvc status failed\n  {_said(done)}")
    changes = json.loads(done.stdout).get(str(DATA_DVC), [])
    return ", ".join(word for change in changes for outs in change.values() for word in outs.values())


def _has_content(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise StageError(f"{folder} is a file; expected a folder or nothing\n  move it away and repeat")
    return folder.is_dir() and any(folder.iterdir())


def _restore_by(command: str) -> str | None:
    """Run `dvc checkout` or `dvc pull`; None when `data/` is there after it, else DVC's reason and no `data/`."""
    whole = False
    try:
        done = _dvc(command, str(DATA_DVC))
        whole = done.returncode == 0 and _has_content(DATA)
    finally:
        # DVC leaves what it found; half a set must not pass for one
        if not whole and DATA.exists():
            shutil.rmtree(DATA)
    return None if whole else _said(done)


def _note_name(name: str) -> None:
    """Write the set's name into `data.dvc`, where DVC keeps it, so that a clone knows what the md5 stands for."""
    value = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))
    meta = {"name": name, "md5": value["outs"][0]["md5"]}
    if value.get("meta") != meta:
        write_text(DATA_DVC, yaml.safe_dump(value | {"meta": meta}, sort_keys=False, allow_unicode=True))


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


@contextlib.contextmanager
def _incoming() -> Iterator[Path]:
    """Yield a fresh folder beside `data/`; it goes when the block ends, unless `undo` still needs it."""
    work = Path(tempfile.mkdtemp(prefix=INCOMING, dir="."))
    try:
        yield work
    except OSError as error:
        raise StageError(f"{error}\n  data/ and data.dvc are as they were") from error
    finally:
        if not (work / "journal").exists():
            # What can't be removed now is removed at the next start
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this command; a second run at the same time would take the first one's folder for a leftover."""
    if not Path(".dvc").is_dir():
        raise StageError(f"no DVC repository in {Path.cwd()}\n  run from the repository root")
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError("another `busi data` is at work here; repeat when it is done") from error
        yield


def _dvc(*arguments: str) -> subprocess.CompletedProcess:
    while True:
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
        if not (done.returncode and (mended := mend(done.stderr))):
            return done
        print(mended)


def _said(done: subprocess.CompletedProcess) -> str:
    """DVC's own words, indented; it repeats itself for every file of a set, so only the first lines."""
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    if len(lines) > LINES_SHOWN:
        lines[LINES_SHOWN:] = [f"... and {len(lines) - LINES_SHOWN} more lines"]
    return "\n  ".join(lines)
