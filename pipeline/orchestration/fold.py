"""One fold of a cross-validation, as a worker runs it: split, featurize, train and evaluate in a folder of its own.

The folder looks like the repository root: its params.yaml names the fold, data, weights and code are links, and
artifacts/ and reports/ are its own. So the stages run as they are, and `dvc repro` with that params.yaml does the same.
A job is `python -m pipeline.fold KIND FOLDER` with one thread for TensorFlow, a process of its own that ends with the
worker that started it; it is finished when result.json is there.

    prefix   every view of some of the images through the frozen prefix, shared by all folds
    fold     one fold; FOLDER/prefix is a link to the folder of the prefix jobs
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer
import yaml

from pipeline.params import Params
from pipeline.paths import ROOT
from pipeline.runtime.atomic_io import atomic_write, write_csv, write_json, write_text
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

RESULT = "result.json"
LOG = "log.txt"
LINKS = (
    "data",
    "data.dvc",
    "weights",
    "dvc.yaml",
    "pipeline",
    "src",
    "mlruns",
    "artifacts/validate",
    "reports/validation.json",
)
# One thread a job, whatever the machine: sums come out the same everywhere, and jobs side by side share the cores
THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
LAST_LINES = 15

Kind = Literal["prefix", "fold"]


def prepare(folder: Path, params: Params, prefix: Path | None = None) -> None:
    """Make a job's folder: parameters, and links to what it shares with the repository."""
    links = {name: ROOT / name for name in LINKS} | ({"prefix": prefix} if prefix else {})
    for name, target in links.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(target, link.parent))
    write_text(folder / "params.yaml", yaml.safe_dump(params.model_dump(by_alias=True), sort_keys=False))


def run(kind: Kind, folder: str) -> dict:
    """Run a job to its end and return its result; one that is finished is not run again.

    Raises:
        StageError: the job failed, with its last lines, or this machine does not see the folder or has other code.
    """
    path = Path(folder)
    if not (path / "params.yaml").is_file() or not path.is_relative_to(ROOT):
        raise StageError(
            f"the worker in {ROOT} was given {path}, which is not there or not below it\n"
            "  start workers in the repository that the cross-validation runs in, on a file system that all share"
        )
    if not (path / RESULT).is_file():
        command = [sys.executable, "-m", "pipeline.fold", kind, folder]
        environment = os.environ | THREADS | {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
        with (path / LOG).open("a+", encoding="utf-8") as log:
            # The pipe is never written to: its end tells the job that this process is gone
            job = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
            code = job.wait()
            log.seek(0)
            lines = log.read().splitlines()[-LAST_LINES:]
        if code:
            raise StageError("\n".join([f"{path.name} ended with {code}; the end of {path / LOG}:", *lines]))
    return json.loads((path / RESULT).read_text(encoding="utf-8"))


def main(kind: Annotated[str, typer.Argument()], folder: Annotated[Path, typer.Argument()]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    with _alone():
        if not Path(RESULT).is_file():
            {"prefix": run_prefix, "fold": run_fold}[kind]()


def run_prefix() -> None:
    from pipeline.stages import featurize

    with stage("featurize"):
        featurize.main()
    write_json(Path(RESULT), {"views": len(pd.read_csv(featurize.ROWS))})


def run_fold() -> None:
    from pipeline.registry.lineage import md5
    from pipeline.stages import evaluate, featurize, split, train

    with stage("split"):
        split.main()
    with stage("featurize"):
        select_views()
    with stage("train"):
        train.main()
    with stage("evaluate"):
        evaluate.main()
    key = json.loads(train.RUN.read_text())["key"]
    metrics = json.loads(evaluate.METRICS.read_text())
    model_md5 = md5(train.MODEL)
    for large in (featurize.FEATURES, train.MODEL):
        large.unlink()
    write_json(Path(RESULT), {"key": key, "model_md5": model_md5, "metrics": metrics})


def select_views() -> None:
    """What stage `featurize` would write for this fold's split, taken from the prefix jobs."""
    from busi.model.features import feature_rows, read_features, select_features
    from pipeline.params import read_params
    from pipeline.stages.featurize import FEATURES, ROWS, SPLIT

    rows = feature_rows(pd.read_csv(SPLIT), read_params().featurize.views)
    parts = []
    for job in sorted(Path("prefix").iterdir()):
        held = pd.read_csv(job / ROWS)
        parts.append((read_features(job / FEATURES, held), held))
    with atomic_write(FEATURES) as partial:
        select_features(parts, rows, partial)
    write_csv(ROWS, rows)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for another process in the same job; the system takes the lock back from one that was killed."""
    with Path(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    typer.run(main)
