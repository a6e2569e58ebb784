"""Cross-validation: `busi crossval`, stratified group folds over the manifest, on Dask through Prefect.

A fold is what `dvc repro evaluate` does with split.folds and split.fold set (`pipeline.fold`), a task each; the frozen
prefix runs once for all of them. Without --scheduler two local workers are started, without PREFECT_API_URL a server.
Reads artifacts/validate/manifest.csv and what the stages read; writes reports/crossval.json and
artifacts/crossval/predictions.csv (every image as the model that had not seen it called it). Finished folds stay in
artifacts/crossval/folds/ under a hash of what went in, so that a run that was cut off continues.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
import yaml
from distributed import Client
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings
from prefect.states import Failed, State
from prefect_dask import DaskTaskRunner

from busi import DISCLAIMER
from busi.data.layout import CLASSES
from busi.data.split import QUARANTINE, make_folds
from busi.evaluation.metrics import evaluate
from pipeline.dataset import read_dataset
from pipeline.orchestration import fold
from pipeline.params import Params, read_params
from pipeline.paths import ROOT
from pipeline.runtime.atomic_io import sha256, write_csv, write_json
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.tracking import store as tracking

DATA = Path("data")
MANIFEST = Path("artifacts/validate/manifest.csv")
FOLDER = Path("artifacts/crossval")
PREDICTIONS = FOLDER / "predictions.csv"
REPORT = Path("reports/crossval.json")

WORKERS = 2
PREFIX_IMAGES = 200  # images a prefix job, so that several workers have something to do
STAGES = ("split", "featurize", "train", "evaluate")  # of a fold
CONNECT = "10s"  # for a scheduler to answer
KEY = 12  # digits of a hash that name a folder


@dataclass(frozen=True)
class Fold:
    """One fold: its numbers, its parameters, and the folder it runs in."""

    repeat: int
    number: int
    params: Params
    folder: Path

    @property
    def name(self) -> str:
        return f"repeat {self.repeat} fold {self.number}"

    @property
    def is_finished(self) -> bool:
        return (self.folder / fold.RESULT).is_file()


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_job(kind: str, folder: str, name: str):
    try:
        return fold.run(kind, folder)
    except StageError as error:
        return Failed(message=str(error))


def main(
    folds: Annotated[int, typer.Option(min=2, help="Folds; each image is tested in one")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Times over, each with folds dealt anew")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://HOST:PORT")] = None,
) -> None:
    """Cross-validate with the parameters of params.yaml."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit that stops server and workers
    params = read_params()
    manifest = read_manifest()
    common = sums_of_inputs(params)
    parent_key = digest([common, params.of_training(), params.evaluate.model_dump(), folds, repeats])
    planned = plan(params, manifest, folds, repeats, common)
    prefixes = prepare(planned, params, manifest, common)
    waiting = [one for one in planned if not one.is_finished]
    print(f"{len(planned)} folds, {len(planned) - len(waiting)} of them finished before", flush=True)

    try:
        with tracking.run(
            parent_key, name=f"crossval-{tracking.run_name(read_dataset()['name'], parent_key)}"
        ) as parent:
            parent.log_params(params.of_training() | {"crossval": {"folds": folds, "repeats": repeats}})
            if waiting:
                workers = runner(scheduler)
                with api_server():
                    run_all(waiting, prefixes, workers)
            for one in planned:
                tracking.nest(parent, result_of(one)["key"], name=f"{one.name} of {folds}")
            predictions = out_of_fold(planned)
            report = summarise(planned, predictions, params)
            write_csv(PREDICTIONS, predictions)
            write_json(REPORT, report)
            parent.log_evaluation(report["pooled"], [PREDICTIONS, REPORT])
    except KeyboardInterrupt:
        raise StageError("cut off\n  finished folds are kept; the same command goes on with the others") from None
    describe(report, params)


def read_manifest() -> pd.DataFrame:
    """The manifest, of the images that are in `data/` now."""
    if not MANIFEST.is_file():
        raise StageError(f"{MANIFEST} not found\n  run `dvc repro validate`, which makes it")
    manifest = pd.read_csv(MANIFEST, dtype={"duplicate_group": str, "sha256": str}, keep_default_na=False)
    changed = [
        path
        for path, expected in zip(manifest["path"], manifest["sha256"], strict=True)
        if not (DATA / path).is_file() or sha256(DATA / path) != expected
    ]
    if changed:
        raise StageError(
            f"{len(changed)} images of {MANIFEST} are not in {DATA}/ as it says, the first is {changed[0]}\n"
            "  run `dvc repro validate`"
        )
    return manifest


