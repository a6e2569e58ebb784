"""The one module that talks to MLflow: where the store is, the run of a training, and the registered versions.

The store is the database `mlruns/mlflow.db` with its artifacts under `mlruns/artifacts/`, both relative to the
repository root so that the repository may be moved, unless `MLFLOW_TRACKING_URI` names another one. One training
input key is one MLflow run: it is found again by the tag `busi.key`, never by an id on disk, and everything in it
can be logged again from the stages' declared outputs. Every call here may be repeated without doubling anything.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path

import pandas as pd
from PIL import Image

from busi import DISCLAIMER
from busi.data.layout import CLASSES, IMAGE_COLUMN, MODEL_FILE, NOVELTY_FILE
from pipeline.paths import ROOT
from pipeline.runtime.atomic_io import sha256
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.locks import scratch

# Read by MLflow at its import: no hints, links or retries that last minutes on the user's terminal.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types import ColSpec, DataType, Schema  # noqa: E402
from mlflow.types.schema import Map as MapType  # noqa: E402
from sqlalchemy.exc import OperationalError, SQLAlchemyError  # noqa: E402

EXPERIMENT = "busi-densenet121"
FOLDER = Path("mlruns")
DATABASE = FOLDER / "mlflow.db"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens on training runs, not on language models
    "mlflow.note.content": DISCLAIMER,
}
EMBEDDED = f"sqlite:///{DATABASE.as_posix()}"
ARTIFACTS = FOLDER / "artifacts"
WORKPLACE = FOLDER / ".registering"
LOCK = FOLDER / ".lock"
LOCK_SECONDS = 600

SMOKE = "evaluate/smoke"  # folder of a run: test images to try a model on

UNNAMED = 12  # first digits of the key, the name of a run that nobody named

KEY_TAG = "busi.key"
PRODUCTION = "production"  # the alias that programs read: models:/NAME@production
LOGGED_TAG = "busi.logged."
REGISTRATION_TAG = "registration_key"
FILES_TAG = "files_sha256"  # of `checksums.json`, which lies beside the model and names the sha256 of every file
CHECKSUMS = "checksums.json"
VERSIONS_TAG = "mlflow.modelVersions"
SERVING_PACKAGES = ("keras", "mlflow", "numpy", "pandas", "pillow", "pyyaml", "tensorflow")
DESCRIPTION_LIMIT = 5000  # characters, the registry's column in every database


def store_uri() -> str:
    """The address of the tracking store and model registry, for stages, UI, command line and app alike."""
    return os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED


def is_embedded() -> bool:
    return store_uri() == EMBEDDED


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process of this repository at a time create things in the store; a killed one leaves no lock behind.

    An exclusive SQLite transaction is the lock: it works on every platform and ends with its process. Not reentrant.
    """
    FOLDER.mkdir(exist_ok=True)
    lock = sqlite3.connect(LOCK, timeout=LOCK_SECONDS, isolation_level=None)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StageError(
                f"another process has held {LOCK} for {LOCK_SECONDS} s ({error})\n"
                "  wait for the registration that runs in this repository, or end it, and repeat the command"
            ) from error
        yield
    finally:
        lock.close()


def is_locked() -> bool:
    """Whether some process is within `locked` at this moment."""
    if not LOCK.is_file():
        return False
    with contextlib.closing(sqlite3.connect(f"{LOCK.resolve().as_uri()}?mode=ro", uri=True, timeout=0)) as lock:
        try:
            lock.execute("SELECT * FROM sqlite_master")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return True
    return False


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn MLflow's failures into a `StageError` that names the store, `ExternalServiceError` where a server failed to answer."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, MlflowException):
            is_down = error.get_http_status_code() >= 500
        else:
            is_down = isinstance(error, OperationalError)
        kind = ExternalServiceError if is_down and not is_embedded() else StageError
        raise kind(
            f"the tracking store {store_uri()} refused: {reason}\n"
            "  check that it is running and of this MLflow version "
            f"({mlflow.__version__}), or unset MLFLOW_TRACKING_URI to use {EMBEDDED}"
        ) from error


def connect() -> mlflow.MlflowClient:
    """Open the store, creating database and experiment where they are missing."""
    with store_errors(), locked():
        client = _client()
        _experiment(client)
    return client


