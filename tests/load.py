"""Many at once: `python -m tests.load`, or `make load`. Linux.

A small phantom is run to the end twice, which gives two versions of one model, the first in Production. Then

- four clients ask the endpoint and four sessions of the app classify, for `--seconds`; in the middle the second version
  is promoted. Nothing may fail, an answer must be that of its version, a session must see the old version and then the
  new one and never the old one again, and memory may grow by `GROWTH` at most over the last four fifths of the time.
  The endpoint stays with its version; so afterwards a second one is started beside it, the clients are led there, and
  the first one ends, while the clients go on. What answers then is sent hostile requests.
- eight processes register, four read and one promotes and rolls back, in one embedded store, for two fifths of the
  time. Every registration must be there at the end, every reader must have seen a store that agrees with itself, and
  `busi verify --all` must find nothing.

Of the trial of a registered version by a fresh process, which takes seconds of two processors, the second part leaves
out all but those that made the two versions.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from pipeline.paths import ROOT
from pipeline.runtime.processes import end_tree
from tests import malformed_inputs
from tests.pipeline.conftest import SMALL, Workspace
from tests.pipeline.registry import free_port, post

PLACE = ROOT / ".cache" / "load"
NAME = "busi-densenet121-phantom"
# So that both versions pass: what they are worth is not the question here
OPEN = {
    "register": {"gate": {"accuracy": 0.01, "malignant_sensitivity": None, "expected_calibration_error": None}},
    "promote": {"not_worse_than_production": None},
}
CLIENTS, SESSIONS, REGISTERING, READING = 4, 4, 8, 4
GROWTH = 0.05
SAME = 1e-3  # of a probability, as at the trial of a version
REQUESTS = 100  # hostile ones
READY = "ready"


class Failure(Exception):
    """What was found that should not be."""


@dataclass
class Found:
    """What came of one client's requests: seconds of each, versions in the order in which they were seen, errors."""

    seconds: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def saw(self, version: str) -> None:
        if self.versions[-1:] != [version]:
            self.versions.append(version)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("serve", "store"))
    parser.add_argument("--keep", action="store_true", help="reuse the two versions of the last time")
    parser.add_argument("--sessions", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.sessions:
        return sessions(asked.seed)
    if not (asked.keep and (PLACE / "made" / "expected.json").is_file()):
        shutil.rmtree(PLACE, ignore_errors=True)
        print("two versions ...", flush=True)
        build(Workspace(PLACE / "made"))
    failures = []
    for name, part, seconds in (("serve", serving, asked.seconds), ("store", storing, asked.seconds * 2 // 5)):
        if asked.only in (None, name):
            print(f"{name}: {seconds} s, seed {asked.seed}", flush=True)
            shutil.rmtree(PLACE / name, ignore_errors=True)  # of a run that was killed
            workspace = Workspace(PLACE / "made").copy_to(PLACE / name)
            try:
                failures += part(workspace, seconds, asked.seed)
            finally:
                shutil.rmtree(workspace.folder)
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{len(failures)} failed, seed {asked.seed}")
    sys.exit(1 if failures else 0)


def build(workspace: Workspace) -> None:
    """Two versions, the first in Production, and in `expected.json` what each said of the test images at evaluation."""
    Workspace(ROOT).clone_to(workspace.folder)
    for path in ("data.dvc", "dvc.lock"):
        (workspace.folder / path).unlink()
    shutil.rmtree(workspace.folder / "reports")
    workspace.set_params(SMALL)
    workspace.set_params(OPEN)
    workspace.busi("data")
    expected = {}
    for version in ("1", "2"):
        workspace.set_params({"train": {"seed": int(version)}})
        workspace.commit()
        workspace.dvc("repro")
        table = pd.read_csv(workspace.folder / "artifacts/evaluate/predictions.csv").set_index("path")
        expected[f"{NAME}/{version}"] = table[["benign", "malignant", "normal"]].T.to_dict("list")
    workspace.busi("promote", "1", "--yes")
    (workspace.folder / "expected.json").write_text(json.dumps(expected))


# The endpoint and the app


def serving(workspace: Workspace, seconds: float, seed: int) -> list[str]:
    """Clients of the endpoint and sessions of the app, with a promotion in the middle. What failed."""
    expected = json.loads(workspace.text("expected.json"))
    files = {path: (workspace.folder / "data" / path).read_bytes() for path in next(iter(expected.values()))}
    ended, failures = threading.Event(), []
    clients = [Found() for _ in range(CLIENTS)]
    with contextlib.ExitStack() as stack:
        first, address = stack.enter_context(endpoint(workspace))
        app = stack.enter_context(started(workspace, "-m", "tests.load", "--sessions", "--seed", str(seed)))
        wait_for(app, READY)
        target = [address]
        threads = [
            threading.Thread(target=ask, args=(target, files, expected, random.Random(f"{seed} {n}"), ended, found))
            for n, found in enumerate(clients)
        ]
        memory, begun = {"endpoint": Memory(first), "app": Memory(app)}, time.monotonic()
        for thread in threads:
            thread.start()
        try:
            time.sleep(seconds / 2)
            workspace.busi("promote", "2", "--yes")
            time.sleep(max(seconds / 5, begun + seconds - time.monotonic()))
            for one in memory.values():
                one.stop()
            said = json.loads(app.communicate("end\n", timeout=120)[0].splitlines()[-1])
            stayed = Counter(version for found in clients for version in found.versions)

            # The endpoint's new version: beside it, then in its place
            second, address = stack.enter_context(endpoint(workspace))
            target[0] = address
            time.sleep(2)
            first.send_signal(signal.SIGTERM)
            first.wait(60)
            time.sleep(max(5, seconds / 20))
        finally:
            ended.set()
            for thread in threads:
                thread.join(120)
        failures += hostile_requests(address, seed, files, expected)
        if second.poll() is not None:
            failures.append("the endpoint has ended")

    people = [Found(**found) for found in said]
    for name, found in (("endpoint", clients), ("app", people)):
        failures += [f"{name}: {error}" for one in found for error in one.errors[:3]]
        for number, one in enumerate(found):
            if one.versions != [f"{NAME}/1", f"{NAME}/2"]:
                failures.append(f"{name}: client {number} saw {one.versions}")
        show(name, [one for client in found for one in client.seconds], sum(len(one.errors) for one in found))
        failures += memory[name].judged(name)
    if stayed != Counter({f"{NAME}/1": CLIENTS}):
        failures.append(f"endpoint: it did not stay with its version: {stayed}")
    return failures


def ask(
    target: list[str], files: dict, expected: dict, rng: random.Random, ended: threading.Event, found: Found
) -> None:
    """One client of the endpoint: an image a request, held against what its version said of it at evaluation."""
    while not ended.is_set():
        path = rng.choice(list(files))
        started = time.monotonic()
        try:
            status, answer = post(target[0], malformed_inputs.request_of([files[path]]))
            [row] = answer["predictions"]
            version = row["model_version"]
            if status != 200 or not is_said(row["probabilities"].values(), expected[version][path]):
                found.errors.append(f"{path}: {status}, {row}; expected {expected[version][path]}")
        except (OSError, http.client.HTTPException, KeyError, ValueError, TypeError) as error:
            found.errors.append(f"{path}: {type(error).__name__}, {error}")
            continue
        found.seconds.append(time.monotonic() - started)
        found.saw(version)


def session(files: dict, rng: random.Random, ended: threading.Event, known: dict, found: Found) -> None:
    """One person at the app, by the app's own functions: which model, look, crop, classify, heat map.

    `known` has what was said of an image by a version; whoever asks again must be told the same.
    """
    from busi.data.layout import CLASSES
    from pipeline.serving.app.crop import box_of, cropped
    from pipeline.serving.app.model import served_model
    from pipeline.serving.app.state import file_of, preview_of

    while not ended.is_set():
        path = rng.choice(list(files))
        started, model = time.monotonic(), None  # a page that is made anew holds no model of before
        try:
            model, _ = served_model()
            file = file_of(path, files[path])
            content = cropped(file, box_of(preview_of(file), None))
            [row] = model.classifier.predict([content]).to_dict(orient="records")
            model.classifier.heatmap(content, row["label"] or CLASSES[0])
            before = known.setdefault((row["model_version"], path), row["probabilities"])
            if not is_said(row["probabilities"].values(), before.values()):
                found.errors.append(f"{path}: {row}; before {before}")
        except Exception as error:  # whatever it is, it is the finding
            found.errors.append(f"{path}: {type(error).__name__}, {error}")
            continue
        found.seconds.append(time.monotonic() - started)
        found.saw(row["model_version"])


def sessions(seed: int) -> None:
    """The process of the app: sessions as threads, as Streamlit has them, until a line comes in."""
    from streamlit.logger import set_log_level

    from pipeline.serving.app.model import served_model

    set_log_level("error")  # it would say that no browser is there
    expected = json.loads(Path("expected.json").read_text())
    files = {path: Path("data", path).read_bytes() for path in next(iter(expected.values()))}
    sys.argv[1:] = []
    served_model()
    ended, known, found = threading.Event(), {}, [Found() for _ in range(SESSIONS)]
    threads = [
        threading.Thread(target=session, args=(files, random.Random(f"{seed} {number}"), ended, known, one))
        for number, one in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    print(READY, flush=True)
    sys.stdin.readline()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps([vars(one) for one in found]), flush=True)


def hostile_requests(address: str, seed: int, files: dict, expected: dict) -> list[str]:
    """Hostile requests to the living endpoint: no 5xx, no silence, and afterwards it answers as before."""
    failures, statuses = [], Counter()
    for case in malformed_inputs.requests(seed, REQUESTS):
        try:
            status, answer = post(address, case.content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # One that is too long is refused before it is read, and the connection closed
            status, answer = type(error).__name__, {"message": str(error)}
            if len(case.content) < 1_000_000:
                failures.append(f"endpoint: {case.what}: {status}, {answer}")
        statuses[status] += 1
        if isinstance(status, int) and (status >= 500 or (status != 200 and not answer.get("message"))):
            failures.append(f"endpoint: {case.what}: {status}, {str(answer)[:300]}")
    print(f"  {REQUESTS} hostile requests: {dict(statuses)}")
    alive = Found()
    ask([address], files, expected, random.Random(seed), _Times(10), alive)
    return failures + [f"endpoint, afterwards: {error}" for error in alive.errors]


class _Times:
    """An event that is set after so many looks."""

    def __init__(self, count: int):
        self._left = count

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


# The store


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


# What the parts are made of


class Memory(threading.Thread):
    """Resident memory of a process and all that it started, in MB, once a second until `stop`."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self._process = psutil.Process(process.pid)
        self._begun, self._stopped = time.monotonic(), threading.Event()
        self.samples: list[tuple[float, float]] = []
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(1):
            total = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [self._process, *self._process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += process.memory_info().rss
                self.samples.append((time.monotonic() - self._begun, total / 1e6))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def judged(self, name: str) -> list[str]:
        """Print it at each fifth of the time; what is wrong with it."""
        lasted = self.samples[-1][0]

        def around(part: float) -> float:
            """The median of a twentieth of the time; `part` is from 0 to 1."""
            near = [size for when, size in self.samples if abs(when / lasted - part) <= 0.025]
            return float(np.median(near))

        sizes = [around(max(0.025, min(0.975, fifth / 5))) for fifth in range(6)]
        growth = sizes[5] / sizes[1] - 1
        print(
            f"  {name}: RSS {', '.join(f'{size:.0f}' for size in sizes)} MB at each fifth of {lasted:.0f} s; "
            f"{growth:+.1%} over the last four"
        )
        return [f"{name}: memory grew by {growth:.1%}"] if growth > GROWTH else []


@contextlib.contextmanager
def endpoint(workspace: Workspace) -> Iterator[tuple[subprocess.Popen, str]]:
    """`pipeline.serve` in a workspace, and its address."""
    with started(workspace, "-m", "pipeline.serve", "--port", str(free_port())) as server:
        address = re.search(r"http://\S+/invocations", wait_for(server, "answers at"))[0]
        for line in server.stdout:
            if "Not a medical device" in line:
                break
        yield server, address


@contextlib.contextmanager
def started(workspace: Workspace, *words: str) -> Iterator[subprocess.Popen]:
    environment = {**workspace.environment, "PYTHONPATH": os.pathsep.join([str(workspace.folder), str(ROOT)])}
    with (workspace.folder.parent / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=workspace.folder, env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        end_tree(process)


def wait_for(process: subprocess.Popen, text: str) -> str:
    for line in process.stdout:
        if text in line:
            return line
    raise Failure(f"{process.args} ended with {process.wait()} and did not say {text!r}; see {PLACE}/log")


def is_said(probabilities, expected) -> bool:
    return bool(np.allclose(list(probabilities), list(expected), rtol=0, atol=SAME))


def show(name: str, seconds: list[float], errors: int) -> None:
    if seconds:
        half, most = np.percentile(seconds, (50, 99))
        print(
            f"  {name}: {len(seconds):,} times, {errors} errors; p50 {half * 1000:,.0f} ms, p99 {most * 1000:,.0f} ms, "
            f"longest {max(seconds) * 1000:,.0f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
