"""What the tools beneath would print of themselves at every run, and no user can do anything about."""

import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NAMED = {dep for stage in STAGES.values() for dep in stage["deps"] if "$" not in dep and Path(dep).suffix}


@pytest.mark.parametrize("dep", sorted(path for path in {*NAMED, "weights/none"} if (ROOT / path).is_file()))
def test_dvc_does_not_warn_that_a_dependency_is_empty(dep):
    assert (ROOT / dep).stat().st_size


def test_the_app_prints_no_log_of_its_server():
    assert tomllib.loads((ROOT / ".streamlit/config.toml").read_text())["logger"]["level"] == "warning"
