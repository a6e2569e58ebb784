"""The second part of `tests.load`: registrations, readers and promotions at once in one embedded store."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.paths import ROOT
from tests.load_tools import NAME, Failure, show
from tests.pipeline.conftest import Workspace

REGISTERING, READING = 8, 4


def storing(workspace: Workspace, seconds: float, seed: int) -> list[str]:
    """Registrations, readers and promotions at once on the embedded store. What failed."""
    failures, said, begun = [], crowd(workspace.folder, REGISTERING, READING, seconds, seed), time.monotonic()
    for name, found in said.items():
        for what in sorted({what for what, _ in found["seconds"]}):
            show(f"{name}, {what}", [taken for kind, taken in found["seconds"] if kind == what], 0)
        failures += [f"{name}: {error}" for error in found["errors"][:5]]
    failures += held(workspace.folder, said)
    process = workspace.start("busi", "verify", "--all")
    output = process.communicate()[0]
    if process.returncode:
        failures.append(f"busi verify --all ended with {process.returncode}:\n{output[-2000:]}")
    print(f"  busi verify --all: {process.returncode}, after {time.monotonic() - begun:.0f} s")
    return failures


def crowd(folder: Path, registering: int, reading: int, seconds: float, seed: int) -> dict[str, dict]:
    """What the processes of each kind did, by kind: `made` (numbers, keys or entries), `seconds` (what, how long) of
    each step, and `errors`.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "src")])  # the server below starts with no other
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pipeline.stages.register", "tests.pipeline.conftest"]
    )  # whose imports take seconds
    parts = [
        ("registering", register_often, registering),
        ("reading", read_often, reading),
        ("promoting", promote_often, 1),
    ]
    with context.Manager() as manager:
        said, ended = manager.Queue(), manager.Event()
        barrier = manager.Barrier(registering + reading + 2)
        processes = [
            context.Process(target=_take_part, args=(kind, act, str(folder), f"{seed} {n}", ended, barrier, said))
            for kind, act, count in parts
            for n in range(count)
        ]
        for process in processes:
            process.start()
        barrier.wait(300)
        time.sleep(seconds)
        ended.set()
        found = {kind: {"made": [], "seconds": [], "errors": []} for kind, _, _ in parts}
        for _ in processes:
            kind, one = said.get(timeout=300)
            for part, values in one.items():
                found[kind][part] += values
        for process in processes:
            process.join(60)
    return found


def _take_part(kind: str, act: Callable, folder: str, seed: str, ended, barrier, said) -> None:
    """A process: act until the end, and say what was done and what went wrong."""
    from pipeline.registry import checks
    from pipeline.stages import register
    from pipeline.tracking import connection

    os.chdir(folder)
    checks.smoke_test = lambda version, files: checks.check("smoke", True, "Taken for granted here.", 0.0, 0.0)
    register.write_json = lambda *_: None  # the receipt is one file: one at a time registers in a repository
    connection.connect()
    found = {"made": [], "seconds": [], "errors": []}
    steps = act(seed)
    barrier.wait(300)
    while not ended.is_set():
        started = time.monotonic()
        try:
            what, made = next(steps)
        except Exception as error:  # whatever it is, it is the finding
            found["errors"].append(f"{type(error).__name__}: {str(error)[:1000]}")
            if isinstance(error, StopIteration):
                break
            steps = act(f"{seed} {len(found['errors'])}")
            continue
        found["seconds"].append((what, time.monotonic() - started))
        found["made"] += made
    said.put((kind, found))


def register_often(seed: str) -> Iterator[tuple[str, list]]:
    """Another training each time: a run and a version of its own. What is made: (number, run) of each."""
    from pipeline import paths
    from pipeline.params import read_params
    from pipeline.stages import register

    metrics, run, params = json.loads(paths.METRICS.read_text()), json.loads(paths.RUN.read_text()), read_params()
    place = Path("mlruns", f"training {seed}")
    place.mkdir()
    paths.METRICS, paths.RUN = place / "metrics.json", place / "run.json"
    number = 0
    while True:
        key = hashlib.sha256(f"{seed} {number}".encode()).hexdigest()
        paths.METRICS.write_text(json.dumps({**metrics, "mark": key}))
        paths.RUN.write_text(json.dumps({**run, "key": key}))
        receipt = register.ensure_registered(params)
        number += 1
        yield "a version", [(receipt["version"], receipt["run_id"])]


