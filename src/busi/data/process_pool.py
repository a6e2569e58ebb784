"""A pool of worker processes: spawned, not forked; Ctrl-C does not reach them, and they end with their parent."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def process_pool(workers: int | None) -> Iterator[Executor]:
    """A pool of `workers` fresh processes, None for one a core, for the length of a block.

    The processes are spawned, because forked ones would inherit the locks of the caller's threads.

    When the block is left by an exception, what has not begun is dropped. Ctrl-C and SIGTERM reach the caller alone.
    When the caller is killed its workers end too; otherwise they would wait for ever for a next job.

    Where the system has no semaphores for processes, as in a container whose `/dev/shm` is missing, full or read-only,
    one thread of the caller does the same work, and a line on stderr says so.
    """
    try:
        pool = ProcessPoolExecutor(workers, _Context(), _start_worker)
    except OSError as error:
        print(f"note: no pool of processes ({error.strerror}; see /dev/shm), so one core does all", file=sys.stderr)
        pool = ThreadPoolExecutor(1)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class _Process(SpawnProcess):
    """Starts with the signals of `_ENDINGS` blocked, as it is in the caller's process group until `_start_worker`.

    A worker that died before then would break the pool.
    """

    def start(self) -> None:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


class _Context(SpawnContext):
    Process = _Process


def _start_worker() -> None:
    os.setpgid(0, 0)  # out of the reach of Ctrl-C and of what is sent to the caller's group
    for ending in _ENDINGS:
        kept = signal.signal(ending, signal.SIG_IGN)  # which forgets one that was held back
        signal.signal(ending, kept)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
