"""Where the app, the MLflow UI and the REST endpoint listen: on this machine only, on a port that is free.

`python -m pipeline.serving.ports PORT` checks a port for `make server`, because Prefect names no holder and ends with a
traceback for some numbers.
"""

import errno
import socket
import sys

import psutil

from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage

HOST = "127.0.0.1"
APP_PORTS = range(8501, 8600)  # tried in order, where the user names none
UI_PORTS = range(5000, 5100)
SERVE_PORTS = range(5001, 5100)
MEND = "name another one (--port PORT, or PORT=... with make), or leave it out: then a free one is taken"


def choose_port(wanted: int | None, offered: range) -> int:
    """The port that is wanted, or the first free one of `offered` where none is.

    Raises:
        StageError: the wanted port is taken or not allowed, or all that are offered are taken.
    """
    if wanted is not None:
        if reason := _refused(wanted):
            raise StageError(f"port {wanted} {reason}\n  {MEND}")
        return wanted
    for port in offered:
        if _refused(port) is None:
            return port
    raise StageError(
        f"no port from {offered[0]} to {offered[-1]} is free\n  name one: --port PORT, or PORT=... with make"
    )


def holder(port: int) -> str:
    """The program that listens on a port of this machine, `python3.11, process 123`; empty where it can't be known."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells only the administrator
        return ""
    for one in connections:
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
            try:
                return f"{psutil.Process(one.pid).name()}, process {one.pid}"
            except psutil.Error:
                return f"process {one.pid}"
    return ""


def _refused(port: int) -> str | None:
    """Why nothing can listen on a port, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return "is not allowed to this user; ports below 1024 are the system's"
            found = holder(port)
            return f"is taken by {found}" if found else "is taken"
    return None


def main(typed: str) -> None:
    """Refuse what is no port, or one that Prefect's server can't have."""
    with stage("server"):
        if not (typed.isascii() and typed.isdecimal() and 1 <= int(typed) <= 65535):
            raise StageError(f"PORT is {typed}; expected a number from 1 to 65535")
        if reason := _refused(int(typed)):
            raise StageError(
                f"port {typed} {reason}\n  name another one, such as `make server PORT=4300`, and set "
                "PREFECT_API_URL=http://127.0.0.1:4300/api for flow and worker"
            )


if __name__ == "__main__":
    main(sys.argv[1])
