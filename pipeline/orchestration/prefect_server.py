"""A Prefect server for as long as one command runs, where `PREFECT_API_URL` names none."""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from pipeline.runtime.errors import StageError

HOST = "127.0.0.1"
START_SECONDS = 120


def server() -> contextlib.AbstractContextManager:
    """Start Prefect's server for as long as this process runs, where `PREFECT_API_URL` names none.

    Prefect would start one itself, but 2 s later, because it also loads the server's code into the flow. And Ctrl-C
    would end that server before the flow can report that it was cancelled.

    Returns:
        A context in which Prefect uses the server.
    """
    if PREFECT_API_URL.value():
        return contextlib.nullcontext()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
            *("--host", HOST, "--port", str(port), "--log-level", "error"),
        ],
        env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"},  # as Prefect does
        start_new_session=True,
    )
    atexit.register(process.terminate)  # after Prefect has sent its last logs and events at its own exit
    _wait_until_up(process, f"http://{HOST}:{port}/api/health")
    return temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api", PREFECT_UI_URL: ""})


def _wait_until_up(process: subprocess.Popen, address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StageError(f"Prefect's server ended with exit code {process.returncode}; its own message is above")
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):  # noqa: S310
            return
        time.sleep(0.1)
    raise StageError(f"Prefect's server did not answer within {START_SECONDS} s")
