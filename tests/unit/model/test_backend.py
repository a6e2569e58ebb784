"""Keras' import: what it does without there, everybody else still gets."""

import importlib
import sys

import pytest

from busi.backend import _without


def test_a_package_is_out_of_reach_in_the_block_only(tmp_path, monkeypatch):
    for name in ("busi_absent", "busi_present"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    present = importlib.import_module("busi_present")
    with _without("busi_absent", "busi_present"):
        with pytest.raises(ImportError):
            importlib.import_module("busi_absent")
        assert importlib.import_module("busi_present") is present
    assert importlib.import_module("busi_absent").__name__ == "busi_absent"
    for name in ("busi_absent", "busi_present"):
        del sys.modules[name]
