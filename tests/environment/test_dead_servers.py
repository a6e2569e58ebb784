"""A server that is named but does not answer: the variable, the address and the way out, before a library retries."""

import socket

import pytest

from pipeline.orchestration import prefect_server
from pipeline.runtime import servers
from pipeline.runtime.errors import ExternalServiceError
from pipeline.serving import ui
from pipeline.tracking import connection


@pytest.fixture
def dead(request):
    """An address that refuses, that takes connections and says nothing, or that no name server knows."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if request.param == "silent":
            holder.listen()
        host = "nosuchhost.invalid" if request.param == "unknown" else "127.0.0.1"
        yield f"http://{host}:{holder.getsockname()[1]}"


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.5)


every_kind = pytest.mark.parametrize("dead", ["refuses", "silent", "unknown"], indirect=True)


@every_kind
def test_the_tracking_server(dead, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    with pytest.raises(ExternalServiceError, match="MLFLOW_TRACKING_URI") as raised:
        connection.connect()
    assert dead in str(raised.value) and "unset" in str(raised.value)


@pytest.mark.parametrize("dead", ["refuses"], indirect=True)
def test_the_ui_of_the_tracking_server(dead, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    with pytest.raises(ExternalServiceError, match="MLFLOW_TRACKING_URI"):
        ui.run(None)
    assert dead not in capsys.readouterr().out


@every_kind
def test_the_prefect_server(dead, monkeypatch):
    address = f"{dead}/api"
    with (
        prefect_server.temporary_settings({prefect_server.PREFECT_API_URL: address}),
        pytest.raises(ExternalServiceError, match="PREFECT_API_URL") as raised,
    ):
        prefect_server.server()
    assert address in str(raised.value) and "unset" in str(raised.value)
