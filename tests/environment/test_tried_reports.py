"""What others report of the tools and was tried here (docs/tried-reports.md): the faults that came out stay mended."""

import errno
import fcntl
import getpass
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from busi.data import process_pool
from pipeline.runtime.errors import StageError
from pipeline.runtime.lifecycle import stage
from pipeline.runtime.user import complete_environment
from pipeline.tracking import connection

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def unknown_user(monkeypatch):
    """As with `docker run --user 4321`: no entry in /etc/passwd, no variable that names the user or the home."""

    def no_entry(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in (*NAMES, "HOME", "SHELL"):
        monkeypatch.setenv(name, "/usr/sbin/nologin")  # so that the test's end restores each
    for name in (*NAMES, "HOME"):
        monkeypatch.delenv(name)


def test_unknown_user_gets_a_name_a_home_and_a_shell(unknown_user, tmp_path):
    complete_environment(tmp_path)
    assert str(os.getuid()) in getpass.getuser()
    assert Path.home() == tmp_path
    assert subprocess.run([os.environ["SHELL"], "-c", "exit 3"], check=False).returncode == 3


def test_known_user_keeps_name_and_home(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELL", "/usr/sbin/nologin")
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("HOME", "/home/somebody")
    complete_environment(tmp_path)
    assert (getpass.getuser(), os.environ["HOME"]) == ("somebody", "/home/somebody")


def test_importing_the_package_completes_the_environment():
    clean = {name: value for name, value in os.environ.items() if name != "SHELL"}
    seen = subprocess.run(
        [sys.executable, "-c", "import os, pipeline; print(os.environ['SHELL'])"],
        env=clean | {"SHELL": "/usr/sbin/nologin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.strip() == "/bin/sh"


def test_without_semaphores_one_core_does_the_same_work(monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(process_pool, "ProcessPoolExecutor", refused)
    with process_pool.process_pool(2) as pool:
        assert list(pool.map(abs, [-1, -2, -3], chunksize=2)) == [1, 2, 3]
    assert "one core" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "way"),
    [
        ("database is locked", "end it"),
        ("attempt to write a readonly database", "chown"),
        ("unable to open database file", "chown"),
        ("Detected out-of-date database schema (found version x, but expected y)", "later"),
    ],
)
def test_refusals_of_the_embedded_store_say_the_way_out(monkeypatch, reason, way):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StageError) as caught, connection.store_errors():
        raise sqlite3.OperationalError(reason)
    assert reason in str(caught.value)
    assert way in str(caught.value).splitlines()[-1]


@pytest.mark.parametrize(("uid", "way"), [(os.getuid(), "chmod"), (os.getuid() + 4321, "chown")])
def test_file_of_another_owner(monkeypatch, capsys, tmp_path, uid, way):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with pytest.raises(SystemExit), stage("versions"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "mlruns/.lock"))
    said = capsys.readouterr().err
    assert way in said
    assert str(tmp_path) in said.splitlines()[-1]


STUB = """#!/bin/sh
test "$2" != venv || { mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo installed >> log; }
"""


def test_lock_file_from_the_future_installs_once(tmp_path):
    """Time stamps as a clock leaves them that ran ahead, as in Windows' Linux after sleep."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "stub"
    python.write_text(STUB)
    python.chmod(0o755)
    lock = tmp_path / "requirements.lock"
    lock.touch()
    ahead = time.time() + 3600
    os.utime(lock, (ahead, ahead))
    for _ in range(2):
        subprocess.run(["make", "env", "PYTHON=./stub"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "log").read_text() == "installed\n"


@pytest.mark.parametrize("name", ["USER", "HOME"])
def test_make_knows_a_user(name):
    clean = {key: value for key, value in os.environ.items() if key not in NAMES and key != "HOME"}
    seen = subprocess.run(
        ["make", "-s", "--eval", f'show-it: ; @printf %s "$${name}"', "show-it"],
        cwd=ROOT, env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(seen.stdout.split()) == 1


def test_disk_without_locks(capsys):
    with pytest.raises(SystemExit), stage("versions"):
        raise OSError(errno.ENOLCK, "No locks available")
    assert "local disk" in capsys.readouterr().err


def test_weights_are_read_where_nothing_can_be_locked(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["a"] = 1
    code = f"import pipeline, h5py; print(h5py.File({str(path)!r})['a'][()])"
    clean = {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"}
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_library_that_can_not_be_loaded():
    code = "import pipeline; raise ImportError('libtensorflow.so: failed to map segment from shared object')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "noexec" in done.stderr


@pytest.mark.slow
def test_unusable_database_of_prefect(first):
    home = first.folder / ".cache/prefect"
    home.mkdir(parents=True, exist_ok=True)
    (home / "prefect.db").write_text("not a database of this Prefect")
    said = first.busi("flow", "--until", "data", code=1)
    assert "Traceback" not in said
    assert "prefect.db away" in said
    (home / "prefect.db").unlink()


@pytest.mark.slow
def test_login_shell_that_runs_nothing(first):
    first.environment["SHELL"] = "/usr/sbin/nologin"
    first.busi("run")
    first.environment.pop("SHELL")
