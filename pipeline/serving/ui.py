"""The MLflow UI on the pipeline's own store: `busi ui`, or `make ui`. Ends with Ctrl-C.

Listens on this machine only. `PORT` names the port; without it, 5000 or the next free one is taken.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.tracking import store as tracking

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 5000, 5099
START_SECONDS = 120
LOG = tracking.FOLDER / "ui.log"


def main() -> None:
    uri = tracking.store_uri()
    if uri.startswith(("http://", "https://")):
        print(f"the tracking store is a server with a UI of its own: {uri}")
        return
    port = choose_port(os.environ.get("PORT"))
    experiment = tracking.connect().get_experiment_by_name(tracking.EXPERIMENT).experiment_id
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with LOG.open("w") as log:
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
        end(server)


def choose_port(wanted: str | None) -> int:
    """The port in `wanted` if it is free, or the first free one from 5000 on where none is wanted."""
    if wanted:
        if not wanted.isdigit() or not 0 < int(wanted) < 65536:
            raise StageError(f"PORT is {wanted!r}; expected a number from 1 to 65535")
        if not _is_free(int(wanted)):
            raise StageError(f"port {wanted} is taken\n  choose another with PORT=..., or leave PORT out")
        return int(wanted)
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if _is_free(port):
            return port
    raise StageError(f"no port from {FIRST_PORT} to {LAST_PORT} is free\n  choose one with PORT=...")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


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


def end(server: subprocess.Popen) -> None:
    """End a server that leads a session of its own, with its workers."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
            server.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    with stage("ui"):
        main()