# Runs


class Run:
    """One MLflow run, to be logged to by any stage and any number of times."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str):
        self.client = client
        self.id = run_id
        self._steps: set[int] | None = None

    def log_params(self, params: Mapping) -> None:
        """Log nested parameters under dotted names.

        MLflow's parameters can't change. Those of a run that was trained before keep their first value; one that
        reads otherwise today (it did not touch what was trained, or the key would differ) goes to a tag.
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
            ValueError: an epoch number stands twice; epochs count on from the first phase into the second.
        """
        if history["epoch"].duplicated().any():
            raise ValueError(f"history names epochs {history['epoch'].tolist()}; expected every number once")
        self.log_params(params)
        for row in history.to_dict(orient="records"):
            self.log_epoch(row["epoch"], row)
        self.set_tags({f"{LOGGED_TAG}train": "yes"})

    def log_evaluation(self, metrics: Mapping, files: Iterable[Path]) -> None:
        """Log the content of `reports/metrics.json` as `test/...` metrics, and files and folders under `evaluate/`.

        The same evaluation logged again changes nothing; another one of the same model takes its place.
        """
        files = sorted(files)
        missing = [path.as_posix() for path in files if not path.exists()]
        if missing:
            raise StageError(f"{', '.join(missing)} not found\n  run `dvc repro evaluate`, which makes them")
        digest = _evaluation_digest(metrics, files)
        if self.tag(f"{LOGGED_TAG}evaluate") == digest:
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
        """Close a run that was opened again only to be completed."""
        with store_errors():
            if self.client.get_run(self.id).info.status != "FINISHED":
                self.client.set_terminated(self.id)

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
        client = _client()
        experiment = _experiment(client)
        found = client.search_runs(
            [experiment], f"tags.`{KEY_TAG}` = '{key}'", order_by=["attributes.start_time ASC"], max_results=1
        )
        if not found:
            first = {KEY_TAG: key, "mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL"}
            found = [client.create_run(experiment, tags=first, run_name=name or key[:UNNAMED])]
        elif name and found[0].info.run_name == key[:UNNAMED]:
            client.update_run(found[0].info.run_id, name=name)
    return Run(client, found[0].info.run_id)


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


# Registered versions. `connect` comes first, once a process: it makes what is missing and takes the lock for it, which
# the calls below leave to their callers.


def find_version(run: Run, name: str, key: str) -> ModelVersion | None:
    """The version that was registered under this key, if nothing of it is missing."""
    with store_errors():
        model = _find_model(run.client, key)
        if model is None or VERSIONS_TAG not in model.tags or not _is_complete(run.client, model):
            return None
        return _version_of(run.client, model, name, key)


def register_version(
    run: Run,
    *,
    name: str,
    key: str,
    keras_file: Path,
    novelty_file: Path,
    evidence: Mapping[str, str],
    tags: Mapping[str, str],
    description: str,
) -> ModelVersion:
    """Register a model once: the version of this key is returned if it exists and completed if it was begun.

    Each step is one transaction of the store that carries the key, so a process killed between two of them leaves
    nothing that the next call does not find: logged model, its files, its readiness, then the version with all its
    tags and its description.

    Args:
        run: the run the model came from.
        name: the registered model.
        key: what makes two registrations the same one.
        keras_file: the model, copied byte for byte.
        novelty_file: what tells an unknown input, likewise.
        evidence: file name to text, stored beside the model.
        tags: tags of the version.
        description: Markdown, at most `DESCRIPTION_LIMIT` characters.
    """
    if len(description) > DESCRIPTION_LIMIT:
        raise ValueError(f"the description has {len(description)} characters; the registry takes {DESCRIPTION_LIMIT}")
    client = run.client
    with store_errors(), locked():
        model = _find_model(client, key) or client.create_logged_model(
            _experiment(client), name=name, source_run_id=run.id, tags={REGISTRATION_TAG: key}
        )
        if not _is_complete(client, model):
            _upload(run, model, keras_file, novelty_file, evidence)
        version = _version_of(client, model, name, key)
        if version is None:
            files = client.get_logged_model(model.model_id).tags[FILES_TAG]
            own = {REGISTRATION_TAG: key, FILES_TAG: files}
            version = _create_version(run, model, name, {**tags, **own}, description)
        # What mlflow.register_model writes too, for the model's page to link to its version
        versions = json.dumps([{"name": name, "version": version.version}])
        client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: versions})
        return version


def versions(name: str) -> list[ModelVersion]:
    """Every version of a registered model, newest first, with its aliases; none where the name is not registered."""
    with store_errors():
        client = _client()
        # A search leaves the aliases out
        found = [
            client.get_model_version(name, version.version)
            for version in client.search_model_versions(f"name = '{name}'")
        ]
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def production_version(name: str) -> str | None:
    """The number of the version that the alias `production` names."""
    with store_errors():
        model = _registered_model(_client(), name)
    return str(model.aliases[PRODUCTION]) if model and PRODUCTION in model.aliases else None


def set_alias(name: str, version: str) -> None:
    """Let the alias `production` name this version; one transaction of the store."""
    with store_errors():
        _client().set_registered_model_alias(name, PRODUCTION, version)


def set_version_tags(name: str, version: str, tags: Mapping[str, str]) -> None:
    with store_errors():
        for tag, value in tags.items():
            _client().set_model_version_tag(name, version, tag, value)


def describe_model(name: str, text: str) -> None:
    """Set the description of a registered model, Markdown."""
    with store_errors():
        _client().update_registered_model(name, text)


def stages(name: str, production: str | None = None) -> dict[str, str]:
    """The stage of each version that has one, after making `production` the one in stage Production, if it is given.

    The one place that knows of MLflow's deprecated stages. Where they are gone it does nothing and knows of none.
    """
    client = _client()
    move = getattr(client, "transition_model_version_stage", None)
    if move is None:
        return {}
    stage = PRODUCTION.capitalize()

    def known() -> dict[str, str]:
        found = client.search_model_versions(f"name = '{name}'")
        return {str(v.version): v.current_stage for v in found if v.current_stage not in (None, "", "None")}

    with store_errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            if production is not None:
                move(name, production, stage, archive_existing_versions=True)
            return known()
        except MlflowException as error:
            if error.error_code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED"):
                return {}
            if production is None:
                raise
        # MLflow 3.17 archives by comparing numbers with text, which PostgreSQL refuses from the driver psycopg 3;
        # then the versions move one by one
        move(name, production, stage)
        for number, found in known().items():
            if found == stage and number != production:
                move(name, number, "Archived")
        return known()


def model_tags(name: str) -> dict[str, str]:
    """The tags of a registered model; none where the name is not registered."""
    with store_errors():
        model = _registered_model(_client(), name)
    return dict(model.tags) if model else {}


def set_model_tag(name: str, tag: str, value: str) -> None:
    with store_errors():
        _client().set_registered_model_tag(name, tag, value)


def delete_model_tag(name: str, tag: str) -> None:
    with store_errors():
        _client().delete_registered_model_tag(name, tag)


@contextlib.contextmanager
def files_of(version: ModelVersion) -> Iterator[Path]:
    """A copy of the files of a version for the length of a block: the model and the evidence beside it.

    Raises:
        StageError: they are gone, or the store refuses.
    """
    with scratch(FOLDER, "reading") as folder:
        with store_errors():
            _client()
            try:
                path = mlflow.artifacts.download_artifacts(
                    f"models:/{version.name}/{version.version}", dst_path=str(folder)
                )
            except OSError as error:
                raise StageError(
                    f"the files of {version.name} version {version.version} can't be read: {error}\n"
                    "  they were deleted from the artifact store; `make run` registers the present model again"
                ) from error
        yield Path(path)


def load_classifier(files: Path):
    """The `busi.serving.ImageClassifier` in a copy of a version's files, as `files_of` makes it."""
    with store_errors():
        return mlflow.pyfunc.load_model(str(files)).get_raw_model()


