"""Where the app, the MLflow UI and the REST endpoint listen: on this machine only, on a port that is free."""

import socket

from pipeline.runtime.errors import StageError

HOST = "127.0.0.1"
APP_PORTS = range(8501, 8600)  # tried in order, where the user names none
UI_PORTS = range(5000, 5100)
MEND = "name another one: --port PORT, or PORT=... with make"


def choose_port(wanted: int | None, offered: range) -> int:
    """The port that is wanted, or the first free one of `offered` where none is.

    Raises:
        StageError: the wanted port is taken, or all that are offered are.
    """
    if wanted is not None:
        require_free(wanted)
        return wanted
    for port in offered:
        if _is_free(port):
            return port
    raise StageError(f"no port from {offered[0]} to {offered[-1]} is free\n  {MEND}")


def require_free(port: int) -> None:
    """Raise a `StageError` when a port is taken."""
    if not _is_free(port):
        raise StageError(f"port {port} is taken\n  {MEND}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
