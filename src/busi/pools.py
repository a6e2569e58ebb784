"""Processes that share a job: started, not forked, silent on Ctrl-C, and never left behind."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes for the length of a block; forked ones would inherit the locks of the caller's threads.

    When the block is left by an exception, what has not begun is dropped. Ctrl-C and SIGTERM reach the caller alone.
    When the caller is killed its workers end too: by themselves they would wait for ever for jobs that nobody can send.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _prepare() -> None:
    os.setpgid(0, 0)  # out of the reach of Ctrl-C and of what is sent to the caller's group
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
