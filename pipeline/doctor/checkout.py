"""The checkout and what it holds: folder, git, files, store, data, and commands at work here."""

import configparser
import contextlib
import importlib.util
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding, counted, first
from pipeline.paths import DATA, DATA_DVC, DVC_FILE, DVC_LOCK, PARAMS, ROOT, STORE
from pipeline.runtime import environment, git

DATABASE = STORE / "mlflow.db"
WRITTEN = (Path(), Path(".cache"), STORE, Path(".dvc/cache"), Path("artifacts"), Path("reports"))
DATA_LOCK, FLOW_LOCK = Path(".cache/data.lock"), Path(".cache/flow.lock")
LOCKS = {DATA_LOCK: "busi data", FLOW_LOCK: "busi flow", STORE / ".lock": "a registration"}


def folder() -> Iterator[Finding]:
    """Started in the root of the checkout whose code runs, which can be written to and has locks."""
    if not PARAMS.is_file():
        yield Finding(PROBLEM, f"{PARAMS} is not in {Path.cwd()}", f"cd '{ROOT}'")
        os.chdir(ROOT)
    elif Path.cwd().resolve() != ROOT:
        yield Finding(
            PROBLEM,
            f"the code that runs is that of {ROOT}, not of this checkout",
            "make env, then . .venv/bin/activate",
        )
    closed = []
    for one in WRITTEN:
        if one.is_dir():
            try:
                with tempfile.NamedTemporaryFile(dir=one):
                    pass
            except OSError as error:
                closed.append(f"{one.absolute()} ({error.strerror})")
    if closed:
        remedy = f"sudo chown -R {os.getuid()} '{ROOT}', or copy the repository to a disk that can be written to"
        yield Finding(PROBLEM, f"can't be written to: {', '.join(closed)}", remedy)
        return
    from pipeline.runtime import locks

    try:
        with tempfile.TemporaryDirectory(dir=".") as made, locks.locked(Path(made, ".lock"), timeout=0):
            yield Finding(OK, f"{Path.cwd()} can be written to and has locks")
    except (OSError, NotImplementedError) as error:
        yield Finding(PROBLEM, f"the disk of {Path.cwd()} has no locks ({error})", "use a local disk")


def repository() -> Iterator[Finding]:
    state = git.state()
    if state is not git.Checkout.WHOLE:
        what, _, remedy = state.sentence().partition("; ")
        yield Finding(NOTE, f"versions record no commit: {what}", remedy or "install git")
        return
    commit = (git.text("rev-parse", "HEAD") or "")[:7]
    # Without the lock that git takes to renew its index: another command may be at work
    status = git.text("status", "--porcelain", environment={"GIT_OPTIONAL_LOCKS": "0"})
    if status:
        changed = [line[3:] for line in status.splitlines()]
        what = f"commit {commit} and {counted(len(changed), 'uncommitted change')}: {first(changed)}"
        yield Finding(NOTE, what, "commit before a run whose version others should rebuild")
    elif status is None:
        yield Finding(NOTE, f"commit {commit}; git status fails", "git status says why")
    else:
        yield Finding(OK, f"commit {commit}, nothing uncommitted")


def files() -> Iterator[Finding]:
    """The files that decide a run: present, without git's conflict marks, and `params.yaml` valid."""
    marked = [str(one) for one in (PARAMS, DVC_FILE, DVC_LOCK, DATA_DVC) if one.is_file() and _conflict(one)]
    if marked:
        yield Finding(PROBLEM, f"git's conflict marks in {', '.join(marked)}", "resolve the conflict, then git add")
    if not DVC_FILE.is_file():
        yield Finding(PROBLEM, f"{DVC_FILE} is missing", f"git checkout {DVC_FILE}")
    if str(PARAMS) in marked:
        return
    from pipeline.params import read_params
    from pipeline.runtime.errors import StageError

    try:
        read_params()
    except StageError as error:
        yield Finding(PROBLEM, str(error), "docs/parameters.md lists the keys; git diff params.yaml")
    else:
        yield Finding(OK, f"{PARAMS} is valid")


