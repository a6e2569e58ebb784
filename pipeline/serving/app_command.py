"""Start the app on this machine, until Ctrl-C: `busi app`.

This process becomes Streamlit's, with the settings of `.streamlit/config.toml` in the folder it is started in.
"""

import os
import sys
from pathlib import Path

from pipeline.serving.ports import APP_PORTS, HOST, choose_port

SCRIPT = Path(__file__).resolve().parent / "app" / "script" / "busi_app.py"


def run(port: int | None, model: str | None) -> None:
    """Serve the app until the user ends it; does not return.

    Args:
        port: on this machine, 1 to 65535; None for the first free one of `APP_PORTS`.
        model: the registered model; None for that of the data set in `data/`.

    Raises:
        StageError: the port is taken, or all are.
    """
    command = command_line(choose_port(port, APP_PORTS), model)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - our own words, without a shell


def command_line(port: int, model: str | None) -> list[str]:
    """The command that serves the app. `-P` keeps the folder it starts in off the import path."""
    named = [] if model is None else ["--model", model]
    server = ["--server.address", HOST, "--server.port", str(port)]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(SCRIPT), *server, "--", *named]
