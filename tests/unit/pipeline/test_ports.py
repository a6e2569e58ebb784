"""Ports: the wanted one, or the first free one."""

import errno
import os
import socket

import pytest

from pipeline.runtime.errors import StageError
from pipeline.serving import ports
from pipeline.serving.ports import HOST, choose_port, holder


def test_the_wanted_port_is_taken_or_the_first_free_one_is_found():
    with socket.create_server((HOST, 0)) as server:
        taken = server.getsockname()[1]
        assert taken < choose_port(None, range(taken, taken + 20)) < taken + 20
        with pytest.raises(StageError, match=f"port {taken} is taken"):
            choose_port(taken, range(0))
        with pytest.raises(StageError, match=f"no port from {taken} to {taken} is free"):
            choose_port(None, range(taken, taken + 1))
        assert str(os.getpid()) in holder(taken)
    assert choose_port(taken, range(0)) == taken


def test_a_port_of_the_system_is_refused_as_such(monkeypatch):
    def bind(_self, _address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(StageError, match="not allowed"):
        choose_port(80, range(0))


@pytest.mark.parametrize("typed", ["99999", "0", "-1", "abc", "", "1; rm", "80 x", "٣"])
def test_what_is_no_port_is_refused_for_make_server(typed, capsys):
    with pytest.raises(SystemExit) as ended:
        ports.main(typed)
    assert ended.value.code == 1 and "1 to 65535" in capsys.readouterr().err


def test_make_server_names_the_holder_of_a_port(capsys):
    with socket.create_server((HOST, 0)) as server:
        taken = str(server.getsockname()[1])
        with pytest.raises(SystemExit):
            ports.main(taken)
    assert f"process {os.getpid()}" in capsys.readouterr().err
    ports.main(taken)


def test_a_port_that_another_address_family_holds_is_free():
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        server.listen()
        port = server.getsockname()[1]
        assert choose_port(port, range(0)) == port