def store() -> Iterator[Finding]:
    address = os.environ.get(environment.TRACKING)
    if address and address.startswith(("http://", "https://")):
        yield from _server(address, "/health", environment.TRACKING, f"unset it to use {DATABASE}")
        return
    if address:
        yield Finding(NOTE, f"{environment.TRACKING} is {address}", "not checked further")
        return
    if not DATABASE.is_file():
        yield Finding(OK, f"no {DATABASE} yet; the first run makes it")
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{DATABASE.absolute().as_uri()}?mode=ro", uri=True)) as database:
            (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            (versions,) = database.execute("SELECT count(*) FROM model_versions").fetchone()
    except (sqlite3.Error, TypeError) as error:
        remedy = f"restore it from a copy, or move {STORE}/ away: `make run` registers again"
        yield Finding(PROBLEM, f"{DATABASE} can't be read ({error})", remedy)
        return
    known = _mlflow_schema()
    if known and schema != known:
        yield Finding(PROBLEM, f"{DATABASE} has schema {schema}; this MLflow has {known}",
                      f"make env; or move {STORE}/ away: `make run` registers again")  # fmt: skip
    else:
        yield Finding(OK, f"{DATABASE}, {counted(versions, 'registered version')}; `busi verify` checks the registry")


def prefect() -> Iterator[Finding]:
    address = os.environ.get("PREFECT_API_URL")
    if address:
        yield from _server(address, "/health", "PREFECT_API_URL", "unset it: then a flow starts its own")


def data() -> Iterator[Finding]:
    if not Path(".dvc").is_dir():
        yield Finding(PROBLEM, "no DVC repository here (.dvc is missing)", "use a clone, or dvc init --no-scm")
        return
    config = configparser.ConfigParser(interpolation=None, strict=False)
    # As DVC does: a later file overrules an earlier one
    config.read([Path.home() / ".config/dvc/config", ".dvc/config", ".dvc/config.local"], encoding="utf-8")
    if kind := config.get("cache", "type", fallback=""):
        yield Finding(OK, f"DVC's cache.type is {kind}")
    for section in config.sections():
        name = section.strip("'").removeprefix("remote ").strip('"')
        if name == section or not (url := config.get(section, "url", fallback="")):
            continue
        missing = "://" not in url and not Path(".dvc", url).is_dir()
        shown = f"remote {name}: {url}"
        yield Finding(NOTE, f"{shown} is not there", "make remote URL=...") if missing else Finding(OK, shown)
    if not DATA_DVC.is_file():
        yield Finding(NOTE, f"no {DATA_DVC}: no version of the data is named", "busi data SOURCE")
        return
    import yaml

    try:
        (named,) = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))["outs"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        yield Finding(PROBLEM, f"{DATA_DVC} is not a file of DVC ({type(error).__name__})", f"git checkout {DATA_DVC}")
        return
    if not DATA.is_dir():
        yield Finding(OK, "no data/ yet; `make run` or `busi data` brings it")
        return
    count, wanted = sum(1 for one in DATA.rglob("*") if one.is_file()), named.get("nfiles")
    if wanted is not None and count != wanted:
        yield Finding(NOTE, f"data/ has {count} files, its version in {DATA_DVC} {wanted}",
                      "dvc checkout data.dvc takes that version; busi data ./data keeps yours")  # fmt: skip
    else:
        yield Finding(OK, f"data/ has the {count} files of its version in {DATA_DVC}")


def at_work() -> Iterator[Finding]:
    """Commands at work here, and what killed ones left."""
    from pipeline.runtime.locks import is_locked

    busy = [name for file, name in LOCKS.items() if is_locked(file)]
    holder = Path(".dvc/tmp/rwlock")  # DVC's: path -> {"read": [{pid, cmd}], "write": {pid, cmd}}
    if holder.is_file():
        from pipeline.runtime.processes import is_alive

        held = {
            int(pid)
            for pid in re.findall(r'"pid": (\d+)', json.dumps(json.loads(holder.read_text(encoding="utf-8") or "{}")))
        }
        busy += [f"dvc, process {pid}" for pid in sorted(held) if is_alive(pid)]
    for name in busy:
        yield Finding(NOTE, f"{name} is at work here", "wait for it, or end it")
    left = [*Path().glob(".data-*"), *Path("artifacts").rglob("*.partial"), *Path("artifacts").rglob(".*.tmp")]
    if left and not busy:
        yield Finding(NOTE, f"left by a command that was ended: {first(sorted(map(str, left)))}",
                      "nothing; the next run of that command removes it or goes on from it")  # fmt: skip
    if not busy and not left:
        yield Finding(OK, "no other command, nothing half done")


def _server(address: str, path: str, variable: str, remedy: str) -> Iterator[Finding]:
    from pipeline.runtime import servers

    if reason := servers.silence(lambda: servers.get(address.rstrip("/") + path)):
        yield Finding(PROBLEM, f"no server at {address} ({reason}), which {variable} names", f"start it, or {remedy}")
    else:
        yield Finding(OK, f"a server answers at {address}, which {variable} names")


def _mlflow_schema() -> str | None:
    """The schema of the installed MLflow: the one step of its migrations that no other follows. Imports nothing."""
    found = importlib.util.find_spec("mlflow")
    if found is None:
        return None
    folder = Path(found.submodule_search_locations[0], "store/db_migrations/versions")
    steps = [one.read_text(encoding="utf-8") for one in folder.glob("*.py")]
    own, before = (
        {hit for text in steps for hit in re.findall(rf"^{name} = ['\"](\w+)", text, re.M)}
        for name in ("revision", "down_revision")
    )
    (last,) = own - before or {None}
    return last


def _conflict(file: Path) -> bool:
    return re.search(r"^(<<<<<<<|>>>>>>>) ", file.read_text(encoding="utf-8", errors="replace"), re.M) is not None
