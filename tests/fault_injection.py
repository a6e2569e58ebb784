"""Nothing is lost when commands are killed, starved, started again: `python -m tests.fault_injection`, `make faults`.

A small phantom is run to the end once; that run is the reference. Each trial is a copy of the repository in which one
step is still to be done, so it lies in another folder than the one where the steps before were run. What ends a step is
random and comes from the seed; a line a trial says what was done and what came of it, and repeats it alone:
`python -m tests.fault_injection --seed 1 --only "kill train 3"`.

Linux, and for the parts named disk and read-only root, since they mount.
"""

import argparse
import contextlib
import hashlib
import http.server
import json
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
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml

from pipeline.paths import CACHE
from pipeline.runtime.lifecycle import STAGES
from pipeline.runtime.processes import is_alive
from tests.pipeline.conftest import Workspace, copy_sources
from tests.pipeline.registry import free_port, mlflow_server

PLACE = CACHE / "fault_injection"
DECLARED = ("dvc.lock", "data.dvc", *(f"reports/{name}.json" for name in ("validation", "split", "metrics", "gate")))
REPRO = ("dvc", "repro")
FLOW = ("busi", "flow")
PROMOTE = ("busi", "promote", "1", "--yes", "--force", "--reason", "fault injection")
CLEAN_SECONDS = 5
DOWNLOAD_SECONDS = 3

# Files that come and go without meaning: caches, git's and DVC's own bookkeeping, and what is named by a hash or an id
PASSING = re.compile(
    r"__pycache__|\.lock$|^\.git/|^\.dvc/(cache/(files|runs)|tmp/(lock|rwlock|rwlock\.lock|btime|exps|repos|lock\.lock))"
    r"|^\.cache/(?!pooch)|^\.cache/pooch/Dataset_BUSI\.zip$|^mlruns/(mlflow\.db|artifacts|\.lock|registration\.json)|^artifacts/validate/data_docs|^artifacts/evaluate/smoke/"
)
PULL = """
import sys
from pipeline import cli
from pipeline.ingest import sources
sources.BUSI_URL, sources.BUSI_SHA256 = sys.argv[1:3]
sys.argv[1:] = ["data", "busi"]
cli.main()
"""
LEFTOVER = re.compile(r"partial|\.trying|\.reading|\.registering|incoming")


class Failure(Exception):
    """What a trial found that should not be."""