def scoring_app(files: Path):
    """MLflow's scoring server, an ASGI application, on a copy of a version's files as `files_of` makes it."""
    from mlflow.pyfunc import scoring_server

    with store_errors():
        return scoring_server.init(mlflow.pyfunc.load_model(str(files)))


def smoke_images(version: ModelVersion, folder: Path) -> Path:
    """Copy the test images that were set aside at evaluation, and what is expected of them, into `folder`."""
    with store_errors():
        _client()
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=SMOKE, dst_path=folder))


def is_finished(version: ModelVersion) -> bool:
    """Whether the run of a version ended well and its model is whole."""
    with store_errors():
        client = _client()
        if not (version.run_id and version.source.startswith("models:/m-")):
            return False  # registered by other means than `register_version`
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        return _is_complete(client, model) and client.get_run(version.run_id).info.status == "FINISHED"


def altered_files(version: ModelVersion, folder: Path) -> list[str]:
    """How the files in `folder`, a copy of a version's, differ from its registration; empty when they do not."""
    listed = folder / CHECKSUMS
    if FILES_TAG not in version.tags:
        return ["no checksum was recorded at registration"]
    if not listed.is_file():
        return [f"{CHECKSUMS} is missing"]
    if sha256(listed) != version.tags[FILES_TAG]:
        return [f"{CHECKSUMS} was changed"]
    recorded, found = json.loads(listed.read_text(encoding="utf-8")), checksums(folder)
    changed = {name for name in recorded.keys() & found.keys() if recorded[name] != found[name]}
    what = {
        **dict.fromkeys(changed, "was changed"),
        **dict.fromkeys(recorded.keys() - found.keys(), "is missing"),
        **dict.fromkeys(found.keys() - recorded.keys(), "was added"),
    }
    return [f"{name} {what[name]}" for name in sorted(what)]


