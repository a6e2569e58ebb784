"""A password in the store's address, and the keys of remotes, reach no output, file, tag or artifact."""

import subprocess

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.registry import checks
from pipeline.runtime.lifecycle import EXTERNAL_SERVICE_EXIT, stage
from pipeline.stages import register
from tests.pipeline.registry import mlflow_server, passing

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and its libraries' own

CANARY = "canary-4711"
KEYS = ("AWS_SECRET_ACCESS_KEY", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "BUSI_NOTIFY", "PREFECT_API_KEY")


def test_no_secret_is_written_or_said(outputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(checks, "smoke_test", passing)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "remote", "add", "origin", f"https://me:{CANARY}@host/team/busi.git"], check=True)
    for key in KEYS:
        monkeypatch.setenv(key, CANARY)
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path}/server.db") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("://", f"://me:{CANARY}@"))
        register.main()
        shown = CliRunner().invoke(cli.app, ["show", "1"])
        assert shown.exit_code == 0, shown.output
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit) as ended, stage("register"):  # nobody answers there any more
        register.main()
    assert ended.value.code == EXTERNAL_SERVICE_EXIT
    said = "".join(capfd.readouterr())
    assert "the tracking store http://127.0.0.1" in said
    assert CANARY not in said + shown.output
    holders = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path != outputs / ".git/config" and CANARY.encode() in path.read_bytes()
    ]
    assert holders == []
