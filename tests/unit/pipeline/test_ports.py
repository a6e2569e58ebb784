"""Ports: the wanted one, or the first free one."""

import errno
import os
import socket

import pytest

from pipeline.runtime.errors import StageError
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
