"""Processes that share a job: started, not forked, silent on Ctrl-C, and never left behind."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes for the length of a block; forked ones would inherit the locks of the caller's threads.

    When the block is left by an exception, what has not begun is dropped. Ctrl-C and SIGTERM reach the caller alone.
    When the caller is killed its workers end too: by themselves they would wait for ever for jobs that nobody can send.
    """
    pool = ProcessPoolExecutor(workers, _Context(), _prepare)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class _Process(SpawnProcess):
    """Starts with endings held back: it is in the caller's group until `_prepare`, and if it dies the pool breaks."""

    def start(self) -> None:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


class _Context(SpawnContext):
    Process = _Process


def _prepare() -> None:
    os.setpgid(0, 0)  # out of the reach of Ctrl-C and of what is sent to the caller's group
    for ending in _ENDINGS:
        kept = signal.signal(ending, signal.SIG_IGN)  # which forgets one that was held back
        signal.signal(ending, kept)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