def checksums(folder: Path) -> dict[str, str]:
    """Name to sha256 of each file of a logged model, but for the list itself and for what loading it writes."""
    left_out = {CHECKSUMS, "registered_model_meta"}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in names.items() if name not in left_out}


def store_address() -> str:
    """The address of the store for another process that starts in the repository root."""
    with store_errors():
        _client()
    return mlflow.get_tracking_uri()


def _registered_model(client: mlflow.MlflowClient, name: str):
    found = client.search_registered_models(f"name = '{name}'")
    return found[0] if found else None


def _find_model(client: mlflow.MlflowClient, key: str) -> LoggedModel | None:
    oldest_first = [{"field_name": "creation_timestamp", "ascending": True}]
    found = client.search_logged_models(
        [_experiment(client)], f"tags.{REGISTRATION_TAG} = '{key}'", order_by=oldest_first, max_results=1
    )
    return found[0] if found else None


def _version_of(client: mlflow.MlflowClient, model: LoggedModel, name: str, key: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.{REGISTRATION_TAG} = '{key}'")
    found = [version for version in found if version.source == f"models:/{model.model_id}"]
    return min(found, key=lambda version: int(version.version), default=None)


def _is_complete(client: mlflow.MlflowClient, model: LoggedModel) -> bool:
    if model.status != "READY":
        return False
    return any(file.path == "MLmodel" for file in client.list_logged_model_artifacts(model.model_id))


def _upload(run: Run, model: LoggedModel, keras_file: Path, novelty_file: Path, evidence: Mapping[str, str]) -> None:
    shutil.rmtree(WORKPLACE, ignore_errors=True)  # of a killed process; the lock keeps living ones apart
    try:
        write_model(WORKPLACE / "model", keras_file, novelty_file, model.model_id, run.id, model.artifact_location)
        for file, text in evidence.items():
            (WORKPLACE / "model" / file).write_text(text, encoding="utf-8", newline="\n")
        listed = WORKPLACE / "model" / CHECKSUMS
        listed.write_text(json.dumps(checksums(WORKPLACE / "model"), indent=2) + "\n", encoding="utf-8", newline="\n")
        run.client.set_logged_model_tags(model.model_id, {FILES_TAG: sha256(listed)})
        run.client.log_model_artifacts(model.model_id, str(WORKPLACE / "model"))
    finally:
        shutil.rmtree(WORKPLACE, ignore_errors=True)
    outputs = run.client.get_run(run.id).outputs
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        run.client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=0)])
    run.client.finalize_logged_model(model.model_id, "READY")


def _create_version(run: Run, model: LoggedModel, name: str, tags: Mapping[str, str], description: str) -> ModelVersion:
    if not run.client.search_registered_models(f"name = '{name}'"):
        run.client.create_registered_model(name, description=DISCLAIMER)
    return run.client.create_model_version(
        name, f"models:/{model.model_id}", run.id, tags=dict(tags), description=description, model_id=model.model_id
    )


