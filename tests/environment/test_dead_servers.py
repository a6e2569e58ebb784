"""A server that is named but is not one: the variable, the address and the way out, before a library retries."""

import contextlib
import http.server
import socket
import threading

import pytest

from pipeline.ingest import data, dvc_command
from pipeline.orchestration import dask_jobs, prefect_server
from pipeline.runtime import servers
from pipeline.runtime.errors import ExternalServiceError, StageError
from pipeline.tracking import address, connection

EMBEDDED = connection.EMBEDDED


@contextlib.contextmanager
def answering(status: int, body: str):
    """The address of a server that answers every request so."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def dead(request):
    """An address that refuses, is silent or unknown, gives a web page or error 503, or has http where https is said."""
    with contextlib.ExitStack() as stack:
        if request.param in ("page", "overloaded", "https"):
            status, body = (503, "") if request.param == "overloaded" else (200, "<html>Welcome</html>")
            found = stack.enter_context(answering(status, body))
            yield found.replace("http:", "https:") if request.param == "https" else found
            return
        holder = stack.enter_context(socket.socket())
        holder.bind(("127.0.0.1", 0))
        if request.param == "silent":
            holder.listen()
        host = "nosuchhost.invalid" if request.param == "unknown" else "127.0.0.1"
        yield f"http://{host}:{holder.getsockname()[1]}"


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 1)


def every_kind(*left_out: str):
    kinds = ("refuses", "silent", "unknown", "page", "overloaded", "https")
    return pytest.mark.parametrize("dead", [kind for kind in kinds if kind not in left_out], indirect=True)


@every_kind()
def test_the_tracking_server(dead, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    with pytest.raises(ExternalServiceError, match="MLFLOW_TRACKING_URI") as raised:
        connection.connect()
    assert dead in str(raised.value) and "unset" in str(raised.value)


def test_a_tracking_database_that_is_not_there():
    with pytest.raises(ExternalServiceError, match="refused"):
        address.require_answer("postgresql://me@127.0.0.1:1/name", EMBEDDED)


@pytest.mark.parametrize(
    "wrong", ["localhost:5000", "127.0.0.1:5000", "http:/host", "http://", "ftp://host", "./mlruns"]
)
def test_what_is_no_address_of_a_store(wrong):
    with pytest.raises(StageError, match="MLFLOW_TRACKING_URI") as raised:
        address.require_answer(wrong, EMBEDDED)
    assert not isinstance(raised.value, ExternalServiceError)


@pytest.mark.parametrize(("status", "body"), [(404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}'), (401, "log in")])
def test_a_tracking_server_that_answers_is_left_to_mlflow(status, body):
    with answering(status, body) as found:
        address.require_answer(found, EMBEDDED)


@every_kind()
def test_the_prefect_server_of_a_flow(dead, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"{dead}/api")
    with (
        prefect_server.temporary_settings({prefect_server.PREFECT_API_URL: f"{dead}/api"}),
        pytest.raises(ExternalServiceError, match="the variable PREFECT_API_URL") as raised,
    ):
        prefect_server.server()
    assert f"{dead}/api" in str(raised.value) and "unset PREFECT_API_URL" in str(raised.value)


@every_kind("silent", "unknown", "https")
def test_the_prefect_server_of_a_cross_validation(dead):
    with (
        prefect_server.temporary_settings({prefect_server.PREFECT_API_URL: f"{dead}/api"}),
        pytest.raises(ExternalServiceError, match=dead),
        dask_jobs.api_server(),
    ):
        pass


@every_kind("overloaded", "https")
def test_the_dask_scheduler(dead):
    scheduler = dead.replace("http", "tcp")
    with pytest.raises(ExternalServiceError, match=scheduler) as raised:
        dask_jobs.runner(scheduler)
    assert "--scheduler" in str(raised.value)


@pytest.mark.slow
@every_kind("page", "overloaded", "https")
def test_the_remote_of_the_data(dead, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["init", "--no-scm", "-q"], ["remote", "add", "-d", "far", dead]):
        assert dvc_command.dvc(*command).returncode == 0
    (tmp_path / "data.dvc").write_text(f"outs:\n- {{md5: {'0' * 32}.dir, hash: md5, path: data}}\n")
    with pytest.raises(ExternalServiceError, match="far") as raised:
        data.restore()
    assert dead in str(raised.value)
