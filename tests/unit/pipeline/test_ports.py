"""Ports: the wanted one, or the first free one."""

import socket

import pytest

from pipeline.runtime.errors import StageError
from pipeline.serving.ports import HOST, choose_port, require_free


def test_the_wanted_port_is_taken_or_the_first_free_one_is_found():
    with socket.create_server((HOST, 0)) as server:
        taken = server.getsockname()[1]
        assert taken < choose_port(None, range(taken, taken + 20)) < taken + 20
        with pytest.raises(StageError, match=f"port {taken} is taken"):
            require_free(taken)
        with pytest.raises(StageError, match=f"no port from {taken} to {taken} is free"):
            choose_port(None, range(taken, taken + 1))
    require_free(taken)
    assert choose_port(taken, range(0)) == taken
