"""The address of the tracking store, the lock under which one process at a time creates things in it, and its errors.

The store is the database `mlruns/mlflow.db` with its artifacts under `mlruns/artifacts/`, both relative to the
repository root so that the repository may be moved, unless `MLFLOW_TRACKING_URI` names another one.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
from filelock import Timeout
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from busi import DISCLAIMER
from pipeline.paths import STORE
from pipeline.runtime import environment, locks
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.tracking.address import require_answer
from pipeline.tracking.remedies import remedy

EXPERIMENT = "busi-densenet121"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens on training runs, not on language models
    "mlflow.note.content": DISCLAIMER,
}
DATABASE = STORE / "mlflow.db"
EMBEDDED = f"sqlite:///{DATABASE.as_posix()}"
ARTIFACTS = STORE / "artifacts"
LOCK = STORE / ".lock"
LOCK_SECONDS = 600


def store_uri() -> str:
    """The address of the tracking store and model registry, for stages, UI, command line and app alike."""
    return os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED


def is_embedded() -> bool:
    """Whether the store is the database in this repository and not a server."""
    return store_uri() == EMBEDDED


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process of this repository at a time create things in the store. Not reentrant.

    Raises:
        StageError: another process has held the lock for `LOCK_SECONDS`. A killed process holds none.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(LOCK, timeout=LOCK_SECONDS))
        except Timeout as error:
            raise StageError(
                f"another process has held {LOCK} for {LOCK_SECONDS} s\n"
                "  wait for the registration that runs in this repository, or end it, and repeat the command"
            ) from error
        yield


def is_locked() -> bool:
    """Whether some process is within `locked` at this moment."""
    return locks.is_locked(LOCK)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn MLflow's failures into a `StageError` that names the store; `ExternalServiceError` when a server is down."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, MlflowException):
            is_down = error.get_http_status_code() >= 500
        else:
            is_down = isinstance(error, OperationalError)
        kind = ExternalServiceError if is_down and not is_embedded() else StageError
        known = remedy(reason) if is_embedded() else None
        way = known or (
            f"check that it is running and of this MLflow version ({mlflow.__version__}), "
            f"or unset MLFLOW_TRACKING_URI to use {EMBEDDED}"
        )
        raise kind(f"the tracking store {store_uri()} refused: {reason}\n  {way}") from error


def connect() -> mlflow.MlflowClient:
    """Open the store, and create its database and experiment where they are missing. Call it first, once a process.

    Raises:
        ExternalServiceError: no server answers at the address.
        StageError: the store refuses, or versions would be kept in another one than runs.
    """
    if refused := environment.refusal(os.environ):  # a command has said so already; a program of somebody's has not
        raise StageError(refused)
    require_answer(store_uri(), EMBEDDED)
    with store_errors(), locked():
        opened = client()
        experiment_id(opened)
    return opened


def store_address() -> str:
    """The address of the store for another process that starts in the repository root."""
    with store_errors():
        client()
    return mlflow.get_tracking_uri()


# For the modules of this sub-package only


def client() -> mlflow.MlflowClient:
    """A client of the store. The first call for an empty store needs `locked`, since it makes the tables."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    # MLflow keeps one connection an address, so the address must say which folder's database this is
    path = (Path.cwd() / DATABASE).as_posix()
    if is_embedded() and (sign := re.search(r"\?|%[0-9A-Fa-f]{2}", path)):
        raise StageError(
            f"{Path.cwd()}: {sign[0]!r} in the path of the repository has a meaning in the address of its store\n"
            "  give the folder another name, or set MLFLOW_TRACKING_URI to the address of a server"
        )
    here = f"sqlite:///{path}"  # nothing else in a path is encoded: neither SQLAlchemy nor MLflow decodes it
    if is_embedded() and "'" in path and not DATABASE.exists():
        _create(here)
    mlflow.set_tracking_uri(here if is_embedded() else store_uri())
    # MLflow writes the variable; a process started in another folder has a store of its own
    if named is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = named
    return mlflow.MlflowClient()


def _create(address: str) -> None:
    """Make an empty database below a path with a quotation mark, which MLflow writes unquoted into its first SQL."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # imported by its first use anyway

    SqlAlchemyStore(address, (Path.cwd() / STORE).as_uri())


def experiment_id(opened: mlflow.MlflowClient) -> str:
    """The experiment's id. The first call for an empty store needs `locked`, since it makes the experiment."""
    found = opened.get_experiment_by_name(EXPERIMENT)
    if found is None:
        created = opened.create_experiment(EXPERIMENT, tags=EXPERIMENT_TAGS)
    elif found.lifecycle_stage == "deleted":
        opened.restore_experiment(found.experiment_id)
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
