"""Variables that libraries read: each is set, honoured, removed or refused, as docs/configuration.md lists it."""

import os
import subprocess
import sys

import pytest

from pipeline.paths import CACHE, ROOT
from pipeline.runtime import environment

PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def run(program: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("table", ["FIXED", "DEFAULTS", "REMOVED", "HONOURED"])
def test_the_page_lists_every_variable(table):
    assert [name for name in getattr(environment, table) if f"`{name}`" not in PAGE] == []


def test_what_changes_a_result_is_set_whatever_the_user_has():
    users = {"KERAS_BACKEND": "jax", "KERAS_HOME": "/home/me/.keras", "MPLBACKEND": "TkAgg"}
    environment.apply(users)
    assert users["KERAS_BACKEND"] == "tensorflow"
    assert users["KERAS_HOME"] == str(CACHE / "keras")
    assert users["MPLBACKEND"] == "Agg"


def test_what_the_user_may_choose_is_kept():
    users = {"PREFECT_HOME": "/mine", "MLFLOW_TRACKING_URI": "http://host:5000", "OMP_NUM_THREADS": "1"}
    users |= {"MLFLOW_TRACKING_TOKEN": "t", "MLFLOW_HTTP_REQUEST_TIMEOUT": "9", "TF_NUM_INTRAOP_THREADS": "1"}
    before = dict(users)
    environment.apply(users)
    assert users.items() >= before.items()


@pytest.mark.parametrize(
    "name",
    [
        *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_STATIC_PREFIX"),
        *("TF_ENABLE_ONEDNN_OPTS", "TF_SET_ONEDNN_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "MATPLOTLIBRC"),
        *("STREAMLIT_SERVER_ADDRESS", "UVICORN_HOST", "WEB_CONCURRENCY", "PREFECT_SERVER_API_AUTH_STRING"),
        "PYTHONWARNINGS",
    ],
)
def test_what_leads_elsewhere_is_removed(name):
    users = {name: "x"}
    assert environment.unwanted(users) == [name]
    environment.apply(users)
    assert name not in users


def test_applying_twice_changes_nothing():
    users = {"no_proxy": "a.example", "KERAS_BACKEND": "torch", "XLA_FLAGS": "x"}
    environment.apply(users)
    once = dict(users)
    environment.apply(users)
    assert users == once


@pytest.mark.slow
def test_keras_runs_on_tensorflow_in_double_and_half_precision_homes(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "backend": "jax"}')
    program = "import pipeline; from busi.backend import keras; print(keras.backend.backend(), keras.config.floatx())"
    done = run(program, KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path))
    assert done.stdout.split() == ["tensorflow", "float32"], done.stderr


def test_the_users_streamlit_file_opens_the_app_to_nobody(tmp_path):
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit/config.toml").write_text(
        "[global]\ndevelopmentMode = true\n[browser]\nserverAddress = 'example.org'\n"
        "[server]\naddress = '0.0.0.0'\nbaseUrlPath = 'x'\nenableCORS = false\nenableXsrfProtection = false\n"
    )
    names = ("server.address", "server.baseUrlPath", "server.enableCORS", "server.enableXsrfProtection",
             "browser.serverAddress", "global.developmentMode")  # fmt: skip
    program = f"import pipeline\nfrom streamlit import config\nprint(*map(repr, map(config.get_option, {names})))"
    done = run(program, HOME=str(tmp_path), STREAMLIT_SERVER_ADDRESS="0.0.0.0")  # noqa: S104
    assert done.stdout.split() == ["'127.0.0.1'", "''", "True", "True", "'127.0.0.1'", "False"], done.stderr


@pytest.mark.slow
def test_a_second_store_is_refused_before_any_work():
    other = {"MLFLOW_TRACKING_URI": "http://a:5000", "MLFLOW_REGISTRY_URI": "http://b:5000"}
    assert "MLFLOW_REGISTRY_URI" in environment.refusal(other)
    assert "MLFLOW_REGISTRY_URI" in environment.refusal({"MLFLOW_REGISTRY_URI": "http://b:5000"})
    assert environment.refusal(dict.fromkeys(other, "http://a:5000")) is None
    assert environment.refusal({"MLFLOW_TRACKING_URI": "http://a:5000"}) is None
    for command in ("pipeline.cli", "pipeline.stages.split"):
        program = f"import runpy, sys; sys.argv[1:] = ['versions']; runpy.run_module({command!r}, run_name='__main__')"
        done = run(program, MLFLOW_REGISTRY_URI="sqlite:///elsewhere.db")
        assert done.returncode == 1
        assert "MLFLOW_REGISTRY_URI" in done.stderr and "Traceback" not in done.stderr


def test_a_package_that_is_not_installed_is_said_in_one_sentence():
    done = run("import sys; sys.modules['sklearn'] = None; import pipeline; import sklearn")
    assert done.returncode == 1
    assert "lacks the project's packages (sklearn)" in done.stderr and "make env" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_module_of_our_own_keeps_its_traceback():
    assert "Traceback" in run("import pipeline; import pipeline.nosuch").stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_a_measurement_follows_the_same_rules_and_names_a_missing_package(name):
    program = (
        "import sys, runpy; sys.modules |= dict.fromkeys(('numpy', 'pandas', 'typer'))  # as if not installed\n"
        f"runpy.run_module('benchmarks.{name}', run_name='__main__')"
    )
    done = run(program, KERAS_BACKEND="jax")
    assert done.returncode == 1
    assert "make env" in done.stderr and "Traceback" not in done.stderr
