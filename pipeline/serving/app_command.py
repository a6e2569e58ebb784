"""Starts the app on this machine: `busi app`, or `make app`. Ends with Ctrl-C.

This process becomes Streamlit's, with the settings of `.streamlit/config.toml` in the folder it is started in.
"""

import os
import socket
import sys
from pathlib import Path

from pipeline.runtime.errors import StageError

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 8501, 8599
SCRIPT = Path(__file__).resolve().parent / "app" / "script" / "busi_app.py"


def run(port: int | None, model: str | None) -> None:
    """Serve the app until the user ends it; does not return.

    Args:
        port: on this machine, 1 to 65535; None for the first free one from `FIRST_PORT` on.
        model: the registered model; None for that of the data set in `data/`.

    Raises:
        StageError: the port is taken, or all are.
    """
    command = command_line(choose_port(port), model)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - our own words, without a shell


def command_line(port: int, model: str | None) -> list[str]:
    """The command that serves the app. `-P` keeps the folder it starts in off the import path."""
    named = [] if model is None else ["--model", model]
    server = ["--server.address", HOST, "--server.port", str(port)]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(SCRIPT), *server, "--", *named]


def choose_port(wanted: int | None) -> int:
    """The port that is wanted, or the first free one where none is.

    Raises:
        StageError: it is taken, or all are.
    """
    for port in range(FIRST_PORT, LAST_PORT + 1) if wanted is None else [wanted]:
        if _is_free(port):
            return port
    if wanted is None:
        raise StageError(f"no port from {FIRST_PORT} to {LAST_PORT} is free\n  name another one: busi app --port PORT")
    raise StageError(f"port {wanted} is taken\n  name another one, or leave it out for the first free one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
