"""The store's lock: a killed holder blocks nobody, a living one is named."""

import multiprocessing
import time

import pytest

from pipeline.runtime.errors import StageError
from pipeline.tracking import connection


def hold(ready):
    with connection.locked():
        ready.set()
        time.sleep(600)


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Another process that is within `locked`."""
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_killed_holder_of_the_stores_lock_blocks_nobody(holder):
    assert connection.is_locked()
    holder.kill()
    holder.join()
    assert not connection.is_locked()
    with connection.locked():
        assert connection.is_locked()
    assert not connection.is_locked()


def test_a_living_holder_is_waited_for_and_then_named(holder, monkeypatch):
    monkeypatch.setattr(connection, "LOCK_SECONDS", 0.1)
    with pytest.raises(StageError, match=r"another process has held mlruns/\.lock"), connection.locked():
        pass
