"""What both parts of `tests.load` are made of: what a client found, memory, a started command and its words."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import psutil

from pipeline.paths import ROOT
from pipeline.runtime.processes import end_tree
from tests.pipeline.conftest import Workspace
from tests.pipeline.registry import free_port

PLACE = ROOT / ".cache" / "load"
NAME = "busi-densenet121-phantom"
GROWTH = 0.05
SAME = 1e-3  # of a probability, as in the smoke test of a version
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
    """`busi serve` in a workspace, and its address."""
    with started(workspace, "-m", "pipeline.cli", "serve", "--port", str(free_port())) as server:
        address = re.search(r"http://\S+/invocations", wait_for(server, "answers at"))[0]
        for line in server.stdout:
            if "Not a medical device" in line:
                break
        yield server, address


@contextlib.contextmanager
def started(workspace: Workspace, *words: str) -> Iterator[subprocess.Popen]:
    # The workspace's code, and the tests of this repository
    environment = {**workspace.environment, "PYTHONPATH": f"{workspace.environment['PYTHONPATH']}{os.pathsep}{ROOT}"}
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
