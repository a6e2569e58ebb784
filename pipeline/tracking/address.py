"""The address that `MLFLOW_TRACKING_URI` names: its form, and whether a tracking store answers there."""

import re

import sqlalchemy
from mlflow.utils import rest_utils
from mlflow.utils.credentials import get_default_host_creds

from pipeline.runtime import servers
from pipeline.runtime.errors import ExternalServiceError, StageError

KNOWN = re.compile(r"(https?|sqlite|(postgresql|mysql|mssql)(\+\w+)?)://.|databricks(-uc)?(://|$)")
QUESTION = "/api/2.0/mlflow/experiments/get-by-name"  # any tracking server answers it, if only "no such experiment"


def require_answer(uri: str, otherwise: str) -> None:
    """Return if a store answers at an address, or if it is SQLite's, whose file may yet be made.

    Args:
        uri: what MLFLOW_TRACKING_URI is.
        otherwise: the store without that variable, for the message.

    Raises:
        StageError: MLflow knows no such address.
        ExternalServiceError: no tracking store answers there.
    """
    if not KNOWN.match(uri):
        raise StageError(
            f"MLFLOW_TRACKING_URI is {uri!r}: expected http://HOST:PORT, https://HOST, or a database's address\n"
            f"  such as postgresql://USER@HOST/NAME; correct it, or unset it to use {otherwise}"
        )
    if uri.startswith(("sqlite", "databricks")):
        return
    if reason := servers.silence(lambda: _ask(uri)):
        raise ExternalServiceError(
            f"no tracking server at {uri} ({reason}), which the variable MLFLOW_TRACKING_URI names\n"
            f"  start it, correct the address, or unset MLFLOW_TRACKING_URI to use {otherwise}"
        )


def _ask(uri: str) -> None:
    """Ask once, as MLflow would with its retries: with the user's credentials and certificates."""
    if not uri.startswith("http"):
        with sqlalchemy.create_engine(uri).connect():
            return
    answer = rest_utils.http_request(
        get_default_host_creds(uri),
        QUESTION,
        "GET",
        max_retries=0,
        timeout=servers.ANSWER_SECONDS,
        raise_on_status=False,
        params={"experiment_name": "Default"},
    )
    if answer.status_code >= 500:
        answer.raise_for_status()
    if answer.status_code not in (401, 403):  # MLflow says itself what it makes of these
        answer.json()
