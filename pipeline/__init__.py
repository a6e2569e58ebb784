"""How the pipeline runs: the `busi` command, and one thin module a stage, both from the repository root.

Importing this package points every tool's cache and telemetry switch into the repository, before any of them
is imported, so that a stage writes nothing outside it whether it is started by `busi`, by DVC or by hand.
"""

import importlib.util
import os
import sys

from pipeline.paths import CACHE

_ENVIRONMENT = {
    "DASK_CONFIG": str(CACHE / "dask"),
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "DASK_TEMPORARY_DIRECTORY": str(CACHE / "dask"),
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "DVC_SITE_CACHE_DIR": str(CACHE / "dvc"),
    "GX_ANALYTICS_ENABLED": "false",
    "KAGGLEHUB_CACHE": str(CACHE / "kagglehub"),
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": str(CACHE / "keras"),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": str(CACHE / "matplotlib"),
    "PREFECT_HOME": str(CACHE / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

_missing = [
    name for name in ("great_expectations", "mlflow", "pydantic", "tensorflow") if not importlib.util.find_spec(name)
]
if _missing:
    sys.exit(
        f"error: {sys.executable} lacks the project's packages ({', '.join(_missing)})\n"
        "  run `make env` once, then `. .venv/bin/activate`, and repeat the command"
    )


def _say_interrupted(kind: type[BaseException], error: BaseException, trace) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return _excepthook(kind, error, trace)
    print("\ninterrupted", file=sys.stderr)


# For Ctrl-C while packages are imported, which takes seconds; later `pipeline.runtime.lifecycle.stage` handles it
_excepthook, sys.excepthook = sys.excepthook, _say_interrupted
