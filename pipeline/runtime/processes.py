"""Child processes: they end with their parent, and with everything that they started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time

import psutil

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_GRACE_SECONDS = 5  # for a tree to end, after each signal
_POLL_SECONDS = 0.05


def end_with_parent() -> None:
    """Have the system end this process when its parent ends; otherwise it would run on beside its repetition."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs; one that has ended but was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_tree(process: subprocess.Popen) -> None:
    """End a process and everything that it started, with ever stronger signals, and wait for it.

    Each of SIGINT, SIGTERM and SIGKILL goes to the whole tree, with `_GRACE_SECONDS` between two of them. SIGINT comes
    first so that DVC releases its locks and a training closes its MLflow run as killed. If the process leads a session,
    members of that session whose parent has ended are found too. A second interruption, such as
    another Ctrl-C, kills the tree at once and is raised again.
    """
    tree: set[psutil.Process] = set()
    try:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            tree |= _members(process.pid)  # again: what is ending may have started something
            _send(tree, ending)
            deadline = time.monotonic() + _GRACE_SECONDS
            while any(is_alive(one.pid) for one in tree) and time.monotonic() < deadline:
                process.poll()
                time.sleep(_POLL_SECONDS)
            if not any(is_alive(one.pid) for one in tree | _members(process.pid)):
                break
    except BaseException:
        _send(tree | _members(process.pid), signal.SIGKILL)
        raise
    process.wait()


def _members(pid: int) -> set[psutil.Process]:
    """A process, its descendants, and the members of the session that it leads; those that have ended are left out."""
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        found |= {psutil.Process(pid), *psutil.Process(pid).children(recursive=True)}
    for other in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(other.pid) == pid:
                found.add(other)
    return {one for one in found if is_alive(one.pid)}


def _send(tree: set[psutil.Process], ending: signal.Signals) -> None:
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):  # raised too where the number now belongs to another process
            one.send_signal(ending)
