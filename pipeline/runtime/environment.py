"""The variables that libraries read, and what this project makes of each; docs/configuration.md lists them.

`apply` runs when `pipeline` is imported, before any of these libraries: in the `busi` command, in every stage that DVC
starts, and in what they start. Nothing here changes a result, so that a variable left over from another project must
not either.
"""

import fnmatch
import os
from collections.abc import Iterable, Mapping, MutableMapping

from pipeline.paths import CACHE

# Only one value is right: set, whatever the user's is
FIXED = {
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "KERAS_BACKEND": "tensorflow",  # `busi pretrain --backend` names another one
    "KERAS_HOME": str(CACHE / "keras"),  # its keras.json may change number type and layout
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # else a run ends before its metrics have arrived
    "MPLBACKEND": "Agg",  # figures are drawn without a display
    "MPLCONFIGDIR": str(CACHE / "matplotlib"),  # no matplotlibrc of the user's
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

# The user's value counts; this one where there is none
DEFAULTS = {
    "DASK_CONFIG": str(CACHE / "dask"),
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "DASK_TEMPORARY_DIRECTORY": str(CACHE / "dask"),
    "DO_NOT_TRACK": "1",
    "DVC_SITE_CACHE_DIR": str(CACHE / "dvc"),
    "HDF5_USE_FILE_LOCKING": "FALSE",  # weights are only read here, also on a network disk without locks
    "KAGGLEHUB_CACHE": str(CACHE / "kagglehub"),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # MLflow's own 7 take minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's own are 120
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PREFECT_HOME": str(CACHE / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

# Would change what is computed, or where it is recorded, or who can reach it: removed. Patterns as of the shell
REMOVED = {
    "FORWARDED_ALLOW_IPS": "opens servers to other machines",
    "KERAS_DISTRIBUTION_*": "trains on other machines",
    "KERAS_MAX_EPOCHS": "ends training early",
    "KERAS_MAX_STEPS_PER_EPOCH": "ends training early",
    "KERAS_NNX_ENABLED": "is for another backend",
    "MATPLOTLIBRC": "changes the figures",
    "MLFLOW_*": "records elsewhere or otherwise, or opens the UI to other machines",
    "NVIDIA_TF32_OVERRIDE": "changes the last digits of results",
    "*_DEFAULT_FPMATH_MODE": "computes in half precision",
    "PANDAS_*": "changes the types of tables",
    "PREFECT_API_DATABASE_*": "is for a server of Prefect's, and the flow's own lives as long as the flow",
    "PREFECT_FLOWS_*": "runs the flow again, or keeps results elsewhere",
    "PREFECT_RESULTS_*": "keeps results elsewhere",
    "PREFECT_SERVER_*": "is for a server of Prefect's, and the flow's own lives as long as the flow",
    "PREFECT_TASKS_*": "runs steps again, or keeps results elsewhere",
    "PYTHONINSPECT": "waits at the keyboard when a stage has ended",
    "PYTHONOPTIMIZE": "leaves checks of libraries out",
    "PYTHONSAFEPATH": "hides the repository's own modules",
    "PYTHONWARNINGS": "turns a library's warning into an error",
    "SCIPY_ARRAY_API": "computes with other libraries",
    "STREAMLIT_*": "opens the app to other machines, or turns its checks off",
    "TF_*": "changes the last digits of results, or more",
    "UVICORN_*": "changes the servers",
    "WEB_CONCURRENCY": "starts several servers in place of one",
    "XLA_FLAGS": "changes the last digits of results",
}

# Of those, the ones that count as the user has them
HONOURED = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",  # see `refusal`
    *(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4")),
    *(f"MLFLOW_TRACKING_{name}" for name in ("INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH")),
    *(f"MLFLOW_{name}_*" for name in ("HTTP", "S3", "GCS", "BOTO_CLIENT", "KERBEROS", "MYSQL", "SQLALCHEMYSTORE")),
    "MLFLOW_*MULTIPART*",
    "MLFLOW_*TIMEOUT*",
    "TF_CLI_*",  # Terraform's
    "TF_CPP_*",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_VAR_*",  # Terraform's
)

# Refused unless it equals the other, because a version is looked for where its run is
TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # never reached through a proxy


def apply(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is fixed, fill in defaults, remove what is listed, and keep loopback from the proxy; in place."""
    for name in unwanted(environment):
        del environment[name]
    environment.update(FIXED)
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    direct = without_proxy(environment)
    environment["no_proxy"] = environment["NO_PROXY"] = direct  # some libraries read one, some the other


def unwanted(environment: Mapping[str, str]) -> list[str]:
    """The variables that `apply` removes, sorted."""
    kept = (*FIXED, *DEFAULTS, *HONOURED)
    return sorted(name for name in environment if _matches(name, REMOVED) and not _matches(name, kept))


def overridden(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that `apply` gives another value than the user's, with that value."""
    return {name: value for name, value in FIXED.items() if environment.get(name, value) != value}


def refusal(environment: Mapping[str, str]) -> str | None:
    """What can't work with these variables and what to do, or None."""
    registry, tracking = environment.get(REGISTRY), environment.get(TRACKING)
    if not registry or registry.rstrip("/") == (tracking or "").rstrip("/"):
        return None
    return (
        f"{REGISTRY} is {registry}, {TRACKING} is {tracking or 'not set'}: runs and versions in two stores\n"
        f"  are not supported; unset {REGISTRY}, or set both to the same address"
    )


def without_proxy(environment: Mapping[str, str]) -> str:
    """The hosts that no proxy is asked for: the user's, and `LOOPBACK`; separated by commas.

    Networks of IPv6, and what is in brackets, are left out: Prefect's client can't read them and stops at once.
    """
    named = ",".join(environment.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    hosts = [host for host in (part.strip() for part in named.split(",")) if host]
    readable = [host for host in hosts if not (":" in host and ("/" in host or "[" in host))]
    return ",".join(dict.fromkeys([*readable, *LOOPBACK]))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
