"""The short part of `make load`: a promotion while sessions of the app classify, and a crowd in one store."""

import contextlib
import json
import random
import shutil
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import streamlit as st

from pipeline.registry import audit_log, checks, production, verify
from pipeline.runtime.errors import StageError
from pipeline.tracking import connection, versions
from tests import load, load_store
from tests.load_tools import Found
from tests.pipeline.registry import NAME, promote, working_in

pytestmark = pytest.mark.filterwarnings("ignore")  # Streamlit's, MLflow's and their libraries' own

SEED = 3


@pytest.fixture
def two(with_two_versions, tmp_path):
    """A folder whose store has two versions of the tiny model, the first of them in Production."""
    with working_in(shutil.copytree(with_two_versions, tmp_path / "copy")) as folder:
        yield folder


def until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_promotion_is_noticed_by_every_session_of_the_app_and_fails_none(two, keras_file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    st.cache_resource.clear()  # another test's version of the same number
    real, loaded = production.load, []
    monkeypatch.setattr(production, "load", lambda name: loaded.append(real(name)) or loaded[-1])
    files = {path.name: path.read_bytes() for path in keras_file.with_name("smoke").glob("*.image")}
    ended, known, found = threading.Event(), {}, [Found() for _ in range(4)]
    threads = [
        threading.Thread(target=load.session, args=(files, random.Random(f"{SEED} {n}"), ended, known, one))
        for n, one in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(len(one.seconds) > 2 or one.errors for one in found))
        promote(2)
        until(lambda: all(len(one.versions) > 1 or one.errors for one in found))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert [error for one in found for error in one.errors] == []
    assert [one.version for one in loaded] == ["1", "2"]  # once each, and not once a session
    assert [one.versions for one in found] == [[f"{NAME}/1", f"{NAME}/2"]] * 4


@pytest.mark.parametrize("embedded", [True, False])
def test_a_reader_waits_for_a_promotion_that_is_under_way_and_not_for_a_killed_one(two, monkeypatch, embedded):
    connection.connect()
    if not embedded:  # as with a server, whose clients hold no lock here: there is only the note to go by
        monkeypatch.setattr(connection, "is_locked", lambda: True)
    note = {"id": "x", "action": "promote", "to": "2", "who": "a@b", "when": datetime.now(UTC).isoformat()}
    begun = threading.Event()

    def promote_slowly():
        with connection.locked() if embedded else contextlib.nullcontext():
            versions.set_model_tag(NAME, "promoting.x", json.dumps(note))
            begun.set()
            time.sleep(1)
            versions.delete_model_tag(NAME, "promoting.x")

    thread = threading.Thread(target=promote_slowly)
    thread.start()
    begun.wait()
    with verify.production_files(NAME) as (version, _):
        assert str(version.version) == "1"
    thread.join()
    if embedded:
        assert not connection.is_locked()
    else:
        monkeypatch.setattr(audit_log, "PATIENCE", 0)  # its age alone says that it was killed
    versions.set_model_tag(NAME, "promoting.x", json.dumps(note))
    with pytest.raises(StageError, match="a@b began to promote version 2"), verify.production_files(NAME):
        pass


def test_of_a_crowd_in_one_store_nothing_is_lost(two):
    said = load_store.crowd(two, registering=2, reading=1, seconds=3, seed=SEED)
    assert [error for found in said.values() for error in found["errors"]] == []
    assert all(found["seconds"] for found in said.values())
    assert load_store.held(two, said) == []
    assert checks.failures(verify.verify(NAME, every=True)) == []
