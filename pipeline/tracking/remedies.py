"""What to do where the embedded store refuses: MLflow's and SQLite's reasons, each with its way out."""

import os

import mlflow

from pipeline.paths import STORE

# What the reason contains, and what to do
_REMEDIES = {
    "out-of-date database schema": (
        f"another MLflow than this one ({mlflow.__version__}), most likely a later one, has written it; go to the "
        f"commit of this repository that installs that MLflow, or move {STORE}/ away and `make run` registers again"
    ),
    "database is locked": (
        "another program has it open for writing (a database browser, a UI, a backup); end it and repeat the command. "
        "On a network disk without locks, move the repository to a local disk"
    ),
    "readonly database": f"it may not be written to; `sudo chown -R {os.getuid()} {STORE}` makes it yours",
    "unable to open database file": f"it may not be read; `sudo chown -R {os.getuid()} {STORE}` makes it yours",
}


def remedy(reason: str) -> str | None:
    """The way out of a failure of SQLite; None for a reason that none is known for."""
    return next((way for words, way in _REMEDIES.items() if words in reason), None)
