"""The MLflow run of a training: found by its key, logged to any number of times.

One training input key is one run. It is found again by the tag `busi.key`, never by an id on disk, and everything in
it can be logged again from the stages' declared outputs. Every call may be repeated without doubling anything.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from pipeline.runtime.errors import StageError
from pipeline.tracking.connection import client, experiment_id, locked, store_errors, store_uri

KEY_TAG = "busi.key"
LOGGED_TAG = "busi.logged."
UNNAMED = 12  # first digits of the key; they name a run that was given no name


class Run:
    """One MLflow run, to be logged to by any stage and any number of times."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str):
        self.client = client
        self.id = run_id
        self._steps: set[int] | None = None

    def log_params(self, params: Mapping) -> None:
        """Log nested parameters under dotted names.

        MLflow's parameters can't change, so a parameter of an earlier training keeps its first value. A value that
        differs now goes to a tag; it did not decide what was trained, or the key would differ too.
        """
        with store_errors():
            known = self.client.get_run(self.id).data.params
            values = {name: str(value) for name, value in flat(params).items()}
            new = [Param(name, value) for name, value in values.items() if name not in known]
            since = {name: value for name, value in values.items() if known.get(name, value) != value}
            tags = [RunTag("busi.params_since", json.dumps(since, sort_keys=True))] if since else []
            self.client.log_batch(self.id, params=new, tags=tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with store_errors():
            self.client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics under the names of `history.csv`; an epoch that is there already is left alone.

        `loss` and `accuracy` become `train/loss` and `train/accuracy`, `val_loss` becomes `val/loss`; what is not a
        number (the phase) is not a metric.
        """
        with store_errors():
            if self._steps is None:
                self._steps = {point.step for point in self.client.get_metric_history(self.id, "train/loss")}
            if epoch in self._steps:
                return
            now = _milliseconds()
            points = [
                Metric(_epoch_metric(name), float(value), now, int(epoch))
                for name, value in metrics.items()
                if name != "epoch" and isinstance(value, Real)
            ]
            self.client.log_batch(self.id, metrics=points)
            self._steps.add(epoch)

    def log_training(self, params: Mapping, history: pd.DataFrame) -> None:
        """Log a whole training: parameters, and the epochs of `history.csv` that are not there yet.

        Raises:
            ValueError: an epoch number occurs twice; the second phase continues the numbers of the first.
        """
        if history["epoch"].duplicated().any():
            raise ValueError(f"history names epochs {history['epoch'].tolist()}; expected every number once")
        self.log_params(params)
        for row in history.to_dict(orient="records"):
            self.log_epoch(row["epoch"], row)
        self.set_tags({f"{LOGGED_TAG}train": "yes"})

    def log_evaluation(self, metrics: Mapping, files: Iterable[Path]) -> None:
        """Log the content of `reports/metrics.json` as `test/...` metrics, and files and folders under `evaluate/`.

        The same evaluation logged again changes nothing, unless files of it are gone from the store; another one of
        the same model takes its place.
        """
        files = sorted(files)
        missing = [path.as_posix() for path in files if not path.exists()]
        if missing:
            raise StageError(f"{', '.join(missing)} not found\n  `dvc repro report` runs the stages that write them")
        digest = _evaluation_digest(metrics, files)
        is_logged = self.tag(f"{LOGGED_TAG}evaluate") == digest
        if is_logged and _sizes(files).items() <= self._logged_sizes("evaluate").items():
            return
        with store_errors():
            now = _milliseconds()
            points = [Metric(f"test/{name}", value, now, 0) for name, value in flat_metrics(metrics).items()]
            self.client.log_batch(self.id, metrics=points)
            for path in files:
                if path.is_dir():
                    self.client.log_artifacts(self.id, str(path), f"evaluate/{path.name}")
                else:
                    self.client.log_artifact(self.id, str(path), "evaluate")
        self.set_tags({f"{LOGGED_TAG}evaluate": digest})  # last: a killed stage logs again

    def log_seconds(self, seconds: Mapping[str, float]) -> None:
        """Log how long stages took, as `seconds/...`; a time that is there already is left alone."""
        with store_errors():
            known, now = self.client.get_run(self.id).data.metrics, _milliseconds()
            points = [Metric(f"seconds/{name}", float(value), now, 0) for name, value in seconds.items()]
            self.client.log_batch(self.id, metrics=[point for point in points if point.key not in known])

    def log_data_set(self, name: str, digest: str, source: str) -> None:
        """Log what was trained on as the run's input, which the UI shows and searches; digest is DVC's md5."""
        with store_errors():
            found = Dataset(name=name, digest=digest, source_type="dvc", source=json.dumps({"uri": source}))
            self.client.log_inputs(self.id, [DatasetInput(found, [InputTag("mlflow.data.context", "training")])])

    def log_text(self, text: str, path: str) -> None:
        with store_errors():
            self.client.log_text(self.id, text, path)

    def is_training_logged(self) -> bool:
        return self.tag(f"{LOGGED_TAG}train") is not None

    def finish(self) -> None:
        """Close a run that was reopened to complete it."""
        with store_errors():
            if self.client.get_run(self.id).info.status != "FINISHED":
                self.client.set_terminated(self.id)

    def _logged_sizes(self, folder: str) -> dict[str, int]:
        """Name to size of each file below a folder of the run's artifacts."""
        with store_errors():
            found = self.client.list_artifacts(self.id, folder)
        sizes = {item.path: item.file_size for item in found if not item.is_dir}
        for item in found:
            if item.is_dir:
                sizes |= self._logged_sizes(item.path)
        return sizes

    def tag(self, name: str) -> str | None:
        with store_errors():
            return self.client.get_run(self.id).data.tags.get(name)


@contextlib.contextmanager
def run(key: str, name: str | None = None) -> Iterator[Run]:
    """Open the run of a training key for the length of a block, and close it with how the block ended."""
    opened = open_run(key, name)
    _set_status(opened, "RUNNING")
    try:
        yield opened
    except BaseException as error:
        try:
            _set_status(opened, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except StageError as refused:
            error.add_note(str(refused))  # the store is not what ended the block
        raise
    _set_status(opened, "FINISHED")


def open_run(key: str, name: str | None = None) -> Run:
    """Find the run of a training key, or create it. A run that a killed stage left running is the same run."""
    with store_errors(), locked():
        store = client()
        experiment = experiment_id(store)
        found = store.search_runs(
            [experiment], f"tags.`{KEY_TAG}` = '{key}'", order_by=["attributes.start_time ASC"], max_results=1
        )
        if not found:
            first = {KEY_TAG: key, "mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
            found = [store.create_run(experiment, tags=first, run_name=name or key[:UNNAMED])]
        elif name and found[0].info.run_name == key[:UNNAMED]:
            store.update_run(found[0].info.run_id, name=name)
    return Run(store, found[0].info.run_id)


def nest(parent: Run, key: str, name: str) -> None:
    """Name the run of a training key and make it a child of `parent`."""
    with store_errors():
        experiment = parent.client.get_run(parent.id).info.experiment_id
        found = parent.client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not found:
            raise StageError(
                f"the tracking store {store_uri()} has no run {key[:UNNAMED]}\n"
                "  start this process and all workers with the same MLFLOW_TRACKING_URI, or all without;\n"
                "  if the store was emptied, delete artifacts/crossval/folds/ too"
            )
        parent.client.update_run(found[0].info.run_id, name=name)
        parent.client.set_tag(found[0].info.run_id, "mlflow.parentRunId", parent.id)


def run_name(data_set: str, key: str) -> str:
    """What a run is called in the UI: the data set and the first digits of its key."""
    return f"{data_set}-{key[:8]}"


def flat(values: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, under dotted names."""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def flat_metrics(metrics: Mapping) -> dict[str, float]:
    """Flatten `metrics.json` into MLflow's names: `accuracy`, `accuracy_low`, `malignant/sensitivity`, ...

    The counts `n` are left to the file.
    """
    named = {}
    for name, found in flat(metrics).items():
        path = [part for part in name.split(".") if part != "per_class"]
        last = path.pop()
        if last == "n" or isinstance(found, bool) or not isinstance(found, Real):
            continue
        named["/".join(path) + ("" if last == "value" else f"_{last}") if path else last] = float(found)
    return named


def _set_status(opened: Run, status: str) -> None:
    with store_errors():
        if status == "RUNNING":
            opened.client.update_run(opened.id, status=status)
        else:
            opened.client.set_terminated(opened.id, status=status)


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    """Name in a run's artifacts to size, of files and of what is in folders."""
    files = {
        file: file.relative_to(path.parent)
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    }
    return {f"evaluate/{name.as_posix()}": file.stat().st_size for file, name in files.items()}


def _evaluation_digest(metrics: Mapping, files: Iterable[Path]) -> str:
    """The sha256 of an evaluation: its metrics, and names and bytes of its files."""
    digest = hashlib.sha256(json.dumps(metrics, sort_keys=True).encode())
    for path in files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _epoch_metric(name: str) -> str:
    if name == "learning_rate":
        return name
    return f"val/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"
