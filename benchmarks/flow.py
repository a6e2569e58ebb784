"""What the flow costs beside bare `dvc repro`: `python -m benchmarks.flow`, from the repository root.

Works in a clone of the last commit under `.cache/`. Runs `dvc repro` and the flow alternately, first with nothing to
do, then with every stage forced, each a process of its own, and prints the seconds of both and their difference.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

CLONE = Path(".cache/benchmark-flow")
SMALL = {
    "data.phantom.benign": 30,
    "data.phantom.malignant": 24,
    "data.phantom.normal": 18,
    "featurize.image_size": 32,
    "train.tail_epochs": 5,
}


def main(
    repeats: Annotated[int, typer.Option(help="runs of each kind")] = 3,
    small: Annotated[
        bool, typer.Option("--small", help="72 small images and 10 epochs: minutes, not half an hour")
    ] = False,
) -> None:
    """Measure the flow against bare dvc repro."""
    shutil.rmtree(CLONE, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", ".", str(CLONE)], check=True)
    if small:
        timed([sys.executable, "-c", f"from pipeline.params import override; override({SMALL})"])
    python = sys.executable
    timed([python, "-m", "pipeline.data", "phantom"])
    timed([python, "-m", "dvc", "repro"])
    print(f"{'':<16}{'dvc repro':>12}{'flow':>12}{'difference':>12}   seconds, load before")
    for name, force in (("nothing to do", []), ("all stages", ["--force"])):
        pairs = []
        for repeat in range(repeats):
            load = os.getloadavg()[0]
            commands = [[python, "-m", "dvc", "repro", *force], [python, "-m", "pipeline.flow", *force]]
            order = (0, 1) if repeat % 2 == 0 else (1, 0)
            seconds = {which: timed(commands[which]) for which in order}
            pairs.append((seconds[0], seconds[1]))
            print(
                f"{name:<16}{seconds[0]:>12.1f}{seconds[1]:>12.1f}{seconds[1] - seconds[0]:>12.1f}   {load:.1f}",
                flush=True,
            )
        differences = [flow - repro for repro, flow in pairs]
        print(
            f"{name}: the flow takes {mean(differences):.1f} s more (n = {repeats} pairs, {min(differences):.1f} to "
            f"{max(differences):.1f})"
        )
    shutil.rmtree(CLONE)


def timed(command: list[str]) -> float:
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(CLONE.absolute() / ".cache/dvc"), "DVC_NO_ANALYTICS": "1"}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=CLONE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