def plan(params: Params, manifest: pd.DataFrame, folds: int, repeats: int, common: dict[str, str]) -> list[Fold]:
    """Every fold with its parameters: split.seed deals the folds of a repeat, train.seed is each fold's own."""
    val = params.split.val
    test = round(1 / folds, 12)
    train = round(1 - test - val, 12)
    planned = []
    for repeat in range(repeats):
        make_folds(manifest, folds, val, params.split.seed + repeat)  # raises what can't be split, before any work
        for number in range(folds):
            split = {"train": train, "test": test, "folds": folds, "fold": number}
            own = params.model_copy(
                update={
                    "split": params.split.model_copy(update=split | {"seed": params.split.seed + repeat}),
                    "train": params.train.model_copy(update={"seed": params.train.seed + repeat * folds + number}),
                }
            )
            key = digest([common, own.of_training(), own.evaluate.model_dump()])
            folder = FOLDER / "folds" / f"{repeat}-{number}-of-{folds}-{key[:KEY]}"
            planned.append(Fold(repeat, number, own, folder))
    return planned


def prepare(planned: list[Fold], params: Params, manifest: pd.DataFrame, common: dict[str, str]) -> list[Path]:
    """Make the folders of all jobs; returns those of the prefix jobs.

    Features depend on image, view and featurize's own seed, never on the split: each job takes some of the images
    and all of their views, as if all were for training.
    """
    clean = make_folds(manifest, planned[0].params.split.folds, params.split.val, params.split.seed)[0].table
    clean = clean.loc[clean["part"] != QUARANTINE, ["path", "label"]].assign(part="train")
    read = set(_stages()["featurize"]["deps"]) | {MANIFEST.as_posix(), f"weights/{params.featurize.weights}"}
    sums = {name: value for name, value in common.items() if name in read}
    prefix = FOLDER / "prefix" / digest([sums, params.featurize.model_dump()])[:KEY]
    jobs = []
    for number in range(-(-len(clean) // PREFIX_IMAGES)):
        job = prefix / f"{number:03d}"
        fold.prepare(job, params)
        write_csv(job / "artifacts/split/split.csv", clean[number * PREFIX_IMAGES : (number + 1) * PREFIX_IMAGES])
        jobs.append(job)
    for one in planned:
        fold.prepare(one.folder, one.params, prefix=prefix)
    return jobs


def run_all(waiting: list[Fold], prefixes: list[Path], workers: DaskTaskRunner) -> None:
    """Run the folds as a Prefect flow. Those that can be finished are, before a failed one is an error."""

    @flow(name="crossval", task_runner=workers, persist_result=False)
    def crossval() -> dict[str, str]:
        shared = {run_job.submit("prefix", str(job.resolve()), f"prefix {job.name}"): job for job in prefixes}
        submitted = {
            run_job.submit("fold", str(one.folder.resolve()), one.name, wait_for=list(shared)): one for one in waiting
        }
        problems = {}
        for future in as_completed([*shared, *submitted]):
            future.wait()
            one = submitted.get(future)
            if one is None and not (shared[future] / fold.RESULT).is_file():
                problems["prefix"] = reason(future.state)
            elif one and one.is_finished:
                accuracy = result_of(one)["metrics"]["accuracy"]
                print(f"{one.name}: accuracy {accuracy['value']:.3f}, n = {accuracy['n']}", flush=True)
            elif one and "prefix" not in problems:
                problems[one.name] = reason(future.state)
        return problems

    problems = crossval()
    if problems:
        told = "\n".join(f"{name}: {message}" for name, message in problems.items())
        raise StageError(f"{told}\n  finished folds are kept; mend the cause and run the same command again")


def reason(state: State) -> str:
    """Why a job has no result."""
    if state.is_failed() or state.is_crashed():
        return state.message or state.name
    return "lost with its workers, more often than Dask tries again"


def runner(scheduler: str | None) -> DaskTaskRunner:
    if scheduler:
        try:
            Client(scheduler, timeout=CONNECT, set_as_default=False).close()
        except (OSError, ValueError) as error:
            raise StageError(f"no Dask scheduler answers at {scheduler}\n  {str(error).splitlines()[0]}") from error
        return DaskTaskRunner(address=scheduler)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": WORKERS,
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "memory_limit": 0,
        }
    )


