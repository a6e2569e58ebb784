"""A Prefect server for as long as one command runs, where `PREFECT_API_URL` names none."""

import atexit
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    PREFECT_UI_URL,
    temporary_settings,
)

from pipeline.runtime import servers
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.runtime.lifecycle import stage

HOST = "127.0.0.1"
START_SECONDS = 120
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # and in capitals

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")  # as the last line of a traceback begins


def server() -> contextlib.AbstractContextManager:
    """Start Prefect's server for as long as this process runs, where `PREFECT_API_URL` names none.

    Prefect would start one itself, but 2 s later, because it also loads the server's code into the flow. And Ctrl-C
    would end that server before the flow can report that it was cancelled.

    Returns:
        A context in which Prefect uses the server.

    Raises:
        ExternalServiceError: no server answers at `PREFECT_API_URL`.
        StageError: the variables of a proxy can't be used.
    """
    require_usable_proxy()
    if address := PREFECT_API_URL.value():
        require_answer(address)
        return contextlib.nullcontext()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    print("starting Prefect's server", file=sys.stderr, flush=True)
    log = PREFECT_HOME.value() / "flow-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
                *("--host", HOST, "--port", str(port), "--log-level", "error"),
            ],
            env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"},  # as Prefect does
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    atexit.register(process.terminate)  # after Prefect has sent its last logs and events at its own exit
    _wait_until_up(process, f"http://{HOST}:{port}/api/health", log)
    return temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api", PREFECT_UI_URL: ""})


def require_answer(address: str) -> None:
    """Raise `ExternalServiceError` unless a Prefect server of this version answers at `PREFECT_API_URL`, `address`."""
    if reason := servers.silence(_ask):
        if "PREFECT_API_URL" in os.environ:
            origin, remedy = "the variable PREFECT_API_URL names", "unset PREFECT_API_URL"
        else:
            origin = "PREFECT_API_URL in a profile or file of Prefect's names (`prefect config view --show-sources`)"
            remedy = "take it out there"
        raise ExternalServiceError(
            f"no Prefect server at {address} ({reason}), which {origin}\n"
            f"  start it (`make server` starts one here), correct the address (it ends in /api), or {remedy}"
        )


def require_usable_proxy() -> None:
    """Raise `StageError` where Prefect's client can't read the proxy's variables: it does, even for this machine."""
    try:
        httpx.Client().close()
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        named = sorted(name for name in os.environ if name.lower() in PROXIES)
        raise StageError(
            f"Prefect can't use a proxy that is set by {', '.join(named)}: {str(error).splitlines()[0]}\n"
            "  give it an address such as http://HOST:PORT, or leave it out for this command (`env -u NAME busi ...`)"
        ) from error


def _ask() -> None:
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        client.raise_for_api_version_mismatch()


def _wait_until_up(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StageError(
                f"Prefect's server ended with exit code {process.returncode}: {_reason(log)}\n"
                f"  {log} has all of its words. Where its database is damaged, or of a later Prefect, move\n"
                f"  {log.with_name('prefect.db')} away: it holds nothing but the record of past flow runs"
            )
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):  # noqa: S310
            return
        time.sleep(0.1)
    raise StageError(f"Prefect's server did not answer within {START_SECONDS} s")


def _reason(log: Path) -> str:
    """The last exception that the server's log names, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()] or [
        "it said nothing"
    ]
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


if __name__ == "__main__":  # `make worker` asks before it starts one
    with stage("worker"):
        require_usable_proxy()
        require_answer(PREFECT_API_URL.value())
