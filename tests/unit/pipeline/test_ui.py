import socket

import pytest

from pipeline.runtime.errors import StageError
from pipeline.serving import ui


def test_the_ui_takes_a_free_port_or_says_that_the_wanted_one_is_taken(monkeypatch):
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ui, "FIRST_PORT", port)
        monkeypatch.setattr(ui, "LAST_PORT", port + 20)
        assert port < ui.choose_port(None) <= port + 20
        with pytest.raises(StageError, match=f"port {port} is taken"):
            ui.choose_port(port)
    assert ui.choose_port(port) == port