def read_often(seed: str) -> Iterator[tuple[str, list]]:
    """What a user looks at; nothing that was there may be gone, and what serves must be served."""
    from pipeline.registry import audit_log, checks, verify
    from pipeline.tracking import versions

    rng, numbers, entries = random.Random(seed), set(), 0
    while True:
        match rng.randrange(4):
            case 0:
                found = {version.version for version in versions.list_versions(NAME)}
                if not numbers <= found:
                    raise Failure(f"versions {numbers - found} are gone")
                numbers = found
                yield "the versions", []
            case 1:
                found = audit_log.entries(NAME)
                if len(found) < entries or list(found) != list(range(1, len(found) + 1)):
                    raise Failure(f"the audit log has entries {list(found)}, before {entries}")
                entries = len(found)
                yield "the audit log", []
            case 2:
                if wrong := checks.failures(verify.verify(NAME)):
                    raise Failure(f"verify: {wrong}")
                yield "verify", []
            case 3:
                with verify.production_files(NAME) as (_, files):
                    if not (files / "data" / "keras" / "model.keras").is_file():
                        raise Failure("the Production version has no model")
                yield "the Production version's files", []


def promote_often(seed: str) -> Iterator[tuple[str, list]]:
    """Any version into Production, now and then the one before. What is made: the ids of the log's entries."""
    from pipeline.params import read_params
    from pipeline.registry import audit_log, checks, moves
    from pipeline.tracking import versions

    rng, params = random.Random(seed), read_params()
    while True:
        present, log = versions.production_version(NAME), audit_log.entries(NAME)
        if rng.random() < 0.25 and len(audit_log.production_stack(log.values())) > 1:
            entry = moves.rollback(NAME, "load", lambda *_: None)
            yield "a rollback", [entry["id"]]
        else:
            # One whose registration is still going on is refused, as it should be
            whole = [version for version in versions.list_versions(NAME) if checks.finished(version).passed]
            others = {str(version.version) for version in whole} - {present}
            number = int(rng.choice(sorted(others)))
            entry = moves.promote(NAME, number, params, False, "load", lambda *_: None)
            yield "a promotion", [entry["id"]]


def held(folder: Path, said: dict[str, dict]) -> list[str]:
    """What the store holds against what was done to it."""
    with contextlib.closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as store:
        rows = store.execute("select version, run_id from model_versions order by version").fetchall()
        runs = dict(store.execute("select run_uuid, status from runs").fetchall())
        models = store.execute("select status from logged_models").fetchall()
        tags = store.execute("select value from registered_model_tags where key like 'audit.%'").fetchall()
        sound = store.execute("pragma integrity_check").fetchone()
    failures, made = [], {int(version): run for version, run in said["registering"]["made"]}
    if len(made) != len(said["registering"]["made"]):
        failures.append("store: two registrations were given one version")
    kept = {version: run for version, run in rows if version > len(rows) - len(made)}
    if kept != made or [version for version, _ in rows] != list(range(1, len(rows) + 1)):
        failures.append(f"store: {len(made)} registered, versions {[version for version, _ in rows]}")
    if set(runs) != {run for _, run in rows} or set(runs.values()) != {"FINISHED"} or models != [(2,)] * len(rows):
        failures.append(f"store: {len(rows)} versions, {Counter(runs.values())} runs, {Counter(models)} models")
    entries = [json.loads(text)["id"] for (text,) in tags]
    lost = set(said["promoting"]["made"]) - set(entries)
    if lost or len(entries) != len(set(entries)):
        failures.append(f"store: {len(entries)} entries in the audit log, lost: {lost}")
    if sound != ("ok",):
        failures.append(f"store: SQLite says {sound}")
    if left := [path.name for path in (folder / "mlruns").glob(".*-*")]:
        failures.append(f"store: left behind: {left}")
    print(f"  {len(rows)} versions, {len(entries)} entries in the audit log; SQLite's integrity check: {sound[0]}")
    return failures
