"""A colleague's clone takes data and outputs from the remote, and computes nothing again."""

import json

import pytest

from tests.pipeline.conftest import Workspace

pytestmark = pytest.mark.slow


def test_a_clone_gets_everything_from_the_remote_and_runs_no_stage(built, tmp_path):
    ours = built.copy_to(tmp_path / "ours")
    ours.dvc("remote", "add", "--default", "storage", str(tmp_path / "remote"))
    ours.dvc("push")
    ours.commit()
    theirs: Workspace = ours.clone_to(tmp_path / "theirs")
    theirs.dvc("pull")
    output = theirs.busi("run")
    assert "Running stage" not in output
    receipts = [json.loads(each.text("mlruns/registration.json")) for each in (ours, theirs)]
    assert receipts[1]["lineage"]["data_md5"] == receipts[0]["lineage"]["data_md5"]
    assert receipts[1]["version"] == "1"  # of its own store
    assert theirs.text("reports/metrics.json") == ours.text("reports/metrics.json")
    assert theirs.run("git", "status", "--porcelain") == ""