@contextlib.contextmanager
def api_server() -> Iterator[None]:
    """One Prefect server for this process and its workers, unless one is named already."""
    if PREFECT_API_URL.value():
        yield
        return
    # Nobody can look at this server, and what went wrong is told at the end
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    server = SubprocessASGIServer()
    # A terminal sends Ctrl-C to every process in front, and the flow must still reach its server to end; inherited
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with server:
        named = {PREFECT_API_URL: server.api_url, PREFECT_LOGGING_LEVEL: "CRITICAL"}
        with temporary_settings(named), _environment({key.name: value for key, value in named.items()}):
            yield


def result_of(one: Fold) -> dict:
    return json.loads((one.folder / fold.RESULT).read_text(encoding="utf-8"))


def out_of_fold(planned: list[Fold]) -> pd.DataFrame:
    """The test predictions of all folds, with repeat and fold, sorted by repeat and path."""
    tables = []
    for one in planned:
        found = pd.read_csv(one.folder / "artifacts/evaluate/predictions.csv", dtype={"duplicate_group": str})
        found.insert(0, "repeat", one.repeat)
        found.insert(1, "fold", one.number)
        tables.append(found)
    return pd.concat(tables).sort_values(["repeat", "path"], ignore_index=True)


def summarise(planned: list[Fold], predictions: pd.DataFrame, params: Params) -> dict:
    """The content of reports/crossval.json. Intervals of `pooled` draw whole groups, with all repeats of their images.

    `mean` and `std` (n - 1) are of the folds' accuracies.
    """
    settings = params.evaluate
    pooled = evaluate(
        predictions["label"].map(CLASSES.index).to_numpy(),
        predictions[list(CLASSES)].to_numpy(),
        predictions["duplicate_group"].to_numpy(),
        settings.bootstrap,
        settings.confidence,
        settings.seed,
    )
    if planned[-1].repeat > 0:
        del pooled["accuracy_wilson"]  # takes predictions for independent, and repeats of an image are not
    folds = []
    for one in planned:
        result = result_of(one)
        seeds = {"split": one.params.split.seed, "train": one.params.train.seed}
        measured = {name: result["metrics"][name] for name in ("accuracy", "auroc_macro")}
        folds.append(
            {"repeat": one.repeat, "fold": one.number, "seeds": seeds, "model_md5": result["model_md5"], **measured}
        )
    accuracies = [entry["accuracy"]["value"] for entry in folds]
    return {
        "folds": folds,
        "pooled": pooled,
        "mean": round(float(np.mean(accuracies)), 6),
        "std": round(float(np.std(accuracies, ddof=1)), 6),
    }


def describe(report: dict, params: Params) -> None:
    pooled = report["pooled"]
    rows = {"accuracy": pooled["accuracy"], "macro AUROC": pooled["auroc_macro"]}
    rows |= {f"{label} sensitivity": pooled["per_class"][label]["sensitivity"] for label in CLASSES}
    print(f"\nout of fold, {params.evaluate.confidence:.0%} intervals over near-duplicate groups")
    for name, metric in rows.items():
        print(f"{name:<22} {metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}), n = {metric['n']}")
    print(f"accuracy of a fold     {report['mean']:.3f} ± {report['std']:.3f} (mean and SD of {len(report['folds'])})")
    print(f"report: {REPORT.as_posix()}, predictions: {PREDICTIONS.as_posix()}\n\n{DISCLAIMER}")


def sums_of_inputs(params: Params) -> dict[str, str]:
    """sha256 of every file that all folds read: manifest, which has those of the images, weights and code."""
    stages = _stages()
    named = {name for one in STAGES for name in stages[one]["deps"]}
    made = {out if isinstance(out, str) else next(iter(out)) for one in STAGES for out in _outputs(stages[one])}
    files = {name.replace("${featurize.weights}", params.featurize.weights) for name in named - made} - {"data"}
    files |= {"pipeline/fold.py", "data/dataset.json"}
    return {name: sha256(ROOT / name) for name in sorted(files)}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block."""
    kept = os.environ.copy()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _outputs(body: dict) -> list:
    return [*body.get("outs", []), *body.get("metrics", [])]


if __name__ == "__main__":
    with stage("crossval"):
        typer.run(main)
