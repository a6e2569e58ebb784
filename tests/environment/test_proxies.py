"""Proxies: traffic to this machine never goes through one, to anything else it does."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from pipeline.orchestration import dask_jobs, prefect_server
from pipeline.paths import ROOT
from pipeline.runtime import environment
from pipeline.runtime.errors import ExternalServiceError, StageError

CLIENTS = {
    "urllib": "import urllib.request; print(urllib.request.urlopen({url!r}, timeout=10).read().decode())",
    "requests": "import requests; print(requests.get({url!r}, timeout=10).text)",
    "httpx": "import httpx; print(httpx.get({url!r}, timeout=10).text)",
}


@pytest.fixture
def serve():
    """Starts a server on this machine that answers every request, also a proxy's, with one word; its address."""
    servers = []

    def start(word: str) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(word.encode())

            def log_message(self, *_arguments):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("client", CLIENTS)
def test_only_what_is_elsewhere_goes_through_the_proxy(serve, client):
    here, proxy = serve("direct"), serve("proxied")
    asked = (here, here.replace("127.0.0.1", "localhost"), "http://elsewhere.invalid/")
    program = "import pipeline\n" + "\n".join(CLIENTS[client].format(url=url) for url in asked)
    variables = {"http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "other.example", "NO_PROXY": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["direct", "direct", "proxied"], done.stderr


def test_the_users_own_exceptions_stay():
    hosts = environment.without_proxy({"no_proxy": "a.example, b.example", "NO_PROXY": "b.example,*.c.example"})
    assert hosts.split(",") == ["a.example", "b.example", "*.c.example", *environment.LOOPBACK]
    assert environment.without_proxy({}).split(",") == [*environment.LOOPBACK]  # an empty name would mean every host


def test_what_no_client_can_read_is_left_out():
    hosts = environment.without_proxy({"no_proxy": "[::1],::1/128,fe80::/10,2001:db8::5,10.0.0.0/8,localhost:80"})
    assert hosts.split(",") == ["2001:db8::5", "10.0.0.0/8", "localhost:80", *environment.LOOPBACK]


@pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:1080", "socks://127.0.0.1:1080", "http://me:p#ss@host:3128"])
def test_a_proxy_that_prefect_cannot_use_is_named(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    for start in (prefect_server.server, dask_jobs.api_server().__enter__):
        with pytest.raises(StageError, match="ALL_PROXY") as raised:
            start()
        assert not isinstance(raised.value, ExternalServiceError) and "ss@" not in str(raised.value)


def test_make_hands_the_same_list_to_what_it_starts_itself(tmp_path):
    (tmp_path / "Makefile").write_text(f"include {ROOT}/Makefile\nproxies:\n\t@echo $$no_proxy $$NO_PROXY\n")
    variables = {
        "no_proxy": "a.example, [::1],::1/128",
        "NO_PROXY": "",
        "MAKEFLAGS": "",
        "MFLAGS": "",
        "MAKELEVEL": "0",
    }
    shown = subprocess.run(
        ["make", "-s", "-C", str(tmp_path), "proxies"], env=os.environ | variables, capture_output=True, text=True,
        check=True,
    ).stdout.split()  # fmt: skip
    assert shown == ["a.example,127.0.0.1,localhost,::1"] * 2
