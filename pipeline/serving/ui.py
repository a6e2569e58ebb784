"""The MLflow UI on the pipeline's own store: `busi ui`.

Listens on this machine only.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.paths import STORE
from pipeline.runtime.errors import StageError
from pipeline.runtime.processes import end_tree
from pipeline.serving.ports import HOST, UI_PORTS, choose_port
from pipeline.tracking import connection

START_SECONDS = 120
LOG = STORE / "ui.log"


def run(port: int | None) -> None:
    """Start the MLflow UI on this machine until Ctrl-C; without `port`, on 5000 or the next free one.

    Raises:
        StageError: the port is taken, or all are; or the server did not start, or ended by itself; or the tracking
            store is a server that does not answer.
    """
    uri = connection.store_uri()
    if uri.startswith(("http://", "https://")):
        connection.connect()  # refuses an address where no server answers
        print(f"the tracking store is a server with a UI of its own: {uri}")
        return
    port = choose_port(port, UI_PORTS)
    experiment = connection.connect().get_experiment_by_name(connection.EXPERIMENT).experiment_id
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with LOG.open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri),
                *("--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,  # the server has workers of its own; they are ended together, and by us alone
        )
    try:
        wait_until_up(server, port, LOG)
        address = f"http://{HOST}:{port}"
        print(f"MLflow UI on {uri}: {address}  (Ctrl-C ends it)")
        print(f"  runs      {address}/#/experiments/{experiment}/runs?workflowType=machine_learning")
        print(f"  registry  {address}/#/models", flush=True)
        if server.wait():
            raise StageError(f"the MLflow server ended with code {server.returncode}\n  {LOG} has its own message")
    except KeyboardInterrupt:
        print("\nended")
    finally:
        end_tree(server)


def wait_until_up(server: subprocess.Popen, port: int, log: Path) -> None:
    """Return once a server answers at `/health`; `log` is where it writes."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StageError(f"the MLflow server did not start\n  {log} has its own message")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise StageError(f"the MLflow server did not answer within {START_SECONDS} s")