class Bench:
    """The finished run, the times its steps took, and copies of it to try things on."""

    def __init__(self, place: Path):
        self.place = place
        self.finished = Workspace(place / "finished")
        self.seconds: dict[str, float] = {}
        self.count = 0

    def build(self) -> None:
        copy_sources(self.finished.folder)
        self._timed("data", "busi", "data")
        for stage in STAGES:
            if stage == "register":
                shutil.copytree(self.finished.folder, self.place / "unregistered", symlinks=True)
            self._timed(stage, "dvc", "repro", stage)
        self.finished.commit()
        self.reference = {path: self.finished.text(path) for path in DECLARED}
        with zipfile.ZipFile(self.place / "busi.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(self.finished.folder.glob("data/*/*")):
                archive.write(file, file.relative_to(self.finished.folder / "data"))

        trial = self.copy()
        self._timed("promote", *PROMOTE, workspace=trial)
        with serving(self.place / "busi.zip", DOWNLOAD_SECONDS) as source:
            self._timed("pull", "python", "-c", PULL, *source, workspace=trial)
        self._timed("flow", *FLOW, workspace=self.copy("train"))

    def _timed(self, name: str, *command: str, workspace: Workspace | None = None) -> None:
        started = time.monotonic()
        (workspace or self.finished).run(*command)
        self.seconds[name] = time.monotonic() - started

    def copy(self, stage: str | None = None) -> Workspace:
        """A repository of its own in which `stage` is still to be done."""
        self.count += 1
        workspace = Workspace(self.place / f"trial {os.getpid()} {self.count}" / "repository")
        origin = self.place / "unregistered" if stage == "register" else self.finished.folder
        shutil.copytree(origin, workspace.folder, symlinks=True)
        if stage in STAGES[:-1]:
            lock = yaml.safe_load(workspace.text("dvc.lock"))
            outs = [out["path"] for out in lock["stages"].pop(stage)["outs"]]
            (workspace.folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
            shutil.rmtree(workspace.folder / ".dvc/cache/runs")  # or DVC would find the outputs there
            for out in outs:
                path = workspace.folder / out
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.before = _files(workspace.folder)
        return workspace

    def hold(self, workspace: Workspace, runs: bool = True) -> None:
        """Hold a workspace to the reference: the declared files, the store, and that nothing is left."""
        for path in DECLARED:
            if yaml.safe_load(workspace.text(path)) != yaml.safe_load(self.reference[path]):
                raise Failure(f"{path} differs from the unbroken run's")
        if runs:
            self.hold_store(workspace)
        self.hold_clean(workspace)

    def hold_store(self, workspace: Workspace) -> None:
        with contextlib.closing(sqlite3.connect(workspace.folder / "mlruns/mlflow.db")) as store:
            found = {
                "runs": store.execute("select status from runs").fetchall(),
                "models": store.execute("select status from logged_models").fetchall(),
                "versions": store.execute("select version from model_versions").fetchall(),
            }
        expected = {"runs": [("FINISHED",)], "models": [(2,)], "versions": [(1,)]}
        if found != expected:
            raise Failure(f"the store holds {found}; expected {expected}")

    def hold_clean(self, workspace: Workspace) -> None:
        """No process of the trial lives, and there is no file that the unbroken run does not have."""
        deadline = time.monotonic() + 5
        while left := _processes_in(workspace.folder):
            if time.monotonic() > deadline:
                raise Failure(f"left running: {left}")
            time.sleep(0.1)
        if left := sorted(_files(workspace.folder) - self.before - _files(self.finished.folder)):
            raise Failure(f"left behind: {left}")
        # DVC leaves the entries of dead processes where they are not in the way
        busy = workspace.folder / ".dvc/tmp/rwlock"
        holders = {int(pid) for pid in re.findall(r'"pid": (\d+)', busy.read_text() if busy.is_file() else "")}
        if alive := sorted(filter(is_alive, holders)):
            raise Failure(f"a DVC lock is held by {alive}")

    def go_on(self, workspace: Workspace, command: tuple[str, ...] = REPRO) -> None:
        """Start the plain command again, hold what comes of it to the reference, and drop the copy."""
        finish(workspace, command)
        self.hold(workspace)
        self.drop(workspace)

    def drop(self, workspace: Workspace) -> None:
        shutil.rmtree(workspace.folder.parent)


# Parts: each gets the bench and a random generator, and gives a line on what it did


def kill_stage(bench: Bench, rng: random.Random, stage: str, command: tuple[str, ...] = REPRO) -> str:
    workspace = bench.copy(stage)
    moment = rng.uniform(0.02, 0.98) * bench.seconds[stage]
    where, _ = end(workspace, command, moment, signal.SIGKILL)
    bench.go_on(workspace, command)
    return f"after {moment:.1f} s, {where}"


def kill_flow(bench: Bench, rng: random.Random) -> str:
    workspace = bench.copy("train")
    moment = rng.uniform(0.2, 1.0) * bench.seconds["flow"]
    where, _ = end(workspace, FLOW, moment, signal.SIGKILL)
    bench.go_on(workspace, FLOW)
    return f"train to be done, after {moment:.1f} s, {where}"


def kill_data(bench: Bench, rng: random.Random) -> str:
    """A slow download, then the swap and `dvc add`; the set has another name, hence another `data.dvc`."""
    workspace = bench.copy()
    moment = rng.uniform(0.05, 0.95) * bench.seconds["pull"]
    with serving(bench.place / "busi.zip", DOWNLOAD_SECONDS) as (address, digest):
        command = ("python", "-c", PULL, address, digest)
        before = workspace.text("data.dvc")
        where, _ = end(workspace, command, moment, signal.SIGKILL)
        state = "old" if workspace.text("data.dvc") == before else "new"
        finish(workspace, command)
    if sorted(_hashes(workspace.folder)) != sorted(_hashes(bench.finished.folder)):
        raise Failure("data/ holds other images")
    if "name: busi" not in workspace.text("data.dvc") or workspace.dvc("status", "-q", "data.dvc"):
        raise Failure(f"data.dvc is not of data/: {workspace.text('data.dvc')}")
    bench.hold_clean(workspace)
    bench.drop(workspace)
    return f"after {moment:.1f} s, {where}, data.dvc {state}"


def kill_promote(bench: Bench, rng: random.Random) -> str:
    workspace = bench.copy()
    moment = rng.uniform(0.1, 1.0) * bench.seconds["promote"]
    where, _ = end(workspace, PROMOTE, moment, signal.SIGKILL)
    process = workspace.start(*PROMOTE)
    output, _ = process.communicate(timeout=300)
    if process.returncode and "is in Production already" not in output:
        raise Failure(f"promotion started again ended with {process.returncode}:\n{output}")
    with contextlib.closing(sqlite3.connect(workspace.folder / "mlruns/mlflow.db")) as store:
        aliases = store.execute("select alias, version from registered_model_aliases").fetchall()
        stages = store.execute("select version, current_stage from model_versions").fetchall()
    if (aliases, stages) != ([("production", 1)], [(1, "Production")]):
        raise Failure(f"Production is {aliases}, {stages}")
    said = workspace.busi("verify", "--all")
    if "FAILED" in said:
        raise Failure(f"verify: {said}")
    bench.hold(workspace)
    bench.drop(workspace)
    return f"after {moment:.1f} s, {where}"


def polite(bench: Bench, rng: random.Random, step: str, ending: signal.Signals) -> str:
    """Ctrl-C or SIGTERM to the whole group, as a terminal sends it."""
    workspace = bench.copy(step if step in STAGES else "train" if step == "flow" else None)
    commands = {
        "flow": FLOW,
        "promote": PROMOTE,
        "data": ("busi", "data", "phantom"),
    }
    command = commands.get(step, REPRO)
    moment = rng.uniform(0.15, 0.95) * bench.seconds[step]
    where, seconds = end(workspace, command, moment, ending)
    if seconds > CLEAN_SECONDS:
        raise Failure(f"took {seconds:.1f} s to say so, {where}")
    left = sorted(filter(LEFTOVER.search, _files(workspace.folder) - bench.before))
    if left:
        raise Failure(f"left behind: {left}")
    bench.drop(workspace)
    return f"after {moment:.1f} s, said so in {seconds:.1f} s, {where}"


def half_written(bench: Bench, rng: random.Random, file: str) -> str:
    """What a kill leaves of DVC's own files, which it truncates and then writes."""
    workspace = bench.copy("split")
    path = workspace.folder / file
    text = path.read_text()
    length = rng.choice((0, rng.randrange(len(text))))
    path.write_text(text[:length])
    bench.go_on(workspace, rng.choice((REPRO, FLOW)))
    return f"{length} of {len(text)} characters"


def full_disk(bench: Bench, rng: random.Random, stage: str) -> str:
    """The repository on a small tmpfs with less room than the stage needs; then the disk grows."""
    origin = bench.copy(stage)
    disk = origin.folder.parent / "disk"
    disk.mkdir()
    # DVC itself wants some hundred KiB
    room = rng.randrange(512 << 10, {"train": 30 << 20, "register": 40 << 20}.get(stage, 2 << 20), 4096)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(disk)], check=True)
    try:
        workspace = Workspace(disk / "repository")
        shutil.copytree(origin.folder, workspace.folder, symlinks=True)
        free = shutil.disk_usage(disk).used + room
        subprocess.run(["mount", "-o", f"remount,size={free}", str(disk)], check=True)
        process = workspace.start(*REPRO)
        output, _ = process.communicate(timeout=400)
        if "Traceback" in output:
            raise Failure(f"a traceback:\n{output[-3000:]}")
        said = next((line for line in output.splitlines() if re.search(r"No space|disk (I/O|is full)|full", line)), "")
        if process.returncode and not said:
            raise Failure(f"ended with {process.returncode} and did not say why:\n{output[-2000:]}")
        subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        finish(workspace, REPRO)
        bench.hold(workspace)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    bench.drop(origin)
    return f"{room >> 10} KiB left: ended with {process.returncode}, {said.strip()[:100]!r}"


def lost_server(bench: Bench, rng: random.Random, stage: str) -> str:
    """The tracking server goes away in the middle of a stage and comes back; the plain command then goes on."""
    workspace = bench.copy("train" if stage == "train" else stage)
    port, backend = free_port(), f"sqlite:///{workspace.folder.parent}/server.db"
    workspace.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    for path in ("mlruns/mlflow.db", "artifacts/register"):
        target = workspace.folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    moment = rng.uniform(0.2, 0.9) * bench.seconds[stage]
    with mlflow_server(workspace.folder.parent, backend, port):
        process = workspace.start(*REPRO)
        time.sleep(moment)
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        _end_all(process)
    if "Traceback" in output:
        raise Failure(f"a traceback:\n{output[-3000:]}")
    with mlflow_server(workspace.folder.parent, backend, port):
        finish(workspace, REPRO)
        finish(workspace, ("busi", "summary"))  # what the store lacks comes back
    with contextlib.closing(sqlite3.connect(workspace.folder.parent / "server.db")) as store:
        found = [
            store.execute(f"select {what}").fetchall() for what in ("status from runs", "version from model_versions")
        ]
    if found != [[("FINISHED",)], [(1,)]]:
        raise Failure(f"the server holds {found}")
    bench.hold(workspace, runs=False)
    bench.drop(workspace)
    return f"after {moment:.1f} s; ended with {process.returncode}"


def two_at_once(bench: Bench, rng: random.Random) -> str:
    stage = rng.choice(("featurize", "train"))
    workspace = bench.copy(stage)
    first = workspace.start(*REPRO)
    time.sleep(rng.uniform(0, bench.seconds[stage]))
    second = workspace.start(*REPRO)
    said = [process.communicate(timeout=400)[0] for process in (first, second)]
    codes = [process.returncode for process in (first, second)]
    if 0 not in codes or any("Traceback" in output for output in said):
        raise Failure(f"ended with {codes}:\n{said[0][-1500:]}\n---\n{said[1][-1500:]}")
    bench.go_on(workspace)
    return f"{stage}: ended with {codes}"


def orphan(bench: Bench, rng: random.Random) -> str:
    """DVC alone is killed, and its stage must not go on beside the repetition."""
    stage = rng.choice(("featurize", "train", "evaluate"))
    workspace = bench.copy(stage)
    process = workspace.start(*REPRO)
    wait_for_stage(workspace, stage)
    time.sleep(rng.uniform(0, 0.5) * bench.seconds[stage])
    process.kill()
    output, _ = process.communicate(timeout=60)
    deadline = time.monotonic() + CLEAN_SECONDS
    while left := _processes_in(workspace.folder):
        if time.monotonic() > deadline:
            raise Failure(f"the stage went on without DVC: {left}")
        time.sleep(0.1)
    bench.go_on(workspace)
    return f"{stage}: ended with DVC"


def moved(bench: Bench, rng: random.Random) -> str:
    """To another folder, with a space and an umlaut in its name, between two stages and after a kill."""
    stage = rng.choice(("train", "evaluate", "register"))
    workspace = bench.copy(stage)
    end(workspace, REPRO, rng.uniform(0.3, 0.9) * bench.seconds[stage], signal.SIGKILL)
    there = Workspace(workspace.folder.parent / "zwölf monkeys" / "repository")
    there.folder.parent.mkdir()
    workspace.folder.rename(there.folder)
    finish(there, REPRO)
    bench.hold(there)
    bench.drop(workspace)
    return f"{stage} killed, moved, and finished there"


def read_only(bench: Bench, rng: random.Random) -> str:
    """Everything that only reads works, and what writes says that it can't."""
    workspace = bench.copy("train")
    folder = str(workspace.folder)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        said = {}
        stages = [("python", "-m", f"pipeline.stages.{name}") for name in STAGES]
        for words in (REPRO, *stages, ("busi", "data"), ("busi", "summary")):
            process = workspace.start(*words)
            output, _ = process.communicate(timeout=200)
            if "Traceback" in output:
                raise Failure(f"{' '.join(words)}: a traceback:\n{output[-3000:]}")
            said[words[-1]] = process.returncode
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
    bench.go_on(workspace)
    return ", ".join(f"{name} {code}" for name, code in said.items())


def parts() -> dict[str, Callable[[Bench, random.Random], str]]:
    """Each trial of a full run by its name."""
    found: dict[str, Callable] = {}

    def add(name: str, count: int, function: Callable, *arguments: object) -> None:
        for number in range(1, count + 1):
            found[f"{name} {number}"] = lambda bench, rng: function(bench, rng, *arguments)

    for stage, count in zip(STAGES, (6, 5, 5, 5, 4, 3, 5), strict=True):
        add(f"kill {stage}", count, kill_stage, stage)
    add("kill data", 6, kill_data)
    add("kill promote", 4, kill_promote)
    add("kill flow", 2, kill_flow)
    for ending in (signal.SIGINT, signal.SIGTERM):
        for step in (*STAGES, "data", "promote", "flow"):
            add(f"{ending.name} {step}", 1, polite, step, ending)
    for stage in STAGES:
        add(f"disk {stage}", 1, full_disk, stage)
    for stage in ("train", "evaluate", "register"):
        add(f"server {stage}", 1, lost_server, stage)
    for file in (".dvc/tmp/rwlock", "dvc.lock"):
        add(f"half {file.rpartition('/')[2]}", 2, half_written, file)
    add("two at once", 1, two_at_once)
    add("orphan", 2, orphan)
    add("moved", 2, moved)
    add("read-only", 1, read_only)
    return found


# What the parts are made of


def end(workspace: Workspace, command: tuple[str, ...], moment: float, ending: signal.Signals) -> tuple[str, float]:
    """Start a command, end all its processes at a moment, and say what it was at and when it had said its last word.

    SIGKILL goes to each process, other signals to the group. A traceback in what it printed is a failure.
    """
    log = workspace.folder.parent / "log"
    with log.open("w") as writer:
        process = subprocess.Popen(
            command,
            cwd=workspace.folder,
            env=workspace.environment,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    sent = time.monotonic()
    ended_here = [pid for pid, _ in _processes_in(workspace.folder)]
    if ending == signal.SIGKILL:
        _end_all(process)
    elif process.poll() is None:
        os.killpg(process.pid, ending)
    said = None
    try:
        while (process.poll() is None or _processes_in(workspace.folder)) and time.monotonic() < sent + 60:
            if said is None and re.search(r"interrupted|cancelled|cut off", log.read_text(errors="replace")):
                said = time.monotonic() - sent
            time.sleep(0.05)
    finally:
        _end_all(process)
    ended = time.monotonic() - sent
    # To DVC a process is at work until init has taken note of its end, which some do seconds later
    while any(map(psutil.pid_exists, ended_here)) and time.monotonic() < sent + 60:
        time.sleep(0.05)
    output = log.read_text(errors="replace")
    if "Traceback" in output:
        raise Failure(f"a traceback after {ending.name} at {moment:.1f} s:\n{output[-4000:]}")
    ran = re.findall(r"Running stage '(\w+)'", output)
    lines = [line for line in re.split(r"[\r\n]", output) if line.strip()]
    at = f"in {ran[-1]}" if ran else "before any stage"
    if ending == signal.SIGKILL:
        return at, ended
    last = lines[-1].strip()[:80] if lines else ""
    return (
        f"{at}, code {process.returncode}, ended in {ended:.1f} s, last line {last!r}",
        ended if said is None else said,
    )


def finish(workspace: Workspace, command: tuple[str, ...]) -> None:
    """The plain command once more; for `dvc repro` as `make run` has it."""
    if command == REPRO:
        finish(workspace, ("busi", "data"))
    process = workspace.start(*command)
    output, _ = process.communicate(timeout=500)
    if process.returncode:
        raise Failure(f"{' '.join(command[:4])} started again ended with {process.returncode}:\n{output[-4000:]}")
    if "Traceback" in output:
        raise Failure(f"a traceback in the repetition:\n{output[-4000:]}")


def wait_for_stage(workspace: Workspace, stage: str) -> None:
    deadline = time.monotonic() + 60
    while not any(f"pipeline.stages.{stage}" in words for _, words in _processes_in(workspace.folder)):
        if time.monotonic() > deadline:
            raise Failure(f"{stage} did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def serving(file: Path, seconds: float) -> Iterator[tuple[str, str]]:
    """Serve one file on 127.0.0.1, in pieces over some seconds; its address and sha256."""
    content = file.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            piece = len(content) // 20 + 1
            with contextlib.suppress(OSError):  # the client was killed
                for start in range(0, len(content), piece):
                    self.wfile.write(content[start : start + piece])
                    time.sleep(seconds / 20)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/Dataset_BUSI.zip", hashlib.sha256(content).hexdigest()
        server.shutdown()


def _end_all(process: subprocess.Popen) -> None:
    """SIGKILL to a process and all that it started, also those in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        # Children first: a stage whose DVC is gone would have a moment to end well
        for member in [*reversed(parent.children(recursive=True)), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def _processes_in(folder: Path) -> list[tuple[int, str]]:
    """Living processes whose working folder is the repository."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd().startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process.pid, " ".join(process.cmdline())))
    return found


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.name.startswith("."))
    names = (path.relative_to(folder).as_posix() for path in paths)
    return {name for name in names if not PASSING.search(name)}


def _hashes(folder: Path) -> list[tuple[str, str]]:
    return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in folder.glob("data/*/*")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fault_injection", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a pattern: trials whose name it finds, such as 'kill (train|data)'")
    parser.add_argument("--keep", action="store_true", help="reuse the reference run of the last time")
    asked = parser.parse_args()
    # A shell that starts this in the background has Ctrl-C ignored, which all that is started here would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bench = Bench(PLACE)
    if not asked.keep:
        shutil.rmtree(PLACE, ignore_errors=True)
        print("the unbroken run, a few minutes ...", flush=True)
        bench.build()
        (PLACE / "seconds.json").write_text(json.dumps(bench.seconds))
    bench.seconds = json.loads((PLACE / "seconds.json").read_text())
    bench.reference = {path: bench.finished.text(path) for path in DECLARED}
    print("seconds of each step: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in bench.seconds.items()))
    failures, started, ran = 0, time.monotonic(), 0
    for name, part in parts().items():
        if not re.search(asked.only, name):
            continue
        ran += 1
        rng = random.Random(f"{asked.seed} {name}")
        try:
            line = f"ok      {name}: {part(bench, rng)}"
        except Failure as failure:
            failures += 1
            line = f"FAILED  {name}: {failure}"
        print(line, flush=True)
    print(f"{ran} trials, {failures} failed, seed {asked.seed}, {(time.monotonic() - started) / 60:.0f} minutes")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
