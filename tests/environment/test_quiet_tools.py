"""What the tools beneath would print of themselves at every run, and no user can do anything about."""

from pathlib import Path

import pytest
import yaml

from pipeline.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NAMED = {dep for stage in STAGES.values() for dep in stage["deps"] if "$" not in dep and Path(dep).suffix}


@pytest.mark.parametrize("dep", sorted(path for path in {*NAMED, "weights/none"} if (ROOT / path).is_file()))
def test_dvc_does_not_warn_that_a_dependency_is_empty(dep):
    assert (ROOT / dep).stat().st_size