# The logged model


def write_model(
    folder: Path, keras_file: Path, novelty_file: Path, model_id: str | None, run_id: str | None, location: str
) -> None:
    """Write one MLflow model with two flavours: `keras` for the network, `python_function` for image files.

    Both read the same file, a byte-for-byte copy of `keras_file`; nothing is loaded, so this costs no TensorFlow.
    The source of `busi` travels with the model, so that it loads without this repository.
    """
    model = Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    model.add_flavor(
        "keras",
        data="data/keras",
        keras_version=_version("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    data = folder.with_name("keras")
    data.mkdir(parents=True)
    shutil.copyfile(keras_file, data / MODEL_FILE)
    shutil.copyfile(novelty_file, data / NOVELTY_FILE)
    (data / "keras_module.txt").write_text("keras")
    source = folder.with_name("code") / "busi"
    shutil.copytree(ROOT / "src" / "busi", source, ignore=shutil.ignore_patterns("__pycache__"))
    mlflow.pyfunc.save_model(
        folder,
        loader_module="busi.serving",
        data_path=str(data),
        code_paths=[str(source)],
        mlflow_model=model,
        signature=signature(),
        input_example=input_example(),
        pip_requirements=[f"{package}=={_version(package)}" for package in SERVING_PACKAGES],
        metadata={"classes": list(CLASSES), "disclaimer": DISCLAIMER},
    )


def signature() -> ModelSignature:
    """Image files in, and out what `busi.serving` says of each."""
    outputs = [
        ColSpec("string", "label", required=False),
        ColSpec(MapType(DataType.double), "probabilities", required=False),
        ColSpec("boolean", "accepted"),
        *(ColSpec("string", name) for name in ("reason", "model_version", "disclaimer")),
    ]
    return ModelSignature(inputs=Schema([ColSpec("binary", IMAGE_COLUMN)]), outputs=Schema(outputs))


def input_example() -> pd.DataFrame:
    """One small PNG, a grey ramp: no patient's image leaves the data set."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(file, "PNG")
    return pd.DataFrame({IMAGE_COLUMN: [file.getvalue()]})


# Below this line nothing is for other modules


def _client() -> mlflow.MlflowClient:
    """A client of the store; under the lock, since the first one makes the database's tables."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    # MLflow keeps one connection an address, so the address must say which folder's database this is
    path = (Path.cwd() / DATABASE).as_posix()
    # Only what would end the path in an address: MLflow makes the folder of the address as it is spelt
    here = f"sqlite:///{path.replace('%', '%25').replace('?', '%3F').replace('#', '%23')}"
    mlflow.set_tracking_uri(here if is_embedded() else store_uri())
    if named is None:
        os.environ.pop(
            "MLFLOW_TRACKING_URI", None
        )  # MLflow wrote it; a process started elsewhere has a store of its own
    else:
        os.environ["MLFLOW_TRACKING_URI"] = named
    return mlflow.MlflowClient()


def _experiment(client: mlflow.MlflowClient) -> str:
    """The experiment's id; under the lock, since the first call makes the database and the experiment."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        created = client.create_experiment(EXPERIMENT, tags=EXPERIMENT_TAGS)
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    experiment = found.experiment_id if found else created
    if is_embedded():
        _make_relative(experiment)
    return experiment


def _make_relative(experiment: str) -> None:
    """Give an experiment an artifact location relative to the repository root.

    MLflow makes every location absolute when it creates an experiment (also one given as relative) but uses what
    stands in the database, and runs, models and versions derive theirs from it.
    """
    location = (ARTIFACTS / experiment).as_posix()
    with contextlib.closing(sqlite3.connect(DATABASE, timeout=LOCK_SECONDS)) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ? AND artifact_location != ?",
            (location, int(experiment), location),
        )


def _set_status(opened: Run, status: str) -> None:
    with store_errors():
        if status == "RUNNING":
            opened.client.update_run(opened.id, status=status)
        else:
            opened.client.set_terminated(opened.id, status=status)


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


def _version(package: str) -> str:
    return importlib.metadata.version(package)
