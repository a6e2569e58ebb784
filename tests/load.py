"""Many at once: `python -m tests.load`, or `make load`. Linux.

A small phantom is run to the end twice, which gives two versions of one model, the first in Production. Then

- four clients ask the endpoint and four sessions of the app classify, for `--seconds`; in the middle the second version
  is promoted. Nothing may fail, an answer must be that of its version, a session must see the old version and then the
  new one and never the old one again, and memory may grow by `GROWTH` at most over the last four fifths of the time.
  The endpoint stays with its version; so afterwards a second one is started beside it, the clients are led there, and
  the first one ends, while the clients go on. The endpoint that is left is sent malformed requests.
- eight processes register, four read and one promotes and rolls back, in one embedded store, for two fifths of the
  time. Every registration must be there at the end, every reader must have seen a store that agrees with itself, and
  `busi verify --all` must find nothing.

The smoke test of a registered version by a fresh process takes seconds of two processors; the second part runs it only
for the two versions that it starts with.
"""

import argparse
import contextlib
import http.client
import json
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.paths import ROOT
from tests import malformed_inputs
from tests.load_store import storing
from tests.load_tools import NAME, PLACE, READY, Found, Memory, endpoint, is_said, show, started, wait_for
from tests.pipeline.conftest import SMALL, Workspace
from tests.pipeline.registry import post

# So that both versions pass: what they are worth is not the question here
OPEN = {
    "register": {"gate": {"accuracy": 0.01, "malignant_sensitivity": None, "expected_calibration_error": None}},
    "promote": {"not_worse_than_production": None},
}
CLIENTS, SESSIONS = 4, 4
REQUESTS = 100  # malformed ones


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
        print("two versions, a few minutes ...", flush=True)
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
        failures += malformed_requests(address, seed, files, expected)
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


def malformed_requests(address: str, seed: int, files: dict, expected: dict) -> list[str]:
    """Malformed requests to the living endpoint: no 5xx, no silence, and afterwards it answers as before."""
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
    print(f"  {REQUESTS} malformed requests: {dict(statuses)}")
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


if __name__ == "__main__":
    main()
